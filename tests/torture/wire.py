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


class Unavailable(Lost):
    """The server can't do it now; `error` says when to come back."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.error, self.code = error, error["code"]


class Refused(Exception):
    """The server said no; `error` has its code and words."""

    def __init__(self, error):
        super().__init__(json.dumps(error))
        self.error, self.code = error, error.get("code")


def request(tool, arguments, tenant=None):
    meta = META | ({"dev.baton/tenant": tenant} if tenant else {})
    params = {"_meta": meta, "name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": next(_numbers), "method": "tools/call", "params": params}


def headers_of(tool):
    return {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }


def content(message):
    """What a tool answered, or what it refused as an exception."""
    if "error" in message:
        error = message["error"]
        refuse((error.get("data") or {}).get("error") or error)
    result = message["result"]
    if result.get("isError"):
        refuse(json.loads(result["content"][0]["text"])["error"])
    return result["structuredContent"]


def refuse(error):
    raise Unavailable(error) if "retry_after_seconds" in error else Refused(error)


def message_of(kind, body):
    """The JSON-RPC message in a response's body, which is a stream of events when the call took long."""
    if kind == "text/event-stream":
        body = next(line[5:] for line in reversed(body.splitlines()) if line.startswith(b"data:") and b'"id"' in line)
    return json.loads(body)


class Http:
    """A connection to wherever `url()` says that the server is now: kept for the next call, or a new one for each."""

    def __init__(self, url, keep=True):
        self.url, self.keep, self.connection = url, keep, None

    def call(self, tool, tenant=None, timeout=60, **arguments):
        message = request(tool, arguments, tenant)
        try:
            if self.connection is None:
                address = urllib.parse.urlsplit(self.url()).netloc
                self.connection = http.client.HTTPConnection(address, timeout=timeout)
            self.connection.request("POST", "/mcp", json.dumps(message), headers_of(tool))
            answer = self.connection.getresponse()
            answered = message_of(answer.headers.get_content_type(), answer.read())
        except Exception as error:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}") from error
        if not self.keep:
            self.close()
        return content(answered)

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

    def call(self, tool, tenant=None, timeout=60, **arguments):
        message = request(tool, arguments, tenant)
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
