#!/usr/bin/env python3
"""Plays files in object stores through the real binary against emulators: run.py BINARY [WORD]

S3 is moto, which checks signatures here; Azure is Azurite, which always does. Of Google's XML API no registry has an emulator that is
kept up: tests/it/resources_stores.rs plays it against a stand-in of our own. WORD keeps the cases whose name holds it.
BATON_TEST_STORES (an interpreter with moto) and BATON_TEST_AZURITE (Azurite's program for Node) are set by test.sh.
"""

import base64
import contextlib
import datetime
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))
from server import Server  # noqa: E402

ACCOUNT = "devstoreaccount1"
# What Azurite is known to open with, on every machine.
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
ODD = "a b+c%20ü#1?&=.txt"

# Makes a user, what he may do and his bucket in moto, before it asks who calls; prints his key.
PREPARE = """
import boto3, json, sys
at = {"endpoint_url": sys.argv[1], "region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
iam, s3 = boto3.client("iam", **at), boto3.client("s3", **at)
iam.create_user(UserName="baton")
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="baton", PolicyName="all", PolicyDocument=json.dumps(policy))
s3.create_bucket(Bucket="acme-data")
key = iam.create_access_key(UserName="baton")["AccessKey"]
print(json.dumps({"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}))
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def program(command, port, **extra):
    """A program that listens on a port, until the block ends."""
    process = subprocess.Popen(
        list(map(str, command)), env=os.environ | extra, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Metadata(http.server.BaseHTTPRequestHandler):
    """Stands where machines tell about themselves, and writes down who asks."""

    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    do_PUT = do_POST = do_GET

    def log_message(self, *_):
        pass


class Baton:
    def __init__(self, url):
        self.url = url

    def call(self, method, path, body=None):
        """The answer, or the code and the text of the refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refusal:
            text = refusal.read().decode()
            return {"refused": json.loads(text)["code"], "said": text}

    def register(self, name, uri, metadata):
        body = {"resource_id": name, "type": "file_storage", "uri": uri, "access_permissions": ["read", "write"], "metadata": metadata}
        answer = self.call("POST", "/api/v1/resources", body)
        assert "refused" not in answer, answer
        return Files(self, name)

    def secret(self, name, value):
        text = value if isinstance(value, str) else json.dumps(value)
        answer = self.call("POST", "/api/v1/secrets", {"name": name, "value": text})
        assert "refused" not in answer, answer
        return {"auth": {"secret": name}}


class Files:
    def __init__(self, baton, name):
        self.baton, self.path = baton, f"/api/v1/resources/{name}/content"

    def read(self, path="", **more):
        return self.baton.call("GET", f"{self.path}?{urllib.parse.urlencode({'path': path} | more)}")

    def write(self, path, **what):
        return self.baton.call("POST", self.path, {"path": path} | what)

    def put(self, path, **what):
        """How many bytes were written."""
        answer = self.write(path, **what)
        assert "refused" not in answer, (path, answer)
        return answer.get("bytes")

    def names(self, path=""):
        found = self.read(path)
        assert "entries" in found, (path, found)
        return [entry["path"] for entry in found["entries"]]


