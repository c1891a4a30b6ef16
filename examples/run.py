#!/usr/bin/env python3
"""Plays the report job over every transport, with two executors each: run.py --baton PATH [--transport NAME] [--show]

Prints `N passed, N failed`. Run it with a Python that has the official SDK (pip install mcp).
"""

import argparse
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
EXPECTED = ["# What is in this repository", "- State: completed", "| Rust |", "The ten longest functions:", "## Next steps"]


def environment(home):
    """The caller's environment without its Baton settings, in a home folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATON_", "XDG_"))}
    return kept | {"HOME": str(home)}


@contextlib.contextmanager
def running(command, home, log):
    """A process that is asked to end at the end."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment(home), stdin=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def listening(process):
    """The address that a server says it listens on; the rest of what it says is read and dropped."""
    for line in process.stderr:
        if found := ADDRESS.search(line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found.group()
    raise RuntimeError("the server did not say where it listens")


@contextlib.contextmanager
def server(baton, home):
    command = [baton, "serve", "--listen", "127.0.0.1:0", "--data", str(home / "data")]
    process = subprocess.Popen(
        command, env=environment(home), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        yield listening(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def play(baton, transport, home, show):
    """Returns what went wrong, or nothing."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(home / "executors.log", "w"))
        if transport == "stdio":
            where = ["--data", str(home / "data")]
            target = [baton, "stdio", *where]
        else:
            url = stack.enter_context(server(baton, home))
            where = ["--url", url]
            target = [url + {"http": "/mcp", "sse": "/sse"}[transport]]
        for agent, capability, more in [("surveyor", "survey", ["--concurrency", "2"]), ("writer", "write", [])]:
            command = [baton, "work", *where, "--agent-id", agent, "--capabilities", capability, *more]
            command += ["--exec", f"python3 examples/{capability}.py"]
            stack.enter_context(running(command, home, log))
        done = subprocess.run(
            [sys.executable, HERE / "report.py", transport, *target],
            cwd=ROOT, env=environment(home), capture_output=True, text=True, errors="replace", timeout=180, check=False,
        )
        missing = [text for text in EXPECTED if text not in done.stdout]
    if show:
        print(done.stderr + done.stdout)
    if done.returncode == 0 and not missing:
        return None
    executors = (home / "executors.log").read_text(errors="replace")
    return f"exit code {done.returncode}, missing {missing}\n{done.stdout}{done.stderr}{executors}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default="baton", help="the program to test")
    parser.add_argument("--transport", choices=["stdio", "http", "sse"], action="append")
    parser.add_argument("--show", action="store_true", help="print what the orchestrator prints")
    arguments = parser.parse_args()
    baton = str(pathlib.Path(arguments.baton).resolve()) if "/" in arguments.baton else arguments.baton
    passed = failed = 0
    for transport in arguments.transport or ["stdio", "http", "sse"]:
        with tempfile.TemporaryDirectory() as home:
            try:
                wrong = play(baton, transport, pathlib.Path(home), arguments.show)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                wrong = repr(error)
        if wrong is None:
            passed += 1
        else:
            failed += 1
            print(f"report over {transport}: {wrong}", file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
