//! Tools that tenants make: made, changed, approved, rolled back, found, and removed.

use serde_json::{Value, json};

use crate::support::Server;

/// A tool that says where it would go.
pub(crate) fn weather() -> Value {
    json!({
        "name": "weather", "description": "The weather in a city now",
        "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city"],
            "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer", "maximum": 5, "default": 1}},
        },
        "implementation": {"type": "http", "method": "GET", "url": "https://weather.example/{city}"},
    })
}

/// The events of a kind, newest last.
async fn told(server: &Server, kind: &str) -> Vec<Value> {
    let events = server.ctx("default");
    let events = events.read(|_, tx| baton::events::after(tx, 0, 1_000));
    let events = events.await.unwrap().into_iter();
    let events = events.filter(|event| event.kind == format!("dev.baton.tool.{kind}"));
    events.map(|event| event.data).collect()
}

#[tokio::test]
async fn a_tool_is_made_once_described_listed_and_removed() {
    let server = Server::start();
    let made = server.call("tool_create", weather()).await;
    assert!(
        made["tool_id"].as_str().unwrap().starts_with("tol_"),
        "{made}"
    );
    assert_eq!(
        (&made["version"], &made["live"], &made["changed"]),
        (&json!(1), &json!(true), &json!(true))
    );
    let again = server.call("tool_create", weather()).await;
    assert_eq!(
        (&again["changed"], &again["tool_id"]),
        (&json!(false), &made["tool_id"])
    );
    let mut other = weather();
    other["description"] = "Another one".into();
    assert_eq!(server.code("tool_create", other).await, "already_exists");

    let described = server
        .call("tool_describe", json!({"name": "weather"}))
        .await;
    assert_eq!(described["title"], "Weather");
    assert_eq!(described["parameters"], weather()["parameters"]);
    assert_eq!(described["annotations"]["readOnlyHint"], true);
    // Where it goes is for those who make tools.
    assert!(!described.to_string().contains("weather.example"));
    let listed = server.call("tool_list", json!({})).await;
    assert_eq!(listed["tools"][0]["hash"], made["hash"]);
    assert_eq!(listed["tools"][0]["implementation"], "http");

    let id = json!({"tool_id": made["tool_id"]});
    let deleted = server.call("tool_delete", id.clone()).await;
    assert_eq!(
        (&deleted["name"], &deleted["deleted"]),
        (&json!("weather"), &json!(true))
    );
    assert_eq!(server.code("tool_delete", id).await, "unknown_tool");
    assert_eq!(
        server.call("tool_list", json!({})).await["tools"],
        json!([])
    );
    for (kind, count) in [("created", 1), ("deleted", 1)] {
        assert_eq!(told(&server, kind).await.len(), count, "{kind}");
    }
}

#[tokio::test]
async fn what_would_fail_later_is_refused_with_its_place() {
    let server = Server::start();
    let changed = |path: &str, value: Value| {
        let mut tool = weather();
        *tool.pointer_mut(path).unwrap() = value;
        tool
    };
    let mut cases = vec![
        (changed("/name", json!("task get")), "/name"),
        (changed("/name", json!("Task-Get")), "/name"),
        (changed("/name", json!("x".repeat(41))), "/name"),
        (
            changed("/parameters", json!({"type": "array"})),
            "/parameters/type",
        ),
        (
            changed(
                "/parameters/properties/city",
                json!({"$ref": "file:///etc/passwd"}),
            ),
            "/parameters",
        ),
        (
            changed("/parameters/required", json!([])),
            "/implementation/url",
        ),
    ];
    for (implementation, path) in [
        (json!({"type": "magic"}), "/implementation"),
        (json!({"type": "http"}), "/implementation"),
        (json!("ftp://weather.example"), "/implementation/url"),
        (json!("https://{city}.example/"), "/implementation/url"),
        (
            json!("https://weather.example/{town}"),
            "/implementation/url",
        ),
        (
            json!({"type": "http", "url": "https://e.example", "method": "BREW"}),
            "/implementation/method",
        ),
        (
            json!({"type": "http", "url": "https://e.example", "headers": {"a b": "c"}}),
            "/implementation/headers/a b",
        ),
        (
            json!({"type": "http", "url": "https://e.example", "colour": 1}),
            "/implementation",
        ),
        (
            json!({"type": "http", "url": "https://e.example", "response": {"pointer": "data"}}),
            "/implementation/response",
        ),
        (json!({"type": "task"}), "/implementation/description"),
        (
            json!({"type": "task", "description": "x", "priority": "soon"}),
            "/implementation/priority",
        ),
    ] {
        cases.push((changed("/implementation", implementation), path));
    }
    let mut silent = weather();
    silent.as_object_mut().unwrap().remove("description");
    cases.push((silent, "/description"));
    let mut example = weather();
    example["examples"] =
        json!([{"arguments": {"city": "Lima"}}, {"arguments": {"city": 7, "days": 9}}]);
    cases.push((example, "/examples/1/arguments/city"));
    for (tool, path) in cases {
        let refused = server.try_call("tool_create", tool.clone()).await;
        let refused = refused.expect_err(&tool.to_string());
        assert_eq!(refused.code(), "invalid_input", "{refused}");
        let found = refused
            .findings()
            .iter()
            .any(|finding| finding.path.starts_with(path));
        assert!(found, "{path}: {refused}");
    }
    assert_eq!(
        server.call("tool_list", json!({})).await["tools"],
        json!([])
    );
}

