"""An authorization server for the tests, small but whole: discovery (RFC 8414, OpenID Connect), clients that register (RFC 7591) or are
known by their documents, codes with PKCE, resource indicators (RFC 8707), `iss` in what it answers (RFC 9207), refresh tokens for one use,
keys that follow each other. It knows nothing of Baton.

Whoever plays the browser gets the sign-in page and says who signs in and what is allowed: `Issuer.sign_in`.
"""

import base64
import hashlib
import http.server
import json
import secrets
import threading
import time
import urllib.parse
import urllib.request

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

PAGE = '<form method="post" action="/sign-in"><input type="hidden" name="request" value="{}">Who are you? <input name="user"></form>'


class Refusal(Exception):
    """What RFC 6749 §4.1.2.1 and §5.2 call an error."""

    def __init__(self, error, about):
        super().__init__(about)
        self.error = error


def required(condition, error, about):
    if not condition:
        raise Refusal(error, about)


class Key:
    def __init__(self, name):
        self.name = name
        self.private = ec.generate_private_key(ec.SECP256R1())

    def jwk(self):
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key()))
        return public | {"kid": self.name, "use": "sig", "alg": "ES256"}

    def sign(self, claims):
        return jwt.encode(claims, self.private, "ES256", headers={"kid": self.name, "typ": "at+jwt"})


