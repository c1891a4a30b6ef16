//! Who may come in: keys at every door, what roles, scopes, agents and tasks allow, and what is written down of refusals.

use std::time::Duration;

use baton::config::{Auth, Settings};
use baton::events;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::support::client::{Client as Pipes, Way};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{modern, tool};
use crate::support::sse::Client;

/// What each role may call, apart from what reads.
const ORCHESTRATOR: [&str; 15] = [
    "task_dispatch",
    "task_run",
    "task_update",
    "task_retry",
    "task_cancel",
    "task_answer",
    "tool_create",
    "tool_update",
    "tool_delete",
    "tool_test",
    "tool_history",
    "tool_rollback",
    "tool_import_openapi",
    "resource_register",
    "resource_delete",
];
const EXECUTOR: [&str; 4] = ["task_claim", "task_notify", "task_heartbeat", "task_end"];
const READER: [&str; 10] = [
    "task_get",
    "task_list",
    "task_wait",
    "memory_search",
    "memory_get",
    "memory_list",
    "resource_list",
    "resource_get",
    "resource_read",
    "resource_query",
];
/// What everybody may who works here, and observers may not.
const WRITER: [&str; 8] = [
    "memory_write",
    "memory_forget",
    "memory_audit",
    "tool_search",
    "tool_describe",
    "tool_call",
    "tool_list",
    "resource_write",
];
const ADMIN: [&str; 12] = [
    "key_create",
    "key_list",
    "key_rotate",
    "key_revoke",
    "limits_get",
    "tenant_get",
    "secret_set",
    "secret_list",
    "secret_delete",
    "tool_approve",
    "tenant_list",
    "tenant_stats",
];
/// What takes a credential for all tenants.
const OPERATOR: [&str; 3] = ["limits_set", "tenant_configure", "tenant_delete"];

fn may(role: &str, op: &str) -> bool {
    READER.contains(&op)
        || match role {
            "admin" => !OPERATOR.contains(&op),
            "orchestrator" => ORCHESTRATOR.contains(&op) || WRITER.contains(&op),
            "executor" => EXECUTOR.contains(&op) || WRITER.contains(&op),
            _ => false,
        }
}

/// Whether it is said here whose an operation is.
fn is_known(op: &str) -> bool {
    let lists = [
        &ORCHESTRATOR[..],
        &EXECUTOR,
        &READER,
        &WRITER,
        &ADMIN,
        &OPERATOR,
    ];
    lists.iter().any(|list| list.contains(&op))
}

/// A server that asks who somebody is.
pub(crate) async fn guarded() -> HttpServer {
    let builder = HttpServer::builder().foreseeable();
    let builder = builder.settings(|settings| settings.auth = vec![Auth::Keys]);
    builder.start().await
}

/// Does something in `tenant` as the operator does: in the data folder.
pub(crate) async fn operate(server: &HttpServer, tenant: &str, op: &str, input: Value) -> Value {
    let ctx = server.app.system.ctx(tenant.parse().unwrap(), "operator");
    let input = input.as_object().unwrap().clone();
    server.app.catalog.call(ctx, op, input).await.unwrap()
}

/// The text of a new key of `tenant`.
pub(crate) async fn key(server: &HttpServer, tenant: &str, input: Value) -> String {
    let made = operate(server, tenant, "key_create", input).await;
    made["key"].as_str().unwrap().to_owned()
}

/// The key of somebody who is nothing but this.
pub(crate) async fn key_of(server: &HttpServer, tenant: &str, role: &str) -> String {
    key(server, tenant, json!({"roles": [role]})).await
}

/// The operator's key, for all tenants.
pub(crate) async fn operators_key(server: &HttpServer) -> String {
    let input = serde_json::from_value(json!({"roles": ["admin"]})).unwrap();
    let made = baton::access::keys::create_for_all(&server.app.system, &input).await;
    made.unwrap().key
}

/// A modern tool call.
pub(crate) async fn call(server: &HttpServer, path: &str, name: &str, input: Value) -> Answer {
    Answer::of(server.modern(path, &modern("tools/call", tool(name, input)))).await
}

