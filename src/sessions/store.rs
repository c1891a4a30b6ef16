//! SQL of sessions.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Place, Question, Session};
use crate::clock::Time;
use crate::error::Result;
use crate::id::TenantId;
use crate::store::{SystemTx, Tx, vals};

/// URIs in one statement.
const URIS: usize = 8;

/// Keeps a session of `owner`: the name of a principal, or nothing.
pub(super) fn insert(tx: &mut Tx<'_>, session: &Session, owner: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO sessions (tenant_id, session_id, serves_tenant, seen_at, initialize, owner) VALUES ($1, $2, $3, $4, $5, $6)",
        &vals![
            tx.tenant(),
            &session.id,
            session.serves.as_ref(),
            session.seen,
            &session.initialize,
            owner
        ],
    )
    .map(drop)
}

/// The session `id`, if it is `owner`'s.
pub(super) fn find(tx: &mut Tx<'_>, id: &str, owner: &str) -> Result<Option<Session>> {
    let row = tx.query_opt(
        "SELECT session_id, serves_tenant, initialize, seen_at, log_level FROM sessions
         WHERE tenant_id = $1 AND session_id = $2 AND owner = $3",
        &vals![tx.tenant(), id, owner],
    )?;
    row.map(|mut row| {
        Ok(Session {
            id: row.get(0)?,
            serves: row.get(1)?,
            initialize: row.get(2)?,
            seen: row.get(3)?,
            log_level: row.get(4)?,
        })
    })
    .transpose()
}

pub(super) fn see(tx: &mut Tx<'_>, id: &str, now: Time) -> Result<()> {
    tx.execute(
        "UPDATE sessions SET seen_at = $3 WHERE tenant_id = $1 AND session_id = $2 AND seen_at < $3",
        &vals![tx.tenant(), id, now],
    )
    .map(drop)
}

pub(super) fn set_level(tx: &mut Tx<'_>, id: &str, level: &str) -> Result<()> {
    tx.execute(
        "UPDATE sessions SET log_level = $3 WHERE tenant_id = $1 AND session_id = $2",
        &vals![tx.tenant(), id, level],
    )
    .map(drop)
}

