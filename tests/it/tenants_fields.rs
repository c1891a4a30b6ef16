//! Every field of a tenant's configuration is read by something: the type is walked, and of each field the effect is shown.

use std::time::Duration;

use baton::quota::{Limit, Whom};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::Server;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{following, initialize, modern, tool};
use crate::tools::weather;

/// Limits of what goes on at a time, whose effect takes clients that hold on.
const AT_A_TIME: [&str; 5] = [
    "max_sessions_per_tenant",
    "max_listeners_per_tenant",
    "max_waiting_calls_per_tenant",
    "max_calls_per_tenant",
    "max_handles_per_tenant",
];

/// The fields of `tenant_configure`, each by its path.
fn fields(server: &Server) -> Vec<(String, String)> {
    let op = server.app.catalog.require("tenant_configure").unwrap();
    let sections = op.input_schema["properties"].as_object().unwrap();
    let mut fields = Vec::new();
    for (section, schema) in sections {
        match schema["properties"].as_object() {
            Some(inner) => {
                let inner = inner.keys().map(|name| (section.clone(), name.clone()));
                fields.extend(inner);
            }
            None => fields.push((section.clone(), String::new())),
        }
    }
    fields
}

/// A tenant of its own for each field.
struct Tenant<'a> {
    server: &'a Server,
    name: String,
}

impl Tenant<'_> {
    async fn configure(&self, section: &str, value: Value) -> Value {
        let input = json!({"tenant_id": self.name, section: value});
        self.server.call("tenant_configure", input).await
    }

    async fn call(&self, op: &str, input: Value) -> Value {
        self.server.call_as(&self.name, op, input).await
    }

    /// The refusal that a call must end in, which names the limit, its value and the use.
    async fn is_refused(&self, op: &str, input: Value, limit: &str) {
        let refused = self.server.try_call_as(&self.name, op, input).await;
        let refused = refused.expect_err("it is refused");
        let told = refused.message();
        assert!(told.contains(limit), "{op}: {told}");
    }
}

#[tokio::test]
async fn every_field_of_a_configuration_has_its_effect() {
    let server = Server::start();
    for (number, (section, field)) in fields(&server).into_iter().enumerate() {
        let name = format!("tenant-{number}");
        let tenant = Tenant {
            server: &server,
            name,
        };
        match (section.as_str(), field.as_str()) {
            ("tenant_id", _) => {
                let seen = tenant.configure("ai_providers", json!([])).await;
                assert_eq!(seen["tenant_id"], tenant.name);
            }
            ("mcp_config" | "storage_limits" | "script_limits", _) => {
                is_kept_to(&tenant, &section, &field).await;
            }
            ("task_limits", "max_running_tasks") => {
                tenant.configure(&section, json!({&field: 0})).await;
                tenant
                    .call("task_dispatch", json!({"description": "x"}))
                    .await;
                let claimed = tenant.call("task_claim", json!({"agent_id": "ada"})).await;
                assert_eq!(claimed["tasks"], json!([]));
                assert_eq!(claimed["held_back_by"]["limit"], field);
            }
            ("rate_limits", name) => has_effect(&tenant, name).await,
            ("tool_limits", "require_approval") => {
                tenant.configure(&section, json!({&field: true})).await;
                let made = tenant.call("tool_create", weather()).await;
                assert_eq!(made["state"], "pending");
            }
            ("tool_limits", _) => {
                tenant.configure(&section, json!({&field: 1})).await;
                tenant.call("tool_create", weather()).await;
                let mut second = weather();
                second["name"] = "climate".into();
                tenant.is_refused("tool_create", second, &field).await;
            }
            ("ai_providers", _) => {
                let seen = tenant.configure(&section, json!(["openai"])).await;
                assert_eq!(seen["not_yet_effective"], json!(["ai_providers"]));
            }
            other => panic!("nothing is known to read {other:?}"),
        }
    }
}

