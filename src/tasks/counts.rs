//! How much there is of what, over all tenants: for `baton status`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::store;
use crate::ctx::System;
use crate::error::Result;
use crate::id::TenantId;

/// The tasks of one tenant.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// How many are in which state.
    pub by_state: BTreeMap<String, i64>,
    /// How many an executor holds now.
    pub leased: i64,
}

/// Counts the tasks of every tenant. Reads every task: for people, not for loops.
///
/// # Errors
/// A failure of the database.
pub async fn of_all_tenants(system: &System) -> Result<BTreeMap<TenantId, Counts>> {
    let mut tenants: BTreeMap<TenantId, Counts> = BTreeMap::new();
    for (tenant, state, count, leased) in system.survey(store::counts).await? {
        let counts = tenants.entry(tenant).or_default();
        counts.by_state.insert(state, count);
        counts.leased += leased;
    }
    Ok(tenants)
}
