//! What becomes of tasks: dependencies, claims, leases, retries, timeouts.

use std::time::Duration;

use baton::clock::Time;
use futures::FutureExt as _;
use serde_json::{Value, json};

use crate::support::{START, Server};

#[tokio::test]
async fn a_repeated_dispatch_is_the_same_task_and_another_payload_a_conflict() {
    let server = Server::start();
    let input = |stamp: &str| {
        json!({"task_id": "mine", "description": "x",
            "orchestrator_info": {"agent_id": "o", "timestamp": stamp}})
    };
    let first = server
        .call("task_dispatch", input("2026-11-21T10:00:00Z"))
        .await;
    let again = server
        .call("task_dispatch", input("2026-11-21T11:00:00+01:00"))
        .await;
    assert_eq!(
        (&first["created"], &again["created"]),
        (&json!(true), &json!(false))
    );
    let other = json!({"task_id": "mine", "description": "y"});
    assert_eq!(server.code("task_dispatch", other).await, "task_id_taken");
}

#[tokio::test]
async fn a_task_waits_for_all_that_it_depends_on_and_gets_their_results() {
    let server = Server::start();
    for id in ["a", "b"] {
        server
            .dispatch(json!({"task_id": id, "description": id}))
            .await;
    }
    let join = json!({"task_id": "join", "description": "j", "depends_on": ["a", "b"]});
    assert_eq!(server.call("task_dispatch", join).await["state"], "blocked");
    for id in ["a", "b"] {
        assert_eq!(server.state("join").await, "blocked");
        let held = server.claim("ada", &[]).await.unwrap();
        assert_eq!(held.task_id, id);
        server
            .call(
                "task_end",
                held.with(json!({"reason": "success", "result": {"of": id}})),
            )
            .await;
    }
    let held = server.claim("ada", &[]).await.unwrap();
    assert_eq!(
        held.task["dependency_results"],
        json!({"a": {"of": "a"}, "b": {"of": "b"}})
    );
}

#[tokio::test]
async fn a_failure_cancels_what_depends_on_it_down_the_graph_unless_it_is_to_run() {
    let server = Server::start();
    let root =
        json!({"task_id": "root", "description": "r", "execution_context": {"max_retries": 0}});
    server.dispatch(root).await;
    server
        .dispatch(json!({"task_id": "child", "description": "c", "depends_on": ["root"]}))
        .await;
    server
        .dispatch(json!({"task_id": "grandchild", "description": "g", "depends_on": ["child"]}))
        .await;
    let anyway = json!({"task_id": "anyway", "description": "a", "depends_on": ["root"], "on_dependency_failure": "run"});
    server.dispatch(anyway).await;
    let held = server.claim("ada", &[]).await.unwrap();
    server.call("task_end", held.end("failure")).await;
    assert_eq!(server.state("root").await, "failed");
    for id in ["child", "grandchild"] {
        let task = server.task(id).await;
        assert_eq!(
            (&task["state"], &task["cause"]),
            (&json!("cancelled"), &json!("dependency_failed")),
            "{id}"
        );
    }
    assert_eq!(server.state("anyway").await, "pending");
    let late = json!({"task_id": "late", "description": "l", "depends_on": ["root"]});
    assert_eq!(
        server.call("task_dispatch", late).await["state"],
        "cancelled"
    );
    assert_eq!(
        server.code("task_retry", json!({"task_id": "child"})).await,
        "dependency_failed"
    );
    server.call("task_retry", json!({"task_id": "root"})).await;
    assert_eq!(
        server.call("task_retry", json!({"task_id": "child"})).await["state"],
        "blocked"
    );
}

#[tokio::test]
async fn unknown_dependencies_and_cycles_are_refused_with_their_place() {
    let server = Server::start();
    for (input, path) in [
        (
            json!({"description": "x", "depends_on": ["nothing"]}),
            "/depends_on/0",
        ),
        (
            json!({"task_id": "me", "description": "x", "depends_on": ["me"]}),
            "/depends_on/0",
        ),
        (
            json!({"description": "x", "parent_task_id": "nothing"}),
            "/parent_task_id",
        ),
        (
            json!({"description": "x", "result_schema": {"type": 7}}),
            "/result_schema",
        ),
    ] {
        let error = server.try_call("task_dispatch", input).await.unwrap_err();
        assert_eq!(error.findings()[0].path, path, "{error}");
    }
}

