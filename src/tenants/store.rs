//! SQL of tenants: what each is configured to, and which there are.

use crate::allowance::Configuration;
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::store::{SystemTx, Tx, vals};

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
