//! SQL of registrations.

use serde_json::{Value, json};

use super::{Entry, Kind};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::{ResourceId, TenantId};
use crate::store::{Row, SystemTx, Tx, vals};

macro_rules! columns {
    () => {
        "resource_id, kind, uri, access, metadata, created_at, created_by, updated_at, sealed"
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
        sealed: row.get(8)?,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

pub(super) fn save(tx: &mut Tx<'_>, entry: &Entry) -> Result<()> {
    tx.put(
        "INSERT INTO resources (tenant_id, resource_id, kind, uri, access, metadata, created_at, created_by, updated_at, sealed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (tenant_id, resource_id) DO UPDATE SET kind = excluded.kind, uri = excluded.uri,
             access = excluded.access, metadata = excluded.metadata, updated_at = excluded.updated_at,
             sealed = excluded.sealed",
        vals![
            tx.tenant(),
            &entry.id,
            entry.kind.name(),
            &entry.uri,
            json(&entry.access)?,
            json(&entry.metadata)?,
            entry.created_at,
            &entry.created_by,
            entry.updated_at,
            entry.sealed.clone()
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

/// A write that has begun.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) resource: ResourceId,
    pub(super) uri: String,
    /// Empty for a database.
    pub(super) path: String,
    /// Of what is written; none of what is removed.
    pub(super) bytes: Option<i64>,
    /// What the file is called before it gets its name, if it is one of a folder.
    pub(super) fresh: Option<String>,
    /// What the file is known by once it is there, or gone, if it is one of a folder.
    pub(super) mark: Option<String>,
    /// The data folder whose process writes.
    pub(super) place: String,
    pub(super) actor: String,
    /// When its process must be gone.
    pub(super) due_at: Time,
}

impl Begun {
    /// What an event says of it.
    pub(super) fn told(&self) -> Value {
        if self.path.is_empty() {
            return json!({"path": ""});
        }
        json!({"path": self.path, "bytes": self.bytes, "removed": self.bytes.is_none()})
    }
}

pub(super) fn begin_write(tx: &mut Tx<'_>, begun: &Begun) -> Result<()> {
    tx.put(
        "INSERT INTO resource_writes (tenant_id, write_id, resource_id, uri, path, bytes, fresh, mark, place, actor, due_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        vals![
            tx.tenant(),
            &begun.id,
            &begun.resource,
            &begun.uri,
            &begun.path,
            begun.bytes,
            begun.fresh.as_deref(),
            begun.mark.as_deref(),
            &begun.place,
            &begun.actor,
            begun.due_at
        ],
    )
}

/// Whether something is being written there, of which whoever writes will tell.
pub(super) fn is_writing(tx: &mut Tx<'_>, resource: &ResourceId, path: &str) -> Result<bool> {
    let row = tx.query_opt(
        "SELECT 1 FROM resource_writes WHERE tenant_id = $1 AND resource_id = $2 AND path = $3 LIMIT 1",
        &vals![tx.tenant(), resource, path],
    )?;
    Ok(row.is_some())
}

/// Whether it was still there.
pub(super) fn end_write(tx: &mut Tx<'_>, id: &str) -> Result<bool> {
    let ended = tx.execute(
        "DELETE FROM resource_writes WHERE tenant_id = $1 AND write_id = $2",
        &vals![tx.tenant(), id],
    )?;
    Ok(ended > 0)
}

/// Writes whose processes must be gone.
pub(super) fn due_writes(
    tx: &mut SystemTx<'_>,
    now: Time,
    limit: u32,
) -> Result<Vec<(TenantId, Begun)>> {
    let rows = tx.query(
        "SELECT tenant_id, write_id, resource_id, uri, path, bytes, fresh, mark, place, actor, due_at FROM resource_writes
         WHERE due_at <= $1 ORDER BY due_at LIMIT $2",
        &vals![now, limit],
    )?;
    let begun = |mut row: Row| {
        Ok((
            row.get(0)?,
            Begun {
                id: row.get(1)?,
                resource: row.get(2)?,
                uri: row.get(3)?,
                path: row.get(4)?,
                bytes: row.get(5)?,
                fresh: row.get(6)?,
                mark: row.get(7)?,
                place: row.get(8)?,
                actor: row.get(9)?,
                due_at: row.get(10)?,
            },
        ))
    };
    rows.into_iter().map(begun).collect()
}
