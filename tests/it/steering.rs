//! What an orchestrator does with its tasks: lists, waits, cancels, consolidates; and what survives a restart.

use std::time::Duration;

use baton::events;
use baton::op::Body;
use serde_json::{Value, json};

use crate::support::Server;

#[tokio::test]
async fn cancelling_a_task_cancels_its_subtasks_unless_told_otherwise() {
    let server = Server::start();
    server
        .dispatch(json!({"task_id": "top", "description": "t"}))
        .await;
    server
        .dispatch(json!({"task_id": "sub", "description": "s", "parent_task_id": "top"}))
        .await;
    server
        .dispatch(json!({"task_id": "deep", "description": "d", "parent_task_id": "sub"}))
        .await;
    let cancel = json!({"task_id": "top", "reason": "enough", "subtasks": false});
    server.call("task_cancel", cancel).await;
    assert_eq!(server.state("sub").await, "pending");
    server.call("task_retry", json!({"task_id": "top"})).await;
    let first = server
        .call("task_cancel", json!({"task_id": "top", "reason": "enough"}))
        .await;
    let again = server
        .call("task_cancel", json!({"task_id": "top", "reason": "enough"}))
        .await;
    assert_eq!(first, again);
    for id in ["sub", "deep"] {
        let task = server.call("task_get", json!({"task_id": id})).await;
        assert_eq!(
            (&task["state"], &task["cause"]),
            (&json!("cancelled"), &json!("parent_cancelled"))
        );
    }
}

#[tokio::test]
async fn a_parent_shows_what_became_of_its_subtasks() {
    let server = Server::start();
    server
        .dispatch(json!({"task_id": "top", "description": "t", "assigned_to": "nobody"}))
        .await;
    for id in ["one", "two"] {
        server
            .dispatch(json!({"task_id": id, "description": id, "parent_task_id": "top"}))
            .await;
    }
    let held = server.claim("ada", &[]).await.unwrap();
    server
        .call(
            "task_end",
            held.with(json!({"reason": "success", "result": 1})),
        )
        .await;
    let subtasks = server.call("task_get", json!({"task_id": "top"})).await["subtasks"].clone();
    assert_eq!(subtasks["by_state"], json!({"completed": 1, "pending": 1}));
    assert_eq!(
        (&subtasks["all_ended"], &subtasks["tasks"][0]["result"]),
        (&json!(false), &json!(1))
    );
}

#[tokio::test]
async fn pages_have_every_task_once_newest_first() {
    let server = Server::start();
    for number in 0..25 {
        let kind = if number % 5 == 0 { "review" } else { "custom" };
        server
            .dispatch(json!({"task_id": format!("t{number:02}"), "description": "x", "type": kind}))
            .await;
        if number % 3 == 0 {
            server.clock.advance(Duration::from_secs(1));
        }
    }
    // In whatever state they are.
    for number in (1..25).step_by(4) {
        let id = format!("t{number:02}");
        server.call("task_cancel", json!({"task_id": id})).await;
    }
    for _ in 0..3 {
        server.claim("ada", &[]).await.expect("a task");
    }
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = server
            .call("task_list", json!({"limit": 4, "cursor": cursor}))
            .await;
        seen.extend(
            page["tasks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|task| task["task_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let newest_first: Vec<_> = (0..25).rev().map(|n| format!("t{n:02}")).collect();
    assert_eq!(seen, newest_first);
    for (filter, count) in [
        (json!({"task_type": "review"}), 5),
        (json!({"task_type": "review", "state": "pending"}), 3),
        (json!({"task_type": "review", "state": "cancelled"}), 1),
    ] {
        let reviews = server.call("task_list", filter.clone()).await;
        let found = reviews["tasks"].as_array().unwrap().len();
        assert_eq!(found, count, "{filter}");
    }
    let error = server
        .try_call("task_list", json!({"cursor": "nonsense"}))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "invalid_cursor");
}

#[tokio::test]
async fn a_wait_ends_with_the_first_or_the_last_of_its_tasks() {
    let server = Server::start();
    for id in ["a", "b"] {
        server
            .dispatch(json!({"task_id": id, "description": id}))
            .await;
    }
    let wait = |until: &str| json!({"task_ids": ["a", "b"], "until": until, "wait_seconds": 50});
    let end_one = async {
        let held = server.claim("ada", &[]).await.unwrap();
        server
            .call(
                "task_end",
                held.with(json!({"reason": "partial", "result": held.task_id})),
            )
            .await;
    };
    let (any, ()) = tokio::join!(server.call("task_wait", wait("any")), end_one);
    assert_eq!(
        (
            &any["done"],
            &any["tasks"][0]["result"],
            &any["tasks"][0]["outcome"]
        ),
        (&json!(true), &json!("a"), &json!("partial"))
    );
    let end_other = async {
        let held = server.claim("ada", &[]).await.unwrap();
        server.call("task_end", held.end("success")).await;
    };
    let (all, ()) = tokio::join!(server.call("task_wait", wait("all")), end_other);
    assert_eq!(all["done"], true);
    let gone = server
        .try_call("task_wait", json!({"task_ids": ["a", "nothing"]}))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), "unknown_task");
}

