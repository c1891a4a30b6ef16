//! The face that operations see: statements with `$n` parameters, a tenant, and the event log.

use rusqlite::types::ValueRef;

use super::dialect;
use super::log::{Entry, Log, Sequence};
use super::value::{Row, Value, vals};
use crate::error::{Error, Result};
use crate::id::TenantId;

/// A connection inside a transaction. The PostgreSQL half adds a variant here and an arm in each method of [`Db`].
pub(super) enum Backend<'a> {
    Sqlite(&'a rusqlite::Connection),
}

/// Statements without a tenant: what [`Tx`] and [`SystemTx`] are made of.
pub(super) struct Db<'a> {
    pub(super) backend: Backend<'a>,
    /// After a failed statement PostgreSQL refuses the rest of the transaction; so do we, on both.
    failed: bool,
}

impl<'a> Db<'a> {
    pub(super) fn new(backend: Backend<'a>) -> Self {
        Self {
            backend,
            failed: false,
        }
    }

    fn attempt<T>(&mut self, run: impl FnOnce(&Backend<'a>) -> rusqlite::Result<T>) -> Result<T> {
        if self.failed {
            return Err(Error::internal("a statement after a failed one"));
        }
        run(&self.backend).map_err(|error| {
            self.failed = true;
            dialect::error(error)
        })
    }

    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                bind(&mut statement, values)?;
                Ok(statement.raw_execute()? as u64)
            }
        })
    }

    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                bind(&mut statement, values)?;
                let columns = statement.column_count();
                let (mut found, mut rows) = (Vec::new(), statement.raw_query());
                while let Some(row) = rows.next()? {
                    let row: rusqlite::Result<Vec<Value>> = (0..columns)
                        .map(|index| row.get_ref(index).map(read))
                        .collect();
                    found.push(Row(row?));
                }
                Ok(found)
            }
        })
    }
}

/// SQLite takes `$2` for a name and numbers names by first appearance, so parameters are bound by their number.
fn bind(statement: &mut rusqlite::CachedStatement<'_>, values: &[Value]) -> rusqlite::Result<()> {
    let count = statement.parameter_count();
    if count > values.len() {
        return Err(rusqlite::Error::InvalidParameterCount(values.len(), count));
    }
    for index in 1..=count {
        let number = statement
            .parameter_name(index)
            .and_then(|name| name[1..].parse::<usize>().ok())
            .filter(|number| (1..=values.len()).contains(number))
            .ok_or(rusqlite::Error::InvalidParameterCount(values.len(), count))?;
        statement.raw_bind_parameter(index, &values[number - 1])?;
    }
    Ok(())
}

fn read(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A transaction of one tenant.
pub struct Tx<'a> {
    db: Db<'a>,
    tenant: &'a TenantId,
    log: Option<&'a mut Log>,
}

impl<'a> Tx<'a> {
    pub(super) fn reading(db: Db<'a>, tenant: &'a TenantId) -> Self {
        Self {
            db,
            tenant,
            log: None,
        }
    }

    pub(super) fn writing(db: Db<'a>, tenant: &'a TenantId, log: &'a mut Log) -> Self {
        Self {
            db,
            tenant,
            log: Some(log),
        }
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

    /// All rows of a query.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.db.query(sql, values)
    }

    /// The first row of a query.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn query_opt(&mut self, sql: &'static str, values: &[Value]) -> Result<Option<Row>> {
        Ok(self.db.query(sql, values)?.into_iter().next())
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

    /// Whether the tenant's log has an event `id`, in this transaction or before; with its kind, subject and data.
    ///
    /// # Errors
    /// As [`Tx::execute`].
    pub fn event(&mut self, id: &str) -> Result<Option<(String, String, String, Sequence)>> {
        if let Some(found) = self.log.as_ref().and_then(|log| log.find(self.tenant, id)) {
            return Ok(Some(found));
        }
        let row = self.query_opt(
            "SELECT kind, subject, data, sequence FROM events WHERE tenant_id = $1 AND event_id = $2",
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

/// A reading transaction over all tenants.
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
}
