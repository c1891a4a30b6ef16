//! A connection to the embedded database. Durable (`synchronous=FULL`), in WAL mode.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags};

use super::fault;
use super::value::{Row, Value};
use crate::error::{Error, Result};

/// How long a connection waits for another process to finish its transaction.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for another process that makes a new database.
const SWITCH: Duration = Duration::from_millis(5);
/// Distinct statements are few; the default of 16 would prepare them over and over.
const STATEMENTS: usize = 256;
/// Rows that one statement inserts, where many are to be inserted: whichever fits, the greatest first.
const ROWS: [usize; 3] = [8, 2, 1];
/// Changes that wait at most.
const DEFERRED: usize = 32;

/// A connection to a SQLite file.
pub(crate) struct Lite {
    connection: Connection,
    orders: RefCell<Orders>,
    deferred: RefCell<Box<Deferred>>,
}

/// Which value goes to which parameter of a statement, by where its text lies.
type Orders = BTreeMap<(usize, usize), Box<[usize]>>;

/// Changes of one row each that wait for the next statement: what is inserted into one table then goes by few statements,
/// which share their own costs and find the place of each row in the indexes beside that of the one before.
#[derive(Default)]
struct Deferred {
    changes: Vec<(&'static str, Vec<Value>)>,
    /// How many of them earlier operations left.
    of_others: usize,
    /// Rows that this operation has had changed for others, and what had been changed before it.
    for_others: u64,
    before: u64,
    /// Why one of them failed.
    fault: Option<Error>,
    /// Statements that insert several rows, by where the one for a single row lies, and how many rows.
    inserts: BTreeMap<(usize, usize), Box<str>>,
}

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
            deferred: RefCell::default(),
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
        self.settle()?;
        self.change(sql, |number| values.get(number - 1))
    }

    fn change<'v>(&self, sql: &str, value: impl Fn(usize) -> Option<&'v Value>) -> Result<u64> {
        let change = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            self.bind(sql, &mut statement, value)?;
            Ok(statement.raw_execute()? as u64)
        };
        change().map_err(fault::of_sqlite)
    }

    /// All rows of a query.
    pub(crate) fn query(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.settle()?;
        let query = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            self.bind(sql, &mut statement, |number| values.get(number - 1))?;
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
    fn bind<'v>(
        &self,
        sql: &str,
        statement: &mut CachedStatement<'_>,
        value: impl Fn(usize) -> Option<&'v Value>,
    ) -> rusqlite::Result<()> {
        let mut orders = self.orders.borrow_mut();
        let order = match orders.entry((sql.as_ptr().addr(), sql.len())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(order(statement)?),
        };
        for (index, number) in order.iter().enumerate() {
            let value = value(*number)
                .ok_or_else(|| rusqlite::Error::InvalidParameterCount(number - 1, order.len()))?;
            statement.raw_bind_parameter(index + 1, value)?;
        }
        Ok(())
    }

    /// Whether no transaction is open: a full disk or an I/O error ends one by itself.
    pub(crate) fn is_autocommit(&self) -> bool {
        self.connection.is_autocommit()
    }

    fn deferred(&self) -> RefMut<'_, Deferred> {
        RefMut::map(self.deferred.borrow_mut(), Box::as_mut)
    }

    /// Forgets all that was deferred: its transaction is no more.
    pub(crate) fn begin_group(&self) {
        let mut deferred = self.deferred();
        deferred.changes.clear();
        deferred.fault = None;
    }

    /// What is deferred or changed from here on is one operation's.
    pub(crate) fn begin_operation(&self) {
        let mut deferred = self.deferred();
        deferred.of_others = deferred.changes.len();
        (deferred.for_others, deferred.before) = (0, self.connection.total_changes());
    }

    /// Forgets what the operation deferred, and says whether it has changed anything.
    pub(crate) fn end_failed(&self) -> bool {
        let mut deferred = self.deferred();
        let kept = deferred.of_others;
        deferred.changes.truncate(kept);
        self.connection.total_changes() > deferred.before + deferred.for_others
    }

    /// Why a change failed that was deferred before. It may be another operation's than the one that met it.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.deferred().fault.take()
    }

    /// Changes exactly one row, with the next statement, by [`Lite::settle`] or when many wait.
    pub(crate) fn defer(&self, sql: &'static str, values: Vec<Value>) -> Result<()> {
        if self.deferred().changes.len() >= DEFERRED {
            self.settle()?;
        }
        self.deferred().changes.push((sql, values));
        Ok(())
    }

    /// Makes the changes that were deferred.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut deferred = self.deferred();
        if deferred.changes.is_empty() {
            return Ok(());
        }
        let changes = std::mem::take(&mut deferred.changes);
        deferred.for_others += std::mem::take(&mut deferred.of_others) as u64;
        let outcome = self.make(&changes, &mut deferred.inserts);
        deferred.fault = outcome.as_ref().err().map(Error::again);
        outcome
    }

    fn make(
        &self,
        changes: &[(&'static str, Vec<Value>)],
        inserts: &mut BTreeMap<(usize, usize), Box<str>>,
    ) -> Result<()> {
        let mut rest = changes;
        while let Some((sql, values)) = rest.first() {
            let alike = rest
                .iter()
                .take_while(|(other, _)| std::ptr::eq(*other, *sql))
                .count();
            let insert = insert(sql).filter(|_| alike > 1);
            let fitting = ROWS.into_iter().find(|rows| *rows <= alike);
            let count = insert.and(fitting).unwrap_or(1);
            let (now, later) = rest.split_at(count);
            let width = values.len();
            let value = |number: usize| now.get((number - 1) / width)?.1.get((number - 1) % width);
            let rows = match insert {
                Some((head, row)) if count > 1 => {
                    let many = inserts
                        .entry((sql.as_ptr().addr(), count))
                        .or_insert_with(|| many(head, row, count, width));
                    self.change(many, value)?
                }
                _ => self.change(sql, value)?,
            };
            if rows != count as u64 {
                return Err(super::not_one(rows));
            }
            rest = later;
        }
        Ok(())
    }

    /// Changes only when another connection has committed.
    pub(crate) fn data_version(&self) -> Option<i64> {
        let mut rows = self.query("PRAGMA data_version", &[]).ok()?;
        rows.first_mut()?.get(0).ok()
    }
}

/// The table and the row of a statement that inserts a row, and does nothing else.
fn insert(sql: &'static str) -> Option<(&'static str, &'static str)> {
    let (head, row) = sql.strip_prefix("INSERT INTO ")?.split_once("VALUES ")?;
    row.ends_with(')').then_some((head, row))
}

/// A statement that inserts `count` rows of `width` values each. Where a row can't be inserted those before it stay, for whoever
/// ends the transaction; to take them back by itself, SQLite would copy every page first.
fn many(head: &str, row: &str, count: usize, width: usize) -> Box<str> {
    let mut text = format!("INSERT OR FAIL INTO {head}VALUES ");
    for index in 0..count {
        let mut parts = row.split('$');
        text.push_str(if index == 0 { "" } else { ", " });
        text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let end = part
                .find(|char: char| !char.is_ascii_digit())
                .unwrap_or(part.len());
            let (number, behind) = part.split_at(end);
            let number = number.parse::<usize>().unwrap_or_default() + index * width;
            let _ = write!(text, "${number}{behind}");
        }
    }
    text.into()
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
        // Far faster than to look for what is no UTF-8.
        ValueRef::Text(text) => Value::Text(match std::str::from_utf8(text) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(text).into_owned(),
        }),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_of_a_row_becomes_one_of_several() {
        let (head, row) =
            insert("INSERT INTO t (a, b, c) VALUES ($1, $2, $1, NULL)").expect("an insert");
        assert_eq!(
            &*many(head, row, 2, 2),
            "INSERT OR FAIL INTO t (a, b, c) VALUES ($1, $2, $1, NULL), ($3, $4, $3, NULL)"
        );
        for other in [
            "UPDATE t SET a = $1",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO NOTHING",
            "INSERT INTO t (a) SELECT $1",
        ] {
            assert_eq!(insert(other), None, "{other}");
        }
    }
}
