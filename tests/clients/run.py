#!/usr/bin/env python3
"""Drives real MCP clients against the real binary: run.py BINARY [WORD]

Each case is one client on one transport in one era and plays a whole life of a task and a visit to the tenant's rooms (memory, secrets, tools,
resources), follows the handle of one over a restart, has its user sign in first, or is a server whose tools Baton uses.
WORD keeps the cases whose name holds it. What the server told them, except over a restart, is checked against the schemas of its
revisions at the end.
BATON_TEST_PYTHON (an interpreter with the Python SDK), BATON_TEST_NODE, BATON_TEST_NPM (the folder of the npm packages) and BATON_TEST_RMCP (the
program of `rmcp/`) are set by test.sh.
"""

import concurrent.futures
import http.server
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import threading

import wire
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


def users(binary):
    """Clients whose user signs in at an authorization server, and how they become its clients."""
    node, python, rmcp = (os.environ[f"BATON_TEST_{name}"] for name in ("NODE", "PYTHON", "RMCP"))
    programs = {
        "python-sdk": [python, HERE / "oauth_python.py"],
        "typescript-v2": [node, HERE / "oauth_typescript.mjs"],
        "rmcp": [rmcp],
    }
    for name, client in programs.items():
        for registration in ("registered", "documented"):
            yield f"{name} oauth {registration}", [sys.executable, HERE / "oauth.py", binary, registration, *client], None


def upstreams(binary):
    """Servers of the official SDKs whose tools Baton uses, and the revision that is spoken with them."""
    python = [os.environ["BATON_TEST_PYTHON"], HERE / "upstream_python.py"]
    typescript = [os.environ["BATON_TEST_NODE"], HERE / "upstream_typescript.mjs"]
    for name, kind, server, version in [
        ("python-sdk", "stdio", python, MODERN),
        ("python-sdk", "http", python, MODERN),
        ("python-sdk", "sse", python, LEGACY),
        ("typescript-v1", "stdio", typescript, LEGACY),
    ]:
        yield f"{name} upstream {kind}", [sys.executable, HERE / "upstream.py", binary, kind, *server], version


def cases(binary, program, url, home):
    """Name, command and the protocol version that must be negotiated. `program` is the binary, listened to."""
    stdio = [program, "stdio", "--data", str(home / "stdio"), "--outbound-allow", "127.0.0.1/32"]
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
    yield from users(binary)
    yield from upstreams(binary)
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


class Outside(http.server.BaseHTTPRequestHandler):
    """What tools and resources of tenants call: greets whom the path names, and knows the story's secret."""

    def do_GET(self):
        words = self.path.strip("/").replace("/", " ")
        body = json.dumps({"greeting": words, "trusted": self.headers["authorization"] == "Bearer open sesame"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def outside():
    """Where it listens."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def listened_to(binary, home):
    """A program called `baton`, as mcp.json names it, that keeps in `home/wire` what goes over its pipes."""
    program = home / "bin" / "baton"
    for folder in (program.parent, home / "wire"):
        folder.mkdir()
    listener = [sys.executable, HERE / "wire.py", home / "wire", binary]
    program.write_text(f'#!/bin/sh\nexec {" ".join(shlex.quote(str(part)) for part in listener)} "$@"\n')
    program.chmod(0o755)
    return program


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="baton-clients-") as folder:
        home = pathlib.Path(folder)
        program = listened_to(binary, home)
        env = environment(
            home,
            PATH=os.pathsep.join([str(program.parent), os.environ["PATH"]]),
            BATON_TEST_NPM=os.environ["BATON_TEST_NPM"],
            INSPECTOR=json.dumps(inspector()),
            BATON_TEST_OUTSIDE=outside(),
            BATON_OUTBOUND_ALLOW="127.0.0.1/32",
        )
        with Server(binary, home / "serve", "--outbound-allow", "127.0.0.1/32") as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
            env["BATON_TEST_SERVER"] = server.url
            tap = wire.Tap(int(server.url.rsplit(":", 1)[1]))
            chosen = [case for case in cases(binary, program, tap.url, home) if word in case[0]]
            for name, complaint in pool.map(lambda case: play(case, env), chosen):
                passed += complaint is None
                failed += complaint is not None
                print(f"ok {name}" if complaint is None else f"FAIL {name}\n{complaint.rstrip()}", flush=True)
            if failed:
                print(f"the server's last lines:\n{server.tail()}")
        complaints, count = wire.check(home / "wire", tap.kept)
        said = f"{sum(count.values())} messages of the server, each as its revision's schema has it ({dict(sorted(count.items()))})"
        if complaints or not (count or word):
            failed += 1
            print("\n".join([f"FAIL {said}", *complaints[:20]]), flush=True)
        else:
            passed += 1
            print(f"ok {said}", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
