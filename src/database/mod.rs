//! Connections to the two databases: the same statements, values and errors, whichever it is.
//!
//! SQL is one text for both, with `$n` parameters; where they differ, [`dialect`] knows. What this module does not know:
//! tenants, operations, the event log.

mod dial;
pub(crate) mod dialect;
mod fault;
mod lite;
mod pipe;
mod place;
mod postgres;
mod value;
mod wire;

pub(crate) use dial::Dialled;
pub(crate) use fault::ends_connection;
pub(crate) use lite::Lite;
pub(crate) use pipe::{Fault, Many, Pipe};
pub(crate) use postgres::tls_outside;
pub use postgres::{Postgres, PostgresError};
pub(crate) use value::vals;
pub use value::{FromValue, Row, Value};

use crate::error::{Error, Result};

pub(crate) use place::prepare;

/// A connection inside a transaction.
pub(crate) enum Backend<'a> {
    Sqlite(&'a Lite),
    Postgres(&'a mut Pipe),
}

/// Statements inside a transaction.
pub(crate) struct Db<'a> {
    backend: Backend<'a>,
    /// After a failed statement PostgreSQL refuses the rest of the transaction; so do we, on both.
    failed: bool,
}

impl<'a> Db<'a> {
    pub(crate) fn new(backend: Backend<'a>) -> Self {
        Self {
            backend,
            failed: false,
        }
    }

    fn attempt<T>(&mut self, run: impl FnOnce(&mut Backend<'a>) -> Result<T>) -> Result<T> {
        if self.failed {
            return Err(Error::internal("a statement after a failed one"));
        }
        let outcome = run(&mut self.backend);
        self.failed = outcome.is_err();
        outcome
    }

    /// Runs a statement and counts the rows that it changed.
    pub(crate) fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(lite) => lite.execute(sql, values),
            Backend::Postgres(pipe) => Ok(pipe.fly(sql, values)?.1),
        })
    }

    /// All rows of a query.
    pub(crate) fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(lite) => lite.query(sql, values),
            Backend::Postgres(pipe) => Ok(pipe.fly(sql, values)?.0),
        })
    }

    /// All rows of several queries, which travel together.
    pub(crate) fn query_all(
        &mut self,
        queries: &[(&'static str, &[Value])],
    ) -> Result<Vec<Vec<Row>>> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        self.attempt(|backend| match backend {
            Backend::Sqlite(lite) => queries
                .iter()
                .map(|(sql, values)| lite.query(sql, values))
                .collect(),
            Backend::Postgres(pipe) => {
                for (sql, values) in queries {
                    pipe.defer(sql, values, None)?;
                }
                let answers = pipe.flush()?.into_iter().map(|answer| answer.rows);
                let mut rows: Vec<_> = answers.collect();
                Ok(rows.split_off(rows.len().saturating_sub(queries.len())))
            }
        })
    }

    /// Whether the database looks up what points in a direction.
    pub(crate) fn has_pgvector(&mut self) -> Result<bool> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(_) => Ok(false),
            Backend::Postgres(pipe) => {
                let (mut rows, _) = pipe.fly(dialect::HAS_PGVECTOR, &[])?;
                rows.first_mut().map_or(Ok(false), |row| row.get(0))
            }
        })
    }

    /// Changes exactly one row. It may travel with a later statement, so its failure may show there.
    pub(crate) fn put(&mut self, sql: &'static str, values: impl Into<Vec<Value>>) -> Result<()> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(lite) => lite.defer(sql, values.into()),
            Backend::Postgres(pipe) => pipe.defer(sql, &values.into(), Some(1)),
        })
    }

    /// Changes any number of rows. It may travel with a later statement, so its failure may show there.
    pub(crate) fn put_any(&mut self, sql: &'static str, values: &[Value]) -> Result<()> {
        self.attempt(|backend| match backend {
            Backend::Sqlite(lite) => lite.execute(sql, values).map(drop),
            Backend::Postgres(pipe) => pipe.defer(sql, values, None),
        })
    }
}

fn not_one(rows: u64) -> Error {
    Error::internal(format!("a change of one row changed {rows}"))
}
