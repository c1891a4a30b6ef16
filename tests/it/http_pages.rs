//! What browsers need to know before a page of another origin may call, for every route; and what every answer says of itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use baton::config::{Auth, Settings};
use reqwest::Method;

use crate::support::http::{Answer, HttpServer};
use crate::support::tls::Authority;

/// What clients of MCP in browsers send, besides what every page may.
const SENT: &str = "authorization,content-type,last-event-id,mcp-method,mcp-name,mcp-param-task,mcp-protocol-version,\
                    mcp-session-id,traceparent,tracestate,x-api-key,x-tenant-id";

/// A server that asks who somebody is, and that pages of these origins may call.
async fn open_to(origins: &[&str]) -> HttpServer {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    let builder = HttpServer::builder().settings(|settings| {
        settings.auth = vec![Auth::Keys];
        settings.allowed_origins = origins;
        settings.cors_max_age = Some(60);
    });
    builder.start().await
}

/// Every way in: what the catalogue has, and what is beside it.
fn routes(server: &HttpServer) -> Vec<(Method, String)> {
    let ops = server.app.catalog.ops().iter();
    let ours = ops.flat_map(|op| op.routes.iter().map(|route| (route.method, route.path)));
    let mcp = ["/mcp", "/t/acme/mcp"].into_iter();
    let mcp = mcp.flat_map(|path| ["GET", "POST", "DELETE"].map(|method| (method, path)));
    let others = [
        ("GET", "/sse"),
        ("POST", "/messages"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/health"),
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/nothing"),
    ];
    let all = ours.chain(mcp).chain(others);
    all.map(|(method, path)| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let path = path.replace('{', "a").replace('}', "");
        (method, path)
    })
    .collect()
}

/// What holds of every answer, whoever asked.
#[track_caller]
fn says_what_it_is(answer: &Answer, about: &str) {
    assert_eq!(
        answer.header("x-content-type-options"),
        "nosniff",
        "{about}"
    );
    assert!(answer.header("vary").contains("origin"), "{about}");
    assert!(!answer.header("cache-control").is_empty(), "{about}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_call_every_route_from_origins_that_may_and_from_no_other() {
    let server = open_to(&["https://app.example.com"]).await;
    let everybodys = open_to(&["*"]).await;
    let own = format!("http://{}", server.address);
    let theirs = "https://evil.example";
    for (method, path) in routes(&server) {
        for (server, origin, allowed) in [
            (
                &server,
                "https://app.example.com",
                Some("https://app.example.com"),
            ),
            (
                &server,
                "http://localhost:6274",
                Some("http://localhost:6274"),
            ),
            (&server, &own, Some("")),
            (&server, theirs, None),
            (&server, "https://app.example.com:444", None),
            (&server, "null", None),
            (&everybodys, theirs, Some("*")),
            (&everybodys, "null", Some("*")),
        ] {
            let about = format!("{method} {path} from {origin}");
            let asked = server
                .request(Method::OPTIONS, &path)
                .header("origin", origin)
                .header("access-control-request-method", method.as_str())
                .header("access-control-request-headers", SENT);
            let asked = Answer::of(asked).await;
            let call = server
                .request(method.clone(), &path)
                .header("origin", origin);
            let called = Answer::of(call).await;
            for answer in [&asked, &called] {
                says_what_it_is(answer, &about);
                let told = answer.header("access-control-allow-origin");
                assert_eq!(told, allowed.unwrap_or_default(), "{about}");
                assert_eq!(
                    answer.header("access-control-allow-credentials"),
                    "",
                    "{about}"
                );
            }
            match allowed {
                None => {
                    asked.is_problem(403, "origin_not_allowed");
                    called.is_problem(403, "origin_not_allowed");
                }
                // A browser asks nothing before it calls the page's own server.
                Some("") => assert_ne!(called.body["code"], "origin_not_allowed", "{about}"),
                Some(_) => {
                    assert_eq!(asked.status, 204, "{about}: {}", asked.text);
                    let methods = asked.header("access-control-allow-methods");
                    assert!(
                        methods.split(", ").any(|name| name == method.as_str()),
                        "{about}"
                    );
                    assert_eq!(
                        asked.header("access-control-allow-headers"),
                        SENT,
                        "{about}"
                    );
                    assert_eq!(asked.header("access-control-max-age"), "60", "{about}");
                    let shown = called.header("access-control-expose-headers");
                    for header in ["mcp-session-id", "www-authenticate", "retry-after"] {
                        assert!(shown.contains(header), "{about}: {shown}");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_come_in_is_told_so_where_the_page_can_read_it() {
    let server = open_to(&["https://app.example.com"]).await;
    let request = server.request(Method::GET, "/api/v1/tasks");
    let answer = Answer::of(request.header("origin", "https://app.example.com")).await;
    answer.is_problem(401, "credential_required");
    assert!(!answer.header("www-authenticate").is_empty());
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://app.example.com"
    );
    // Not a preflight: nothing was said of what is to be sent.
    let request = server.request(Method::OPTIONS, "/health");
    let answer = Answer::of(request.header("origin", "https://app.example.com")).await;
    answer.is_problem(405, "method_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_nowhere_and_the_page_tells_nobody_where_it_was() {
    let server = HttpServer::start().await;
    for path in ["/health", "/api/v1/tasks", "/mcp", "/nothing"] {
        let answer = server.get(path).await;
        says_what_it_is(&answer, path);
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
    let page = server.get("/docs").await;
    says_what_it_is(&page, "/docs");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    let policy = page.header("content-security-policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for tag in ["style", "script"] {
        let (_, rest) = page.text.split_once(&format!("<{tag}>")).unwrap();
        let (text, rest) = rest.split_once(&format!("</{tag}>")).unwrap();
        let hash = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
        assert!(
            policy.contains(&format!("{tag}-src 'sha256-{hash}'")),
            "{tag}"
        );
        assert!(!rest.contains(&format!("<{tag}")), "one {tag} alone");
    }
    let refused = server
        .request(Method::GET, "/health")
        .header("host", "evil.example");
    says_what_it_is(&Answer::of(refused).await, "a foreign host");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_to_come_back_over_tls_but_for_loopback() {
    let allow = |settings: &mut Settings| {
        settings.allowed_hosts = vec!["baton.example.com".into()];
    };
    let authority = Authority::new();
    let shown = authority.sign();
    let builder = HttpServer::builder().tls(authority, &shown);
    let securely = builder.settings(allow).start().await;
    let plainly = HttpServer::builder().settings(allow).start().await;
    for (server, host, is_told) in [
        (&securely, "baton.example.com", true),
        (&securely, "localhost", false),
        (&securely, "evil.example", false),
        (&plainly, "baton.example.com", false),
    ] {
        let request = server.request(Method::GET, "/docs").header("host", host);
        let answer = Answer::of(request).await;
        let told = answer.header("strict-transport-security");
        assert_eq!(!told.is_empty(), is_told, "{host}: {told}");
    }
}
