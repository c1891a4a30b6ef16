//! SQL of tools.

use super::{Kept, Live, State, Use, Version};
use crate::error::Result;
use crate::id::ToolId;
use crate::store::{Row, Tx, vals};

macro_rules! columns {
    () => {
        "t.tool_id, t.name, t.live, t.newest, t.created_at, t.updated_at"
    };
}

/// The version that is called, with the tool.
macro_rules! live {
    () => {
        " FROM tools t JOIN tool_versions v
             ON v.tenant_id = t.tenant_id AND v.tool_id = t.tool_id AND v.version = t.live
          WHERE t.tenant_id = $1"
    };
}

fn kept(mut row: Row) -> Result<Kept> {
    Ok(Kept {
        id: row.get(0)?,
        name: row.get(1)?,
        live: row.get(2)?,
        newest: row.get(3)?,
        created_at: row.get(4)?,
        updated_at: row.get(5)?,
    })
}

fn live(mut row: Row) -> Result<Live> {
    Ok(Live {
        id: row.get(0)?,
        name: row.get(1)?,
        version: row.get(2)?,
        hash: row.get(3)?,
        manifest: row.get(4)?,
    })
}

fn version(mut row: Row) -> Result<Version> {
    Ok(Version {
        number: row.get(0)?,
        manifest: row.get(1)?,
        hash: row.get(2)?,
        state: State::from_name(&row.get::<String>(3)?)?,
        made_at: row.get(4)?,
        made_by: row.get(5)?,
        decided_at: row.get(6)?,
        decided_by: row.get(7)?,
        note: row.get(8)?,
    })
}

/// The words and the vector that a tool is found by.
pub(super) type Meaning = (String, Option<Vec<u8>>);

pub(super) fn insert(tx: &mut Tx<'_>, tool: &Kept, (words, vector): &Meaning) -> Result<()> {
    tx.put(
        "INSERT INTO tools (tenant_id, name, tool_id, live, newest, created_at, updated_at, words, vector)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        vals![
            tx.tenant(),
            &tool.name,
            &tool.id,
            tool.live,
            tool.newest,
            tool.created_at,
            tool.updated_at,
            words,
            vector.clone()
        ],
    )
}

pub(super) fn insert_version(tx: &mut Tx<'_>, id: &ToolId, version: &Version) -> Result<()> {
    tx.put(
        "INSERT INTO tool_versions (tenant_id, tool_id, version, manifest, hash, state, made_at, made_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vals![
            tx.tenant(),
            id,
            version.number,
            &version.manifest,
            &version.hash,
            version.state.name(),
            version.made_at,
            &version.made_by
        ],
    )
}

/// Writes which version is called and which is the newest.
pub(super) fn save(tx: &mut Tx<'_>, tool: &Kept) -> Result<()> {
    tx.put(
        "UPDATE tools SET live = $3, newest = $4, updated_at = $5 WHERE tenant_id = $1 AND name = $2",
        vals![
            tx.tenant(),
            &tool.name,
            tool.live,
            tool.newest,
            tool.updated_at
        ],
    )
}

/// Writes what a tool is found by from now on.
pub(super) fn save_meaning(tx: &mut Tx<'_>, name: &str, (words, vector): &Meaning) -> Result<()> {
    tx.put(
        "UPDATE tools SET words = $3, vector = $4 WHERE tenant_id = $1 AND name = $2",
        vals![tx.tenant(), name, words, vector.clone()],
    )
}

/// Writes what was decided about a version.
pub(super) fn decide(tx: &mut Tx<'_>, id: &ToolId, version: &Version) -> Result<()> {
    tx.put(
        "UPDATE tool_versions SET state = $4, decided_at = $5, decided_by = $6, note = $7
         WHERE tenant_id = $1 AND tool_id = $2 AND version = $3",
        vals![
            tx.tenant(),
            id,
            version.number,
            version.state.name(),
            version.decided_at,
            version.decided_by.as_deref(),
            version.note.as_deref()
        ],
    )
}

/// The tool with this id or name.
pub(super) fn find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Option<Kept>> {
    let row = tx.query_opt(
        concat!(
            "SELECT ",
            columns!(),
            " FROM tools t WHERE t.tenant_id = $1 AND (t.tool_id = $2 OR t.name = $2)
              ORDER BY CASE WHEN t.tool_id = $2 THEN 0 ELSE 1 END LIMIT 1"
        ),
        &vals![tx.tenant(), id_or_name],
    )?;
    row.map(kept).transpose()
}

/// What is called by this name.
pub(super) fn find_live(tx: &mut Tx<'_>, name: &str) -> Result<Option<Live>> {
    let row = tx.query_opt(
        concat!(
            "SELECT t.tool_id, t.name, v.version, v.hash, v.manifest",
            live!(),
            " AND t.name = $2"
        ),
        &vals![tx.tenant(), name],
    )?;
    row.map(live).transpose()
}

