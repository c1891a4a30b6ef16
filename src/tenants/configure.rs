//! `tenant_configure`: what a tenant may have, section by section.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::look::{self, View};
use super::store::{self, Kept};
use super::take_over;
use crate::allowance::{
    AiProvider, Configuration, McpConfig, ScriptLimits, StorageLimits, TaskLimits, ToolLimits,
};
use crate::ctx::{Ctx, Scope};
use crate::error::Result;
use crate::events;
use crate::id::TenantId;
use crate::limits;
use crate::store::Tx;

/// What a tenant is to be configured to. Each section that is named becomes what is said, whole; the others stay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Configure {
    /// The tenant
    #[expect(dead_code, reason = "the call is for it already")]
    tenant_id: TenantId,
    /// Memory and federation
    mcp_config: Option<McpConfig>,
    /// Tools
    tool_limits: Option<ToolLimits>,
    /// Tasks
    task_limits: Option<TaskLimits>,
    /// Files
    storage_limits: Option<StorageLimits>,
    /// Scripts
    script_limits: Option<ScriptLimits>,
    /// Limits of calls, as `limits_get` names them
    rate_limits: Option<limits::Own>,
    /// Providers of models in order, by name or with model and rate; not yet effective
    #[schemars(length(max = 50))]
    ai_providers: Option<Vec<AiProvider>>,
}

/// Configures a tenant. It holds in this process before it is answered.
pub(super) async fn configure_now(ctx: Ctx, input: Configure) -> Result<View> {
    ctx.write(move |scope, tx| configure(scope, tx, &input))
        .await?;
    take_over(ctx.system()).await?;
    limits::take_over(ctx.system()).await?;
    ctx.read(|_, tx| look::view(tx)).await
}

fn configure(scope: &Scope, tx: &mut Tx<'_>, input: &Configure) -> Result<()> {
    let before = store::find(tx)?.map(|kept| kept.configuration);
    let before_limits = limits::Own::read(tx)?;
    let configuration = merge(before.clone().unwrap_or_default(), input);
    if let Some(limits) = &input.rate_limits {
        limits.keep(scope, tx)?;
    }
    let limits = input.rate_limits.as_ref().unwrap_or(&before_limits);
    if before.as_ref() == Some(&configuration) && *limits == before_limits {
        return Ok(());
    }
    let told = json!({"configuration": configuration, "rate_limits": limits, "before": before});
    let kept = Kept {
        configuration,
        set_at: scope.now(),
        set_by: scope.actor().to_owned(),
    };
    let change = store::next_change(tx)?;
    store::save(tx, &kept, change)?;
    let subject = tx.tenant().as_str();
    events::append(scope, tx, "dev.baton.tenant.configured", subject, &told).map(drop)
}

fn merge(before: Configuration, input: &Configure) -> Configuration {
    let Configure {
        mcp_config,
        tool_limits,
        task_limits,
        storage_limits,
        script_limits,
        ai_providers,
        ..
    } = input.clone();
    Configuration {
        mcp_config: mcp_config.unwrap_or(before.mcp_config),
        tool_limits: tool_limits.unwrap_or(before.tool_limits),
        task_limits: task_limits.unwrap_or(before.task_limits),
        storage_limits: storage_limits.unwrap_or(before.storage_limits),
        script_limits: script_limits.unwrap_or(before.script_limits),
        ai_providers: ai_providers.unwrap_or(before.ai_providers),
    }
}
