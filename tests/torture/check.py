#!/usr/bin/env python3
"""Judges a history afterwards: check.py HISTORY.jsonl [--final STATE.json] [--outsiders]

Holds every call and its answer (`history.py`) against what Baton promises. A call without an answer, or one that was answered
that it can't be served now, may have happened or not: both are fine. With the final state, what was acknowledged must be
there, once and in order. `--outsiders`: executors that are not in the history worked on its tasks too.
"""

import argparse
import collections
import functools
import itertools
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]
import history as histories

EXPECTED = {"lease_lost", "task_already_ended", "task_not_in_state"}
TERMINAL = {"success": "completed", "partial": "completed", "timeout": "failed", "cancelled": "cancelled", "failure": "failed"}
STEERING = {"task_cancel", "task_retry", "task_update", "task_answer"}
ENDS = tuple(f"dev.baton.task.{state}" for state in ("completed", "failed", "cancelled"))
# What is the same in every tenant's calls, or is no secret.
PUBLIC = {"reason", "notification_type", "priority", "until", "required_capabilities", "capabilities", "state", "code", "message"}
SHOWN = 10


class Call:
    """A call, as far as it is about one task."""

    def __init__(self, record, given, got=None):
        self.record, self.input, self.got = record, given, got
        self.who, self.start, self.end = record["who"], record["start"], record["end"]
        self.refusal = record.get("error", {})
        self.done = record["outcome"] == "answer"
        # Unavailable says that it can't be done now; whether it was done all the same is not said.
        self.maybe = record["outcome"] == "none" or "retry_after_seconds" in self.refusal
        self.token = given.get("lease_token")
        self.same = json.dumps(given, sort_keys=True)

    def __str__(self):
        return f"{self.record['operation']} by {self.who} at {self.start:.3f}..{self.end:.3f}"


class Claim(Call):
    def __init__(self, record, task):
        super().__init__(record, record["input"], task)
        self.token, self.attempt = task["lease"]["token"], task["attempt"]
        self.seconds = self.input.get("lease_seconds", 60)


class Task:
    """All calls about one task."""

    def __init__(self, tenant, task_id):
        self.tenant, self.id = tenant, task_id
        self.dispatches, self.claims, self.reports, self.ends, self.beats, self.steering = [], [], [], [], [], []

    def __str__(self):
        return f"{self.tenant}/{self.id}"

    def of_token(self, token):
        return next((claim for claim in self.claims if claim.token == token), None)

    def held_until(self, claim, moment):
        """The earliest time at which the lease may run out, as far as calls before `moment` say. The server grants after the
        call was sent, so the lease can't run out before that many seconds after it."""
        grants = [(claim.start, claim.end, claim.seconds, True)]
        for beat in self.beats:
            if beat.token == claim.token and beat.start < moment and (beat.maybe or (beat.done and beat.got["held"])):
                grants.append((beat.start, beat.end, beat.input.get("lease_seconds", 60), beat.done))
        # Any of them may be the last, but those that another one certainly followed.
        last = [
            start + seconds
            for start, end, seconds, _ in grants
            if not any(done and begun >= end and over <= moment for begun, over, _, done in grants)
        ]
        return min(last)

    def may_be_free(self, claim, moment):
        """Whether somebody may have ended the claim before `moment`."""
        if moment >= self.held_until(claim, moment):
            return True
        timeout = self.dispatches[0].input.get("execution_context", {}).get("timeout_seconds") if self.dispatches else 0
        if timeout is not None and moment - claim.start >= timeout:
            return True
        ended = any(end.token == claim.token and end.start < moment and (end.done or end.maybe) for end in self.ends)
        return ended or any(call.start < moment and (call.done or call.maybe) for call in self.steering)

    def was_retried(self, since, until):
        retries = (call for call in self.steering if call.record["operation"] == "task_retry")
        return any(call.end > since and call.start < until and not (call.refusal and not call.maybe) for call in retries)

    def accepted(self):
        """Everything that an executor was allowed to do."""
        beats = (beat for beat in self.beats if beat.done and beat.got["held"])
        return itertools.chain((c for c in self.reports + self.ends if c.done), beats)

    def repeats(self, call, before):
        """Whether the same call may have happened before: repeating it is harmless, whatever has happened since."""

        def is_same(other):
            if call in self.reports:
                named = call.input.get("notification_id")
                return other in self.reports and named is not None and other.input.get("notification_id") == named
            return other in self.ends and other.same == call.same

        return any(
            is_same(other) and other is not call and other.start < before and (other.done or other.maybe)
            for other in self.reports + self.ends
        )

    @functools.cached_property
    def terminal(self):
        """The acknowledged ends for good."""
        return [end for end in self.ends if end.done and end.got["state"] == TERMINAL.get(end.input["reason"])]

    def may_be_completed(self, before, reasons=("success", "partial")):
        return [end for end in self.ends if end.start < before and (end.done or end.maybe) and end.input["reason"] in reasons]


