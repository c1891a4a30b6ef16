//! Legacy sessions on several servers over one database: each goes on where another began.

use std::time::Duration;

use baton::sessions;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, Session, in_time, initialize, tool};

async fn two() -> (HttpServer, HttpServer) {
    let one = HttpServer::start().await;
    let other = HttpServer::builder().beside(&one).start().await;
    (one, other)
}

async fn subscribe(session: &Session<'_>, id: &str) {
    let params = json!({"uri": format!("baton://tasks/{id}")});
    let answer = session.ask("resources/subscribe", params).await;
    assert_eq!(answer["result"], json!({}), "{answer}");
}

async fn dispatch(server: &HttpServer, id: &str) {
    let input = json!({"description": "x", "task_id": id});
    server.use_tool("/t/acme/mcp", "task_dispatch", input).await;
}

async fn hears(stream: &mut Events, id: &str) {
    let heard = stream.data().await;
    assert_eq!(
        (&heard["method"], &heard["params"]["uri"]),
        (
            &json!("notifications/resources/updated"),
            &json!(format!("baton://tasks/{id}"))
        ),
        "{heard}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_at_home_on_each_server() {
    let (one, other) = two().await;
    let here = one.session("/t/acme/mcp", "2025-11-25").await;
    let there = here.on(&other);
    let input = tool(
        "task_dispatch",
        json!({"description": "x", "task_id": "first"}),
    );
    let answer = there.ask("tools/call", input).await;
    assert_eq!(
        answer["result"]["structuredContent"]["task_id"], "first",
        "{answer}"
    );
    subscribe(&here, "before").await;
    let mut stream = Events::of(there.request(Method::GET)).await;
    subscribe(&here, "here").await;
    subscribe(&there, "there").await;
    for (server, id) in [(&one, "before"), (&other, "here"), (&one, "there")] {
        dispatch(server, id).await;
        hears(&mut stream, id).await;
    }
    let params = json!({"uri": "baton://tasks/here"});
    here.ask("resources/unsubscribe", params).await;
    for id in ["here", "there"] {
        let input = json!({"task_id": id, "reason": "enough"});
        one.use_tool("/t/acme/mcp", "task_cancel", input).await;
    }
    hears(&mut stream, "there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_server_that_it_was_begun_on() {
    let (one, other) = two().await;
    let here = one.session("/t/acme/mcp", "2025-06-18").await;
    let there = here.on(&other);
    subscribe(&here, "t").await;
    in_time(one.stop()).await;
    let mut stream = Events::of(there.request(Method::GET)).await;
    let listed = there.ask("tools/list", json!({})).await;
    assert!(listed["result"]["tools"].is_array(), "{listed}");
    dispatch(&other, "t").await;
    hears(&mut stream, "t").await;
    // What the client called itself is known too.
    let input = json!({"task_id": "t"});
    let read = there.ask("tools/call", tool("task_cancel", input)).await;
    assert_ne!(read["result"]["isError"], true, "{read}");
    let events = other.app.system.ctx("acme".parse().unwrap(), "test");
    let events = events
        .read(|_, tx| baton::events::after(tx, 0, 100))
        .await
        .unwrap();
    assert_eq!(events.last().unwrap().actor, "mcp:test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_never_stands_between_a_session_and_its_owner() {
    let (one, other) = two().await;
    let ping = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    let mut unknown = None;
    for attempt in 0..150 {
        let session = one.session("/t/acme/mcp", "2025-11-25").await.on(&other);
        let strange = async || {
            let request = other.message("/t/other/mcp", &ping);
            Answer::of(request.header("mcp-session-id", &session.id)).await
        };
        let own = async || Answer::of(session.request(Method::POST).json(&ping)).await;
        let (before, owns, meanwhile) = tokio::join!(strange(), own(), strange());
        assert_eq!(owns.status, 200, "attempt {attempt}: {}", owns.text);
        for refused in [before, meanwhile, strange().await] {
            let first = unknown.get_or_insert_with(|| refused.text.clone());
            assert_eq!((refused.status, &refused.text), (404, &*first));
        }
        assert_eq!(own().await.status, 200, "attempt {attempt}");
    }
    let request = other.message("/t/acme/mcp", &ping);
    let answer = Answer::of(request.header("mcp-session-id", "no-such-session")).await;
    assert_eq!((answer.status, Some(answer.text)), (404, unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_answered_each() {
    let (one, other) = two().await;
    for _ in 0..10 {
        let session = one.session("/t/acme/mcp", "2025-11-25").await.on(&other);
        let pings = (0..16).map(|id| {
            let ping = json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
            let request = session.request(Method::POST).json(&ping);
            async move { Events::of(request).await.data().await }
        });
        for (id, answer) in futures::future::join_all(pings).await.iter().enumerate() {
            assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &json!({})));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_goes_on_where_it_ended_on_each_server() {
    let (one, other) = two().await;
    let here = one.session("/t/acme/mcp", "2025-11-25").await;
    let there = here.on(&other);
    for id in ["a", "b", "c"] {
        subscribe(&here, id).await;
    }
    let from = |session: &Session<'_>, last: &str| {
        Events::of(
            session
                .request(Method::GET)
                .header("last-event-id", last.to_owned()),
        )
    };
    let mut stream = Events::of(here.request(Method::GET)).await;
    let begun = stream.any().await.unwrap().id;
    dispatch(&one, "a").await;
    let heard = stream.next().await.unwrap();
    assert!(heard.data.contains("baton://tasks/a"), "{heard:?}");
    drop(stream);
    dispatch(&one, "b").await;
    dispatch(&other, "c").await;
    let mut stream = from(&there, &heard.id).await;
    for id in ["b", "c"] {
        hears(&mut stream, id).await;
    }
    let mut again = from(&there, &begun).await;
    for id in ["a", "b", "c"] {
        hears(&mut again, id).await;
    }
    // What never was does not lead ahead of what is.
    let mut ahead = from(&there, "99999999").await;
    assert_ne!(ahead.any().await.unwrap().id, "99999999");
    let input = json!({"task_id": "c", "reason": "enough"});
    one.use_tool("/t/acme/mcp", "task_cancel", input).await;
    hears(&mut ahead, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_on_one_server_is_ended_on_all() {
    let (one, other) = two().await;
    let here = one.session("/t/acme/mcp", "2025-11-25").await;
    let there = here.on(&other);
    subscribe(&there, "t").await;
    let mut stream = Events::of(there.request(Method::GET)).await;
    dispatch(&one, "t").await;
    hears(&mut stream, "t").await;
    let ended = Answer::of(here.request(Method::DELETE)).await;
    assert!(ended.status < 300, "{}", ended.text);
    let ping = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    for session in [&there, &here] {
        let answer = Answer::of(session.request(Method::POST).json(&ping)).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
        let answer = Answer::of(session.request(Method::GET)).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
    }
    assert!(stream.next().await.is_none(), "the stream ends too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_serves_the_tenant_of_its_initialize_on_each_server() {
    let (one, other) = two().await;
    let mut message = initialize("2025-11-25");
    message["params"]["_meta"]["dev.baton/tenant"] = "acme".into();
    let mut begun = Events::of(one.message("/mcp", &message)).await;
    let id = begun.header("mcp-session-id");
    assert!(begun.data().await["result"].is_object());
    let send = |method: &str, params: Value| {
        let message = json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": params});
        let request = other
            .message("/mcp", &message)
            .header("mcp-session-id", &id);
        async move { Events::of(request).await.data().await }
    };
    let params = json!({"uri": "baton://tasks/t"});
    let answer = send("resources/subscribe", params).await;
    assert_eq!(answer["result"], json!({}), "{answer}");
    let request = other.request(Method::GET, "/mcp");
    let request = request.header("accept", "text/event-stream");
    let mut stream = Events::of(request.header("mcp-session-id", &id)).await;
    dispatch(&one, "t").await;
    hears(&mut stream, "t").await;
    let read = tool("task_get", json!({"task_id": "t"}));
    let answer = send("tools/call", read).await;
    assert_ne!(answer["result"]["isError"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initialize_that_is_too_long_begins_no_session() {
    let server = HttpServer::start().await;
    let mut message = initialize("2025-11-25");
    message["params"]["clientInfo"]["name"] = "x".repeat(20_000).into();
    let answer = Answer::of(server.message("/mcp", &message)).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    let code = &answer.body["error"]["data"]["error"]["code"];
    assert_eq!(code, "initialize_too_long", "{}", answer.text);
}

#[tokio::test]
async fn a_session_is_kept_for_a_day_after_its_client_was_last_seen() {
    const HOUR: Duration = Duration::from_hours(1);
    let server = Server::start();
    let ctx = server.ctx("acme");
    let begin = |id| sessions::begin(&ctx, id, Some("other".parse().unwrap()), "{}".into());
    begin("forgotten").await.unwrap();
    begin("used").await.unwrap();
    let elsewhere = server.ctx("other");
    for id in ["forgotten", "used"] {
        sessions::subscribe(&elsewhere, id, "baton://tasks/t")
            .await
            .unwrap();
    }
    server.clock.advance(HOUR * 23);
    assert!(sessions::find(&ctx, "used").await.unwrap().is_some());
    assert_eq!(sessions::tick(&server.app.system).await.unwrap(), 0);
    server.clock.advance(HOUR);
    assert!(sessions::find(&ctx, "forgotten").await.unwrap().is_none());
    assert!(sessions::find(&elsewhere, "used").await.unwrap().is_none());
    assert_eq!(sessions::tick(&server.app.system).await.unwrap(), 1);
    assert_eq!(sessions::tick(&server.app.system).await.unwrap(), 0);
    let known = sessions::find(&ctx, "used").await.unwrap().unwrap();
    let subscribed = || {
        elsewhere.read(|_, tx| {
            let found = sessions::subscribers(tx, &["baton://tasks/t"].into())?;
            Ok(found.into_values().flatten().collect::<Vec<_>>())
        })
    };
    assert_eq!(subscribed().await.unwrap(), ["used"]);
    sessions::end(&server.app.system, ctx.tenant(), &known)
        .await
        .unwrap();
    assert!(sessions::find(&ctx, "used").await.unwrap().is_none());
    assert!(subscribed().await.unwrap().is_empty());
}
