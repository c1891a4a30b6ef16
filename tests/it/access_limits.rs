//! Limits while servers run: who may change them, where and when a change holds, and rates by class of call.

use std::time::Duration;

use baton::config::{Auth, Settings};
use baton::quota::{Given, Limit};
use reqwest::Method;
use serde_json::{Value, json};

use crate::access::{call, code, key_of, operators_key, told};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::until;

/// What `--limit` says.
fn given(limits: &[(Limit, u32)]) -> Vec<Given> {
    let given = limits.iter().copied();
    given.map(|(limit, value)| Given { limit, value }).collect()
}

/// A server with these limits, for which time stands still.
pub(crate) async fn limited(
    limits: &[(Limit, u32)],
    more: impl FnOnce(&mut Settings),
) -> HttpServer {
    let builder = HttpServer::builder().foreseeable();
    let builder = builder.settings(|settings| {
        settings.limits = given(limits);
        more(settings);
    });
    builder.start().await
}

pub(crate) fn with_keys(settings: &mut Settings) {
    settings.auth = vec![Auth::Keys];
}

/// Sets a limit, by whoever is shown.
async fn set(server: &HttpServer, tenant: &str, limit: &str, body: Value) -> Answer {
    let path = format!("/t/{tenant}/api/v1/limits/{limit}");
    Answer::of(server.request(Method::PATCH, &path).json(&body)).await
}

