//! Who may do what with a resource: by role, by agent, and by what the registration says.

use std::sync::Arc;

use baton::error::Error;
use baton::principal::{Grant, Principal, Role, Shown, Tenants};
use serde_json::{Value, json};

use crate::resources::{at, notes, writing};
use crate::support::Server;

/// Somebody with these roles, for these agents.
fn somebody(roles: &[Role], agents: &[&str]) -> Arc<Principal> {
    Arc::new(Principal {
        name: format!("key:{roles:?}").into(),
        tenants: Tenants::All,
        grant: Grant {
            roles: roles.to_vec(),
            agents: agents.iter().map(|agent| agent.parse().unwrap()).collect(),
            ..Grant::default()
        },
        expires_at: None,
        shown: Shown([0; 32]),
    })
}

async fn call(
    server: &Server,
    who: &Arc<Principal>,
    op: &str,
    input: Value,
) -> Result<Value, Error> {
    let ctx = server.ctx("default").of(Some(who));
    let input = input.as_object().unwrap().clone();
    server.app.catalog.call(ctx, op, input).await
}

fn code(answer: Result<Value, Error>) -> &'static str {
    answer.err().map_or("ok", |error| error.code())
}

#[tokio::test]
async fn each_role_and_agent_may_do_what_the_resource_allows() {
    let server = Server::start();
    let admin = somebody(&[Role::Admin], &[]);
    let boss = somebody(&[Role::Orchestrator], &[]);
    let worker = somebody(&[Role::Executor], &[]);
    let ada = somebody(&[Role::Executor], &["ada"]);
    let guest = somebody(&[Role::Observer], &[]);
    let mut folder = notes();
    folder["access_permissions"] = json!([
        "orchestrator:read",
        "executor:read",
        "agent:ada:write",
        "observer:write"
    ]);
    call(&server, &boss, "resource_register", folder.clone())
        .await
        .unwrap();
    for (who, write, read, delete) in [
        (&admin, "forbidden", "forbidden", "ok"),
        (&boss, "forbidden", "ok", "ok"),
        (&worker, "forbidden", "ok", "forbidden"),
        (&ada, "ok", "ok", "forbidden"),
        // The rule is his, but not the role that may write anything.
        (&guest, "forbidden", "forbidden", "forbidden"),
    ] {
        assert_eq!(
            code(call(&server, who, "resource_write", writing("a.txt", "x")).await),
            write,
            "{who:?}"
        );
        assert_eq!(
            code(call(&server, who, "resource_read", at("")).await),
            read,
            "{who:?}"
        );
        let uri = "baton://resources/notes";
        let over_mcp = server
            .app
            .catalog
            .read(&server.ctx("default").of(Some(who)), uri)
            .await;
        assert_eq!(
            over_mcp.err().map_or("ok", |error| error.code()),
            read,
            "{who:?}"
        );
        assert_eq!(
            code(
                call(
                    &server,
                    who,
                    "resource_delete",
                    json!({"resource_id": "notes"})
                )
                .await
            ),
            delete,
            "{who:?}"
        );
        call(&server, &boss, "resource_register", folder.clone())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn whoever_may_do_nothing_with_a_resource_does_not_know_that_it_is_there() {
    let server = Server::start();
    let boss = somebody(&[Role::Orchestrator], &[]);
    let worker = somebody(&[Role::Executor], &[]);
    let ada = somebody(&[Role::Executor], &["ada"]);
    let mut folder = notes();
    folder["access_permissions"] = json!(["agent:ada:read"]);
    call(&server, &boss, "resource_register", folder.clone())
        .await
        .unwrap();
    for op in ["resource_get", "resource_read"] {
        assert_eq!(
            code(call(&server, &worker, op, json!({"resource_id": "notes"})).await),
            "unknown_resource"
        );
        assert_eq!(
            code(call(&server, &ada, op, json!({"resource_id": "notes"})).await),
            "ok"
        );
    }
    let listed = call(&server, &worker, "resource_list", json!({}))
        .await
        .unwrap();
    assert_eq!(listed["resources"], json!([]));
    let (items, _) = server
        .app
        .catalog
        .list(&server.ctx("default").of(Some(&worker)), None, 100)
        .await
        .unwrap();
    assert!(items.iter().all(|(_, item)| !item.uri.contains("notes")));
    let taken = call(
        &server,
        &somebody(&[Role::Orchestrator], &["eve"]),
        "resource_register",
        notes(),
    )
    .await;
    assert_eq!(code(taken), "forbidden");
    // Where nobody is asked who he is, an agent is who he says.
    let as_agent = |agent: &str| json!({"resource_id": "notes", "agent_id": agent});
    assert_eq!(
        server.code("resource_read", as_agent("eve")).await,
        "unknown_resource"
    );
    server.call("resource_read", as_agent("ada")).await;
    let bad = json!({"resource_id": "b", "type": "file_storage", "uri": "file://tenant", "access_permissions": ["fly"]});
    let refused = server.try_call("resource_register", bad).await.unwrap_err();
    assert_eq!(refused.findings()[0].path, "/access_permissions/0");
}
