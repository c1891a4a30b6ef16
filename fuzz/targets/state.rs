//! What clients bring back as they were given it: request states and the cursors of MCP. What nobody was given confirms
//! nothing, and is a mistake of the caller. A text that begins with `~` is a good state with changes: where, and to which letter.
#![no_main]

use std::sync::LazyLock;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use baton::http::Guarded;
use baton::transport::Front;
use baton_fuzz::SERVER;
use serde_json::{Value, json};
use tower_service::Service;

static ROUTES: LazyLock<Guarded<Front>> = LazyLock::new(|| {
    let _entered = SERVER.runtime.enter();
    baton::http::guarded(&SERVER.app, |others| {
        baton::transport::front(&SERVER.app, others)
    })
});

/// A state that was given for cancelling `top`, whose subtask is being worked on.
static GOOD: LazyLock<String> = LazyLock::new(|| {
    for task in [
        json!({"description": "x", "task_id": "top", "assigned_to": "nobody"}),
        json!({"description": "x", "task_id": "sub", "parent_task_id": "top", "assigned_to": "ada"}),
    ] {
        use_tool("task_dispatch", &task, json!({}));
    }
    let ada = json!({"agent_id": "ada"});
    use_tool("task_claim", &ada, json!({}));
    let asked = use_tool("task_cancel", &json!({"task_id": "top"}), json!({}));
    let state = asked["result"]["requestState"].as_str();
    state.unwrap_or_else(|| panic!("{asked}")).to_owned()
});

fn use_tool(name: &str, arguments: &Value, more: Value) -> Value {
    let mut params = more;
    (params["name"], params["arguments"]) = (name.into(), arguments.clone());
    ask("tools/call", Some(name), params)
}

fn ask(method: &str, name: Option<&str>, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "f", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    });
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let mut request = Request::builder()
        .method("POST")
        .uri("/mcp")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = name {
        request = request.header("mcp-name", name);
    }
    let request = request.body(Body::from(message.to_string()));
    SERVER.runtime.block_on(async {
        let answer = ROUTES.clone().call(request.expect("a request")).await;
        let body = answer.expect("routes don't fail").into_body();
        let body = to_bytes(body, usize::MAX).await.expect("a whole body");
        serde_json::from_slice(&body).expect("JSON is JSON")
    })
}

/// The good state with the letters that `changes` name, three bytes each.
fn changed(changes: &[u8]) -> String {
    let mut state = GOOD.clone().into_bytes();
    for change in changes.chunks_exact(3) {
        let place = usize::from(change[0]) << 8 | usize::from(change[1]);
        let length = state.len();
        state[place % length] = change[2] & 0x7f;
    }
    String::from_utf8(state).expect("letters")
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let state = match text.strip_prefix('~') {
        Some(changes) => changed(changes.as_bytes()),
        None => text.to_owned(),
    };
    if state != *GOOD {
        let yes = json!({"confirm": {"action": "accept", "content": {"confirm": true}}});
        let more = json!({"requestState": state, "inputResponses": yes});
        let answer = use_tool("task_cancel", &json!({"task_id": "top"}), more);
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
    }
    for method in [
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
    ] {
        let answer = ask(method, None, json!({"cursor": text}));
        let is_page = answer["result"].is_object();
        assert!(
            is_page || answer["error"]["code"] == -32602,
            "{method}: {answer}"
        );
    }
});
