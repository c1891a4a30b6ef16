"""Executors that die, and several processes on one data folder: two `baton stdio`, one `baton serve`, two `baton work`."""

import pathlib
import random
import statistics
import subprocess
import threading
import time

import check
import history as histories
from server import Server, environment
from wire import Http, Lost, Refused, Stdio

SEEN_WITHIN = 0.1


def dead_executor(binary, data):
    """An executor that claims and is never heard of again."""
    history = histories.History(data / "history.jsonl")
    with Server(binary, data) as server:
        caller = history.caller("all", "default", Http(lambda: server.url))
        task_id = caller.call("task_dispatch", description="left behind", required_capabilities=["left"])["task_id"]
        (first,) = caller.call("task_claim", agent_id="dies", capabilities=["left"], lease_seconds=5)["tasks"]
        stale = {"task_id": task_id, "agent_id": "dies", "lease_token": first["lease"]["token"]}
        again, deadline = [], time.monotonic() + 60
        while not again and time.monotonic() < deadline:
            again = caller.call("task_claim", agent_id="lives", capabilities=["left"], wait_seconds=10)["tasks"]
        taken = [task["task_id"] for task in again] == [task_id] and again[0]["attempt"] == 2
        yield "a dead executor's task is taken up again", [] if taken else [f"claimed {again}"]
        refused = []
        for tool, more in (
            ("task_notify", {"notification_type": "progress", "data": {"progress": 99, "current_step": "late"}}),
            ("task_end", {"reason": "success", "result": {"by": "the dead"}}),
        ):
            try:
                caller.call(tool, **stale, **more)
            except Refused as error:
                refused.append(error.code)
        good = refused == ["lease_lost", "lease_lost"]
        yield "a late report of the dead one's token is refused", [] if good else [f"refused: {refused}"]
        if taken:
            mine = {"task_id": task_id, "agent_id": "lives", "lease_token": again[0]["lease"]["token"]}
            caller.call("task_end", **mine, reason="success", result={"by": "the living"})
        yield from judged("a dead executor", history, caller.door, data)


def judged(what, history, door, data, outsiders=False):
    """The checker's findings in one line: what each broke is in the message."""
    records = histories.read(history.close())
    final = histories.final(door, ["default"], histories.log_of_folder(data, ["default"]))
    found = check.check(records, final, outsiders)
    yield f"{what}: the checker finds nothing", [f"{promise}: {text}" for promise, broken in found.items() for text in broken]


