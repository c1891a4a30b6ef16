//! What databases report, as a caller should see it.

use std::io;
use std::time::Duration;

use rusqlite::ErrorCode;
use tokio_postgres::error::SqlState;

use super::wire::Wrong;
use crate::error::{Error, Kind};

const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(30);

/// An error of SQLite.
pub(super) fn of_sqlite(error: rusqlite::Error) -> Error {
    let found = match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => taken(),
        Some(ErrorCode::DiskFull) => disk_full(),
        Some(ErrorCode::SystemIoFailure) => Error::unavailable(
            "store_failing",
            "the disk that holds the data failed, or a quota or a limit of file sizes is reached",
            LATER,
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => busy(),
        Some(ErrorCode::ReadOnly) => {
            Error::unavailable("store_read_only", "the data folder is read-only", LATER)
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::new(
            Kind::Internal,
            "store_corrupt",
            "the database file is damaged or not a database",
        ),
        Some(ErrorCode::CannotOpen) => Error::new(
            Kind::Internal,
            "store_unreadable",
            "the database file can't be opened",
        ),
        _ => return Error::internal(error),
    };
    found.with_source(error)
}

/// An error of PostgreSQL.
pub(super) fn of_postgres(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        None => lost().with_source(error),
        Some(told) => match of_state(told.code(), told.message()) {
            Some(found) => found.with_source(error),
            None => Error::internal(error),
        },
    }
}

/// What went wrong on a connection to PostgreSQL.
pub(super) fn of_wire(wrong: Wrong) -> Error {
    match wrong {
        Wrong::Lost(error) if error.kind() == io::ErrorKind::TimedOut => {
            unreachable("the database did not answer in time").with_source(error)
        }
        Wrong::Lost(error) => lost().with_source(error),
        Wrong::Value(error) => Error::internal(error),
        Wrong::Told(told) => match of_state(&told.code, &told.message) {
            Some(found) => found.with_source(told),
            None => Error::internal(told),
        },
    }
}

/// What a state tells a caller, if he can do anything about it.
fn of_state(state: &SqlState, said: &str) -> Option<Error> {
    Some(match *state {
        SqlState::UNIQUE_VIOLATION => taken(),
        SqlState::DISK_FULL => disk_full(),
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::QUERY_CANCELED
        | SqlState::TOO_MANY_CONNECTIONS
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => busy(),
        SqlState::READ_ONLY_SQL_TRANSACTION => {
            Error::unavailable("store_read_only", "the database takes no writes now", LATER)
        }
        SqlState::INSUFFICIENT_PRIVILEGE | SqlState::INVALID_PASSWORD => Error::new(
            Kind::Unavailable,
            "store_forbidden",
            format!("the database refuses: {said}"),
        ),
        SqlState::INVALID_CATALOG_NAME => unreachable(said),
        _ if ends_connection(state) => unreachable("the database is starting, stopping or gone"),
        _ => return None,
    })
}

/// Whether a connection ends with it. Class 57, but for the end of one query: the server is stopping, starting or was told to
/// end the connection. Class 08: the connection broke.
pub(crate) fn ends_connection(state: &SqlState) -> bool {
    *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        || *state != SqlState::QUERY_CANCELED
            && (state.code().starts_with("57") || state.code().starts_with("08"))
}

fn lost() -> Error {
    unreachable("the connection to the database was lost")
}

/// The database can't be reached now.
pub(super) fn unreachable(message: &str) -> Error {
    Error::unavailable("store_unavailable", message, SOON)
}

fn taken() -> Error {
    Error::conflict("already_exists", "there is one with that id already")
}

fn disk_full() -> Error {
    Error::unavailable("disk_full", "the disk that holds the data is full", LATER)
}

fn busy() -> Error {
    Error::unavailable("store_busy", "the database is busy", SOON)
}
