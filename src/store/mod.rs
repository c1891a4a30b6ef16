//! The store: synchronous operations in transactions, group-committed, answered only after their commit.
//!
//! An operation is a plain function of a [`Tx`]. It may be run again, so it has no effect but its `Tx`. Writes of all
//! callers queue up for one writer, which runs whatever waits in one transaction, each operation in its savepoint,
//! commits once and then answers them all. Reads run at once on read-only connections.
//!
//! What the store does not know: any feature. SQL of features stands in their `store.rs`.

mod dialect;
mod hub;
mod job;
mod log;
mod migrate;
mod place;
mod sqlite;
mod tx;
mod value;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

pub use hub::{Hub, Wake};
pub use log::{Entry, Sequence, chain};
pub use tx::{SystemTx, Tx};
pub(crate) use value::vals;
pub use value::{FromValue, Row, Value};

use crate::error::{Error, Result};
use crate::id::TenantId;
use job::{JobOf, Queue};
use sqlite::Readers;

/// Operations that may wait for the writer; one more is answered `Unavailable`.
const QUEUE: usize = 8_192;

/// Where the data lies, and who is told of commits. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    queue: Arc<Queue>,
    readers: Readers,
    path: PathBuf,
    hub: Hub,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens (or creates) the database in the folder `data`, migrates it and starts the writer.
    ///
    /// # Errors
    /// `store_*` when the folder can't be used: it is on a network file system, read-only, or the file in it is not a
    /// database, is damaged, or was written by a newer version.
    pub fn open(data: &Path, hub: Hub) -> Result<Self> {
        place::prepare(data)?;
        let path = data.join("baton.db");
        let mut connection = sqlite::open_writer(&path)?;
        migrate::migrate(&mut connection)?;
        let queue = Queue::new(QUEUE);
        let readers = Readers::new(path.clone());
        let (jobs, wakes) = (queue.clone(), hub.clone());
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || sqlite::run_writer(connection, &jobs, &wakes))
            .map_err(Error::internal)?;
        Ok(Self(Arc::new(Shared {
            queue,
            readers,
            path,
            hub,
            writer: Mutex::new(Some(writer)),
        })))
    }

    /// Runs `operation` for `tenant` in the next group and answers after its commit.
    ///
    /// # Errors
    /// What the operation answers, in which case nothing of it is in the database; `Unavailable` when too many wait,
    /// the disk is full or the store is closed.
    pub async fn write<T, F>(&self, tenant: &TenantId, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.0
            .queue
            .push(Box::new(JobOf::new(tenant.clone(), operation, reply)));
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Runs `operation` for `tenant` on a snapshot of what is committed.
    ///
    /// # Errors
    /// What the operation answers, or a failure of the database.
    #[expect(
        clippy::unused_async,
        reason = "SQLite is read on the spot, others are not"
    )]
    pub async fn read<T, F>(&self, tenant: &TenantId, mut operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.0
            .readers
            .read(|db| operation(&mut Tx::reading(db, tenant)))
    }

    /// Runs `operation` on a snapshot over all tenants, for workers that look for what is due.
    ///
    /// # Errors
    /// What the operation answers, or a failure of the database.
    #[expect(
        clippy::unused_async,
        reason = "SQLite is read on the spot, others are not"
    )]
    pub async fn survey<T, F>(&self, mut operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut SystemTx<'_>) -> Result<T> + Send + 'static,
    {
        self.0.readers.read(|db| operation(&mut SystemTx::new(db)))
    }

    /// Whether the database can be read.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn ping(&self) -> Result<()> {
        self.survey(glance).await
    }

    /// Tells those who wait for a commit.
    pub fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Lets waiting operations finish, then ends the writer. Later writes are answered `Unavailable`.
    pub fn close(&self) {
        self.0.queue.close();
        let writer = self
            .0
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
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
