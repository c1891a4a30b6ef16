//! SQL of keys.

use std::collections::HashMap;

use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::page::Position;
use crate::principal::{Grant, Tenants};
use crate::store::{Row, SystemTx, Tx, vals};

/// A key as the database keeps it.
#[derive(Clone)]
pub(super) struct Kept {
    /// `None` for all.
    pub(super) tenant: Option<TenantId>,
    pub(super) key_id: String,
    pub(super) name: String,
    pub(super) grant: Grant,
    pub(super) hash: Vec<u8>,
    /// What the key was before it was rotated, and until when that is good.
    pub(super) old_hash: Option<Vec<u8>>,
    pub(super) old_until: Option<Time>,
    pub(super) created_at: Time,
    pub(super) created_by: String,
    pub(super) expires_at: Option<Time>,
    pub(super) last_used_at: Option<Time>,
}

impl Kept {
    /// The tenants that it is for.
    pub(super) fn tenants(&self) -> Tenants {
        let tenant = self.tenant.clone();
        tenant.map_or(Tenants::All, |tenant| Tenants::These(vec![tenant]))
    }
}

/// Keys in one statement.
const TOGETHER: usize = 4;

/// What stands for all tenants; no tenant has such a name.
const ALL: &str = "*";

macro_rules! columns {
    () => {
        "tenant_id, key_id, name, grant_json, hash, old_hash, old_until, created_at, created_by, expires_at, last_used_at"
    };
}

const INSERT: &str = "INSERT INTO keys (tenant_id, key_id, name, grant_json, hash, created_at, created_by, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

fn kept(mut row: Row) -> Result<Kept> {
    let tenant: String = row.get(0)?;
    Ok(Kept {
        tenant: match tenant.as_str() {
            ALL => None,
            name => Some(name.parse().map_err(Error::internal)?),
        },
        key_id: row.get(1)?,
        name: row.get(2)?,
        grant: row.json(3)?,
        hash: row.get(4)?,
        old_hash: row.get(5)?,
        old_until: row.get(6)?,
        created_at: row.get(7)?,
        created_by: row.get(8)?,
        expires_at: row.get(9)?,
        last_used_at: row.get(10)?,
    })
}

fn values(kept: &Kept) -> Result<[crate::store::Value; 8]> {
    let tenant = kept.tenant.as_ref().map_or(ALL, TenantId::as_str);
    Ok(vals![
        tenant,
        &kept.key_id,
        &kept.name,
        serde_json::to_string(&kept.grant).map_err(Error::internal)?,
        kept.hash.clone(),
        kept.created_at,
        &kept.created_by,
        kept.expires_at,
    ])
}

/// Keeps a key of this tenant.
pub(super) fn insert(tx: &mut Tx<'_>, kept: &Kept) -> Result<()> {
    tx.put(INSERT, values(kept)?)
}

/// Keeps a key of all tenants.
pub(super) fn insert_for_all(tx: &mut SystemTx<'_>, kept: &Kept) -> Result<()> {
    tx.execute(INSERT, &values(kept)?).map(drop)
}

/// The key `id`, whosever it is.
pub(super) fn find_anywhere(tx: &mut SystemTx<'_>, id: &str) -> Result<Option<Kept>> {
    let rows = tx.query(
        concat!("SELECT ", columns!(), " FROM keys WHERE key_id = $1"),
        &vals![id],
    )?;
    rows.into_iter().next().map(kept).transpose()
}

/// Those of the keys `ids` that there are, whosever they are.
pub(super) fn find_all(tx: &mut SystemTx<'_>, ids: &[String]) -> Result<HashMap<String, Kept>> {
    let mut found = HashMap::with_capacity(ids.len());
    for some in ids.chunks(TOGETHER) {
        // The last one again where there are fewer.
        let id = |index: usize| some.get(index).or(some.last()).map(String::as_str);
        let rows = tx.query(
            concat!(
                "SELECT ",
                columns!(),
                " FROM keys WHERE key_id IN ($1, $2, $3, $4)"
            ),
            &vals![id(0), id(1), id(2), id(3)],
        )?;
        for row in rows {
            let kept = kept(row)?;
            found.insert(kept.key_id.clone(), kept);
        }
    }
    Ok(found)
}

pub(super) fn note_use(tx: &mut SystemTx<'_>, id: &str, now: Time) -> Result<()> {
    tx.execute(
        "UPDATE keys SET last_used_at = $2 WHERE key_id = $1",
        &vals![id, now],
    )
    .map(drop)
}

/// The key `id` of this tenant.
pub(super) fn find(tx: &mut Tx<'_>, id: &str) -> Result<Option<Kept>> {
    let row = tx.query_opt(
        concat!(
            "SELECT ",
            columns!(),
            " FROM keys WHERE tenant_id = $1 AND key_id = $2"
        ),
        &vals![tx.tenant(), id],
    )?;
    row.map(kept).transpose()
}

/// At most `limit` keys of this tenant behind a position, by id.
pub(super) fn list(tx: &mut Tx<'_>, behind: Option<&Position>, limit: u32) -> Result<Vec<Kept>> {
    let behind = behind.map_or("", |position| position.id.as_str());
    let rows = tx.query(
        concat!(
            "SELECT ",
            columns!(),
            " FROM keys WHERE tenant_id = $1 AND key_id > $2 ORDER BY key_id LIMIT $3"
        ),
        &vals![tx.tenant(), behind, limit],
    )?;
    rows.into_iter().map(kept).collect()
}

/// Gives the key `id` another secret; the one before is good until `old_until`.
pub(super) fn rotate(tx: &mut Tx<'_>, id: &str, hash: &[u8], old_until: Time) -> Result<()> {
    tx.execute(
        "UPDATE keys SET old_hash = hash, hash = $3, old_until = $4 WHERE tenant_id = $1 AND key_id = $2",
        &vals![tx.tenant(), id, hash.to_vec(), old_until],
    )
    .map(drop)
}

/// Forgets the key `id`; whether there was one.
pub(super) fn delete(tx: &mut Tx<'_>, id: &str) -> Result<bool> {
    let rows = tx.execute(
        "DELETE FROM keys WHERE tenant_id = $1 AND key_id = $2",
        &vals![tx.tenant(), id],
    )?;
    Ok(rows > 0)
}
