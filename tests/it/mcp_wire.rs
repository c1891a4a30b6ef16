//! MCP over HTTP where clients batch, change tenants, come back with an old session or are cut off by a stop.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, in_time, initialize, modern, tool};
use crate::support::sse::Client;

fn ping(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "ping"})
}

fn note() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/x"})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_on_one_stream() {
    let server = HttpServer::start().await;
    let session = server.session("/mcp", "2025-03-26").await;
    let send = |batch: &Value| session.request(Method::POST).json(batch);
    let batch = json!([ping(2), note(), 7, {"jsonrpc": "2.0", "id": "b", "method": "tools/list"}]);
    let mut events = Events::of(send(&batch)).await;
    let mut ids = Vec::new();
    while let Some(event) = events.next().await {
        let answer: Value = serde_json::from_str(&event.data).unwrap();
        assert!(
            answer["result"].is_object() || answer["error"]["code"] == -32600,
            "{answer}"
        );
        ids.push(answer["id"].to_string());
    }
    ids.sort();
    assert_eq!(ids, ["\"b\"", "2", "null"]);

    let notes = Answer::of(send(&json!([note(), note()]))).await;
    assert_eq!(notes.status, 202);
    let none = Answer::of(send(&json!([]))).await;
    assert_eq!(none.body["error"]["code"], -32600);
    let many = Answer::of(send(&json!(vec![ping(1); 101]))).await;
    assert!(many.text.contains("100"), "{}", many.text);
    let one = json!([ping(1)]);
    let later = send(&one).header("mcp-protocol-version", "2025-06-18");
    let later = Answer::of(later).await;
    assert_eq!(
        (later.status, &later.body["error"]["code"]),
        (400, &json!(-32600))
    );
    let foreign = server.message("/t/globex/mcp", &one);
    let foreign = foreign.header("mcp-session-id", &session.id);
    assert_eq!(Answer::of(foreign).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_session_id_is_no_hindrance_to_a_modern_request() {
    let server = HttpServer::start().await;
    let session = server.session("/t/acme/mcp", "2025-11-25").await;
    let list = modern("tools/list", json!({}));
    for old in ["forgotten", &session.id] {
        let request = server.modern("/t/globex/mcp", &list);
        let answer = Answer::of(request.header("mcp-session-id", old)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

/// `params` for a tenant that their `_meta` names.
fn of_tenant(tenant: &str, mut params: Value) -> Value {
    params["_meta"] = json!({"dev.baton/tenant": tenant});
    params
}

#[track_caller]
fn is_conflict(answer: &Value) {
    let code = &answer["error"]["data"]["error"]["code"];
    assert_eq!(code, "tenant_conflict", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_for_the_tenant_that_its_initialize_names() {
    let server = HttpServer::start().await;
    server.dispatch("/t/acme/mcp", "t").await;
    let mut begin = initialize("2025-11-25");
    begin["params"] = of_tenant("acme", begin["params"].take());
    let named = server.begin("/mcp", &begin).await;
    let get = tool("task_get", json!({"task_id": "t"}));
    let answer = named.ask("tools/call", get.clone()).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    is_conflict(&named.ask("tools/call", of_tenant("globex", get)).await);
    // The default tenant is nobody's by name: its sessions are the same whether it is named or not.
    let session = server.session("/mcp", "2025-11-25").await;
    let named = session.request(Method::POST).json(&ping(1));
    let named = Answer::of(named.header("x-tenant-id", "default")).await;
    assert_eq!(named.status, 200, "{}", named.text);
    // Such a session may call for any tenant, but what it hears is one tenant's.
    let task = json!({"uri": "baton://tasks/t"});
    let foreign = of_tenant("acme", task.clone());
    is_conflict(&session.ask("resources/subscribe", foreign).await);
    let answer = session.ask("resources/subscribe", task).await;
    assert!(answer["result"].is_object(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_no_call_without_an_answer() {
    let server = HttpServer::start().await;
    // Nobody who asks below can take it.
    let task = json!({"task_id": "t", "description": "x", "assigned_to": "bob"});
    server.use_tool("/mcp", "task_dispatch", task).await;
    let mut older = Client::initialized(&server, "/sse").await;
    let claim = || tool("task_claim", json!({"agent_id": "ada", "wait_seconds": 50}));
    let wait = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
    let batch = json!([
        {"jsonrpc": "2.0", "id": "soon", "method": "tools/call", "params": wait},
        {"jsonrpc": "2.0", "id": "late", "method": "tools/call", "params": claim()},
        note(),
    ]);
    older.accepted(&batch).await;
    let newer = modern("tools/call", claim());
    let newer = Events::of(server.modern("/mcp", &newer));
    let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
    let stop = async {
        server.until_waiting(3).await;
        server.app.stopping().cancel();
        let input = json!({"task_id": "t"}).as_object().cloned().unwrap();
        let cancelled = server.app.catalog.call(ctx, "task_cancel", input);
        cancelled.await.unwrap();
        older.events.data().await
    };
    let (mut newer, soon) = tokio::join!(newer, stop);
    assert_eq!(
        (&soon["id"], &soon["result"]["structuredContent"]["done"]),
        (&json!("soon"), &json!(true)),
        "{soon}"
    );
    let late = older.events.data().await;
    assert_eq!(late["id"], "late");
    for answer in [late, newer.data().await] {
        assert_eq!(answer["result"]["isError"], true);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("shutting_down"), "{text}");
    }
    assert!(in_time(older.events.next()).await.is_none());
}