class Model:
    """The history by task, and what there was in the end."""

    def __init__(self, records, final=None, outsiders=False):
        self.records, self.outsiders = records, outsiders
        self.final = final["tasks"] if final else None
        self.logs = (final or {}).get("logs") or {}
        self.tasks = {}
        for record in sorted(records, key=lambda record: record["start"]):
            self.add(record)

    def task(self, tenant, task_id):
        return self.tasks.setdefault((tenant, task_id), Task(tenant, task_id))

    def add(self, record):
        tenant, operation, given = record["tenant"], record["operation"], record["input"]
        answer = record.get("answer")
        if operation in ("task_dispatch", "task_run"):
            task_id = (answer or {}).get("task_id") or given.get("task_id")
            if task_id:
                self.task(tenant, task_id).dispatches.append(Call(record, given, answer))
        elif operation == "task_claim":
            for task in (answer or {}).get("tasks", ()):
                self.task(tenant, task["task_id"]).claims.append(Claim(record, task))
        elif operation == "task_heartbeat":
            for number, lease in enumerate(given["leases"]):
                got = answer["leases"][number] if answer else None
                one = given | lease
                self.task(tenant, lease["task_id"]).beats.append(Call(record, one, got))
        elif operation == "task_notify":
            self.task(tenant, given["task_id"]).reports.append(Call(record, given, answer))
        elif operation == "task_end":
            self.task(tenant, given["task_id"]).ends.append(Call(record, given, answer))
        elif operation in STEERING:
            self.task(tenant, given["task_id"]).steering.append(Call(record, given, answer))

    def shown(self, task):
        return (self.final or {}).get(task.tenant, {}).get(task.id)

    def seen(self):
        """The tasks that are there at the end, each with what is shown of it."""
        for task in self.tasks.values():
            if (shown := self.shown(task)) is not None:
                yield task, shown


def dispatches(model):
    for task in model.tasks.values():
        made = [call for call in task.dispatches if call.done]
        if sum(bool(call.got.get("created")) for call in made) > 1:
            yield f"{task} was created twice"
        if not made or model.final is None:
            continue
        shown = model.shown(task)
        if shown is None:
            yield f"{task} was acknowledged to {made[0].who} and is gone"
        else:
            for name in ("description", "depends_on", "required_capabilities"):
                asked = made[0].input.get(name)
                if asked and shown.get(name) != asked:
                    yield f"{task} has {name} {shown.get(name)!r}, acknowledged was {asked!r}"


def strangers(model):
    for tenant, tasks in (model.final or {}).items():
        nameless = sum(
            record["tenant"] == tenant
            and record["operation"] in ("task_dispatch", "task_run")
            and record["outcome"] != "answer"
            and "task_id" not in record["input"]
            for record in model.records
        )
        unknown = [task_id for task_id in tasks if not any(c.done or c.maybe for c in model.task(tenant, task_id).dispatches)]
        if len(unknown) > nameless:
            yield f"{tenant}: nobody dispatched {unknown[:5]}"


def exclusive(model):
    for task in model.tasks.values():
        claims = sorted(task.claims, key=lambda claim: claim.attempt)
        for earlier, later in itertools.pairwise(claims):
            if earlier.attempt == later.attempt or earlier.token == later.token:
                yield f"{task}: attempt {later.attempt} was given to {earlier.who} and {later.who}"
            elif not task.may_be_free(earlier, later.end):
                yield f"{task}: {later} while {earlier.who} held attempt {earlier.attempt}"


def attempts(model):
    for task in model.tasks.values():
        for earlier, later in itertools.pairwise(sorted(task.claims, key=lambda claim: claim.attempt)):
            if later.end < earlier.start:
                yield f"{task}: attempt {later.attempt} was over before attempt {earlier.attempt} was claimed"


def fencing(model):
    for task in model.tasks.values():
        for call in task.accepted():
            claim = task.of_token(call.token)
            if claim is None:
                if not model.outsiders:
                    yield f"{task}: {call} was accepted with a token that nobody was given"
                continue
            for later in task.claims:
                if later.attempt > claim.attempt and call.start > later.end and not task.repeats(call, later.end):
                    yield f"{task}: {call} was accepted after attempt {later.attempt} was {later.who}'s"
                    break


def honoured(model):
    for task in model.tasks.values():
        for call in task.reports + task.ends:
            claim = task.of_token(call.token)
            if claim and call.refusal.get("code") in EXPECTED and not task.may_be_free(claim, call.end):
                yield f"{task}: {call} was refused ({call.refusal['code']}) in the middle of its lease"


