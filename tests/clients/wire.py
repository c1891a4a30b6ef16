"""Listens in on real clients and checks what the server told them against the schemas of tests/mcp-schema.

As a program, wire.py FOLDER COMMAND... runs a server on pipes and keeps both directions in FOLDER; `Tap` does so for HTTP, between
the clients and the server, byte for byte. `check` judges what was kept.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

SCHEMAS = pathlib.Path(__file__).resolve().parent.parent / "mcp-schema"
MODERN = "2026-07-28"
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN)


class Tap:
    """A port that leads to another one; `kept` holds both directions of every connection."""

    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self.kept = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                server = socket.create_connection(self.target)
                both = (bytearray(), bytearray())
                self.kept.append(both)
                for source, sink, copy in ((client, server, both[0]), (server, client, both[1])):
                    threading.Thread(target=self._pump, args=(source, sink, copy), daemon=True).start()

    @staticmethod
    def _pump(source, sink, copy):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                copy += piece
                sink.sendall(piece)
        # An end in one direction ends both: so a client that leaves is seen by the server.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def pipes(folder, command):
    """Runs `command` between this program's own pipes."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def pump(name, read, write):
        # Unbuffered: clients kill what they have started.
        kept = open(pathlib.Path(folder) / f"{child.pid}.{name}", "wb", buffering=0)
        with kept, contextlib.suppress(OSError):
            while piece := os.read(read, 65536):
                kept.write(piece)
                while piece:
                    piece = piece[os.write(write, piece) :]

    def sent():
        pump("sent", 0, child.stdin.fileno())
        child.stdin.close()

    threading.Thread(target=sent, daemon=True).start()
    pump("heard", child.stdout.fileno(), 1)
    return child.wait()


def http(data):
    """The messages of one direction of HTTP/1.1: start line, headers, body. What broke off at the end is left out."""
    while b"\r\n\r\n" in data:
        head, data = data.split(b"\r\n\r\n", 1)
        start, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size, _, rest = data.partition(b"\r\n")
                count = int(size or b"0", 16)
                body, data = body + rest[:count], rest[count + 2 :]
                if count == 0 or len(rest) < count + 2:
                    break
        else:
            length = int(headers.get("content-length", 0))
            body, data = data[:length], data[length:]
        yield start, headers, body


def events(body):
    """Name and data of each event that is whole."""
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(":", 1) for line in block.split("\n") if ":" in line)
        if data := fields.get("data", "").strip():
            yield fields.get("event", "").strip(), data


def parsed(text):
    with contextlib.suppress(ValueError):
        message = json.loads(text)
        return message if isinstance(message, list) else [message]
    return []


