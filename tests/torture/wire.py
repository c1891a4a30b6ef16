"""The modern wire, with nothing between: one tool call over HTTP or on a child's standard streams. Python's library only."""

import http.client
import itertools
import json
import queue
import subprocess
import threading
import urllib.parse

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "torture", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_numbers = itertools.count(1)


class Lost(Exception):
    """No answer came: the call may have happened or not."""


class Refused(Exception):
    """The server said no."""


def request(tool, arguments):
    params = {"_meta": META, "name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": next(_numbers), "method": "tools/call", "params": params}


def content(message):
    if "error" in message:
        raise Refused(json.dumps(message["error"]))
    result = message["result"]
    if result.get("isError"):
        raise Refused(result["content"][0]["text"])
    return result["structuredContent"]


class Http:
    """One kept-alive connection to wherever `url()` says that the server is now."""

    def __init__(self, url):
        self.url, self.connection = url, None

    def call(self, tool, timeout=60, **arguments):
        message = request(tool, arguments)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        try:
            if self.connection is None:
                address = urllib.parse.urlsplit(self.url()).netloc
                self.connection = http.client.HTTPConnection(address, timeout=timeout)
            self.connection.request("POST", "/mcp", json.dumps(message), headers)
            answer = self.connection.getresponse()
            body = answer.read()
            if answer.headers.get_content_type() == "text/event-stream":
                body = next(line[5:] for line in reversed(body.splitlines()) if line.startswith(b"data:") and b'"id"' in line)
            return content(json.loads(body))
        except Refused:
            raise
        except Exception as error:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}") from error

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Stdio:
    """`baton stdio` as a child; one call at a time."""

    def __init__(self, command, env):
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def call(self, tool, timeout=60, **arguments):
        message = request(tool, arguments)
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
            while (answer := self.lines.get(timeout=timeout)) is not None:
                if answer.get("id") == message["id"]:
                    return content(answer)
        except (OSError, queue.Empty) as error:
            raise Lost(repr(error)) from error
        raise Lost("the child ended")

    def kill(self):
        self.process.kill()
        self.process.wait()