/// What a tenant may have, and how long, it has and no more.
async fn is_kept_to(tenant: &Tenant<'_>, section: &str, field: &str) {
    let server = tenant.server;
    match (section, field) {
        ("mcp_config", "max_memory_entries") => {
            tenant.configure(section, json!({field: 0})).await;
            let memory = json!({"agent_id": "ada", "content": "Too much."});
            tenant
                .is_refused(
                    "memory_write",
                    memory,
                    "max_memory_entries of this tenant is 0",
                )
                .await;
        }
        ("mcp_config", "memory_retention_days") => {
            tenant.configure(section, json!({field: 1})).await;
            let memory = json!({"agent_id": "ada", "content": "For a day."});
            tenant.call("memory_write", memory).await;
            server.clock.advance(Duration::from_hours(25));
            while baton::memory::tick(&server.app.system).await.unwrap() > 0 {}
            let left = tenant.call("memory_list", json!({})).await;
            assert_eq!(left["memories"], json!([]));
        }
        ("storage_limits", "max_storage_bytes") => {
            tenant.configure(section, json!({field: 7})).await;
            let folder = json!({"resource_id": "r", "type": "file_storage", "uri": "file://tenant/r",
                    "access_permissions": ["write"]});
            tenant.call("resource_register", folder).await;
            let file = |text: &str| json!({"resource_id": "r", "path": "f", "text": text});
            tenant.call("resource_write", file("seven!!")).await;
            tenant
                .is_refused(
                    "resource_write",
                    file("eight!!!"),
                    "max_storage_bytes of this tenant is 7",
                )
                .await;
        }
        ("script_limits", "max_script_seconds") => {
            tenant.configure(section, json!({field: 1})).await;
            let endless = json!({"name": "endless", "description": "Never ends",
                    "implementation": {"type": "script", "source": "function main() { for (;;); }"}});
            tenant.call("tool_create", endless).await;
            tenant
                .is_refused(
                    "tool_call",
                    json!({"name": "endless"}),
                    "it ran longer than 1000 ms",
                )
                .await;
        }
        ("mcp_config", "federation_enabled") => {
            let seen = tenant.configure(section, json!({field: true})).await;
            assert_eq!(
                seen["not_yet_effective"],
                json!(["mcp_config.federation_enabled"])
            );
        }
        other => panic!("nothing is known to read {other:?}"),
    }
}