class Issuer:
    """On a port of its own. `documents` are the client metadata documents that the web has, by URL; with some, clients can't register.

    A token that a sign-in yields is good for `lifetime` seconds, less the `leeway` that its reader may give; one that is refreshed, for an
    hour. `ends` is when the last one of a sign-in does. `asked` is what clients did, in order: (what, its parameters), refusals among it.
    """

    def __init__(self, scopes, documents=None, lifetime=3600, leeway=0):
        self.scopes, self.documents, self.lifetime, self.leeway = scopes, documents or {}, lifetime, leeway
        self.keys = [Key("first"), Key("second")]
        self.clients, self.requests, self.codes, self.refreshes = {}, {}, {}, {}
        self.asked, self.ends = [], 0
        self.lock = threading.Lock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def rotate(self):
        """Signs with the next key from now on. That one was published before, as readers expect."""
        self.keys = [*self.keys[1:], Key(secrets.token_hex(4))]

    def metadata(self):
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": self.scopes,
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "authorization_response_iss_parameter_supported": True,
            "client_id_metadata_document_supported": bool(self.documents),
        } | ({} if self.documents else {"registration_endpoint": f"{self.url}/register"})

    def register(self, wanted):
        required(wanted.get("redirect_uris"), "invalid_redirect_uri", "a client has a redirect URI")
        method = wanted.get("token_endpoint_auth_method") or "none"
        required(method == "none", "invalid_client_metadata", "clients are public")
        client = {
            "client_id": secrets.token_hex(8),
            "client_id_issued_at": int(time.time()),
            "client_name": wanted.get("client_name", ""),
            "redirect_uris": wanted["redirect_uris"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
        self.clients[client["client_id"]] = client
        self.asked.append(("register", client))
        return client

    def client(self, name):
        """A client that registered, or whose name is where its document is."""
        document = self.documents.get(name)
        required(document is None or document["client_id"] == name, "invalid_client", "the document is another client's")
        found = document or self.clients.get(name)
        required(found, "invalid_client", f"there is no client {name!r}")
        return found

    def authorize(self, query):
        """The sign-in page. Who is sent back where is certain before anything else is looked at."""
        client = self.client(query.get("client_id"))
        required(query.get("redirect_uri") in client["redirect_uris"], "invalid_request", "the redirect URI is not the client's")
        required(query.get("response_type") == "code", "unsupported_response_type", "there are codes")
        required(query.get("code_challenge_method") == "S256" and query.get("code_challenge"), "invalid_request", "PKCE is missing")
        required(query.get("state"), "invalid_request", "state is missing")
        required(query.get("resource"), "invalid_target", "for which resource?")
        wanted = query.get("scope", "").split()
        required(set(wanted) <= set(self.scopes), "invalid_scope", f"there is no such scope among {wanted}")
        request = secrets.token_urlsafe(16)
        self.requests[request] = query
        self.asked.append(("authorize", query))
        return PAGE.format(request)

    def answer(self, form):
        """Where the browser is sent when `user` has signed in and allowed some of what is wanted."""
        query = self.requests.pop(form["request"])
        code = secrets.token_urlsafe(16)
        granted = [scope for scope in query.get("scope", "").split() if scope in form["allow"].split()]
        self.codes[code] = {"query": query, "user": form["user"], "scopes": granted}
        back = urllib.parse.urlencode({"code": code, "state": query["state"], "iss": self.url})
        return f"{query['redirect_uri']}?{back}"

    def token(self, form):
        grant = form.get("grant_type")
        if grant == "authorization_code":
            given = self.codes.pop(form.get("code"), None)
            required(given, "invalid_grant", "there is no such code, or it was used")
            query = given["query"]
            for name in ("client_id", "redirect_uri"):
                required(form.get(name) == query[name], "invalid_grant", f"{name} is another one than before")
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            required(challenge == query["code_challenge"], "invalid_grant", "the code verifier does not fit")
            granted = {"client": query["client_id"], "resource": query["resource"], "user": given["user"], "scopes": given["scopes"]}
            lifetime = self.lifetime
            self.ends = time.time() + lifetime
        else:
            required(grant == "refresh_token", "unsupported_grant_type", f"there is no grant {grant!r}")
            granted = self.refreshes.pop(form.get("refresh_token"), None)
            required(granted, "invalid_grant", "there is no such refresh token, or it was used")
            required(form.get("client_id") == granted["client"], "invalid_grant", "the refresh token is another client's")
            lifetime = 3600
        self.client(granted["client"])
        required(form.get("resource") == granted["resource"], "invalid_target", "the resource is another one than before")
        self.asked.append((grant, granted))
        return self.tokens(granted, lifetime)

    def tokens(self, granted, lifetime):
        """Tokens for what was `granted`: client, resource, user, scopes."""
        now = time.time()
        claims = {
            "iss": self.url,
            "sub": granted["user"],
            "aud": granted["resource"],
            "client_id": granted["client"],
            "scope": " ".join(granted["scopes"]),
            "iat": int(now) - self.leeway,
            "exp": int(now + lifetime) - self.leeway,
            "jti": secrets.token_hex(8),
        }
        refresh = secrets.token_urlsafe(24)
        self.refreshes[refresh] = granted
        return {
            "access_token": self.keys[0].sign(claims),
            "token_type": "Bearer",
            "expires_in": lifetime,
            "scope": claims["scope"],
            "refresh_token": refresh,
        }

    def sign_in(self, url, user, allow):
        """Plays the browser and its user: where the sign-in that begins at `url` leads back to."""
        with urllib.request.urlopen(url, timeout=20) as page:
            request = page.read().decode().split('name="request" value="')[1].split('"')[0]
        form = urllib.parse.urlencode({"request": request, "user": user, "allow": " ".join(allow)}).encode()

        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        try:
            urllib.request.build_opener(Stay).open(f"{self.url}/sign-in", form, timeout=20)
        except urllib.error.HTTPError as found:
            assert found.code == 302, found.read()
            return found.headers["location"]
        raise AssertionError("the browser was not sent back")

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def _handler(issuer):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path, _, query = self.path.partition("?")
                self.serve({
                    "/.well-known/oauth-authorization-server": lambda: (200, issuer.metadata()),
                    "/.well-known/openid-configuration": lambda: (200, issuer.metadata()),
                    "/keys": lambda: (200, {"keys": [key.jwk() for key in issuer.keys]}),
                    "/authorize": lambda: (200, issuer.authorize(self.read(query))),
                }.get(path))

            def do_POST(self):
                text = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                self.serve({
                    "/register": lambda: (201, issuer.register(json.loads(text))),
                    "/sign-in": lambda: (302, issuer.answer(dict(urllib.parse.parse_qsl(text)))),
                    "/token": lambda: (200, issuer.token(self.read(text))),
                }.get(self.path))

            def read(self, form):
                pairs = urllib.parse.parse_qsl(form, keep_blank_values=True, strict_parsing=True)
                required(len(dict(pairs)) == len(pairs), "invalid_request", "a parameter is there twice")
                return dict(pairs)

            def serve(self, what):
                with issuer.lock:
                    try:
                        status, body = what() if what else (404, {"error": "not_found"})
                    except Refusal as refusal:
                        status, body = 400, {"error": refusal.error, "error_description": str(refusal)}
                        issuer.asked.append(("refused", body))
                self.send_response(status)
                if status == 302:
                    self.send_header("location", body)
                    body = ""
                kind = "text/html" if isinstance(body, str) else "application/json"
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                for name, value in (("content-type", kind), ("content-length", str(len(data))), ("cache-control", "no-store")):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        return Handler
