//! What is bounded, what is said past the bound, and that it goes on by itself once there is room: calls that wait,
//! sessions of older clients, listeners, connections.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, in_time, initialize, modern, tool, until};

/// Asserts that there is no room, with when to come back, as HTTP and JSON-RPC say it.
#[track_caller]
fn has_no_room(answer: &Answer, code: &str) {
    let error = &answer.body["error"]["data"]["error"];
    assert_eq!(
        (answer.status, &error["code"]),
        (503, &json!(code)),
        "{}",
        answer.text
    );
    assert_eq!(
        answer.header("retry-after"),
        error["retry_after_seconds"].to_string()
    );
    assert!(error["retry_after_seconds"].as_u64().unwrap() > 0);
}

/// Asks again and again until there is room, which there must be soon after somebody left.
async fn is_let_in(ask: impl Fn() -> RequestBuilder) {
    until(async || ask().send().await.unwrap().status() == 200).await;
}

/// What a tool call that must be refused is refused with.
async fn refused(server: &HttpServer, name: &str, arguments: Value) -> Value {
    let answer = server.ask("tools/call", tool(name, arguments)).await;
    let result = &answer.body["result"];
    assert_eq!(
        (answer.status, &result["isError"]),
        (200, &json!(true)),
        "{}",
        answer.text
    );
    let text = result["content"][0]["text"].as_str().unwrap();
    serde_json::from_str::<Value>(text).unwrap()["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_bounded_and_others_are_not() {
    let server = HttpServer::builder()
        .settings(|settings| settings.max_waiting_calls = Some(1))
        .start()
        .await;
    server
        .use_tool(
            "/mcp",
            "task_dispatch",
            json!({"task_id": "t", "description": "x", "assigned_to": "bob"}),
        )
        .await;
    let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
    let place = ctx.place_to_wait().unwrap();
    for (name, arguments) in [
        ("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50})),
        ("task_claim", json!({"agent_id": "ada", "wait_seconds": 50})),
        (
            "task_run",
            json!({"task_id": "run", "description": "x", "wait_seconds": 50}),
        ),
    ] {
        let error = refused(&server, name, arguments).await;
        assert_eq!(
            (&error["code"], &error["retry_after_seconds"]),
            (&json!("too_many_waiting"), &json!(5)),
            "{name}"
        );
    }
    let unknown = refused(&server, "task_get", json!({"task_id": "run"})).await;
    assert_eq!(
        unknown["code"], "unknown_task",
        "what was refused was not begun"
    );
    let answer = server
        .post(
            "/api/v1/waits",
            &json!({"task_ids": ["t"], "wait_seconds": 50}),
        )
        .await;
    answer.is_problem(503, "too_many_waiting");
    assert_eq!(answer.header("retry-after"), "5");
    for (name, arguments) in [
        ("task_wait", json!({"task_ids": ["t"], "wait_seconds": 0})),
        ("task_claim", json!({"agent_id": "ada"})),
        ("task_claim", json!({"agent_id": "bob", "wait_seconds": 50})),
    ] {
        server.use_tool("/mcp", name, arguments).await;
    }
    drop(place);
    let mut waiting = JoinSet::new();
    let wait = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
    waiting.spawn(Answer::of(
        server.modern("/mcp", &modern("tools/call", wait)),
    ));
    server.until_waiting(1).await;
    server
        .use_tool("/mcp", "task_cancel", json!({"task_id": "t"}))
        .await;
    let answer = in_time(waiting.join_next()).await.unwrap().unwrap();
    assert_eq!(
        answer.body["result"]["structuredContent"]["done"], true,
        "{}",
        answer.text
    );
    assert_eq!(server.app.system.waiting_calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_older_clients_are_bounded() {
    let server = HttpServer::builder()
        .settings(|settings| settings.max_sessions = Some(1))
        .start()
        .await;
    let begin = || Answer::of(server.message("/mcp", &initialize("2025-06-18")));
    let session = server.session("/mcp", "2025-06-18").await;
    has_no_room(&begin().await, "too_many_sessions");
    assert!(session.ask("tools/list", json!({})).await["result"].is_object());
    let ended = Answer::of(session.request(Method::DELETE)).await;
    assert!(ended.status < 300, "{}", ended.text);
    assert_eq!(begin().await.status, 200);
    assert_eq!(
        server.ask("tools/list", json!({})).await.status,
        200,
        "modern clients need no session"
    );

    let stream = Events::of(server.request(Method::GET, "/sse")).await;
    let answer = server.get("/sse").await;
    has_no_room(&answer, "too_many_sessions");
    drop(stream);
    is_let_in(|| server.request(Method::GET, "/sse")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_at_rest_leaves_its_place_and_goes_on() {
    let server = HttpServer::builder()
        .foreseeable()
        .settings(|settings| settings.max_sessions = Some(1))
        .start()
        .await;
    let rest = || server.app.system.clock().advance(Duration::from_mins(1));
    let first = server.session("/mcp", "2025-11-25").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    rest();
    let second = server.session("/mcp", "2025-11-25").await;
    let answer = Answer::of(first.request(Method::POST).json(&ping)).await;
    has_no_room(&answer, "too_many_sessions");
    rest();
    assert_eq!(first.ask("ping", json!({})).await["result"], json!({}));
    let stream = Events::of(first.request(Method::GET)).await;
    rest();
    let answer = Answer::of(second.request(Method::POST).json(&ping)).await;
    has_no_room(&answer, "too_many_sessions");
    drop(stream);
    is_let_in(|| second.request(Method::POST).json(&ping)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_bounded() {
    let server = HttpServer::builder()
        .settings(|settings| settings.max_listeners = Some(1))
        .start()
        .await;
    let filter = json!({"resourceSubscriptions": ["baton://tasks/t"]});
    let message = modern("subscriptions/listen", json!({"notifications": filter}));
    let mut stream = Events::of(server.modern("/mcp", &message)).await;
    assert_eq!(
        stream.data().await["method"],
        "notifications/subscriptions/acknowledged"
    );
    has_no_room(
        &Answer::of(server.modern("/mcp", &message)).await,
        "too_many_listeners",
    );
    server.dispatch("/mcp", "t").await;
    stream.hears_of("baton://tasks/t").await;
    drop(stream);
    is_let_in(|| server.modern("/mcp", &message)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let server = HttpServer::builder()
        .settings(|settings| settings.max_connections = Some(1))
        .start()
        .await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    let mut answer = [0; 12];
    for _ in 0..2 {
        first.write_all(HEALTH.as_bytes()).await.unwrap();
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let told = in_time(server.raw(HEALTH)).await;
        assert!(
            told.starts_with("HTTP/1.1 503 ") && told.contains("retry-after: 5\r\n"),
            "{told}"
        );
        // The rest of the first answer.
        let mut rest = [0; 4_096];
        assert!(in_time(first.read(&mut rest)).await.unwrap() > 0);
    }
    drop(first);
    until(async || server.raw(HEALTH).await.starts_with("HTTP/1.1 200")).await;
}

#[test]
fn bounds_are_positive() {
    use baton::config::Settings;
    let changes: [fn(&mut Settings); 4] = [
        |settings| settings.max_sessions = Some(0),
        |settings| settings.max_listeners = Some(0),
        |settings| settings.max_connections = Some(0),
        |settings| settings.max_waiting_calls = Some(2_000_000),
    ];
    for change in changes {
        let mut settings = Settings::default();
        change(&mut settings);
        let error = settings.complete(Settings::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("1 to 1000000 would be right"), "{text}");
    }
}
