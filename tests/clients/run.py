#!/usr/bin/env python3
"""Drives real MCP clients against the real binary: run.py BINARY [WORD]

Each case is one client on one transport in one era and plays a whole life of a task, or follows the handle of one over a restart. WORD keeps the cases whose name holds it.
BATON_TEST_PYTHON (an interpreter with the Python SDK), BATON_TEST_NODE and BATON_TEST_NPM (the folder of the npm packages) are set by test.sh.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from server import Server, environment

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
LEGACY, MODERN = "2025-11-25", "2026-07-28"
TIME_LIMIT = 180


def clients():
    """Name, command and eras of every client: what it asks for and what must come of it (None: the client may choose)."""
    node = os.environ["BATON_TEST_NODE"]
    eras = {"legacy": LEGACY, "auto": MODERN, MODERN: MODERN}
    yield "python-sdk", [os.environ["BATON_TEST_PYTHON"], HERE / "python_sdk.py"], eras
    yield "typescript-v2", [node, HERE / "typescript_v2.mjs"], eras
    yield "typescript-v1", [node, HERE / "typescript_v1.mjs"], {"legacy": LEGACY}
    yield "inspector", [sys.executable, HERE / "inspector.py"], {"legacy": LEGACY, "auto": MODERN, "modern": MODERN}


def inspector():
    return [os.environ["BATON_TEST_NODE"], f"{os.environ['BATON_TEST_NPM']}/node_modules/.bin/mcp-inspector"]


def cases(binary, url, home):
    """Name, command and the protocol version that must be negotiated."""
    stdio = [binary, "stdio", "--data", str(home / "stdio")]
    followers = {
        "python-sdk": [os.environ["BATON_TEST_PYTHON"], HERE / "handles_python.py"],
        "typescript-v2": [os.environ["BATON_TEST_NODE"], HERE / "handles_typescript.mjs"],
        "inspector": inspector(),
    }
    for name, client, eras in clients():
        for era, version in eras.items():
            yield f"{name} stdio {era}", [*client, era, "stdio", *stdio], version
            yield f"{name} http {era}", [*client, era, "http", f"{url}/mcp"], version
        # The transport of 2024 has no modern era; what a client that probes for one makes of it is its own choice.
        yield f"{name} sse legacy", [*client, "legacy", "sse", f"{url}/sse"], None
        if name == "inspector":
            yield f"{name} mcp.json", [*client, "auto", "config", REPOSITORY / "mcp.json", "baton"], MODERN
        if name != "typescript-v1":
            yield f"{name} handles", [sys.executable, HERE / "handles.py", binary, name, *followers[name]], None
    yield "python-sdk sse auto", [os.environ["BATON_TEST_PYTHON"], HERE / "python_sdk.py", "auto", "sse", f"{url}/sse"], None


def play(case, env):
    name, command, version = case
    try:
        done = subprocess.run(
            [str(part) for part in command], env=env, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired as late:
        return name, f"no end after {TIME_LIMIT} s\n{late.stdout or ''}{late.stderr or ''}"
    if done.returncode != 0:
        return name, done.stdout + done.stderr
    negotiated = done.stdout.split("\n")[0]
    if version is not None and negotiated != version:
        return name, f"negotiated {negotiated}, expected {version}"
    return name, None


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="baton-clients-") as folder:
        home = pathlib.Path(folder)
        # mcp.json names the program `baton`, as an installed one is found, so the binary's folder comes first.
        env = environment(
            home,
            PATH=os.pathsep.join([str(pathlib.Path(binary).parent), os.environ["PATH"]]),
            BATON_TEST_NPM=os.environ["BATON_TEST_NPM"],
            INSPECTOR=json.dumps(inspector()),
        )
        with Server(binary, home / "serve") as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
            chosen = [case for case in cases(binary, server.url, home) if word in case[0]]
            for name, complaint in pool.map(lambda case: play(case, env), chosen):
                passed += complaint is None
                failed += complaint is not None
                print(f"ok {name}" if complaint is None else f"FAIL {name}\n{complaint.rstrip()}", flush=True)
            if failed:
                print(f"the server's last lines:\n{server.tail()}")
    print(f"{passed} passed, {failed} failed", flush=True)
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
