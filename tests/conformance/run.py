#!/usr/bin/env python3
"""Runs the official MCP conformance suite: run.py BINARY

This folder's test target serves the suite's fixtures behind the product's edges: against it run the requirement sets of two
revisions, scored and not, and every scenario of the revision before. Against BINARY, the product, run the scenarios that need
no fixtures. BATON_TEST_NODE and BATON_TEST_NPM (the folder of the npm packages) are set by test.sh.
A check that the suite only warns of, or that it could not do, fails too, unless it is named below with the reason.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))
from server import Server  # noqa: E402

TIME_LIMIT = 300
PASSED, NOTED, FAILED = "SUCCESS", "INFO", {"FAILURE", "WARNING", "SKIPPED"}
SETS = {
    "2025-06-18": ["--suite", "all", "--spec-version", "2025-06-18"],
    "2025-11-25": ["--requirements", "2025-11-25"],
    "2026-07-28": ["--requirements", "2026-07-28"],
}
# Scenarios that any server can be held to.
GENERIC = {
    "2025-11-25": [
        "server-initialize", "ping", "logging-set-level", "tools-list", "resources-list", "prompts-list",
        "server-sse-multiple-streams", "dns-rebinding-protection", "server-session-lifecycle",
    ],
    "2026-07-28": [
        "tools-list", "resources-list", "prompts-list", "sep-2164-resource-not-found", "dns-rebinding-protection",
        "input-required-result-unsupported-methods", "http-header-validation",
    ],
}
# What the suite can't do yet, or only notes, by check.
EXPECTED = {
    "server-sse-streams-functional": "modern answers of one message are plain JSON, which the suite notes: streams are optional",
    "server-sse-disconnect-resume": "answers are not broken off so that clients poll; resuming one is what tests/it/mcp_sessions.rs does",
    "tasks-status-notifications": "the suite can't listen for these yet, and says so; tests/it/handles_heard.rs does",
}


class Fixtures:
    """The server of the fixtures. It ends when its standard input is closed."""

    def __init__(self):
        build = ["cargo", "test", "--locked", "--no-run", "--test", "conformance", "--message-format=json"]
        built = subprocess.run(build, stdout=subprocess.PIPE, text=True, check=True).stdout
        messages = [json.loads(line) for line in built.splitlines()]
        executable = next(m["executable"] for m in messages if m.get("target", {}).get("name") == "conformance")
        self.process = subprocess.Popen([executable, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{executable} did not say where it listens")

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


def run(url, options):
    """The checks that the suite made, each with its scenario."""
    suite = pathlib.Path(os.environ["BATON_TEST_NPM"]) / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    with tempfile.TemporaryDirectory() as folder:
        command = [os.environ["BATON_TEST_NODE"], suite, "server", "--url", url, "-o", folder, *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT, check=False)
        checks = []
        for path in sorted(pathlib.Path(folder).glob("*/checks.json")):
            scenario = path.parent.name.removeprefix("server-").rsplit("-", 6)[0]
            checks += [(scenario, check) for check in json.loads(path.read_text())]
    if not checks:
        raise RuntimeError(f"the suite made no checks:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return checks


def judge(name, checks):
    """Counts, and tells of what failed and of what was expected to and did not."""
    passed = sum(check["status"] == PASSED for _, check in checks)
    failed = 0
    for scenario, check in checks:
        reason = EXPECTED.get(check["id"])
        if check["status"] not in FAILED and not (check["status"] == NOTED and reason):
            continue
        if reason:
            print(f"skipped: {name} {scenario} {check['id']}: {reason}")
        else:
            failed += 1
            print(f"{name} {scenario} {check['id']}: {check['status']}: {check.get('errorMessage')}")
    return passed, failed


def main():
    [binary] = sys.argv[1:]
    results = {}
    with contextlib.closing(Fixtures()) as server:
        for revision, options in SETS.items():
            results[revision] = judge(revision, run(server.url, options))
    with tempfile.TemporaryDirectory() as home:
        server = Server(binary, pathlib.Path(home))
        try:
            for revision, scenarios in GENERIC.items():
                checks = []
                for scenario in scenarios:
                    checks += run(f"{server.url}/mcp", ["--scenario", scenario, "--spec-version", revision])
                name = f"{revision}, the product"
                results[name] = judge(name, checks)
        finally:
            server.kill()
    print()
    for name, (passed, failed) in results.items():
        print(f"{name}: {passed} passed, {failed} failed")
    passed, failed = (sum(counts) for counts in zip(*results.values()))
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
