//! MCP over HTTP where clients err, batch, change tenants, come back with an old session or are cut off by a stop.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::mcp_edge::{BOTH, Events, ask, begin, in_session, legacy, modern, tool};
use crate::support::http::{Answer, HttpServer};

fn ping(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "ping"})
}

fn note() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/x"})
}

async fn send(server: &HttpServer, body: impl Into<reqwest::Body>) -> Answer {
    let request = server
        .request(Method::POST, "/mcp")
        .header("accept", BOTH)
        .header("content-type", "application/json");
    Answer::of(request.body(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_told_what_is_wrong() {
    let server = HttpServer::start().await;
    let cases: [(&[u8], i64, Value, &str); 6] = [
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}",
            -32700,
            Value::Null,
            "UTF-8",
        ),
        (b"", -32700, Value::Null, "empty"),
        (
            br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            -32600,
            Value::Null,
            "not null",
        ),
        (
            br#"{"id":"a","method":"ping"}"#,
            -32600,
            json!("a"),
            "jsonrpc",
        ),
        (
            br#"{"jsonrpc":"2.0","id":4}"#,
            -32600,
            json!(4),
            "`method` is missing",
        ),
        (
            br#"{"jsonrpc":"2.0","id":5,"method":"tools/list","params":[1]}"#,
            -32602,
            json!(5),
            "object",
        ),
    ];
    for (body, code, id, says) in cases {
        let answer = send(&server, body).await;
        assert_eq!(
            (
                answer.status,
                &answer.body["error"]["code"],
                &answer.body["id"]
            ),
            (400, &json!(code), &id),
            "{}",
            answer.text
        );
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    let answer = send(&server, vec![b' '; 8 << 20]).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text.contains("1048576"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn params_that_do_not_fit_are_named_with_their_place() {
    let server = HttpServer::start().await;
    let call = json!({"name": "task_get", "arguments": [1]});
    let answer = ask(&server, "tools/call", call).await;
    assert_eq!(answer.body["error"]["code"], -32602);
    assert_eq!(answer.body["error"]["data"]["path"], "/params/arguments");
    let answer = ask(
        &server,
        "prompts/get",
        json!({"name": "execute", "arguments": {"agent_id": 5}}),
    )
    .await;
    assert_eq!(answer.body["error"]["code"], -32602, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_on_one_stream() {
    let server = HttpServer::start().await;
    let (id, _) = begin(&server, "/mcp", "2025-03-26").await;
    let batch = json!([ping(2), note(), 7, {"jsonrpc": "2.0", "id": "b", "method": "tools/list"}]);
    let response = in_session(&server, "/mcp", &id).json(&batch).send().await;
    let mut events = Events::of(response.unwrap());
    let mut ids = Vec::new();
    while let Some((_, data)) = events.next().await {
        let answer: Value = serde_json::from_str(&data).unwrap();
        assert!(
            answer["result"].is_object() || answer["error"]["code"] == -32600,
            "{answer}"
        );
        ids.push(answer["id"].to_string());
    }
    ids.sort();
    assert_eq!(ids, ["\"b\"", "2", "null"]);

    let told = |batch: Value, version: Option<&'static str>| {
        let mut request = in_session(&server, "/mcp", &id).json(&batch);
        if let Some(version) = version {
            request = request.header("mcp-protocol-version", version);
        }
        Answer::of(request)
    };
    assert_eq!(told(json!([note(), note()]), None).await.status, 202);
    assert_eq!(told(json!([]), None).await.body["error"]["code"], -32600);
    let many = json!(vec![ping(1); 101]);
    assert!(told(many, None).await.text.contains("100"));
    let later = told(json!([ping(1)]), Some("2025-06-18")).await;
    assert_eq!(
        (later.status, &later.body["error"]["code"]),
        (400, &json!(-32600))
    );
    let foreign = in_session(&server, "/t/globex/mcp", &id).json(&json!([ping(1)]));
    assert_eq!(Answer::of(foreign).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_session_id_is_no_hindrance_to_a_modern_request() {
    let server = HttpServer::start().await;
    let (id, _) = begin(&server, "/t/acme/mcp", "2025-11-25").await;
    for old in ["forgotten", &id] {
        let list = modern(&server, "/t/globex/mcp", "tools/list", json!({}));
        let answer = Answer::of(list.header("mcp-session-id", old)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

/// Begins a session whose `initialize` names a tenant in its `_meta`.
async fn begin_for(server: &HttpServer, tenant: &str) -> String {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"},
        "_meta": {"dev.baton/tenant": tenant}}});
    let sent = server
        .request(Method::POST, "/mcp")
        .header("accept", BOTH)
        .json(&request);
    Answer::of(sent).await.header("mcp-session-id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_for_the_tenant_that_its_initialize_names() {
    let server = HttpServer::start().await;
    let dispatch = json!({"task_id": "t", "description": "x"});
    tool(&server, "/t/acme/mcp", "task_dispatch", dispatch).await;
    let id = begin_for(&server, "acme").await;
    let get = json!({"name": "task_get", "arguments": {"task_id": "t"}});
    let answer = legacy(&server, "/mcp", &id, "tools/call", get.clone()).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    let mut foreign = get;
    foreign["_meta"] = json!({"dev.baton/tenant": "globex"});
    let answer = legacy(&server, "/mcp", &id, "tools/call", foreign).await;
    assert_eq!(
        answer["error"]["data"]["error"]["code"], "tenant_conflict",
        "{answer}"
    );
    // The default tenant is nobody's by name: its sessions are the same whether it is named or not.
    let (id, _) = begin(&server, "/mcp", "2025-11-25").await;
    let named = in_session(&server, "/mcp", &id).header("x-tenant-id", "default");
    assert_eq!(Answer::of(named.json(&ping(1))).await.status, 200);
    // Such a session may call for any tenant, but what it hears is one tenant's.
    let mut subscribe = json!({"uri": "baton://tasks/t", "_meta": {"dev.baton/tenant": "acme"}});
    let answer = legacy(
        &server,
        "/mcp",
        &id,
        "resources/subscribe",
        subscribe.clone(),
    )
    .await;
    assert_eq!(
        answer["error"]["data"]["error"]["code"], "tenant_conflict",
        "{answer}"
    );
    subscribe["_meta"] = json!({});
    let answer = legacy(&server, "/mcp", &id, "resources/subscribe", subscribe).await;
    assert!(answer["result"].is_object(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_no_call_without_an_answer() {
    let server = HttpServer::start().await;
    let open = server.request(Method::GET, "/sse").send().await.unwrap();
    let mut older = Events::of(open);
    let (_, endpoint) = older.next().await.unwrap();
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}});
    server.post(&endpoint, &initialize).await;
    older.message().await;
    let claim = |wait: u32| json!({"name": "task_claim", "arguments": {"agent_id": "ada", "wait_seconds": wait}});
    let batch = json!([
        {"jsonrpc": "2.0", "id": "soon", "method": "tools/call", "params": claim(1)},
        {"jsonrpc": "2.0", "id": "late", "method": "tools/call", "params": claim(50)},
        note(),
    ]);
    assert_eq!(server.post(&endpoint, &batch).await.status, 202);
    let newer = modern(&server, "/mcp", "tools/call", claim(50)).send();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.app.stopping().cancel();
    };
    let (newer, ()) = tokio::join!(newer, stop);
    assert_eq!(older.message().await["id"], "soon");
    let late = older.message().await;
    assert_eq!(late["id"], "late");
    let last = Events::of(newer.unwrap()).message().await;
    for answer in [late, last] {
        assert_eq!(answer["result"]["isError"], true);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("shutting_down"), "{text}");
    }
    assert!(older.next().await.is_none());
}