#[tokio::test]
async fn a_run_returns_the_outcome_or_what_is_known_at_its_deadline() {
    let server = Server::start();
    let run = server.call(
        "task_run",
        json!({"task_id": "r", "description": "x", "wait_seconds": 50}),
    );
    let work = async {
        let held = loop {
            match server.claim("ada", &[]).await {
                Some(held) => break held,
                None => tokio::task::yield_now().await,
            }
        };
        server
            .call(
                "task_end",
                held.with(json!({"reason": "success", "result": [1]})),
            )
            .await;
    };
    let (ran, ()) = tokio::join!(run, work);
    assert_eq!((&ran["done"], &ran["result"]), (&json!(true), &json!([1])));
    let ran = server
        .call("task_run", json!({"description": "y", "wait_seconds": 0}))
        .await;
    assert_eq!(
        (&ran["done"], &ran["state"]),
        (&json!(false), &json!("pending"))
    );
}

#[tokio::test]
async fn a_notification_counts_once_however_often_it_is_sent() {
    let server = Server::start();
    let (id, held) = server.held(json!({"description": "x"})).await;
    let mut note = held.notification("progress", json!({"progress": 10}));
    note["notification_id"] = json!("note-1");
    let (first, second) = tokio::join!(
        server.call("task_notify", note.clone()),
        server.call("task_notify", note.clone())
    );
    assert_eq!(first["sequence"], second["sequence"]);
    let task = server.call("task_get", json!({"task_id": id})).await;
    assert_eq!(task["notifications"].as_array().unwrap().len(), 1);
    note["notification_type"] = json!("started");
    note["data"] = json!({});
    assert_eq!(
        server
            .try_call("task_notify", note)
            .await
            .unwrap_err()
            .code(),
        "notification_id_taken"
    );
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_the_log_is_whole() {
    let server = Server::start();
    let (id, held) = server.held(json!({"description": "x"})).await;
    server
        .notify(&held, "progress", json!({"progress": 10}))
        .await;
    let before = server.call("task_get", json!({"task_id": id})).await;
    let server = server.restart().await;
    assert_eq!(
        server.call("task_get", json!({"task_id": id})).await,
        before
    );
    server.call("task_end", held.end("success")).await;
    let log = server
        .ctx("default")
        .read(|_, tx| events::after(tx, 0, 100))
        .await
        .unwrap();
    let numbers: Vec<_> = log.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let (last, _) = server
        .ctx("default")
        .read(|_, tx| events::verify(tx, 0, &[], 100))
        .await
        .unwrap();
    assert_eq!(last, 4);
    assert_eq!(
        server.home().path().join("baton.db").exists(),
        server.home().database().is_none()
    );
}

#[tokio::test]
async fn a_tampered_log_is_noticed() {
    let server = Server::start();
    server.dispatch(json!({"description": "x"})).await;
    server.dispatch(json!({"description": "y"})).await;
    let change: fn(&mut baton::store::Tx<'_>) -> baton::error::Result<u64> = |tx| {
        tx.execute(
            "UPDATE events SET data = '{}' WHERE tenant_id = $1 AND sequence = 2",
            &[tx.tenant().into()],
        )
    };
    server
        .ctx("default")
        .write(move |_, tx| change(tx))
        .await
        .unwrap();
    let error = server
        .ctx("default")
        .read(|_, tx| events::verify(tx, 0, &[], 100))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "log_broken");
    assert!(error.message().contains("event 2"), "{error}");
}

#[tokio::test]
async fn a_report_says_what_came_of_the_task() {
    let server = Server::start();
    let id = server
        .dispatch(json!({"title": "Lines", "description": "x"}))
        .await;
    assert!(
        server
            .app
            .catalog
            .read(
                &server.ctx("default"),
                &format!("baton://tasks/{id}/report")
            )
            .await
            .is_err()
    );
    server.clock.advance(Duration::from_secs(2));
    let held = server.claim("ada", &[]).await.unwrap();
    server.clock.advance(Duration::from_secs(3));
    let end = json!({"reason": "success", "result": "# 42 lines", "cleanup_actions": ["removed x"], "execution_summary": {"files": 3}});
    server.call("task_end", held.with(end)).await;
    let report = server
        .app
        .catalog
        .read(
            &server.ctx("default"),
            &format!("baton://tasks/{id}/report"),
        )
        .await
        .unwrap();
    let Body::Text(report) = report.body else {
        panic!("a report is text")
    };
    for part in [
        "# Lines",
        "waited 2.0 s, worked 3.0 s",
        "# 42 lines",
        "removed x",
        "files: 3",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    let task: Value = server.call("task_get", json!({"task_id": id})).await;
    assert_eq!(task["report"]["timings"]["worked_seconds"], 3.0);
}
