#!/usr/bin/env python3
"""Tokens through a real client, from the first 401 to the whole life of a task: oauth.py BINARY registered|documented COMMAND...

The client, started by COMMAND with the server's URL, finds the authorization server by itself, becomes its client (by registration, or by a
document), has its user sign in, is refused a tool beyond what he allowed, asks him for more, outlives its token, and plays its story. This
script is the user and his browser. It reads lines of JSON: {"open": URL} is answered by the address that the sign-in leads back to,
{"rest": true} by a line once the token has ended, {"before": TOOLS, "after": TOOLS} is the end.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from issuer import Issuer
from server import Server

# By how much Baton lets an issuer's clock differ from its own, and seconds for which the first tokens are good beyond that.
LEEWAY, LIFETIME = 60, 10
READ, ORCHESTRATE, EXECUTE = "tasks:read", "tasks:orchestrate", "tasks:execute"
# What is asked for besides.
MORE = ["memory:read", "memory:write", "resources:read", "resources:write", "tools:call", "tools:write"]
CALLBACK = "http://127.0.0.1:9/callback"
DOCUMENT = "https://client.example/baton-test.json"


def same(what, got, want):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def documents():
    document = {"client_id": DOCUMENT, "client_name": "test", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
    return {DOCUMENT: document}


def status(url, token=None):
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers, refused.read()


def metadata(url, issuer):
    """What a client without a credential is told, at both paths."""
    refused, headers, _ = status(f"{url}/mcp")
    same("status without a token", refused, 401)
    where = f"{url}/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{where}"' in headers["www-authenticate"], headers["www-authenticate"]
    for place in (where, where.removesuffix("/mcp")):
        found, _, body = status(place)
        said = json.loads(body)
        same(place, (found, said["resource"], said["authorization_servers"]), (200, f"{url}/mcp", [issuer.url]))


def play(client, issuer):
    """Answers what the client wants of its user; what it says in the end."""
    allowed = [READ, ORCHESTRATE, "offline_access"]
    for line in client.stdout:
        said = json.loads(line)
        if "open" in said:
            back = issuer.sign_in(said["open"], "ada", allowed)
            # Asked again, he allows all.
            allowed = issuer.scopes
        elif "rest" in said:
            issuer.rotate()
            time.sleep(max(0, issuer.ends + 1.5 - time.time()))
            back = ""
        else:
            return said
        client.stdin.write(f"{back}\n")
        client.stdin.flush()
    raise AssertionError("the client ended early")


def judge(asked, url, is_documented):
    """What the client asked the authorization server for."""
    def all_of(what):
        return [details for kind, details in asked if kind == what]

    same("refusals", all_of("refused"), [])
    same("registrations", len(all_of("register")), 0 if is_documented else 1)
    ordinary = {READ, ORCHESTRATE, EXECUTE}
    wanted = all_of("authorize")
    same("resources", [query["resource"] for query in wanted], [f"{url}/mcp"] * 2)
    # First what the challenge names, which the user does not allow in full; then what he allowed and what is missing.
    same("scopes", [set(query["scope"].split()) & ordinary for query in wanted], [ordinary] * 2)
    granted = [set(grant["scopes"]) & ordinary for grant in all_of("authorization_code")]
    same("granted", granted, [{READ, ORCHESTRATE}, ordinary])
    refreshed = [set(grant["scopes"]) & ordinary for grant in all_of("refresh_token")]
    assert refreshed and refreshed[-1] == ordinary, refreshed


def tokens_for_others(url, issuer):
    """A good token opens what it is for and nothing else."""
    granted = {"client": DOCUMENT, "user": "eve", "scopes": [READ]}
    for resource, expected in ((f"{url}/mcp", 200), (url, 401), ("https://other.example/mcp", 401), (f"{url}/t/acme/mcp", 401)):
        token = issuer.tokens(granted | {"resource": resource}, 600)["access_token"]
        same(f"a token for {resource}", status(f"{url}/api/v1/tasks", token)[0], expected)


def main(binary, registration, *command):
    is_documented = registration == "documented"
    issuer = Issuer(
        [READ, ORCHESTRATE, EXECUTE, *MORE, "offline_access"], documents() if is_documented else None, lifetime=LIFETIME, leeway=LEEWAY
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = ["--auth", "oidc", "--oidc-issuer", issuer.url, "--public-url", url]
    with tempfile.TemporaryDirectory(prefix="baton-oauth-") as folder:
        with Server(binary, pathlib.Path(folder), *settings, listen=f"127.0.0.1:{port}") as server:
            metadata(url, issuer)
            arguments = [*command, f"{url}/mcp", CALLBACK, *([DOCUMENT] if is_documented else [])]
            client = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                said = play(client, issuer)
                same("the client's exit", client.wait(30), 0)
            except BaseException:
                client.kill()
                print(f"the issuer was asked: {issuer.asked}\n{server.tail()}")
                raise
            assert "task_dispatch" in said["before"] and "task_claim" not in said["before"], said
            assert "task_claim" in said["after"] and "key_create" not in said["after"], said
            judge(issuer.asked, url, is_documented)
            tokens_for_others(url, issuer)
    issuer.stop()


main(*sys.argv[1:])
