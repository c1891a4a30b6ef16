#!/usr/bin/env python3
"""Tools of real MCP servers behind Baton: upstream.py BINARY KIND COMMAND...

COMMAND is a server of an official SDK with the tools add and refuse. KIND is stdio (Baton starts it for each tenant), http or sse (it is
started here, with KIND and a port as further arguments). Prints the revision of MCP that Baton and the server agreed on.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from server import Server

PATIENCE = 30


def same(what, got, want):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"


def send(url, tenant, body):
    """The status of an answer and what it says."""
    headers = {"content-type": "application/json", "x-tenant-id": tenant}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def play(tools, upstream):
    for tenant in ("acme", "globex"):
        for name in ("add", "refuse"):
            status, made = send(tools, tenant, {"name": name, "implementation": upstream})
            assert status < 300, f"tool_create {name}: {made}"
        _, described = send(f"{tools}/describe", tenant, {"name": "add"})
        same("description", described["description"], "Add two numbers.")
        same("parameters", sorted(described["parameters"]["properties"]), ["a", "b"])
        same("state", described["upstream"]["state"], "connected")
        for a in range(20):
            same("sum", send(f"{tools}/call", tenant, {"name": "add", "arguments": {"a": a, "b": 2}}), (200, {"result": a + 2}))
        status, refused = send(f"{tools}/call", tenant, {"name": "add", "arguments": {"a": "x"}})
        same("arguments that do not fit", (status, refused["code"]), (400, "invalid_input"))
        _, refused = send(f"{tools}/call", tenant, {"name": "refuse", "arguments": {"why": "rain"}})
        same("a failure", refused["code"], "tool_failed")
        assert "not today: rain" in refused["detail"], refused
    return described["upstream"]["protocol_version"]


@contextlib.contextmanager
def serving(command, kind):
    """The server behind a port, once it listens; and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, kind, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < ends and process.poll() is None, "the server does not listen"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/{'mcp' if kind == 'http' else 'sse'}"
    finally:
        process.kill()
        process.wait()


def running(marker):
    """The processes whose environment has the marker."""
    found = []
    for folder in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def main():
    binary, kind, *command = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="baton-upstream-") as folder, contextlib.ExitStack() as stack:
        home = pathlib.Path(folder)
        marker = f"MARKER={home.name}"
        if kind == "stdio":
            own = {"MARKER": home.name, "BATON_TEST_NPM": os.environ["BATON_TEST_NPM"]}
            entry = {"command": command[0], "args": [*command[1:], *(["stdio"] if command[-1].endswith(".py") else [])], "env": own}
            upstream = {"type": "upstream", "server": "sums"}
        else:
            url = stack.enter_context(serving(command, kind))
            entry = {"url": "https://unused.example.com"}
            upstream = {"type": "upstream", "url": url, "transport": kind}
        (home / "mcp.json").write_text(json.dumps({"mcpServers": {"sums": entry}}))
        options = ["--upstreams", str(home / "mcp.json"), "--outbound-allow", "127.0.0.1"]
        with Server(binary, home / "data", *options) as server:
            version = play(f"{server.url}/api/v1/tools", upstream)
            if kind == "stdio":
                assert running(marker), "no process has the environment that the operator wrote"
        ends = time.monotonic() + PATIENCE
        while left := running(marker):
            assert time.monotonic() < ends, f"processes outlive their server: {left}"
            time.sleep(0.05)
    print(version)


if __name__ == "__main__":
    main()