/// Why a tool call was refused, if it was.
pub(crate) fn code(result: &Value) -> String {
    let text = result["content"][0]["text"].as_str().unwrap_or_default();
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    body["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// What the log of `tenant` has of a kind.
pub(crate) async fn told(server: &HttpServer, tenant: &str, kind: &str) -> Vec<Value> {
    let ctx = server.app.system.ctx(tenant.parse().unwrap(), "test");
    let all = ctx.read(|_, tx| events::after(tx, 0, 1_000)).await.unwrap();
    let wanted = all.into_iter().filter(|event| event.kind == kind);
    wanted
        .map(|event| json!({"by": event.actor, "data": event.data}))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_nothing_or_nonsense_stays_outside_at_every_door() {
    let server = guarded().await;
    let list = modern("tools/list", json!({}));
    for (method, path) in [
        (Method::POST, "/mcp"),
        (Method::GET, "/mcp"),
        (Method::DELETE, "/mcp"),
        (Method::POST, "/t/acme/mcp"),
        (Method::GET, "/sse"),
        (Method::POST, "/messages?sessionId=x"),
        (Method::GET, "/api/v1/tasks"),
        (Method::POST, "/execute"),
        (Method::GET, "/no/such/path"),
    ] {
        let answer = Answer::of(server.request(method, path).json(&list)).await;
        answer.is_problem(401, "credential_required");
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="baton""#);
    }
    for path in ["/health", "/ready", "/docs", "/openapi.json"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let good = key_of(&server, "acme", "admin").await;
    let id = &good[..19];
    let zeros = "0".repeat(64);
    for bad in [
        "nonsense",
        "bt_",
        "bt_0000000000000000_00",
        &format!("{id}_{zeros}"),
        &good[..good.len() - 1],
        &format!("{good}0"),
        &good.to_uppercase(),
    ] {
        server.show(bad);
        let answer = server.get("/api/v1/tasks").await;
        answer.is_problem(401, "invalid_credential");
        assert!(answer.header("www-authenticate").contains("invalid_token"));
        assert!(!answer.text.contains(bad), "{}", answer.text);
    }
    server.show(&good);
    assert_eq!(server.get("/api/v1/tasks").await.status, 200);
    let tool = call(&server, "/mcp", "task_list", json!({})).await;
    assert_eq!(tool.body["result"]["isError"], false, "{}", tool.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_is_its_own_over_every_transport() {
    // The process beside it goes by the time of day: to that, sessions of a day when time stood still are long over.
    let keys = |settings: &mut Settings| settings.auth = vec![Auth::Keys];
    let server = HttpServer::builder().settings(keys).start().await;
    for role in ["admin", "orchestrator", "executor", "observer"] {
        let shown = key_of(&server, "acme", role).await;
        server.show(&shown);
        let listed = server.ask("tools/list", json!({})).await;
        let shown_tools = listed.body["result"]["tools"].as_array().unwrap();
        let tools: Vec<&str> = shown_tools
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        let session = server.session("/mcp", "2025-11-25").await;
        let mut sse = Client::initialized(&server, "/sse").await;
        // A process that was started with the key.
        let process = HttpServer::builder().beside(&server).settings(|settings| {
            settings.auth = vec![Auth::Keys];
            settings.key = Some(shown.clone().into());
        });
        let process = process.start().await;
        let mut pipes = [
            Pipes::open(&process, Way::PipesModern).await,
            Pipes::open(&process, Way::PipesLegacy).await,
        ];
        for pipe in &mut pipes {
            let listed = pipe.ask("tools/list", json!({})).await;
            assert_eq!(listed["result"]["tools"], json!(shown_tools), "{role}");
        }
        for op in server.app.catalog.ops() {
            let (name, input) = (op.name, (op.sample)());
            let expected = may(role, name);
            assert_eq!(tools.contains(&name), expected, "{role} is shown {name}");
            assert!(is_known(name), "{name}: whose?");
            let modern = call(&server, "/mcp", name, input.clone()).await;
            let over_modern = code(&modern.body["result"]) != "forbidden";
            let legacy = session.ask("tools/call", tool(name, input.clone())).await;
            let over_legacy = code(&legacy["result"]) != "forbidden";
            let sse = sse.ask("tools/call", tool(name, input.clone())).await;
            let over_sse = code(&sse["result"]) != "forbidden";
            let route = op.routes[0];
            let mut path = route.path.to_owned();
            for (field, value) in input.as_object().unwrap() {
                let text = value.as_str().unwrap_or_default();
                path = path.replace(&format!("{{{field}}}"), text);
            }
            let mut rest = server.request(route.method.parse().unwrap(), &path);
            if route.method != "GET" {
                let mut body: Map<String, Value> = input.as_object().unwrap().clone();
                body.retain(|field, _| !route.path.contains(&format!("{{{field}}}")));
                rest = rest.json(&body);
            }
            let over_rest = Answer::of(rest).await.status != 403;
            for pipe in &mut pipes {
                let answer = pipe.call(name, input.clone()).await;
                let over_pipe = code(&answer["result"]) != "forbidden";
                assert_eq!(over_pipe, expected, "{role} calls {name}: {answer}");
            }
            assert_eq!(
                (over_modern, over_legacy, over_sse, over_rest),
                (expected, expected, expected, expected),
                "{role} calls {name}: {} {legacy} {sse}",
                modern.text
            );
        }
    }
    let refused = told(&server, "acme", "dev.baton.access.refused").await;
    assert!(refused.len() > 40, "{}", refused.len());
    assert!(
        refused
            .iter()
            .all(|event| event["by"].as_str().unwrap().starts_with("key:bt_"))
    );
    assert!(
        refused
            .iter()
            .all(|event| event["data"]["code"] == "forbidden")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_for_its_tenant_whoever_else_is_named() {
    let server = guarded().await;
    let globex = key_of(&server, "globex", "orchestrator").await;
    let shown = key_of(&server, "acme", "orchestrator").await;
    server.show(&globex);
    server.dispatch("/mcp", "theirs").await;
    let session = server.session("/mcp", "2025-11-25").await.id;
    server.show(&shown);
    server.dispatch("/mcp", "ours").await;
    for named in ["globex", "nobody"] {
        let path = format!("/t/{named}/api/v1/tasks");
        server.get(&path).await.is_problem(400, "tenant_conflict");
        let header = server
            .request(Method::GET, "/api/v1/tasks")
            .header("x-tenant-id", named);
        Answer::of(header).await.is_problem(400, "tenant_conflict");
        let path = call(&server, &format!("/t/{named}/mcp"), "task_list", json!({})).await;
        let mut message = modern("tools/call", tool("task_list", json!({})));
        message["params"]["_meta"]["dev.baton/tenant"] = named.into();
        let meta = Answer::of(server.modern("/mcp", &message)).await;
        for answer in [path, meta] {
            let error = &answer.body["error"];
            assert_eq!(
                error["data"]["error"]["code"], "tenant_conflict",
                "{}",
                answer.text
            );
            assert!(!answer.text.contains("theirs"));
        }
    }
    let listed = server.get("/t/acme/api/v1/tasks").await;
    assert_eq!(listed.body["tasks"][0]["task_id"], "ours");
    let refused = told(&server, "acme", "dev.baton.access.refused").await;
    assert_eq!(refused.len(), 8, "{refused:?}");
    assert!(
        refused
            .iter()
            .all(|event| event["data"]["code"] == "tenant_conflict")
    );
    let elsewhere = told(&server, "globex", "dev.baton.access.refused").await;
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let theirs = server
        .request(Method::GET, "/mcp")
        .header("mcp-session-id", session);
    let theirs = Answer::of(theirs.header("accept", "text/event-stream")).await;
    assert_eq!(theirs.status, 404, "{}", theirs.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_beginners_even_within_a_tenant() {
    let server = guarded().await;
    let (ada, bob) = (
        key_of(&server, "acme", "orchestrator").await,
        key_of(&server, "acme", "orchestrator").await,
    );
    server.show(&ada);
    let id = server.session("/mcp", "2025-11-25").await.id;
    let endpoint = Client::initialized(&server, "/sse").await;
    server.show(&bob);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let request = server.message("/mcp", &ping).header("mcp-session-id", &id);
    assert_eq!(Answer::of(request).await.status, 404);
    let end = server
        .request(Method::DELETE, "/mcp")
        .header("mcp-session-id", &id);
    assert_eq!(Answer::of(end).await.status, 404);
    assert_eq!(server.post(&endpoint.endpoint, &ping).await.status, 404);
    server.show(&ada);
    let request = server.message("/mcp", &ping).header("mcp-session-id", &id);
    assert_eq!(Answer::of(request).await.status, 200);
    drop(endpoint);
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_narrow_a_role_down_and_agents_narrow_for_whom_it_speaks() {
    let server = guarded().await;
    let input = json!({"roles": ["orchestrator"], "scopes": ["tasks:read", "task_dispatch"]});
    let narrow = key(&server, "acme", input).await;
    server.show(&narrow);
    let listed = server.ask("tools/list", json!({})).await;
    let tools = listed.body["result"]["tools"].as_array().unwrap();
    let tools: Vec<&str> = tools
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        tools,
        ["task_dispatch", "task_get", "task_list", "task_wait"]
    );
    server.dispatch("/mcp", "t").await;
    let cancel = call(&server, "/mcp", "task_cancel", json!({"task_id": "t"})).await;
    assert_eq!(
        code(&cancel.body["result"]),
        "insufficient_scope",
        "{}",
        cancel.text
    );
    let input = json!({"roles": ["executor"], "scopes": ["tasks:execute"], "agents": ["ada"]});
    let ada = key(&server, "acme", input).await;
    server.show(&ada);
    let read = server
        .ask("resources/read", json!({"uri": "baton://tasks/t"}))
        .await;
    assert!(read.text.contains("insufficient_scope"), "{}", read.text);
    let listed = server.ask("resources/list", json!({})).await;
    assert!(!listed.text.contains("baton://tasks/"), "{}", listed.text);
    let bob = call(&server, "/mcp", "task_claim", json!({"agent_id": "bob"})).await;
    assert_eq!(code(&bob.body["result"]), "forbidden", "{}", bob.text);
    assert!(bob.text.contains("ada"), "{}", bob.text);
    let hers = server.claim("/mcp").await;
    let end = hers(json!({"reason": "success"}));
    server.use_tool("/mcp", "task_end", end).await;
    let input = json!({"roles": ["orchestrator"], "agents": ["chief"]});
    let chief = key(&server, "acme", input).await;
    server.show(&chief);
    for (agent, expected) in [("chief", ""), ("other", "forbidden")] {
        let info = json!({"description": "x", "orchestrator_info": {"agent_id": agent}});
        let answer = call(&server, "/mcp", "task_dispatch", info).await;
        assert_eq!(code(&answer.body["result"]), expected, "{}", answer.text);
    }
}

/// What `agent` says of a task that was claimed.
fn held(task: &Value, agent: &str, mut fields: Value) -> Value {
    fields["task_id"] = task["task_id"].clone();
    fields["agent_id"] = agent.into();
    fields["lease_token"] = task["lease"]["token"].clone();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_task_speaks_of_that_task_until_it_ends() {
    let server = guarded().await;
    let both = key(
        &server,
        "acme",
        json!({"roles": ["orchestrator", "executor"]}),
    )
    .await;
    server.show(&both);
    server.dispatch("/mcp", "mine").await;
    let claim = json!({"agent_id": "ada", "task_keys": true});
    let claimed = server.use_tool("/mcp", "task_claim", claim).await;
    let (task, small) = (
        &claimed["tasks"][0],
        claimed["tasks"][0]["key"].as_str().unwrap(),
    );
    server.dispatch("/mcp", "other").await;
    let again = server
        .use_tool("/mcp", "task_claim", json!({"agent_id": "ada"}))
        .await;
    assert!(again["tasks"][0]["key"].is_null(), "{again}");
    let other = &again["tasks"][0];
    server.show(small);
    let progress = json!({"notification_type": "progress", "data": {"progress": 5}});
    server
        .use_tool("/mcp", "task_notify", held(task, "ada", progress.clone()))
        .await;
    let beat = |tasks: &[&Value]| {
        let lease = |task: &&Value| json!({"task_id": task["task_id"], "lease_token": task["lease"]["token"]});
        json!({"agent_id": "ada", "leases": tasks.iter().map(lease).collect::<Vec<_>>()})
    };
    let beats = server
        .use_tool("/mcp", "task_heartbeat", beat(&[task]))
        .await;
    assert_eq!(beats["leases"][0]["held"], true, "{beats}");
    server
        .use_tool("/mcp", "task_get", json!({"task_id": "mine"}))
        .await;
    let read = server
        .ask("resources/read", json!({"uri": "baton://tasks/mine"}))
        .await;
    assert!(read.body["result"]["contents"].is_array(), "{}", read.text);
    for (name, input) in [
        ("task_notify", held(other, "ada", progress.clone())),
        ("task_notify", held(task, "bob", progress)),
        ("task_heartbeat", beat(&[other])),
        ("task_heartbeat", beat(&[task, other])),
        ("task_heartbeat", beat(&[])),
        ("task_get", json!({"task_id": "other"})),
        ("task_list", json!({})),
        ("task_claim", json!({"agent_id": "ada"})),
        ("task_dispatch", json!({"description": "x"})),
        ("key_list", json!({})),
    ] {
        let answer = call(&server, "/mcp", name, input).await;
        assert_eq!(
            code(&answer.body["result"]),
            "forbidden",
            "{name}: {}",
            answer.text
        );
    }
    let read = server
        .ask("resources/read", json!({"uri": "baton://tasks/other"}))
        .await;
    assert!(read.text.contains("forbidden"), "{}", read.text);
    let listed = server.ask("resources/list", json!({})).await;
    assert!(!listed.text.contains("baton://tasks/"), "{}", listed.text);
    let end = held(task, "ada", json!({"reason": "success"}));
    server.use_tool("/mcp", "task_end", end).await;
    server.app.system.clock().advance(Duration::from_secs(2));
    server
        .get("/api/v1/tasks")
        .await
        .is_problem(401, "invalid_credential");
}
