#!/usr/bin/env python3
"""Measures search among many memories: memory.py BINARY [--entries N] [--full-scan-threshold N]

One tenant's entries beside those of 1,000 tenants with one each, then 150 judged queries of benches/memory, one after
another over REST, first on a server that has just written them and then on one that has just started. Prints a Markdown
table. On PostgreSQL: tests/torture/cluster.py benches/memory.py BINARY
"""

import argparse
import concurrent.futures
import http.client
import json
import pathlib
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "clients"))
from server import Server  # noqa: E402

TENANTS = 1_000
LARGE = "large"
WRITERS = 16


def texts(name, field):
    with open(HERE / "memory" / f"{name}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)[field] for line in lines]


class Callers(threading.local):
    """A connection for each thread."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(urllib.parse.urlparse(url).netloc, timeout=300)

    def post(self, tenant, path, body):
        headers = {"Content-Type": "application/json", "X-Tenant-ID": tenant}
        self.connection.request("POST", path, json.dumps(body), headers)
        answer = self.connection.getresponse()
        said = json.loads(answer.read() or "null")
        assert answer.status < 300, said
        return said


def fill(url, entries):
    """Writes all of them; how many in a second."""
    contents, callers = texts("memories", "content"), Callers(url)

    def write(number):
        one, other = contents[number % len(contents)], contents[number * 7 % len(contents)]
        tenant = LARGE if number < entries else f"other-{number - entries}"
        entry = {"agent_id": f"agent-{number % 50}", "content": f"Case {number}: {one} {other}"}
        callers.post(tenant, "/api/v1/memory", entry)

    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(write, range(entries + TENANTS), chunksize=64):
            pass
    return (entries + TENANTS) / (time.perf_counter() - begun)


def search(url):
    """Milliseconds of the first search, and of each query afterwards."""
    callers, took = Callers(url), []
    queries = texts("queries", "query")
    for query in [queries[0], *queries]:
        begun = time.perf_counter()
        found = callers.post(LARGE, "/api/v1/memory/search", {"query": query})
        took.append((time.perf_counter() - begun) * 1_000)
        assert found["hits"], query
    return took[0], sorted(took[1:])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--entries", type=int, default=100_000)
    arguments.add_argument("--full-scan-threshold", help="as the server takes it: beyond, pgvector looks entries up")
    given = arguments.parse_args()
    options = ("--full-scan-threshold", given.full_scan_threshold) if given.full_scan_threshold else ()
    with tempfile.TemporaryDirectory(prefix="baton-memory-") as data:
        rows = []
        for when in ("as it has written them", "just started"):
            server = Server(given.binary, data, *options)
            try:
                if not rows:
                    print(f"{fill(server.url, given.entries):,.0f} entries written a second", file=sys.stderr)
                rows.append((when, *search(server.url)))
            finally:
                server.stop()
    print("| ms | first | p50 | p95 | p99 |\n|---|---|---|---|---|")
    for when, first, took in rows:
        shown = (f"{took[len(took) * share // 100]:.1f}" for share in (50, 95, 99))
        print(f"| {when} | {first:.0f} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