pub(super) fn key(tx: &mut Tx<'_>) -> Result<Option<Vec<u8>>> {
    let row = tx.query_opt(
        "SELECT key FROM request_keys WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map(|mut row| row.get(0)).transpose()
}

pub(super) fn insert_key(tx: &mut Tx<'_>, key: Vec<u8>, now: Time) -> Result<()> {
    tx.execute(
        "INSERT INTO request_keys (tenant_id, key, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &vals![tx.tenant(), key, now],
    )
    .map(drop)
}

/// Notes that the call `by` acts on the answers of these rounds, unless another one did.
pub(super) fn end_rounds(tx: &mut Tx<'_>, id: &str, by: &str) -> Result<bool> {
    tx.execute(
        "INSERT INTO request_rounds (tenant_id, rounds_id, ended_by) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, rounds_id) DO UPDATE SET ended_by = excluded.ended_by
         WHERE request_rounds.ended_by = excluded.ended_by",
        &vals![tx.tenant(), id, by],
    )
    .map(|count| count > 0)
}

pub(super) fn forget_rounds(tx: &mut Tx<'_>, before: &str) -> Result<()> {
    tx.execute(
        "DELETE FROM request_rounds WHERE tenant_id = $1 AND rounds_id < $2",
        &vals![tx.tenant(), before],
    )
    .map(drop)
}

pub(super) fn ask(tx: &mut Tx<'_>, question: &Question) -> Result<()> {
    tx.execute(
        "INSERT INTO session_questions (tenant_id, session_id, call_id, question) VALUES ($1, $2, $3, $4)",
        &vals![
            tx.tenant(),
            &question.session,
            call_id(question.call),
            question.number
        ],
    )
    .map(drop)
}

/// Whether the question was open.
pub(super) fn answer(tx: &mut Tx<'_>, question: &Question, answer: &str) -> Result<bool> {
    tx.execute(
        "UPDATE session_questions SET answer = $5
         WHERE tenant_id = $1 AND session_id = $2 AND call_id = $3 AND question = $4 AND answer IS NULL",
        &vals![
            tx.tenant(),
            &question.session,
            call_id(question.call),
            question.number,
            answer
        ],
    )
    .map(|count| count > 0)
}

pub(super) fn answers(tx: &mut Tx<'_>, session: &str, call: u64) -> Result<Vec<(i64, String)>> {
    let rows = tx.query(
        "SELECT question, answer FROM session_questions
         WHERE tenant_id = $1 AND session_id = $2 AND call_id = $3 AND answer IS NOT NULL",
        &vals![tx.tenant(), session, call_id(call)],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

pub(super) fn delete_questions_of(tx: &mut Tx<'_>, session: &str, call: u64) -> Result<()> {
    tx.execute(
        "DELETE FROM session_questions WHERE tenant_id = $1 AND session_id = $2 AND call_id = $3",
        &vals![tx.tenant(), session, call_id(call)],
    )
    .map(drop)
}

pub(super) fn delete_questions(tx: &mut Tx<'_>, session: &str) -> Result<()> {
    tx.execute(
        "DELETE FROM session_questions WHERE tenant_id = $1 AND session_id = $2",
        &vals![tx.tenant(), session],
    )
    .map(drop)
}

fn call_id(call: u64) -> String {
    format!("{call:016x}")
}

/// Whether it was there, and its client not seen after `limit`.
pub(super) fn delete(tx: &mut Tx<'_>, id: &str, limit: Time) -> Result<bool> {
    tx.execute(
        "DELETE FROM sessions WHERE tenant_id = $1 AND session_id = $2 AND seen_at <= $3",
        &vals![tx.tenant(), id, limit],
    )
    .map(|count| count > 0)
}

/// At most `limit` sessions over all tenants whose clients have not been seen since `time`, with whom they serve.
pub(super) fn unseen_since(tx: &mut SystemTx<'_>, time: Time, limit: u32) -> Result<Vec<Place>> {
    let rows = tx.query(
        "SELECT tenant_id, session_id, serves_tenant FROM sessions WHERE seen_at <= $1 ORDER BY seen_at LIMIT $2",
        &vals![time, limit],
    )?;
    rows.into_iter()
        .map(|mut row| {
            Ok(Place {
                tenant: row.get(0)?,
                id: row.get(1)?,
                serves: row.get(2)?,
            })
        })
        .collect()
}

pub(super) fn subscribe(tx: &mut Tx<'_>, id: &str, uri: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO session_subscriptions (tenant_id, uri, session_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &vals![tx.tenant(), uri, id],
    )
    .map(drop)
}

pub(super) fn unsubscribe(tx: &mut Tx<'_>, id: &str, uri: &str) -> Result<()> {
    tx.execute(
        "DELETE FROM session_subscriptions WHERE tenant_id = $1 AND uri = $2 AND session_id = $3",
        &vals![tx.tenant(), uri, id],
    )
    .map(drop)
}

pub(super) fn delete_subscriptions(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    tx.execute(
        "DELETE FROM session_subscriptions WHERE tenant_id = $1 AND session_id = $2",
        &vals![tx.tenant(), id],
    )
    .map(drop)
}

pub(super) fn count_subscriptions(tx: &mut Tx<'_>, id: &str) -> Result<i64> {
    let row = tx.query_opt(
        "SELECT count(*) FROM session_subscriptions WHERE tenant_id = $1 AND session_id = $2",
        &vals![tx.tenant(), id],
    )?;
    row.map_or(Ok(0), |mut row| row.get(0))
}

/// The sessions that subscribed to each of `uris`; those that nobody did are left out.
///
/// # Errors
/// A failure of the database.
pub fn subscribers(
    tx: &mut Tx<'_>,
    uris: &BTreeSet<&str>,
) -> Result<HashMap<String, HashSet<String>>> {
    let mut found: HashMap<String, HashSet<String>> = HashMap::new();
    let uris: Vec<&str> = uris.iter().copied().collect();
    for some in uris.chunks(URIS) {
        // The last one again where there are fewer.
        let uri = |index: usize| *some.get(index).unwrap_or(&some[some.len() - 1]);
        let rows = tx.query(
            "SELECT uri, session_id FROM session_subscriptions
             WHERE tenant_id = $1 AND uri IN ($2, $3, $4, $5, $6, $7, $8, $9)",
            &vals![
                tx.tenant(),
                uri(0),
                uri(1),
                uri(2),
                uri(3),
                uri(4),
                uri(5),
                uri(6),
                uri(7)
            ],
        )?;
        for mut row in rows {
            found.entry(row.get(0)?).or_default().insert(row.get(1)?);
        }
    }
    Ok(found)
}

/// What any session subscribed to that begins so: at most so many.
pub(super) fn subscribed_below(
    tx: &mut SystemTx<'_>,
    begin: &str,
    limit: u32,
) -> Result<Vec<(TenantId, String)>> {
    let rows = tx.query(
        "SELECT DISTINCT tenant_id, uri FROM session_subscriptions WHERE uri LIKE $1 LIMIT $2",
        &vals![format!("{begin}%"), limit],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}
