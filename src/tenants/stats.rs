//! `tenant_stats`: what a tenant has, how much that is of what it may have, and how its calls go.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::look::Which;
use super::store;
use crate::allowance::{Quota, Use};
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::Result;
use crate::events;
use crate::id::TenantId;
use crate::limits;
use crate::meter::Calls;
use crate::store::Tx;

/// What a tenant has.
#[derive(Debug, Serialize, JsonSchema)]
struct Counts {
    /// Tasks
    tasks: u64,
    /// Tasks, by state
    tasks_by_state: BTreeMap<String, u64>,
    /// Entries of memory
    memory_entries: u64,
    /// Events of its log
    events: u64,
    /// Keys that let somebody in
    keys: u64,
    /// Sessions of older clients
    sessions: u64,
}

/// A tenant in figures.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Stats {
    /// The tenant
    tenant_id: TenantId,
    /// When it began; not at all yet, if not said
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Time>,
    /// What it has
    counts: Counts,
    /// Each quota of its configuration, and how much of it is used
    quotas: Vec<Use>,
    /// Each limit of its calls, and how much of it is used, at the process that answers this
    limits: Vec<limits::View>,
    /// Its calls, as the process that answers this answered them since it began
    calls: Calls,
}

pub(super) fn stats(scope: &Scope, tx: &mut Tx<'_>, _: &Which) -> Result<Stats> {
    let tasks_by_state = store::tasks(tx)?;
    let (sessions, keys) = store::comings(tx)?;
    let allowance = super::of(scope, tx);
    let quotas = Quota::ALL.into_iter();
    let quotas = quotas.map(|quota| Ok(allowance.of_use(quota, used_of(scope, tx, quota)?)));
    let quotas = quotas.collect::<Result<Vec<Use>>>()?;
    Ok(Stats {
        tenant_id: tx.tenant().clone(),
        created_at: store::began(tx)?,
        quotas,
        counts: Counts {
            tasks: tasks_by_state.values().sum(),
            tasks_by_state,
            memory_entries: store::memory_entries(tx)?,
            events: u64::try_from(events::head(tx)?).unwrap_or(0),
            keys,
            sessions,
        },
        limits: limits::views_of_tenant(scope, tx)?,
        calls: scope.meter().calls(tx.tenant()),
    })
}

/// How much of a quota the tenant uses. Tools are counted where there are any.
fn used_of(scope: &Scope, tx: &mut Tx<'_>, quota: Quota) -> Result<u64> {
    match quota {
        Quota::MaxMemoryEntries => store::memory_entries(tx),
        Quota::MaxRunningTasks => store::running_tasks(tx),
        Quota::MaxStorageBytes => {
            let own = &scope.limits().folders.own;
            Ok(bytes_below(&own.join(tx.tenant().as_str())))
        }
        Quota::MaxTools | Quota::MaxDynamicTools => store::tools(tx),
    }
}

/// Bytes of the files below a folder; links lead nowhere.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&entry.path()),
        Ok(about) if about.is_file() => about.len(),
        _ => 0,
    });
    bytes.sum()
}
