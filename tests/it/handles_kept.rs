//! How handles are kept: whose they are, how long, and who may do what through them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton::ctx::Ctx;
use baton::handles::{self, KEPT, Started, Status, View};
use baton::op::Reply;
use baton::principal::{Grant, Principal, Role, Shown, Tenants};
use serde_json::{Value, json};

use crate::support::Server;

fn input(value: Value) -> serde_json::Map<String, Value> {
    let Value::Object(input) = value else {
        panic!("an input is an object")
    };
    input
}

async fn begin(server: &Server, ctx: &Ctx, op: &str, value: Value) -> View {
    let op = server.app.catalog.require(op).unwrap();
    match handles::begin(ctx, op, input(value), true).await.unwrap() {
        Started::Handle(view) => view,
        Started::Done(output) => panic!("nothing to follow: {output:?}"),
    }
}

fn somebody(server: &Server, name: &str, role: Role) -> Ctx {
    let principal = Principal {
        name: name.into(),
        tenants: Tenants::All,
        grant: Grant {
            roles: vec![role],
            ..Grant::default()
        },
        expires_at: None,
        shown: Shown([0; 32]),
    };
    server.ctx("acme").of(Some(&Arc::new(principal)))
}

/// The shortest time that a handle is kept.
const MOMENT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_handle_is_good_for_a_week_and_then_removed() {
    let server = Server::start();
    let (ctx, catalog) = (server.ctx("acme"), &server.app.catalog);
    let view = begin(&server, &ctx, "task_run", json!({"description": "x"})).await;
    server.clock.advance(KEPT.saturating_sub(MOMENT));
    assert!(handles::get(catalog, &ctx, view.id.as_str()).await.is_ok());
    assert_eq!(handles::tick(&server.app.system).await.unwrap(), 0);
    server.clock.advance(MOMENT);
    let gone = handles::get(catalog, &ctx, view.id.as_str()).await;
    assert_eq!(gone.err().unwrap().code(), "unknown_handle");
    assert_eq!(handles::tick(&server.app.system).await.unwrap(), 1);
    assert_eq!(handles::tick(&server.app.system).await.unwrap(), 0);
}

#[tokio::test]
async fn a_handle_is_its_principals_and_gives_nobody_more_than_he_may() {
    let server = Server::start();
    let catalog = &server.app.catalog;
    let boss = somebody(&server, "key:boss", Role::Orchestrator);
    let eve = somebody(&server, "key:eve", Role::Orchestrator);
    let watcher = somebody(&server, "key:watcher", Role::Observer);
    let task = json!({"description": "x", "task_id": "t"});
    let run = begin(&server, &boss, "task_run", task.clone()).await;
    for other in [&eve, &watcher, &server.ctx("acme"), &server.ctx("globex")] {
        let refused = [
            handles::get(catalog, other, run.id.as_str()).await.err(),
            handles::cancel(catalog, other, run.id.as_str()).await.err(),
            handles::answer(catalog, other, run.id.as_str(), BTreeMap::new())
                .await
                .err(),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap().code(), "unknown_handle");
        }
    }
    let op = catalog.require("task_run").unwrap();
    let refused = handles::begin(&watcher, op, input(task), true).await;
    assert_eq!(refused.err().unwrap().code(), "forbidden");

    let wait = json!({"task_ids": ["t"]});
    let wait = begin(&server, &watcher, "task_wait", wait).await;
    let claimed = server
        .call_as("acme", "task_claim", json!({"agent_id": "ada"}))
        .await;
    let token = &claimed["tasks"][0]["lease"]["token"];
    let ask = json!({"task_id": "t", "agent_id": "ada", "lease_token": token,
        "notification_type": "escalated", "data": {"question": "which?", "options": {"a": "one", "b": "two"}}});
    server.call_as("acme", "task_notify", ask).await;
    let seen = handles::get(catalog, &watcher, wait.id.as_str())
        .await
        .unwrap();
    let Status::Asking(asks) = seen.status else {
        panic!("it asks")
    };
    assert_eq!(
        asks[0].form["properties"]["answer"]["enum"],
        json!(["a", "b"])
    );
    let reply = Reply::Accepted(json!({"answer": "a"}));
    let replies: BTreeMap<_, _> = [(asks[0].key.clone(), reply)].into();
    let refused = handles::answer(catalog, &watcher, wait.id.as_str(), replies.clone()).await;
    assert_eq!(refused.unwrap_err().code(), "forbidden");
    handles::answer(catalog, &boss, run.id.as_str(), replies)
        .await
        .unwrap();
    let known = server
        .call_as("acme", "task_get", json!({"task_id": "t"}))
        .await;
    assert_eq!(known["answers"][0]["answer"], "a");
}

#[tokio::test]
async fn a_tenant_holds_so_many_handles_that_go_on_and_others_hold_their_own() {
    let server = Server::start();
    let operator = server.ctx("acme");
    let limit = json!({"limit": "max_handles_per_tenant", "value": 2, "scope": "server"});
    let set = server
        .app
        .catalog
        .call(operator.clone(), "limits_set", input(limit));
    assert_eq!(set.await.unwrap()["at_start"], 10_000);
    let (acme, globex) = (server.ctx("acme"), server.ctx("globex"));
    let op = server.app.catalog.require("task_run").unwrap();
    let run = async |ctx: &Ctx, task: &str| {
        let task = json!({"description": "x", "task_id": task});
        handles::begin(ctx, op, input(task), true).await
    };
    for task in ["a", "b"] {
        run(&acme, task).await.unwrap();
    }
    let refused = run(&acme, "c").await.err().unwrap();
    assert_eq!(
        (refused.code(), refused.retry_after()),
        ("too_many_calls", Some(Duration::from_secs(30)))
    );
    assert!(
        refused.message().contains("max_handles_per_tenant is 2"),
        "{refused}"
    );
    let unknown = server
        .try_call_as("acme", "task_get", json!({"task_id": "c"}))
        .await;
    assert_eq!(
        unknown.unwrap_err().code(),
        "unknown_task",
        "nothing was begun"
    );
    assert!(run(&globex, "a").await.is_ok());
    // What has ended makes room once somebody has been told.
    server
        .call_as("acme", "task_cancel", json!({"task_id": "a"}))
        .await;
    assert!(run(&acme, "c").await.is_err());
    let Started::Handle(first) = run(&globex, "b").await.unwrap() else {
        panic!("it goes on")
    };
    server
        .call_as("globex", "task_cancel", json!({"task_id": "b"}))
        .await;
    assert!(run(&globex, "c").await.is_err());
    let told = handles::get(&server.app.catalog, &globex, first.id.as_str()).await;
    assert!(told.unwrap().status.is_terminal());
    assert!(run(&globex, "c").await.is_ok());
    server.advance(KEPT).await;
    assert!(
        run(&acme, "d").await.is_ok(),
        "what has expired takes no room"
    );
}
