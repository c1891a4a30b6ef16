//! Streamable HTTP as modern clients speak it, without sessions: what each method answers, and each mistake.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{modern, tool};

const TOOLS: [&str; 37] = [
    "task_dispatch",
    "task_run",
    "task_get",
    "task_list",
    "task_wait",
    "task_update",
    "task_retry",
    "task_cancel",
    "task_answer",
    "task_claim",
    "task_heartbeat",
    "task_notify",
    "task_end",
    "memory_write",
    "memory_search",
    "memory_get",
    "memory_list",
    "memory_forget",
    "memory_audit",
    "tool_search",
    "tool_describe",
    "tool_call",
    "tool_list",
    "tool_create",
    "tool_update",
    "tool_delete",
    "tool_test",
    "tool_import_openapi",
    "tool_history",
    "tool_rollback",
    "resource_register",
    "resource_list",
    "resource_get",
    "resource_delete",
    "resource_read",
    "resource_write",
    "resource_query",
];

/// Asserts a JSON-RPC error and returns its message.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: i32) -> String {
    let error = &answer.body["error"];
    assert_eq!(
        (answer.status, &error["code"]),
        (status, &json!(code)),
        "{}",
        answer.text
    );
    error["message"].as_str().unwrap().to_owned()
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_tells_versions_capabilities_and_how_to_work() {
    let server = HttpServer::start().await;
    let answer = server.ask("server/discover", json!({})).await;
    let result = &answer.body["result"];
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(
        result["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&"2026-07-28".into()),
        "{result}"
    );
    for capability in ["tools", "prompts", "resources", "completions"] {
        assert!(result["capabilities"][capability].is_object(), "{result}");
    }
    assert_eq!(result["capabilities"]["resources"]["subscribe"], true);
    let words = result["instructions"]
        .as_str()
        .unwrap()
        .split_whitespace()
        .count();
    assert!((20..160).contains(&words), "{words} words");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_come_in_order_with_annotations_and_without_nulls() {
    let server = HttpServer::start().await;
    let answer = server.ask("tools/list", json!({})).await;
    let tools = answer.body["result"]["tools"].as_array().unwrap();
    let names: Vec<_> = tools
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, TOOLS);
    assert!(!has_null(&answer.body), "{}", answer.text);
    assert_eq!(answer.body["result"]["cacheScope"], "private");
    assert_eq!(answer.body["result"]["ttlMs"], 0);
    for tool in tools {
        for hint in [
            "readOnlyHint",
            "destructiveHint",
            "idempotentHint",
            "openWorldHint",
        ] {
            assert!(tool["annotations"][hint].is_boolean(), "{tool}");
        }
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
        // What tools of tenants answer is theirs to promise.
        let promises = tool["outputSchema"]["type"] == "object";
        assert_eq!(promises, tool["name"] != "tool_call", "{tool}");
        let (noun, verb) = tool["name"].as_str().unwrap().split_once('_').unwrap();
        let reads = [
            "get", "list", "wait", "search", "describe", "test", "history", "read",
        ];
        let reads = reads.contains(&verb);
        assert!(
            ["task", "memory", "tool", "resource"].contains(&noun),
            "{tool}"
        );
        assert_eq!(tool["annotations"]["readOnlyHint"], reads, "{tool}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lives_its_whole_life() {
    let server = HttpServer::start().await;
    let call = async |name: &str, input: Value| server.use_tool("/mcp", name, input).await;
    let dispatched = call(
        "task_dispatch",
        json!({"description": "count", "task_id": "t"}),
    )
    .await;
    assert_eq!(dispatched["state"], "pending");
    let mine = server.claim("/mcp").await;
    let token = mine(json!({}))["lease_token"].take();
    let leases = json!([{"task_id": "t", "lease_token": token}]);
    call(
        "task_heartbeat",
        json!({"agent_id": "ada", "leases": leases}),
    )
    .await;
    let step = json!({"notification_type": "task_progress", "data": {"progress": 40}});
    call("task_notify", mine(step)).await;
    let ended = call(
        "task_end",
        mine(json!({"reason": "success", "result": {"lines": 42}})),
    )
    .await;
    assert_eq!(ended["state"], "completed");
    let waited = call("task_wait", json!({"task_ids": ["t"]})).await;
    assert_eq!(waited["tasks"][0]["result"], json!({"lines": 42}));
    let listed = call("task_list", json!({"state": "completed"})).await;
    assert_eq!(listed["tasks"][0]["task_id"], "t");
    let read = server
        .ask("resources/read", json!({"uri": "baton://tasks/t/report"}))
        .await;
    let content = &read.body["result"]["contents"][0];
    assert_eq!(content["uri"], "baton://tasks/t/report", "{}", read.text);
    assert!(content["text"].as_str().unwrap().contains("42"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_meta_or_headers_are_missing_or_differ_are_refused() {
    let server = HttpServer::start().await;
    let message = modern("tools/call", tool("task_list", json!({})));
    let base = || {
        server
            .message("/mcp", &message)
            .header("mcp-protocol-version", "2026-07-28")
    };
    let cases = [
        base(),
        base()
            .header("mcp-method", "tools/list")
            .header("mcp-name", "task_list"),
        base().header("mcp-method", "tools/call"),
        base()
            .header("mcp-method", "tools/call")
            .header("mcp-name", "task_get"),
    ];
    for request in cases {
        refused(&Answer::of(request).await, 400, -32020);
    }
    let mut without = message.clone();
    without["params"]["_meta"] = json!({});
    let answer = Answer::of(server.modern("/mcp", &without)).await;
    assert!(
        answer.status == 400 && answer.body["error"].is_object(),
        "{}",
        answer.text
    );
    let mut future = message.clone();
    future["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    let request = server
        .message("/mcp", &future)
        .header("mcp-protocol-version", "2099-01-01")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "task_list");
    refused(&Answer::of(request).await, 400, -32022);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_an_error_that_names_it() {
    let server = HttpServer::start().await;
    let answer = server.ask("tools/call", tool("task_fly", json!({}))).await;
    assert!(refused(&answer, 200, -32602).contains("task_fly"));
    let uri = "baton://tasks/none";
    let answer = server.ask("resources/read", json!({"uri": uri})).await;
    assert!(refused(&answer, 200, -32602).contains(uri));
    assert_eq!(answer.body["error"]["data"]["uri"], uri);
    let answer = server.ask("no/such", json!({})).await;
    assert!(refused(&answer, 404, -32601).contains("no/such"));
    for method in ["tools/list", "resources/list", "prompts/list"] {
        let answer = server.ask(method, json!({"cursor": "nonsense"})).await;
        assert!(refused(&answer, 200, -32602).contains("cursor"), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_are_a_result_with_paths_that_a_model_can_read() {
    let server = HttpServer::start().await;
    let arguments = json!({"task_ids": [7], "wait_seconds": "x", "surprise": 1});
    let answer = server.ask("tools/call", tool("task_wait", arguments)).await;
    let result = &answer.body["result"];
    assert_eq!(result["isError"], true, "{}", answer.text);
    assert!(result.get("structuredContent").is_none(), "{result}");
    let text = result["content"][0]["text"].as_str().unwrap();
    for path in ["/task_ids/0", "/wait_seconds", "surprise"] {
        assert!(text.contains(path), "{path} in {text}");
    }
    let arguments = json!({"title": 7});
    let params = tool("task_dispatch", arguments);
    let answer = server.ask("tools/call", params).await;
    for missing in ["/title", "description"] {
        assert!(answer.text.contains(missing), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ill_typed_params_of_a_known_method_are_invalid_params() {
    let server = HttpServer::start().await;
    let mut message = modern("resources/read", json!({}));
    message["params"]["uri"] = json!(7);
    let request = server.modern("/mcp", &message).header("mcp-name", "7");
    let answer = Answer::of(request).await;
    assert!(refused(&answer, 200, -32602).contains("resources/read"));
    let answer = server.ask("completion/complete", json!({"ref": 1})).await;
    assert!(refused(&answer, 200, -32602).contains("completion/complete"));
    let call = modern("tools/call", json!({"name": 7}));
    let request = server.modern("/mcp", &call).header("mcp-name", "7");
    refused(&Answer::of(request).await, 200, -32602);
    let call = server.ask("tools/call", tool("task_get", json!([1]))).await;
    refused(&call, 200, -32602);
    assert_eq!(call.body["error"]["data"]["path"], "/params/arguments");
    let prompt = json!({"name": "execute", "arguments": {"agent_id": 5}});
    refused(&server.ask("prompts/get", prompt).await, 200, -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_message_are_refused_with_the_reason() {
    let server = HttpServer::start().await;
    let send = async |body: Vec<u8>| {
        let request = server
            .request(Method::POST, "/mcp")
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        Answer::of(request.body(body)).await
    };
    for (body, says) in [
        (&b"garbage"[..], "not JSON"),
        (b"", "empty"),
        (b"{\"jsonrpc\":", "not JSON"),
        (b"{\"a\":\"\xff\"}", "UTF-8"),
    ] {
        let answer = send(body.to_vec()).await;
        let told = refused(&answer, 400, -32700);
        assert!(told.contains(says), "{told}");
        assert_eq!(answer.body["id"], Value::Null);
    }
    // A call that is plain but for a byte in what nobody reads.
    let call = modern("tools/call", tool("task_get", json!({"task_id": "t"}))).to_string();
    let place = call.find("\"version\"").unwrap() + 1;
    let mut call = call.into_bytes();
    call[place] = 0xf6;
    let get = modern("tools/call", tool("task_get", json!({})));
    let answer = Answer::of(server.modern("/mcp", &get).body(call)).await;
    assert!(refused(&answer, 400, -32700).contains("UTF-8"));
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (text, code, id, says) in [
        (
            ping.replace(":1,", ":null,"),
            -32600,
            json!(null),
            "not null",
        ),
        (ping.replace("2.0", "1.0"), -32600, json!(1), "`jsonrpc`"),
        (
            r#"{"id":"a","method":"ping"}"#.into(),
            -32600,
            json!("a"),
            "jsonrpc",
        ),
        (
            ping.replace("method", "m"),
            -32600,
            json!(1),
            "`method` is missing",
        ),
        (
            ping.replace('}', r#","params":[1]}"#),
            -32602,
            json!(1),
            "`params`",
        ),
        ("7".into(), -32600, json!(null), "object"),
        ("[{}]".into(), -32600, json!(null), "batches"),
    ] {
        let answer = send(text.clone().into_bytes()).await;
        assert!(refused(&answer, 400, code).contains(says), "{text}");
        assert_eq!(answer.body["id"], id, "{text}");
    }
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let deep = ping.replace('}', &format!(r#","params":{{"x":{nested}}}}}"#));
    assert!(refused(&send(deep.into_bytes()).await, 400, -32700).contains("127"));
    for size in [1 << 20, 8 << 20] {
        let huge = format!("\"{}\"", "x".repeat(size));
        assert!(refused(&send(huge.into_bytes()).await, 413, -32600).contains("1048576"));
    }
    server.use_tool("/mcp", "task_list", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn task_ids_are_completed_within_the_tenant() {
    let server = HttpServer::start().await;
    for (path, id) in [
        ("/mcp", "alpha-1"),
        ("/mcp", "beta"),
        ("/t/other/mcp", "alpha-2"),
    ] {
        server.dispatch(path, id).await;
    }
    let reference = json!({"type": "ref/resource", "uri": "baton://tasks/{task_id}"});
    let argument = json!({"name": "task_id", "value": "alp"});
    let params = json!({"ref": reference, "argument": argument});
    let answer = server.ask("completion/complete", params).await;
    let values = &answer.body["result"]["completion"]["values"];
    assert_eq!(values, &json!(["alpha-1"]), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_listed_and_filled_in() {
    let server = HttpServer::start().await;
    let answer = server.ask("prompts/list", json!({})).await;
    let names: Vec<_> = answer.body["result"]["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|prompt| prompt["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["orchestrate", "execute"]);
    let arguments = json!({"goal": "tidy the garden"});
    let params = json!({"name": "orchestrate", "arguments": arguments});
    let answer = server.ask("prompts/get", params).await;
    let text = &answer.body["result"]["messages"][0]["content"]["text"];
    let text = text.as_str().unwrap();
    assert!(
        text.contains("tidy the garden") && !text.contains("{{"),
        "{text}"
    );
    let answer = server
        .ask("prompts/get", json!({"name": "orchestrate"}))
        .await;
    assert!(refused(&answer, 200, -32602).contains("/arguments/goal"));
    let answer = server.ask("prompts/get", json!({"name": "dance"})).await;
    assert!(refused(&answer, 200, -32602).contains("dance"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_resources_hold_everything_once() {
    let server = HttpServer::start().await;
    for number in 0..105 {
        server.dispatch("/mcp", &format!("t{number}")).await;
    }
    let (mut uris, mut params, mut pages) = (Vec::new(), json!({}), 0);
    loop {
        let answer = server.ask("resources/list", params).await;
        let result = &answer.body["result"];
        let page = result["resources"].as_array().unwrap();
        assert!((1..=100).contains(&page.len()), "{}", page.len());
        uris.extend(
            page.iter()
                .map(|item| item["uri"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match result["nextCursor"].as_str() {
            Some(next) => params = json!({"cursor": next}),
            None => break,
        }
    }
    let total = uris.len();
    uris.sort();
    uris.dedup();
    assert!(pages > 1 && uris.len() == total, "{total} in {pages} pages");
    for number in 0..105 {
        let uri = format!("baton://tasks/t{number}");
        assert!(uris.binary_search(&uri).is_ok(), "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_listed_can_be_read() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    let answer = server.ask("resources/list", json!({})).await;
    let resources = answer.body["result"]["resources"].as_array().unwrap();
    let uris: Vec<_> = resources
        .iter()
        .map(|resource| resource["uri"].as_str().unwrap())
        .collect();
    for expected in ["baton://guides/executor", "baton://tasks/t"] {
        assert!(uris.contains(&expected), "{uris:?}");
    }
    for uri in uris {
        let read = server.ask("resources/read", json!({"uri": uri})).await;
        let text = &read.body["result"]["contents"][0]["text"];
        assert!(!text.as_str().unwrap().is_empty(), "{uri}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_and_origins_reach_neither_transport() {
    let server = HttpServer::start().await;
    for (path, method) in [
        ("/mcp", Method::POST),
        ("/sse", Method::GET),
        ("/messages", Method::POST),
    ] {
        let request = server
            .request(method.clone(), path)
            .header("host", "evil.example");
        Answer::of(request)
            .await
            .is_problem(403, "host_not_allowed");
        let request = server
            .request(method, path)
            .header("origin", "https://evil.example");
        Answer::of(request)
            .await
            .is_problem(403, "origin_not_allowed");
    }
}
