//! HTTP over TLS: both versions of it and of TLS, MCP in every way, pairs that change, clients that do not behave, and that
//! what is bounded without TLS is bounded with it.

use std::path::PathBuf;

use axum::body::Body;
use axum::http::{Request, Version};
use baton::outbound::{Client as Outbound, Reader};
use baton::tls::PAUSE;
use http_body::Body as _;
use reqwest::Method;
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{Client, Way};
use crate::support::http::HttpServer;
use crate::support::mcp::{MODERN, in_time, modern, until};
use crate::support::tls::{Authority, Connection, Shown};

async fn secure() -> HttpServer {
    let authority = Authority::new();
    let shown = authority.sign();
    HttpServer::builder().tls(authority, &shown).start().await
}

/// The next piece of a body as text.
async fn piece(body: &mut hyper::body::Incoming) -> String {
    let next = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
    let frame = in_time(next).await.expect("a piece").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

/// A request as a modern client of MCP sends it.
fn request(server: &HttpServer, version: Version, method: &str, params: Value) -> Request<Body> {
    let authority = server.address;
    let uri = match version {
        Version::HTTP_2 => format!("https://{authority}/mcp"),
        _ => "/mcp".to_owned(),
    };
    let mut request = Request::post(uri)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method);
    if version != Version::HTTP_2 {
        request = request.header("host", authority.to_string());
    }
    if let Some(name) = params["name"].as_str() {
        request = request.header("mcp-name", name);
    }
    let message = modern(method, params).to_string();
    request.body(message.into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_carry_calls_and_streams() {
    let server = secure().await;
    for (number, (offered, agreed, version)) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..]), Version::HTTP_2),
        (&["h2"], Some(b"h2"), Version::HTTP_2),
        (&["http/1.1"], Some(b"http/1.1"), Version::HTTP_11),
        (&[], None, Version::HTTP_11),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = server.connect(offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offered:?}");
        let mut listener = Connection::over(stream).await;
        let task = format!("t{number}");
        let uri = format!("baton://tasks/{task}");
        let filter = json!({"notifications": {"resourceSubscriptions": [&uri]}});
        let listen = request(&server, version, "subscriptions/listen", filter);
        let answer = listener.send(listen).await;
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 200));
        let mut events = answer.into_body();
        let acknowledged = piece(&mut events).await;
        assert!(acknowledged.contains("acknowledged"), "{acknowledged}");

        let mut caller = Connection::over(server.connect(offered).await).await;
        let call =
            json!({"name": "task_dispatch", "arguments": {"task_id": task, "description": "x"}});
        let answer = caller
            .send(request(&server, version, "tools/call", call))
            .await;
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 200));
        let body = piece(&mut answer.into_body()).await;
        assert!(body.contains(r#""state":"pending""#), "{body}");
        let told = piece(&mut events).await;
        assert!(told.contains(&uri), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_latest_versions_of_tls_are_spoken() {
    let server = secure().await;
    let authority = server.authority.as_ref().unwrap();
    let cases: [(&[&'static SupportedProtocolVersion], _); 3] = [
        (&[&TLS12, &TLS13], ProtocolVersion::TLSv1_3),
        (&[&TLS13], ProtocolVersion::TLSv1_3),
        (&[&TLS12], ProtocolVersion::TLSv1_2),
    ];
    for (versions, expected) in cases {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let connector = authority.trusted(&[], versions);
        let name = "127.0.0.1".try_into().unwrap();
        let stream = in_time(connector.connect(name, stream)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_is_spoken_over_tls_in_every_way() {
    for way in [Way::HttpModern, Way::HttpLegacy, Way::Sse] {
        let server = secure().await;
        let mut client = Client::open(&server, way).await;
        client.subscribe("baton://tasks/t").await;
        let input = json!({"description": "x", "task_id": "t"});
        let sent = client.call("task_dispatch", input).await;
        let state = &sent["result"]["structuredContent"]["state"];
        assert_eq!(state, "pending", "{way:?}: {sent}");
        let updated = "notifications/resources/updated";
        let heard = client.hear(|message| message["method"] == updated).await;
        assert_eq!(heard["params"]["uri"], "baton://tasks/t", "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pair_is_shown_and_streams_that_are_open_go_on() {
    let authority = Authority::new();
    let [first, second] = [authority.sign(), authority.sign()];
    let builder = HttpServer::builder().foreseeable();
    let server = builder.tls(authority, &first).start().await;
    let mut client = Client::open(&server, Way::HttpLegacy).await;
    client.subscribe("baton://tasks/t").await;
    assert!(first.is_shown(&server.connect(&[]).await));

    second.write(server.home.path());
    until(async || {
        server.app.system.clock().advance(PAUSE);
        second.is_shown(&server.connect(&[]).await)
    })
    .await;
    server.dispatch("/mcp", "t").await;
    let updated = "notifications/resources/updated";
    client.hear(|message| message["method"] == updated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_cant_be_used_leaves_the_old_one() {
    let authority = Authority::new();
    let [first, second] = [authority.sign(), authority.sign()];
    let builder = HttpServer::builder().foreseeable();
    let server = builder.tls(authority, &first).start().await;
    let tls = server.tls.clone().unwrap();
    assert!(!tls.look(), "nothing has changed");
    let halves = Shown {
        key: first.key.clone(),
        ..second.clone()
    };
    let nonsense = Shown {
        cert: "nonsense".into(),
        key: String::new(),
    };
    for broken in [nonsense, halves] {
        broken.write(server.home.path());
        assert!(!tls.look() && !tls.reload());
        assert!(first.is_shown(&server.connect(&[]).await));
    }
    std::fs::remove_file(server.home.path().join("key.pem")).unwrap();
    assert!(!tls.look());
    assert!(first.is_shown(&server.connect(&[]).await));
    second.write(server.home.path());
    assert!(tls.look());
    assert!(second.is_shown(&server.connect(&[]).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_finish_their_handshake_hold_nobody_up() {
    let server = secure().await;
    let mut silent = Vec::new();
    for said in [
        &b""[..],
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        silent.push(stream);
    }
    assert_eq!(server.get("/health").await.status, 200);
    // Neither do they hold up the end.
    in_time(server.stop()).await;
    for mut stream in silent {
        let mut heard = Vec::new();
        let _ = in_time(stream.read_to_end(&mut heard)).await;
        assert!(heard.is_empty(), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_without_tls_or_trust_is_told_so() {
    let server = secure().await;
    for said in [
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = server.raw(said).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        assert!(answer.contains(r#""code":"tls_needed""#), "{answer}");
    }
    let plainly = server.url("").replace("https://", "http://");
    let another = Authority::new().pem();
    let file = server.home.path().join("another.pem");
    std::fs::write(&file, another).unwrap();
    let plain = HttpServer::start().await;
    let not_tls = plain.url("").replace("http://", "https://");
    for (url, trusted, said) in [
        (plainly, None, "call https:// instead"),
        (server.url(""), None, "--ca-cert"),
        (server.url(""), Some(&file), "not trusted"),
        (not_tls, None, "does not speak TLS"),
    ] {
        let client = Outbound::new(&url, None, None, trusted.map(PathBuf::as_path)).unwrap();
        let error = client.get("/health").await.unwrap_err();
        assert!(error.message().contains(said), "{url}: {}", error.message());
    }
    std::fs::write(&file, "nonsense").unwrap();
    let refused = Outbound::new(&server.url(""), None, None, Some(&file)).unwrap_err();
    assert!(
        refused.message().contains("another.pem"),
        "{}",
        refused.message()
    );
    std::fs::write(&file, server.authority.as_ref().unwrap().pem()).unwrap();
    let client = Outbound::new(&server.url(""), None, None, Some(&file)).unwrap();
    assert_eq!(client.get("/health").await.unwrap()["service"], "baton");
    let reader = Reader::new(Some(&file)).unwrap();
    let document: Value = reader.get(&server.url("/openapi.json")).await.unwrap();
    assert_eq!(document["info"]["title"], "Baton");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bounded_without_tls_is_bounded_with_it() {
    let authority = Authority::new();
    let shown = authority.sign();
    let builder = HttpServer::builder().tls(authority, &shown);
    let server = builder
        .settings(|settings| settings.max_connections = Some(1))
        .start()
        .await;
    let mut only = server.connect(&["http/1.1"]).await;
    let mut ask = async |text: String| {
        only.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 16 * 1024];
        let count = in_time(only.read(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let health = ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".into()).await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");

    let mut other = server.connect(&["http/1.1"]).await;
    other.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    let mut answer = String::new();
    in_time(other.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");

    let long = "x".repeat((1 << 20) + 1);
    let head =
        "POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let length = long.len();
    let too_large = ask(format!("{head}Content-Length: {length}\r\n\r\n{long}")).await;
    assert!(too_large.starts_with("HTTP/1.1 413"), "{too_large}");
    drop(only);
    until(async || {
        server
            .request(Method::GET, "/health")
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}
