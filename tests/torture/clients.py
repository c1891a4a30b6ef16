"""Clients that don't behave: thousands of streams, one byte a second, nothing at all, answers never read."""

import contextlib
import http.client
import json
import re
import select
import socket
import statistics
import threading
import time
import urllib.parse

from server import Server
from wire import META, VERSION, Http

STREAMS = 2_000
# The server's bounds, with a margin for a machine that has much to do.
HEAD, BODY, UNREAD, MARGIN = 75, 30, 60, 15
DEAF = 20


def where(url):
    address = urllib.parse.urlsplit(url)
    return address.hostname, address.port


def ask(url, method, path, body=None):
    """The status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(*where(url), timeout=30)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def get(url, path):
    return ask(url, "GET", path)


def post(url, path, body):
    return ask(url, "POST", path, body)


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, NO_WINDOW = frame(4, 0, 0), frame(4, 0, 0, bytes([0, 4, 0, 0, 0, 0]))
# GET, http, localhost, and what has a long answer.
LONG_ANSWER = frame(1, 5, 1, b"\x82\x86\x41\x09localhost\x04\x0d/openapi.json")

SSE = b"GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def listening(tenant, uri="baton://tasks/watched"):
    """The request of a modern listener."""
    params = {"_meta": META, "notifications": {"resourceSubscriptions": [uri]}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).encode()
    head = (
        f"POST /t/{tenant}/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {VERSION}\r\n"
        f"Mcp-Method: subscriptions/listen\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Stream:
    """An answer that goes on. `head` is what had come when the first event was there."""

    def __init__(self, url, request):
        self.socket = socket.create_connection(where(url), timeout=30)
        self.socket.sendall(request)
        self.head = b""
        while b"data:" not in self.head and b" 503 " not in self.head:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError(f"no stream: {self.head[:300]}")
            self.head += piece

    def rest(self):
        """Everything to the end."""
        text = self.head
        with contextlib.suppress(OSError):
            while piece := self.socket.recv(65536):
                text += piece
        self.socket.close()
        return text

    def close(self):
        self.socket.close()


def resident(server):
    """Megabytes of memory that the process has now."""
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024


def latencies(door, calls, tenant):
    took = []
    for _ in range(calls):
        began = time.monotonic()
        door.call("task_get", task_id="watched", tenant=tenant)
        took.append((time.monotonic() - began) * 1e3)
    return statistics.median(took), max(took)


def open_streams(url, count):
    return [Stream(url, SSE if number % 2 else listening("acme")) for number in range(count)]


def streams(binary, data):
    """Thousands of open streams of both kinds: other calls stay fast, and much of the memory comes back."""
    with Server(binary, data) as server:
        door = Http(lambda: server.url)
        door.call("task_dispatch", task_id="watched", description="x", tenant="acme")
        # What is built once is not the streams'.
        for stream in open_streams(server.url, 100):
            stream.close()
        before, (calm, _) = resident(server), latencies(door, 200, "acme")
        opened = open_streams(server.url, STREAMS)
        full, (busy, worst) = resident(server), latencies(door, 200, "acme")
        began = time.monotonic()
        door.call("task_update", task_id="watched", priority="high", tenant="acme")
        listeners = opened[::2]
        heard = sum(b"updated" in stream.socket.recv(65536) for stream in listeners)
        told = time.monotonic() - began
        for stream in opened:
            stream.close()
        after, deadline = resident(server), time.monotonic() + 15
        enough = before + (full - before) * 2 / 3
        while after > enough and time.monotonic() < deadline:
            time.sleep(0.5)
            # An allocator gives back when it is used, by every thread that it gave to.
            for stream in open_streams(server.url, 100):
                stream.close()
            after = resident(server)
        print(
            f"{STREAMS} streams: {before:.0f} MB, then {full:.0f} MB, then {after:.0f} MB; "
            f"a call takes {calm:.1f} ms, then {busy:.1f} ms (at most {worst:.0f} ms); all told in {told * 1e3:.0f} ms",
            flush=True,
        )
        again = open_streams(server.url, STREAMS)
        second = resident(server)
        for stream in again:
            stream.close()
    yield f"{STREAMS} streams: other calls stay fast", [] if busy < 20 and worst < 500 else [f"{busy:.1f} ms, {worst:.0f} ms"]
    yield f"{STREAMS} streams: each listener hears of a change", [] if heard == len(listeners) else [f"{heard} heard"]
    given = after <= enough
    yield f"{STREAMS} streams: memory is given back", [] if given else [f"{before:.0f}, {full:.0f}, {after:.0f} MB"]
    no_leak = second <= full + (full - before) / 2
    yield f"{STREAMS} streams: as many again need no more", [] if no_leak else [f"{full:.0f}, then {second:.0f} MB"]


def drip(url, text, begin=b""):
    """Sends one byte a second; returns how long it took until the server had enough, and what it said."""
    began = time.monotonic()
    with socket.create_connection(where(url), timeout=HEAD + 2 * MARGIN) as client:
        client.sendall(begin)
        said = b""
        with contextlib.suppress(OSError):
            for byte in text:
                if readable(client, 1) and not (piece := client.recv(65536)):
                    break
                elif readable(client, 0):
                    said += piece
                client.sendall(bytes([byte]))
            while piece := client.recv(65536):
                said += piece
        return time.monotonic() - began, said


def readable(client, seconds):
    return bool(select.select([client], [], [], seconds)[0])


class Patience:
    """How long the server bears with slow and deaf clients, all at the same time, and what others notice of it."""

    def __init__(self, binary, data):
        self.server = Server(binary, data)
        self.took, self.deaf = {}, []
        url = self.server.url
        body = b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n"
        mcp = body.replace(b"/api/v1/tasks", b"/mcp")
        slow = {
            "a head of one byte a second": (HEAD, b"X" * 300, b"GET /health HTTP/1.1\r\nX-Slow: "),
            "a body of one byte a second": (BODY, b"x" * 900, body),
            "an MCP message of one byte a second": (BODY, b"x" * 900, mcp),
            "nothing at all": (HEAD, b"", b""),
            "half of a greeting": (HEAD, b"", b"PRI * HTTP/2.0"),
            "a greeting and no request": (HEAD, b"", GREETING + SETTINGS),
            "an answer without a window": (UNREAD, b"", GREETING + NO_WINDOW + LONG_ANSWER),
        }
        self.bounds = {name: bound for name, (bound, _, _) in slow.items()}
        self.threads = [
            threading.Thread(target=self._note, args=(name, text, begin), daemon=True) for name, (_, text, begin) in slow.items()
        ]
        for thread in self.threads:
            thread.start()
        self.before = resident(self.server)
        self.began = time.monotonic()
        for _ in range(DEAF):
            client = socket.create_connection(where(url), timeout=5)
            client.setblocking(False)
            self.deaf.append(client)
            request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
            with contextlib.suppress(BlockingIOError):
                for _ in range(2_000):
                    client.send(request)

    def _note(self, name, text, begin):
        self.took[name] = drip(self.server.url, text, begin)

    def outcome(self):
        door = Http(lambda: self.server.url)
        door.call("task_dispatch", task_id="watched", description="x")
        median, worst = latencies(door, 200, None)
        grown = resident(self.server) - self.before
        yield "slow and deaf clients: others notice nothing", [] if median < 20 and worst < 500 else [f"{median} ms, {worst} ms"]
        yield "deaf clients: what they don't read is not heaped up", [] if grown < 2 * DEAF else [f"{grown:.0f} MB more"]
        for thread in self.threads:
            thread.join(HEAD + 2 * MARGIN)
        for name, bound in self.bounds.items():
            took, said = self.took.get(name, (float("inf"), b""))
            yield f"{name} is cut within {bound + MARGIN} s", [] if took < bound + MARGIN else [f"{took:.0f} s: {said[:200]}"]
        late = self.began + UNREAD + MARGIN
        while (open_still := self.connections()) and time.monotonic() < late:
            time.sleep(0.5)
        yield f"deaf clients are cut within {UNREAD + MARGIN} s", [f"{open_still} are not"] if open_still else []
        for client in self.deaf:
            client.close()
        self.server.stop()

    def connections(self):
        """How many of the deaf ones the server still has, by the kernel's table: they would not hear of it."""
        ports = {f"{client.getsockname()[1]:04X}" for client in self.deaf}
        with open(f"/proc/{self.server.process.pid}/net/tcp", encoding="ascii") as table:
            rows = [line.split() for line in table.readlines()[1:]]
        # State 01 is established; the server's side has the client's port as its remote one, and an inode.
        server_port = f"{where(self.server.url)[1]:04X}"
        return sum(row[1].endswith(f":{server_port}") and row[2].split(":")[1] in ports and row[3] == "01" for row in rows)
