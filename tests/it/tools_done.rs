//! What tools do when they are called: an HTTP call and what is made of its answer, or work for an executor.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::handles::{ACME, get, handle};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{following, modern, tool};

/// A server that Baton may call, gone with this.
pub(crate) struct Outside {
    pub(crate) url: String,
    _serving: JoinSet<()>,
}

impl Outside {
    pub(crate) async fn start() -> Self {
        let router = Router::new()
            .route("/echo/{*rest}", any(echo))
            .route("/as/{status}", any(|Path(status): Path<u16>| async move {
                (StatusCode::from_u16(status).unwrap(), "It is closed on Mondays.")
            }))
            .route("/list", any(|| async {
                let items = json!([{"name": "a", "size": {"cm": 1}}, {"name": "b"}]);
                axum::Json(json!({"data": {"items": items, "next": null}}))
            }))
            .route("/long", any(|| async { "x".repeat(300_000) }))
            .route("/never", any(std::future::pending::<()>))
            .route("/page", any(|| async {
                let html = "<html><head><title>Opening hours</title></head><body><h1>Hours</h1><p>9 to 5 &amp; later</p></body></html>";
                ([("content-type", "text/html")], html)
            }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            _serving: serving,
        }
    }
}

async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let body: Value = serde_json::from_slice(&body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    axum::Json(
        json!({"method": method.as_str(), "uri": uri.to_string(), "body": body,
        "type": text("content-type"), "token": text("x-token")}),
    )
}

/// A server that may call this machine, and what it may call.
pub(crate) async fn open() -> (HttpServer, Outside) {
    let server = HttpServer::builder().settings(|settings| {
        settings.outbound_allow = vec!["127.0.0.1".parse().unwrap()];
    });
    (server.start().await, Outside::start().await)
}

/// What a call of a tool of acme's is answered.
async fn call(server: &HttpServer, name: &str, arguments: Value) -> Value {
    let message = modern("tools/call", tool(name, arguments));
    Answer::of(server.modern(ACME, &message)).await.body["result"].clone()
}

async fn create(server: &HttpServer, tool: Value) {
    server.use_tool(ACME, "tool_create", tool).await;
}

/// The data of the newest event about a call.
async fn last_call(server: &HttpServer) -> Value {
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    let events = ctx.read(|_, tx| baton::events::after(tx, 0, 1_000)).await;
    let events = events.unwrap().into_iter();
    let mut calls = events.filter(|event| event.kind == "dev.baton.tool.called");
    let mut last = calls.next_back().unwrap().data;
    assert!(last["duration_ms"].is_u64(), "{last}");
    last.as_object_mut().unwrap().remove("duration_ms");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_sent_where_the_manifest_says() {
    let (server, outside) = open().await;
    let url = |rest: &str| format!("{}/echo/{rest}", outside.url);
    let parameters = json!({"type": "object", "required": ["id"], "properties": {
        "id": {"type": "string"}, "tags": {"type": "array"}, "note": {"type": "string"}, "n": {"type": "integer"}}});
    let given = json!({"id": "a/b ü", "tags": ["x", "y z"], "n": 3});
    for (implementation, expected) in [
        (
            json!(url("plain")),
            json!({"method": "POST", "uri": "/echo/plain", "body": given, "type": "application/json"}),
        ),
        (
            json!({"type": "http", "method": "GET", "url": url("{id}")}),
            json!({"method": "GET", "uri": "/echo/a%2Fb%20%C3%BC?n=3&tags=x&tags=y%20z", "body": "", "type": null}),
        ),
        (
            json!({"type": "http", "method": "PUT", "url": url("q?fixed=1"), "query": {"tag": "{tags}", "note": "{note}"},
                "headers": {"x-token": "n{n}", "x-none": "{note}"},
                "body": {"ids": ["{id}"], "n": "{n}", "note": "{note}", "text": "{n} of {id}"}}),
            json!({"method": "PUT", "uri": "/echo/q?fixed=1&tag=x&tag=y%20z", "token": "n3",
                "body": {"ids": ["a/b ü"], "n": 3, "text": "3 of a/b ü"}}),
        ),
        (
            json!({"type": "http", "url": url("text"), "headers": {"content-type": "text/plain"}, "body": "n is {n}"}),
            json!({"method": "POST", "body": "n is 3", "type": "text/plain"}),
        ),
    ] {
        let name = format!(
            "echo{}",
            expected["method"].as_str().unwrap().len() + expected.to_string().len()
        );
        create(&server, json!({"name": name, "description": "Says it again", "parameters": parameters, "implementation": implementation})).await;
        let answered = call(&server, &name, given.clone()).await;
        for (member, value) in expected.as_object().unwrap() {
            assert_eq!(
                answered["structuredContent"][member], *value,
                "{member}: {answered}"
            );
        }
        assert_eq!(
            last_call(&server).await,
            json!({"name": name, "version": 1, "implementation": "http", "outcome": "succeeded"})
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_narrowed_down_to_what_is_wanted() {
    let (server, outside) = open().await;
    let cases = [
        (
            "whole",
            "/list",
            json!({}),
            json!({"data": {"items": [{"name": "a", "size": {"cm": 1}}, {"name": "b"}], "next": null}}),
            None,
        ),
        (
            "part",
            "/list",
            json!({"pointer": "/data/items", "fields": {"it": "/name", "cm": "/size/cm"}}),
            json!({"result": [{"it": "a", "cm": 1}, {"it": "b"}]}),
            None,
        ),
        (
            "words",
            "/list",
            json!({"pointer": "/data", "text": "First: {/items/0/name}"}),
            json!({"items": [{"name": "a", "size": {"cm": 1}}, {"name": "b"}], "next": null}),
            Some("First: a"),
        ),
        (
            "page",
            "/page",
            json!({"format": "page"}),
            json!({"title": "Opening hours", "text": "Hours\n\n9 to 5 & later"}),
            None,
        ),
        (
            "envelope",
            "/as/503",
            json!({"envelope": true}),
            json!({"status": 503, "content_type": "text/plain; charset=utf-8", "body": "It is closed on Mondays."}),
            None,
        ),
    ];
    for (name, path, response, expected, words) in cases {
        let implementation = json!({"type": "http", "method": "GET", "url": format!("{}{path}", outside.url), "response": response});
        create(
            &server,
            json!({"name": name, "description": "Looks", "implementation": implementation}),
        )
        .await;
        let answered = call(&server, name, json!({})).await;
        assert_eq!(
            answered["structuredContent"], expected,
            "{name}: {answered}"
        );
        if let Some(words) = words {
            assert_eq!(answered["content"][0]["text"], words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_the_tools_promise_is_a_failure() {
    let (server, outside) = open().await;
    let at = |path: &str, more: Value| {
        let mut implementation =
            json!({"type": "http", "method": "GET", "url": format!("{}{path}", outside.url)});
        implementation
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"description": "Fails", "implementation": implementation, "output_schema": {"type": "object", "required": ["total"]}})
    };
    for (name, mut tool, why) in [
        (
            "closed",
            at("/as/503", json!({})),
            "503 Service Unavailable: It is closed on Mondays.",
        ),
        ("broken_promise", at("/list", json!({})), "/total: missing"),
        (
            "nothing_there",
            at("/list", json!({"response": {"pointer": "/none"}})),
            "nothing at /none",
        ),
        (
            "no_json",
            at("/page", json!({"response": {"format": "json"}})),
            "not JSON",
        ),
    ] {
        tool["name"] = name.into();
        create(&server, tool).await;
        let answered = call(&server, name, json!({})).await;
        assert_eq!(answered["isError"], true, "{answered}");
        let text = answered["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(why), "{name}: {text}");
        assert_eq!(last_call(&server).await["outcome"], "failed");
    }
    let long = json!({"name": "long", "description": "Says much", "limits": {"max_bytes": 1000},
        "implementation": {"type": "http", "method": "GET", "url": format!("{}/long", outside.url)}});
    create(&server, long).await;
    let text = call(&server, "long", json!({})).await["content"][0]["text"].take();
    let text = text.as_str().unwrap();
    assert!(
        text.len() <= 1_000 && text.ends_with("[cut here]"),
        "{}",
        text.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_refused_bounded_and_counted() {
    let (server, outside) = open().await;
    let inside = json!({"name": "inside", "description": "Goes where it may not", "implementation": {"type": "http", "method": "GET", "url": "http://10.0.0.1/"}});
    create(&server, inside).await;
    let refused = call(&server, "inside", json!({})).await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert_eq!(last_call(&server).await["outcome"], "address_refused");
    let slow = json!({"name": "slow", "description": "Never answers", "limits": {"timeout_seconds": 1},
        "implementation": {"type": "http", "method": "GET", "url": format!("{}/never", outside.url)}});
    create(&server, slow).await;
    let late = call(&server, "slow", json!({})).await;
    assert!(
        late["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("in time"),
        "{late}"
    );
    let rare = json!({"name": "rare", "description": "Twice a minute", "limits": {"calls_per_minute": 2}, "parameters": {"properties": {"n": {"type": "integer"}}},
        "implementation": {"type": "http", "method": "GET", "url": format!("{}/list", outside.url)}});
    create(&server, rare).await;
    let mistaken = call(&server, "rare", json!({"n": "one"})).await;
    assert!(mistaken.to_string().contains("/n"), "{mistaken}");
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(call(&server, "rare", json!({"n": null})).await["isError"] == true);
    }
    // A minute may end between two of them, once.
    let good = outcomes.iter().filter(|failed| !**failed).count();
    assert!((2..=4).contains(&good), "{outcomes:?}");
    let listed = server.use_tool(ACME, "tool_list", json!({})).await;
    let used = |name: &str| {
        let all = listed["tools"].as_array().unwrap().iter();
        let mut found = all.filter(|tool| tool["name"] == name);
        found.next().unwrap()["used"].clone()
    };
    assert_eq!(
        (&used("slow")["calls"], &used("slow")["failures"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(used("rare")["calls"], good);
    assert!(used("slow")["mean_ms"].as_f64().unwrap() >= 900.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executors_skill_is_a_tool_that_waits_or_is_followed() {
    let server = HttpServer::start().await;
    let triage = json!({"name": "triage", "description": "Sort a ticket", "limits": {"timeout_seconds": 1},
        "parameters": {"properties": {"ticket": {"type": "string"}}, "required": ["ticket"]},
        "output_schema": {"type": "object", "required": ["team"], "properties": {"team": {"type": "string"}}},
        "implementation": {"type": "task", "task_type": "analysis", "description": "Sort the ticket {ticket}"}});
    create(&server, triage).await;
    // Nobody works yet.
    let waited = call(&server, "triage", json!({"ticket": "T-1"})).await;
    assert_eq!(waited["isError"], true, "{waited}");
    assert!(
        waited["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("task_wait"),
        "{waited}"
    );
    let hers = server.claim(ACME).await;
    let wrong = hers(json!({"reason": "success", "result": {"group": "x"}}));
    let refused = call(&server, "task_end", wrong).await;
    assert!(refused.to_string().contains("team"), "{refused}");
    server
        .use_tool(
            ACME,
            "task_end",
            hers(json!({"reason": "success", "result": {"team": "billing"}})),
        )
        .await;

    for name in ["triage", "tool_call"] {
        let arguments = json!({"ticket": "T-2"});
        let input = if name == "triage" {
            arguments
        } else {
            json!({"name": "triage", "arguments": arguments})
        };
        let id = handle(&server, name, input).await;
        assert_eq!(get(&server, &id).await["status"], "working");
        let his = server.claim(ACME).await;
        server
            .use_tool(
                ACME,
                "task_end",
                his(json!({"reason": "success", "result": {"team": "sales"}})),
            )
            .await;
        let done = get(&server, &id).await;
        assert_eq!(done["status"], "completed", "{done}");
        assert_eq!(
            done["result"]["structuredContent"],
            json!({"team": "sales"})
        );
    }
    let id = handle(&server, "triage", json!({"ticket": "T-3"})).await;
    let cancel = following("tasks/cancel", json!({"taskId": id}));
    Answer::of(server.modern(ACME, &cancel)).await;
    assert_eq!(get(&server, &id).await["status"], "cancelled");
    assert_eq!(last_call(&server).await["outcome"], "followed");
    // What is no task's is answered at once, also to those who could follow.
    let other = json!({"name": "other", "description": "Goes nowhere", "implementation": "http://10.0.0.1/"});
    create(&server, other).await;
    let message = following("tools/call", tool("other", json!({})));
    let answer = Answer::of(server.modern(ACME, &message)).await;
    assert_eq!(
        answer.body["result"]["resultType"], "complete",
        "{}",
        answer.text
    );
}