class Checker:
    """Checks messages; `count` holds how many of each revision there were."""

    def __init__(self):
        import jsonschema  # Only here: what runs between a client and its server needs no packages.

        def definitions(revision):
            schema = json.loads((SCHEMAS / f"{revision}.json").read_text())
            place = "$defs" if "$defs" in schema else "definitions"
            if revision == MODERN:
                schema[place] |= json.loads((SCHEMAS / "tasks.json").read_text())["$defs"]
                schema[place]["ServerNotification"]["anyOf"].append({"$ref": "#/$defs/TaskNotification"})
            return schema["$schema"], place, schema[place]

        self.schemas = {revision: definitions(revision) for revision in REVISIONS}
        self.results = json.loads((SCHEMAS / "results.json").read_text())
        self.validator = jsonschema.validators.validator_for
        self.compiled = {}
        self.count, self.complaints = collections.Counter(), []

    def wrong(self, revision, name, value):
        if (revision, name) not in self.compiled:
            dialect, place, known = self.schemas[revision]
            schema = {"$schema": dialect, "$ref": f"#/{place}/{name}", place: known}
            self.compiled[revision, name] = self.validator(schema)(schema) if name in known else None
        validator = self.compiled[revision, name]
        if validator is None:
            return f"{revision} has no {name}"
        return "; ".join(f"{name} of {revision}: {error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value))

    def type_of(self, revision, message, method):
        """What the message has to be, and which part of it."""
        known = self.schemas[revision][2]
        if "method" in message:
            kinds = known["ServerRequest" if "id" in message else "ServerNotification"]["anyOf"]
            names = (kind["$ref"].rsplit("/", 1)[1] for kind in kinds)
            of = (name for name in names if known[name]["properties"]["method"]["const"] == message["method"])
            return next(of, message["method"]), message
        if "error" in message:
            return next(name for name in ("JSONRPCErrorResponse", "JSONRPCError") if name in known), message
        if method not in self.results:
            return f"answer to {method}", message
        other = {"input_required": "InputRequiredResult", "task": "CreateTaskResult"}
        return other.get(message["result"].get("resultType"), self.results[method]), message["result"]

    def check(self, revision, message, method):
        name, part = self.type_of(revision, message, method)
        envelope = next(name for name in ("JSONRPCResultResponse", "JSONRPCResponse") if name in self.schemas[revision][2])
        complaint = self.wrong(revision, name, part) or ("result" in message and self.wrong(revision, envelope, message))
        self.count[revision] += 1
        if complaint:
            self.complaints.append(f"{complaint}\nin {json.dumps(message)[:1000]}")

    def talk(self, sent, heard, revision=None):
        """Checks what one client heard, given what it sent; returns the revision that was agreed on."""
        asked = {}
        for message in sent:
            meta = (message.get("params") or {}).get("_meta") or {}
            named = meta.get("io.modelcontextprotocol/protocolVersion")
            asked[str(message.get("id"))] = message.get("method"), named if named in REVISIONS else None
        for message in heard:
            method, named = asked.get(str(message.get("id")), (None, None)) if "method" not in message else (None, None)
            if method == "initialize" and "result" in message:
                revision = message["result"]["protocolVersion"]
            self.check(named or revision or MODERN, message, method)
        return revision

    def pipes(self, folder):
        for sent in pathlib.Path(folder).glob("*.sent"):
            lines = [sent.read_bytes(), sent.with_suffix(".heard").read_bytes()]
            self.talk(*([message for line in part.splitlines() for message in parsed(line)] for part in lines))

    def http(self, connections):
        """The requests of a session may come over many connections, and an answer over another than its request."""
        sessions = {}
        exchanges = [pair for sent, heard in connections for pair in zip(http(bytes(sent)), http(bytes(heard)))]
        for (start, head, body), (_, answer, text) in exchanges:
            kind, heard = answer.get("content-type", ""), []
            place = re.search(r"sessionId=(\w+)", start)
            if kind == "text/event-stream":
                for name, data in events(text):
                    if name == "endpoint":
                        place = re.search(r"sessionId=(\w+)", data)
                    else:
                        heard += parsed(data)
            elif kind == "application/json":
                heard = parsed(text)
            key = place[1] if place else answer.get("mcp-session-id") or head.get("mcp-session-id") or object()
            session = sessions.setdefault(key, ([], []))
            session[0].extend(parsed(body))
            session[1].extend(heard)
        for sent, heard in sessions.values():
            # What `initialize` settled comes first, whichever connection it came over.
            begins = [message for message in heard if "protocolVersion" in message.get("result", {})]
            self.talk(sent, heard, next((message["result"]["protocolVersion"] for message in begins), None))


def check(folder, connections):
    """What was wrong with what was kept, and how many messages there were of each revision."""
    planted = Checker()
    planted.talk([{"id": 1, "method": "tools/list"}], [{"jsonrpc": "2.0", "id": 1, "result": {"tools": 7}}])
    assert planted.complaints, "a wrong message is not noticed"
    checker = Checker()
    checker.pipes(folder)
    checker.http(connections)
    return checker.complaints, checker.count


if __name__ == "__main__":
    sys.exit(pipes(sys.argv[1], sys.argv[2:]))
