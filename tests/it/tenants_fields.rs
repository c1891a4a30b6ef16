//! Every field of a tenant's configuration is read by something: the type is walked, and of each field the effect is shown.

use std::sync::Arc;
use std::time::Duration;

use baton::allowance::Allowance;
use baton::quota::{Limit, Whom};
use serde_json::{Value, json};

use crate::support::Server;
use crate::tools::weather;

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

    /// What rooms are told that ask what it may have.
    fn allowance(&self) -> Arc<Allowance> {
        let allowances = self.server.app.system.allowances();
        allowances.of(&self.name.parse().unwrap())
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
            ("mcp_config", "max_memory_entries") => {
                tenant.configure(&section, json!({&field: 0})).await;
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
                tenant.configure(&section, json!({&field: 1})).await;
                let memory = json!({"agent_id": "ada", "content": "For a day."});
                tenant.call("memory_write", memory).await;
                server.clock.advance(Duration::from_hours(25));
                while baton::memory::tick(&server.app.system).await.unwrap() > 0 {}
                let left = tenant.call("memory_list", json!({})).await;
                assert_eq!(left["memories"], json!([]));
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
            ("storage_limits" | "script_limits", _) => {
                let before = tenant.allowance();
                tenant.configure(&section, json!({&field: 7})).await;
                let after = tenant.allowance();
                let is = match field.as_str() {
                    "max_storage_bytes" => after.storage_bytes == 7,
                    "max_script_seconds" => after.script_time == Duration::from_secs(7),
                    _ => false,
                };
                assert!(is && before != after, "{field}: {after:?}");
            }
            ("mcp_config", "federation_enabled") => {
                let seen = tenant.configure(&section, json!({&field: true})).await;
                assert_eq!(
                    seen["not_yet_effective"],
                    json!(["mcp_config.federation_enabled"])
                );
            }
            ("ai_providers", _) => {
                let seen = tenant.configure(&section, json!(["openai"])).await;
                assert_eq!(seen["not_yet_effective"], json!(["ai_providers"]));
            }
            other => panic!("nothing is known to read {other:?}"),
        }
    }
}

/// A limit of calls holds for the tenant alone: how each is kept, the limits' own tests show.
async fn has_effect(tenant: &Tenant<'_>, name: &str) {
    tenant.configure("rate_limits", json!({name: 1})).await;
    let limit: Limit = serde_json::from_value(json!(name)).unwrap();
    assert_eq!(limit.whom(), Whom::Tenant, "{name}");
    let throttle = tenant.server.app.system.throttle();
    assert_eq!(throttle.cap(limit, &tenant.name.parse().unwrap()), Some(1));
    assert_ne!(throttle.cap(limit, &"another".parse().unwrap()), Some(1));
    if limit == Limit::RatePerTenant {
        tenant.call("task_list", json!({})).await;
        tenant
            .is_refused("task_list", json!({}), "rate_per_tenant is 1")
            .await;
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
