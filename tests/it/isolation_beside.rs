//! Two tenants side by side: what one uses up, makes and changes, the other neither lacks nor hears of.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::HttpServer;
use crate::support::mcp::{Events, modern};

#[tokio::test]
async fn what_one_tenant_uses_is_counted_against_no_other() {
    let server = Server::start();
    let (acme, globex) = ("acme", "globex");
    for tenant in [acme, globex] {
        let little = json!({"tenant_id": tenant, "mcp_config": {"max_memory_entries": 1},
            "tool_limits": {"max_tools": 1, "max_dynamic_tools": 1}, "storage_limits": {"max_storage_bytes": 5},
            "task_limits": {"max_running_tasks": 1}});
        server.call("tenant_configure", little).await;
        let folder = json!({"resource_id": "r", "type": "file_storage", "uri": "file://tenant/r",
            "access_permissions": ["read", "write"]});
        server.call_as(tenant, "resource_register", folder).await;
        for _ in 0..2 {
            server
                .call_as(tenant, "task_dispatch", json!({"description": "x"}))
                .await;
        }
    }
    // What takes all that there is, and what would be more.
    let takes = |number: u32| {
        let tool = format!("tool{number}");
        [
            (
                "memory_write",
                json!({"agent_id": "ada", "content": format!("Room {number} is booked"), "importance": 0.1}),
            ),
            (
                "tool_create",
                json!({"name": tool, "description": tool, "implementation": "https://e.example/"}),
            ),
            (
                "resource_write",
                json!({"resource_id": "r", "path": tool, "text": "five!"}),
            ),
        ]
    };
    let used = async |tenant: &str| {
        let stats = server
            .call("tenant_stats", json!({"tenant_id": tenant}))
            .await;
        let quotas = stats["quotas"].as_array().unwrap().iter();
        let used = quotas.map(|quota| (quota["limit"].clone(), quota["used"].clone()));
        used.filter(|(_, used)| *used != 0).count()
    };
    let claim = json!({"agent_id": "ada", "max_tasks": 5});
    for tenant in [acme, globex] {
        assert_eq!(used(tenant).await, 0, "{tenant}");
        for (op, input) in takes(1) {
            server.call_as(tenant, op, input).await;
        }
        for (op, input) in takes(2).into_iter().filter(|(op, _)| *op != "memory_write") {
            let refused = server.try_call_as(tenant, op, input).await;
            assert_eq!(
                refused.unwrap_err().code(),
                "quota_exceeded",
                "{tenant}: {op}"
            );
        }
        let claimed = server.call_as(tenant, "task_claim", claim.clone()).await;
        assert_eq!(claimed["tasks"].as_array().unwrap().len(), 1, "{claimed}");
        assert_eq!(used(tenant).await, 5, "{tenant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hears_of_what_another_tenant_makes() {
    let server = HttpServer::start().await;
    let uris = [
        "baton://tasks/t",
        "baton://resources/r",
        "baton://resources/r/x",
        "baton://memory/ada",
    ];
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourcesListChanged": true, "promptsListChanged": true,
        "resourceSubscriptions": uris}});
    let listen = modern("subscriptions/listen", wanted);
    let mut heard = Events::of(server.modern("/t/globex/mcp", &listen)).await;
    heard.data().await;
    let session = server.session("/t/globex/mcp", "2025-11-25").await;
    for uri in uris {
        session
            .ask("resources/subscribe", json!({"uri": uri}))
            .await;
    }
    let mut older = Events::of(session.request(Method::GET)).await;
    let acme = async |op: &str, input: Value| server.use_tool("/t/acme/mcp", op, input).await;
    acme("task_dispatch", json!({"task_id": "t", "description": "x"})).await;
    acme(
        "memory_write",
        json!({"agent_id": "ada", "content": "Backups run at four."}),
    )
    .await;
    let folder = json!({"resource_id": "r", "type": "file_storage", "uri": "file://tenant/r", "access_permissions": ["write"]});
    acme("resource_register", folder).await;
    acme(
        "resource_write",
        json!({"resource_id": "r", "path": "x", "text": "y"}),
    )
    .await;
    let tool = json!({"name": "echo", "description": "x", "implementation": "https://e.example/"});
    acme("tool_create", tool).await;
    // The first thing that is heard is what globex does itself.
    server.dispatch("/t/globex/mcp", "t").await;
    for events in [&mut heard, &mut older] {
        let first = events.data().await;
        assert_eq!(
            first["method"], "notifications/resources/updated",
            "{first}"
        );
        assert_eq!(first["params"]["uri"], "baton://tasks/t", "{first}");
    }
}
