//! A connection to the embedded database. Durable (`synchronous=FULL`), in WAL mode.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags};

use super::fault;
use super::value::{Row, Value};
use crate::error::Result;

/// How long a connection waits for another process to finish its transaction.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for another process that makes a new database.
const SWITCH: Duration = Duration::from_millis(5);
/// Distinct statements are few; the default of 16 would prepare them over and over.
const STATEMENTS: usize = 256;

/// A connection to a SQLite file.
pub(crate) struct Lite {
    connection: Connection,
    orders: RefCell<Orders>,
}

/// Which value goes to which parameter of a statement, by where its text lies.
type Orders = HashMap<(usize, usize), Box<[usize]>>;

impl Lite {
    /// Opens the database for writing, creating it when there is none.
    #[expect(clippy::disallowed_methods, reason = "this is where SQLite is opened")]
    pub(crate) fn writer(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(fault::of_sqlite)?;
        let lite = Self::prepared(connection)?;
        lite.switch_to_wal().map_err(fault::of_sqlite)?;
        lite.connection
            .pragma_update(None, "synchronous", "FULL")
            .and_then(|()| lite.connection.pragma_update(None, "cache_size", -8_192))
            .and_then(|()| lite.connection.pragma_update(None, "foreign_keys", "OFF"))
            // Pages that change with every group are copied into the file once for many groups.
            .and_then(|()| {
                lite.connection
                    .pragma_update(None, "wal_autocheckpoint", 4_000)
            })
            .map_err(fault::of_sqlite)?;
        Ok(lite)
    }

    /// From now on a commit is written and not flushed; whoever answers for it flushes the log of writes first.
    pub(crate) fn leave_flushing(&self) -> Result<()> {
        self.connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(fault::of_sqlite)
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
            .map(Self::on)
            .map_err(fault::of_sqlite)
    }

    fn on(connection: Connection) -> Self {
        Self {
            connection,
            orders: RefCell::default(),
        }
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
        Ok(Self::on(connection))
    }

    /// A new database is switched once, by whoever comes first. SQLite does not ask the busy handler about that.
    fn switch_to_wal(&self) -> rusqlite::Result<()> {
        let mut waited = Duration::ZERO;
        loop {
            match self.connection.pragma_update(None, "journal_mode", "WAL") {
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && waited < PATIENCE =>
                {
                    std::thread::sleep(SWITCH);
                    waited += SWITCH;
                }
                outcome => return outcome,
            }
        }
    }

    /// Runs a statement without parameters.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.raw_execute())
            .map(drop)
            .map_err(fault::of_sqlite)
    }

    /// Runs several statements without parameters.
    pub(crate) fn run_all(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(fault::of_sqlite)
    }

    /// Runs a statement and counts the rows that it changed.
    pub(crate) fn execute(&self, sql: &'static str, values: &[Value]) -> Result<u64> {
        let execute = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            self.bind(sql, &mut statement, values)?;
            Ok(statement.raw_execute()? as u64)
        };
        execute().map_err(fault::of_sqlite)
    }

    /// All rows of a query.
    pub(crate) fn query(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        let query = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            self.bind(sql, &mut statement, values)?;
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

    /// SQLite takes `$2` for a name and numbers names by first appearance, so parameters are bound by their number.
    fn bind(
        &self,
        sql: &'static str,
        statement: &mut CachedStatement<'_>,
        values: &[Value],
    ) -> rusqlite::Result<()> {
        let mut orders = self.orders.borrow_mut();
        let order = match orders.entry((sql.as_ptr().addr(), sql.len())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(order(statement)?),
        };
        for (index, number) in order.iter().enumerate() {
            let value = values
                .get(number - 1)
                .ok_or_else(|| rusqlite::Error::InvalidParameterCount(values.len(), order.len()))?;
            statement.raw_bind_parameter(index + 1, value)?;
        }
        Ok(())
    }

    /// Whether no transaction is open: a full disk or an I/O error ends one by itself.
    pub(crate) fn is_autocommit(&self) -> bool {
        self.connection.is_autocommit()
    }

    /// How many rows this connection has changed, in its whole life.
    pub(crate) fn changes(&self) -> u64 {
        self.connection.total_changes()
    }

    /// Changes only when another connection has committed.
    pub(crate) fn data_version(&self) -> Option<i64> {
        let mut rows = self.query("PRAGMA data_version", &[]).ok()?;
        rows.first_mut()?.get(0).ok()
    }
}

/// The numbers in the names of a statement's parameters.
fn order(statement: &CachedStatement<'_>) -> rusqlite::Result<Box<[usize]>> {
    let count = statement.parameter_count();
    let number = |index| {
        statement
            .parameter_name(index)
            .and_then(|name| name.strip_prefix('$')?.parse().ok())
            .filter(|number| (1..=count).contains(number))
            .ok_or(rusqlite::Error::InvalidParameterCount(index, count))
    };
    (1..=count).map(number).collect()
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
