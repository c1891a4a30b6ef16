"""Disks that are full, slow, read-only or damaged; a stop under load. Each against the real binary. What needs a mount is tried
in a namespace of its own, which needs no root on most machines; where it can't be had, the fault is skipped, and said so.
What slow and deaf clients do is in `clients.py`."""

import contextlib
import hashlib
import json
import os
import pathlib
import resource
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import clients
import history as histories
from load import OPTIONS, Load
from server import Server, environment
from wire import Http, Lost, Refused, Unavailable

# More than the log of writes takes before it is moved into the file (16 MiB), or nothing else would fit.
SMALL = "64m"
BALLAST = 32 << 20
# How long a file may grow at last.
LIMIT = 6 << 20
PAGE = 4096
# What a supervisor waits before it kills.
EXIT_WITHIN = 10


# How an ordinary user becomes one who may mount, for a process and its children alone.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def mounted(*command):
    """Whether the machine lets us mount; only root may, and root of a namespace."""
    done = subprocess.run(["mount", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"skipped: what needs a mount: {done.stderr.strip() or 'it was refused'}", flush=True)
    return done.returncode == 0


def may_mount():
    """Whether this user is root, or can be in a namespace."""
    if os.geteuid() == 0:
        return True
    probe = (*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def apart(fault, binary, place):
    """The fault in a namespace where it may mount: a process of its own, which prints what it found as JSON."""
    if os.geteuid() == 0:
        yield from fault(binary, place)
        return
    if not may_mount():
        print(f"skipped: {fault.__name__}: not root, and no namespace in which to mount", flush=True)
        return
    command = [*NAMESPACE, sys.executable, __file__, binary, str(place), fault.__name__]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=os.environ | paths, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("["):
                yield tuple(json.loads(line))
            else:
                print(line, end="", flush=True)
    if process.returncode:
        yield f"{fault.__name__} comes to its end", [f"exit {process.returncode}"]


@contextlib.contextmanager
def mount(place, *command):
    """A mount that goes with the test; yields whether there is one."""
    place.mkdir(parents=True, exist_ok=True)
    there = mounted(*command, str(place))
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


def judged(what, load, door, data):
    found = load.judged(door, histories.log_of_folder(data, load.tenants))
    yield f"{what}: the checker finds nothing", [f"{promise}: {text}" for promise, broken in found.items() for text in broken]


def fill(door, tasks=4_000):
    """Dispatches until it is refused; says with what."""
    for number in range(tasks):
        try:
            door.call("task_dispatch", task_id=f"fills-{number}", description="x" * 50_000, tenant="filler")
        except Unavailable as error:
            return error.error
    return None


def disk_full(binary, data):
    """Reads go on, writes are refused with a hint, nothing acknowledged is lost, and it works again by itself."""
    place = data / "small"
    with mount(place, "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs") as there:
        if not there:
            return
        ballast = place / "ballast"
        ballast.write_bytes(b"\0" * BALLAST)
        with Server(binary, place, *OPTIONS) as server:
            door = Http(lambda: server.url)
            door.call("task_dispatch", task_id="first", description="x" * 50_000, tenant="filler")
            load = Load(data, lambda: Http(lambda: server.url), workers=4).start()
            time.sleep(0.5)
            error = fill(door)
            good = error and error["code"] == "disk_full" and error["retry_after_seconds"] > 0
            yield "disk full: a write is refused as disk_full, with when to come back", [] if good else [str(error)]
            status, headers, body = clients.post(server.url, "/api/v1/tasks", {"description": "x" * 50_000})
            good = status == 503 and int(headers.get("Retry-After", 0)) > 0 and b'"disk_full"' in body
            yield "disk full: REST says 503 with Retry-After", [] if good else [f"{status} {headers} {body[:200]}"]
            read = door.call("task_get", task_id="first", tenant="filler")
            healthy = clients.get(server.url, "/health")[0], clients.get(server.url, "/ready")[0]
            good = read["description"] == "x" * 50_000 and healthy == (200, 200)
            yield "disk full: reads go on", [] if good else [f"{healthy}"]
            time.sleep(0.5)
            ended = load.ended
            ballast.unlink()
            deadline = time.monotonic() + 10
            while load.ended < ended + 20 and time.monotonic() < deadline:
                time.sleep(0.1)
            lives = load.ended - ended
            yield "disk full: with space it works again by itself", [] if lives >= 20 else [f"{lives} lives in 10 s"]
            hanging = load.finish()
            server.kill()
        with Server(binary, place, *OPTIONS) as server:
            yield "disk full: every worker comes to an end", hanging
            yield from judged("disk full", load, Http(lambda: server.url), place)


def limited(binary, data):
    """As when a quota is reached: the file may not grow. Writes are refused with a hint, and it works again by itself."""
    with Server(binary, data, *OPTIONS) as server:
        door = Http(lambda: server.url)
        door.call("task_dispatch", task_id="first", description="x" * 50_000, tenant="filler")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        error = fill(door)
        good = error and error["code"] in ("store_failing", "disk_full") and error["retry_after_seconds"] > 0
        yield "file limit: a write is refused, with when to come back", [] if good else [str(error) + server.tail(5)]
        read = door.call("task_get", task_id="first", tenant="filler")
        yield "file limit: reads go on", [] if read["description"] == "x" * 50_000 else [str(read)]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        again = door.call("task_dispatch", task_id="later", description="y", tenant="filler")
        yield "file limit: without it, it works again by itself", [] if again["created"] else [str(again)]


def start(binary, place, *command):
    """A start that should be refused: the exit code and what it says."""
    done = subprocess.run(
        [binary, *command, "--data", str(place)],
        env=environment(place.parent),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def filled(binary, data, tasks=300):
    """A data folder with some tasks in it, and nobody using it."""
    with Server(binary, data) as server:
        door = Http(lambda: server.url)
        for number in range(tasks):
            door.call("task_dispatch", task_id=f"task-{number}", description=f"marker {number:05d} " + "y" * 1_000)
    # What is still in the write-ahead log would be put into the file by whoever opens it next.
    database = sqlite3.connect(data / "baton.db")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return data / "baton.db"


def contents(place):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir() if path.is_file()}


def read_only(binary, data):
    """What is there can be read; every write is refused, and so is a start that would have to write."""
    full, closed, empty = data / "full", data / "closed", data / "empty"
    for place in (full, closed, empty):
        place.mkdir()
    filled(binary, closed, 10)
    with Server(binary, full) as server:
        Http(lambda: server.url).call("task_dispatch", task_id="task-7", description="marker 00007")
        # Its write-ahead log is left, and with it what readers need.
        server.kill()
    with mount(data / "seen", "--bind", str(full)) as there:
        if not there or not mounted("-o", "remount,ro,bind", str(data / "seen")):
            return
        before = contents(full)
        with Server(binary, data / "seen") as server:
            door = Http(lambda: server.url)
            shown = door.call("task_get", task_id="task-7")["description"][:12]
            yield "read-only folder: what is there can be read", [] if shown == "marker 00007" else [shown]
            try:
                refused = door.call("task_dispatch", description="x")
            except Unavailable as error:
                refused = error.error
            good = refused.get("code") == "store_read_only" and refused.get("retry_after_seconds", 0) > 0
            yield "read-only folder: a write is refused as store_read_only", [] if good else [f"{refused}"]
        yield "read-only folder: it is left alone", [] if contents(full) == before else ["it changed"]
    for source in (closed, empty):
        before = contents(source)
        with mount(data / "seen", "--bind", str(source)) as there:
            if not there or not mounted("-o", "remount,ro,bind", str(data / "seen")):
                return
            code, said = start(binary, data / "seen", "serve", "--listen", "127.0.0.1:0")
        good = code not in (0, None) and "can't be opened" in said and "panicked" not in said
        yield f"read-only folder, {source.name}: a start is refused clearly", [] if good else [f"{code}: {said}"]
        yield f"read-only folder, {source.name}: it is left alone", [] if contents(source) == before else ["it changed"]


def corrupt(binary, data):
    notes = data / "notes"
    notes.mkdir()
    (notes / "baton.db").write_text("these are somebody's notes, and no database\n" * 500, encoding="utf-8")
    before = contents(notes)
    code, said = start(binary, notes, "serve", "--listen", "127.0.0.1:0")
    good = code not in (0, None) and "damaged or not a database" in said and "panicked" not in said
    yield "a file that is no database is refused clearly", [] if good else [f"{code}: {said}"]
    yield "a file that is no database is left alone", [] if contents(notes) == before else [f"{contents(notes)}"]

    place = data / "flipped"
    place.mkdir()
    file = filled(binary, place)
    text = bytearray(file.read_bytes())
    at = text.index(b"marker 00150")
    at -= at % PAGE
    text[at : at + PAGE] = random.Random(1).randbytes(PAGE)
    file.write_bytes(text)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    wrong, told = [], set()
    with Server(binary, place) as server:
        door = Http(lambda: server.url)
        for number in range(300):
            try:
                shown = door.call("task_get", task_id=f"task-{number}")
                if not shown["description"].startswith(f"marker {number:05d} y"):
                    wrong.append(f"task-{number} says {shown['description'][:40]!r}")
            except Refused as error:
                told.add(error.code)
    code, said = start(binary, place, "doctor")
    yield "a damaged page: no call is answered with what is not there", wrong
    yield "a damaged page: calls that need it are refused as store_corrupt", [] if told == {"store_corrupt"} else [f"{told}"]
    yield "a damaged page: doctor finds it", [] if code == 1 else [f"{code}: {said}"]
    same = hashlib.sha256(file.read_bytes()).hexdigest() == before
    yield "a damaged page: the file is left alone", [] if same else ["it changed"]


def slow_disk(binary, data):
    """Somebody holds the database's lock for three seconds: calls wait, or are told to come back; none is lost."""
    with Server(binary, data, *OPTIONS) as server:
        load = Load(data, lambda: Http(lambda: server.url)).start()
        time.sleep(0.5)
        other = sqlite3.connect(data / "baton.db", timeout=10, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        held, slowest, ended = time.monotonic(), 0.0, load.ended
        reader = Http(lambda: server.url)
        while time.monotonic() < held + 3:
            began = time.monotonic()
            alive = clients.get(server.url, "/health")[0]
            reader.call("task_list", tenant=load.tenants[0], limit=1)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
        stood = load.ended - ended
        other.execute("ROLLBACK")
        other.close()
        time.sleep(1)
        went_on = load.ended - ended
        hanging = load.finish()
        good = alive == 200 and slowest < 0.5
        yield "slow disk: health and reads stay fast", [] if good else [f"{alive}, {slowest:.2f} s"]
        yield "slow disk: writes wait for it and go on", [] if stood < 10 < went_on else [f"{stood} lives, then {went_on}"]
        yield "slow disk: every worker comes to an end", hanging
        yield from judged("slow disk", load, Http(lambda: server.url), data)


def stop_under_load(binary, data):
    """SIGTERM: calls in flight finish, listeners are told, and the process is gone soon."""
    server = Server(binary, data, *OPTIONS)
    load = Load(data, lambda: Http(lambda: server.url)).start()
    polled = {}

    def poll():
        try:
            polled["answer"] = Http(lambda: server.url).call("task_claim", agent_id="waits", wait_seconds=50, tenant="quiet")
        except (Lost, Refused) as error:
            polled["error"] = error

    waiting = threading.Thread(target=poll)
    waiting.start()
    listener = clients.Stream(server.url, clients.listening("acme"))
    sse = clients.Stream(server.url, clients.SSE)
    time.sleep(1.5)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(20)
    except subprocess.TimeoutExpired:
        code = None
    took = time.monotonic() - began
    load.stop.set()
    waiting.join(20)
    hanging = load.finish()
    yield f"stop under load: exit 0 within {EXIT_WITHIN} s", [] if code == 0 and took < EXIT_WITHIN else [f"{code}, {took:.1f} s"]
    cut = [
        f"{record['operation']} of {began - record['start']:.3f} s before"
        for record in histories.read(load.history.path)
        if record["outcome"] == "none" and record["start"] < began - 0.05
    ]
    yield "stop under load: calls in flight are answered", cut
    told = getattr(polled.get("error"), "code", None)
    yield (
        "stop under load: who waits is told to come back",
        [] if told == "shutting_down" or "answer" in polled else [f"{polled}"],
    )
    text = listener.rest()
    last = [json.loads(line[5:]) for line in text.splitlines() if line.startswith(b"data:")][-1:]
    good = last and "result" in last[0] and text.endswith(b"0\r\n\r\n")
    yield "stop under load: a listener's stream ends with its result", [] if good else [f"{text[-200:]}"]
    yield "stop under load: an SSE stream ends", [] if sse.rest().endswith(b"0\r\n\r\n") else ["it broke off"]
    yield "stop under load: every worker comes to an end", hanging
    with Server(binary, data, *OPTIONS) as server:
        yield from judged("stop under load", load, Http(lambda: server.url), data)


MOUNTING = (disk_full, read_only)
FAULTS = (*MOUNTING, limited, corrupt, slow_disk, stop_under_load, clients.streams)


def run(binary, data, _kills):
    # It takes more than a minute of waiting and no work, so the others run beside it.
    (data / "patience").mkdir()
    patience = clients.Patience(binary, data / "patience")
    for fault in FAULTS:
        place = data / fault.__name__
        place.mkdir()
        yield from apart(fault, binary, place) if fault in MOUNTING else fault(binary, place)
    yield from patience.outcome()


def main():
    binary, place, name = sys.argv[1:]
    (fault,) = (fault for fault in MOUNTING if fault.__name__ == name)
    for found in fault(binary, pathlib.Path(place)):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
