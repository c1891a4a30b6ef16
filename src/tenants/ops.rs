//! What callers may do with tenants: declarations.

use serde_json::json;

use super::{configure, delete, look, stats};
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
        Op::waiting("tenant_list", Admin, look::list)
            .read_only()
            .at_once()
            .aims()
            .about("List tenants", "List the tenants that your credential is for, or those of them that were deleted.")
            .at("GET", "/api/v1/tenants")
            .at("GET", "/tenants")
            .sample(|| json!({"limit": 10})),
        Op::read("tenant_stats", Admin, stats::stats)
            .aims()
            .about("Tenant statistics", "Show what a tenant has, how much it uses of each limit, and its calls, errors and latencies at this process.")
            .at("GET", "/api/v1/tenants/{tenant_id}/stats")
            .at("GET", "/tenants/{tenant_id}/stats")
            .sample(|| json!({"tenant_id": "acme"})),
        Op::waiting("tenant_delete", Operate, delete::delete_now)
            .at_once()
            .aims()
            .confirms()
            .destructive()
            .idempotent()
            .about("Delete a tenant", "Remove a tenant with everything of it, its log and keys too, for good. Nothing is taken for it meanwhile; tenant_get shows when it is done. It takes a credential for all tenants.")
            .at("DELETE", "/api/v1/tenants/{tenant_id}")
            .sample(|| json!({"tenant_id": "acme"})),
    ]
}
