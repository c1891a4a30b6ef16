//! What callers may do with tenants: declarations.

use serde_json::json;

use super::{configure, look};
use crate::op::{Op, Permission};

/// What operators may do with tenants, and a tenant's admins with their own.
pub fn operations() -> Vec<Op> {
    use Permission::{Admin, Operate};
    vec![
        Op::waiting("tenant_configure", Operate, configure::configure_now)
            .at_once()
            .aims()
            .idempotent()
            .about("Configure a tenant", "Say what a tenant may have: memory, tools, running tasks, files, scripts, calls. A section that is named becomes what is said, whole; the others stay. It takes a credential for all tenants.")
            .at("PATCH", "/api/v1/tenants/{tenant_id}")
            .at("POST", "/tenants/configure")
            .sample(|| json!({"tenant_id": "acme", "mcp_config": {"max_memory_entries": 10_000, "memory_retention_days": 30},
                "tool_limits": {"max_tools": 50, "max_dynamic_tools": 20}})),
        Op::read("tenant_get", Admin, look::get)
            .aims()
            .about("Get a tenant", "Show what a tenant may have, with what holds by default, and what of its configuration has no effect yet.")
            .at("GET", "/api/v1/tenants/{tenant_id}")
            .at("GET", "/tenants/{tenant_id}")
            .sample(|| json!({"tenant_id": "acme"})),
    ]
}
