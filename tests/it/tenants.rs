//! What tenants may have: configured by operators, seen by their own admins, and held to.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Server;

/// Configures acme.
async fn configure(server: &Server, sections: Value) -> Value {
    let mut input = json!({"tenant_id": "acme"});
    let fields = input.as_object_mut().unwrap();
    fields.extend(sections.as_object().unwrap().clone());
    server.call("tenant_configure", input).await
}

#[tokio::test]
async fn a_configuration_is_taken_as_clients_send_it_and_shown_whole() {
    let server = Server::start();
    let sent = json!({
        "tenant_id": "cliente_premium",
        "mcp_config": {"max_memory_entries": 10_000, "memory_retention_days": 90, "federation_enabled": true},
        "tool_limits": {"max_tools": 50, "max_dynamic_tools": null},
        "ai_providers": ["openai", {"provider": "anthropic", "model": "opus", "rate_limit": 100}],
        "rate_limits": {"rate_per_tenant": 50},
    });
    let configured = server.call("tenant_configure", sent.clone()).await;
    let shown = server
        .call("tenant_get", json!({"tenant_id": "cliente_premium"}))
        .await;
    assert_eq!(configured, shown);
    assert_eq!(shown["mcp_config"], sent["mcp_config"]);
    assert_eq!(
        shown["tool_limits"],
        json!({"max_tools": 50, "max_dynamic_tools": 500})
    );
    assert_eq!(shown["storage_limits"]["max_storage_bytes"], 1 << 30);
    assert_eq!(shown["task_limits"], json!({}));
    assert_eq!(shown["ai_providers"], sent["ai_providers"]);
    assert_eq!(shown["rate_limits"], sent["rate_limits"]);
    assert_eq!(
        shown["not_yet_effective"],
        json!(["mcp_config.federation_enabled", "ai_providers"])
    );
    assert_eq!(shown["configured_by"], "test");
    // A section that is named becomes what is said; the others stay.
    let change = json!({"tenant_id": "cliente_premium", "mcp_config": {}, "ai_providers": []});
    let changed = server.call("tenant_configure", change).await;
    assert_eq!(
        changed["mcp_config"],
        json!({"max_memory_entries": 100_000})
    );
    assert_eq!(changed["tool_limits"]["max_tools"], 50);
    assert_eq!(changed["rate_limits"], sent["rate_limits"]);
    assert_eq!(changed["not_yet_effective"], json!([]));
    // Saying the same again is no news.
    let ctx = server.ctx("cliente_premium");
    let log = async || ctx.read(|_, tx| baton::events::after(tx, 0, 100)).await;
    let before = log().await.unwrap();
    let again = json!({"tenant_id": "cliente_premium", "ai_providers": []});
    server.call("tenant_configure", again).await;
    let events = log().await.unwrap();
    assert_eq!(events.len(), before.len());
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "dev.baton.limit.set",
            "dev.baton.tenant.configured",
            "dev.baton.tenant.configured"
        ]
    );
    assert_eq!(events[1].data["rate_limits"], sent["rate_limits"]);
}

#[tokio::test]
async fn what_names_two_tenants_is_refused() {
    let server = Server::start();
    let input = json!({"tenant_id": "globex"});
    for op in ["tenant_get", "tenant_configure"] {
        let refused = server.try_call_as("acme", op, input.clone()).await;
        assert_eq!(refused.unwrap_err().code(), "tenant_conflict", "{op}");
    }
    let own = server.call_as("acme", "tenant_get", json!({})).await;
    assert_eq!(own["tenant_id"], "acme");
    assert!(own.get("created_at").is_none(), "{own}");
}

