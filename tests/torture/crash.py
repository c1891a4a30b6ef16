"""`kill -9` of the server under load. Workers write down what was acknowledged; afterwards all of it must be there, in order, once.

A call that was cut off may have happened or not: dispatch and end are sent again, which must be harmless; a report that was
cut off may be there or not; a claim that was cut off comes back when its lease runs out.
"""

import collections
import random
import threading
import time

from server import Server
from wire import Http, Lost, Refused

LEASE_SECONDS = 5
WORKERS = 8


class Ledger:
    """What was acknowledged to any worker, and every broken promise seen on the way."""

    def __init__(self):
        self.lock = threading.Lock()
        self.dispatched = {}
        self.reports = collections.defaultdict(list)
        self.maybe = collections.defaultdict(set)
        self.ended = {}
        self.claims = collections.defaultdict(list)
        self.broken = collections.defaultdict(list)

    def claimed(self, worker, task, sent):
        """Only one executor may hold a task: an earlier claim must be over, by its lease or its worker's own end."""
        with self.lock:
            for other in self.claims[task["task_id"]]:
                if other["open"] and time.monotonic() < other["until"]:
                    self.broken["claimed by one at a time"].append(f"{task['task_id']} by {other['worker']} and {worker}")
                if other["attempt"] >= task["attempt"]:
                    self.broken["attempts count up"].append(f"{task['task_id']}: {other['attempt']}, then {task['attempt']}")
            # The server granted the lease after the call was sent, so it can't run out before this.
            claim = {"worker": worker, "attempt": task["attempt"], "until": sent + LEASE_SECONDS, "open": True}
            self.claims[task["task_id"]].append(claim)
            return claim

    def fenced(self, task_id, claim, what):
        """Notes an acknowledgement given to a worker after another one had been given the task."""
        if self.claims[task_id][-1] is not claim:
            self.broken["a stale token is refused"].append(f"{what} of {task_id} by {claim['worker']}")


class Worker(threading.Thread):
    def __init__(self, number, url, ledger, stop):
        super().__init__(daemon=True)
        self.number, self.url, self.ledger, self.stop = number, url, ledger, stop
        self.http = Http(url)
        self.lives = 0
        self.agent = f"agent-{number}-0"

    def run(self):
        while not self.stop.is_set():
            try:
                self.live()
            except Lost:
                # Its lost claims count against an agent's limit until their leases run out.
                self.agent = f"agent-{self.number}-{time.monotonic_ns()}"
                time.sleep(0.01)
            except Exception as error:
                with self.ledger.lock:
                    self.ledger.broken["no call fails otherwise"].append(f"{type(error).__name__}: {error}"[:400])

    def until_answered(self, tool, **arguments):
        """Sends the same call until it is answered. What it does must happen once all the same."""
        while True:
            try:
                return self.http.call(tool, **arguments)
            except Lost:
                if self.stop.is_set():
                    raise
                time.sleep(0.02)

    def live(self):
        self.lives += 1
        task_id = f"life-{self.number}-{self.lives}"
        self.until_answered(
            "task_dispatch",
            task_id=task_id,
            description=f"life of {task_id}",
            required_capabilities=["torture"],
            execution_context={"timeout_seconds": 3600, "max_retries": 20},
        )
        with self.ledger.lock:
            self.ledger.dispatched[task_id] = f"life of {task_id}"
        sent = time.monotonic()
        tasks = self.http.call(
            "task_claim", agent_id=self.agent, capabilities=["torture"], max_tasks=1, lease_seconds=LEASE_SECONDS
        )["tasks"]
        for task in tasks:
            claim = self.ledger.claimed(self.agent, task, sent)
            # A worker that was cut off leaves its lease open: nobody may have the task before it runs out.
            self.work(task, claim)
            claim["open"] = False

    def work(self, task, claim):
        task_id = task["task_id"]
        mine = {"task_id": task_id, "agent_id": self.agent, "lease_token": task["lease"]["token"]}
        for step in range(3):
            mark = f"{claim['attempt']}.{step}"
            data = {"progress": step * 30, "current_step": mark}
            try:
                self.http.call("task_notify", **mine, notification_type="progress", data=data)
            except Refused:
                return self.refused(claim)
            except Lost:
                with self.ledger.lock:
                    self.ledger.maybe[task_id].add(mark)
                raise
            with self.ledger.lock:
                self.ledger.fenced(task_id, claim, "report")
                self.ledger.reports[task_id].append(mark)
        result = {"by": self.agent, "attempt": claim["attempt"]}
        try:
            self.until_answered("task_end", **mine, reason="success", result=result)
        except Refused:
            return self.refused(claim)
        with self.ledger.lock:
            if task_id in self.ledger.ended:
                self.ledger.broken["none ends twice"].append(task_id)
            self.ledger.ended[task_id] = result

    def refused(self, claim):
        """A refusal is right only once the lease may have run out."""
        if time.monotonic() < claim["until"]:
            with self.ledger.lock:
                self.ledger.broken["a live lease is honoured"].append(f"{claim}")


