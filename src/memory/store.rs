//! SQL of memory.

use std::collections::BTreeSet;

use super::index::Loaded;
use super::{Entry, Eyes, Facts, Kind, Query, Reach, rank};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::{AgentId, MemoryId, TaskId, TenantId};
use crate::language::Vector;
use crate::store::{Row, SystemTx, Tx, Value, vals};

macro_rules! columns {
    () => {
        "m.memory_id, m.agent_id, m.kind, m.scope, m.task_id, m.content, m.tags, m.importance, m.created_at,
         m.created_by, m.updated_at, m.expires_at, m.supersedes, m.superseded_by, m.seen_at"
    };
}

/// Whether an entry is still there at `$3`: what has expired and what died with its task is gone at once, though its row
/// goes later.
macro_rules! is_there {
    () => {
        " AND (m.expires_at IS NULL OR m.expires_at > $3) AND (m.kind <> 'short_term' OR NOT EXISTS (
            SELECT 1 FROM tasks t WHERE t.tenant_id = m.tenant_id AND t.task_id = m.task_id
                AND t.state IN ('completed', 'failed', 'cancelled')))"
    };
}

const FIND: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM memories m WHERE m.tenant_id = $1 AND m.memory_id = $2",
    is_there!()
);

fn entry(mut row: Row) -> Result<Entry> {
    Ok(Entry {
        id: row.get(0)?,
        agent_id: row.get(1)?,
        kind: Kind::from_name(&row.get::<String>(2)?)?,
        reach: Reach::from_name(&row.get::<String>(3)?)?,
        task_id: row.get(4)?,
        content: row.get(5)?,
        tags: row.json(6)?,
        importance: row.get(7)?,
        created_at: row.get(8)?,
        created_by: row.get(9)?,
        updated_at: row.get(10)?,
        expires_at: row.get(11)?,
        supersedes: row.json(12)?,
        superseded_by: row.get(13)?,
        seen_at: row.get(14)?,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

pub(super) fn insert(
    tx: &mut Tx<'_>,
    entry: &Entry,
    words: &str,
    vector: Option<Vec<u8>>,
) -> Result<()> {
    tx.put(
        "INSERT INTO memories (tenant_id, memory_id, agent_id, kind, scope, task_id, content, tags, importance, created_at,
             created_by, updated_at, expires_at, supersedes, superseded_by, seen_at, worth, words, vector)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, NULL, NULL, $15, $16, $17)",
        vals![
            tx.tenant(),
            &entry.id,
            &entry.agent_id,
            entry.kind.name(),
            entry.reach.name(),
            entry.task_id.as_ref(),
            &entry.content,
            json(&entry.tags)?,
            entry.importance,
            entry.created_at,
            &entry.created_by,
            entry.updated_at,
            entry.expires_at,
            json(&entry.supersedes)?,
            entry.worth(),
            words,
            vector
        ],
    )
}

/// Writes what may change of an entry; its content never does.
pub(super) fn save(tx: &mut Tx<'_>, entry: &Entry) -> Result<()> {
    tx.put(
        "UPDATE memories SET kind = $3, tags = $4, importance = $5, updated_at = $6, expires_at = $7, supersedes = $8,
             superseded_by = $9, worth = $10
         WHERE tenant_id = $1 AND memory_id = $2",
        vals![
            tx.tenant(),
            &entry.id,
            entry.kind.name(),
            json(&entry.tags)?,
            entry.importance,
            entry.updated_at,
            entry.expires_at,
            json(&entry.supersedes)?,
            entry.superseded_by.as_ref(),
            entry.worth()
        ],
    )
}

pub(super) fn delete(tx: &mut Tx<'_>, id: &MemoryId) -> Result<()> {
    tx.put(
        "DELETE FROM memories WHERE tenant_id = $1 AND memory_id = $2",
        vals![tx.tenant(), id],
    )
}

pub(super) fn find(tx: &mut Tx<'_>, id: &MemoryId, now: Time) -> Result<Option<Entry>> {
    let row = tx.query_opt(FIND, &vals![tx.tenant(), id, now])?;
    row.map(entry).transpose()
}

/// Those of `ids` that are there, in their order.
pub(super) fn find_all(tx: &mut Tx<'_>, ids: &[MemoryId], now: Time) -> Result<Vec<Entry>> {
    let values: Vec<_> = ids.iter().map(|id| vals![tx.tenant(), id, now]).collect();
    let queries: Vec<_> = values.iter().map(|values| (FIND, &values[..])).collect();
    let rows = tx.query_all(&queries)?;
    rows.into_iter().flatten().map(entry).collect()
}

/// The row of an entry, whether or not it counts as there.
pub(super) fn row(tx: &mut Tx<'_>, id: &MemoryId) -> Result<Option<Entry>> {
    let row = tx.query_opt(
        concat!(
            "SELECT ",
            columns!(),
            " FROM memories m WHERE m.tenant_id = $1 AND m.memory_id = $2"
        ),
        &vals![tx.tenant(), id],
    )?;
    row.map(entry).transpose()
}

/// Which entries to list.
pub(super) struct Filter<'a> {
    pub(super) agent_id: Option<&'a AgentId>,
    pub(super) kind: Option<Kind>,
    pub(super) reach: Option<Reach>,
    pub(super) task_id: Option<&'a TaskId>,
    /// Superseded ones too.
    pub(super) all: bool,
}

