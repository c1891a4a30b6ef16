"""Does the checker see anything? A proxy between the clients and the real server lies to them, each time in another way; each
lie must be found, under its promise, and without a lie there must be no finding."""

import collections
import http.client
import http.server
import json
import pathlib
import threading
import time
import urllib.parse

import history as histories
from load import OPTIONS, Load
from server import Server
from wire import Http, headers_of, message_of

SECONDS = 2


def call_in(message):
    """The tool and its arguments in a request."""
    return message["params"]["name"], message["params"]["arguments"], message["params"]["_meta"]["dev.baton/tenant"]


def answer_to(message, content):
    result = {"resultType": "complete", "content": [{"type": "text", "text": json.dumps(content)}], "structuredContent": content}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


class Honest:
    """Forwards what comes. A lie overrides `handle`, and counts how often it was told."""

    # The promise under which the lie must be found; none for who does not lie.
    breaks = None

    def __init__(self):
        self.told, self.seen, self.lock = 0, collections.Counter(), threading.Lock()

    def turn(self, what, every):
        """Whether it is time to lie."""
        with self.lock:
            self.seen[what] += 1
            lie = self.seen[what] % every == 0
            self.told += lie
            return lie

    def handle(self, message, forward):
        return forward(message)


class DispatchNeverForwarded(Honest):
    breaks = "every acknowledged dispatch is there, once"

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        if tool == "task_dispatch" and "depends_on" not in given and self.turn(tool, 20):
            return answer_to(message, {"task_id": given["task_id"], "state": "pending", "created": True})
        return forward(message)


class DispatchForwardedTwice(Honest):
    breaks = "nothing is there that nobody dispatched"

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        if tool == "task_dispatch" and self.turn(tool, 20):
            forward(changed(message, {name: value for name, value in given.items() if name != "task_id"}))
        return forward(message)


class ClaimGivenToTwo(Honest):
    breaks = "a task is claimed by one at a time"

    def __init__(self):
        super().__init__()
        self.last = {}

    def handle(self, message, forward):
        tool, _, tenant = call_in(message)
        if tool != "task_claim":
            return forward(message)
        if (last := self.last.pop(tenant, None)) and self.turn(tool, 10):
            return answer_to(message, last)
        answer = forward(message)
        content = answer["result"].get("structuredContent")
        if content and content["tasks"]:
            self.last[tenant] = content
        return answer


class ReportDropped(Honest):
    breaks = "every acknowledged report is there, once"

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        if tool == "task_notify" and given["data"]["progress"] == 0 and self.turn(tool, 20):
            with self.lock:
                number = 1_000_000 + self.told
            made_up = {"state": "in_progress", "notification_id": f"ntf_{number}", "sequence": number}
            return answer_to(message, {"task_id": given["task_id"]} | made_up)
        return forward(message)


class ReportsSwapped(Honest):
    """What the first report says is written by the second call and the other way round."""

    breaks = "a task's reports are in order"

    def __init__(self):
        super().__init__()
        self.other = {}

    def handle(self, message, forward):
        tool, given, tenant = call_in(message)
        if tool != "task_notify" or "notification_id" in given:
            return forward(message)
        key, progress = (tenant, given["lease_token"]), given["data"]["progress"]
        if progress == 0 and self.turn(tool, 10):
            step = given["data"]["current_step"].removesuffix(".0") + ".2"
            self.other[key] = given["data"]
            return forward(changed(message, given | {"data": {"progress": 60, "current_step": step}}))
        if progress == 60 and key in self.other:
            return forward(changed(message, given | {"data": self.other.pop(key)}))
        return forward(message)


class StaleTokenAccepted(Honest):
    breaks = ("a stale token is refused", "nothing is accepted after the end")

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        answer = forward(message)
        if tool == "task_notify" and answer.get("result", {}).get("isError") and self.turn(tool, 2):
            with self.lock:
                number = 1_000_000 + self.told
            made_up = {"state": "in_progress", "notification_id": f"ntf_{number}", "sequence": number}
            return answer_to(message, {"task_id": given["task_id"]} | made_up)
        return answer


class LateEndAccepted(Honest):
    breaks = "a task ends once"

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        answer = forward(message)
        if tool == "task_end" and answer.get("result", {}).get("isError") and self.turn(tool, 2):
            return answer_to(message, {"task_id": given["task_id"], "state": "completed", "attempt": 1, "outcome": "success"})
        return answer