#[tokio::test]
async fn executors_take_no_more_tasks_than_their_tenant_may_have_running() {
    let server = Server::start();
    configure(&server, json!({"task_limits": {"max_running_tasks": 2}})).await;
    for number in 0..4 {
        let input = json!({"task_id": format!("t{number}"), "description": "x"});
        server.call_as("acme", "task_dispatch", input).await;
    }
    let claim = async |agent: &str| {
        let input = json!({"agent_id": agent, "max_tasks": 3});
        server.call_as("acme", "task_claim", input).await
    };
    let first = claim("ada").await;
    assert_eq!(first["tasks"].as_array().unwrap().len(), 2, "{first}");
    let second = claim("bob").await;
    assert_eq!(second["tasks"], json!([]));
    assert_eq!(
        second["held_back_by"],
        json!({"limit": "max_running_tasks", "counts": "tasks that executors work on", "value": 2, "used": 2})
    );
    // Another tenant's executors are not held back.
    for number in 0..3 {
        let input = json!({"task_id": format!("t{number}"), "description": "x"});
        server.call_as("globex", "task_dispatch", input).await;
    }
    let input = json!({"agent_id": "eve", "max_tasks": 3});
    let free = server.call_as("globex", "task_claim", input).await;
    assert_eq!(free["tasks"].as_array().unwrap().len(), 3, "{free}");
    // Who waits gets one as soon as one has ended.
    let task = &first["tasks"][0];
    let end = json!({"task_id": task["task_id"], "agent_id": "ada", "lease_token": task["lease"]["token"],
        "reason": "success"});
    let wait = json!({"agent_id": "bob", "wait_seconds": 50});
    let (waited, _) = tokio::join!(
        server.call_as("acme", "task_claim", wait),
        server.call_as("acme", "task_end", end)
    );
    assert_eq!(waited["tasks"].as_array().unwrap().len(), 1, "{waited}");
}

#[tokio::test]
async fn memory_is_held_to_how_much_and_how_long_the_tenant_keeps() {
    let server = Server::start();
    let write = async |content: &str, importance: f64| {
        let input = json!({"agent_id": "ada", "content": content, "importance": importance});
        server.call_as("acme", "memory_write", input).await
    };
    let left = async || {
        let listed = server.call_as("acme", "memory_list", json!({})).await;
        let entries = listed["memories"].as_array().unwrap().clone();
        let mut texts: Vec<_> = entries.iter().map(|it| it["content"].to_string()).collect();
        texts.sort();
        texts.join(" ")
    };
    let facts = [
        ("The door code is on the board.", 0.9),
        ("Backups run at four.", 0.5),
        ("Somebody liked the old logo.", 0.1),
    ];
    for (fact, importance) in facts {
        write(fact, importance).await;
    }
    // Those that are too many go in the next round, and with the next that comes.
    configure(&server, json!({"mcp_config": {"max_memory_entries": 2}})).await;
    while baton::memory::tick(&server.app.system).await.unwrap() > 0 {}
    assert_eq!(
        left().await,
        "\"Backups run at four.\" \"The door code is on the board.\""
    );
    write("The printer is on floor two.", 0.6).await;
    assert_eq!(
        left().await,
        "\"The door code is on the board.\" \"The printer is on floor two.\""
    );
    configure(&server, json!({"mcp_config": {"max_memory_entries": 0}})).await;
    let input = json!({"agent_id": "ada", "content": "Nothing more."});
    let refused = server.try_call_as("acme", "memory_write", input).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "quota_exceeded");
    assert!(
        refused
            .message()
            .starts_with("max_memory_entries of this tenant is 0"),
        "{refused}"
    );
    configure(
        &server,
        json!({"mcp_config": {"memory_retention_days": 30}}),
    )
    .await;
    server.clock.advance(Duration::from_hours(24 * 20));
    write("Said twenty days later.", 0.5).await;
    server.clock.advance(Duration::from_hours(24 * 15));
    while baton::memory::tick(&server.app.system).await.unwrap() > 0 {}
    assert_eq!(left().await, "\"Said twenty days later.\"");
}

#[tokio::test]
async fn what_is_configured_holds_on_every_process() {
    let one = Server::start();
    let other = Server::on(one.shared_home(), one.clock.clone());
    configure(&one, json!({"tool_limits": {"max_tools": 7}})).await;
    let acme = "acme".parse().unwrap();
    assert_eq!(one.app.system.allowances().of(&acme).tools, 7);
    assert_eq!(other.app.system.allowances().of(&acme).tools, 1_000);
    baton::tenants::tick(&other.app.system).await.unwrap();
    assert_eq!(other.app.system.allowances().of(&acme).tools, 7);
    configure(&other, json!({"tool_limits": {}})).await;
    baton::tenants::tick(&one.app.system).await.unwrap();
    assert_eq!(one.app.system.allowances().of(&acme).tools, 1_000);
}
