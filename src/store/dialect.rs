//! What differs between databases: how they report errors.

use std::time::Duration;

use rusqlite::ErrorCode;

use crate::error::{Error, Kind};

/// A database error as a caller should see it.
pub(super) fn error(error: rusqlite::Error) -> Error {
    let soon = Duration::from_secs(1);
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => Error::new(
            Kind::Conflict,
            "already_exists",
            "there is one with that id already",
        )
        .with_source(error),
        Some(ErrorCode::DiskFull) => Error::unavailable(
            "disk_full",
            "the disk that holds the data is full",
            Duration::from_secs(30),
        )
        .with_source(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::unavailable("store_busy", "the database is busy", soon).with_source(error)
        }
        Some(ErrorCode::ReadOnly) => Error::unavailable(
            "store_read_only",
            "the data folder is read-only",
            Duration::from_secs(30),
        )
        .with_source(error),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::new(
            Kind::Internal,
            "store_corrupt",
            "the database file is damaged or not a database",
        )
        .with_source(error),
        Some(ErrorCode::CannotOpen) => Error::new(
            Kind::Internal,
            "store_unreadable",
            "the database file can't be opened",
        )
        .with_source(error),
        _ => Error::internal(error),
    }
}
