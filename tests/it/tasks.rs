//! The life of a task, from dispatch to end.

use std::time::Duration;

use serde_json::json;

use crate::support::Server;

#[tokio::test]
async fn a_task_is_dispatched_claimed_reported_on_and_ended() {
    let server = Server::start();
    let id = server
        .dispatch(json!({"description": "count lines", "title": "Lines"}))
        .await;
    assert_eq!(server.state(&id).await, "pending");

    let held = server.claim("ada", &[]).await.expect("a task");
    assert_eq!(
        (held.task_id.as_str(), &held.task["attempt"]),
        (id.as_str(), &json!(1))
    );
    assert_eq!(server.state(&id).await, "assigned");

    let started = server
        .call("task_notify", held.notification("started", json!({})))
        .await;
    assert_eq!(
        (&started["state"], &started["sequence"]),
        (&json!("in_progress"), &json!(3))
    );
    server
        .call(
            "task_notify",
            held.notification("task_progress", json!({"progress": 40})),
        )
        .await;
    let end =
        held.with(json!({"reason": "success", "result": {"lines": 42}, "next_steps": ["rest"]}));
    let ended = server.call("task_end", end.clone()).await;
    assert_eq!(ended["state"], "completed");
    assert_eq!(
        server.call("task_end", end).await,
        ended,
        "repeating the same end is harmless"
    );

    let task = server.call("task_get", json!({"task_id": id})).await;
    assert_eq!(task["result"], json!({"lines": 42}));
    assert_eq!(task["report"]["next_steps"], json!(["rest"]));
    let sequences: Vec<_> = task["notifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["sequence"].clone())
        .collect();
    assert_eq!(sequences, [json!(3), json!(4)]);
}

#[tokio::test]
async fn an_expired_lease_returns_the_task_to_the_queue_and_fences_the_dead_executor() {
    let server = Server::start();
    let id = server.dispatch(json!({"description": "x"})).await;
    let dead = server.claim("dead", &[]).await.expect("a task");
    server.advance(Duration::from_secs(61)).await;
    assert_eq!(server.state(&id).await, "pending");
    assert!(
        server.claim("next", &[]).await.is_none(),
        "the retry pauses first"
    );
    server.advance(Duration::from_secs(2)).await;
    let next = server.claim("next", &[]).await.expect("the retry");
    assert_eq!(next.task["attempt"], 2);

    let late = server
        .try_call(
            "task_notify",
            dead.notification("progress", json!({"progress": 1})),
        )
        .await;
    assert_eq!(late.unwrap_err().code(), "lease_lost");
    let late = server.try_call("task_end", dead.end("success")).await;
    assert_eq!(late.unwrap_err().code(), "lease_lost");
    server.call("task_end", next.end("success")).await;
    assert_eq!(server.state(&id).await, "completed");
}
