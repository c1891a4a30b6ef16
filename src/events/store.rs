//! SQL of the log.

use super::Event;
use crate::error::{Error, Result};
use crate::store::{Entry, Row, Tx, chain, vals};
use crate::trace::Trace;

fn event(mut row: Row) -> Result<Event> {
    let (sequence, id): (i64, String) = (row.get(0)?, row.get(1)?);
    Ok(Event {
        sequence,
        // No caller can name one like this.
        id: if id.is_empty() {
            format!("event/{sequence}")
        } else {
            id
        },
        kind: row.get(2)?,
        subject: row.get(3)?,
        actor: row.get(4)?,
        time: row.get(5)?,
        data: row.json(6)?,
        trace: Trace::of_line(&row.get::<String>(7)?),
    })
}

/// The number of the tenant's newest event; zero when there is none.
///
/// # Errors
/// A failure of the database.
pub fn head(tx: &mut Tx<'_>) -> Result<i64> {
    let row = tx.query_opt(
        "SELECT sequence FROM tenants WHERE tenant_id = $1",
        &vals![tx.tenant()],
    )?;
    row.map_or(Ok(0), |mut row| row.get(0))
}

/// At most `limit` events after number `sequence`, in order.
///
/// # Errors
/// A failure of the database.
pub fn after(tx: &mut Tx<'_>, sequence: i64, limit: u32) -> Result<Vec<Event>> {
    tx.query(
        "SELECT sequence, event_id, kind, subject, actor, time, data, trace FROM events
         WHERE tenant_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
        &vals![tx.tenant(), sequence, limit],
    )?
    .into_iter()
    .map(event)
    .collect()
}

/// The last `limit` events about `subject` that have ids of their own and whose kind lies between `from` and `to`, in
/// order.
///
/// # Errors
/// A failure of the database.
pub fn latest_of(
    tx: &mut Tx<'_>,
    subject: &str,
    (from, to): (&str, &str),
    limit: u32,
) -> Result<Vec<Event>> {
    let rows = tx.query(
        "SELECT sequence, event_id, kind, subject, actor, time, data, trace FROM events
         WHERE tenant_id = $1 AND subject = $2 AND event_id <> '' AND kind >= $3 AND kind < $4
         ORDER BY sequence DESC LIMIT $5",
        &vals![tx.tenant(), subject, from, to, limit],
    )?;
    rows.into_iter().rev().map(event).collect()
}

/// Checks up to `limit` events after number `sequence`, whose hash is `hash`: numbered without gaps and chained.
/// Returns the last number checked and its hash.
///
/// # Errors
/// `log_broken` names the first event that does not fit.
pub fn verify(tx: &mut Tx<'_>, sequence: i64, hash: &[u8], limit: u32) -> Result<(i64, Vec<u8>)> {
    let rows = tx.query(
        "SELECT sequence, event_id, kind, subject, actor, time, data, trace, hash FROM events
         WHERE tenant_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
        &vals![tx.tenant(), sequence, limit],
    )?;
    let (mut number, mut hash) = (sequence, hash.to_vec());
    for mut row in rows {
        number += 1;
        let found: i64 = row.get(0)?;
        let kind: String = row.get(2)?;
        let entry = Entry {
            id: row.get(1)?,
            kind: kind.into(),
            subject: row.get(3)?,
            actor: row.get(4)?,
            time: row.get(5)?,
            data: row.get(6)?,
            trace: row.get(7)?,
        };
        hash = chain(&hash, number, &entry);
        if found != number || hash != row.get::<Vec<u8>>(8)? {
            return Err(Error::conflict(
                "log_broken",
                format!("event {number} is missing or was changed"),
            ));
        }
    }
    Ok((number, hash))
}
