//! MCP over HTTP as clients of every era speak it: `/mcp` modern and legacy, `/sse`.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};

const MODERN: &str = "2026-07-28";
pub(crate) const BOTH: &str = "application/json, text/event-stream";
/// Long enough for a busy machine, and only waited out by what fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A modern request to `path`, with the headers that its message asks for.
pub(crate) fn modern(
    server: &HttpServer,
    path: &str,
    method: &str,
    mut params: Value,
) -> reqwest::RequestBuilder {
    let name = ["name", "uri"]
        .iter()
        .find_map(|name| params[name].as_str().map(str::to_owned));
    if params["_meta"]["io.modelcontextprotocol/protocolVersion"].is_null() {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let request = server
        .request(Method::POST, path)
        .header("accept", BOTH)
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method)
        .json(&json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}));
    match name {
        Some(name) => request.header("mcp-name", name),
        None => request,
    }
}

pub(crate) async fn ask(server: &HttpServer, method: &str, params: Value) -> Answer {
    Answer::of(modern(server, "/mcp", method, params)).await
}

/// What a tool answers, for a tenant named by path.
pub(crate) async fn tool(server: &HttpServer, path: &str, name: &str, arguments: Value) -> Value {
    let answer = Answer::of(modern(
        server,
        path,
        "tools/call",
        json!({"name": name, "arguments": arguments}),
    ))
    .await;
    assert_eq!(answer.body["result"]["isError"], false, "{}", answer.text);
    answer.body["result"]["structuredContent"].clone()
}

/// A stream of events, read as they come.
pub(crate) struct Events {
    response: Response,
    text: String,
}