def story(files):
    """All that a folder can do."""
    assert files.names() == []
    assert files.put("guides/a.md", text="Grüße") == 7
    assert files.put("guides/deep/b.json", text="{}") == 2
    assert files.put("logo.png", blob="AAEC/w==") == 4
    assert files.put("empty", text="") == 0
    assert files.put(ODD, text="odd") == 3
    assert files.names() == sorted([ODD, "empty", "guides/", "logo.png"]), files.names()
    assert files.names("guides/") == ["guides/a.md", "guides/deep/"]
    listed = files.read("guides")["entries"]
    assert listed[0]["bytes"] == 7 and listed[0]["modified_at"] and "modified_at" not in listed[1], listed
    found = files.read("guides/a.md")
    assert (found["text"], found["mime_type"], found["bytes"]) == ("Grüße", "text/markdown", 7), found
    assert found["modified_at"] > "2024"
    part = files.read("guides/a.md", offset=0, length=3)
    assert (part["text"], part["next_offset"], part["bytes"]) == ("Gr", 2, 7), part
    rest = files.read("guides/a.md", offset=2)
    assert rest["text"] == "üße" and "next_offset" not in rest, rest
    assert files.read("guides/a.md", offset=7)["text"] == "" and files.read("empty")["text"] == ""
    assert files.read("logo.png")["blob"] == "AAEC/w==" and files.read(ODD)["text"] == "odd"
    assert files.put("guides/a.md", text="Hi") == 2 and files.read("guides/a.md")["text"] == "Hi"
    big = "x" * 900_000
    assert files.put("big.txt", text=big) == len(big)
    assert files.read("big.txt", length=1_048_576)["text"] == big
    for path in ("big.txt", "guides/a.md", "guides/deep/b.json", "logo.png", "empty", ODD):
        assert "refused" not in files.write(path, remove=True), path
    assert files.names() == []
    for gone in ("guides/a.md", "guides", "nothing"):
        assert files.read(gone)["refused"] == "unknown_file", gone
        assert files.write(gone, remove=True)["refused"] == "unknown_file", gone
    for out in ("../x", "a/../../x", "/x", "a//b", "a\\b", "a\0b"):
        assert files.read(out)["refused"] == "invalid_input", out
        assert files.write(out, text="x")["refused"] == "invalid_input", out


class World:
    def __init__(self, baton, s3, azure, key):
        self.baton, self.s3, self.azure, self.key = baton, s3, azure, key


def s3_files(world):
    terms = world.baton.secret("s3", world.key) | {"endpoint": world.s3, "region": "eu-central-1"}
    story(world.baton.register("s3-files", "s3://acme-data/files", terms))
    # One prefix is not in another, not even in one that it begins like.
    inner = world.baton.register("s3-inner", "s3://acme-data/one", terms)
    assert inner.put("x", text="1") == 1
    assert world.baton.register("s3-other", "s3://acme-data/on", terms).names() == []
    assert world.baton.register("s3-whole", "s3://acme-data", terms).names() == ["one/"]
    assert inner.write("x", remove=True)


def s3_says_what_is_wrong(world):
    wrong = world.key | {"secret_access_key": "hunter2-hunter2"}
    files = world.baton.register("s3-wrong", "s3://acme-data/x", world.baton.secret("wrong", wrong) | {"endpoint": world.s3})
    refused = files.read("a")
    assert refused["refused"] == "remote_error" and "403" in refused["said"], refused
    listed = files.read()
    assert "SignatureDoesNotMatch" in listed["said"], listed
    assert "hunter2" not in str((refused, listed)) and world.key["access_key_id"] not in str((refused, listed))
    terms = world.baton.secret("s3", world.key) | {"endpoint": world.s3}
    missing = world.baton.register("s3-missing", "s3://nobodys-bucket/x", terms).read()
    assert missing["refused"] == "remote_error" and "NoSuchBucket" in missing["said"], missing


def nobody_lends_credentials(world):
    """The process has a good key in its environment and in its home; who names no secret is nobody."""
    files = world.baton.register("s3-nobody", "s3://acme-data/files", {"endpoint": world.s3})
    assert files.read()["refused"] == "remote_error", files.read()
    assert files.write("x", text="x")["refused"] == "remote_error"
    for uri in ("gs://acme-data/x", f"az://{ACCOUNT}/box"):
        files = world.baton.register("nobody", uri, {"endpoint": f"{world.s3 if uri[0] == 'g' else world.azure}"})
        assert files.read()["refused"] == "remote_error", (uri, files.read())
    assert Metadata.asked == [], Metadata.asked


