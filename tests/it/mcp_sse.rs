//! HTTP+SSE: where to post, a whole life, whose session it is, and what becomes of those who do not read.

use reqwest::Method;
use serde_json::json;

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{in_time, tool, until};
use crate::support::sse::Client;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_says_where_to_post() {
    let server = HttpServer::start().await;
    let client = Client::open(&server, "/sse").await;
    assert!(
        client.endpoint.starts_with("/messages?sessionId="),
        "{}",
        client.endpoint
    );
    assert_eq!(client.events.header("x-accel-buffering"), "no");
    let client = Client::open(&server, "/t/acme/sse").await;
    let prefix = "/t/acme/messages?sessionId=";
    assert!(client.endpoint.starts_with(prefix), "{}", client.endpoint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lives_its_whole_life_in_the_sessions_tenant() {
    let server = HttpServer::start().await;
    let mut client = Client::initialized(&server, "/t/acme/sse").await;
    client
        .use_tool("task_dispatch", json!({"description": "x", "task_id": "t"}))
        .await;
    let claimed = client
        .use_tool("task_claim", json!({"agent_id": "ada"}))
        .await;
    let token = &claimed["tasks"][0]["lease"]["token"];
    let end = json!({"task_id": "t", "agent_id": "ada", "lease_token": token, "reason": "success"});
    let ended = client.use_tool("task_end", end).await;
    assert_eq!(ended["state"], "completed");
    let read = client
        .ask("resources/read", json!({"uri": "baton://tasks/t"}))
        .await;
    let text = read["result"]["contents"][0]["text"].as_str().unwrap();
    assert!(text.contains("completed"), "{text}");
    let read = client
        .ask("resources/read", json!({"uri": "baton://tasks/none"}))
        .await;
    assert_eq!(read["error"]["code"], -32002, "{read}");
    let mut other = Client::initialized(&server, "/sse").await;
    let listed = other.use_tool("task_list", json!({})).await;
    assert_eq!(listed["tasks"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_session_answers_exactly_like_an_unknown_one() {
    let server = HttpServer::start().await;
    let mut client = Client::initialized(&server, "/t/acme/sse").await;
    let id = client.endpoint.split_once('=').unwrap().1.to_owned();
    let ping = json!({"jsonrpc": "2.0", "id": "a", "method": "ping"});
    let unknown = server.post("/messages?sessionId=none", &ping).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text);
    for path in [
        format!("/messages?sessionId={id}"),
        format!("/t/other/messages?sessionId={id}"),
        "/t/acme/messages".to_owned(),
    ] {
        let foreign = server.post(&path, &ping).await;
        assert_eq!(
            (foreign.status, foreign.text),
            (404, unknown.text.clone()),
            "{path}"
        );
    }
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_refused_with_the_reason() {
    let server = HttpServer::start().await;
    let mut client = Client::initialized(&server, "/sse").await;
    let send = async |text: String| {
        let request = server.request(Method::POST, &client.endpoint);
        Answer::of(request.body(text)).await
    };
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let cases = [
        ("garbage".to_owned(), 400, -32700, "not JSON"),
        (String::new(), 400, -32700, "empty"),
        ("7".to_owned(), 400, -32600, "JSON object"),
        (ping.replace(":1,", ":null,"), 400, -32600, "`id`"),
        (ping.replace("2.0", "1.0"), 400, -32600, "`jsonrpc`"),
        (" ".repeat((1 << 20) + 1), 413, -32600, "1048576"),
    ];
    for (text, status, code, says) in cases {
        let case = text.chars().take(60).collect::<String>();
        let answer = send(text).await;
        let error = &answer.body["error"];
        assert_eq!(
            (answer.status, &error["code"]),
            (status, &json!(code)),
            "{case}: {}",
            answer.text
        );
        assert!(
            error["message"].as_str().unwrap().contains(says),
            "{case}: {error}"
        );
    }
    let answer = send(ping.replace('}', r#","params":[1]}"#)).await;
    assert_eq!(
        (&answer.body["error"]["code"], &answer.body["id"]),
        (&json!(-32602), &json!(1)),
        "{}",
        answer.text
    );
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_on_and_on_without_an_answer_is_stopped() {
    let server = HttpServer::start().await;
    let mut client = Client::initialized(&server, "/sse").await;
    client
        .use_tool("task_dispatch", json!({"description": "x", "task_id": "t"}))
        .await;
    let wait = |id: u32| {
        let arguments = json!({"task_ids": ["t"], "wait_seconds": 50});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": tool("task_wait", arguments)})
    };
    for id in 0..64 {
        client.accepted(&wait(id)).await;
    }
    let answer = client.post(&wait(64)).await;
    let error = &answer.body["error"]["data"]["error"];
    assert_eq!(
        (answer.status, &error["code"]),
        (429, &json!("too_many_unanswered")),
        "{}",
        answer.text
    );
    assert!(answer.text.contains("64"), "{}", answer.text);
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(error["retry_after_seconds"], 5);
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 0}});
    client.accepted(&cancel).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_stream_ends_the_session() {
    let server = HttpServer::start().await;
    let client = Client::initialized(&server, "/sse").await;
    let endpoint = client.endpoint.clone();
    drop(client);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    until(async || server.post(&endpoint, &ping).await.status == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_ends_the_streams() {
    let server = HttpServer::start().await;
    let Client { mut events, .. } = Client::initialized(&server, "/sse").await;
    in_time(server.stop()).await;
    assert!(events.next().await.is_none());
}