/// One limit, as whoever is shown sees it.
async fn limit(server: &HttpServer, tenant: &str, name: &str) -> Value {
    let answer = server
        .get(&format!("/t/{tenant}/api/v1/limits?limit={name}"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut all = answer.body["limits"].as_array().unwrap().clone();
    assert_eq!(all.len(), 1, "{}", answer.text);
    all.remove(0)
}

pub(crate) async fn reads(server: &HttpServer, tenant: &str) -> u16 {
    server
        .get(&format!("/t/{tenant}/api/v1/tasks"))
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_sets_holds_at_once_here_and_soon_everywhere() {
    let one = limited(&[], with_keys).await;
    let builder = HttpServer::builder().foreseeable().beside(&one);
    let other = builder.settings(with_keys).start().await;
    let operator = operators_key(&one).await;
    let keys = [
        key_of(&one, "acme", "admin").await,
        key_of(&one, "globex", "observer").await,
    ];
    one.show(&operator);
    let set_to = async |tenant: &str, value: Value, scope: &str| {
        let body = json!({"value": value, "scope": scope});
        let answer = set(&one, tenant, "rate_per_tenant", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    };
    let before = limit(&one, "acme", "rate_per_tenant").await;
    assert_eq!(before["source"], "start");
    assert!(before["value"].is_null(), "{before}");
    let after = set_to("default", json!(3), "server").await;
    assert_eq!(
        (&after["value"], &after["source"]),
        (&json!(3), &json!("server"))
    );
    let own = set_to("acme", json!(5), "tenant").await;
    assert_eq!(
        (&own["value"], &own["source"]),
        (&json!(5), &json!("tenant"))
    );
    for (key, tenant, most) in [(&keys[0], "acme", 5), (&keys[1], "globex", 3)] {
        for server in [&one, &other] {
            server.show(&operator);
            until(async || limit(server, tenant, "rate_per_tenant").await["value"] == most).await;
            // What is in the database is not yet what a process goes by.
            server.show(key);
            let throttle = server.app.system.throttle();
            let tenant_id = tenant.parse().unwrap();
            until(async || throttle.cap(Limit::RatePerTenant, &tenant_id) == Some(most)).await;
            server.app.system.clock().advance(Duration::from_secs(2));
            for _ in 0..most {
                assert_eq!(reads(server, tenant).await, 200);
            }
            let refused = server.get(&format!("/t/{tenant}/api/v1/tasks")).await;
            refused.is_problem(429, "rate_limited");
            let detail = refused.body["detail"].as_str().unwrap();
            assert!(
                detail.contains(&format!("rate_per_tenant is {most}")),
                "{detail}"
            );
            assert_eq!(refused.header("retry-after"), "1");
        }
    }
    one.app.system.clock().advance(Duration::from_secs(2));
    one.show(&operator);
    set_to("acme", Value::Null, "tenant").await;
    let again = set_to("default", Value::Null, "server").await;
    assert_eq!(again["source"], "start", "{again}");
    assert!(
        again["value"].is_null() && again["set_by"].is_null(),
        "{again}"
    );
    one.show(&keys[0]);
    for _ in 0..20 {
        assert_eq!(reads(&one, "acme").await, 200);
    }
    let events = told(&one, "acme", "dev.baton.limit.set").await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events[0]["by"].as_str().unwrap().starts_with("key:bt_"),
        "{events:?}"
    );
    assert_eq!(
        events[0]["data"],
        json!({"scope": "tenant", "value": 5, "before": null})
    );
    assert_eq!(
        events[1]["data"],
        json!({"scope": "tenant", "value": null, "before": 5})
    );
    assert_eq!(told(&one, "default", "dev.baton.limit.set").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_the_operators_to_change_and_the_tenants_admins_to_see() {
    let server = limited(&[(Limit::MaxCallsPerTenant, 9)], with_keys).await;
    let operator = operators_key(&server).await;
    let admin = key_of(&server, "acme", "admin").await;
    server.show(&admin);
    for scope in ["tenant", "server"] {
        let body = json!({"value": 1000, "scope": scope});
        let answer = set(&server, "acme", "max_calls_per_tenant", body).await;
        answer.is_problem(403, "forbidden");
    }
    let seen = limit(&server, "acme", "max_calls_per_tenant").await;
    assert_eq!(
        (&seen["value"], &seen["source"]),
        (&json!(9), &json!("start"))
    );
    // This very call is one.
    assert_eq!(seen["in_use"], 1, "{seen}");
    let handles = limit(&server, "acme", "max_handles_per_tenant").await;
    assert_eq!(
        (&handles["value"], &handles["in_use"]),
        (&json!(10_000), &json!(0))
    );
    let all = server.get("/api/v1/limits").await;
    let all = all.body["limits"].as_array().unwrap();
    assert_eq!(all.len(), Limit::ALL.len());
    let address = all
        .iter()
        .find(|it| it["limit"] == "max_connections_per_address");
    assert!(address.unwrap()["in_use"].is_null(), "{address:?}");
    server.show(&operator);
    let address = limit(&server, "acme", "max_connections_per_address").await;
    assert!(address["in_use"].as_u64().unwrap() >= 1, "{address}");
    for (name, body, path) in [
        (
            "rate_per_address",
            json!({"value": 5, "scope": "tenant"}),
            "/scope",
        ),
        (
            "rate_per_tenant",
            json!({"value": 1_000_001, "scope": "tenant"}),
            "/value",
        ),
        (
            "rate_per_tenant",
            json!({"value": -1, "scope": "tenant"}),
            "/value",
        ),
        (
            "rate_per_planet",
            json!({"value": 5, "scope": "tenant"}),
            "/limit",
        ),
        (
            "rate_per_tenant",
            json!({"value": 5, "scope": "world"}),
            "/scope",
        ),
    ] {
        let answer = set(&server, "acme", name, body).await;
        answer.is_problem(400, "invalid_input");
        assert_eq!(answer.body["details"][0]["path"], path, "{}", answer.text);
    }
    let body = json!({"value": 0, "scope": "tenant"});
    let lifted = set(&server, "acme", "max_calls_per_tenant", body)
        .await
        .body;
    assert!(lifted["value"].is_null(), "{lifted}");
    assert_eq!(
        (&lifted["source"], &lifted["at_start"]),
        (&json!("tenant"), &json!(9))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_calls_have_rates_of_their_own() {
    let limits = [
        (Limit::RatePerTenantReads, 3),
        (Limit::RatePerTenantWrites, 2),
        (Limit::RatePerTenantWaits, 1),
        (Limit::RatePerTenantAdmin, 1),
    ];
    let server = limited(&limits, |_| {}).await;
    let beat = || json!({"agent_id": "ada", "leases": []});
    let claim = || json!({"agent_id": "ada", "wait_seconds": 0});
    let wait = || json!({"task_ids": ["t"], "wait_seconds": 0});
    let used = async |name: &str| {
        let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
        let key = baton::throttle::Key::Tenant(ctx.tenant().clone());
        let name = name.parse::<Given>().unwrap().limit;
        ctx.throttle().used(name, &key)
    };
    for (name, input, most, limit) in [
        ("task_list", json!({}), 3, "rate_per_tenant_reads"),
        ("task_heartbeat", beat(), 1, "rate_per_tenant_writes"),
        ("task_claim", claim(), 1, "rate_per_tenant_writes"),
        ("task_wait", wait(), 1, "rate_per_tenant_waits"),
        ("key_list", json!({}), 1, "rate_per_tenant_admin"),
    ] {
        for _ in 0..most {
            let answer = call(&server, "/mcp", name, input.clone()).await;
            assert_ne!(code(&answer.body["result"]), "rate_limited", "{name}");
        }
        if name == "task_heartbeat" {
            continue;
        }
        let refused = call(&server, "/mcp", name, input).await;
        assert_eq!(
            code(&refused.body["result"]),
            "rate_limited",
            "{name}: {}",
            refused.text
        );
        assert!(refused.text.contains(limit), "{name}: {}", refused.text);
        assert!(
            refused.text.contains("retry_after_seconds"),
            "{}",
            refused.text
        );
    }
    assert_eq!(used("rate_per_tenant_reads=0").await, Some(3));
    server
        .app
        .system
        .clock()
        .advance(Duration::from_millis(400));
    assert_eq!(used("rate_per_tenant_reads=0").await, Some(2));
    server.use_tool("/mcp", "task_list", json!({})).await;
    let document = server.get("/openapi.json").await.body;
    for (path, method, classes) in [
        ("/api/v1/tasks", "get", json!(["read"])),
        ("/api/v1/tasks", "post", json!(["write"])),
        ("/api/v1/claims", "post", json!(["write", "wait"])),
        ("/api/v1/waits", "post", json!(["wait"])),
        ("/api/v1/limits", "get", json!(["admin"])),
    ] {
        assert_eq!(
            document["paths"][path][method]["x-rate-classes"], classes,
            "{path}"
        );
    }
}

#[test]
fn limits_at_start_are_named_and_have_values() {
    let read = |text: &str| {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        let config = settings.complete(Settings::default());
        config.map_err(|error| error.to_string())
    };
    let config =
        read("limits = [\"max_calls_per_tenant=50\", \"rate_per_tenant=7\"]\nrate_per_tenant = 9");
    let caps = config.unwrap().caps;
    assert_eq!(caps.get(Limit::MaxCallsPerTenant), Some(50));
    assert_eq!(
        caps.get(Limit::RatePerTenant),
        Some(9),
        "the flag of its own goes first"
    );
    assert_eq!(
        caps.get(Limit::MaxListenersPerTenant),
        None,
        "nobody is told from anybody"
    );
    let keys = read("auth = [\"keys\"]\nlimits = [\"max_sessions_per_tenant=0\"]")
        .unwrap()
        .caps;
    assert_eq!(keys.get(Limit::MaxListenersPerTenant), Some(5_000));
    assert_eq!(keys.get(Limit::MaxSessionsPerTenant), None);
    let alone = read("auth = [\"keys\"]\ntenant = \"acme\"").unwrap().caps;
    assert_eq!(
        alone.get(Limit::MaxListenersPerTenant),
        None,
        "there are no others"
    );
    for (text, said) in [
        ("limits = [\"max_calls=1\"]", "there are rate_per_address"),
        (
            "limits = [\"max_calls_per_tenant\"]",
            "max_calls_per_tenant=50",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}