def one_end(model):
    for task in model.tasks.values():
        ends = {end.same: end for end in task.terminal}
        for earlier, later in itertools.pairwise(sorted(ends.values(), key=lambda end: end.start)):
            if not task.was_retried(earlier.start, later.end):
                yield f"{task}: {earlier} and {later} were both accepted"


def after_end(model):
    for task in model.tasks.values():
        for end in task.terminal:
            for call in itertools.chain(task.accepted(), task.claims):
                late = call.start > end.end and not task.was_retried(end.start, call.end)
                if late and call.same != end.same and not task.repeats(call, end.end):
                    yield f"{task}: {call} was accepted after {end}"


def ended(model):
    for task, shown in model.seen():
        for end in task.terminal:
            if task.was_retried(end.start, float("inf")):
                continue
            if shown["state"] != TERMINAL[end.input["reason"]]:
                yield f"{task} is {shown['state']}, acknowledged was {end.input['reason']} ({end})"
            elif "result" in end.input and shown.get("result") != end.input["result"]:
                yield f"{task} has the result {shown.get('result')}, acknowledged was {end.input['result']}"
        if shown["state"] == "completed" and not model.outsiders and not task.may_be_completed(float("inf")):
            yield f"{task} is completed, and nobody ended it so"


def dependencies(model):
    for task in model.tasks.values():
        if not task.dispatches:
            continue
        given = task.dispatches[0].input
        anyway = given.get("on_dependency_failure") == "run"
        for needed, claim in itertools.product(given.get("depends_on", ()), task.claims):
            other = model.task(task.tenant, needed)
            ends = other.may_be_completed(claim.end, tuple(TERMINAL) if anyway else ("success", "partial"))
            if not ends and not model.outsiders and not (anyway and other.steering):
                yield f"{task}: {claim} before {needed} had completed"
            told = claim.got.get("dependency_results", {}).get(needed)
            if ends and told is not None and told not in [end.input.get("result") for end in ends]:
                yield f"{task}: {claim} was told of {needed} {told}, which nobody said"


def reports(model):
    for task, shown in model.seen():
        there = collections.defaultdict(list)
        for report in shown["notifications"]:
            there[report["notification_id"]].append(report)
        whole = len(shown["notifications"]) < histories.REPORTS
        for call in task.reports:
            if not call.done:
                continue
            found = there.get(call.got["notification_id"], [])
            if len(found) > 1 or (whole and not found):
                yield f"{task}: the report {call.got['notification_id']} ({call}) is there {len(found)} times"
            for report in found:
                if (report["data"], report["sequence"]) != (call.input.get("data", {}), call.got["sequence"]):
                    yield f"{task}: the report {call.got['notification_id']} is another than was acknowledged"
        known = {call.got["notification_id"] for call in task.reports if call.done}
        known |= {call.input.get("notification_id") for call in task.reports if call.maybe}
        nameless = [call.input.get("data", {}) for call in task.reports if call.maybe and "notification_id" not in call.input]
        for report in shown["notifications"]:
            if report["notification_id"] in known or model.outsiders:
                continue
            if report["data"] in nameless:
                nameless.remove(report["data"])
            else:
                yield f"{task}: nobody reported {report['data']}"


def order(model):
    for task, shown in model.seen():
        numbers = [report["sequence"] for report in shown["notifications"]]
        if numbers != sorted(set(numbers)):
            yield f"{task}: its reports are numbered {numbers}"
        # By what they say: an identifier could have been swapped along.
        place = {json.dumps(report["data"], sort_keys=True): at for at, report in enumerate(shown["notifications"])}
        made = [call for call in task.reports if call.done]
        placed = [(call, place.get(json.dumps(call.input.get("data", {}), sort_keys=True))) for call in made]
        placed = [(call, at) for call, at in placed if at is not None]
        for (earlier, one), (later, other) in itertools.pairwise(sorted(placed, key=lambda pair: pair[0].start)):
            if earlier.end < later.start and one > other:
                yield f"{task}: {later} stands before {earlier}"


def numbers(model):
    """A call that began after another was answered has a greater number, over all of a tenant's tasks."""
    calls = collections.defaultdict(dict)
    for task in model.tasks.values():
        for call in task.reports:
            if call.done:
                # A repeated call is answered with the number of the first.
                calls[task.tenant].setdefault(call.got["notification_id"], call)
    for tenant, named in calls.items():
        by_end = sorted(named.values(), key=lambda call: call.end)
        highest, over = 0, iter(by_end)
        following = next(over)
        for call in sorted(named.values(), key=lambda call: call.start):
            while following is not None and following.end < call.start:
                highest, following = max(highest, following.got["sequence"]), next(over, None)
            may_be_earlier = call.input.get("notification_id") is not None and any(
                other.maybe and other.start < call.start and other.input.get("notification_id") == call.input["notification_id"]
                for other in model.task(tenant, call.input["task_id"]).reports
            )
            if call.got["sequence"] <= highest and not may_be_earlier:
                yield f"{tenant}: {call} has number {call.got['sequence']}, an earlier one {highest}"
        times = collections.Counter(call.got["sequence"] for call in named.values())
        yield from (f"{tenant}: number {number} was given {count} times" for number, count in times.items() if count > 1)


