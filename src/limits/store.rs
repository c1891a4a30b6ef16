//! SQL of the limits that administrators have set.

use std::collections::HashMap;

use crate::clock::Time;
use crate::error::Result;
use crate::id::TenantId;
use crate::quota::Limit;
use crate::store::{Row, SystemTx, Tx, vals};
use crate::throttle::Set;

/// A limit that somebody has set.
pub(super) struct Kept {
    pub(super) limit: Limit,
    pub(super) value: u32,
    pub(super) set_at: Time,
    pub(super) set_by: String,
}

/// `None` for a limit that this version does not know.
fn kept(mut row: Row) -> Result<Option<Kept>> {
    let limit = limit(&row.get::<String>(0)?);
    let (value, set_at, set_by) = (value(row.get(1)?), row.get(2)?, row.get(3)?);
    Ok(limit.map(|limit| Kept {
        limit,
        value,
        set_at,
        set_by,
    }))
}

fn limit(name: &str) -> Option<Limit> {
    Limit::ALL.into_iter().find(|limit| limit.name() == name)
}

fn value(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// What is set for this tenant.
pub(super) fn of_tenant(tx: &mut Tx<'_>) -> Result<Vec<Kept>> {
    let rows = tx.query(
        "SELECT name, value, set_at, set_by FROM limits WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    rows.into_iter()
        .filter_map(|row| kept(row).transpose())
        .collect()
}

/// What is set for all.
pub(super) fn of_server(tx: &mut Tx<'_>) -> Result<Vec<Kept>> {
    let rows = tx.query("SELECT name, value, set_at, set_by FROM server_limits", &[])?;
    rows.into_iter()
        .filter_map(|row| kept(row).transpose())
        .collect()
}

/// Keeps a limit of this tenant.
pub(super) fn save(tx: &mut Tx<'_>, kept: &Kept) -> Result<()> {
    tx.execute(
        "INSERT INTO limits (tenant_id, name, value, set_at, set_by) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, name) DO UPDATE
         SET value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by",
        &vals![
            tx.tenant(),
            kept.limit.name(),
            i64::from(kept.value),
            kept.set_at,
            &kept.set_by
        ],
    )
    .map(drop)
}

/// Keeps a limit of all.
pub(super) fn save_for_server(tx: &mut Tx<'_>, kept: &Kept) -> Result<()> {
    tx.execute(
        "INSERT INTO server_limits (name, value, set_at, set_by) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO UPDATE
         SET value = excluded.value, set_at = excluded.set_at, set_by = excluded.set_by",
        &vals![
            kept.limit.name(),
            i64::from(kept.value),
            kept.set_at,
            &kept.set_by
        ],
    )
    .map(drop)
}

/// Forgets a limit of this tenant.
pub(super) fn delete(tx: &mut Tx<'_>, limit: Limit) -> Result<()> {
    tx.execute(
        "DELETE FROM limits WHERE tenant_id = $1 AND name = $2",
        &vals![tx.tenant(), limit.name()],
    )
    .map(drop)
}

/// Forgets a limit of all.
pub(super) fn delete_for_server(tx: &mut Tx<'_>, limit: Limit) -> Result<()> {
    tx.execute(
        "DELETE FROM server_limits WHERE name = $1",
        &vals![limit.name()],
    )
    .map(drop)
}

/// Lets every process see that something was set.
///
/// # Errors
/// A failure of the database.
pub fn note_change(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute(
        "INSERT INTO limit_changes (id, count) VALUES (1, 1)
         ON CONFLICT (id) DO UPDATE SET count = limit_changes.count + 1",
        &[],
    )
    .map(drop)
}

/// How many handles of this tenant are good at `now` and have not ended, as far as anybody was told.
///
/// # Errors
/// A failure of the database.
pub fn live_handles(tx: &mut Tx<'_>, now: Time) -> Result<u32> {
    let row = tx.query_opt(
        "SELECT count(*) FROM handles WHERE tenant_id = $1 AND outcome IS NULL AND expires_at > $2",
        &vals![tx.tenant(), now],
    )?;
    row.map_or(Ok(0), |mut row| row.get(0).map(value))
}

/// How often something was set.
pub(super) fn changes(tx: &mut SystemTx<'_>) -> Result<i64> {
    let mut rows = tx.query("SELECT count FROM limit_changes WHERE id = 1", &[])?;
    rows.first_mut().map_or(Ok(0), |row| row.get(0))
}

/// All that is set, for whomever.
pub(super) fn all(tx: &mut SystemTx<'_>) -> Result<Set> {
    let mut set = Set::default();
    for mut row in tx.query("SELECT name, value FROM server_limits", &[])? {
        if let Some(limit) = limit(&row.get::<String>(0)?) {
            set.server.insert(limit, value(row.get(1)?));
        }
    }
    for mut row in tx.query("SELECT tenant_id, name, value FROM limits", &[])? {
        let tenant: TenantId = row.get(0)?;
        if let Some(limit) = limit(&row.get::<String>(1)?) {
            let own: &mut HashMap<_, _> = set.tenants.entry(tenant).or_default();
            own.insert(limit, value(row.get(2)?));
        }
    }
    Ok(set)
}
