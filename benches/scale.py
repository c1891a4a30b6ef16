#!/usr/bin/env python3
"""Measures what must not grow: scale.py BINARY [--tasks N] [--calls N]

Claims with few and with many waiting tasks, pages of task_list at the top and deep down with rare filters, memory after
many calls and of many who wait, start. Uses the load generator that run.py built. Prints Markdown tables.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

from run import DISPATCH, LOAD, load
from server import Server, environment

FEW = 1_000
# Claims of a scene in a round; all rounds together take fewer than there are tasks.
CLAIMS, ROUNDS = 120, 7
RARE = 120
# Tasks of a page at most.
PAGE = 200
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
# Copies of one dispatched task, $n of them, each a microsecond older than the one before.
COPIES = """
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
INSERT INTO tasks (tenant_id, task_id, created_at, updated_at, state, task_type, priority, project_id, parent_task_id,
    assigned_to, capabilities, claimable, agent_id, leased, wake_at, fingerprint, spec, run, stage)
SELECT :tenant, :prefix || printf('%07d', i), created_at - i - 1, updated_at, :state, :task_type, :priority, :project_id, :parent,
    '', :capabilities, :state = 'pending', :agent_id, 0, NULL, fingerprint, spec, run,
    CASE WHEN :state IN ('assigned', 'in_progress') THEN 'running' ELSE :state END
FROM tasks, n WHERE tenant_id = 'default' AND task_id = 'template'
"""
COMMON = {
    "tenant": "default", "prefix": "copy-", "state": "pending", "task_type": "analysis", "priority": 3,
    "project_id": None, "parent": None, "capabilities": "able", "agent_id": None,
}  # fmt: skip


def call(server, tool, **arguments):
    """One call that must succeed."""
    done = load("http", "--url", f"{server.url}/mcp", "--tool", tool, "--args", json.dumps(arguments), "--requests", 1,
                "--warmup", 0, "--concurrency", 1)  # fmt: skip
    return done["ok"]


class Folder:
    """A data folder with one task to copy, and as many copies as are asked for."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = tempfile.TemporaryDirectory(prefix="baton-scale-")
        self.data = self.folder.name
        with self.server() as server:
            call(server, "task_dispatch", task_id="template", description="scale", required_capabilities=["template"])

    def server(self):
        return Server(self.binary, self.data)

    def copies(self, count, **columns):
        with sqlite3.connect(pathlib.Path(self.data) / "baton.db") as database:
            database.execute(COPIES, COMMON | {"count": count} | columns)
        database.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()


def one_by_one(server, tool, arguments, count, warm):
    """Server CPU and median latency of calls that follow one another."""
    return load("http", "--url", f"{server.url}/mcp", "--tool", tool, "--args", arguments, "--concurrency", 1, "--requests",
                count, "--seconds", 120, "--warmup", warm, "--pid", server.process.pid)  # fmt: skip


def row(name, report, base=None):
    cpu = report["server"]["cpu_us_each"]
    part = f"{cpu / base:.2f}" if base else "1"
    print(f"| {name} | {cpu:.0f} | {part} | {report['latency_ms']['p50']:.2f} |", flush=True)
    return cpu


