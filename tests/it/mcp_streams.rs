//! What modern clients read while it happens: `subscriptions/listen`, progress, and calls that take their time.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, in_time, modern, tool, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_of_its_own_tenant_until_the_server_stops() {
    let server = HttpServer::start().await;
    let uris = [
        "baton://tasks/same",
        "baton://tasks/last",
        "baton://tasks/last/report",
        "baton://nothing",
    ];
    let filter = json!({"resourceSubscriptions": uris});
    let message = modern("subscriptions/listen", json!({"notifications": filter}));
    let mut stream = Events::of(server.modern("/t/acme/mcp", &message)).await;
    let ack = stream.data().await;
    assert_eq!(
        ack["method"], "notifications/subscriptions/acknowledged",
        "{ack}"
    );
    assert_eq!(
        ack["params"]["notifications"]["resourceSubscriptions"],
        json!(uris[..3]),
        "{ack}"
    );
    server.dispatch("/t/other/mcp", "same").await;
    server.dispatch("/t/acme/mcp", "last").await;
    stream.hears_of("baton://tasks/last").await;
    let cancel = json!({"task_id": "last"});
    server.use_tool("/t/acme/mcp", "task_cancel", cancel).await;
    for uri in &uris[1..3] {
        stream.hears_of(uri).await;
    }
    in_time(server.stop()).await;
    let end = stream.data().await;
    assert_eq!(
        (&end["id"], end["result"].is_object()),
        (&json!(1), true),
        "{end}"
    );
    assert!(stream.next().await.is_none());
}