def logs(model):
    for tenant, events in model.logs.items():
        found = [event[0] for event in events]
        if found != list(range(1, len(found) + 1)):
            gap = next(at for at, number in enumerate(found + [0], 1) if at != number)
            yield f"{tenant}: the log has no event {gap}, or has it twice"
        by_subject = collections.defaultdict(list)
        number_of = {}
        for number, event_id, kind, subject in events:
            by_subject[subject].append(kind)
            number_of[event_id] = number
        for task in model.tasks.values():
            if task.tenant != tenant:
                continue
            kinds = collections.Counter(by_subject[task.id])
            made = any(call.done for call in task.dispatches)
            if kinds["dev.baton.task.dispatched"] not in ((1,) if made else (0, 1)):
                yield f"{task}: the log has {kinds['dev.baton.task.dispatched']} dispatches"
            highest = max((claim.attempt for claim in task.claims), default=0)
            if kinds["dev.baton.task.claimed"] < highest:
                yield f"{task}: the log has {kinds['dev.baton.task.claimed']} claims, attempt {highest} was given"
            ends, again = sum(kinds[kind] for kind in ENDS), kinds["dev.baton.task.retried"]
            if ends > 1 + again or (task.terminal and not ends):
                yield f"{task}: the log has {ends} ends"
            for call in task.reports:
                if call.done and number_of.get(call.got["notification_id"]) != call.got["sequence"]:
                    yield f"{task}: the log has no report {call.got['notification_id']} as number {call.got['sequence']}"


WORD = re.compile(r"[A-Za-z0-9._:/@-]{8,}")


def words(value, key=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from words(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner, key)
    elif isinstance(value, str) and key not in PUBLIC:
        yield from WORD.findall(value)


def tenants(model):
    """A word that only one tenant ever said, or was the first to be told as a token, is that tenant's."""
    said = collections.defaultdict(set)
    for record in model.records:
        for word in words(record["input"]):
            said[word].add(record["tenant"])
    for task in model.tasks.values():
        for claim in task.claims:
            said[claim.token].add(task.tenant)
    for record in model.records:
        told = record.get("answer", record.get("error"))
        for word in WORD.findall(json.dumps(told)) if told else ():
            owners = said.get(word, ())
            if len(owners) == 1 and record["tenant"] not in owners:
                yield f"{record['tenant']} was told {word!r} of {min(owners)} by {record['operation']}"


def failures(model):
    for record in model.records:
        error = record.get("error")
        if error and "retry_after_seconds" not in error and error.get("code") not in EXPECTED:
            yield f"{record['operation']} by {record['who']}: {json.dumps(error)[:300]}"


PROMISES = {
    "every acknowledged dispatch is there, once": dispatches,
    "nothing is there that nobody dispatched": strangers,
    "a task is claimed by one at a time": exclusive,
    "attempts count up": attempts,
    "a stale token is refused": fencing,
    "a live lease is honoured": honoured,
    "a task ends once": one_end,
    "nothing is accepted after the end": after_end,
    "every acknowledged end is there": ended,
    "no task is claimed before what it depends on": dependencies,
    "every acknowledged report is there, once": reports,
    "a task's reports are in order": order,
    "event numbers follow the order of the answers": numbers,
    "the logs have no gaps, and all that was acknowledged": logs,
    "nothing of one tenant is told to another": tenants,
    "no call fails otherwise": failures,
}


def check(records, final=None, outsiders=False):
    """Each promise, and how it was broken."""
    model = Model(records, final, outsiders)
    return {promise: list(finder(model)) for promise, finder in PROMISES.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("history", type=pathlib.Path)
    arguments.add_argument("--final", type=pathlib.Path)
    arguments.add_argument("--outsiders", action="store_true")
    given = arguments.parse_args()
    final = json.loads(given.final.read_text(encoding="utf-8")) if given.final else None
    found = check(histories.read(given.history), final, given.outsiders)
    for promise, broken in found.items():
        print(f"FAIL {promise}\n  " + "\n  ".join(broken[:SHOWN]) if broken else f"ok {promise}")
    failed = sum(bool(broken) for broken in found.values())
    print(f"{len(found) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
