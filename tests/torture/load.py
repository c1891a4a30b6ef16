"""A load whose every call goes into a history: workers that dispatch, claim, report and end, each in its own tenant.

The tenants use the same ids, so that what leaks from one to another is seen. A call that was cut off may have happened or not:
what can be repeated without harm is sent again until it is answered; what can't is left, and comes back with the lease.
"""

import contextlib
import json
import random
import threading
import time

import check
import history as histories
from wire import Lost, Refused

LEASE_SECONDS = 5
# Until then, a failed attempt's task is mostly somebody else's.
LATE = 0.5
OPTIONS = ("--retry-backoff-ms", "20")


class Worker(threading.Thread):
    """Lives task after task: dispatches one, claims one, reports, ends. Now and then it does what executors do wrong."""

    def __init__(self, number, tenant, door, history, stop):
        super().__init__(daemon=True)
        self.number, self.tenant, self.history, self.stop = number, tenant, history, stop
        self.door, self.random = door, random.Random(random.random())
        self.lives = self.ended = 0
        self.before, self.late = None, []
        self.new_agent()

    def new_agent(self):
        self.agent = f"agent-{self.number}-{self.lives}"
        self.caller = self.history.caller(self.agent, self.tenant, self.door)

    def run(self):
        while not self.stop.is_set():
            try:
                self.live()
            except Lost:
                # Its lost claims count against an agent's limit until their leases run out.
                self.new_agent()
                time.sleep(0.01)
            except Refused:
                # What was refused is in the history; the checker knows whether it was right.
                pass

    def until_answered(self, operation, **given):
        while True:
            try:
                return self.caller.call(operation, **given)
            except Lost:
                if self.stop.is_set():
                    raise
                time.sleep(0.02)

    def live(self):
        self.lives += 1
        task_id = f"life-{self.number // 2}-{self.lives}"
        given = {
            "task_id": task_id,
            "description": f"{self.tenant}:{task_id}:described",
            "required_capabilities": ["torture"],
            "execution_context": {"timeout_seconds": 3600, "max_retries": 20},
        }
        if self.before and self.random.random() < 0.25:
            given["depends_on"] = [self.before]
        self.before = self.until_answered("task_dispatch", **given)["task_id"]
        if self.random.random() < 0.05:
            self.until_answered("task_dispatch", **given)
        wanted = {"agent_id": self.agent, "capabilities": ["torture"], "lease_seconds": LEASE_SECONDS}
        claimed = self.caller.call("task_claim", max_tasks=self.random.choice((1, 1, 2)), wait_seconds=1, **wanted)
        for task in claimed["tasks"]:
            self.work(task)
        if self.random.random() < 0.1:
            self.caller.call("task_get", task_id=self.before)

    def work(self, task):
        task_id, attempt = task["task_id"], task["attempt"]
        mine = {"task_id": task_id, "agent_id": self.agent, "lease_token": task["lease"]["token"]}
        mark = f"{self.tenant}:{task_id}:{attempt}"
        for step in range(3):
            report = {"notification_type": "progress", "data": {"progress": step * 30, "current_step": f"{mark}.{step}"}}
            if step == 1:
                named = mine | report | {"notification_id": f"{mark}.{step}".replace("@", ".")}
                self.until_answered("task_notify", **named)
                if self.random.random() < 0.1:
                    self.until_answered("task_notify", **named)
            else:
                self.caller.call("task_notify", **mine, **report)
        if self.random.random() < 0.1:
            lease = {"task_id": task_id, "lease_token": mine["lease_token"]}
            self.caller.call("task_heartbeat", agent_id=self.agent, leases=[lease], lease_seconds=LEASE_SECONDS)
        reason = "failure" if attempt < 3 and self.random.random() < 0.1 else "success"
        result = {"result": {"by": self.agent, "mark": f"{mark}.end"}} if reason == "success" else {}
        self.until_answered("task_end", **mine, reason=reason, **result)
        self.ended += reason == "success"
        self.speak_late()
        chance = self.random.random()
        if reason == "failure" or chance < 0.1:
            report = {"notification_type": "progress", "data": {"progress": 99, "current_step": f"{mark}.late"}}
            self.late.append((time.monotonic() + LATE, "task_notify", mine | report))
        elif chance < 0.2:
            self.late.append((time.monotonic(), "task_end", mine | {"reason": "success", "result": {"mark": f"{mark}.late"}}))

    def speak_late(self):
        """What is said with a token that is over must be refused, whoever has the task by now."""
        if self.late and self.late[0][0] < time.monotonic():
            _, operation, given = self.late.pop(0)
            with contextlib.suppress(Refused):
                self.caller.call(operation, **given)


class Load:
    """Some workers, half of them in either tenant, between `start` and `finish`."""

    def __init__(self, place, door, workers=8, tenants=("acme", "zeta")):
        self.place, self.tenants, self.stop = place, tenants, threading.Event()
        self.history = histories.History(place / "history.jsonl")
        self.workers = [
            Worker(number, tenants[number % len(tenants)], door(), self.history, self.stop) for number in range(workers)
        ]

    def start(self):
        for worker in self.workers:
            worker.start()
        return self

    def finish(self):
        self.stop.set()
        for worker in self.workers:
            worker.join(90)
        hanging = [worker.name for worker in self.workers if worker.is_alive()]
        self.history.close()
        return [f"{name} never came back" for name in hanging]

    @property
    def ended(self):
        return sum(worker.ended for worker in self.workers)

    def judged(self, door, logs, outsiders=False):
        """The promises and what broke them, by what the door and the logs show now."""
        final = histories.final(door, self.tenants, logs)
        (self.place / "final.json").write_text(json.dumps(final), encoding="utf-8")
        return check.check(histories.read(self.history.path), final, outsiders)

    def __str__(self):
        counts = self.history.counts
        return f"{counts['answer']} calls answered, {counts['error']} refused, {counts['none']} cut off, {self.ended} lives"
