//! How much may go on at a time: of an address, a credential and a tenant, of all that is bounded a share for each; and that
//! every way out of a call makes room for another one.

use std::net::IpAddr;

use baton::quota::Limit;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::access::{call, code, key_of};
use crate::access_limits::{limited, reads, with_keys};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, in_time, initialize, modern, tool, until};

/// A call of `task_wait` that goes on until it is withdrawn.
fn waits(server: &HttpServer, path: &str, calls: &mut JoinSet<Answer>) {
    let wait = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
    calls.spawn(Answer::of(server.modern(path, &modern("tools/call", wait))));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_are_limited_and_every_way_out_makes_room() {
    let server = limited(&[(Limit::MaxCallsPerTenant, 1)], |_| {}).await;
    server.dispatch("/t/acme/mcp", "t").await;
    let is_full = async || {
        let refused = server.get("/t/acme/api/v1/tasks").await;
        refused.is_problem(429, "too_many_calls");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("max_calls_per_tenant is 1"), "{detail}");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(reads(&server, "globex").await, 200);
    };
    let is_free = async || until(async || reads(&server, "acme").await == 200).await;
    // Its client goes.
    let mut calls = JoinSet::new();
    waits(&server, "/t/acme/mcp", &mut calls);
    server.until_waiting(1).await;
    is_full().await;
    calls.shutdown().await;
    is_free().await;
    // It is cancelled, and its connection stays.
    let session = server.session("/t/acme/mcp", "2025-11-25").await;
    let wait = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
    let call = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": wait});
    let stream = Events::of(session.request(Method::POST).json(&call)).await;
    server.until_waiting(1).await;
    is_full().await;
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}});
    let answer = Answer::of(session.request(Method::POST).json(&cancel)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    is_free().await;
    drop(stream);
    // It fails.
    server
        .get("/t/acme/api/v1/tasks/none")
        .await
        .is_problem(404, "unknown_task");
    assert_eq!(reads(&server, "acme").await, 200);
    // A listener counts, too, for as long as it listens.
    let filter = json!({"resourceSubscriptions": ["baton://tasks/t"]});
    let listen = modern("subscriptions/listen", json!({"notifications": filter}));
    let mut stream = Events::of(server.modern("/t/acme/mcp", &listen)).await;
    stream.data().await;
    is_full().await;
    let second = Answer::of(server.modern("/t/acme/mcp", &listen)).await;
    assert_eq!(second.status, 429, "{}", second.text);
    assert_eq!(
        second.body["error"]["data"]["error"]["code"],
        "too_many_calls"
    );
    drop(stream);
    is_free().await;
    // It is answered.
    waits(&server, "/t/acme/mcp", &mut calls);
    server.until_waiting(1).await;
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    let op = server.app.catalog.require("task_cancel").unwrap();
    let input = json!({"task_id": "t"}).as_object().unwrap().clone();
    op.call(ctx, input).await.unwrap();
    let answer = in_time(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(answer.body["result"]["structuredContent"]["done"], true);
    assert_eq!(reads(&server, "acme").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_and_a_credential_have_so_much_going_on_and_no_more() {
    let server = limited(&[(Limit::MaxCallsPerAddress, 2)], |settings| {
        settings.trusted_proxies = vec![IpAddr::from([127, 0, 0, 1])];
    })
    .await;
    let ask = async |from: &str| {
        let request = server.request(Method::GET, "/health");
        Answer::of(request.header("x-forwarded-for", from)).await
    };
    let open = |from: &'static str| {
        let request = server.request(Method::GET, "/sse");
        Events::of(request.header("x-forwarded-for", from))
    };
    let streams = [open("192.0.2.1").await, open("192.0.2.1").await];
    ask("192.0.2.1").await.is_problem(429, "too_many_calls");
    assert_eq!(ask("192.0.2.2").await.status, 200);
    drop(streams);
    until(async || ask("192.0.2.1").await.status == 200).await;

    let server = limited(&[(Limit::MaxCallsPerCredential, 1)], with_keys).await;
    let keys = [
        key_of(&server, "acme", "orchestrator").await,
        key_of(&server, "acme", "orchestrator").await,
    ];
    server.show(&keys[0]);
    server.dispatch("/mcp", "t").await;
    let mut calls = JoinSet::new();
    waits(&server, "/mcp", &mut calls);
    server.until_waiting(1).await;
    server
        .get("/api/v1/tasks")
        .await
        .is_problem(429, "too_many_calls");
    let refused = call(&server, "/mcp", "task_list", json!({})).await;
    assert_eq!(
        code(&refused.body["result"]),
        "too_many_calls",
        "{}",
        refused.text
    );
    assert!(
        refused.text.contains("max_calls_per_credential is 1"),
        "{}",
        refused.text
    );
    server.show(&keys[1]);
    assert_eq!(reads(&server, "acme").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_takes_half_of_what_is_for_all_and_leaves_the_rest_to_others() {
    let server = limited(&[], |settings| {
        with_keys(settings);
        settings.max_waiting_calls = Some(2);
        settings.max_listeners = Some(2);
        settings.max_sessions = Some(2);
    })
    .await;
    let keys = [
        key_of(&server, "acme", "orchestrator").await,
        key_of(&server, "globex", "orchestrator").await,
    ];
    let filter = json!({"resourceSubscriptions": ["baton://tasks/t"]});
    let listen = modern("subscriptions/listen", json!({"notifications": filter}));
    let (mut calls, mut streams) = (JoinSet::new(), Vec::new());
    for (index, key) in keys.iter().enumerate() {
        server.show(key);
        server.dispatch("/mcp", "t").await;
        waits(&server, "/mcp", &mut calls);
        server.until_waiting(index + 1).await;
        let wait = json!({"task_ids": ["t"], "wait_seconds": 50});
        let refused = server.post("/api/v1/waits", &wait).await;
        refused.is_problem(429, "too_many_calls");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("max_waiting_calls_per_tenant is 1"),
            "{detail}"
        );
        assert_eq!(server.get("/api/v1/tasks").await.status, 200);

        let mut stream = Events::of(server.modern("/mcp", &listen)).await;
        stream.data().await;
        streams.push(stream);
        server.session("/mcp", "2025-11-25").await;
        if index > 0 {
            // All that is for all is taken.
            continue;
        }
        for (request, limit) in [
            (server.modern("/mcp", &listen), "max_listeners_per_tenant"),
            (
                server.message("/mcp", &initialize("2025-11-25")),
                "max_sessions_per_tenant",
            ),
            (
                server.request(Method::GET, "/sse"),
                "max_sessions_per_tenant",
            ),
        ] {
            let refused = Answer::of(request).await;
            assert_eq!(
                (refused.status, refused.header("retry-after")),
                (429, "30"),
                "{}",
                refused.text
            );
            let said = format!("{limit} is 1");
            assert!(refused.text.contains(&said), "{}", refused.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_takes_half_of_the_connections() {
    const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let server = limited(&[], |settings| {
        with_keys(settings);
        settings.max_connections = Some(2);
    })
    .await;
    server.show(&key_of(&server, "acme", "observer").await);
    let open = Events::of(server.request(Method::GET, "/sse")).await;
    let told = in_time(server.raw(HEALTH)).await;
    assert!(
        told.starts_with("HTTP/1.1 429 ")
            && told.ends_with("max_connections_per_address is full)\n"),
        "{told}"
    );
    drop(open);
    until(async || server.raw(HEALTH).await.starts_with("HTTP/1.1 200")).await;
}
