//! Legacy sessions over Streamable HTTP, and the ways in which a caller of any era names its tenant.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, modern, tool};

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