/// At most `limit` of what is called, behind a name, by name.
pub(super) fn list_live(tx: &mut Tx<'_>, after: &str, limit: u32) -> Result<Vec<Live>> {
    let rows = tx.query(
        concat!(
            "SELECT t.tool_id, t.name, v.version, v.hash, v.manifest",
            live!(),
            " AND t.name > $2 ORDER BY t.name LIMIT $3"
        ),
        &vals![tx.tenant(), after, limit],
    )?;
    rows.into_iter().map(live).collect()
}

/// At most `limit` tools behind a name, by name.
pub(super) fn list(tx: &mut Tx<'_>, after: &str, limit: u32) -> Result<Vec<Kept>> {
    let rows = tx.query(
        concat!(
            "SELECT ",
            columns!(),
            " FROM tools t WHERE t.tenant_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3"
        ),
        &vals![tx.tenant(), after, limit],
    )?;
    rows.into_iter().map(kept).collect()
}

/// By what each tool that is called is found.
pub(super) fn meanings(tx: &mut Tx<'_>) -> Result<Vec<(String, Meaning)>> {
    let rows = tx.query(
        "SELECT name, words, vector FROM tools WHERE tenant_id = $1 AND live > 0 ORDER BY name",
        &vals![tx.tenant()],
    )?;
    let meaning = |mut row: Row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)));
    rows.into_iter().map(meaning).collect()
}

pub(super) fn count(tx: &mut Tx<'_>) -> Result<u64> {
    let row = tx.query_opt(
        "SELECT count(*) FROM tools WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    let count: i64 = row.map_or(Ok(0), |mut row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// The versions that are kept of a tool, newest first.
pub(super) fn versions(tx: &mut Tx<'_>, id: &ToolId) -> Result<Vec<Version>> {
    let rows = tx.query(
        "SELECT version, manifest, hash, state, made_at, made_by, decided_at, decided_by, note FROM tool_versions
         WHERE tenant_id = $1 AND tool_id = $2 ORDER BY version DESC",
        &vals![tx.tenant(), id],
    )?;
    rows.into_iter().map(version).collect()
}

pub(super) fn find_version(tx: &mut Tx<'_>, id: &ToolId, number: i64) -> Result<Option<Version>> {
    let row = tx.query_opt(
        "SELECT version, manifest, hash, state, made_at, made_by, decided_at, decided_by, note FROM tool_versions
         WHERE tenant_id = $1 AND tool_id = $2 AND version = $3",
        &vals![tx.tenant(), id, number],
    )?;
    row.map(version).transpose()
}

/// Removes the versions of a tool before `oldest` that nobody calls.
pub(super) fn forget_versions(tx: &mut Tx<'_>, tool: &Kept, oldest: i64) -> Result<()> {
    tx.execute(
        "DELETE FROM tool_versions WHERE tenant_id = $1 AND tool_id = $2 AND version < $3 AND version <> $4",
        &vals![tx.tenant(), &tool.id, oldest, tool.live],
    )
    .map(drop)
}

/// Removes a tool, its versions, and what was counted of its calls.
pub(super) fn delete(tx: &mut Tx<'_>, tool: &Kept) -> Result<()> {
    tx.execute(
        "DELETE FROM tool_versions WHERE tenant_id = $1 AND tool_id = $2",
        &vals![tx.tenant(), &tool.id],
    )?;
    tx.execute(
        "DELETE FROM tool_uses WHERE tenant_id = $1 AND name = $2",
        &vals![tx.tenant(), &tool.name],
    )?;
    tx.put(
        "DELETE FROM tools WHERE tenant_id = $1 AND name = $2",
        vals![tx.tenant(), &tool.name],
    )
}

/// What was counted of the calls of a tool.
pub(super) fn uses(tx: &mut Tx<'_>, name: &str) -> Result<Option<Use>> {
    let row = tx.query_opt(
        "SELECT calls, failures, micros, called_at, minute, in_minute FROM tool_uses
         WHERE tenant_id = $1 AND name = $2",
        &vals![tx.tenant(), name],
    )?;
    let used = |mut row: Row| {
        Ok(Use {
            calls: row.get(0)?,
            failures: row.get(1)?,
            micros: row.get(2)?,
            called_at: row.get(3)?,
            minute: row.get(4)?,
            in_minute: row.get(5)?,
        })
    };
    row.map(used).transpose()
}

pub(super) fn save_uses(tx: &mut Tx<'_>, name: &str, used: &Use) -> Result<()> {
    tx.put(
        "INSERT INTO tool_uses (tenant_id, name, calls, failures, micros, called_at, minute, in_minute)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant_id, name) DO UPDATE SET calls = $3, failures = $4, micros = $5, called_at = $6,
             minute = $7, in_minute = $8",
        vals![
            tx.tenant(),
            name,
            used.calls,
            used.failures,
            used.micros,
            used.called_at,
            used.minute,
            used.in_minute
        ],
    )
}
