//! Legacy sessions over Streamable HTTP, and the ways in which a caller of any era names its tenant.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, Session, in_time, initialize, modern, tool};

#[tokio::test(flavor = "multi_thread")]
async fn each_legacy_revision_is_spoken() {
    let server = HttpServer::start().await;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = server.session("/mcp", version).await;
        let result = &session.answer["result"];
        assert_eq!(result["protocolVersion"], version);
        assert_eq!(result["serverInfo"]["name"], "baton");
        let input = json!({"description": "x", "task_id": format!("v{version}")});
        let answer = session
            .ask("tools/call", tool("task_dispatch", input))
            .await;
        let task = &answer["result"]["structuredContent"];
        assert_eq!(
            (&answer["id"], &task["state"]),
            (&json!(5), &json!("pending")),
            "{answer}"
        );
        let answer = session
            .ask("resources/read", json!({"uri": "baton://tasks/none"}))
            .await;
        assert_eq!(answer["error"]["code"], -32002, "{answer}");
        assert_eq!(answer["error"]["data"]["uri"], "baton://tasks/none");
        let listed = session.ask("tools/list", json!({})).await;
        assert!(listed["result"]["tools"].is_array(), "{listed}");
        assert_eq!(listed["result"].get("ttlMs"), None);
        let ended = Answer::of(session.request(Method::DELETE)).await;
        assert!(ended.status < 300, "{}", ended.text);
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let answer = Answer::of(session.request(Method::POST).json(&ping)).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_revision_is_answered_with_the_newest_legacy_one() {
    let server = HttpServer::start().await;
    for version in ["1999-01-01", "2026-07-28", "2099-12-31"] {
        let session = server.session("/mcp", version).await;
        assert_eq!(
            session.answer["result"]["protocolVersion"], "2025-11-25",
            "for {version}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_session_answers_exactly_like_an_unknown_one() {
    let server = HttpServer::start().await;
    let session = server.session("/t/acme/mcp", "2025-11-25").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let send = async |method: Method, path: &str, tenant: Option<&str>, id: &str| {
        let mut request = server
            .request(method, path)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", id)
            .json(&ping);
        if let Some(tenant) = tenant {
            request = request.header("x-tenant-id", tenant);
        }
        let answer = Answer::of(request).await;
        (answer.status, answer.text)
    };
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let unknown = send(method.clone(), "/t/other/mcp", None, "no-such-session").await;
        assert_eq!(unknown.0, 404, "{unknown:?}");
        for (path, tenant) in [
            ("/t/other/mcp", None),
            ("/mcp", Some("other")),
            ("/mcp", None),
        ] {
            let foreign = send(method.clone(), path, tenant, &session.id).await;
            assert_eq!(foreign, unknown, "{method} {path} {tenant:?}");
        }
    }
    let own = session.ask("ping", json!({})).await;
    assert_eq!(own["result"], json!({}), "{own}");
    let by_header = send(Method::POST, "/mcp", Some("acme"), &session.id).await;
    assert_eq!(by_header.0, 200, "{by_header:?}");
}

async fn tasks_of(request: reqwest::RequestBuilder) -> Vec<String> {
    let answer = Answer::of(request).await;
    let tasks = answer.body["result"]["structuredContent"]["tasks"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", answer.text))
        .clone();
    tasks
        .iter()
        .map(|task| task["task_id"].as_str().unwrap().to_owned())
        .collect()
}

fn list_for(tenant: Option<&str>) -> Value {
    let mut params = tool("task_list", json!({}));
    if let Some(tenant) = tenant {
        params["_meta"]["dev.baton/tenant"] = tenant.into();
    }
    modern("tools/call", params)
}

#[tokio::test(flavor = "multi_thread")]
async fn path_header_and_meta_name_the_same_tenant() {
    let server = HttpServer::start().await;
    for (path, id) in [("/mcp", "of-default"), ("/t/acme/mcp", "of-acme")] {
        server.dispatch(path, id).await;
    }
    let (plain, named) = (list_for(None), list_for(Some("acme")));
    assert_eq!(
        tasks_of(server.modern("/mcp", &plain)).await,
        ["of-default"]
    );
    let by_header = server.modern("/mcp", &plain).header("x-tenant-id", "acme");
    for request in [
        server.modern("/t/acme/mcp", &plain),
        server.modern("/mcp", &named),
        server
            .modern("/t/acme/mcp", &named)
            .header("x-tenant-id", "acme"),
        by_header,
    ] {
        assert_eq!(tasks_of(request).await, ["of-acme"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_for_the_tenant_are_refused() {
    let server = HttpServer::start().await;
    let (plain, named) = (list_for(None), list_for(Some("acme")));
    for request in [
        server
            .modern("/t/acme/mcp", &plain)
            .header("x-tenant-id", "other"),
        server.modern("/t/other/mcp", &named),
        server.modern("/mcp", &named).header("x-tenant-id", "other"),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(answer.body["error"]["code"], -32602, "{}", answer.text);
        assert!(answer.text.contains("tenant_conflict"), "{}", answer.text);
        assert!(!answer.text.contains("acme"), "{}", answer.text);
    }
    let answer = Answer::of(server.modern("/t/No%20Tenant!/mcp", &plain)).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains("invalid_tenant"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_hears_of_its_own_tenants_task_alone() {
    let server = HttpServer::start().await;
    let acme = server.session("/t/acme/mcp", "2025-11-25").await;
    let mut stream = Events::of(acme.request(Method::GET)).await;
    for uri in ["baton://tasks/same", "baton://tasks/last"] {
        let answer = acme.ask("resources/subscribe", json!({"uri": uri})).await;
        assert_eq!(answer["result"], json!({}), "{answer}");
    }
    let answer = acme
        .ask("resources/subscribe", json!({"uri": "baton://nothing"}))
        .await;
    assert_eq!(answer["error"]["code"], -32002, "{answer}");
    // The other tenant's task of the same id comes first; the next thing heard must be of the own one.
    server.dispatch("/t/other/mcp", "same").await;
    server.dispatch("/t/acme/mcp", "last").await;
    stream.hears_of("baton://tasks/last").await;
    server.dispatch("/t/acme/mcp", "same").await;
    stream.hears_of("baton://tasks/same").await;
    let answer = acme
        .ask(
            "resources/unsubscribe",
            json!({"uri": "baton://tasks/same"}),
        )
        .await;
    assert_eq!(answer["result"], json!({}), "{answer}");
    for id in ["same", "last"] {
        let input = json!({"task_id": id, "reason": "enough"});
        server.use_tool("/t/acme/mcp", "task_cancel", input).await;
    }
    stream.hears_of("baton://tasks/last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_event_streams_the_newest_that_is_open_tells() {
    let server = HttpServer::start().await;
    let session = server.session("/t/acme/mcp", "2025-11-25").await;
    let mut older = Events::of(session.request(Method::GET)).await;
    let mut newer = Events::of(session.request(Method::GET)).await;
    for id in ["a", "b"] {
        let params = json!({"uri": format!("baton://tasks/{id}")});
        session.ask("resources/subscribe", params).await;
    }
    server.dispatch("/t/acme/mcp", "a").await;
    assert_eq!(newer.data().await["params"]["uri"], "baton://tasks/a");
    drop(newer);
    // The server finds out about the end of a stream by itself, and tells of "a" no second time.
    let heard = async {
        for number in 0.. {
            let input = json!({"description": "x", "task_id": format!("other{number}")});
            server.use_tool("/t/acme/mcp", "task_dispatch", input).await;
            let newest = Events::of(session.request(Method::GET)).await;
            drop(newest);
            if number == 3 {
                server.dispatch("/t/acme/mcp", "b").await;
                return older.data().await;
            }
        }
        unreachable!()
    };
    assert_eq!(in_time(heard).await["params"]["uri"], "baton://tasks/b");
}

/// A wait for the task `t`, with a progress token.
fn wait() -> Value {
    let mut params = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
    params["_meta"]["progressToken"] = "p".into();
    json!({"jsonrpc": "2.0", "id": "w", "method": "tools/call", "params": params})
}

/// Begins to wait for the task `t`, and returns once the call runs.
async fn waits(session: &Session<'_>) -> Events {
    let mut stream = Events::of(session.request(Method::POST).json(&wait())).await;
    assert_eq!(stream.data().await["method"], "notifications/progress");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_without_its_client_who_comes_back_for_the_answer() {
    let server = HttpServer::start().await;
    server.dispatch("/t/acme/mcp", "t").await;
    let session = server.session("/t/acme/mcp", "2025-11-25").await;
    let mut stream = Events::of(session.request(Method::POST).json(&wait())).await;
    let first = stream.any().await.unwrap();
    assert!(first.data.is_empty(), "{first:?}");
    let progress = stream.next().await.unwrap();
    drop(stream);
    let come_back = |session: &Session<'_>, last: &str| {
        let request = session.request(Method::GET);
        Events::of(request.header("last-event-id", last.to_owned()))
    };
    let mut from_start = come_back(&session, &first.id).await;
    assert_eq!(from_start.next().await.unwrap().id, progress.id);
    let mut rest = come_back(&session, &progress.id).await;
    let stranger = server.session("/t/acme/mcp", "2025-11-25").await;
    let mut nothing = come_back(&stranger, &progress.id).await;
    assert!(nothing.next().await.is_none());
    let input = json!({"task_id": "t", "reason": "enough"});
    server.use_tool("/t/acme/mcp", "task_cancel", input).await;
    for stream in [&mut rest, &mut from_start] {
        let answer = loop {
            let message = stream.data().await;
            if message["id"] == "w" {
                break message;
            }
        };
        let done = &answer["result"]["structuredContent"]["done"];
        assert_eq!(done, true, "{answer}");
        assert!(stream.next().await.is_none());
    }
    assert_eq!(server.app.system.waiting_calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_called_off_by_its_own_session_or_with_it() {
    let server = HttpServer::start().await;
    server.dispatch("/t/acme/mcp", "t").await;
    let one = server.session("/t/acme/mcp", "2025-11-25").await;
    let other = server.session("/t/acme/mcp", "2025-11-25").await;
    let (mut mine, mut others) = (waits(&one).await, waits(&other).await);
    let params = json!({"requestId": "w", "reason": "enough"});
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
    let answer = Answer::of(one.request(Method::POST).json(&cancel)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert!(
        mine.next().await.is_none(),
        "a cancelled call has no answer"
    );
    server.until_waiting(1).await;
    Answer::of(other.request(Method::DELETE)).await;
    assert!(others.next().await.is_none());
    server.until_waiting(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initialize_that_is_refused_begins_no_session() {
    let server = HttpServer::start().await;
    let mut message = initialize("2025-11-25");
    message["params"]["_meta"]["dev.baton/tenant"] = "No Tenant!".into();
    let answer = Answer::of(server.message("/mcp", &message)).await;
    assert!(answer.text.contains("invalid_tenant"), "{}", answer.text);
    assert!(!answer.headers.contains_key("mcp-session-id"));
}