#[tokio::test]
async fn claims_go_by_priority_then_age_and_by_what_the_agent_can_do() {
    let server = Server::start();
    for (id, priority, capabilities) in [
        ("old", "normal", json!([])),
        ("new", "medium", json!([])),
        ("first", "critical", json!([])),
        ("rust", "urgent", json!(["rust", "gpu"])),
    ] {
        server.dispatch(json!({"task_id": id, "description": id, "priority": priority, "required_capabilities": capabilities})).await;
        server.clock.advance(Duration::from_millis(1));
    }
    let for_bob = json!({"task_id": "bobs", "description": "b", "assigned_to": "bob", "priority": "critical"});
    server.dispatch(for_bob).await;
    let take = async |agent: &str, capabilities: &[&str]| {
        server
            .claim(agent, capabilities)
            .await
            .map(|held| held.task_id)
    };
    assert_eq!(take("ada", &["rust"]).await.as_deref(), Some("first"));
    assert_eq!(take("ada", &["rust"]).await.as_deref(), Some("old"));
    assert_eq!(
        take("eve", &["gpu", "rust", "more"]).await.as_deref(),
        Some("rust")
    );
    assert_eq!(take("bob", &[]).await.as_deref(), Some("bobs"));
    assert_eq!(take("eve", &[]).await.as_deref(), Some("new"));
    assert_eq!(take("eve", &["rust"]).await, None);
}

#[tokio::test]
async fn an_agent_holds_three_tasks_and_at_most_five() {
    let server = Server::start();
    for number in 0..8 {
        server
            .dispatch(json!({"description": number.to_string()}))
            .await;
    }
    let claim =
        |most: u32| json!({"agent_id": "ada", "max_tasks": 10, "max_concurrent_tasks": most});
    let first = server
        .call("task_claim", json!({"agent_id": "ada", "max_tasks": 10}))
        .await;
    assert_eq!(
        (first["tasks"].as_array().unwrap().len(), &first["limit"]),
        (3, &json!(3))
    );
    assert_eq!(server.call("task_claim", claim(5)).await["holding"], 5);
    let error = server.try_call("task_claim", claim(6)).await.unwrap_err();
    assert_eq!(error.findings()[0].path, "/max_concurrent_tasks");
}

#[tokio::test]
async fn a_waiting_claim_gets_the_next_task_and_ends_at_its_deadline() {
    let server = Server::start();
    let input = json!({"agent_id": "ada", "wait_seconds": 50});
    let waiting = server.call("task_claim", input.clone());
    let dispatching = server.dispatch(json!({"task_id": "new", "description": "x"}));
    let (claimed, _) = tokio::join!(waiting, dispatching);
    assert_eq!(claimed["tasks"][0]["task_id"], "new");
    let waiting = server.call("task_claim", input);
    let passing = async { server.clock.advance(Duration::from_secs(51)) };
    let (claimed, ()) = tokio::join!(waiting, passing);
    assert_eq!(claimed["tasks"], json!([]));
}

#[tokio::test]
async fn heartbeats_keep_the_lease_and_bring_what_changed() {
    let server = Server::start();
    let (id, held) = server
        .held(json!({"description": "x", "task_data": {"a": 1, "b": {"c": 2}}}))
        .await;
    let beat =
        json!({"agent_id": "ada", "leases": [{"task_id": id, "lease_token": held.lease_token}]});
    for _ in 0..5 {
        server.advance(Duration::from_secs(50)).await;
        let lease = server.call("task_heartbeat", beat.clone()).await["leases"][0].clone();
        assert_eq!(
            (&lease["held"], lease.get("task_data")),
            (&json!(true), None)
        );
    }
    let update = json!({"task_id": id, "priority": "high", "task_data": {"a": null, "b": {"d": 3}}, "request_report": true});
    server.call("task_update", update).await;
    let lease = server.call("task_heartbeat", beat.clone()).await["leases"][0].clone();
    assert_eq!(lease["task_data"], json!({"b": {"c": 2, "d": 3}}));
    assert_eq!(
        (&lease["priority"], &lease["report_requested"]),
        (&json!("high"), &json!(true))
    );
    let told = server
        .notify(&held, "progress", json!({"progress": 5}))
        .await;
    assert_eq!(told.get("report_requested"), None);
    server
        .call("task_cancel", json!({"task_id": id, "reason": "enough"}))
        .await;
    let lease = server.call("task_heartbeat", beat).await["leases"][0].clone();
    assert_eq!(
        (&lease["held"], &lease["code"]),
        (&json!(false), &json!("task_already_ended"))
    );
    assert!(lease["reason"].as_str().unwrap().contains("enough"));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_fails() {
    let server = Server::start();
    let id = server
        .dispatch(json!({"description": "x", "execution_context": {"timeout_seconds": 10}}))
        .await;
    server.claim("ada", &[]).await.unwrap();
    server.advance(Duration::from_secs(11)).await;
    let task = server.task(&id).await;
    assert_eq!(
        (&task["state"], &task["cause"], &task["outcome"]),
        (&json!("failed"), &json!("timeout"), &json!("timeout"))
    );
}

#[tokio::test]
async fn failures_are_tried_again_with_growing_pauses_until_the_retries_are_spent() {
    let server = Server::start();
    let id = server
        .dispatch(json!({"description": "x", "execution_context": {"max_retries": 2}}))
        .await;
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        let held = server.claim("ada", &[]).await.unwrap();
        assert_eq!(held.task["attempt"], attempt);
        let failed = json!({"error": format!("broke {attempt}")});
        server.notify(&held, "failed", failed).await;
        let end = held.end("failure");
        let ended = server.call("task_end", end.clone()).await;
        assert_eq!(
            server.call("task_end", end).await,
            ended,
            "repeating it is harmless"
        );
        if attempt < 3 {
            let due: baton::clock::Time = ended["retry_at"].as_str().unwrap().parse().unwrap();
            pauses.push(due.since(server.clock.steady()));
            server.advance(Duration::from_secs(3)).await;
        }
    }
    assert!(
        pauses[0] >= Duration::from_millis(500) && pauses[0] <= Duration::from_secs(1),
        "{pauses:?}"
    );
    assert!(
        pauses[1] >= Duration::from_secs(1) && pauses[1] <= Duration::from_secs(2),
        "{pauses:?}"
    );
    let task = server.task(&id).await;
    assert_eq!(task["state"], "failed");
    let problems: Vec<_> = task["report"]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["problem"].clone())
        .collect();
    assert_eq!(
        problems,
        [json!("broke 1"), json!("broke 2"), json!("broke 3")]
    );
    let retried = json!({"task_id": id, "description": "y", "priority": "high", "required_capabilities": ["rust"], "max_retries": 0});
    assert_eq!(server.call("task_retry", retried).await["state"], "pending");
    assert!(server.claim("ada", &[]).await.is_none());
    let held = server.claim("ada", &["rust"]).await.unwrap();
    assert_eq!(
        (&held.task["description"], &held.task["attempt"]),
        (&json!("y"), &json!(4))
    );
}