class NumberGivenTwice(Honest):
    breaks = "event numbers follow the order of the answers"

    def handle(self, message, forward):
        tool, _, _ = call_in(message)
        answer = forward(message)
        content = answer.get("result", {}).get("structuredContent")
        if tool == "task_notify" and content and self.turn(tool, 20):
            return answer_to(message, content | {"sequence": content["sequence"] - 10})
        return answer


class OtherEnd(Honest):
    """Another end is forwarded than the one that is acknowledged."""

    breaks = "every acknowledged end is there"

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        if tool == "task_end" and given["reason"] == "success" and self.turn(tool, 20):
            forward(changed(message, given | {"result": {"by": "somebody else"}}))
            return answer_to(message, {"task_id": given["task_id"], "state": "completed", "attempt": 1, "outcome": "success"})
        return forward(message)


class DependencyForgotten(Honest):
    breaks = ("no task is claimed before what it depends on", "every acknowledged dispatch is there, once")

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        if tool == "task_dispatch" and "depends_on" in given:
            with self.lock:
                self.told += 1
            return forward(changed(message, {name: value for name, value in given.items() if name != "depends_on"}))
        return forward(message)


class TenantsMixed(Honest):
    breaks = "nothing of one tenant is told to another"

    def handle(self, message, forward):
        tool, _, tenant = call_in(message)
        if tool == "task_get" and self.turn(tool, 3):
            meta = message["params"]["_meta"] | {"dev.baton/tenant": "zeta" if tenant == "acme" else "acme"}
            return forward(message | {"params": message["params"] | {"_meta": meta}})
        return forward(message)


class LeaseRefused(Honest):
    breaks = "a live lease is honoured"

    def handle(self, message, forward):
        tool, given, _ = call_in(message)
        if tool == "task_notify" and given["data"]["progress"] == 60 and self.turn(tool, 20):
            error = {"error": {"code": "lease_lost", "message": "the lease is over"}}
            result = {"resultType": "complete", "isError": True, "content": [{"type": "text", "text": json.dumps(error)}]}
            return {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return forward(message)


LIES = [
    DispatchNeverForwarded,
    DispatchForwardedTwice,
    ClaimGivenToTwo,
    ReportDropped,
    ReportsSwapped,
    StaleTokenAccepted,
    LateEndAccepted,
    NumberGivenTwice,
    OtherEnd,
    DependencyForgotten,
    TenantsMixed,
    LeaseRefused,
]


def changed(message, arguments):
    return message | {"params": message["params"] | {"arguments": arguments}}


class Proxy(http.server.ThreadingHTTPServer):
    """Reads each call, and lets `liar` say what is answered."""

    daemon_threads = True

    def __init__(self, target, liar):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.liar = urllib.parse.urlsplit(target).netloc, liar
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Two small writes would wait for each other.
    wbufsize, disable_nagle_algorithm = -1, True

    def setup(self):
        super().setup()
        self.upstream = http.client.HTTPConnection(self.server.target, timeout=60)

    def finish(self):
        self.upstream.close()
        super().finish()

    def forward(self, message):
        self.upstream.request("POST", "/mcp", json.dumps(message), headers_of(message["params"]["name"]))
        answer = self.upstream.getresponse()
        return message_of(answer.headers.get_content_type(), answer.read())

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(self.server.liar.handle(message, self.forward)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def judge(binary, place, liar):
    """What the checker says of a load behind the liar."""
    place.mkdir()
    with Server(binary, place, *OPTIONS) as server:
        proxy = Proxy(server.url, liar)
        load = Load(place, lambda: Http(lambda: proxy.url)).start()
        time.sleep(SECONDS)
        load.finish()
        proxy.shutdown()
        found = load.judged(Http(lambda: server.url), histories.log_of_folder(place, load.tenants))
    return {promise: broken for promise, broken in found.items() if broken}, load


def run(binary, data, _kills):
    data = pathlib.Path(data)
    found, load = judge(binary, data / "honest", Honest())
    yield "planted: who is honest is found to be so", [f"{promise}: {broken[0]}" for promise, broken in found.items()]
    yield "planted: there was a load", [] if load.ended > 50 else [str(load)]
    for kind in LIES:
        liar = kind()
        found, _ = judge(binary, data / kind.__name__, liar)
        wanted = kind.breaks if isinstance(kind.breaks, tuple) else (kind.breaks,)
        missed = [
            f"told {liar.told} times, not found under {promise!r}; found: {list(found)}"
            for promise in wanted
            if promise not in found
        ]
        yield f"planted: {kind.__name__} is found", missed if liar.told else ["it was never told"]
