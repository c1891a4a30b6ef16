//! How often somebody may call, by address, credential and tenant; whom proxies forward; and who was turned away.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use baton::config::Auth;
use reqwest::Method;
use serde_json::json;

use crate::access::{call, code, key_of};
use crate::support::http::{Answer, HttpServer};

const FEW: Option<NonZeroU32> = NonZeroU32::new(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_calls_too_often_slows_down_and_nobody_else() {
    let builder = HttpServer::builder().foreseeable();
    let server = builder
        .settings(|settings| settings.rate_per_tenant = FEW)
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(server.get("/t/acme/api/v1/tasks").await.status, 200);
    }
    let refused = server.get("/t/acme/api/v1/tasks").await;
    refused.is_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1");
    let over_mcp = call(&server, "/t/acme/mcp", "task_list", json!({})).await;
    assert_eq!(over_mcp.status, 200);
    assert_eq!(
        code(&over_mcp.body["result"]),
        "rate_limited",
        "{}",
        over_mcp.text
    );
    assert!(
        over_mcp.text.contains("retry_after_seconds"),
        "{}",
        over_mcp.text
    );
    assert_eq!(server.get("/t/globex/api/v1/tasks").await.status, 200);
    server.app.system.clock().advance(Duration::from_secs(1));
    assert_eq!(server.get("/t/acme/api/v1/tasks").await.status, 200);
    server.app.system.clock().advance(Duration::from_mins(1));
    server.app.system.throttle().sweep();
    for _ in 0..3 {
        assert_eq!(server.get("/t/acme/api/v1/tasks").await.status, 200);
    }
    server
        .get("/t/acme/api/v1/tasks")
        .await
        .is_problem(429, "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_has_a_rate_of_its_own() {
    let builder = HttpServer::builder().foreseeable();
    let server = builder
        .settings(|settings| {
            settings.auth = vec![Auth::Keys];
            settings.rate_per_credential = FEW;
        })
        .start()
        .await;
    let (ada, bob) = (
        key_of(&server, "acme", "observer").await,
        key_of(&server, "acme", "observer").await,
    );
    server.show(&ada);
    for _ in 0..3 {
        assert_eq!(server.get("/api/v1/tasks").await.status, 200);
    }
    server
        .get("/api/v1/tasks")
        .await
        .is_problem(429, "rate_limited");
    server.show(&bob);
    assert_eq!(server.get("/api/v1/tasks").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_whom_a_trusted_proxy_names_and_nobody_elses_word() {
    let trusting = |trusted: bool| {
        let builder = HttpServer::builder().foreseeable();
        builder.settings(move |settings| {
            settings.rate_per_address = FEW;
            if trusted {
                settings.trusted_proxies = vec![IpAddr::from([127, 0, 0, 1])];
            }
        })
    };
    let ask = async |server: &HttpServer, from: &str| {
        let request = server.request(Method::GET, "/health");
        Answer::of(request.header("x-forwarded-for", from))
            .await
            .status
    };
    let server = trusting(false).start().await;
    let mut seen = Vec::new();
    for last in 1..=4 {
        seen.push(ask(&server, &format!("192.0.2.{last}")).await);
    }
    assert_eq!(seen, [200, 200, 200, 429]);
    let server = trusting(true).start().await;
    for _ in 0..3 {
        assert_eq!(ask(&server, "192.0.2.1").await, 200);
    }
    assert_eq!(ask(&server, "192.0.2.1").await, 429);
    assert_eq!(
        ask(&server, "198.51.100.7, 192.0.2.1").await,
        429,
        "a client's own word"
    );
    assert_eq!(ask(&server, "192.0.2.1, 192.0.2.2").await, 200);
    assert_eq!(
        ask(&server, "192.0.2.1, 127.0.0.1").await,
        429,
        "two proxies"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_counted_together_and_written_nowhere() {
    let server = crate::access::guarded().await;
    for _ in 0..50 {
        server
            .get("/api/v1/tasks")
            .await
            .is_problem(401, "credential_required");
    }
    let told = crate::access::told(&server, "default", "dev.baton.access.refused").await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(server.app.access.tell_of_strangers(), 1);
    assert_eq!(server.app.access.tell_of_strangers(), 0);
}
