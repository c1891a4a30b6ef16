//! `tenant_get`: what a tenant is configured to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::store;
use crate::allowance::{
    AiProvider, McpConfig, ScriptLimits, StorageLimits, TaskLimits, ToolLimits,
};
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::Result;
use crate::id::TenantId;
use crate::limits;
use crate::store::Tx;

/// Which tenant.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Which {
    /// The tenant; that of the call, if not said
    #[expect(dead_code, reason = "the call is for it already")]
    tenant_id: Option<TenantId>,
}

/// A tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct View {
    /// The tenant
    tenant_id: TenantId,
    /// When it began; not at all yet, if not said
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Time>,
    /// Memory and federation, with what holds by default
    mcp_config: McpConfig,
    /// Tools
    tool_limits: ToolLimits,
    /// Tasks
    task_limits: TaskLimits,
    /// Files
    storage_limits: StorageLimits,
    /// Scripts
    script_limits: ScriptLimits,
    /// The limits of calls that it has of its own; `limits_get` shows all
    rate_limits: limits::Own,
    /// Providers of models, in order
    ai_providers: Vec<AiProvider>,
    /// What of this is kept and has no effect yet
    not_yet_effective: Vec<&'static str>,
    /// When it was configured
    #[serde(skip_serializing_if = "Option::is_none")]
    configured_at: Option<Time>,
    /// Who configured it
    #[serde(skip_serializing_if = "Option::is_none")]
    configured_by: Option<String>,
}

pub(super) fn get(_: &Scope, tx: &mut Tx<'_>, _: &Which) -> Result<View> {
    view(tx)
}

/// The transaction's tenant.
pub(super) fn view(tx: &mut Tx<'_>) -> Result<View> {
    let created_at = store::began(tx)?;
    let kept = store::find(tx)?;
    let (configured_at, configured_by) = match &kept {
        Some(kept) => (Some(kept.set_at), Some(kept.set_by.clone())),
        None => (None, None),
    };
    let configuration = kept.map(|kept| kept.configuration).unwrap_or_default();
    let not_yet_effective = configuration.not_yet_effective();
    let whole = configuration.whole();
    Ok(View {
        tenant_id: tx.tenant().clone(),
        created_at,
        mcp_config: whole.mcp_config,
        tool_limits: whole.tool_limits,
        task_limits: whole.task_limits,
        storage_limits: whole.storage_limits,
        script_limits: whole.script_limits,
        rate_limits: limits::Own::read(tx)?,
        ai_providers: whole.ai_providers,
        not_yet_effective,
        configured_at,
        configured_by,
    })
}