def azure_files(world):
    endpoint = {"endpoint": world.azure}
    terms = world.baton.secret("azure", {"account_key": ACCOUNT_KEY}) | endpoint
    story(world.baton.register("az-files", f"az://{ACCOUNT}/box/files", terms))
    wrong = base64.b64encode(b"hunter2").decode()
    files = world.baton.register("az-wrong", f"az://{ACCOUNT}/box", world.baton.secret("az-wrong", {"account_key": wrong}) | endpoint)
    refused = files.read()
    assert refused["refused"] == "remote_error" and "AuthorizationFailure" in refused["said"], refused
    assert wrong not in refused["said"]
    shared = world.baton.secret("shared", {"sas_token": sas()}) | endpoint
    shared = world.baton.register("az-shared", f"az://{ACCOUNT}/box/shared", shared)
    assert shared.put("a", text="1") == 1 and shared.read("a")["text"] == "1"


CASES = [s3_files, s3_says_what_is_wrong, nobody_lends_credentials, azure_files]


def sign(text):
    key = base64.b64decode(ACCOUNT_KEY)
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def make_container(azure, name):
    date, version = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"), "2021-12-02"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    head = {"x-ms-date": date, "x-ms-version": version, "authorization": f"SharedKey {ACCOUNT}:{sign(text)}", "content-length": "0"}
    request = urllib.request.Request(f"{azure}/{name}?restype=container", headers=head, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def sas():
    """A signature for the account that ends tomorrow: read, write, delete and list what is in containers."""
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sp": "rwdlc", "ss": "b", "srt": "co", "st": "", "se": until, "sip": "", "spr": "https,http", "sv": "2021-12-02", "ses": ""}
    signature = sign("\n".join([ACCOUNT, *fields.values(), ""]))
    return "?" + urllib.parse.urlencode({name: value for name, value in fields.items() if value} | {"sig": signature})


def lent(home, key, metadata):
    """Credentials where the libraries of the clouds look for some, and machines that would tell more."""
    (home / ".aws").mkdir()
    text = f"[default]\naws_access_key_id = {key['access_key_id']}\naws_secret_access_key = {key['secret_access_key']}\n"
    (home / ".aws" / "credentials").write_text(text)
    account = {"type": "service_account", "client_email": "a@b", "private_key": "", "private_key_id": "", "disable_oauth": True}
    (home / "google.json").write_text(json.dumps(account))
    return {
        "AWS_ACCESS_KEY_ID": key["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": key["secret_access_key"],
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{metadata}/ecs",
        "GCE_METADATA_HOST": metadata.removeprefix("http://"),
        "GOOGLE_APPLICATION_CREDENTIALS": str(home / "google.json"),
        "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        "IDENTITY_ENDPOINT": f"{metadata}/msi",
    }


def main():
    binary, word = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    passed = failed = 0
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="baton-stores-")))
        python, port = os.environ["BATON_TEST_STORES"], free_port()
        moto = [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        s3 = stack.enter_context(program(moto, port, INITIAL_NO_AUTH_ACTION_COUNT="4"))
        port = free_port()
        azurite = [os.environ.get("BATON_TEST_NODE", "node"), os.environ["BATON_TEST_AZURITE"], "--inMemoryPersistence", "--silent"]
        azurite += ["--blobHost", "127.0.0.1", "--blobPort", port, "--skipApiVersionCheck", "--disableTelemetry"]
        azure = f"{stack.enter_context(program(azurite, port))}/{ACCOUNT}"
        made = subprocess.run([python, "-c", PREPARE, s3], check=True, capture_output=True, text=True)
        key = json.loads(made.stdout)
        make_container(azure, "box")
        metadata = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
        threading.Thread(target=metadata.serve_forever, daemon=True).start()
        stack.callback(metadata.shutdown)
        os.environ.update(lent(home, key, f"http://127.0.0.1:{metadata.server_port}"))
        server = stack.enter_context(Server(binary, home, "--outbound-allow", "127.0.0.1"))
        world = World(Baton(server.url), s3, azure, key)
        for case in CASES:
            if word not in case.__name__:
                continue
            started = time.monotonic()
            try:
                case(world)
                passed += 1
                print(f"ok {case.__name__} {time.monotonic() - started:.1f} s", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {case.__name__}\n{traceback.format_exc()}{server.tail(10)}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
