//! The face that operations see: statements with `$n` parameters, a tenant, and the event log.

use std::time::Duration;

use super::log::{Entry, Log, Sequence};
use crate::database::{Db, Row, Value, vals};
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::page::Seal;

/// A transaction of one tenant.
pub struct Tx<'a> {
    db: Db<'a>,
    tenant: &'a TenantId,
    log: Option<&'a mut Log>,
}

impl<'a> Tx<'a> {
    /// Without a log, it only reads.
    pub(super) fn new(db: Db<'a>, tenant: &'a TenantId, log: Option<&'a mut Log>) -> Self {
        Self { db, tenant, log }
    }

    /// The tenant that every statement binds.
    pub fn tenant(&self) -> &'a TenantId {
        self.tenant
    }

    /// Runs a statement and counts the rows that it changed.
    ///
    /// # Errors
    /// `Conflict` on a violated constraint, `Unavailable` when the database can't write now, else `Internal`.
    pub fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64> {
        self.db.execute(sql, values)
    }

    /// Changes exactly one row. It may travel to the database with a later statement, which then fails in its place: for
    /// changes that can't fail unless something is wrong.
    ///
    /// # Errors
    /// As [`Tx::execute`]; `Internal` when it changes another number of rows.
    pub fn put(&mut self, sql: &'static str, values: impl Into<Vec<Value>>) -> Result<()> {
        self.db.put(sql, values)
    }

    /// As [`Tx::put`], of any number of rows: where it does not matter how many there are.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn put_any(&mut self, sql: &'static str, values: &[Value]) -> Result<()> {
        self.db.put_any(sql, values)
    }

    /// All rows of a query.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.db.query(sql, values)
    }

    /// All rows of several queries that don't build on each other; they travel to the database together.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query_all(&mut self, queries: &[(&'static str, &[Value])]) -> Result<Vec<Vec<Row>>> {
        self.db.query_all(queries)
    }

    /// The first row of a query.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query_opt(&mut self, sql: &'static str, values: &[Value]) -> Result<Option<Row>> {
        Ok(self.db.query(sql, values)?.into_iter().next())
    }

    /// Whether the database looks up what points in a direction (`migrations/pgvector.sql`).
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn has_pgvector(&mut self) -> Result<bool> {
        self.db.has_pgvector()
    }

    /// What makes and reads the cursors of `list`.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn seal(&mut self, list: &'static str) -> Result<Seal> {
        let row = self.query_opt("SELECT key FROM seals WHERE name = 'cursor'", &[])?;
        let mut row = row.ok_or_else(|| Error::internal("a database without a seal"))?;
        Ok(Seal::new(row.get(0)?, self.tenant, list))
    }

    /// Appends an event to the tenant's log. It is written just before the commit, so its sequence number is known
    /// only afterwards: the returned [`Sequence`] fills itself then.
    ///
    /// # Errors
    /// `Internal` in a transaction that only reads.
    pub fn append(&mut self, entry: Entry) -> Result<Sequence> {
        match &mut self.log {
            Some(log) => Ok(log.append(self.tenant, entry)),
            None => Err(Error::internal("an event in a transaction that only reads")),
        }
    }

    /// Removes the head of the tenant's log: what is appended afterwards begins another one. It comes last in an operation
    /// that can't fail any more.
    ///
    /// # Errors
    /// `store_busy` when an operation that is committed together with this one has appended to it; as [`Tx::execute`].
    pub fn end_log(&mut self) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Err(Error::internal(
                "an end of a log in a transaction that only reads",
            ));
        };
        if log.tenants().contains(self.tenant) {
            let message = "the log is being written";
            return Err(Error::unavailable(
                "store_busy",
                message,
                Duration::from_secs(1),
            ));
        }
        self.db.execute(
            "DELETE FROM tenants WHERE tenant_id = $1",
            &vals![self.tenant],
        )?;
        log.end(self.tenant);
        Ok(())
    }

    /// Wakes those who wait for something of the tenant after the commit, on every process, as an event does: for what
    /// is no event.
    pub fn wake(&mut self) {
        if let Some(log) = &mut self.log {
            log.wake(self.tenant);
        }
    }

    /// Whether the tenant's log has an event `id`, in this transaction or before; with its kind, subject and data.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn event(&mut self, id: &str) -> Result<Option<(String, String, String, Sequence)>> {
        if let Some(found) = self.log.as_ref().and_then(|log| log.find(self.tenant, id)) {
            return Ok(Some(found));
        }
        let row = self.query_opt(
            "SELECT kind, subject, data, sequence FROM events
             WHERE tenant_id = $1 AND event_id = $2 AND event_id <> ''",
            &vals![self.tenant, id],
        )?;
        row.map(|mut row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                Sequence::known(row.get(3)?),
            ))
        })
        .transpose()
    }
}

/// A transaction over all tenants.
pub struct SystemTx<'a>(Db<'a>);

impl<'a> SystemTx<'a> {
    pub(super) fn new(db: Db<'a>) -> Self {
        Self(db)
    }

    /// All rows of a query.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.0.query(sql, values)
    }

    /// Runs a statement and counts the rows that it changed.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64> {
        self.0.execute(sql, values)
    }
}
