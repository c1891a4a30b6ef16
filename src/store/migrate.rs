//! Migrations: one sequence, each applied once, in one transaction. A database from a newer version is refused.

use rusqlite::{Connection, TransactionBehavior};

use super::dialect;
use crate::error::{Error, Kind, Result};

/// Version and text; append only.
const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("../../migrations/0001_tasks.sql"))];

/// Brings the database to the newest version. Several processes may do so at once: the first one does the work.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(dialect::error)?;
    let version: i64 = transaction
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS migrations (version BIGINT NOT NULL PRIMARY KEY)",
        )
        .and_then(|()| {
            transaction.query_row(
                "SELECT coalesce(max(version), 0) FROM migrations",
                [],
                |row| row.get(0),
            )
        })
        .map_err(dialect::error)?;
    let newest = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if version > newest {
        return Err(Error::new(
            Kind::Unavailable,
            "store_newer",
            format!(
                "the database has version {version}, this program knows {newest}; use a newer baton"
            ),
        ));
    }
    for (number, sql) in MIGRATIONS.iter().filter(|(number, _)| *number > version) {
        transaction
            .execute_batch(sql)
            .and_then(|()| {
                transaction.execute("INSERT INTO migrations (version) VALUES (?1)", [number])
            })
            .map_err(dialect::error)?;
    }
    transaction.commit().map_err(dialect::error)
}
