//! The store: synchronous operations in transactions, group-committed, answered only after their commit.
//!
//! An operation is a plain function of a [`Tx`]. It may be run again, so it has no effect but its `Tx`. Writes of all
//! callers queue up for a writer, which runs whatever waits in one transaction, commits once and then answers them all.
//! Whatever is written for one tenant is written one operation after another, on both databases and on any number of
//! replicas. Reads run on snapshots of what is committed.
//!
//! What the store does not know: any feature. SQL of features stands in their `store.rs`.

mod hub;
mod job;
mod listen;
mod log;
mod migrate;
mod postgres;
mod sqlite;
mod transfer;
mod tx;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

pub use crate::database::{FromValue, Postgres, PostgresError, Row, Value};
pub use hub::{Hub, Wake};
pub use log::{Entry, Sequence, chain};
pub use transfer::{Erasure, Tell, transfer};
pub use tx::{SystemTx, Tx};

use crate::clock::{Clock, Time};
pub(crate) use crate::database::vals;
use crate::database::{self, Backend, Db, Lite, Pipe, dialect};
use crate::error::{Error, Result};
use crate::id::TenantId;
use job::{Job, JobOf};
use log::Log;
use postgres::Cluster;
use sqlite::Sqlite;

/// Where the data lies.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a SQLite file in this folder.
    Folder(PathBuf),
    /// In a PostgreSQL database.
    Postgres(Postgres),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Postgres(to) => to.fmt(f),
        }
    }
}

impl From<&Path> for Place {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

/// The data, and who is told of commits. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    engine: Engine,
    place: Place,
    hub: Hub,
    threads: Mutex<Vec<JoinHandle<()>>>,
    erasures: OnceLock<Vec<Erasure>>,
}

enum Engine {
    Sqlite(Sqlite),
    Postgres(Cluster),
}

impl Shared {
    /// Takes no more operations; the writers end behind those that wait.
    fn end(&self) {
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.queue.close(),
            Engine::Postgres(cluster) => cluster.close(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end();
    }
}

impl Store {
    /// Opens (or creates) the database, migrates it and starts the writers. On PostgreSQL, `clock` follows the database's.
    ///
    /// # Errors
    /// `store_*` when it can't be used: the folder is on a network file system or read-only; the file in it is not a
    /// database or is damaged; the server can't be reached or refuses; the data was written by a newer version.
    pub fn open(place: &Place, hub: Hub, clock: &Clock) -> Result<Self> {
        let (engine, threads) = match place {
            Place::Folder(folder) => {
                let (sqlite, threads) = Sqlite::open(folder, &hub, clock)?;
                (Engine::Sqlite(sqlite), threads)
            }
            Place::Postgres(to) => {
                let name = prepare(to, clock)?;
                let (teller, listener) = listen::start(to, &hub, clock, name)?;
                let (cluster, mut threads) = Cluster::open(to, &hub, &teller)?;
                threads.push(listener);
                (Engine::Postgres(cluster), threads)
            }
        };
        Ok(Self(Arc::new(Shared {
            engine,
            place: place.clone(),
            hub,
            threads: Mutex::new(threads),
            erasures: OnceLock::new(),
        })))
    }

    /// Runs `operation` for `tenant` in the next group and answers after its commit. It may be run several times, of which
    /// the last one counts.
    ///
    /// # Errors
    /// What the operation answers, in which case nothing of it is in the database; `Unavailable` when too many wait,
    /// the database can't write now or the store is closed.
    pub async fn write<T, F>(&self, tenant: &TenantId, mut operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let operation = move |tenant: Option<&TenantId>, db: Db<'_>, log: Option<&mut Log>| {
            operation(&mut Tx::new(db, of(tenant)?, log))
        };
        answer(Some(tenant), operation, |job| self.push(job)).await
    }