#[tokio::test]
async fn a_failure_that_is_not_retryable_fails_at_once() {
    let server = Server::start();
    let (id, held) = server.held(json!({"description": "x"})).await;
    server
        .notify(&held, "failed", json!({"error": "no", "retryable": false}))
        .await;
    server.call("task_end", held.end("failure")).await;
    assert_eq!(server.state(&id).await, "failed");
}

#[tokio::test]
async fn a_result_must_be_what_was_asked_for() {
    let server = Server::start();
    let schema = json!({"type": "object", "required": ["lines"], "properties": {"lines": {"type": "integer"}}});
    let (id, held) = server
        .held(json!({"description": "x", "result_schema": schema}))
        .await;
    let end = |result: Value| held.with(json!({"reason": "success", "result": result}));
    let error = server
        .try_call("task_end", end(json!({"lines": "many"})))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.findings()[0].path.as_str()),
        ("invalid_result", "/result/lines")
    );
    assert_eq!(server.state(&id).await, "assigned");
    server
        .notify(
            &held,
            "completed",
            json!({"result": {"lines": 3}, "quality_score": 0.9}),
        )
        .await;
    server.call("task_end", held.end("success")).await;
    let task = server.task(&id).await;
    assert_eq!(
        (&task["result"], &task["report"]["quality_score"]),
        (&json!({"lines": 3}), &json!(0.9))
    );
}

#[tokio::test]
async fn jumps_of_the_wall_clock_back_and_forth_move_no_lease_no_wait_and_no_number() {
    const HOUR: i64 = 3_600_000_000;
    let server = Server::start();
    let (id, held) = server.held(json!({"description": "x"})).await;
    let mut numbers = Vec::new();
    for hours in [1, -1, 1, 0] {
        server
            .clock
            .jump(Time::from_micros(START.as_micros() + hours * HOUR));
        let wait = server.call("task_wait", json!({"task_ids": [id], "wait_seconds": 50}));
        assert!(wait.now_or_never().is_none(), "a jump ends no wait");
        server.settle().await;
        assert_ne!(server.state(&id).await, "pending");
        let report = held.notification("started", json!({}));
        numbers.push(server.call("task_notify", report).await["sequence"].as_i64());
        server.dispatch(json!({"task_id": format!("at{hours}{}", numbers.len()), "description": "y", "assigned_to": "eve"})).await;
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let count = server.call("task_list", json!({"limit": 200})).await["tasks"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(count, 5, "whatever time it says, each task is listed once");
    // The lease ends when its seconds have passed, though the wall clock stands where it began.
    server.clock.advance(Duration::from_secs(61));
    server.clock.jump(START);
    server.settle().await;
    server.advance(Duration::from_secs(3)).await;
    assert_eq!(server.claim("bob", &[]).await.unwrap().task["attempt"], 2);
    let late = held.notification("started", json!({}));
    assert_eq!(server.code("task_notify", late).await, "lease_lost");
}
