//! What a modern client carries between the rounds of a call: its answers are acted on once, on whatever process, and for
//! as long as people may take to answer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::asking::{cancel, code, project, round, said, state};
use crate::support::http::{Answer, HttpServer};

async fn send(server: &HttpServer, message: &Value) -> Value {
    Answer::of(server.modern("/mcp", message)).await.body
}

/// The question about cancelling for `reason`, asked anew; its sealed state.
async fn asked(server: &HttpServer, more: Value) -> String {
    let answer = send(server, &round(cancel("enough"), more)).await;
    let result = &answer["result"];
    assert_eq!(result["resultType"], "input_required", "{answer}");
    result["requestState"].as_str().unwrap().to_owned()
}

fn with(state: &str, responses: Value) -> Value {
    json!({"requestState": state, "inputResponses": responses})
}

fn yes(state: &str) -> Value {
    round(cancel("enough"), with(state, said("accept", true)))
}

/// How often `top` was cancelled.
async fn times(server: &HttpServer) -> usize {
    let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
    let events = ctx.read(|_, tx| baton::events::after(tx, 0, 200)).await;
    let events = events.unwrap().into_iter();
    let cancelled = |kind: &str| kind == "dev.baton.task.cancelled";
    events
        .filter(|event| cancelled(&event.kind) && event.subject == "top")
        .count()
}

/// Makes the project what it was before it was cancelled.
async fn begin_again(server: &HttpServer) {
    for id in ["top", "sub"] {
        server
            .use_tool("/mcp", "task_retry", json!({"task_id": id}))
            .await;
    }
    let _ = server.claim("/mcp").await;
    assert_eq!(state(server, "/mcp", "sub").await, "assigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_happens_once_however_often_the_answer_comes() {
    let server = HttpServer::start().await;
    let other = HttpServer::builder().beside(&server).start().await;
    project(&server, "/mcp").await;
    let first = asked(&server, json!({})).await;
    // A later round of the same call.
    let second = asked(&other, with(&first, json!({}))).await;
    assert_ne!(first, second);
    // The answer may be lost, and asked for again, anywhere and at once.
    let message = yes(&second);
    let (here, there) = tokio::join!(send(&server, &message), send(&other, &message));
    for done in [&here, &there, &send(&other, &message).await] {
        let content = &done["result"]["structuredContent"];
        assert_eq!(content["state"], "cancelled", "{done}");
    }
    assert_eq!(times(&server).await, 1);
    begin_again(&server).await;
    // What has become of the world since then was not meant, in whichever round it was said.
    let third = asked(&server, with(&first, json!({}))).await;
    for spent in [&first, &second, &third] {
        for process in [&server, &other] {
            let refused = send(process, &yes(spent)).await;
            assert_eq!(code(&refused), "answers_used", "{refused}");
        }
    }
    assert_eq!(state(&server, "/mcp", "sub").await, "assigned");
    // A question that is asked anew is.
    let anew = asked(&other, json!({})).await;
    let done = send(&server, &yes(&anew)).await;
    let content = &done["result"]["structuredContent"];
    assert_eq!(content["state"], "cancelled", "{done}");
    assert_eq!(times(&server).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_answer_at_once_one_acts() {
    let server = HttpServer::start().await;
    let other = HttpServer::builder().beside(&server).start().await;
    project(&server, "/mcp").await;
    let state = asked(&server, json!({})).await;
    let message = yes(&state);
    let calls = (0..8).map(|number| {
        let process = if number % 2 == 0 { &server } else { &other };
        send(process, &message)
    });
    for answer in futures::future::join_all(calls).await {
        let content = &answer["result"]["structuredContent"];
        assert_eq!(content["state"], "cancelled", "{answer}");
    }
    assert_eq!(times(&server).await, 1);
}

/// A server whose time the test moves, with `top` and its subtask that somebody works on for an hour.
async fn for_an_hour() -> HttpServer {
    let server = HttpServer::builder().foreseeable().start().await;
    for (id, parent, agent) in [("top", None, "nobody"), ("sub", Some("top"), "ada")] {
        let task = json!({
            "description": "x", "task_id": id, "parent_task_id": parent, "assigned_to": agent,
            "execution_context": {"timeout_seconds": 86_400},
        });
        server.use_tool("/mcp", "task_dispatch", task).await;
    }
    let ada = json!({"agent_id": "ada", "lease_seconds": 3_600});
    server.use_tool("/mcp", "task_claim", ada).await;
    server
}

async fn is_refused(server: &HttpServer, message: &Value) {
    let refused = send(server, message).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_have_ten_minutes_to_answer() {
    let server = for_an_hour().await;
    let clock = server.app.system.clock();
    let sealed = asked(&server, json!({})).await;
    clock.advance(Duration::from_secs(601));
    is_refused(&server, &yes(&sealed)).await;
    let sealed = asked(&server, json!({})).await;
    clock.advance(Duration::from_mins(10));
    let done = send(&server, &yes(&sealed)).await;
    let content = &done["result"]["structuredContent"];
    assert_eq!(content["state"], "cancelled", "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_an_hour_for_all_its_rounds() {
    let server = for_an_hour().await;
    let clock = server.app.system.clock();
    let mut sealed = asked(&server, json!({})).await;
    for _ in 0..6 {
        clock.advance(Duration::from_secs(595));
        sealed = asked(&server, with(&sealed, json!({}))).await;
    }
    clock.advance(Duration::from_secs(31));
    is_refused(&server, &yes(&sealed)).await;
}
