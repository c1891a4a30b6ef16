//! The embedded database: one writer that commits in groups, and a few readers.
//!
//! Durable (`synchronous=FULL`) in WAL mode. Any number of processes may share the file: SQLite's own locks arbitrate
//! the writers, and `data_version`, looked at by the writer when it has nothing to do, tells of commits elsewhere.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::dialect;
use super::hub::Hub;
use super::job::{Job, Queue, Taken};
use super::log::Log;
use super::tx::{Backend, Db, Tx};
use crate::error::{Error, Result};

/// Operations in one transaction at most: bounds what a failed commit has to repeat.
const GROUP: usize = 1_024;
/// How often the writer looks for commits of other processes while somebody waits for one.
const LOOK: Duration = Duration::from_millis(20);
/// How long the writer waits for another process to finish its transaction.
const PATIENCE: Duration = Duration::from_secs(10);
/// Distinct statements are few; the default of 16 would prepare them over and over.
const STATEMENTS: usize = 256;

/// Opens the database for writing, creating it when there is none.
#[expect(
    clippy::disallowed_methods,
    reason = "the store is where SQLite is opened"
)]
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    let mut connection = Connection::open(path).map_err(dialect::error)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    wait_for_others(&mut connection)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        .and_then(|()| connection.pragma_update(None, "cache_size", -16_384))
        .and_then(|()| connection.pragma_update(None, "foreign_keys", "OFF"))
        .map_err(dialect::error)?;
    Ok(connection)
}

/// SQLite's own busy handler sleeps up to 100 ms between tries, too long for a neighbour that commits every 2 ms.
fn wait_for_others(connection: &mut Connection) -> Result<()> {
    connection
        .busy_handler(Some(|tries: i32| {
            std::thread::sleep(Duration::from_millis(1));
            u128::from(tries.unsigned_abs()) < PATIENCE.as_millis()
        }))
        .map_err(dialect::error)
}

/// Read-only connections, opened as needed, kept for the next reader.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::default(),
        }
    }

    /// Runs `operation` in a read transaction: all of its queries see the same state.
    pub(super) fn read<T>(&self, operation: impl FnOnce(Db<'_>) -> Result<T>) -> Result<T> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        run(&connection, "BEGIN")?;
        let answer = operation(Db::new(Backend::Sqlite(&connection)));
        // A reader has nothing to lose: whatever ended the transaction early, the connection is usable or dropped.
        if run(&connection, "COMMIT").is_ok() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
        answer
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the store is where SQLite is opened"
    )]
    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(&self.path, flags).map_err(dialect::error)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        wait_for_others(&mut connection)?;
        Ok(connection)
    }
}

fn run(connection: &Connection, sql: &str) -> Result<()> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.raw_execute())
        .map(drop)
        .map_err(dialect::error)
}

/// Runs groups until the queue is closed and empty.
pub(super) fn run_writer(connection: Connection, queue: &Queue, hub: &Hub) {
    let mut version = data_version(&connection);
    loop {
        let patience = if hub.is_waited_for() { LOOK } else { LOOK * 2 };
        match queue.take(GROUP, patience) {
            Taken::Jobs(jobs) => commit_group(&connection, jobs, hub),
            Taken::Nothing => {}
            Taken::Closed => break,
        }
        // Changes only when another connection has committed, never by this one.
        let current = data_version(&connection);
        if current != version {
            version = current;
            hub.committed_elsewhere();
        }
    }
}

fn data_version(connection: &Connection) -> Option<i64> {
    connection
        .prepare_cached("PRAGMA data_version")
        .and_then(|mut sql| sql.query_row([], |row| row.get(0)))
        .ok()
}

/// Runs a group and answers every job of it exactly once, whatever happens.
fn commit_group(connection: &Connection, mut jobs: Vec<Box<dyn Job>>, hub: &Hub) {
    // A caller that left before its turn costs nothing.
    jobs.retain(|job| !job.is_abandoned());
    if jobs.is_empty() {
        return;
    }
    let mut log = Log::default();
    let outcome = attempt(connection, &mut jobs, &mut log);
    if !connection.is_autocommit() && run(connection, "ROLLBACK").is_err() {
        tracing::error!("a transaction could not be rolled back");
    }
    match outcome {
        Ok(()) => {
            hub.committed(&log.tenants());
            for job in jobs {
                job.finish(Ok(()));
            }
        }
        // One job's fault (a deferred constraint, say) must not be the others': each gets a transaction of its own.
        Err(error)
            if jobs.len() > 1 && error.code() != "disk_full" && error.code() != "store_busy" =>
        {
            tracing::debug!(%error, jobs = jobs.len(), "a group failed; running its operations one by one");
            for job in jobs {
                commit_group(connection, vec![job], hub);
            }
        }
        Err(error) => {
            tracing::warn!(error = ?error, "a commit failed");
            for job in jobs {
                job.finish(Err(error.again()));
            }
        }
    }
}

/// On an error, nothing of the group is in the database.
fn attempt(connection: &Connection, jobs: &mut [Box<dyn Job>], log: &mut Log) -> Result<()> {
    run(connection, "BEGIN IMMEDIATE")?;
    let alone = jobs.len() == 1;
    for job in jobs.iter_mut() {
        if !alone {
            run(connection, "SAVEPOINT operation")?;
        }
        let mark = log.len();
        let tenant = job.tenant().clone();
        let succeeded = job.run(&mut Tx::writing(
            Db::new(Backend::Sqlite(connection)),
            &tenant,
            log,
        ));
        if connection.is_autocommit() {
            // A full disk or an I/O error rolls the whole transaction back by itself.
            return Err(Error::unavailable(
                "disk_full",
                "the database gave the transaction up; is the disk full?",
                Duration::from_secs(30),
            ));
        }
        if !succeeded {
            log.truncate(mark);
            if alone {
                return run(connection, "ROLLBACK");
            }
            run(connection, "ROLLBACK TO operation")?;
        }
        if !alone {
            run(connection, "RELEASE operation")?;
        }
    }
    log.write(connection).map_err(dialect::error)?;
    run(connection, "COMMIT")
}
