//! SQL of registrations.

use super::{Entry, Kind};
use crate::error::{Error, Result};
use crate::id::ResourceId;
use crate::store::{Row, Tx, vals};

macro_rules! columns {
    () => {
        "resource_id, kind, uri, access, metadata, created_at, created_by, updated_at"
    };
}

fn entry(mut row: Row) -> Result<Entry> {
    Ok(Entry {
        id: row.get(0)?,
        kind: Kind::from_name(&row.get::<String>(1)?)?,
        uri: row.get(2)?,
        access: row.json(3)?,
        metadata: row.json(4)?,
        created_at: row.get(5)?,
        created_by: row.get(6)?,
        updated_at: row.get(7)?,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

pub(super) fn save(tx: &mut Tx<'_>, entry: &Entry) -> Result<()> {
    tx.put(
        "INSERT INTO resources (tenant_id, resource_id, kind, uri, access, metadata, created_at, created_by, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (tenant_id, resource_id) DO UPDATE SET kind = excluded.kind, uri = excluded.uri,
             access = excluded.access, metadata = excluded.metadata, updated_at = excluded.updated_at",
        vals![
            tx.tenant(),
            &entry.id,
            entry.kind.name(),
            &entry.uri,
            json(&entry.access)?,
            json(&entry.metadata)?,
            entry.created_at,
            &entry.created_by,
            entry.updated_at
        ],
    )
}

pub(super) fn delete(tx: &mut Tx<'_>, id: &ResourceId) -> Result<()> {
    tx.put(
        "DELETE FROM resources WHERE tenant_id = $1 AND resource_id = $2",
        vals![tx.tenant(), id],
    )
}

pub(super) fn find(tx: &mut Tx<'_>, id: &ResourceId) -> Result<Option<Entry>> {
    const FIND: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM resources WHERE tenant_id = $1 AND resource_id = $2"
    );
    tx.query_opt(FIND, &vals![tx.tenant(), id])?
        .map(entry)
        .transpose()
}

/// Those behind an id, by id.
pub(super) fn list(tx: &mut Tx<'_>, after: &str, limit: usize) -> Result<Vec<Entry>> {
    const LIST: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM resources WHERE tenant_id = $1 AND resource_id > $2 ORDER BY resource_id LIMIT $3"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = tx.query(LIST, &vals![tx.tenant(), after, limit])?;
    rows.into_iter().map(entry).collect()
}

pub(super) fn count(tx: &mut Tx<'_>) -> Result<usize> {
    let row = tx.query_opt(
        "SELECT count(*) FROM resources WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    let count: i64 = row.map_or(Ok(0), |mut row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}
