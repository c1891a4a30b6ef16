#!/usr/bin/env python3
"""Where the instructions of a call go: profile.py BINARY [task_dispatch | task_get | lives]

Runs the server under valgrind's callgrind while the load generator calls, and prints, as Markdown, what share of a call's
instructions each of our parts takes, callees included. The binary needs its symbols, as the release profile leaves them.
Valgrind knows no SHA extensions, so hashing shows several times too large.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import time

from run import DISPATCH, GET, LOAD, SEED, SEEDS, load
from server import ADDRESS, environment

CALLS = {"task_dispatch": ("http", DISPATCH, 2_000), "task_get": ("http", GET, 2_000), "lives": ("lives", [], 400)}
# What is told apart: a name for people, and the function that stands for it.
PARTS = [
    ("connection, HTTP parsing and framing, all of the request's handling", "tokio::runtime::task::raw::poll"),
    ("· guard of hosts and origins, and behind it", "baton::http::guard::Guard::let_in::{{closure}}"),
    ("· reading the message", "baton::mcp::plain::Plain::read_within"),
    ("· the call: checks, operation or its way to the writer, and back", "baton::catalog::Catalog::answer::{{closure}}"),
    ("· schema and bounds of the input", "baton::op::schema::check_hiding"),
    ("· writing the answer", "baton::mcp::plain::write"),
    ("rmcp's service loop (calls that wait)", "rmcp::service::serve_inner::{{closure}}"),
    ("the writer's groups", "baton::store::sqlite::Writer::run_group"),
    ("· operations", "<baton::store::job::JobOf<T,F> as baton::store::job::Job>::run"),
    ("· hashes of the log", "baton::store::log::chain"),
    ("what is written of a task, put into words", "baton::orchestrator::dispatch::order"),
    ("SQLite, on either side", "sqlite3_step"),
    ("· into tables and indexes", "sqlite3BtreeInsert"),
    ("· the log of writes (WAL)", "pagerWalFrames"),
    ("parameters of statements", "baton::database::lite::Lite::bind"),
    ("copies in memory", "__memcpy_avx_unaligned_erms"),
]  # fmt: skip


def run(binary, kind, out):
    how, words, calls = CALLS[kind]
    with tempfile.TemporaryDirectory(prefix="baton-profile-") as data:
        load("stdio", *SEED, "--requests", SEEDS, "--warmup", 0, "--seconds", 60, "--", binary, "stdio", "--data", data)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", binary, "serve"]
        command += ["--listen", "127.0.0.1:0", "--data", data]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(data)) as server:
            url = next(found.group() for line in server.stderr if (found := ADDRESS.search(line)))

            def call(count):
                load(how, "--url", f"{url}/mcp", *words, "--requests", count, "--warmup", 0, "--seconds", 300)

            def count(switch):
                subprocess.run(["callgrind_control", "-i", switch, str(server.pid)], check=True, capture_output=True)
                time.sleep(0.5)

            call(200)
            count("on")
            call(calls)
            count("off")
            server.terminate()
            server.stderr.read()
    return calls


def main():
    if len(sys.argv) not in (2, 3) or not LOAD.exists():
        sys.exit(f"{__doc__}\nThe load generator must have been built by run.py.")
    binary, kind = str(pathlib.Path(sys.argv[1]).resolve()), (sys.argv[2:] or ["task_dispatch"])[0]
    with tempfile.NamedTemporaryFile(prefix="callgrind-") as out:
        calls = run(binary, kind, out.name)
        command = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", out.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    costs = {}
    for line in text.splitlines():
        if found := re.match(r"\s*([\d,]+) \([^)]*\)\s+(?:\S+?:)?(.+?)(?:'\d+)?(?: \[.*)?$", line):
            name, cost = found.group(2), int(found.group(1).replace(",", ""))
            # Of a recursive function the outermost counts.
            costs[name] = max(cost, costs.get(name, 0))
    total = costs["PROGRAM TOTALS"]
    print(f"{kind}: {total / calls:,.0f} instructions each, outside the kernel\n\n| part | instructions | share |\n|---|---|---|")
    for name, function in PARTS:
        if cost := costs.get(function):
            print(f"| {name} | {cost / calls:,.0f} | {cost / total:.0%} |")


if __name__ == "__main__":
    main()
