//! Questions: what an executor asks, who answers, and what time does to a task meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::support::Server;

#[tokio::test]
async fn a_question_stops_the_timeout_until_it_is_answered() {
    let server = Server::start();
    let (id, held) = server
        .held(json!({"description": "x", "execution_context": {"timeout_seconds": 100}}))
        .await;
    let ask = held.notification(
        "escalated",
        json!({"question": "which?", "options": ["a", "b"], "severity": "low"}),
    );
    assert_eq!(server.call("task_notify", ask).await["state"], "escalated");
    let beat = json!({"agent_id": "ada", "lease_seconds": 3600, "leases": [{"task_id": id, "lease_token": held.lease_token}]});
    server.call("task_heartbeat", beat.clone()).await;
    server.advance(Duration::from_secs(1_000)).await;
    let waited = server
        .call("task_wait", json!({"task_ids": [id], "wait_seconds": 0}))
        .await;
    assert_eq!(
        (&waited["done"], &waited["tasks"][0]["question"]["question"]),
        (&json!(true), &json!("which?"))
    );
    assert_eq!(
        server
            .call("task_answer", json!({"task_id": id, "answer": "a"}))
            .await["state"],
        "in_progress"
    );
    let lease = server.call("task_heartbeat", beat).await["leases"][0].clone();
    assert_eq!(lease["answers"][0]["answer"], "a");
    server.advance(Duration::from_secs(101)).await;
    assert_eq!(server.state(&id).await, "failed");
    assert_eq!(
        server
            .code("task_answer", json!({"task_id": id, "answer": "b"}))
            .await,
        "task_already_ended"
    );
}

#[tokio::test]
async fn a_task_given_back_with_a_question_rests_and_goes_on_with_the_answer() {
    let server = Server::start();
    let (id, held) = server
        .held(json!({"description": "x", "execution_context": {"timeout_seconds": 100}}))
        .await;
    let back =
        held.with(json!({"reason": "escalated", "execution_summary": {"question": "which?"}}));
    assert_eq!(server.call("task_end", back).await["state"], "escalated");
    assert!(server.claim("eve", &[]).await.is_none());
    server.advance(Duration::from_secs(99)).await;
    server
        .call(
            "task_answer",
            json!({"task_id": id, "answer": {"pick": "a"}}),
        )
        .await;
    let held = server.claim("eve", &[]).await.unwrap();
    assert_eq!(
        (&held.task["attempt"], &held.task["answers"][0]["answer"]),
        (&json!(2), &json!({"pick": "a"}))
    );
    let back = held.with(json!({"reason": "escalated"}));
    server.call("task_end", back).await;
    server.advance(Duration::from_secs(101)).await;
    assert_eq!(server.state(&id).await, "failed", "nobody answered in time");
}

#[tokio::test]
async fn a_lost_executor_leaves_its_question_standing() {
    let server = Server::start();
    let (id, held) = server.held(json!({"description": "x"})).await;
    server
        .notify(&held, "escalated", json!({"reason": "unclear"}))
        .await;
    server.advance(Duration::from_secs(61)).await;
    let task = server.task(&id).await;
    assert_eq!(
        (&task["state"], &task["question"]["reason"]),
        (&json!("escalated"), &json!("unclear"))
    );
    assert_eq!(
        server
            .call("task_answer", json!({"task_id": id, "answer": "so"}))
            .await["state"],
        "pending"
    );
    assert_eq!(
        server
            .code("task_notify", held.notification("started", json!({})))
            .await,
        "lease_lost"
    );
}