def claims(binary, many):
    print("\n| claim of one task, one connection | server CPU µs each | to the first | p50 ms |\n|---|---|---|---|")
    scenes = [
        (f"{FEW:,} waiting", lambda folder: folder.copies(FEW)),
        (f"{many:,} waiting", lambda folder: folder.copies(many)),
        (
            f"{many:,} waiting, of which {many - FEW:,} need what the agent lacks",
            lambda folder: (folder.copies(many - FEW, capabilities="other"), folder.copies(FEW, prefix="able-")),
        ),
        (f"{many:,} waiting, of 1,000 tenants", lambda folder: tenants(folder, many // 1_000)),
    ]
    # An agent of its own each, since one agent holds three tasks at most.
    claim = '{"agent_id":"{{run}}-{{i}}","capabilities":["able"]}'
    with contextlib.ExitStack() as stack:
        servers = []
        for _, seed in scenes:
            folder = stack.enter_context(Folder(binary))
            seed(folder)
            servers.append(stack.enter_context(folder.server()))
        # Each scene once a round, so that a slow moment of the machine meets them all. The first round warms up.
        rounds = [
            [one_by_one(server, "task_claim", claim.replace("{{run}}", f"a{number}"), CLAIMS, 0) for server in servers]
            for number in range(ROUNDS + 1)
        ][1:]
    base = None
    for index, (name, _) in enumerate(scenes):
        took = [reports[index] for reports in rounds]
        cpu = statistics.mean(report["server"]["cpu_us_each"] for report in took)
        p50 = statistics.median(report["latency_ms"]["p50"] for report in took)
        report = {"server": {"cpu_us_each": cpu}, "latency_ms": {"p50": p50}}
        row(name, report, base)
        base = base or cpu


def tenants(folder, each):
    for number in range(1_000):
        folder.copies(each, tenant="default" if number == 0 else f"tenant-{number}")


def cursor(server, depth):
    """Leads to the page behind the `depth` newest tasks, which is reached page by page."""
    connection, found = http.client.HTTPConnection(urllib.parse.urlparse(server.url).netloc), {}
    for _ in range(depth // PAGE):
        connection.request("GET", "/api/v1/tasks?" + urllib.parse.urlencode({"limit": PAGE} | found))
        found = {"cursor": json.load(connection.getresponse())["next_cursor"]}
    return found


def pages(binary, many):
    print("\n| page of 50 tasks | server CPU µs each | to the first | p50 ms |\n|---|---|---|---|")
    with Folder(binary) as folder:
        folder.copies(many)
        rare = {
            "state": ("escalated", {"state": "escalated"}),
            "task_type": ("qa", {"task_type": "qa"}),
            "priority": ("critical", {"priority": 0}),
            "project_id": ("p", {"project_id": "p"}),
            "agent_id": ("a", {"agent_id": "a"}),
            "parent_task_id": ("template", {"parent": "template"}),
        }
        for name, (_, columns) in rare.items():
            folder.copies(RARE, prefix=f"{name}-", **columns)
        with folder.server() as server:
            def take(**arguments):
                return one_by_one(server, "task_list", json.dumps({"limit": 50} | arguments), 300, 0.2)

            base = row(f"the first of {many:,} tasks", take())
            row("the ten-thousandth", take(**cursor(server, min(500_000, many // 2))), base)
            for name, (value, _) in rare.items():
                row(f"{name}: {RARE} tasks have it", take(**{name: value}), base)


def resident(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


def memory(binary, calls):
    with Folder(binary) as folder, folder.server() as server:
        time.sleep(1)
        idle = resident(server.process.pid)

        def dispatch(count):
            load("http", "--url", f"{server.url}/mcp", *DISPATCH, "--requests", count, "--warmup", 0, "--seconds", 900)
            time.sleep(1)
            return resident(server.process.pid)

        early = dispatch(10_000)
        late = dispatch(calls - 10_000)
    print(f"\nMemory: {idle:.0f} MiB at idle, {early:.0f} MiB after 10,000 dispatches over 64 connections, "
          f"{late:.0f} MiB after {calls:,} ({late / early - 1:+.0%}).", flush=True)  # fmt: skip


def ask(url, message, headers):
    """Sends one request on a connection of its own, and returns that with the beginning of the answer."""
    host = url.removeprefix("http://")
    body = json.dumps(message).encode() if message else b""
    headers = {"Host": host, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
               "Content-Length": len(body)} | headers  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection = socket.create_connection(host.rsplit(":", 1))
    connection.sendall(f"{'POST' if message else 'GET'} /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
    answer = connection.recv(65536).decode()
    if not answer.startswith("HTTP/1.1 200 "):
        sys.exit(f"scale: {answer}")
    return connection, answer


def listener(url):
    """An open stream of `subscriptions/listen`."""
    wanted = {"resourceSubscriptions": ["baton://tasks/x"]}
    message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {"notifications": wanted, "_meta": META}}
    return ask(url, message, {"MCP-Protocol-Version": "2026-07-28", "MCP-Method": "subscriptions/listen"})[0]


def session(url):
    """The open event stream of a legacy session that made a call."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "scale", "version": "1"}}
    begun, answer = ask(url, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}, {})
    name = {"Mcp-Session-Id": re.search(r"(?i)^mcp-session-id: (\S+)", answer, re.MULTILINE).group(1)}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "task_list", "arguments": {}}}
    called, _ = ask(url, call, name)
    begun.close()
    called.close()
    return ask(url, None, name)[0]


def waiting(binary):
    """What one of many who wait costs, after others came and went."""
    print("\n| waiting | KB each |\n|---|---|")
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    for name, count, wait in ("idle modern listeners", 2_000, listener), ("legacy sessions with an event stream", 500, session):
        with Folder(binary) as folder, folder.server() as server:
            for early in [wait(server.url) for _ in range(50)]:
                early.close()
            time.sleep(1)
            before = resident(server.process.pid)
            there = [wait(server.url) for _ in range(count)]
            time.sleep(1)
            print(f"| {count:,} {name} | {(resident(server.process.pid) - before) * 1024 / count:.1f} |", flush=True)
            for connection in there:
                connection.close()


def start(binary):
    times = []
    with tempfile.TemporaryDirectory(prefix="baton-scale-") as data:
        for _ in range(20):
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                       "params": {"name": "task_list", "arguments": {}, "_meta": META}}  # fmt: skip
            began = time.perf_counter()
            with subprocess.Popen([binary, "stdio", "--data", data], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, env=environment(data)) as process:  # fmt: skip
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                times.append((time.perf_counter() - began) * 1e3)
                process.stdin.close()
            if answer["result"]["isError"]:
                sys.exit(f"scale: {answer}")
    print(f"\nStart to first answer on stdio: {statistics.median(times):.0f} ms (median of 20, worst {max(times):.0f}).")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=pathlib.Path)
    arguments.add_argument("--tasks", type=int, default=1_000_000)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    given = arguments.parse_args()
    if not LOAD.exists():
        sys.exit(f"scale: {LOAD} is missing; run.py builds it")
    binary = str(given.binary.resolve())
    print(f"{os.cpu_count()} cores, load generator included")
    start(binary)
    claims(binary, given.tasks)
    pages(binary, given.tasks)
    waiting(binary)
    memory(binary, given.calls)


if __name__ == "__main__":
    main()
