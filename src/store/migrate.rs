//! Migrations: one sequence for both databases, each applied once, in one transaction. A database from a newer version is
//! refused.

use crate::database::{Lite, Pipe, dialect, vals};
use crate::error::{Error, Kind, Result};

/// Version and text; append only.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../migrations/0001_tasks.sql")),
    (2, include_str!("../../migrations/0002_lists.sql")),
    (3, include_str!("../../migrations/0003_workers.sql")),
    (4, include_str!("../../migrations/0004_sessions.sql")),
    (5, include_str!("../../migrations/0005_indexes.sql")),
    (6, include_str!("../../migrations/0006_keys.sql")),
    (7, include_str!("../../migrations/0007_handles.sql")),
    (8, include_str!("../../migrations/0008_conversations.sql")),
    (9, include_str!("../../migrations/0009_limits.sql")),
    (10, include_str!("../../migrations/0010_traces_seals.sql")),
    (11, include_str!("../../migrations/0011_rounds.sql")),
    (12, include_str!("../../migrations/0012_memory.sql")),
    (13, include_str!("../../migrations/0013_tenants.sql")),
    (14, include_str!("../../migrations/0014_tools.sql")),
    (15, include_str!("../../migrations/0015_secrets.sql")),
    (16, include_str!("../../migrations/0016_resources.sql")),
    (17, include_str!("../../migrations/0017_databases.sql")),
    (
        18,
        include_str!("../../migrations/0018_resource_writes.sql"),
    ),
    (19, include_str!("../../migrations/0019_waiting.sql")),
    (20, include_str!("../../migrations/0020_marks.sql")),
    (21, include_str!("../../migrations/0021_stages.sql")),
];

/// What there is besides where the extension is.
const PGVECTOR: &str = include_str!("../../migrations/pgvector.sql");

const CREATE: &str = "CREATE TABLE IF NOT EXISTS migrations (version BIGINT NOT NULL PRIMARY KEY)";
const VERSION: &str = "SELECT coalesce(max(version), 0) FROM migrations";
const RECORD: &str = "INSERT INTO migrations (version) VALUES ($1)";

/// Brings a SQLite database to the newest version. Several processes may do so at once: the first one does the work.
/// Returns how many steps were taken.
pub(super) fn sqlite(lite: &Lite) -> Result<usize> {
    lite.run("BEGIN IMMEDIATE")?;
    let migrated = in_sqlite(lite).and_then(|steps| lite.run("COMMIT").map(|()| steps));
    if migrated.is_err() && !lite.is_autocommit() {
        lite.run("ROLLBACK")?;
    }
    migrated
}

fn in_sqlite(lite: &Lite) -> Result<usize> {
    lite.run(CREATE)?;
    let mut rows = lite.query(VERSION, &[])?;
    let version = rows.first_mut().map_or(Ok(0), |row| row.get(0))?;
    let steps = behind(version)?;
    for (number, sql) in steps {
        lite.run_all(sql)?;
        lite.execute(RECORD, &vals![*number])?;
    }
    Ok(steps.len())
}

/// Lets `role` do everything that a server does.
pub(super) fn grant(pipe: &mut Pipe, role: &str) -> Result<()> {
    let role = role.replace('"', "\"\"");
    pipe.run_all(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO \"{role}\""
    ))
}

/// Brings a PostgreSQL database to the newest version; one process at a time does so. A database that is up to date is
/// only looked at, so that a role without the right to change it can serve it. Returns how many steps were taken.
pub(super) fn postgres(pipe: &mut Pipe) -> Result<usize> {
    let migrated = if behind(version(pipe)?)?.is_empty() {
        Ok(0)
    } else {
        whole(pipe, in_postgres)
    };
    let steps = migrated.map_err(|error| match error.code() {
        "store_forbidden" => Error::new(
            Kind::Unavailable,
            "store_outdated",
            "the database has not the newest tables, and this role may not make them; run `baton migrate` with a role that may",
        )
        .with_source(error),
        _ => error,
    })?;
    if wants_pgvector(pipe)?
        && let Err(error) = whole(pipe, with_pgvector)
    {
        if pipe.is_lost() {
            return Err(error);
        }
        tracing::warn!(error = ?error, "memories are searched without pgvector, which the database has: run `baton migrate` with a role that may change tables");
    }
    Ok(steps)
}

/// Runs `change` in a transaction, which is given up when it fails.
fn whole<T>(pipe: &mut Pipe, change: impl FnOnce(&mut Pipe) -> Result<T>) -> Result<T> {
    pipe.begin("BEGIN");
    let changed = change(pipe);
    if changed.is_err() && !pipe.is_lost() {
        pipe.reset("ROLLBACK");
        pipe.flush()?;
    }
    changed
}

/// Whether the database has the extension, and nothing of ours that uses it.
fn wants_pgvector(pipe: &mut Pipe) -> Result<bool> {
    Ok(says(pipe, dialect::KNOWS_PGVECTOR)? && !says(pipe, dialect::HAS_PGVECTOR)?)
}

/// What a query that is a question answers.
fn says(pipe: &mut Pipe, question: &'static str) -> Result<bool> {
    let (mut rows, _) = pipe.fly(question, &[])?;
    rows.first_mut().map_or(Ok(false), |row| row.get(0))
}

fn with_pgvector(pipe: &mut Pipe) -> Result<()> {
    pipe.fly(dialect::LOCK_SCHEMA, &[])?;
    if wants_pgvector(pipe)? {
        tracing::info!("the database has pgvector: memories get an index of where they point");
        pipe.run_all(dialect::MIGRATING)?;
        pipe.run_all(PGVECTOR)?;
    }
    pipe.defer_text("COMMIT");
    pipe.flush().map(drop)
}

fn in_postgres(pipe: &mut Pipe) -> Result<usize> {
    pipe.fly(dialect::LOCK_SCHEMA, &[])?;
    let steps = behind(version(pipe)?)?;
    pipe.run_all(CREATE)?;
    pipe.run_all(dialect::MIGRATING)?;
    for (number, sql) in steps {
        pipe.run_all(&dialect::migration_for_postgres(sql))?;
        pipe.fly(RECORD, &vals![*number])?;
    }
    pipe.run_all(dialect::WALL)?;
    pipe.defer_text("COMMIT");
    pipe.flush()?;
    Ok(steps.len())
}

fn version(pipe: &mut Pipe) -> Result<i64> {
    if !says(pipe, "SELECT to_regclass('migrations') IS NOT NULL")? {
        return Ok(0);
    }
    let (mut rows, _) = pipe.fly(VERSION, &[])?;
    rows.first_mut().map_or(Ok(0), |row| row.get(0))
}

/// The migrations that a database of this version lacks.
fn behind(version: i64) -> Result<&'static [(i64, &'static str)]> {
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
    let known = MIGRATIONS.partition_point(|(number, _)| *number <= version);
    Ok(&MIGRATIONS[known..])
}