/// A limit of calls holds for the tenant alone: a rate refuses the second call of its class.
async fn has_effect(tenant: &Tenant<'_>, name: &str) {
    tenant.configure("rate_limits", json!({name: 1})).await;
    let limit: Limit = serde_json::from_value(json!(name)).unwrap();
    assert_eq!(limit.whom(), Whom::Tenant, "{name}");
    let call = match name {
        "rate_per_tenant" | "rate_per_tenant_reads" => ("task_list", json!({})),
        "rate_per_tenant_writes" => ("task_dispatch", json!({"description": "x"})),
        "rate_per_tenant_waits" => (
            "task_wait",
            json!({"task_ids": ["none"], "wait_seconds": 1}),
        ),
        "rate_per_tenant_admin" => ("key_list", json!({})),
        name => return assert!(AT_A_TIME.contains(&name), "nothing is known to read {name}"),
    };
    let first = tenant
        .server
        .try_call_as(&tenant.name, call.0, call.1.clone());
    assert_ne!(
        first.await.map_err(|error| error.code()),
        Err("rate_limited"),
        "{name}"
    );
    tenant
        .is_refused(call.0, call.1.clone(), &format!("{name} is 1"))
        .await;
    let others = tenant.server.try_call_as("another", call.0, call.1);
    assert_ne!(
        others.await.map_err(|error| error.code()),
        Err("rate_limited"),
        "{name}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_at_a_time_is_refused_beyond_what_is_configured() {
    let server = HttpServer::start().await;
    let wait = || {
        let wait = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
        modern("tools/call", wait)
    };
    let listen = modern(
        "subscriptions/listen",
        json!({"notifications": {"toolsListChanged": true}}),
    );
    let run = following(
        "tools/call",
        tool(
            "task_run",
            json!({"description": "x", "assigned_to": "nobody"}),
        ),
    );
    let list = modern("tools/call", tool("task_list", json!({})));
    let calls = [
        (None, None),
        (Some(listen.clone()), Some(listen)),
        (Some(wait()), Some(wait())),
        (Some(wait()), Some(list)),
        (Some(run.clone()), Some(run)),
    ];
    for (limit, (first, second)) in AT_A_TIME.into_iter().zip(calls) {
        let tenant = limit.replace('_', "-");
        for name in [tenant.as_str(), "another"] {
            let task = json!({"task_id": "t", "description": "x", "assigned_to": "nobody"});
            server
                .use_tool(&format!("/t/{name}/mcp"), "task_dispatch", task)
                .await;
        }
        let configuration = json!({"tenant_id": tenant, "rate_limits": {limit: 1}});
        server
            .use_tool("/mcp", "tenant_configure", configuration)
            .await;
        let ask = |tenant: &str, message: &Option<Value>| {
            let path = format!("/t/{tenant}/mcp");
            match message {
                Some(message) => server.modern(&path, message),
                None => server.message(&path, &initialize("2025-11-25")),
            }
        };
        let mut going = JoinSet::new();
        let begun = ask(&tenant, &first);
        let is_waiting = first.as_ref().is_some_and(|first| *first == wait());
        if is_waiting {
            going.spawn(async move { drop(begun.send().await) });
            server.until_waiting(1).await;
        } else {
            let begun = begun.send().await.unwrap();
            assert_eq!(begun.status(), 200, "{limit}");
            // It goes on as long as it is held.
            going.spawn(async move {
                let _begun = begun;
                std::future::pending::<()>().await;
            });
        }
        let refused = Answer::of(ask(&tenant, &second)).await;
        assert!(
            refused.text.contains(&format!("{limit} is 1")),
            "{limit}: {}",
            refused.text
        );
        // Nobody else is held to it.
        let mut others = JoinSet::new();
        let other = ask("another", &second);
        if second.as_ref().is_some_and(|second| *second == wait()) {
            others.spawn(async move { drop(other.send().await) });
            server.until_waiting(2).await;
        } else {
            let other = other.send().await.unwrap();
            assert_eq!(other.status(), 200, "{limit}");
        }
        others.shutdown().await;
        going.shutdown().await;
        server.until_waiting(0).await;
    }
}

#[tokio::test]
async fn statistics_show_what_there_is_how_much_of_it_may_be_and_how_calls_go() {
    let server = Server::start();
    let tenant = Tenant {
        server: &server,
        name: "acme".into(),
    };
    tenant
        .configure("task_limits", json!({"max_running_tasks": 4}))
        .await;
    for _ in 0..3 {
        tenant
            .call("task_dispatch", json!({"description": "x"}))
            .await;
    }
    tenant.call("task_claim", json!({"agent_id": "ada"})).await;
    let memory = json!({"agent_id": "ada", "content": "Backups run at four."});
    tenant.call("memory_write", memory).await;
    let unknown = json!({"task_id": "none"});
    let refused = server.try_call_as("acme", "task_get", unknown).await;
    assert!(refused.is_err());
    let stats = server
        .call("tenant_stats", json!({"tenant_id": "acme"}))
        .await;
    assert_eq!(
        stats["counts"],
        json!({"tasks": 3, "tasks_by_state": {"pending": 2, "assigned": 1}, "memory_entries": 1, "events": 6,
            "keys": 0, "sessions": 0})
    );
    let of = |list: &str, name: &str| {
        let all = stats[list].as_array().unwrap().iter();
        let mut found = all.filter(|it| it["limit"] == name);
        found
            .next()
            .unwrap_or_else(|| panic!("{list} without {name}"))
            .clone()
    };
    let running = of("quotas", "max_running_tasks");
    assert_eq!(
        (&running["value"], &running["used"]),
        (&json!(4), &json!(1))
    );
    let entries = of("quotas", "max_memory_entries");
    assert_eq!(
        (&entries["value"], &entries["used"]),
        (&json!(100_000), &json!(1))
    );
    assert_eq!(of("limits", "max_handles_per_tenant")["value"], 10_000);
    let calls = &stats["calls"];
    // What configures a tenant is a call of it too; the one that asks is not answered yet.
    assert_eq!(
        (&calls["count"], &calls["refused"]),
        (&json!(7), &json!(1)),
        "{calls}"
    );
    assert!(calls["latency_ms"]["p99"].is_number(), "{calls}");
    let others = server
        .call("tenant_stats", json!({"tenant_id": "globex"}))
        .await;
    assert_eq!(others["calls"]["count"], 0);
    assert_eq!(others["counts"]["tasks"], 0);
}