def verify(http, ledger):
    missing, wrong, order = [], [], []
    for task_id, description in ledger.dispatched.items():
        try:
            task = http.call("task_get", task_id=task_id)
        except Refused as error:
            missing.append(f"{task_id}: {error}")
            continue
        if task["description"] != description:
            missing.append(f"{task_id} is another task")
        if task_id in ledger.ended and (task["state"], task["result"]) != ("completed", ledger.ended[task_id]):
            wrong.append(f"{task_id}: {task['state']} {task['result']}, acknowledged {ledger.ended[task_id]}")
        told = [n["data"]["current_step"] for n in task["notifications"] if "current_step" in n.get("data", {})]
        acknowledged = ledger.reports[task_id]
        # task_get shows the last reports only, so the oldest may be beyond it.
        shown = [mark for mark in told if mark not in ledger.maybe[task_id]]
        if len(set(told)) != len(told) or (shown != acknowledged[len(acknowledged) - len(shown) :]) or (acknowledged and not shown):
            order.append(f"{task_id}: {told}, acknowledged {acknowledged}")
    return {"every dispatch is there": missing, "every end is there": wrong, "every report is there, in order, once": order}


def count(http):
    total, cursor = 0, None
    while True:
        page = http.call("task_list", limit=200, **({"cursor": cursor} if cursor else {}))
        total += len(page["tasks"])
        cursor = page.get("next_cursor")
        if not cursor:
            return total


def run(binary, data, kills):
    """Yields the name of each promise and what broke it."""
    ledger, stop, current = Ledger(), threading.Event(), {}
    workers = [Worker(number, lambda: current["server"].url, ledger, stop) for number in range(WORKERS)]
    current["server"] = Server(binary, data)
    for worker in workers:
        worker.start()
    for _ in range(kills):
        time.sleep(random.uniform(0.02, 0.5))
        current["server"].kill()
        current["server"] = Server(binary, data)
    time.sleep(1)
    stop.set()
    for worker in workers:
        worker.join(90)
    http = Http(lambda: current["server"].url)
    outcome = verify(http, ledger)
    total, known = count(http), len(ledger.dispatched)
    # A dispatch whose last sending was cut off by the end of the run may be there unacknowledged.
    if not known <= total <= known + WORKERS:
        outcome["every dispatch is there"].append(f"{total} tasks, {known} acknowledged")
    for promise in (
        "claimed by one at a time",
        "attempts count up",
        "a stale token is refused",
        "a live lease is honoured",
        "none ends twice",
        "no call fails otherwise",
    ):
        outcome[promise] = ledger.broken[promise]
    reports = sum(map(len, ledger.reports.values()))
    print(f"{kills} kills: {known} dispatches, {reports} reports, {len(ledger.ended)} ends acknowledged", flush=True)
    outcome["there was a load"] = [] if len(ledger.ended) >= kills else ["fewer ends than kills"]
    current["server"].stop()
    yield from outcome.items()