#[tokio::test]
async fn versions_are_kept_pinned_and_rolled_back() {
    let server = Server::start();
    let first = server.call("tool_create", weather()).await;
    let change =
        json!({"tool_id": "weather", "manifest": {"title": "Weather now"}, "expected_version": 1});
    let second = server.call("tool_update", change.clone()).await;
    assert_eq!(
        (&second["version"], &second["live"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(server.code("tool_update", change).await, "tool_changed");
    let nothing = json!({"tool_id": "weather", "manifest": {"title": "Weather now"}});
    assert_eq!(server.call("tool_update", nothing).await["changed"], false);
    for (manifest, path) in [
        (json!({"name": "climate"}), "/manifest/name"),
        (json!({"description": null}), "/manifest/description"),
        (json!({"colour": "red"}), "/manifest/colour"),
        (
            json!({"implementation": "ftp://x"}),
            "/manifest/implementation/url",
        ),
    ] {
        let change = json!({"tool_id": "weather", "manifest": manifest});
        let refused = server.try_call("tool_update", change).await.unwrap_err();
        assert_eq!(refused.findings()[0].path, path, "{refused}");
    }
    let pinned = json!({"name": "weather", "arguments": {"city": "Lima"}, "hash": first["hash"]});
    assert_eq!(server.code("tool_call", pinned).await, "tool_changed");

    let back = json!({"tool_id": "weather", "version": 1});
    let back_again = server.call("tool_rollback", back).await;
    assert_eq!(
        (&back_again["hash"], &back_again["live"]),
        (&first["hash"], &json!(true))
    );
    let past = server
        .call("tool_history", json!({"tool_id": "weather"}))
        .await;
    assert_eq!(
        (&past["live_version"], &past["versions"][0]["version"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(past["versions"][0]["made_by"], "test");
    let whole = server
        .call("tool_history", json!({"tool_id": "weather", "version": 2}))
        .await;
    assert_eq!(whole["versions"][0]["manifest"]["title"], "Weather now");
    assert_eq!(
        server
            .code("tool_rollback", json!({"tool_id": "weather", "version": 7}))
            .await,
        "unknown_version"
    );

    for number in 0..60 {
        let change =
            json!({"tool_id": "weather", "manifest": {"title": format!("Number {number}")}});
        server.call("tool_update", change).await;
    }
    let past = server
        .call("tool_history", json!({"tool_id": "weather"}))
        .await;
    assert_eq!(past["versions"].as_array().unwrap().len(), 51);
}

#[tokio::test]
async fn a_dry_call_shows_what_would_be_sent() {
    let server = Server::start();
    server.call("tool_create", weather()).await;
    let dry = json!({"tool_id": "weather", "arguments": {"city": "São Paulo/x"}});
    let dry = server.call("tool_test", dry).await;
    assert_eq!(dry["arguments"]["days"], 1);
    assert_eq!(
        (&dry["request"]["method"], &dry["request"]["url"]),
        (
            &json!("GET"),
            &json!("https://weather.example/S%C3%A3o%20Paulo%2Fx?days=1")
        )
    );
    let wrong = json!({"tool_id": "weather", "arguments": {"city": 1, "days": 9, "more": 0}});
    let refused = server.try_call("tool_test", wrong).await.unwrap_err();
    let mut paths: Vec<&str> = refused
        .findings()
        .iter()
        .map(|it| it.path.as_str())
        .collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        ["/arguments/city", "/arguments/days", "/arguments/more"]
    );
    // A manifest that is not kept, and work for an executor.
    let work = json!({"name": "triage", "description": "Sort a ticket",
        "parameters": {"properties": {"ticket": {"type": "string"}}},
        "output_schema": {"type": "object", "properties": {"team": {"type": "string"}}},
        "implementation": {"type": "task", "task_type": "analysis", "description": "Sort the ticket {ticket}"}});
    let dry = server
        .call(
            "tool_test",
            json!({"manifest": work, "arguments": {"ticket": "T-1"}}),
        )
        .await;
    assert_eq!(dry["request"]["description"], "Sort the ticket T-1");
    assert_eq!(dry["request"]["task_data"], json!({"ticket": "T-1"}));
    assert_eq!(dry["request"]["result_schema"], work["output_schema"]);
    assert_eq!(
        server.call("tool_list", json!({})).await["tools"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn tools_are_found_by_what_they_do() {
    let server = Server::start();
    server.call("tool_create", weather()).await;
    for (name, description) in [
        (
            "invoice_total",
            "Add up the positions of an invoice, with taxes",
        ),
        (
            "restart_service",
            "Restart a service of the cluster and wait until it is healthy",
        ),
    ] {
        let tool = json!({"name": name, "description": description, "implementation": "https://e.example/"});
        server.call("tool_create", tool).await;
    }
    for (query, expected) in [
        ("how is the weather in Lima", Some("weather")),
        ("sum of an invoice", Some("invoice_total")),
        ("reboot services", Some("restart_service")),
        ("reiniciar un servicio del clúster", Some("restart_service")),
        ("xyzzy", None),
    ] {
        let found = server.call("tool_search", json!({"query": query})).await;
        assert_eq!(
            found["hits"][0]["name"].as_str(),
            expected,
            "{query}: {found}"
        );
    }
}

#[tokio::test]
async fn a_tenant_has_so_many_tools_and_no_more() {
    let server = Server::start();
    for number in 0..500 {
        let tool = json!({"name": format!("t{number}"), "description": "One of many", "implementation": "https://e.example/"});
        server.call("tool_create", tool).await;
    }
    assert_eq!(
        server.code("tool_create", weather()).await,
        "quota_exceeded"
    );
    server.call("tool_delete", json!({"tool_id": "t7"})).await;
    server.call("tool_create", weather()).await;
    let (mut names, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = server
            .call("tool_list", json!({"limit": 200, "cursor": cursor}))
            .await;
        let tools = page["tools"].as_array().unwrap().iter();
        names.extend(tools.map(|tool| tool["name"].as_str().unwrap().to_owned()));
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert!(names.len() == 500 && names.is_sorted());
}

#[tokio::test]
async fn where_a_tenant_wants_it_a_tool_waits_for_an_admin() {
    let server = Server::start();
    let wants = json!({"tenant_id": "default", "tool_limits": {"require_approval": true}});
    server.call("tenant_configure", wants).await;
    let made = server.call("tool_create", weather()).await;
    assert_eq!(
        (&made["state"], &made["live"]),
        (&json!("pending"), &json!(false))
    );
    let call = json!({"name": "weather", "arguments": {"city": 7}});
    assert_eq!(server.code("tool_call", call.clone()).await, "unknown_tool");
    let listed = server.call("tool_list", json!({})).await;
    assert_eq!(listed["tools"][0]["pending_version"], 1);
    let other = json!({"tool_id": "weather", "hash": "0000"});
    assert_eq!(server.code("tool_approve", other).await, "tool_changed");
    let this = json!({"tool_id": "weather", "hash": made["hash"], "note": "Looked at it"});
    let approved = server.call("tool_approve", this.clone()).await;
    assert_eq!(
        (&approved["live"], &approved["changed"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(server.call("tool_approve", this).await["changed"], false);
    assert_eq!(server.code("tool_call", call).await, "invalid_input");
    // A change waits too, and the version before is called meanwhile.
    let change = json!({"tool_id": "weather", "manifest": {"title": "Sky"}});
    server.call("tool_update", change).await;
    let described = server
        .call("tool_describe", json!({"name": "weather"}))
        .await;
    assert_eq!(described["title"], "Weather");
    let no = json!({"tool_id": "weather", "version": 2, "approve": false, "note": "No"});
    assert_eq!(server.call("tool_approve", no).await["state"], "rejected");
    let back = json!({"tool_id": "weather", "version": 2});
    assert_eq!(
        server.code("tool_rollback", back).await,
        "version_not_approved"
    );
    let live = json!({"tool_id": "weather", "version": 1, "approve": false});
    assert_eq!(server.code("tool_approve", live).await, "version_live");
    let past = server
        .call("tool_history", json!({"tool_id": "weather"}))
        .await;
    assert_eq!(past["versions"][0]["note"], "No");
    assert_eq!(past["versions"][1]["decided_by"], "test");
    // Only what changed the list is told as that.
    let listed = |events: Vec<Value>| {
        events
            .iter()
            .map(|it| it["listed"] == true)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(told(&server, "created").await), [false]);
    assert_eq!(listed(told(&server, "approved").await), [true]);
    assert_eq!(listed(told(&server, "updated").await), [false]);
}