macro_rules! list {
    ($lead:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM memories m WHERE m.tenant_id = $1 AND m.memory_id < $2",
            is_there!(),
            $lead,
            " AND (m.agent_id = $4 OR $4 IS NULL) AND (m.kind = $5 OR $5 IS NULL) AND (m.scope = $6 OR $6 IS NULL)
              AND (m.task_id = $7 OR $7 IS NULL) AND (m.superseded_by IS NULL OR $8 = 1)
             ORDER BY m.memory_id DESC LIMIT $9"
        )
    };
}

/// At most `limit` entries, newest first, behind the one called `before`.
pub(super) fn list(
    tx: &mut Tx<'_>,
    filter: &Filter<'_>,
    before: Option<&str>,
    now: Time,
    limit: u32,
) -> Result<Vec<Entry>> {
    let sql = match filter.agent_id {
        Some(_) => list!(" AND m.agent_id = $4"),
        None => list!(""),
    };
    let rows = tx.query(
        sql,
        &vals![
            tx.tenant(),
            // Ids are ASCII: `~` is behind them all.
            before.unwrap_or("~"),
            now,
            filter.agent_id,
            filter.kind.map(Kind::name),
            filter.reach.map(Reach::name),
            filter.task_id,
            i64::from(filter.all),
            limit
        ],
    )?;
    rows.into_iter().map(entry).collect()
}

/// Agents whose names begin with `prefix` and come after `after`, and that have entries.
pub(super) fn agents(
    tx: &mut Tx<'_>,
    (prefix, after): (&str, &str),
    limit: u32,
) -> Result<Vec<String>> {
    let rows = tx.query(
        "SELECT DISTINCT agent_id FROM memories
         WHERE tenant_id = $1 AND agent_id >= $2 AND agent_id < $3 AND agent_id > $4 ORDER BY agent_id LIMIT $5",
        &vals![tx.tenant(), prefix, format!("{prefix}~"), after, limit],
    )?;
    rows.into_iter().map(|mut row| row.get(0)).collect()
}

