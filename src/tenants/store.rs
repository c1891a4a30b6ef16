//! SQL of tenants: what each is configured to, and which there are.

use std::collections::{BTreeMap, HashSet};

use crate::allowance::Configuration;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::store::{Row, SystemTx, Tx, vals};

/// What somebody configured.
pub(super) struct Kept {
    pub(super) configuration: Configuration,
    pub(super) set_at: Time,
    pub(super) set_by: String,
}

/// What this tenant is configured to.
pub(super) fn find(tx: &mut Tx<'_>) -> Result<Option<Kept>> {
    let row = tx.query_opt(
        "SELECT configuration, set_at, set_by FROM tenant_configurations WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map(|mut row| {
        Ok(Kept {
            configuration: row.json(0)?,
            set_at: row.get(1)?,
            set_by: row.get(2)?,
        })
    })
    .transpose()
}

/// Keeps what this tenant is configured to, as the change of a number.
pub(super) fn save(tx: &mut Tx<'_>, kept: &Kept, change: i64) -> Result<()> {
    tx.execute(
        "INSERT INTO tenant_configurations (tenant_id, configuration, set_at, set_by, change) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id) DO UPDATE SET configuration = excluded.configuration, set_at = excluded.set_at,
             set_by = excluded.set_by, change = excluded.change",
        &vals![
            tx.tenant(),
            serde_json::to_string(&kept.configuration).map_err(Error::internal)?,
            kept.set_at,
            &kept.set_by,
            change
        ],
    )
    .map(drop)
}

/// The number of a further change.
pub(super) fn next_change(tx: &mut Tx<'_>) -> Result<i64> {
    tx.execute(
        "INSERT INTO tenant_changes (id, count) VALUES (1, 1)
         ON CONFLICT (id) DO UPDATE SET count = tenant_changes.count + 1",
        &[],
    )?;
    let row = tx.query_opt("SELECT count FROM tenant_changes WHERE id = 1", &[])?;
    row.map_or(Ok(0), |mut row| row.get(0))
}

/// The number of the last change.
pub(super) fn changes(tx: &mut SystemTx<'_>) -> Result<i64> {
    let mut rows = tx.query("SELECT count FROM tenant_changes WHERE id = 1", &[])?;
    rows.first_mut().map_or(Ok(0), |row| row.get(0))
}

/// What was configured by later changes than the one of this number.
pub(super) fn changed_since(
    tx: &mut SystemTx<'_>,
    change: i64,
) -> Result<Vec<(TenantId, Configuration)>> {
    let rows = tx.query(
        "SELECT tenant_id, configuration FROM tenant_configurations WHERE change > $1",
        &vals![change],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.json(1)?)))
        .collect()
}

