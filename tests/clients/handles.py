#!/usr/bin/env python3
"""Tasks of the Tasks extension through a real client: handles.py BINARY CLIENT COMMAND...

The client (python-sdk, typescript-v2 or inspector, started by COMMAND) makes a call that takes long and follows its handle by itself. This
script is the executor: it claims, asks where the client can be asked, ends. Meanwhile the server is restarted, behind an address that stays.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

from server import Server

OPTIONS = ["left", {"label": "right", "id": 2}]
PATIENCE = 60


def same(what, got, want):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"


class Relay:
    """An address of its own for whichever server is there: new connections go to the newest."""

    def __init__(self, url):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.turn_to(url)
        threading.Thread(target=self._accept, daemon=True).start()

    def turn_to(self, url):
        host, port = url.removeprefix("http://").rsplit(":", 1)
        self.target = (host, int(port))

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                server = socket.create_connection(self.target)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Executor:
    """Who does the work, over REST."""

    def __init__(self, relay):
        self.relay = relay

    def post(self, path, **body):
        request = urllib.request.Request(self.relay.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def task(self, task_id):
        with urllib.request.urlopen(f"{self.relay.url}/api/v1/tasks/{task_id}", timeout=PATIENCE) as answer:
            return json.load(answer)

    def claim(self, capability):
        """The task that the client has called for; it may have to start first."""
        for _ in range(3):
            claimed = self.post("/api/v1/claims", agent_id="ada", capabilities=[capability], wait_seconds=20)
            if claimed["tasks"]:
                task = claimed["tasks"][0]
                return task["task_id"], {"agent_id": "ada", "lease_token": task["lease"]["token"]}
        raise AssertionError("the client dispatched nothing")

    def notify(self, task_id, mine, kind, **data):
        self.post(f"/api/v1/tasks/{task_id}/notifications", **mine, notification_type=kind, data=data)

    def until(self, task_id, state):
        """Waits for what the client does to the task."""
        deadline = time.monotonic() + PATIENCE
        while (task := self.task(task_id))["state"] != state:
            assert time.monotonic() < deadline, f"the task is {task['state']}, not {state}"
            time.sleep(0.05)
        return task


def call(client, command, url, capability, how):
    """Starts the client on a call of `task_run`; `how` it goes on once it has a handle."""
    arguments = {"description": "go", "title": "Walk", "required_capabilities": [capability]}
    if client == "inspector":
        options = ["--transport", "http", "--protocol-era", "modern", "--format", "json", "--method", "tools/call"]
        command = [*command, "--cli", f"{url}/mcp", *options, "--tool-name", "task_run", "--tool-args-json", json.dumps(arguments)]
    else:
        command = [*command, f"{url}/mcp", how, json.dumps(arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process):
    """What the client made of the end: its last line."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}{err}"
    answer = json.loads(out if out.startswith("{\n") else out.strip().split("\n")[-1])
    return answer.get("result", answer)


def life(client, command, binary, data):
    capability = f"cap-{uuid.uuid4().hex}"
    server = Server(binary, data)
    relay = Relay(server.url)
    executor = Executor(relay)
    process = call(client, command, relay.url, capability, "answer")
    try:
        task_id, mine = executor.claim(capability)
        executor.notify(task_id, mine, "progress", progress=40, current_step="at the fork")
        old, server = server, Server(binary, data)
        relay.turn_to(server.url)
        same("exit code of the server", old.stop(), 0)
        # The Inspector's command line has nobody to ask, and does not declare that it had.
        if client != "inspector":
            executor.notify(task_id, mine, "escalated", question="Which way?", options=OPTIONS)
            answered = executor.until(task_id, "in_progress")
            same("answer", answered["answers"][0]["answer"], OPTIONS[1])
        executor.post(f"/api/v1/tasks/{task_id}/end", **mine, reason="success", result={"steps": 3})
        output = outcome(process)["structuredContent"]
        same("outcome", (output["done"], output["state"], output["result"]), (True, "completed", {"steps": 3}))
        if client != "inspector":
            process = call(client, command, relay.url, f"{capability}-other", "cancel")
            same("outcome", outcome(process), {"status": "cancelled"})
            listed = urllib.request.urlopen(f"{relay.url}/api/v1/tasks?state=cancelled", timeout=PATIENCE)
            (cancelled,) = json.load(listed)["tasks"]
            same("title of what was cancelled", cancelled["title"], "Walk")
    except BaseException:
        print(f"the server's last lines:\n{server.tail()}")
        raise
    finally:
        process.kill()
        server.stop()


def main():
    binary, client, *command = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="baton-handles-") as folder:
        os.environ.update(MCP_CATALOG_PATH=f"{folder}/catalog.json", MCP_STORAGE_DIR=folder)
        life(client, command, binary, pathlib.Path(folder) / "data")


main()