    /// Runs `operation` for `tenant` on a snapshot of what is committed.
    ///
    /// # Errors
    /// What the operation answers, or a failure of the database.
    pub async fn read<T, F>(&self, tenant: &TenantId, mut operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        match &self.0.engine {
            Engine::Sqlite(sqlite) => sqlite.read(|db| operation(&mut Tx::new(db, tenant, None))),
            Engine::Postgres(cluster) => {
                let operation =
                    move |tenant: Option<&TenantId>, db: Db<'_>, _: Option<&mut Log>| {
                        operation(&mut Tx::new(db, of(tenant)?, None))
                    };
                answer(Some(tenant), operation, |job| cluster.read(job)).await
            }
        }
    }

    /// Runs `operation` on a snapshot over all tenants, for workers that look for what is due.
    ///
    /// # Errors
    /// What the operation answers, or a failure of the database.
    pub async fn survey<T, F>(&self, mut operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut SystemTx<'_>) -> Result<T> + Send + 'static,
    {
        match &self.0.engine {
            Engine::Sqlite(sqlite) => sqlite.read(|db| operation(&mut SystemTx::new(db))),
            Engine::Postgres(cluster) => {
                let operation = move |_: Option<&TenantId>, db: Db<'_>, _: Option<&mut Log>| {
                    operation(&mut SystemTx::new(db))
                };
                answer(None, operation, |job| cluster.read(job)).await
            }
        }
    }

    /// Runs `operation` in a transaction over all tenants, for what belongs to the server itself.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn command<T, F>(&self, mut operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut SystemTx<'_>) -> Result<T> + Send + 'static,
    {
        let operation = move |_: Option<&TenantId>, db: Db<'_>, _: Option<&mut Log>| {
            operation(&mut SystemTx::new(db))
        };
        answer(None, operation, |job| self.push(job)).await
    }

    fn push(&self, job: Box<dyn Job>) {
        match &self.0.engine {
            Engine::Sqlite(sqlite) => sqlite.queue.push(job),
            Engine::Postgres(cluster) => cluster.write(job),
        }
    }

    /// Makes `holder` the one process that does `worker`'s work until `until`, or says that another one is. It may be held
    /// anew before it ends.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn hold(
        &self,
        worker: &'static str,
        holder: &str,
        now: Time,
        until: Time,
    ) -> Result<bool> {
        let holder = holder.to_owned();
        self.command(move |tx| {
            let rows = tx.execute(
                "INSERT INTO workers (worker, holder, until) VALUES ($1, $2, $3)
                 ON CONFLICT (worker) DO UPDATE SET holder = excluded.holder, until = excluded.until
                 WHERE workers.holder = excluded.holder OR workers.until <= $4",
                &vals![worker, holder.as_str(), until, now],
            )?;
            Ok(rows == 1)
        })
        .await
    }

    /// Whether the database can be read, and has not failed to take a write.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn ping(&self) -> Result<()> {
        if let Engine::Sqlite(sqlite) = &self.0.engine {
            sqlite.check()?;
        }
        self.survey(glance).await
    }

    /// What removes all that there is of a tenant, but the head of its log.
    ///
    /// # Errors
    /// `Internal` when the schema can't be read.
    pub fn erasures(&self) -> Result<&[Erasure]> {
        if let Some(known) = self.0.erasures.get() {
            return Ok(known);
        }
        let found = transfer::erasures()?;
        Ok(self.0.erasures.get_or_init(|| found))
    }

    /// Tells those who wait for a commit.
    pub fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// Where the data lies.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Whether row-level security binds this process. SQLite has none.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn is_row_bound(&self) -> Result<Option<bool>> {
        let Engine::Postgres(_) = &self.0.engine else {
            return Ok(None);
        };
        let is_above = |tx: &mut SystemTx<'_>| {
            let mut rows = tx.query(dialect::IS_ABOVE, &[])?;
            rows.first_mut().map_or(Ok(false), |row| row.get(0))
        };
        Ok(Some(!self.survey(is_above).await?))
    }

    /// Bytes that the data takes.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn size(&self) -> Result<u64> {
        match &self.0.engine {
            Engine::Sqlite(sqlite) => Ok(sqlite.size()),
            Engine::Postgres(_) => {
                let size = self.survey(|tx| {
                    let mut rows = tx.query("SELECT pg_database_size(current_database())", &[])?;
                    rows.first_mut().map_or(Ok(0), |row| row.get::<i64>(0))
                });
                Ok(u64::try_from(size.await?).unwrap_or(0))
            }
        }
    }

    /// Lets waiting operations finish, then ends the writers. Later operations are answered `Unavailable`.
    pub fn close(&self) {
        self.0.end();
        let threads = std::mem::take(
            &mut *self
                .0
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

/// Brings the database at `place` to the newest version, and lets `role` serve it (PostgreSQL). Returns how many steps
/// that took.
///
/// # Errors
/// As [`Store::open`].
pub fn migrate(place: &Place, role: Option<&str>) -> Result<usize> {
    match place {
        Place::Folder(folder) => {
            database::prepare(folder)?;
            migrate::sqlite(&Lite::writer(&folder.join("baton.db"))?)
        }
        Place::Postgres(to) => apart(|| {
            let mut pipe = Pipe::connect(to)?;
            let steps = migrate::postgres(&mut pipe)?;
            role.map_or(Ok(()), |role| migrate::grant(&mut pipe, role))?;
            Ok(steps)
        }),
    }
}

/// Runs `work` on a thread of its own: a pipe drives itself, which a thread of a runtime must not.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Error::internal("a thread of the store panicked")))
}

/// Queues an operation and awaits what came of it.
async fn answer<T, F>(
    tenant: Option<&TenantId>,
    operation: F,
    queue: impl FnOnce(Box<dyn Job>),
) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(Option<&TenantId>, Db<'_>, Option<&mut Log>) -> Result<T> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    queue(Box::new(JobOf::new(tenant.cloned(), operation, reply)));
    answer
        .await
        .map_or_else(|_| Err(closed()), |(answer, _)| answer)
}

/// Migrates a PostgreSQL database, sets the clock by it, and finds a name for this process there.
fn prepare(to: &Postgres, clock: &Clock) -> Result<String> {
    apart(|| {
        let mut pipe = Pipe::connect(to)?;
        migrate::postgres(&mut pipe)?;
        transfer::check(&mut Db::new(Backend::Postgres(&mut pipe)))?;
        let (mut rows, _) = pipe.fly(dialect::IS_ABOVE, &[])?;
        if rows.first_mut().map_or(Ok(false), |row| row.get(0))? {
            tracing::warn!(
                "row-level security does not bind this database role; serve with one that is no superuser and has no BYPASSRLS"
            );
        }
        let (mut rows, _) = pipe.fly(dialect::TIME, &[])?;
        clock.follow(
            rows.first_mut()
                .map_or(Ok(clock.steady()), |row| row.get(0))?,
        );
        let (mut rows, _) = pipe.fly("SELECT gen_random_uuid()::text", &[])?;
        rows.first_mut()
            .map_or_else(|| Ok(String::new()), |row| row.get(0))
    })
}

fn of(tenant: Option<&TenantId>) -> Result<&TenantId> {
    tenant.ok_or_else(|| Error::internal("an operation without a tenant"))
}

/// The cheapest query that reads a page of the database.
fn glance(tx: &mut SystemTx<'_>) -> Result<()> {
    tx.query("SELECT 1 FROM tenants LIMIT 1", &[]).map(drop)
}

fn closed() -> Error {
    Error::unavailable(
        "store_closed",
        "the server is shutting down",
        Duration::from_secs(1),
    )
}
