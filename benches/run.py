#!/usr/bin/env python3
"""Measures Baton beside a bare rmcp server, in one run: run.py [--quick | --write | --ratios] [--rounds N] [--seconds S] [--binary PATH]

Builds the binary, the load generator and the yardstick, then takes every measurement once a round, so that a slow moment of
the machine meets them all. Prints a Markdown table of medians. Fails when any answer was wrong, group commit does not show,
or a ratio to the bare server is worse than half of the one in ratios.json, and is so whenever it is taken again. --write puts
the table into docs/PERFORMANCE.md, --ratios its ratios into ratios.json, which are those of a plain release build. What must
not grow is measured by scale.py, where the time goes by profile.py.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "clients"))
from server import Server, cluster, environment  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
LOAD, YARDSTICK = TARGET / "release" / "baton-load", TARGET / "release" / "baton-yardstick"
PAGE, RATIOS = REPOSITORY / "docs" / "PERFORMANCE.md", REPOSITORY / "benches" / "ratios.json"
# The table of the page stands between these.
MARKS = "<!-- run.py --write: from here -->\n", "<!-- to here -->\n"
# A ratio so much worse than the documented one, each time, is no noise.
WORST = 0.5
TRIES = 5
SEEDS = 1000
ECHO = ["--tool", "echo", "--args", '{"message":"m{{i}}"}', "--expect", "m{{i}}"]
GET = ["--tool", "task_get", "--args", f'{{"task_id":"seed-{{{{i%{SEEDS}}}}}"}}', "--expect", f'"seed-{{{{i%{SEEDS}}}}}"']
# The capability keeps them out of reach of whoever claims.
TASK = '"description":"load {{i}}","task_type":"analysis","task_data":{"number":{{i}}},"required_capabilities":["nobody"]'
DISPATCH = ["--tool", "task_dispatch", "--args", f"{{{TASK}}}"]
SEED = ["--tool", "task_dispatch", "--args", f'{{"task_id":"seed-{{{{i}}}}",{TASK}}}']
# Callers must say who they are.
KEYS = ("--auth", "keys")
# A group of 64 waiting dispatches shares one commit; without groups the connections would only share the disk.
LEAST_GAIN_OF_GROUPS = 1.5


def load(*words):
    """One run of the load generator: its report, or the end of this program."""
    done = subprocess.run([LOAD, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"baton-load {' '.join(map(str, words))}\n{done.stdout}{done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Bench:
    def __init__(self, binary, seconds):
        self.binary, self.seconds = binary, seconds

    def timed(self, connections):
        return ["--concurrency", connections, "--seconds", self.seconds]

    def yardstick(self):
        with subprocess.Popen([YARDSTICK, "http"], stdout=subprocess.PIPE, text=True) as server:
            url = server.stdout.readline().strip()
            with contextlib.closing(server.stdout):
                report = load("http", "--url", f"{url}/mcp", *ECHO, *self.timed(64), "--pid", server.pid)
            server.kill()
        return report

    def http(self, kind, call, connections, *options):
        """Against a server of its own on a fresh data folder, so that no measurement inherits another's rows."""
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as data:
            if call is GET:
                self.seed(data)
            key = self.key(data) if options == KEYS else []
            with Server(self.binary, data, *options) as server:
                words = [kind, "--url", f"{server.url}/mcp", *call, *key, *self.timed(connections)]
                return load(*words, "--pid", server.process.pid)

    def memory(self):
        """One entry, read over and over."""
        entry = {"agent_id": "load", "content": "Load generators read one thing over and over."}
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as data, Server(self.binary, data) as server:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{server.url}/api/v1/memory", json.dumps(entry).encode(), headers)
            with urllib.request.urlopen(request) as answer:
                name = json.load(answer)["memory_id"]
            call = ["--tool", "memory_get", "--args", json.dumps({"memory_id": name}), "--expect", name]
            return load("http", "--url", f"{server.url}/mcp", *call, *self.timed(64), "--pid", server.process.pid)

    def key(self, data):
        command = [self.binary, "key", "create", "--role", "orchestrator", "--data", data]
        made = subprocess.run(command, env=environment(data), capture_output=True, text=True, check=True)
        return ["--header", f"Authorization: Bearer {made.stdout.strip()}"]

    def on_postgres(self, *what):
        """The same with a PostgreSQL of its own on this machine, by its Unix socket, durable as in earnest."""
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as place:
            server = cluster.Cluster(place)
            server.sql("ALTER ROLE baton CREATEDB")
            os.environ["BATON_TEST_DATABASE"] = server.socket
            try:
                return self.http(*what)
            finally:
                del os.environ["BATON_TEST_DATABASE"]
                server.close()

    def stdio(self, *options):
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as data:
            self.seed(data)
            return load("stdio", *GET, *self.timed(32), *options, "--", self.binary, "stdio", "--data", data)

    def seed(self, data):
        once = ["--requests", SEEDS, "--warmup", 0, "--seconds", 60]
        load("stdio", *SEED, *once, "--", self.binary, "stdio", "--data", data)

    def bare_stdio(self, *options):
        return load("stdio", *ECHO, *self.timed(32), *options, "--", YARDSTICK, "stdio")

    def measurements(self):
        """Name, name of the yardstick that it is divided by, and how to take it, in the order of a round."""
        bare = "rmcp echo, HTTP, 64 connections"
        yield bare, None, self.yardstick
        yield "task_get, HTTP, 64 connections", bare, lambda: self.http("http", GET, 64)
        yield "memory_get, HTTP, 64 connections", bare, self.memory
        yield "task_dispatch, HTTP, 64 connections", bare, lambda: self.http("http", DISPATCH, 64)
        yield "task_get with a key, HTTP, 64 connections", bare, lambda: self.http("http", GET, 64, *KEYS)
        yield "task_dispatch with a key, HTTP, 64 connections", bare, lambda: self.http("http", DISPATCH, 64, *KEYS)
        yield "task_dispatch, HTTP, 1 connection", bare, lambda: self.http("http", DISPATCH, 1)
        yield "whole lives, HTTP, 64 connections", bare, lambda: self.http("lives", [], 64)
        if cluster.is_installed():
            for kind, tenants in ("of 100 tenants", 100), ("of one tenant", 1):
                name = f"whole lives {kind} on PostgreSQL, HTTP, 64 connections"
                yield name, bare, lambda tenants=tenants: self.on_postgres("lives", ["--tenants", tenants], 64)
        for kind, options in ("pipes", []), ("sockets", ["--sockets"]):
            bare = f"rmcp echo, stdio over {kind}, 32 in flight"
            yield bare, None, lambda options=options: self.bare_stdio(*options)
            yield f"task_get, stdio over {kind}, 32 in flight", bare, lambda options=options: self.stdio(*options)


