//! SQL of handles.

use super::{Handle, Place};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::HandleId;
use crate::store::{SystemTx, Tx, vals};

pub(super) fn insert(tx: &mut Tx<'_>, handle: &Handle, owner: &str) -> Result<()> {
    tx.put(
        "INSERT INTO handles (tenant_id, handle_id, owner, operation, kept, may_ask, created_at, expires_at, outcome)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL)",
        vals![
            tx.tenant(),
            &handle.id,
            owner,
            &handle.operation,
            handle.kept.to_string(),
            i64::from(handle.may_ask),
            handle.created_at,
            handle.expires_at
        ],
    )
}

/// The handle `id`, if it is of `owner` and good at `now`.
pub(super) fn find(
    tx: &mut Tx<'_>,
    id: &HandleId,
    owner: &str,
    now: Time,
) -> Result<Option<Handle>> {
    let row = tx.query_opt(
        "SELECT operation, kept, may_ask, created_at, expires_at, outcome FROM handles
         WHERE tenant_id = $1 AND handle_id = $2 AND owner = $3 AND expires_at > $4",
        &vals![tx.tenant(), id, owner, now],
    )?;
    row.map(|mut row| {
        Ok(Handle {
            id: id.clone(),
            operation: row.get(0)?,
            kept: row.json(1)?,
            may_ask: row.get::<i64>(2)? != 0,
            created_at: row.get(3)?,
            expires_at: row.get(4)?,
            outcome: row.json_opt(5)?,
        })
    })
    .transpose()
}

/// Writes down how it ended.
pub(super) fn end(tx: &mut Tx<'_>, handle: &Handle) -> Result<()> {
    let outcome = serde_json::to_string(&handle.outcome).map_err(Error::internal)?;
    tx.put(
        "UPDATE handles SET outcome = $3 WHERE tenant_id = $1 AND handle_id = $2",
        vals![tx.tenant(), &handle.id, outcome],
    )
}

pub(super) fn delete(tx: &mut Tx<'_>, id: &HandleId) -> Result<()> {
    tx.execute(
        "DELETE FROM handles WHERE tenant_id = $1 AND handle_id = $2",
        &vals![tx.tenant(), id],
    )
    .map(drop)
}

/// At most `limit` handles over all tenants that are good no longer.
pub(super) fn expired(tx: &mut SystemTx<'_>, now: Time, limit: u32) -> Result<Vec<Place>> {
    let rows = tx.query(
        "SELECT tenant_id, handle_id FROM handles WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2",
        &vals![now, limit],
    )?;
    rows.into_iter()
        .map(|mut row| {
            Ok(Place {
                tenant: row.get(0)?,
                id: row.get(1)?,
            })
        })
        .collect()
}
