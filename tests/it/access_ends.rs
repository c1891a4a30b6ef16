//! What goes on by leave of a credential ends with it: listeners, event streams, sessions over SSE, calls that wait and
//! pipes. The client sees a clean end, and is asked who he is when he comes again.

use std::io::{BufRead as _, BufReader, Write as _, pipe};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::access::{guarded, operate};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, in_time, modern, tool};
use crate::support::sse::Client;

/// Everything that goes on for long, by leave of one key.
struct Going {
    listener: Events,
    stream: Events,
    session: Events,
    call: JoinSet<Answer>,
}

impl Going {
    /// Begins it all on `server` with `key`, which is an orchestrator's.
    async fn begin(server: &HttpServer, key: &str) -> Self {
        server.show(key);
        server.dispatch("/mcp", "t").await;
        let filter = json!({"resourceSubscriptions": ["baton://tasks/t"]});
        let listen = modern("subscriptions/listen", json!({"notifications": filter}));
        let mut listener = Events::of(server.modern("/mcp", &listen)).await;
        let first = listener.data().await;
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
        let legacy = server.session("/mcp", "2025-11-25").await;
        let stream = Events::of(legacy.request(Method::GET)).await;
        let session = Client::initialized(server, "/sse").await.events;
        let mut call = JoinSet::new();
        let wait = json!({"task_ids": ["t"], "wait_seconds": 50});
        let wait = server.request(Method::POST, "/api/v1/waits").json(&wait);
        call.spawn(Answer::of(wait));
        server.until_waiting(1).await;
        Self {
            listener,
            stream,
            session,
            call,
        }
    }

    /// Asserts that all of it ends, cleanly, and that its client is then a stranger to `server`.
    async fn ends(mut self, server: &HttpServer) {
        let last = self.listener.data().await;
        assert_eq!(
            (&last["id"], &last["error"]),
            (&json!(1), &Value::Null),
            "{last}"
        );
        assert!(last["result"].is_object(), "{last}");
        assert!(self.listener.next().await.is_none());
        assert!(self.stream.next().await.is_none());
        assert!(self.session.next().await.is_none());
        let answer = in_time(self.call.join_next()).await.unwrap().unwrap();
        answer.is_problem(401, "invalid_credential");
        assert_eq!(server.app.system.waiting_calls(), 0);
        for (method, path) in [(Method::GET, "/sse"), (Method::GET, "/api/v1/tasks")] {
            let again = Answer::of(server.request(method, path)).await;
            again.is_problem(401, "invalid_credential");
        }
    }
}

async fn made(server: &HttpServer, more: Value) -> (Value, String) {
    let mut input = json!({"roles": ["orchestrator"]});
    let more = more.as_object().unwrap().clone();
    input.as_object_mut().unwrap().extend(more);
    let made = operate(server, "acme", "key_create", input).await;
    let key = made["key"].as_str().unwrap().to_owned();
    (json!({"key_id": made["key_id"]}), key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_all_that_goes_on_and_nothing_of_others() {
    let server = guarded().await;
    let (id, key) = made(&server, json!({})).await;
    let (_, other) = made(&server, json!({})).await;
    server.show(&other);
    let mut others = Client::initialized(&server, "/sse").await;
    let going = Going::begin(&server, &key).await;
    operate(&server, "acme", "key_revoke", id).await;
    going.ends(&server).await;
    server.show(&other);
    let listed = others.ask("tools/list", json!({})).await;
    assert!(listed["result"]["tools"].is_array(), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_elsewhere_ends_what_goes_on_here() {
    let one = guarded().await;
    let other = HttpServer::builder().foreseeable().beside(&one);
    let other = other.settings(|settings| settings.auth = vec![baton::config::Auth::Keys]);
    let other = other.start().await;
    let (id, key) = made(&one, json!({})).await;
    let going = Going::begin(&one, &key).await;
    operate(&other, "acme", "key_revoke", id).await;
    going.ends(&one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_and_one_that_was_rotated_away_end_what_goes_on() {
    let server = guarded().await;
    let clock = server.app.system.clock().clone();
    let (_, key) = made(&server, json!({"expires_in_seconds": 600})).await;
    let going = Going::begin(&server, &key).await;
    // The call that waits would end by itself after 50 s.
    clock.advance(Duration::from_secs(570));
    let wait = json!({"task_ids": ["t"], "wait_seconds": 50});
    let mut late = JoinSet::new();
    let mut going = going;
    in_time(going.call.join_next()).await.unwrap().unwrap();
    late.spawn(Answer::of(
        server.request(Method::POST, "/api/v1/waits").json(&wait),
    ));
    going.call = late;
    server.until_waiting(1).await;
    clock.advance(Duration::from_secs(31));
    going.ends(&server).await;

    let (id, key) = made(&server, json!({})).await;
    server.show(&key);
    let mut session = Client::initialized(&server, "/sse").await;
    let mut rotate = id.clone();
    rotate["keep_old_seconds"] = 60.into();
    let rotated = operate(&server, "acme", "key_rotate", rotate).await;
    clock.advance(Duration::from_secs(30));
    let listed = session.ask("tools/list", json!({})).await;
    assert!(listed["result"].is_object(), "the old text is still good");
    clock.advance(Duration::from_secs(31));
    assert!(session.events.next().await.is_none());
    server.show(rotated["key"].as_str().unwrap());
    let mut session = Client::initialized(&server, "/sse").await;
    operate(&server, "acme", "key_rotate", id).await;
    let now = server.get("/api/v1/tasks").await;
    now.is_problem(401, "invalid_credential");
    assert!(session.events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_loses_its_tenant_ends_what_goes_on_there() {
    let server = guarded().await;
    let (id, key) = made(&server, json!({})).await;
    server.show(&key);
    let mut session = Client::initialized(&server, "/sse").await;
    let id = id["key_id"].as_str().unwrap();
    let sql = format!("UPDATE keys SET tenant_id = 'globex' WHERE key_id = '{id}'");
    let home = server.home.clone();
    let moved = tokio::task::spawn_blocking(move || home.execute(&sql));
    moved.await.unwrap();
    assert!(session.events.next().await.is_none());
    server.app.system.clock().advance(Duration::from_secs(1));
    let again = server.get("/t/acme/api/v1/tasks").await;
    again.is_problem(400, "tenant_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_ends_with_the_key_that_it_was_opened_by() {
    let server = guarded().await;
    let (id, key) = made(&server, json!({})).await;
    let mut app = server.app.clone();
    let mut config = (*app.config).clone();
    config.key = Some(key.into());
    app.config = config.into();
    let (input, mut to_server) = pipe().unwrap();
    let (from_server, output) = pipe().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { baton::transport::serve_pipes(&app, input, output, true).await });
    let list = modern("tools/call", tool("task_list", json!({})));
    writeln!(to_server, "{list}").unwrap();
    let mut lines = BufReader::new(from_server).lines();
    let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    operate(&server, "acme", "key_revoke", id).await;
    in_time(serving.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(lines.next().is_none());
}
