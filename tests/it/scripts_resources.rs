//! Resources in the hands of tools: a script uses those of its tenant that are there for tools (`deploy`), with the rights of
//! whoever calls it.

use std::sync::Arc;

use baton::principal::{Grant, Principal, Role, Shown, Tenants};
use baton::script::Scripts;
use serde_json::{Value, json};

use crate::scripts::answer;
use crate::support::Server;

/// Tries what `args` says, and answers what came of it, or the code of its refusal.
const TRY: &str = "async function main({what, with: input}, baton) {
    try { return await baton.resources[what](...input); } catch (error) { return error.code; }
}";

/// A server with two tenants, each with a folder of its own.
async fn with_folders(permissions: &[&str]) -> Server {
    let server = Server::start();
    for tenant in ["acme", "globex"] {
        let folder = json!({"resource_id": format!("{tenant}-notes"), "type": "file_storage", "uri": "file://tenant/notes",
            "access_permissions": permissions});
        server.call_as(tenant, "resource_register", folder).await;
    }
    server
}

async fn register(server: &Server, id: &str, permissions: &[&str]) {
    let folder = json!({"resource_id": id, "type": "file_storage", "uri": format!("file://tenant/{id}"),
        "access_permissions": permissions});
    server.call_as("acme", "resource_register", folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_uses_the_resources_of_its_tenant_that_tools_may_use() {
    let server = with_folders(&["read", "write", "deploy"]).await;
    register(&server, "for-people", &["read", "write"]).await;
    register(&server, "to-read", &["read", "deploy"]).await;
    register(&server, "only-deployed", &["deploy"]).await;
    let (ctx, scripts) = (server.ctx("acme"), Scripts::default());
    let attempt = async |what: &str, with: Value| {
        let input = json!({"what": what, "with": with});
        answer(&scripts, &ctx, TRY, input).await
    };
    let written = attempt("write", json!(["acme-notes", "plans/a.md", "Grüße"])).await;
    assert_eq!(written["bytes"], 7, "{written}");
    let read = attempt("read", json!(["acme-notes", "plans/a.md"])).await;
    assert_eq!(read["text"], "Grüße");
    let part = attempt(
        "read",
        json!(["acme-notes", "plans/a.md", {"offset": 2, "length": 3}]),
    );
    assert_eq!(part.await["next_offset"], 4);
    let folder = attempt("read", json!(["acme-notes", "plans"])).await;
    assert_eq!(folder["entries"][0]["path"], "plans/a.md");
    let blob = attempt("write", json!(["acme-notes", "b", {"blob": "AAE="}])).await;
    assert_eq!(blob["bytes"], 2);
    attempt("write", json!(["acme-notes", "b", {"remove": true}])).await;
    assert_eq!(
        attempt("read", json!(["acme-notes", "b"])).await,
        "unknown_file"
    );
    // Only what tools may use is shown to them; whoever calls sees all.
    let listed = attempt("list", json!([])).await;
    let shown = listed["resources"].as_array().unwrap().iter();
    let shown: Vec<&str> = shown
        .map(|one| one["resource_id"].as_str().unwrap())
        .collect();
    assert_eq!(shown, ["acme-notes", "only-deployed", "to-read"]);
    let all = server.call_as("acme", "resource_list", json!({})).await;
    assert_eq!(all["resources"].as_array().unwrap().len(), 4);
    for (what, with, code) in [
        // Another tenant's is unknown, whatever it allows there.
        ("read", json!(["globex-notes", ""]), "unknown_resource"),
        (
            "write",
            json!(["globex-notes", "x", "y"]),
            "unknown_resource",
        ),
        ("read", json!(["nothing", ""]), "unknown_resource"),
        // What nobody deployed is for people.
        ("read", json!(["for-people", ""]), "forbidden"),
        ("write", json!(["for-people", "x", "y"]), "forbidden"),
        // What was deployed is no more than it allows.
        ("write", json!(["to-read", "x", "y"]), "forbidden"),
        ("read", json!(["only-deployed", ""]), "forbidden"),
        ("read", json!(["acme-notes", "../x"]), "invalid_input"),
        ("write", json!(["acme-notes", "x"]), "invalid_input"),
        ("read", json!([]), "invalid_input"),
    ] {
        assert_eq!(attempt(what, with.clone()).await, code, "{what} {with}");
    }
    // People use it as before.
    let mine = json!({"resource_id": "for-people", "path": "x", "text": "y"});
    server.call_as("acme", "resource_write", mine).await;
    let theirs = server.call_as(
        "globex",
        "resource_read",
        json!({"resource_id": "globex-notes"}),
    );
    assert_eq!(theirs.await["entries"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_asks_the_databases_that_tools_may_use() {
    let server = Server::start();
    for (id, permissions) in [
        ("notes", &["read", "write", "deploy"][..]),
        ("for-people", &["read", "write"]),
    ] {
        let database = json!({"resource_id": id, "type": "database", "uri": format!("file://tenant/{id}.db"),
            "access_permissions": permissions});
        server.call_as("acme", "resource_register", database).await;
    }
    let (ctx, scripts) = (server.ctx("acme"), Scripts::default());
    let ask = async |with: Value| {
        answer(&scripts, &ctx, TRY, json!({"what": "query", "with": with})).await
    };
    let change = json!({"write": true});
    let made = ask(json!([
        "notes",
        "CREATE TABLE kept (text TEXT)",
        [],
        change
    ]))
    .await;
    assert!(made.is_object(), "{made}");
    let insert = "INSERT INTO kept VALUES ($1)";
    let kept = ask(json!(["notes", insert, ["'); DROP TABLE kept"], change])).await;
    assert_eq!(kept["changed"], 1, "{kept}");
    let found = ask(json!(["notes", "SELECT text FROM kept", []])).await;
    assert_eq!(found["rows"], json!([["'); DROP TABLE kept"]]), "{found}");
    assert_eq!(
        ask(json!(["for-people", "SELECT 1", []])).await,
        "forbidden"
    );
    let (other, input) = (
        server.ctx("globex"),
        json!({"what": "query", "with": ["notes", "SELECT 1", []]}),
    );
    let elsewhere = answer(&scripts, &other, TRY, input).await;
    assert_eq!(elsewhere, "unknown_resource");
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_is_granted_to_roles_and_agents_as_other_rights_are() {
    let server = with_folders(&["read", "executor:deploy", "agent:ada:deploy"]).await;
    let scripts = Scripts::default();
    for (role, agents, expected) in [
        (Role::Executor, &[][..], "read"),
        (Role::Orchestrator, &[], "forbidden"),
        (Role::Orchestrator, &["ada"], "read"),
        (Role::Orchestrator, &["bob"], "forbidden"),
    ] {
        let who = Arc::new(Principal {
            name: "key:somebody".into(),
            tenants: Tenants::All,
            grant: Grant {
                roles: vec![role],
                agents: agents.iter().map(|agent| agent.parse().unwrap()).collect(),
                ..Grant::default()
            },
            expires_at: None,
            shown: Shown([0; 32]),
        });
        let ctx = server.ctx("acme").of(Some(&who));
        let input = json!({"what": "read", "with": ["acme-notes"]});
        let came = answer(&scripts, &ctx, TRY, input).await;
        let came = came["entries"]
            .as_array()
            .map_or(came.as_str(), |_| Some("read"));
        assert_eq!(came, Some(expected), "{role:?} {agents:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_reads_and_writes_is_called_by_name_and_its_questions_are_counted() {
    let server = with_folders(&["read", "write", "deploy"]).await;
    let source = "async function main({times}, baton) {
        for (let at = 0; at < times; at += 1) await baton.resources.write('acme-notes', `${at}.txt`, 'x');
        return {files: (await baton.resources.read('acme-notes')).entries.length};
    }";
    let tool = json!({"name": "fill", "description": "Writes files", "parameters": {"properties": {"times": {"type": "integer"}}},
        "implementation": {"type": "script", "source": source}});
    server.call_as("acme", "tool_create", tool).await;
    let fill = |times: u32| json!({"name": "fill", "arguments": {"times": times}});
    let filled = server.call_as("acme", "tool_call", fill(3)).await;
    assert_eq!(filled["files"], 3);
    let refused = server.try_call_as("acme", "tool_call", fill(100)).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.message().contains("100 things at most"),
        "{refused}"
    );
    // What it writes counts against what the tenant may store.
    let small = json!({"tenant_id": "acme", "storage_limits": {"max_storage_bytes": 3}});
    server.call("tenant_configure", small).await;
    let long = "async function main(_, baton) { await baton.resources.write('acme-notes', 'long', 'xxxx'); }";
    let tool = json!({"name": "long", "description": "Writes much", "implementation": {"type": "script", "source": long}});
    server.call_as("acme", "tool_create", tool).await;
    let refused = server
        .try_call_as("acme", "tool_call", json!({"name": "long"}))
        .await;
    let refused = refused.unwrap_err();
    assert!(
        refused
            .message()
            .contains("max_storage_bytes of this tenant is 3"),
        "{refused}"
    );
}
