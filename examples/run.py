#!/usr/bin/env python3
"""Plays the report job over every transport, with two executors each, and the README's guide for two tenants:
run.py --baton PATH [--transport NAME] [--show]

Prints `N passed, N failed`. Run it with a Python that has the official SDK (pip install mcp).
"""

import argparse
import contextlib
import functools
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


def guide(baton, home, show):
    """Runs what the README says about two tenants. Returns what went wrong, or nothing."""
    readme = (ROOT / "README.md").read_text()
    script = re.search(r"^### Two tenants.*?^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE).group(1)
    expected = re.findall(r"# → (.+)", script)
    with server(baton, home) as url:
        script = script.replace("http://127.0.0.1:5050", url)
        done = subprocess.run(
            ["bash", "-euc", script], cwd=home, env=environment(home), capture_output=True, text=True, timeout=60, check=False
        )
    if show:
        print(done.stdout)
    # In the order of the guide: what comes later must not stand for what was missed.
    rest = done.stdout
    for text in expected:
        before, found, rest = rest.partition(text)
        if not found:
            return f"exit code {done.returncode}, {text!r} is missing from\n{before}{done.stderr}"
    return None if expected and done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baton", default="baton", help="the program to test")
    parser.add_argument("--transport", choices=["stdio", "http", "sse"], action="append")
    parser.add_argument("--show", action="store_true", help="print what the orchestrator prints")
    arguments = parser.parse_args()
    baton = str(pathlib.Path(arguments.baton).resolve()) if "/" in arguments.baton else arguments.baton
    passed = failed = 0
    parts = {f"report over {name}": functools.partial(play, baton, name) for name in arguments.transport or ["stdio", "http", "sse"]}
    if not arguments.transport:
        parts["two tenants"] = functools.partial(guide, baton)
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as home:
            try:
                wrong = part(pathlib.Path(home), arguments.show)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                wrong = repr(error)
        if wrong is None:
            passed += 1
        else:
            failed += 1
            print(f"{name}: {wrong}", file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
