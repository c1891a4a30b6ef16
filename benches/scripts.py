#!/usr/bin/env python3
"""Measures what one tenant's scripts cost the others: scripts.py BINARY [--calls N]

Calls of a tenant at a quiet server, and again while another tenant calls scripts that never end, from eight connections,
as fast as it is let. Prints a Markdown table.
"""

import argparse
import http.client
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "clients"))
from server import Server  # noqa: E402

ADD = "function main({a, b}) { return {sum: a + b}; }"
ENDLESS = "function main() { for (;;); }"


class Caller:
    """One connection of one tenant."""

    def __init__(self, url, tenant):
        self.connection = http.client.HTTPConnection(urllib.parse.urlparse(url).netloc, timeout=120)
        self.headers = {"Content-Type": "application/json", "X-Tenant-ID": tenant}

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read() or "null")

    def tool(self, name, source, seconds):
        manifest = {
            "name": name,
            "description": name,
            "limits": {"timeout_seconds": seconds},
            "implementation": {"type": "script", "source": source},
        }
        status, answer = self.post("/api/v1/tools", manifest)
        assert status < 300, answer

    def call(self, name, **arguments):
        return self.post("/api/v1/tools/call", {"name": name, "arguments": arguments})


def timed(count, call):
    """Milliseconds of each of so many calls, which must succeed."""
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        status, answer = call()
        took.append((time.perf_counter() - begun) * 1_000)
        assert status < 300, answer
    return sorted(took)


def measure(url, calls):
    """Both kinds of calls of the tenant that is measured."""
    quiet = Caller(url, "quiet")
    search = {"query": "nothing"}
    return {
        "memory_search": timed(calls, lambda: quiet.post("/api/v1/memory/search", search)),
        "a script that adds": timed(calls, lambda: quiet.call("add", a=1, b=2)),
    }


def harass(url, over):
    loud = Caller(url, "loud")
    while not over.is_set():
        loud.call("endless")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--calls", type=int, default=500)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-scripts-") as data:
        server = Server(given.binary, data)
        try:
            Caller(server.url, "quiet").tool("add", ADD, 10)
            Caller(server.url, "loud").tool("endless", ENDLESS, 2)
            before = measure(server.url, given.calls)
            over = threading.Event()
            loud = [threading.Thread(target=harass, args=(server.url, over)) for _ in range(8)]
            for thread in loud:
                thread.start()
            during = measure(server.url, given.calls)
            over.set()
            for thread in loud:
                thread.join()
        finally:
            server.stop()
    print("| p50 / p99 ms | quiet | beside endless scripts |\n|---|---|---|")
    for name, quiet in before.items():
        shown = (f"{statistics.median(it):.2f} / {it[len(it) * 99 // 100]:.2f}" for it in (quiet, during[name]))
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
