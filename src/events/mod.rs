//! The log of everything that happened: one event per change of state, written in the change's own transaction.
//!
//! Outside, an event is a `CloudEvents` 1.0 object. Whoever shows events (MCP notifications, webhooks, audit) reads them
//! from here by [`after`] and is woken by the store's hub.

mod store;

use serde::Serialize;
use serde_json::Value;

use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::NotificationId;
use crate::store::{Entry, Sequence, Tx};
use crate::trace::Trace;

pub use store::{after, head, latest_of, verify};

/// An event as it stands in the log.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number in the tenant's log.
    pub sequence: i64,
    /// Unique in the tenant: what its caller named it, else made of its number.
    pub id: String,
    /// For example `dev.baton.task.completed`.
    pub kind: String,
    /// What it is about: a task's id.
    pub subject: String,
    /// Who did it.
    pub actor: String,
    /// When.
    pub time: Time,
    /// What it says.
    pub data: Value,
    /// The trace that it belongs to (`CloudEvents` distributed tracing extension).
    pub trace: Option<Trace>,
}

/// Appends an event about `subject` to the tenant's log.
///
/// # Errors
/// `Internal` in a transaction that only reads.
pub fn append(
    scope: &Scope,
    tx: &mut Tx<'_>,
    kind: &'static str,
    subject: &str,
    data: &impl Serialize,
) -> Result<Sequence> {
    append_named(scope, tx, "", (kind, subject), data)
}

/// As [`append`], with an id by which it can be found again.
///
/// # Errors
/// As [`append`]; the group's commit fails when the id is taken, so look first with [`Tx::event`].
pub fn append_as(
    scope: &Scope,
    tx: &mut Tx<'_>,
    id: &NotificationId,
    about: (&'static str, &str),
    data: &impl Serialize,
) -> Result<Sequence> {
    append_named(scope, tx, id.as_str(), about, data)
}

fn append_named(
    scope: &Scope,
    tx: &mut Tx<'_>,
    id: &str,
    (kind, subject): (&'static str, &str),
    data: &impl Serialize,
) -> Result<Sequence> {
    tx.append(Entry {
        id: id.to_owned(),
        kind: kind.into(),
        subject: subject.to_owned(),
        actor: scope.actor().to_owned(),
        time: scope.now(),
        data: serde_json::to_string(data).map_err(Error::internal)?,
        trace: scope.trace().map(Trace::line).unwrap_or_default(),
    })
}