/// Ids that begin with `prefix`, and whose entries these are.
pub(super) fn ids_with_prefix(
    tx: &mut Tx<'_>,
    prefix: &str,
    limit: u32,
) -> Result<Vec<(String, String)>> {
    let rows = tx.query(
        "SELECT memory_id, agent_id FROM memories
         WHERE tenant_id = $1 AND memory_id >= $2 AND memory_id < $3 ORDER BY memory_id LIMIT $4",
        &vals![tx.tenant(), prefix, format!("{prefix}~"), limit],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Notes that an entry was read.
pub(super) fn seen(tx: &mut Tx<'_>, id: &MemoryId, now: Time) -> Result<()> {
    tx.put_any(
        "UPDATE memories SET seen_at = $3 WHERE tenant_id = $1 AND memory_id = $2",
        &vals![tx.tenant(), id, now],
    )
}

pub(super) fn mark(tx: &mut Tx<'_>, marks: &[i64], id: &MemoryId) -> Result<()> {
    for mark in marks {
        tx.put_any(
            "INSERT INTO memory_marks (tenant_id, mark, memory_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &vals![tx.tenant(), *mark, id],
        )?;
    }
    Ok(())
}

pub(super) fn unmark(tx: &mut Tx<'_>, marks: &[i64], id: &MemoryId) -> Result<()> {
    for mark in marks {
        tx.put_any(
            "DELETE FROM memory_marks WHERE tenant_id = $1 AND mark = $2 AND memory_id = $3",
            &vals![tx.tenant(), *mark, id],
        )?;
    }
    Ok(())
}

/// Entries that have one of `marks`, for each at most `limit`, the newest; oldest first. Not one query: a planner that has no
/// statistics yet reads all of the tenant's entries for each one that it looks for.
pub(super) fn marked(tx: &mut Tx<'_>, marks: &[i64], now: Time, limit: u32) -> Result<Vec<Entry>> {
    const MARKED: &str = "SELECT memory_id FROM memory_marks WHERE tenant_id = $1 AND mark = $2
         ORDER BY memory_id DESC LIMIT $3";
    let tenant = tx.tenant().clone();
    let values = marks.iter().map(|mark| vals![&tenant, *mark, limit]);
    let rows = all(tx, MARKED, values)?;
    let ids = rows.into_iter().map(|mut row| row.get(0));
    let ids = ids.collect::<Result<BTreeSet<MemoryId>>>()?;
    let values = ids.iter().map(|id| vals![&tenant, id, now]);
    all(tx, FIND, values)?.into_iter().map(entry).collect()
}

/// The rows that one query answers with each of these values.
fn all(
    tx: &mut Tx<'_>,
    sql: &'static str,
    values: impl Iterator<Item = [Value; 3]>,
) -> Result<Vec<Row>> {
    let values: Vec<_> = values.collect();
    let queries: Vec<_> = values.iter().map(|values| (sql, &values[..])).collect();
    Ok(tx.query_all(&queries)?.into_iter().flatten().collect())
}

/// Counts `by` more entries, and says how many the tenant has now.
pub(super) fn count(tx: &mut Tx<'_>, by: i64) -> Result<i64> {
    tx.put(
        "INSERT INTO memory_totals (tenant_id, entries) VALUES ($1, $2)
         ON CONFLICT (tenant_id) DO UPDATE SET entries = memory_totals.entries + excluded.entries",
        vals![tx.tenant(), by],
    )?;
    let row = tx.query_opt(
        "SELECT entries FROM memory_totals WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map_or(Ok(0), |mut row| row.get(0))
}

/// The entries that are worth least.
pub(super) fn least(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<Entry>> {
    let rows = tx.query(
        concat!(
            "SELECT ",
            columns!(),
            " FROM memories m WHERE m.tenant_id = $1 ORDER BY m.worth LIMIT $2"
        ),
        &vals![tx.tenant(), limit],
    )?;
    rows.into_iter().map(entry).collect()
}

/// The state of a task, if there is such a task.
pub(super) fn task_state(tx: &mut Tx<'_>, id: &TaskId) -> Result<Option<String>> {
    let row = tx.query_opt(
        "SELECT state FROM tasks WHERE tenant_id = $1 AND task_id = $2",
        &vals![tx.tenant(), id],
    )?;
    row.map(|mut row| row.get(0)).transpose()
}

macro_rules! loaded {
    () => {
        "m.memory_id, m.agent_id, m.kind, m.scope, m.task_id, m.tags, m.importance, m.updated_at, m.expires_at, m.words,
         m.vector"
    };
}

/// What search needs of the entry whose columns begin at `at`.
fn loaded(row: &mut Row, at: usize) -> Result<Loaded> {
    Ok(Loaded {
        facts: Facts {
            id: row.get(at)?,
            agent_id: row.get(at + 1)?,
            kind: Kind::from_name(&row.get::<String>(at + 2)?)?,
            reach: Reach::from_name(&row.get::<String>(at + 3)?)?,
            task_id: row.get(at + 4)?,
            tags: row.json(at + 5)?,
            importance: row.get(at + 6)?,
            updated_at: row.get(at + 7)?,
            expires_at: row.get(at + 8)?,
        },
        words: row.get(at + 9)?,
        vector: row.get(at + 10)?,
    })
}

/// Whether the meaning of the tenant's entries is looked up in the database: where it can, and these are more than `most`.
pub(super) fn is_looked_up(tx: &mut Tx<'_>, most: u32) -> Result<bool> {
    let row = tx.query_opt(
        "SELECT entries > $2 FROM memory_totals WHERE tenant_id = $1",
        &vals![tx.tenant(), most],
    )?;
    let is_large = row.map_or(Ok(false), |mut row| row.get(0))?;
    Ok(is_large && tx.has_pgvector()?)
}

/// The [`rank::DEPTH`] entries that point most nearly where `query` does, with their cosines: of `among` where these are
/// given, else of all that answer it.
pub(super) fn near(
    tx: &mut Tx<'_>,
    query: &Query,
    among: Option<&[MemoryId]>,
) -> Result<Vec<(MemoryId, f64)>> {
    let (agents, at_work) = match &query.eyes {
        Eyes::All => (None, None),
        Eyes::Of(agents, at_work) => (Some(json(agents)?), at_work.as_ref()),
    };
    let rows = tx.query(
        "SELECT id, cosine FROM memories_near($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &vals![
            tx.tenant(),
            query.vector.as_ref().map(Vector::to_bytes),
            query.now,
            query.kind.map(Kind::name),
            json(&query.tags)?,
            agents,
            at_work,
            among.map(|ids| json(&ids)).transpose()?,
            u32::try_from(rank::DEPTH).unwrap_or(u32::MAX)
        ],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// At most `limit` entries that can be found, by id, behind `after`.
pub(super) fn load(tx: &mut Tx<'_>, after: &str, limit: u32) -> Result<Vec<Loaded>> {
    let rows = tx.query(
        concat!(
            "SELECT ",
            loaded!(),
            " FROM memories m WHERE m.tenant_id = $1 AND m.memory_id > $2 AND m.superseded_by IS NULL
              ORDER BY m.memory_id LIMIT $3"
        ),
        &vals![tx.tenant(), after, limit],
    )?;
    rows.into_iter()
        .map(|mut row| loaded(&mut row, 0))
        .collect()
}

/// An event after which an entry is as given; it can't be found where nothing is.
pub(super) struct News {
    pub(super) sequence: i64,
    pub(super) id: MemoryId,
    pub(super) entry: Option<Loaded>,
}

/// The first `limit` events about entries after number `sequence`.
pub(super) fn news(tx: &mut Tx<'_>, sequence: i64, limit: u32) -> Result<Vec<News>> {
    let rows = tx.query(
        concat!(
            "SELECT e.sequence, e.subject, ",
            loaded!(),
            " FROM events e LEFT JOIN memories m
                ON m.tenant_id = e.tenant_id AND m.memory_id = e.subject AND m.superseded_by IS NULL
              WHERE e.tenant_id = $1 AND e.sequence > $2
                AND e.kind >= 'dev.baton.memory.' AND e.kind < 'dev.baton.memory/'
              ORDER BY e.sequence LIMIT $3"
        ),
        &vals![tx.tenant(), sequence, limit],
    )?;
    rows.into_iter()
        .map(|mut row| {
            let is_there = row.value(2) != Some(&crate::store::Value::Null);
            Ok(News {
                sequence: row.get(0)?,
                id: row.get(1)?,
                entry: is_there.then(|| loaded(&mut row, 2)).transpose()?,
            })
        })
        .collect()
}

/// An entry of some tenant.
pub(super) type Place = (TenantId, MemoryId);

fn places(rows: Vec<Row>) -> Result<Vec<Place>> {
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// At most `limit` entries over all tenants that have expired.
pub(super) fn expired(tx: &mut SystemTx<'_>, now: Time, limit: u32) -> Result<Vec<Place>> {
    let rows = tx.query(
        "SELECT tenant_id, memory_id FROM memories
         WHERE expires_at IS NOT NULL AND expires_at <= $1 ORDER BY expires_at LIMIT $2",
        &vals![now, limit],
    )?;
    places(rows)
}

/// At most `limit` entries over all tenants that died with their task.
pub(super) fn orphaned(tx: &mut SystemTx<'_>, limit: u32) -> Result<Vec<Place>> {
    let rows = tx.query(
        "SELECT m.tenant_id, m.memory_id FROM memories m
         JOIN tasks t ON t.tenant_id = m.tenant_id AND t.task_id = m.task_id
         WHERE m.kind = 'short_term' AND t.state IN ('completed', 'failed', 'cancelled') LIMIT $1",
        &vals![limit],
    )?;
    places(rows)
}

/// At most `limit` entries, over the tenants named, that were last written before the time that stands beside each.
pub(super) fn older(
    tx: &mut SystemTx<'_>,
    tenants: &[(TenantId, Time)],
    limit: u32,
) -> Result<Vec<Place>> {
    let mut found = Vec::new();
    for (tenant, before) in tenants {
        let room = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
        let rows = tx.query(
            "SELECT tenant_id, memory_id FROM memories WHERE tenant_id = $1 AND updated_at <= $2 LIMIT $3",
            &vals![tenant, *before, room],
        )?;
        found.extend(places(rows)?);
        if room == 0 {
            break;
        }
    }
    Ok(found)
}

/// How many entries each tenant has.
pub(super) fn totals(tx: &mut SystemTx<'_>) -> Result<Vec<(TenantId, u64)>> {
    let rows = tx.query("SELECT tenant_id, entries FROM memory_totals", &[])?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, u64::try_from(row.get::<i64>(1)?).unwrap_or(0))))
        .collect()
}