/// What goes over the wire, to the byte, as rmcp's own handler writes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_listeners_stream_is_what_the_protocol_says() {
    let server = HttpServer::start().await;
    let uris = ["baton://tasks/a", "baton://no"];
    let filter = json!({"resourceSubscriptions": uris, "toolsListChanged": true});
    let mut message = modern("subscriptions/listen", json!({"notifications": filter}));
    message["id"] = "l:0".into();
    let mut stream = Events::of(server.modern("/mcp", &message)).await;
    assert_eq!(stream.header("cache-control"), "no-cache");
    assert_eq!(stream.header("x-accel-buffering"), "no");
    let id = r#""_meta":{"io.modelcontextprotocol/subscriptionId":"l:0"}"#;
    let expected = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{{id},\
         \"notifications\":{{\"resourceSubscriptions\":[\"baton://tasks/a\"],\"toolsListChanged\":true}}}}}}\n\n"
    );
    assert_eq!(stream.chunk().await.unwrap(), expected);
    server.dispatch("/mcp", "a").await;
    let expected = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{{{id},\
         \"uri\":\"baton://tasks/a\"}}}}\n\n"
    );
    assert_eq!(stream.chunk().await.unwrap(), expected);
    in_time(server.stop()).await;
    let last = stream.chunk().await.unwrap();
    let begin = r#"data: {"jsonrpc":"2.0","id":"l:0","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"#;
    let end = r#""},"io.modelcontextprotocol/subscriptionId":"l:0"}}}"#;
    assert!(last.starts_with(begin), "{last}");
    assert!(last.ends_with(&format!("{end}\n\n")), "{last}");
    assert!(stream.chunk().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_listener_is_said_before_it_begins() {
    let server = HttpServer::start().await;
    let listen = |params: Value| modern("subscriptions/listen", params);
    let filter = json!({"notifications": {}});
    let mut foreign = filter.clone();
    foreign["_meta"]["dev.baton/tenant"] = "other".into();
    let answer = Answer::of(server.modern("/t/acme/mcp", &listen(foreign))).await;
    assert_eq!(answer.body["error"]["code"], -32602, "{}", answer.text);
    assert_eq!(answer.body["id"], 1);
    assert!(answer.text.contains("tenant_conflict"), "{}", answer.text);
    let wrong = json!({"notifications": {"resourceSubscriptions": "all"}});
    let answer = Answer::of(server.modern("/mcp", &listen(wrong))).await;
    assert_eq!(answer.body["error"]["code"], -32602, "{}", answer.text);
    let place = "/params/notifications/resourceSubscriptions";
    assert!(answer.text.contains(place), "{}", answer.text);
    let mut bare = listen(filter.clone());
    bare["params"]["_meta"] = json!({});
    let answer = Answer::of(server.modern("/mcp", &bare)).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    let json = server.modern("/mcp", &listen(filter.clone()));
    let json = json.header("accept", "application/json");
    let begun = Events::of(json).await.data().await;
    assert_eq!(begun["params"]["notifications"], json!({}), "{begun}");
    let session = server.session("/mcp", "2025-11-25").await;
    let answer = session.ask("subscriptions/listen", filter).await;
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_reads_nothing_for_long_has_missed_nothing() {
    let server = HttpServer::start().await;
    let ids: Vec<_> = (0..600).map(|number| format!("t{number}")).collect();
    let uris: Vec<_> = ids.iter().map(|id| format!("baton://tasks/{id}")).collect();
    let filter = json!({"resourceSubscriptions": uris});
    let message = modern("subscriptions/listen", json!({"notifications": filter}));
    let mut slow = Events::of(server.modern("/mcp", &message)).await;
    let mut other = Events::of(server.modern("/mcp", &message)).await;
    for stream in [&mut slow, &mut other] {
        let ack = stream.data().await;
        assert_eq!(ack["params"]["notifications"], filter, "{ack}");
    }
    let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
    for id in &ids {
        let Value::Object(input) = json!({"description": "x", "task_id": id}) else {
            unreachable!()
        };
        let dispatched = server.app.catalog.call(ctx.clone(), "task_dispatch", input);
        dispatched.await.unwrap();
    }
    for stream in [&mut other, &mut slow] {
        for uri in &uris {
            stream.hears_of(uri).await;
        }
    }
}

/// A wait for the task `t`, with a progress token.
fn wait(seconds: u32) -> Value {
    let arguments = json!({"task_ids": ["t"], "wait_seconds": seconds});
    let mut params = tool("task_wait", arguments);
    params["_meta"]["progressToken"] = "p".into();
    modern("tools/call", params)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_of_progress_that_only_grows() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    let mine = server.claim("/mcp").await;
    let mut stream = Events::of(server.modern("/mcp", &wait(50))).await;
    let mut heard = vec![stream.data().await];
    for progress in [10, 40, 30, 70] {
        let data = json!({"progress": progress, "current_step": format!("at {progress}")});
        let input = mine(json!({"notification_type": "task_progress", "data": data}));
        server.use_tool("/mcp", "task_notify", input).await;
        if progress != 30 {
            let told = stream.data().await;
            assert_eq!(told["params"]["message"], format!("at {progress}"));
            heard.push(told);
        }
    }
    let end = mine(json!({"reason": "success", "result": "it is done"}));
    server.use_tool("/mcp", "task_end", end).await;
    let answer = loop {
        let message = stream.data().await;
        if message["id"] == 1 {
            break message;
        }
        heard.push(message);
    };
    let waited = &answer["result"]["structuredContent"];
    assert_eq!(
        (&waited["done"], &waited["tasks"][0]["result"]),
        (&json!(true), &json!("it is done")),
        "{answer}"
    );
    let steps: Vec<_> = heard
        .iter()
        .map(|message| {
            let params = &message["params"];
            assert_eq!(message["method"], "notifications/progress", "{message}");
            assert_eq!(
                (&params["progressToken"], &params["total"]),
                (&json!("p"), &json!(100.0))
            );
            params["progress"].as_f64().unwrap()
        })
        .collect();
    assert!(steps.is_sorted_by(|one, next| one < next), "{steps:?}");
    assert!(steps.len() >= 4, "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_client_went_away_is_given_up() {
    let server = HttpServer::start().await;
    let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
    let Value::Object(input) = json!({"description": "x", "task_id": "t"}) else {
        unreachable!()
    };
    let dispatched = server.app.catalog.call(ctx, "task_dispatch", input);
    dispatched.await.unwrap();
    // Before the first connection: whatever runs on its behalf must be gone at the end.
    let running = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = running();
    let mut stream = Events::of(server.modern("/mcp", &wait(50))).await;
    assert_eq!(stream.data().await["method"], "notifications/progress");
    assert!(running() > before);
    drop(stream);
    until(async || running() <= before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_begins_its_answer_early() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    let arguments = json!({"task_ids": ["t"], "wait_seconds": 7});
    let message = modern("tools/call", tool("task_wait", arguments));
    let begun = async {
        let mut stream = Events::of(server.modern("/mcp", &message)).await;
        let first = stream.chunk().await;
        (stream, first)
    };
    let early = tokio::time::timeout(Duration::from_millis(6_500), begun);
    let (mut stream, first) = early.await.expect("the answer begins early");
    assert_eq!(first.as_deref(), Some(":\n\n"));
    assert_eq!(stream.header("x-accel-buffering"), "no");
    let answer = stream.data().await;
    assert_eq!(
        answer["result"]["structuredContent"]["done"], false,
        "{answer}"
    );
    assert!(stream.next().await.is_none());
}
