//! SQL of secrets and data keys.

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::{SecretName, TenantId};
use crate::page::Position;
use crate::store::{Row, SystemTx, Tx, vals};

/// A secret without its value.
pub(super) struct Kept {
    pub(super) name: SecretName,
    pub(super) description: String,
    pub(super) version: i64,
    pub(super) created_at: Time,
    pub(super) updated_at: Time,
    pub(super) updated_by: String,
}

macro_rules! columns {
    () => {
        "name, description, version, created_at, updated_at, updated_by"
    };
}

fn kept(mut row: Row) -> Result<Kept> {
    Ok(Kept {
        name: row.get::<String>(0)?.parse().map_err(Error::internal)?,
        description: row.get(1)?,
        version: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
        updated_by: row.get(5)?,
    })
}

pub(super) fn find(tx: &mut Tx<'_>, name: &SecretName) -> Result<Option<Kept>> {
    let row = tx.query_opt(
        concat!(
            "SELECT ",
            columns!(),
            " FROM secrets WHERE tenant_id = $1 AND name = $2"
        ),
        &vals![tx.tenant(), name.as_str()],
    )?;
    row.map(kept).transpose()
}

/// What is sealed under each of `names`.
pub(super) fn sealed(tx: &mut Tx<'_>, names: &[SecretName]) -> Result<Vec<Option<Vec<u8>>>> {
    let values: Vec<_> = names
        .iter()
        .map(|name| vals![tx.tenant(), name.as_str()])
        .collect();
    let queries: Vec<_> = values
        .iter()
        .map(|values| {
            (
                "SELECT sealed FROM secrets WHERE tenant_id = $1 AND name = $2",
                &values[..],
            )
        })
        .collect();
    let found = tx.query_all(&queries)?.into_iter();
    found
        .map(|rows| {
            rows.into_iter()
                .next()
                .map(|mut row| row.get(0))
                .transpose()
        })
        .collect()
}

pub(super) fn save(tx: &mut Tx<'_>, kept: &Kept, sealed: Vec<u8>) -> Result<()> {
    tx.put(
        "INSERT INTO secrets (tenant_id, name, description, sealed, version, created_at, updated_at, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant_id, name) DO UPDATE SET description = excluded.description, sealed = excluded.sealed,
             version = excluded.version, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
        vals![
            tx.tenant(),
            kept.name.as_str(),
            &kept.description,
            sealed,
            kept.version,
            kept.created_at,
            kept.updated_at,
            &kept.updated_by
        ],
    )
}

/// Whether it was there.
pub(super) fn delete(tx: &mut Tx<'_>, name: &SecretName) -> Result<bool> {
    tx.execute(
        "DELETE FROM secrets WHERE tenant_id = $1 AND name = $2",
        &vals![tx.tenant(), name.as_str()],
    )
    .map(|count| count > 0)
}

pub(super) fn count(tx: &mut Tx<'_>) -> Result<i64> {
    let row = tx.query_opt(
        "SELECT count(*) FROM secrets WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map_or(Ok(0), |mut row| row.get(0))
}

/// At most `limit` secrets by name, from behind `position`.
pub(super) fn list(tx: &mut Tx<'_>, position: Option<&Position>, limit: u32) -> Result<Vec<Kept>> {
    let rows = tx.query(
        concat!(
            "SELECT ",
            columns!(),
            " FROM secrets WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3"
        ),
        &vals![
            tx.tenant(),
            position.map_or("", |position| position.id.as_str()),
            limit
        ],
    )?;
    rows.into_iter().map(kept).collect()
}

/// The tenant's data key, with the master key that sealed it.
pub(super) fn data_key(tx: &mut Tx<'_>) -> Result<Option<(String, Vec<u8>)>> {
    let row = tx.query_opt(
        "SELECT master_id, sealed FROM secret_keys WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .transpose()
}

pub(super) fn insert_data_key(
    tx: &mut Tx<'_>,
    (master_id, sealed): (&str, Vec<u8>),
    now: Time,
) -> Result<()> {
    tx.put(
        "INSERT INTO secret_keys (tenant_id, master_id, sealed, created_at) VALUES ($1, $2, $3, $4)",
        vals![tx.tenant(), master_id, sealed, now],
    )
}

pub(super) fn save_data_key(tx: &mut Tx<'_>, master_id: &str, sealed: Vec<u8>) -> Result<()> {
    tx.put(
        "UPDATE secret_keys SET master_id = $2, sealed = $3 WHERE tenant_id = $1",
        vals![tx.tenant(), master_id, sealed],
    )
}

/// How many tenants' data keys each master key has sealed.
pub(super) fn masters(tx: &mut SystemTx<'_>) -> Result<Vec<(String, i64)>> {
    let rows = tx.query(
        "SELECT master_id, count(*) FROM secret_keys GROUP BY master_id ORDER BY master_id",
        &[],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// At most `limit` tenants behind `after` whose data keys another master key than `master_id` has sealed.
pub(super) fn tenants_of_others(
    tx: &mut SystemTx<'_>,
    master_id: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<TenantId>> {
    let rows = tx.query(
        "SELECT tenant_id FROM secret_keys WHERE master_id <> $1 AND tenant_id > $2 ORDER BY tenant_id LIMIT $3",
        &vals![master_id, after, limit],
    )?;
    rows.into_iter().map(|mut row| row.get(0)).collect()
}
