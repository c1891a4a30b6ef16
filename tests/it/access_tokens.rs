//! Tokens of an authorization server: whose are honoured, for whom and how long, what their claims allow, and where clients
//! learn how to get one. The authorization server is the test's own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use baton::config::Auth;
use reqwest::Method;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::START;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{modern, tool};
use crate::support::sse::Client;

/// The address under which the server is known.
const PUBLIC: &str = "https://baton.example.com";

/// An authorization server.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<std::io::Result<()>>,
}

/// A key pair that signs, and its name.
enum Signer {
    P256(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair, &'static str),
}

impl Signer {
    fn p256(name: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(
            EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap(),
            name,
        )
    }

    fn ed25519(name: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap(), name)
    }

    /// The public half (RFC 7517).
    fn jwk(&self) -> Value {
        match self {
            Self::P256(key, name) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = (BASE64.encode(&point[..32]), BASE64.encode(&point[32..]));
                json!({"kty": "EC", "crv": "P-256", "kid": name, "use": "sig", "alg": "ES256", "x": x, "y": y})
            }
            Self::Ed25519(key, name) => {
                let x = BASE64.encode(key.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": name, "alg": "EdDSA", "x": x})
            }
        }
    }

    /// A token that says `claims`.
    fn token(&self, claims: &Value) -> String {
        let (algorithm, name) = match self {
            Self::P256(_, name) => ("ES256", name),
            Self::Ed25519(_, name) => ("EdDSA", name),
        };
        let header = json!({"typ": "at+jwt", "alg": algorithm, "kid": name});
        self.signed(&header, claims)
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Self::P256(key, _) => {
                let signed = key.sign(&SystemRandom::new(), text.as_bytes());
                BASE64.encode(signed.unwrap().as_ref())
            }
            Self::Ed25519(key, _) => BASE64.encode(key.sign(text.as_bytes()).as_ref()),
        };
        format!("{text}.{signature}")
    }
}

impl Issuer {
    /// One that publishes the keys of `signers`.
    async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = signers.iter().map(|signer| signer.jwk()).collect();
        let keys = Arc::new(Mutex::new(keys));
        let asked = Arc::new(AtomicUsize::new(0));
        let metadata = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
        let (published, count) = (keys.clone(), asked.clone());
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async || metadata))
            .route(
                "/keys",
                get(async move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    json!({"keys": *published.lock().unwrap()}).to_string()
                }),
            );
        let mut serving = JoinSet::new();
        serving.spawn(async { axum::serve(listener, router).await });
        Self {
            url,
            keys,
            asked,
            _serving: serving,
        }
    }

    /// A server that honours its tokens.
    async fn server(&self) -> HttpServer {
        let builder = HttpServer::builder().foreseeable().settings(|settings| {
            settings.auth = vec![Auth::Keys, Auth::Oidc];
            settings.oidc_issuer = Some(self.url.clone());
            settings.public_url = Some(PUBLIC.into());
        });
        builder.start().await
    }

    /// What a good token of ada says, changed by `change`.
    fn claims(&self, change: Value) -> Value {
        let now = START.as_micros() / 1_000_000;
        let mut claims = json!({
            "iss": self.url, "aud": format!("{PUBLIC}/mcp"), "sub": "ada", "tenant": "acme",
            "roles": ["orchestrator"], "iat": now, "exp": now + 3_600,
        });
        for (name, value) in change.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    }
}

