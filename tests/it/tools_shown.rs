//! Tools that tenants make as clients see them: listed by name behind the operations, page by page, to those who may call
//! them, on every transport and process, from the moment on when they are made.

use axum::http::Method;
use serde_json::{Value, json};

use crate::access::{guarded, key, key_of, operate};
use crate::support::client::{Client, Way};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, modern, tool};
use crate::tools::weather;
use crate::tools_done::open;

/// The names on all pages of a list.
async fn names(client: &mut Client<'_>) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let params = if cursor.is_null() {
            json!({})
        } else {
            json!({"cursor": cursor})
        };
        let page = client.ask("tools/list", params).await["result"].take();
        let tools = page["tools"].as_array().unwrap();
        assert!(tools.len() <= 100);
        names.extend(
            tools
                .iter()
                .map(|tool| tool["name"].as_str().unwrap().to_owned()),
        );
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            return names;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_hears_of_a_tool_at_once_lists_it_and_calls_it() {
    let (server, outside) = open().await;
    let other = HttpServer::builder().beside(&server).start().await;
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let mut client = Client::open(&server, way).await;
        assert_eq!(
            client.greeting["capabilities"]["tools"]["listChanged"], true,
            "{way:?}"
        );
        if way.is_modern() {
            let wanted = json!({"notifications": {"toolsListChanged": true}});
            client.begin("subscriptions/listen", wanted).await;
            let acknowledged = "notifications/subscriptions/acknowledged";
            client
                .hear(|message| message["method"] == acknowledged)
                .await;
        }
        let name = format!("echo{number}");
        let tool = json!({"name": name, "title": "Echo", "description": "Says it again",
            "parameters": {"properties": {"n": {"type": "integer"}}},
            "implementation": format!("{}/echo/x", outside.url)});
        // Another process makes it.
        other.use_tool("/mcp", "tool_create", tool).await;
        let heard = client.hear(|message| message["method"] == "notifications/tools/list_changed");
        heard.await;
        let listed = names(&mut client).await;
        assert!(listed.contains(&name), "{way:?}: {listed:?}");
        let called = client.call(&name, json!({"n": 7})).await;
        assert_eq!(
            called["result"]["structuredContent"]["body"],
            json!({"n": 7}),
            "{way:?}: {called}"
        );
        let refused = client.call(&name, json!({"n": "x"})).await;
        assert_eq!(refused["result"]["isError"], true, "{refused}");
        other
            .use_tool("/mcp", "tool_delete", json!({"tool_id": name}))
            .await;
        let heard = client.hear(|message| message["method"] == "notifications/tools/list_changed");
        heard.await;
        let unknown = client.call(&name, json!({"n": 7})).await;
        assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_one_tenants_alone() {
    let server = HttpServer::start().await;
    let listening = modern(
        "subscriptions/listen",
        json!({"notifications": {"toolsListChanged": true}}),
    );
    let mut globex = Events::of(server.modern("/t/globex/mcp", &listening)).await;
    globex.data().await;
    server
        .use_tool("/t/acme/mcp", "tool_create", weather())
        .await;
    let listed = |path: &'static str| {
        let list = modern("tools/list", json!({}));
        let asked = Answer::of(server.modern(path, &list));
        async move { asked.await.text.contains("\"weather\"") }
    };
    assert!(listed("/t/acme/mcp").await && !listed("/t/globex/mcp").await && !listed("/mcp").await);
    let call = modern("tools/call", tool("weather", json!({"city": "Lima"})));
    let foreign = Answer::of(server.modern("/t/globex/mcp", &call)).await;
    let unknown = modern("tools/call", tool("climate", json!({"city": "Lima"})));
    let unknown = Answer::of(server.modern("/t/globex/mcp", &unknown)).await;
    assert_eq!(foreign.text.replace("weather", "climate"), unknown.text);
    assert_eq!(foreign.body["error"]["code"], -32602);
    // The first that globex hears of is its own.
    let mut own = weather();
    own["name"] = "climate".into();
    server.use_tool("/t/globex/mcp", "tool_create", own).await;
    let heard = globex.data().await;
    assert_eq!(heard["method"], "notifications/tools/list_changed");
    assert!(!listed("/t/globex/mcp").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_come_in_pages_and_tell_no_tool_twice() {
    let server = HttpServer::start().await;
    let operations = server
        .app
        .catalog
        .ops_for(&server.app.system.ctx("default".parse().unwrap(), "test"))
        .count();
    for many in [100 - operations, 1, 150] {
        for number in 0..many {
            let tool = json!({"name": format!("t{many}-{number:03}"), "description": "One of many", "implementation": "https://e.example/"});
            server.use_tool("/mcp", "tool_create", tool).await;
        }
        let mut client = Client::open(&server, Way::HttpModern).await;
        let names = names(&mut client).await;
        let own = &names[operations..];
        assert!(own.is_sorted_by(|a, b| a < b), "{own:?}");
    }
    let mut client = Client::open(&server, Way::PipesLegacy).await;
    assert_eq!(names(&mut client).await.len(), 251);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_call_a_tool_sees_it_and_a_key_may_be_for_one_alone() {
    let server = guarded().await;
    let mut second = weather();
    second["name"] = "climate".into();
    for tool in [weather(), second] {
        operate(&server, "acme", "tool_create", tool).await;
    }
    let one = key(
        &server,
        "acme",
        json!({"roles": ["executor"], "scopes": ["weather"]}),
    )
    .await;
    let cases = [
        (
            key_of(&server, "acme", "executor").await,
            vec!["climate", "weather"],
        ),
        (key_of(&server, "acme", "observer").await, vec![]),
        (key_of(&server, "globex", "admin").await, vec![]),
        (one, vec!["weather"]),
    ];
    for (shown, expected) in cases {
        server.show(&shown);
        let listed = server.ask("tools/list", json!({})).await;
        let tools = listed.body["result"]["tools"].as_array().unwrap().iter();
        let names = tools.map(|tool| tool["name"].as_str().unwrap());
        let names: Vec<&str> = names
            .filter(|name| ["climate", "weather"].contains(name))
            .collect();
        assert_eq!(names, expected);
        for name in ["climate", "weather"] {
            // What is wrong with the arguments is told to those alone who may call it.
            let called = server
                .ask("tools/call", tool(name, json!({"city": 7})))
                .await;
            let is_known = called.body["result"].to_string().contains("/city");
            assert_eq!(
                is_known,
                expected.contains(&name),
                "{name}: {}",
                called.text
            );
            assert_eq!(
                called.body["error"]["code"] == -32602,
                !is_known,
                "{}",
                called.text
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paths_that_clients_knew_make_list_and_remove_tools() {
    let server = HttpServer::start().await;
    let mut given = weather();
    given["tool_id"] = "w-1".into();
    given["metadata"] = json!({"owner": "ops"});
    given["implementation"] = "https://weather.example/now".into();
    let registered = server.post("/tools/register", &given).await;
    assert_eq!(
        (registered.status, &registered.body["tool_id"]),
        (200, &json!("w-1")),
        "{}",
        registered.text
    );
    let mut minted = weather();
    minted["name"] = "climate".into();
    let minted = server.post("/tools/dynamic/create", &minted).await;
    assert!(
        minted.body["tool_id"].as_str().unwrap().starts_with("tol_"),
        "{}",
        minted.text
    );
    let listed = server.get("/tools").await;
    assert_eq!(
        listed.body["tools"].as_array().unwrap().len(),
        2,
        "{}",
        listed.text
    );
    let removed = Answer::of(server.request(Method::DELETE, "/tools/w-1")).await;
    assert_eq!(
        (removed.status, &removed.body["deleted"]),
        (200, &json!(true)),
        "{}",
        removed.text
    );
    let again = Answer::of(server.request(Method::DELETE, "/tools/w-1")).await;
    again.is_problem(404, "unknown_tool");
}
