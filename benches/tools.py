#!/usr/bin/env python3
"""Measures what tools that tenants make cost everybody: tools.py BINARY [--tenants N] [--tools N] [--seconds S]

Calls of one tenant at a server without such tools, and at one where each of many tenants has many, beside a bare rmcp server.
Prints a Markdown table. The load generator and the yardstick must have been built by run.py.
"""

import argparse
import pathlib
import sys
import tempfile
import time

from run import DISPATCH, GET, SEED, SEEDS, Bench, Server, load

TOOL = (
    '{"name":"tool_{{i}}","description":"Says what number {{i}} is","parameters":{"type":"object","properties":{"n":{"type":"number"}}},'
    '"implementation":{"type":"script","source":"function main({n}) { return {n}; }"}}'
)


def memory(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def measure(server, seconds):
    """Calls a second of each kind, of a tenant that has as many tools as the others."""
    url, timed = f"{server.url}/t/t1/mcp", ["--concurrency", 64, "--seconds", seconds, "--pid", server.process.pid]
    load("http", "--url", url, *SEED, "--requests", SEEDS, "--warmup", 0, "--seconds", 60)
    return {name: load("http", "--url", url, *call, *timed)["per_second"] for name, call in (("task_get", GET), ("task_dispatch", DISPATCH))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--tools", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    binary = str(arguments.binary.resolve())
    taken = {}
    for kind, tenants in ("no tools", 0), (f"{arguments.tools} tools in each of {arguments.tenants:,} tenants", arguments.tenants):
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as data, Server(binary, data) as server:
            started = time.monotonic()
            for tenant in range(tenants):
                once = ["--requests", arguments.tools, "--warmup", 0, "--seconds", 60]
                load("http", "--url", f"{server.url}/t/t{tenant}/mcp", "--tool", "tool_create", "--args", TOOL, *once)
            made = time.monotonic() - started
            echo = Bench(binary, arguments.seconds).yardstick()["per_second"]
            taken[kind] = measure(server, arguments.seconds) | {"echo": echo, "MiB": memory(server.process)}
            if tenants:
                print(f"{tenants * arguments.tools:,} tools made in {made:.0f} s\n")
    print("| | " + " | ".join(taken) + " |\n|---|" + "---|" * len(taken))
    for call in "task_get", "task_dispatch":
        print(f"| {call}, to rmcp's echo | " + " | ".join(f"{it[call]:,.0f}/s, {it[call] / it['echo']:.2f}" for it in taken.values()) + " |")
    print("| memory, MiB | " + " | ".join(str(it["MiB"]) for it in taken.values()) + " |")


if __name__ == "__main__":
    sys.exit(main())