def worker(binary, data, command, *options):
    return subprocess.Popen(
        [binary, "work", "--data", str(data), "--capabilities", "folder", "--exec", command, *options],
        env=environment(data),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def dead_work(binary, data):
    """`kill -9` of `baton work` takes its command along."""
    mark = data / "alive"
    with Server(binary, data) as server:
        http = Http(lambda: server.url)
        http.call("task_dispatch", description="a long command", required_capabilities=["folder"])
        process = worker(binary, data, f"while true; do date > '{mark}'; sleep 0.1; done")
        deadline = time.monotonic() + 20
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        started = mark.exists()
        process.kill()
        process.wait()
        time.sleep(0.5)
        mark.unlink(missing_ok=True)
        time.sleep(0.5)
        broken = [] if started else ["the command never ran"]
        yield "the command dies with its executor", broken + (["the command still runs"] if mark.exists() else [])


class Folder:
    """The processes that share the data folder; any of them may be killed and started again."""

    def __init__(self, binary, data):
        self.binary, self.data = binary, data
        self.starts = {
            "serve": lambda: Server(binary, data),
            "stdio-1": self.stdio,
            "stdio-2": self.stdio,
            "work-1": lambda: worker(binary, data, "cat", "--agent-id", f"w1-{time.monotonic_ns()}"),
            "work-2": lambda: worker(binary, data, "cat", "--agent-id", f"w2-{time.monotonic_ns()}"),
        }
        self.running = {name: start() for name, start in self.starts.items()}

    def stdio(self):
        return Stdio([self.binary, "stdio", "--data", str(self.data)], environment(self.data))

    def restart(self, name):
        self.running[name].kill()
        if name.startswith("work"):
            self.running[name].wait()
        self.running[name] = self.starts[name]()

    def doors(self):
        http = Http(lambda: self.running["serve"].url)
        return [("serve", http), ("stdio-1", self.running["stdio-1"]), ("stdio-2", self.running["stdio-2"])]

    def close(self):
        for process in self.running.values():
            process.kill()


def shared(binary, data, kills):
    folder = Folder(binary, data)
    history = histories.History(data / "history.jsonl")
    acknowledged, broken = [], []
    try:
        for number in range(kills * 4):
            given = {
                "task_id": f"shared-{number}",
                "description": f"number {number}",
                "required_capabilities": ["folder"],
                "execution_context": {"timeout_seconds": 600, "max_retries": 20},
            }
            while True:
                try:
                    name, door = random.choice(folder.doors())
                    history.caller(name, "default", door).call("task_dispatch", **given)
                    break
                except Lost:
                    time.sleep(0.02)
            acknowledged.append(given["task_id"])
            if number % 4 == 3:
                folder.restart(random.choice(list(folder.starts)))
        # A task of a killed executor waits for its lease and its backoff.
        left, deadline = set(acknowledged), time.monotonic() + 240
        while left and time.monotonic() < deadline:
            for name, door in folder.doors():
                caller = history.caller(name, "default", door)
                for task_id in list(left)[:50]:
                    task = caller.call("task_get", task_id=task_id)
                    if task["state"] == "completed":
                        left.discard(task_id)
                    elif task["state"] in ("failed", "cancelled"):
                        broken.append(f"{task_id}: {task['state']}")
                        left.discard(task_id)
            time.sleep(0.2)
        broken += [f"{task_id} never ended" for task_id in left]
        yield f"several processes on one folder, {kills} kills: every dispatch is done", broken
        yield from judged("several processes on one folder", history, folder.doors()[0][1], data, outsiders=True)
        one, other = folder.doors()[0][1], folder.running["stdio-1"]
        yield from seen("several processes on one folder", one, other, SEEN_WITHIN)
    finally:
        folder.close()


def seen(what, one, other, within, tenant=None):
    """How long after the acknowledgement in one process a waiting claim in another has the task. A machine with much else to
    do makes this or that one wait for the processor, so one of ten may be late, and there is another chance."""
    for chance in range(3):
        delays = [delay(one, other, f"seen-{chance}-{number}", tenant) for number in range(20)]
        median, most = statistics.median(delays) * 1e3, max(delays) * 1e3
        print(f"a claim elsewhere sees a dispatch after {median:.0f} ms, at most {most:.0f} ms", flush=True)
        late = [f"{delay * 1e3:.0f} ms" for delay in sorted(delays) if delay > within]
        if len(late) <= len(delays) / 10 and max(delays) < 4 * within:
            late = []
            break
    yield f"{what}: a claim in one process sees a dispatch in another within {within * 1e3:.0f} ms", late


def delay(one, other, name, tenant):
    claimed = {}

    def claim():
        wanted = {"agent_id": name, "capabilities": [name], "wait_seconds": 10, "tenant": tenant}
        claimed["tasks"] = other.call("task_claim", **wanted)["tasks"]
        claimed["at"] = time.monotonic()

    waiting = threading.Thread(target=claim)
    waiting.start()
    time.sleep(random.uniform(0.1, 0.2))
    one.call("task_dispatch", description="seen", required_capabilities=[name], tenant=tenant)
    acknowledged = time.monotonic()
    waiting.join()
    return claimed["at"] - acknowledged if claimed["tasks"] else 10


def run(binary, data, kills):
    for name, cases in (
        ("dead-executor", lambda place: dead_executor(binary, place)),
        ("dead-work", lambda place: dead_work(binary, place)),
        ("shared", lambda place: shared(binary, place, kills)),
    ):
        place = pathlib.Path(data) / name
        place.mkdir()
        yield from cases(place)
