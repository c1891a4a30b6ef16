//! What servers say is what the official schema of the revision says, in revisions that no SDK speaks any more, too; and a
//! wrong message would be noticed.

use axum::Router;
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, MODERN, initialize, modern, tool};
use crate::support::schema::{Revision, Talk};
use crate::support::wire::{Wire, record};

const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// A message, and the method that it answers, if any.
type Case = (&'static str, Option<&'static str>);

const RIGHT: [Case; 4] = [
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":"x"}]}}"#,
        Some("tools/call"),
    ),
    (
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"baton://a"}}"#,
        None,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}"#,
        Some("ping"),
    ),
    (
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#,
        None,
    ),
];

const WRONG: [Case; 12] = [
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[]}}"#,
        None,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#,
        Some("no/such"),
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text"}]}}"#,
        Some("tools/call"),
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"video","text":"x"}]}}"#,
        Some("tools/call"),
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[{"name":"no schema"}]}}"#,
        Some("tools/list"),
    ),
    (
        r#"{"jsonrpc":"1.0","id":1,"result":{"resultType":"complete"}}"#,
        Some("ping"),
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":"x"}}"#,
        Some("ping"),
    ),
    (
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}"#,
        None,
    ),
    (
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"url":"x"}}"#,
        None,
    ),
    (
        r#"{"jsonrpc":"2.0","method":"notifications/surprise","params":{}}"#,
        None,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"no/such","params":{}}"#,
        None,
    ),
    (
        r#"[{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}]"#,
        None,
    ),
];

#[test]
fn a_wrong_message_is_noticed_in_every_revision() {
    let check = |revision: Revision, (text, asked): Case| {
        revision.check(&serde_json::from_str(text).unwrap(), asked)
    };
    for name in LEGACY.into_iter().chain([MODERN]) {
        let revision = Revision::named(name).unwrap();
        for case in RIGHT {
            assert_eq!(check(revision, case), Ok(()), "{name}");
        }
        for case in WRONG {
            assert!(check(revision, case).is_err(), "{name}: {case:?}");
        }
        let mut talk = Talk::of(Some(revision));
        talk.sent(br#"[{"jsonrpc":"2.0","id":1,"method":"tools/call"}]"#);
        let batch = talk.heard(&format!("[{}]", RIGHT[0].0));
        assert_eq!(batch.is_ok(), name == "2025-03-26", "{name}");
    }
    // What one revision asks for, and another one doesn't know.
    let older: Case = (
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#,
        Some("tools/call"),
    );
    let newer: Case = (
        r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{}}}"#,
        None,
    );
    for (name, is_modern) in [("2025-11-25", false), (MODERN, true)] {
        let revision = Revision::named(name).unwrap();
        assert_eq!(check(revision, older).is_err(), is_modern, "{name}");
        assert_eq!(check(revision, newer).is_ok(), is_modern, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_message_on_its_way_is_noticed_whatever_carries_it() {
    let wrong = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": 7}}).to_string();
    let stream = format!("event: message\ndata: {wrong}\n\n");
    let wire = Wire::default();
    let answers =
        |kind: &'static str, text: String| post(async move || ([("content-type", kind)], text));
    let planted = Router::new()
        .route("/planted/json", answers("application/json", wrong.clone()))
        .route("/planted/events", answers("text/event-stream", stream))
        .layer(axum::middleware::from_fn_with_state(wire.clone(), record));
    let server = HttpServer::builder().extra(planted).start().await;
    let list = modern("tools/list", json!({}));
    for path in ["/planted/json", "/planted/events"] {
        Answer::of(server.message(path, &list)).await;
        let complaints = wire.complaints();
        assert!(
            complaints.len() == 1 && complaints[0].contains("2026-07-28"),
            "{path}: {complaints:?}"
        );
    }
    let (mut input, mut output) =
        wire.pipes(&b"{\"id\":1,\"method\":\"tools/list\"}\n"[..], Vec::new());
    std::io::copy(&mut input, &mut std::io::sink()).unwrap();
    std::io::Write::write_all(&mut output, format!("{wrong}\n").as_bytes()).unwrap();
    assert_eq!(wire.complaints().len(), 1);
    assert_eq!(wire.messages(), 0);
}

/// Everything that a client of an era before sessions ended may ask, and mistakes.
fn everything() -> Vec<(&'static str, Value)> {
    let reference = json!({"type": "ref/resource", "uri": "baton://tasks/{task_id}"});
    let argument = json!({"name": "task_id", "value": "t"});
    vec![
        ("ping", json!({})),
        ("tools/list", json!({})),
        (
            "tools/call",
            tool("task_dispatch", json!({"description": "x", "task_id": "t"})),
        ),
        ("tools/call", tool("task_get", json!({"task_id": "t"}))),
        ("tools/call", tool("task_get", json!({"task_id": "none"}))),
        ("tools/call", tool("task_get", json!({"colour": 7}))),
        ("tools/call", tool("no_such", json!({}))),
        ("tools/call", json!({"name": 7})),
        ("resources/list", json!({})),
        ("resources/list", json!({"cursor": "nonsense"})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({"uri": "baton://tasks/t"})),
        ("resources/read", json!({"uri": "baton://tasks/none"})),
        ("resources/subscribe", json!({"uri": "baton://tasks/t"})),
        ("tools/call", tool("task_cancel", json!({"task_id": "t"}))),
        ("resources/unsubscribe", json!({"uri": "baton://tasks/t"})),
        ("prompts/list", json!({})),
        (
            "prompts/get",
            json!({"name": "orchestrate", "arguments": {"goal": "x"}}),
        ),
        ("prompts/get", json!({"name": "dance"})),
        (
            "completion/complete",
            json!({"ref": reference, "argument": argument}),
        ),
        ("logging/setLevel", json!({"level": "debug"})),
        ("no/such", json!({})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_older_clients_ask_is_answered_as_their_revision_says() {
    for version in LEGACY {
        let server = HttpServer::start().await;
        let session = server.session("/mcp", version).await;
        let mut stream = Events::of(session.request(Method::GET)).await;
        let mut answers = Vec::new();
        for (method, params) in everything() {
            // Whoever has unsubscribed by the time that a change is told hears of it no more.
            if method == "resources/unsubscribe" {
                stream.hears_of("baton://tasks/t").await;
            }
            answers.push((method, session.ask(method, params).await));
        }
        let results = answers
            .iter()
            .filter(|(_, answer)| answer["result"].is_object());
        assert_eq!(results.count(), 16, "{version}: {answers:?}");
        // Every answer, that to `initialize`, and what was told unasked.
        assert!(server.wire.messages() >= answers.len() + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_clients_batch_holds_everything_at_once() {
    let server = HttpServer::start().await;
    let session = server.session("/mcp", "2025-03-26").await;
    let before = server.wire.messages();
    let asked: Vec<_> = everything()
        .into_iter()
        .enumerate()
        .map(|(id, (method, params))| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
        .collect();
    let request = session.request(Method::POST).json(&json!(asked));
    let mut events = Events::of(request).await;
    let mut ids = Vec::new();
    while let Some(event) = events.next().await {
        let answer: Value = serde_json::from_str(&event.data).unwrap();
        ids.extend(answer["id"].as_u64());
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..asked.len() as u64));
    assert!(server.wire.messages() >= before + asked.len());
    let begin = Answer::of(server.message("/mcp", &json!([initialize("2025-03-26")]))).await;
    assert_eq!(begin.body["error"]["code"], -32600, "{}", begin.text);
}