/// When this tenant began, if it has.
pub(super) fn began(tx: &mut Tx<'_>) -> Result<Option<Time>> {
    let row = tx.query_opt(
        "SELECT created_at FROM tenants WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map(|mut row| row.get(0)).transpose()
}

/// The deletion of a tenant.
pub(super) struct Deletion {
    pub(super) tenant: TenantId,
    pub(super) requested_at: Time,
    pub(super) requested_by: String,
    pub(super) rows: u64,
    /// When nothing was left.
    pub(super) ended_at: Option<Time>,
}

macro_rules! deletion {
    () => {
        "SELECT name, requested_at, requested_by, row_count, ended_at FROM tenant_deletions"
    };
}

fn deletion_of(mut row: Row) -> Result<Deletion> {
    Ok(Deletion {
        tenant: row.get(0)?,
        requested_at: row.get(1)?,
        requested_by: row.get(2)?,
        rows: count_of(row.get(3)?),
        ended_at: row.get(4)?,
    })
}

fn count_of(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// The last deletion of a tenant of this name.
pub(super) fn deletion(tx: &mut Tx<'_>) -> Result<Option<Deletion>> {
    let row = tx.query_opt(
        concat!(deletion!(), " WHERE name = $1"),
        &vals![tx.tenant()],
    )?;
    row.map(deletion_of).transpose()
}

/// Writes down that this tenant is to go from some time on, as the change of a number.
pub(super) fn begin_deletion(
    tx: &mut Tx<'_>,
    deletion: &Deletion,
    due_at: Time,
    change: i64,
) -> Result<()> {
    tx.execute(
        "INSERT INTO tenant_deletions (name, requested_at, requested_by, change, row_count, due_at)
         VALUES ($1, $2, $3, $4, 0, $5)
         ON CONFLICT (name) DO UPDATE SET requested_at = excluded.requested_at, requested_by = excluded.requested_by,
             change = excluded.change, row_count = 0, ended_at = NULL, due_at = excluded.due_at",
        &vals![
            tx.tenant(),
            deletion.requested_at,
            &deletion.requested_by,
            change,
            due_at
        ],
    )
    .map(drop)
}

/// Counts rows of this tenant that are gone.
pub(super) fn note_rows(tx: &mut Tx<'_>, rows: u64) -> Result<()> {
    tx.execute(
        "UPDATE tenant_deletions SET row_count = row_count + $2 WHERE name = $1",
        &vals![tx.tenant(), rows.cast_signed()],
    )
    .map(drop)
}

/// Writes down that nothing of this tenant is left, and when there is something to do again.
pub(super) fn end_deletion(
    tx: &mut Tx<'_>,
    (now, due_at): (Time, Time),
    change: i64,
) -> Result<()> {
    tx.execute(
        "UPDATE tenant_deletions SET ended_at = $2, due_at = $3, change = $4 WHERE name = $1",
        &vals![tx.tenant(), now, due_at, change],
    )
    .map(drop)
}

/// Deletions for which there is something to do.
pub(super) fn due(tx: &mut SystemTx<'_>, now: Time) -> Result<Vec<Deletion>> {
    let rows = tx.query(
        concat!(
            deletion!(),
            " WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at LIMIT 100"
        ),
        &vals![now],
    )?;
    rows.into_iter().map(deletion_of).collect()
}

/// Forgets the answers that were acted on for a tenant that is gone, and that there is anything to do for it.
pub(super) fn forget(tx: &mut SystemTx<'_>, tenant: &TenantId) -> Result<()> {
    tx.execute(
        "DELETE FROM request_rounds WHERE tenant_id = $1
             AND NOT EXISTS (SELECT 1 FROM tenants WHERE tenant_id = $1)",
        &vals![tenant],
    )?;
    tx.execute(
        "UPDATE tenant_deletions SET due_at = NULL WHERE name = $1",
        &vals![tenant],
    )
    .map(drop)
}

/// Tenants whose deletion began or ended by later changes than the one of this number.
pub(super) fn deleted_since(tx: &mut SystemTx<'_>, change: i64) -> Result<Vec<TenantId>> {
    let rows = tx.query(
        "SELECT name FROM tenant_deletions WHERE change > $1",
        &vals![change],
    )?;
    rows.into_iter().map(|mut row| row.get(0)).collect()
}

/// Tenants whose deletion ended by later changes than the one of this number, and when it was asked for.
pub(super) fn ended_since(tx: &mut SystemTx<'_>, change: i64) -> Result<Vec<(TenantId, Time)>> {
    let rows = tx.query(
        "SELECT name, requested_at FROM tenant_deletions WHERE change > $1 AND ended_at IS NOT NULL",
        &vals![change],
    )?;
    let ended = |mut row: Row| Ok((row.get(0)?, row.get(1)?));
    rows.into_iter().map(ended).collect()
}

/// Tenants that are being deleted.
pub(super) fn closed(tx: &mut SystemTx<'_>) -> Result<HashSet<TenantId>> {
    let rows = tx.query(
        "SELECT name FROM tenant_deletions WHERE due_at IS NOT NULL AND ended_at IS NULL",
        &[],
    )?;
    rows.into_iter().map(|mut row| row.get(0)).collect()
}

/// At most `limit` deletions behind a tenant's name.
pub(super) fn deletions(tx: &mut SystemTx<'_>, after: &str, limit: u32) -> Result<Vec<Deletion>> {
    let rows = tx.query(
        concat!(deletion!(), " WHERE name > $1 ORDER BY name LIMIT $2"),
        &vals![after, limit],
    )?;
    rows.into_iter().map(deletion_of).collect()
}

/// A tenant, as lists show it.
pub(super) struct Listed {
    pub(super) tenant: TenantId,
    pub(super) created_at: Time,
    pub(super) events: u64,
    pub(super) is_configured: bool,
    pub(super) is_closed: bool,
}

/// At most `limit` tenants behind a name.
pub(super) fn list(tx: &mut SystemTx<'_>, after: &str, limit: u32) -> Result<Vec<Listed>> {
    let rows = tx.query(
        "SELECT t.tenant_id, t.created_at, t.sequence, CASE WHEN c.set_at IS NULL THEN 0 ELSE 1 END,
             CASE WHEN d.name IS NULL THEN 0 ELSE 1 END
         FROM tenants t LEFT JOIN tenant_configurations c ON c.tenant_id = t.tenant_id
             LEFT JOIN tenant_deletions d ON d.name = t.tenant_id AND d.ended_at IS NULL
         WHERE t.tenant_id > $1 ORDER BY t.tenant_id LIMIT $2",
        &vals![after, limit],
    )?;
    rows.into_iter()
        .map(|mut row| {
            Ok(Listed {
                tenant: row.get(0)?,
                created_at: row.get(1)?,
                events: count_of(row.get(2)?),
                is_configured: row.get(3)?,
                is_closed: row.get(4)?,
            })
        })
        .collect()
}

/// How many tools the tenant made.
pub(super) fn tools(tx: &mut Tx<'_>) -> Result<u64> {
    count(tx, "SELECT count(*) FROM tools WHERE tenant_id = $1")
}

fn count(tx: &mut Tx<'_>, sql: &'static str) -> Result<u64> {
    let row = tx.query_opt(sql, &vals![tx.tenant()])?;
    row.map_or(Ok(0), |mut row| row.get(0).map(count_of))
}

/// How many tasks, entries of memory and keys this tenant has.
pub(super) fn substance(tx: &mut Tx<'_>) -> Result<(u64, u64, u64)> {
    Ok((
        count(tx, "SELECT count(*) FROM tasks WHERE tenant_id = $1")?,
        memory_entries(tx)?,
        count(tx, "SELECT count(*) FROM keys WHERE tenant_id = $1")?,
    ))
}

/// How many entries of memory this tenant has.
pub(super) fn memory_entries(tx: &mut Tx<'_>) -> Result<u64> {
    count(tx, "SELECT entries FROM memory_totals WHERE tenant_id = $1")
}

/// How many of its tasks executors work on.
pub(super) fn running_tasks(tx: &mut Tx<'_>) -> Result<u64> {
    count(
        tx,
        "SELECT count(*) FROM tasks
         WHERE tenant_id = $1 AND stage IN ('running', 'escalated') AND stage <> '' AND leased = 1",
    )
}

/// How many tasks this tenant has in each state.
pub(super) fn tasks(tx: &mut Tx<'_>) -> Result<BTreeMap<String, u64>> {
    let rows = tx.query(
        "SELECT stage, count(*) FROM tasks WHERE tenant_id = $1 AND stage <> '' AND stage <> 'running' GROUP BY stage
         UNION ALL
         SELECT state, count(*) FROM tasks WHERE tenant_id = $1 AND stage = 'running' AND stage <> '' GROUP BY state",
        &vals![tx.tenant()],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, count_of(row.get(1)?))))
        .collect()
}

/// How many sessions of older clients and keys this tenant has.
pub(super) fn comings(tx: &mut Tx<'_>) -> Result<(u64, u64)> {
    Ok((
        count(tx, "SELECT count(*) FROM sessions WHERE tenant_id = $1")?,
        count(tx, "SELECT count(*) FROM keys WHERE tenant_id = $1")?,
    ))
}