/// The status of a list of tasks with `token`.
async fn status(server: &HttpServer, token: &str) -> u16 {
    server.show(token);
    let answer = server.get("/api/v1/tasks").await;
    if answer.status == 401 {
        answer.is_problem(401, "invalid_credential");
    }
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_honoured_when_everything_about_it_is_right() {
    let (signer, other) = (Signer::p256("one"), Signer::ed25519("two"));
    let issuer = Issuer::start(&[&signer, &other]).await;
    let server = issuer.server().await;
    let good = signer.token(&issuer.claims(json!({})));
    assert_eq!(status(&server, &good).await, 200);
    assert_eq!(
        status(&server, &other.token(&issuer.claims(json!({})))).await,
        200
    );
    let now = START.as_micros() / 1_000_000;
    for (change, expected) in [
        (json!({"aud": ["x", format!("{PUBLIC}/mcp")]}), 200),
        (json!({"exp": now - 30}), 200),
        (json!({"nbf": now + 30}), 200),
        (json!({"exp": now - 61}), 401),
        (json!({"exp": null}), 401),
        (json!({"exp": "9999999999"}), 401),
        (json!({"nbf": now + 90}), 401),
        (json!({"nbf": "soon"}), 401),
        (json!({"iss": "https://evil.example"}), 401),
        (json!({"iss": null}), 401),
        (json!({"aud": "https://other.example/mcp"}), 401),
        (json!({"aud": PUBLIC}), 401),
        (json!({"aud": null}), 401),
        (json!({"sub": null}), 401),
        (json!({"sub": ""}), 401),
        (json!({"sub": "a\nb"}), 401),
        (json!({"tenant": "No Tenant"}), 401),
        (json!({"tenant": []}), 401),
    ] {
        let token = signer.token(&issuer.claims(change.clone()));
        assert_eq!(status(&server, &token).await, expected, "{change}");
    }
    let claims = issuer.claims(json!({}));
    let stranger = Signer::p256("one");
    let parts: Vec<&str> = good.split('.').collect();
    let admin = BASE64.encode(issuer.claims(json!({"roles": ["admin"]})).to_string());
    let none = BASE64.encode(r#"{"alg":"none"}"#);
    for forged in [
        stranger.token(&claims),
        signer.signed(&json!({"alg": "HS256", "kid": "one"}), &claims),
        signer.signed(&json!({"alg": "RS256", "kid": "one"}), &claims),
        signer.signed(&json!({"alg": "EdDSA", "kid": "two"}), &claims),
        signer.signed(&json!({"alg": "ES256", "kid": "two"}), &claims),
        format!("{}.{admin}.{}", parts[0], parts[2]),
        format!("{none}.{}.", parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}.x"),
        "..".into(),
        "a".repeat(20_000),
    ] {
        assert_eq!(status(&server, &forged).await, 401, "{forged}");
    }
    server
        .app
        .system
        .clock()
        .advance(Duration::from_secs(3_661));
    assert_eq!(status(&server, &good).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_say_which_tenants_roles_and_scopes() {
    let signer = Signer::p256("one");
    let issuer = Issuer::start(&[&signer]).await;
    let server = issuer.server().await;
    let tools = async |change: Value| {
        server.show(&signer.token(&issuer.claims(change)));
        let listed = server.ask("tools/list", json!({})).await;
        let tools = listed.body["result"]["tools"].as_array().unwrap().clone();
        let names = tools
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let all = tools(json!({"roles": ["admin"]})).await;
    assert!(all.contains(&"key_create".into()) && all.contains(&"task_claim".into()));
    let reads = ["task_get", "task_list", "task_wait"];
    let recalls = ["memory_search", "memory_get", "memory_list"];
    let consults = [
        "resource_list",
        "resource_get",
        "resource_read",
        "resource_query",
    ];
    let observes = tools(json!({"roles": "observer nonsense"})).await;
    assert_eq!(observes, [&reads[..], &recalls, &consults].concat());
    let scoped = json!({"roles": null, "scope": "memory:read"});
    assert_eq!(tools(scoped).await, recalls);
    let scoped = json!({"roles": null, "scope": "openid tasks:read"});
    assert_eq!(tools(scoped).await, reads);
    let narrowed = json!({"roles": ["admin"], "scp": ["tasks:read"]});
    assert_eq!(tools(narrowed).await, reads);
    assert!(tools(json!({"roles": null})).await.is_empty());
    let path = |tenant: &str| format!("/t/{tenant}/api/v1/tasks");
    for (tenant, open) in [
        (json!("acme"), &["acme"][..]),
        (json!(["acme", "globex"]), &["acme", "globex"]),
        (json!("*"), &["acme", "globex", "default"]),
        (Value::Null, &["default"]),
    ] {
        server.show(&signer.token(&issuer.claims(json!({"tenant": tenant}))));
        for name in ["acme", "globex", "default"] {
            let expected = if open.contains(&name) { 200 } else { 400 };
            assert_eq!(
                server.get(&path(name)).await.status,
                expected,
                "{tenant} {name}"
            );
        }
    }
    let several = json!({"tenant": ["acme", "globex"]});
    server.show(&signer.token(&issuer.claims(several)));
    server
        .get("/api/v1/tasks")
        .await
        .is_problem(400, "tenant_required");
    let for_one = json!({"tenant": "*", "aud": format!("{PUBLIC}/t/globex/mcp")});
    server.show(&signer.token(&issuer.claims(for_one)));
    assert_eq!(server.get(&path("globex")).await.status, 200);
    server
        .get(&path("acme"))
        .await
        .is_problem(400, "tenant_conflict");
    let anothers = json!({"aud": format!("{PUBLIC}/t/globex/mcp")});
    assert_eq!(
        status(&server, &signer.token(&issuer.claims(anothers))).await,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_where_to_get_a_token_and_which_scope_it_takes() {
    let signer = Signer::p256("one");
    let issuer = Issuer::start(&[&signer]).await;
    let server = issuer.server().await;
    let list = modern("tools/list", json!({}));
    for (path, resource) in [
        ("/mcp", "/mcp"),
        ("/t/acme/mcp", "/t/acme/mcp"),
        ("/sse", "/mcp"),
    ] {
        let method = if path == "/sse" {
            Method::GET
        } else {
            Method::POST
        };
        let answer = Answer::of(server.request(method, path).json(&list)).await;
        answer.is_problem(401, "credential_required");
        let well_known = format!("/.well-known/oauth-protected-resource{resource}");
        let challenge = answer.header("www-authenticate");
        let expected = format!(
            r#"Bearer realm="baton", resource_metadata="{PUBLIC}{well_known}", scope="tasks:read tasks:orchestrate tasks:execute memory:read memory:write resources:read resources:write tools:call tools:write""#
        );
        assert_eq!(challenge, expected);
        let metadata = server.get(&well_known).await;
        assert_eq!(metadata.status, 200, "{}", metadata.text);
        assert_eq!(metadata.body["resource"], format!("{PUBLIC}{resource}"));
        assert_eq!(metadata.body["authorization_servers"], json!([issuer.url]));
    }
    let root = server.get("/.well-known/oauth-protected-resource").await;
    assert_eq!(root.body["resource"], format!("{PUBLIC}/mcp"));
    let plain = HttpServer::start().await;
    let nothing = plain.get("/.well-known/oauth-protected-resource").await;
    nothing.is_problem(404, "unknown_path");
    let reader = json!({"roles": null, "scope": "tasks:read"});
    server.show(&signer.token(&issuer.claims(reader)));
    let call = modern(
        "tools/call",
        tool("task_dispatch", json!({"description": "x"})),
    );
    is_stepped_up(&Answer::of(server.modern("/mcp", &call)).await);
    let read = modern("tools/call", tool("task_list", json!({})));
    assert_eq!(Answer::of(server.modern("/mcp", &read)).await.status, 200);
}

/// Asserts that the client is told to ask its user for more.
fn is_stepped_up(refused: &Answer) {
    assert_eq!(refused.status, 403, "{}", refused.text);
    let challenge = refused.header("www-authenticate");
    for part in [
        r#"error="insufficient_scope""#,
        r#"scope="tasks:orchestrate""#,
        "resource_metadata=",
    ] {
        assert!(challenge.contains(part), "{challenge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_clients_learn_by_status_too_that_a_token_reaches_no_further() {
    let signer = Signer::p256("one");
    let issuer = Issuer::start(&[&signer]).await;
    let server = issuer.server().await;
    let scoped = |scope: &str| signer.token(&issuer.claims(json!({"roles": null, "scope": scope})));
    server.show(&scoped("tasks:read"));
    let message =
        |tool: Value| json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool});
    let dispatch = message(tool("task_dispatch", json!({"description": "x"})));
    let session = server.session("/mcp", "2025-11-25").await;
    is_stepped_up(&Answer::of(session.request(Method::POST).json(&dispatch)).await);
    let read = session
        .ask("tools/call", tool("task_list", json!({})))
        .await;
    assert!(read["result"]["structuredContent"].is_object(), "{read}");
    let mut older = Client::initialized(&server, "/sse").await;
    is_stepped_up(&older.post(&dispatch).await);
    older.use_tool("task_list", json!({})).await;
    // With more scopes the same session goes on.
    server.show(&scoped("tasks:read tasks:orchestrate"));
    let done = session.ask("tools/call", dispatch["params"].clone()).await;
    assert_eq!(
        done["result"]["structuredContent"]["state"], "pending",
        "{done}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_issuer_change_and_its_absence_is_borne() {
    let (first, second) = (Signer::p256("one"), Signer::p256("two"));
    let issuer = Issuer::start(&[&first]).await;
    let server = issuer.server().await;
    let clock = server.app.system.clock().clone();
    let token = |signer: &Signer| signer.token(&issuer.claims(json!({})));
    assert_eq!(status(&server, &token(&first)).await, 200);
    *issuer.keys.lock().unwrap() = vec![second.jwk()];
    // Whoever sends what nobody has signed does not make us ask each time.
    for _ in 0..5 {
        assert_eq!(status(&server, &token(&second)).await, 401);
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);
    clock.advance(Duration::from_secs(10));
    assert_eq!(status(&server, &token(&second)).await, 200);
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 2);
    assert_eq!(status(&server, &token(&first)).await, 401, "withdrawn");
    let gone = Issuer {
        url: "http://127.0.0.1:9".into(),
        keys: Arc::default(),
        asked: Arc::default(),
        _serving: JoinSet::new(),
    };
    let server = gone.server().await;
    server.show(&first.token(&gone.claims(json!({}))));
    let answer = server.get("/api/v1/tasks").await;
    answer.is_problem(503, "issuer_unreachable");
    assert_eq!(answer.header("retry-after"), "10");
}