def sync_time():
    """Median milliseconds of a 4 KiB write made durable where the data folders lie: what one commit costs at least."""
    times = []
    with tempfile.NamedTemporaryFile(prefix="baton-bench-") as file:
        for _ in range(200):
            started = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), 0)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def build(binary):
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
    for folder in [REPOSITORY / "benches"] + ([] if binary else [REPOSITORY]):
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=folder, env=environment, check=True)
    return binary or TARGET / "release" / "baton"


def table(names, reports):
    per_second = {name: statistics.median(report["per_second"] for report in reports[name]) for name in names}
    lines = [
        "| | per second, median (min..max) | to rmcp | server CPU µs each | p50 / p99 ms | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, bare in names.items():
        took = reports[name]
        rates = [report["per_second"] for report in took]

        def middle(*path):
            return statistics.median(descend(report, path) for report in took)

        ratio = f"{per_second[name] / per_second[bare]:.2f}" if bare else "1"
        lines.append(
            f"| {name} | {per_second[name]:,.0f} ({min(rates):,.0f}..{max(rates):,.0f}) | {ratio} "
            f"| {middle('server', 'cpu_us_each'):.1f} | {middle('latency_ms', 'p50'):.2f} / "
            f"{middle('latency_ms', 'p99'):.2f} | {middle('server', 'peak_rss_mib'):.0f} |"
        )
    ratios = {name: round(per_second[name] / per_second[bare], 2) for name, bare in names.items() if bare}
    return lines, per_second, ratios


def slower(ratios):
    """What is slower, beside the bare server, than documented and noise explain: name and why."""
    documented = json.loads(RATIOS.read_text())
    return {
        name: f"{ratios.get(name)} of rmcp, documented as {ratio}"
        for name, ratio in documented.items()
        if ratios.get(name, 0) < ratio * WORST
    }


def slow_each_time(bench, slow):
    """What of `slow` stays so when it is taken again, right beside its yardstick. The yardstick itself may have had a
    good second, or this one a bad one; a change that halves a speed shows every time."""
    for number in range(TRIES):
        if not slow:
            break
        print(f"once more, {number + 1} of {TRIES}: {', '.join(slow)}", file=sys.stderr)
        bare_of, takes = {}, {}
        for name, bare_of[name], takes[name] in bench.measurements():
            pass
        ratios = dict.fromkeys(json.loads(RATIOS.read_text()), sys.maxsize)
        for name in slow:
            pair = [takes[each]()["per_second"] for each in (name, bare_of[name])] if name in takes else [0, 1]
            ratios[name] = round(pair[0] / pair[1], 2)
        slow = slower(ratios)
    return slow


def write(lines):
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + rest.partition(MARKS[1])[2])


def descend(report, path):
    for key in path:
        report = report[key]
    return report


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="one short round: does it run at all, and not at half its speed")
    arguments.add_argument("--write", action="store_true", help="put the table into docs/PERFORMANCE.md")
    arguments.add_argument("--ratios", action="store_true", help="put the ratios into ratios.json, by which CI goes")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2.5)
    arguments.add_argument("--binary", type=pathlib.Path, help="measure this one instead of building it")
    given = arguments.parse_args()
    rounds, seconds = (1, 1) if given.quick else (given.rounds, given.seconds)
    bench = Bench(str(build(given.binary and given.binary.resolve())), seconds)
    names, reports = {}, {}

    for number in range(rounds):
        for name, bare, take in bench.measurements():
            names[name] = bare
            reports.setdefault(name, []).append(take())
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    lines, per_second, ratios = table(names, reports)
    one, many = (per_second[f"task_dispatch, HTTP, {n}"] for n in ("1 connection", "64 connections"))
    lines = [
        f"{os.cpu_count()} cores, load generator included; {rounds} rounds of {seconds} s; {sync_time():.2f} ms for a durable 4 KiB write",
        "",
        *lines,
        "",
        f"Group commit: 64 connections make {many / one:.1f} times the durable dispatches of one.",
    ]
    print("\n".join(lines))
    if given.write:
        write(lines)
    if given.ratios:
        RATIOS.write_text(json.dumps(ratios, indent=2) + "\n")
    for name, why in (worse := slow_each_time(bench, slower(ratios))).items():
        print(f"TOO SLOW: {name}: {why}")
    return 0 if many >= one * LEAST_GAIN_OF_GROUPS and not worse else 1


if __name__ == "__main__":
    sys.exit(main())
