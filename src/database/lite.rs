//! A connection to the embedded database. Durable (`synchronous=FULL`), in WAL mode.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, OpenFlags};

use super::fault;
use super::value::{Row, Value};
use crate::error::Result;

/// How long a connection waits for another process to finish its transaction.
const PATIENCE: Duration = Duration::from_secs(10);
/// Distinct statements are few; the default of 16 would prepare them over and over.
const STATEMENTS: usize = 256;

/// A connection to a SQLite file.
pub(crate) struct Lite(Connection);

impl Lite {
    /// Opens the database for writing, creating it when there is none.
    #[expect(clippy::disallowed_methods, reason = "this is where SQLite is opened")]
    pub(crate) fn writer(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(fault::of_sqlite)?;
        let lite = Self::prepared(connection)?;
        lite.0
            .pragma_update(None, "journal_mode", "WAL")
            .and_then(|()| lite.0.pragma_update(None, "synchronous", "FULL"))
            .and_then(|()| lite.0.pragma_update(None, "cache_size", -16_384))
            .and_then(|()| lite.0.pragma_update(None, "foreign_keys", "OFF"))
            .map_err(fault::of_sqlite)?;
        Ok(lite)
    }

    /// Opens an existing database for reading.
    #[expect(clippy::disallowed_methods, reason = "this is where SQLite is opened")]
    pub(crate) fn reader(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(fault::of_sqlite)?;
        Self::prepared(connection)
    }

    /// A database of this connection's own, gone with it.
    #[expect(clippy::disallowed_methods, reason = "this is where SQLite is opened")]
    pub(crate) fn in_memory() -> Result<Self> {
        Connection::open_in_memory()
            .map(Self)
            .map_err(fault::of_sqlite)
    }

    /// Without the planner's guarantee SQLite plans a statement anew whenever a value is bound that its plan might depend
    /// on, and its own busy handler sleeps up to 100 ms between tries, too long for a neighbour that commits every 2 ms.
    fn prepared(mut connection: Connection) -> Result<Self> {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection
            .busy_handler(Some(|tries: i32| {
                std::thread::sleep(Duration::from_millis(1));
                u128::from(tries.unsigned_abs()) < PATIENCE.as_millis()
            }))
            .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true))
            .map_err(fault::of_sqlite)?;
        Ok(Self(connection))
    }

    /// Runs a statement without parameters.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        self.0
            .prepare_cached(sql)
            .and_then(|mut statement| statement.raw_execute())
            .map(drop)
            .map_err(fault::of_sqlite)
    }

    /// Runs several statements without parameters.
    pub(crate) fn run_all(&self, sql: &str) -> Result<()> {
        self.0.execute_batch(sql).map_err(fault::of_sqlite)
    }

    /// Runs a statement and counts the rows that it changed.
    pub(crate) fn execute(&self, sql: &str, values: &[Value]) -> Result<u64> {
        let execute = || {
            let mut statement = self.0.prepare_cached(sql)?;
            bind(&mut statement, values)?;
            Ok(statement.raw_execute()? as u64)
        };
        execute().map_err(fault::of_sqlite)
    }

    /// All rows of a query.
    pub(crate) fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        let query = || {
            let mut statement = self.0.prepare_cached(sql)?;
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
        };
        query().map_err(fault::of_sqlite)
    }

    /// Whether no transaction is open: a full disk or an I/O error ends one by itself.
    pub(crate) fn is_autocommit(&self) -> bool {
        self.0.is_autocommit()
    }

    /// Changes only when another connection has committed.
    pub(crate) fn data_version(&self) -> Option<i64> {
        let mut rows = self.query("PRAGMA data_version", &[]).ok()?;
        rows.first_mut()?.get(0).ok()
    }
}

/// SQLite takes `$2` for a name and numbers names by first appearance, so parameters are bound by their number.
fn bind(statement: &mut CachedStatement<'_>, values: &[Value]) -> rusqlite::Result<()> {
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
