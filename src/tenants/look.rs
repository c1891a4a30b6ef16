//! `tenant_get` and `tenant_list`: what a tenant is configured to, and which there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{delete, store};
use crate::allowance::{
    AiProvider, McpConfig, ScriptLimits, StorageLimits, TaskLimits, ToolLimits,
};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::Result;
use crate::id::TenantId;
use crate::limits;
use crate::page::Position;
use crate::principal::Tenants;
use crate::store::{SystemTx, Tx};

/// Whose cursors these are.
const LIST: &str = "tenant_list";

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
    /// Its deletion, if it was deleted or is to be
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion: Option<delete::View>,
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
        deletion: store::deletion(tx)?.map(Into::into),
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

/// Which tenants.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct List {
    /// Those that were deleted or are to be, instead of those that there are
    #[serde(default)]
    deleted: bool,
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the last page ended: its `next_cursor`
    cursor: Option<String>,
}

const fn fifty() -> u32 {
    50
}

/// A page of tenants.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// The tenants, by name
    tenants: Vec<Item>,
    /// Where the next page begins
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A tenant, or what became of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Item {
    /// The tenant
    tenant_id: TenantId,
    /// When it began
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Time>,
    /// How many events its log has
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    /// Whether it was configured
    #[serde(skip_serializing_if = "Option::is_none")]
    configured: Option<bool>,
    /// Whether it is being deleted
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleting: bool,
    /// Its deletion
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion: Option<delete::View>,
}

/// Which tenants a caller may hear of.
enum Known {
    All,
    These(Vec<TenantId>),
}

impl Known {
    fn to(ctx: &Ctx) -> Self {
        let own = ctx.principal().map(|principal| principal.tenants.clone());
        match (ctx.system().bound(), own) {
            (Some(bound), _) => Self::These(vec![bound.clone()]),
            (None, Some(Tenants::These(own))) => Self::These(own),
            (None, Some(Tenants::All) | None) => Self::All,
        }
    }

    /// The first `limit` of these behind a name, of those that `read` finds in pages.
    fn page<T>(
        &self,
        (mut after, limit): (String, usize),
        name: impl Fn(&T) -> &TenantId,
        mut read: impl FnMut(&str) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        loop {
            let page = read(&after)?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            name(last).as_str().clone_into(&mut after);
            let is_known = |item: &T| match self {
                Self::All => true,
                Self::These(own) => own.contains(name(item)),
            };
            found.extend(page.into_iter().filter(is_known));
            if found.len() >= limit {
                return Ok(found);
            }
        }
    }
}

pub(super) async fn list(ctx: Ctx, input: List) -> Result<Listed> {
    let after = match input.cursor {
        None => String::new(),
        Some(cursor) => {
            let seal = ctx.read(|_, tx| tx.seal(LIST)).await?;
            seal.open(&cursor)?.id
        }
    };
    let known = Known::to(&ctx);
    let limit = usize::try_from(input.limit).unwrap_or(usize::MAX);
    let find = move |tx: &mut SystemTx<'_>| -> Result<Vec<Item>> {
        let asked = (after.clone(), limit + 1);
        let more = input.limit + 1;
        if input.deleted {
            let found = known.page(
                asked,
                |it: &store::Deletion| &it.tenant,
                |after| store::deletions(tx, after, more),
            )?;
            return Ok(found.into_iter().map(Item::gone).collect());
        }
        let found = known.page(
            asked,
            |it: &store::Listed| &it.tenant,
            |after| store::list(tx, after, more),
        )?;
        Ok(found.into_iter().map(Item::of).collect())
    };
    let mut tenants = ctx.system().survey(find).await?;
    let is_more = tenants.len() > limit;
    tenants.truncate(limit);
    let last = tenants.last().filter(|_| is_more);
    let next_cursor = match last.map(|item| item.tenant_id.to_string()) {
        None => None,
        Some(id) => {
            let seal = ctx.read(|_, tx| tx.seal(LIST)).await?;
            Some(seal.close(&Position { key: 0, id }))
        }
    };
    Ok(Listed {
        tenants,
        next_cursor,
    })
}

impl Item {
    fn of(listed: store::Listed) -> Self {
        Self {
            tenant_id: listed.tenant,
            created_at: Some(listed.created_at),
            events: Some(listed.events),
            configured: Some(listed.is_configured),
            deleting: listed.is_closed,
            deletion: None,
        }
    }

    fn gone(deletion: store::Deletion) -> Self {
        Self {
            tenant_id: deletion.tenant.clone(),
            created_at: None,
            events: None,
            configured: None,
            deleting: deletion.ended_at.is_none(),
            deletion: Some(deletion.into()),
        }
    }
}