impl Events {
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next event with data, as (its name, its data). `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(String, String)> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|text| text.trim().to_owned())
                };
                match field("data:") {
                    Some(data) if !data.is_empty() => {
                        return Some((field("event:").unwrap_or_default(), data));
                    }
                    _ => {}
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk())
                .await
                .expect("an event in time")
                .unwrap()?;
            self.text
                .push_str(&String::from_utf8_lossy(&chunk).replace("\r\n", "\n"));
        }
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Value {
        let (_, data) = self.next().await.expect("another message");
        serde_json::from_str(&data).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_discovers_lists_and_calls() {
    let server = HttpServer::start().await;
    let discovered = ask(&server, "server/discover", json!({})).await.body["result"].clone();
    assert!(
        discovered["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&json!(MODERN)),
        "{discovered}"
    );
    assert!(
        discovered["instructions"]
            .as_str()
            .unwrap()
            .split_whitespace()
            .count()
            < 150
    );
    assert_eq!(discovered["capabilities"]["resources"]["subscribe"], true);
    let listed = ask(&server, "tools/list", json!({})).await.body["result"].clone();
    let names: Vec<_> = listed["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    let expected: Vec<_> = server.app.catalog.ops().iter().map(|op| op.name).collect();
    assert_eq!((names.len(), &names), (13, &expected));
    assert_eq!(
        (&listed["cacheScope"], &listed["ttlMs"]),
        (&json!("private"), &json!(0))
    );
    assert_eq!(listed["tools"][2]["annotations"]["readOnlyHint"], true);
    let task = tool(
        &server,
        "/mcp",
        "task_dispatch",
        json!({"description": "x"}),
    )
    .await;
    assert_eq!(task["state"], "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_as_the_protocol_asks() {
    let server = HttpServer::start().await;
    for (method, params, status, code) in [
        (
            "tools/call",
            json!({"name": "no_such_tool", "arguments": {}}),
            200,
            -32602,
        ),
        ("tools/call", json!({"name": 7}), 200, -32602),
        (
            "resources/read",
            json!({"uri": "baton://tasks/nothing"}),
            200,
            -32602,
        ),
        ("resources/list", json!({"cursor": "nonsense"}), 200, -32602),
        ("tools/list", json!({"cursor": "x"}), 200, -32602),
        (
            "prompts/get",
            json!({"name": "orchestrate", "arguments": {}}),
            200,
            -32602,
        ),
        ("no/such/method", json!({}), 404, -32601),
    ] {
        let answer = ask(&server, method, params).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (status, &json!(code)),
            "{method}: {}",
            answer.text
        );
    }
    let unknown = ask(
        &server,
        "resources/read",
        json!({"uri": "baton://tasks/nothing"}),
    )
    .await;
    assert_eq!(
        unknown.body["error"]["data"]["uri"],
        "baton://tasks/nothing"
    );
    let refused = ask(
        &server,
        "tools/call",
        json!({"name": "task_dispatch", "arguments": {"title": 7, "colour": "red"}}),
    )
    .await;
    let result = &refused.body["result"];
    assert_eq!(
        (&result["isError"], result.get("structuredContent")),
        (&json!(true), None)
    );
    let told: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    let text = told.to_string();
    assert!(
        text.contains("/title") && text.contains("colour") && text.contains("description"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_messages_are_answered_as_json_rpc() {
    let server = HttpServer::start().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"task_get","arguments":{{"x":{}{}}}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let huge = format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20));
    for (body, status, code, says) in [
        ("{\"jsonrpc\": ".to_owned(), 400, -32700, "not JSON"),
        ("[{}]".to_owned(), 400, -32600, "batches"),
        ("7".to_owned(), 400, -32600, "object"),
        (deep, 400, -32700, "127"),
        (huge, 413, -32600, "1048576"),
    ] {
        let request = server
            .request(Method::POST, "/mcp")
            .header("accept", BOTH)
            .header("content-type", "application/json");
        let answer = Answer::of(request.body(body)).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (status, &json!(code)),
            "{}",
            answer.text
        );
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    assert_eq!(
        tool(&server, "/mcp", "task_list", json!({})).await["tasks"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_named_by_path_header_or_meta_and_only_once() {
    let server = HttpServer::start().await;
    tool(
        &server,
        "/t/acme/mcp",
        "task_dispatch",
        json!({"task_id": "a", "description": "x"}),
    )
    .await;
    let list = json!({"name": "task_list", "arguments": {}});
    let count = |answer: Answer| {
        answer.body["result"]["structuredContent"]["tasks"]
            .as_array()
            .map(Vec::len)
    };
    let by_header =
        modern(&server, "/mcp", "tools/call", list.clone()).header("x-tenant-id", "acme");
    assert_eq!(count(Answer::of(by_header).await), Some(1));
    let mut named = list.clone();
    named["_meta"]["dev.baton/tenant"] = json!("acme");
    assert_eq!(
        count(ask(&server, "tools/call", named.clone()).await),
        Some(1)
    );
    assert_eq!(count(ask(&server, "tools/call", list).await), Some(0));
    let twice =
        modern(&server, "/t/globex/mcp", "tools/call", named).header("x-tenant-id", "globex");
    let twice = Answer::of(twice).await;
    assert_eq!(
        twice.body["error"]["data"]["error"]["code"], "tenant_conflict",
        "{}",
        twice.text
    );
    assert!(!twice.text.contains("acme"), "{}", twice.text);
}

/// Begins a legacy session and returns its id and the version agreed on.
pub(crate) async fn begin(server: &HttpServer, path: &str, version: &str) -> (String, Value) {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
    let response = server
        .request(Method::POST, path)
        .header("accept", BOTH)
        .json(&request)
        .send()
        .await
        .unwrap();
    let id = response.headers()["mcp-session-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let agreed = Events::of(response).message().await["result"]["protocolVersion"].clone();
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let accepted = in_session(server, path, &id)
        .json(&initialized)
        .send()
        .await
        .unwrap();
    assert_eq!(accepted.status(), 202);
    (id, agreed)
}

pub(crate) fn in_session(server: &HttpServer, path: &str, id: &str) -> reqwest::RequestBuilder {
    server
        .request(Method::POST, path)
        .header("accept", BOTH)
        .header("mcp-session-id", id)
}

pub(crate) async fn legacy(
    server: &HttpServer,
    path: &str,
    id: &str,
    method: &str,
    params: Value,
) -> Value {
    let request = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params});
    let response = in_session(server, path, id)
        .json(&request)
        .send()
        .await
        .unwrap();
    Events::of(response).message().await
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_sessions_of_every_revision_work_and_belong_to_their_tenant() {
    let server = HttpServer::start().await;
    for (asked, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        (MODERN, "2025-11-25"),
    ] {
        let (id, version) = begin(&server, "/mcp", asked).await;
        assert_eq!(version, agreed);
        let listed = legacy(&server, "/mcp", &id, "tools/list", json!({})).await;
        assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 13);
        assert_eq!(listed["result"].get("ttlMs"), None);
    }
    let (id, _) = begin(&server, "/t/acme/mcp", "2025-11-25").await;
    let unknown = legacy(
        &server,
        "/t/acme/mcp",
        &id,
        "resources/read",
        json!({"uri": "baton://tasks/x"}),
    )
    .await;
    assert_eq!(unknown["error"]["code"], -32002);
    let list = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"});
    let foreign = Answer::of(in_session(&server, "/t/globex/mcp", &id).json(&list)).await;
    let none =
        Answer::of(in_session(&server, "/t/globex/mcp", "no-such-session").json(&list)).await;
    assert_eq!((foreign.status, &foreign.text), (404, &none.text));
    let stolen = server
        .request(Method::GET, "/mcp")
        .header("accept", "text/event-stream")
        .header("mcp-session-id", &id);
    assert_eq!(Answer::of(stolen).await.status, 404);
    let ended = server
        .request(Method::DELETE, "/t/acme/mcp")
        .header("mcp-session-id", &id)
        .send()
        .await
        .unwrap();
    assert!(ended.status().is_success());
    assert_eq!(
        Answer::of(in_session(&server, "/t/acme/mcp", &id).json(&list))
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_session_hears_of_what_it_subscribed_to_in_its_tenant_alone() {
    let server = HttpServer::start().await;
    let (id, _) = begin(&server, "/t/acme/mcp", "2025-11-25").await;
    let stream = server
        .request(Method::GET, "/t/acme/mcp")
        .header("accept", "text/event-stream")
        .header("mcp-session-id", &id);
    let mut events = Events::of(stream.send().await.unwrap());
    let subscribed = legacy(
        &server,
        "/t/acme/mcp",
        &id,
        "resources/subscribe",
        json!({"uri": "baton://tasks/t"}),
    )
    .await;
    assert!(subscribed.get("error").is_none(), "{subscribed}");
    // The same id in another tenant, and another task in this one: neither is told.
    tool(
        &server,
        "/t/globex/mcp",
        "task_dispatch",
        json!({"task_id": "t", "description": "theirs"}),
    )
    .await;
    tool(
        &server,
        "/t/acme/mcp",
        "task_dispatch",
        json!({"task_id": "other", "description": "x"}),
    )
    .await;
    tool(
        &server,
        "/t/acme/mcp",
        "task_dispatch",
        json!({"task_id": "t", "description": "ours"}),
    )
    .await;
    tool(
        &server,
        "/t/acme/mcp",
        "task_cancel",
        json!({"task_id": "t"}),
    )
    .await;
    for _ in 0..2 {
        let message = events.message().await;
        assert_eq!(
            (&message["method"], &message["params"]["uri"]),
            (
                &json!("notifications/resources/updated"),
                &json!("baton://tasks/t")
            )
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_listener_hears_of_its_tenants_tasks_until_the_server_stops() {
    let server = HttpServer::start().await;
    let wanted = json!({"notifications": {"resourceSubscriptions": ["baton://tasks/t", "baton://tasks/t/report", "file:///etc/passwd"]}});
    let listen = modern(&server, "/t/acme/mcp", "subscriptions/listen", wanted)
        .send()
        .await
        .unwrap();
    let mut events = Events::of(listen);
    let acknowledged = events.message().await;
    assert_eq!(
        acknowledged["method"],
        "notifications/subscriptions/acknowledged"
    );
    assert_eq!(
        acknowledged["params"]["notifications"]["resourceSubscriptions"],
        json!(["baton://tasks/t", "baton://tasks/t/report"])
    );
    assert_eq!(
        acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        7
    );
    tool(
        &server,
        "/t/globex/mcp",
        "task_dispatch",
        json!({"task_id": "t", "description": "theirs"}),
    )
    .await;
    tool(
        &server,
        "/t/globex/mcp",
        "task_cancel",
        json!({"task_id": "t"}),
    )
    .await;
    tool(
        &server,
        "/t/acme/mcp",
        "task_dispatch",
        json!({"task_id": "t", "description": "ours"}),
    )
    .await;
    assert_eq!(events.message().await["params"]["uri"], "baton://tasks/t");
    tool(
        &server,
        "/t/acme/mcp",
        "task_cancel",
        json!({"task_id": "t"}),
    )
    .await;
    let told = [events.message().await, events.message().await]
        .map(|message| message["params"]["uri"].clone());
    assert_eq!(
        told,
        [json!("baton://tasks/t"), json!("baton://tasks/t/report")]
    );
    server.app.stopping().cancel();
    let last = events.message().await;
    assert_eq!(
        (&last["id"], &last["result"]["resultType"]),
        (&json!(7), &json!("complete")),
        "{last}"
    );
    assert!(events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_reaches_the_one_who_waits() {
    let server = HttpServer::start().await;
    tool(
        &server,
        "/mcp",
        "task_dispatch",
        json!({"task_id": "t", "description": "x"}),
    )
    .await;
    let claimed = tool(&server, "/mcp", "task_claim", json!({"agent_id": "ada"})).await;
    let held = json!({"task_id": "t", "agent_id": "ada", "lease_token": claimed["tasks"][0]["lease"]["token"]});
    let with = |fields: Value| {
        let mut input = held.clone();
        input
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        input
    };
    let wait = json!({"name": "task_wait", "arguments": {"task_ids": ["t"], "wait_seconds": 50}, "_meta": {"progressToken": "p"}});
    let mut events = Events::of(
        modern(&server, "/mcp", "tools/call", wait)
            .send()
            .await
            .unwrap(),
    );
    let mut last = -1.0;
    for percent in [20, 60] {
        let report = with(
            json!({"notification_type": "progress", "data": {"progress": percent, "current_step": format!("at {percent}")}}),
        );
        tool(&server, "/mcp", "task_notify", report).await;
        loop {
            let message = events.message().await;
            assert_eq!(
                (&message["method"], &message["params"]["progressToken"]),
                (&json!("notifications/progress"), &json!("p"))
            );
            let progress = message["params"]["progress"].as_f64().unwrap();
            assert!(progress > last);
            last = progress;
            if message["params"]["message"] == format!("at {percent}") {
                break;
            }
        }
    }
    tool(
        &server,
        "/mcp",
        "task_end",
        with(json!({"reason": "success", "result": "done"})),
    )
    .await;
    loop {
        let message = events.message().await;
        if message["id"] == 7 {
            assert_eq!(
                message["result"]["structuredContent"]["tasks"][0]["result"],
                "done"
            );
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_is_answered_in_part_before_anybody_gives_up() {
    let server = HttpServer::start().await;
    let claim = json!({"name": "task_claim", "arguments": {"agent_id": "ada", "wait_seconds": 7}});
    let sent = modern(&server, "/mcp", "tools/call", claim).send();
    let response = tokio::time::timeout(Duration::from_millis(6_500), sent)
        .await
        .expect("headers before the answer")
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(
        Events::of(response).message().await["result"]["structuredContent"]["tasks"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_and_prompts_help_to_fill_in() {
    let server = HttpServer::start().await;
    for id in ["job-1", "job-2", "other"] {
        tool(
            &server,
            "/mcp",
            "task_dispatch",
            json!({"task_id": id, "description": "x"}),
        )
        .await;
    }
    let complete = json!({"ref": {"type": "ref/resource", "uri": "baton://tasks/{task_id}"}, "argument": {"name": "task_id", "value": "job"}});
    let values =
        ask(&server, "completion/complete", complete).await.body["result"]["completion"]["values"]
            .clone();
    assert_eq!(values, json!(["job-1", "job-2"]));
    let prompt = json!({"name": "orchestrate", "arguments": {"goal": "paint the bikeshed"}});
    let text = ask(&server, "prompts/get", prompt).await.text;
    assert!(
        text.contains("paint the bikeshed") && !text.contains("{{"),
        "{text}"
    );
    let listed =
        ask(&server, "resources/list", json!({})).await.body["result"]["resources"].clone();
    let uris: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource["uri"].as_str().unwrap())
        .collect();
    assert!(
        uris.contains(&"baton://guides/executor") && uris.contains(&"baton://tasks/other"),
        "{uris:?}"
    );
    for uri in uris {
        let read = ask(&server, "resources/read", json!({"uri": uri})).await;
        assert!(
            read.body["result"]["contents"][0]["text"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{uri}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_sse_transport_works_and_keeps_its_limits() {
    let server = HttpServer::start().await;
    let open = server
        .request(Method::GET, "/t/acme/sse")
        .send()
        .await
        .unwrap();
    let mut events = Events::of(open);
    let (name, endpoint) = events.next().await.unwrap();
    assert_eq!(name, "endpoint");
    assert!(
        endpoint.starts_with("/t/acme/messages?sessionId="),
        "{endpoint}"
    );
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}});
    assert_eq!(server.post(&endpoint, &initialize).await.status, 202);
    assert_eq!(events.message().await["id"], 0);
    let call = json!({"jsonrpc": "2.0", "id": "one", "method": "tools/call", "params": {"name": "task_dispatch", "arguments": {"task_id": "t", "description": "x"}}});
    assert_eq!(server.post(&endpoint, &call).await.status, 202);
    let answer = events.message().await;
    assert_eq!(
        (
            &answer["id"],
            &answer["result"]["structuredContent"]["state"]
        ),
        (&json!("one"), &json!("pending"))
    );
    assert_eq!(
        tool(&server, "/t/acme/mcp", "task_list", json!({})).await["tasks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let foreign = server
        .post(&endpoint.replace("/t/acme", "/t/globex"), &call)
        .await;
    let unknown = server
        .post("/t/globex/messages?sessionId=nothing", &call)
        .await;
    assert_eq!((foreign.status, foreign.text), (404, unknown.text));
    assert_eq!(
        server
            .request(Method::POST, &endpoint)
            .body("{")
            .send()
            .await
            .unwrap()
            .status(),
        400
    );
    let claim = |id: i32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "task_claim", "arguments": {"agent_id": "a", "capabilities": [], "wait_seconds": 50, "max_concurrent_tasks": 1}}});
    let mut statuses = Vec::new();
    for id in 10..80 {
        statuses.push(server.post(&endpoint, &claim(id)).await.status);
    }
    assert!(
        statuses.contains(&429) && statuses[..60].iter().all(|status| *status == 202),
        "{statuses:?}"
    );
    drop(events);
    let gone = async {
        while server.post(&endpoint, &claim(99)).await.status != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the session ends with its stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_hosts_and_pages_are_kept_out_of_mcp_too() {
    let server = HttpServer::start().await;
    for path in ["/mcp", "/sse", "/messages"] {
        let method = if path == "/sse" {
            Method::GET
        } else {
            Method::POST
        };
        let host = server
            .request(method.clone(), path)
            .header("host", "evil.example");
        assert_eq!(Answer::of(host).await.status, 403, "{path}");
        let page = server
            .request(method, path)
            .header("origin", "https://evil.example");
        assert_eq!(Answer::of(page).await.status, 403, "{path}");
    }
}
