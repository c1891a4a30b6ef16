//! Queries of databases that tenants name: one statement each, which only reads unless it may write, with bounded rows, bytes
//! and time. What a database is registered as, and who may query it, is not known here.
//!
//! `statement` says which statements may be made; `target` reads addresses of PostgreSQL, `pool` has the connections,
//! `postgres` asks over them, `values` are what goes over the wire. SQLite files are opened by a process apart: `apart` is the
//! server's side of it, `lite` the other. `schema` describes what is in a database.

mod apart;
mod lite;
mod pool;
mod postgres;
mod schema;
mod statement;
mod target;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;

pub use apart::File;
pub use lite::serve;
use pool::Pools;
pub use schema::{Description, Table};
pub use target::{Postgres, parted};

/// Connections to one database at most, and as many as there are if nothing is said.
pub const POOL: (usize, usize) = (16, 4);
/// How long a query waits for its place.
const PATIENCE: Duration = Duration::from_secs(5);

/// A statement and what it may take.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    /// One statement.
    pub sql: String,
    /// What `$1` … stand for.
    pub parameters: Vec<Value>,
    /// Whether it may change something.
    pub writes: bool,
    /// What it may take.
    pub bounds: Bounds,
}

/// What a query may take.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Bounds {
    /// Rows of the answer.
    pub rows: usize,
    /// Bytes of the answer, about.
    pub bytes: usize,
    /// Milliseconds.
    pub millis: u64,
}

impl Bounds {
    const fn time(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// What came of a query.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What each value of a row is.
    pub columns: Vec<Column>,
    /// The rows, a value for each column.
    pub rows: Vec<Vec<Value>>,
    /// Whether there are more rows.
    pub has_more: bool,
    /// How many rows were changed, by what may change some.
    pub changed: Option<u64>,
}

/// One column of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Column {
    /// Its name
    pub name: String,
    /// Its type as the database calls it; empty where it says none
    #[serde(rename = "type")]
    pub kind: String,
}

/// Gathers rows within bounds.
struct Rows {
    answer: Answer,
    bounds: Bounds,
    bytes: usize,
}

impl Rows {
    fn new(columns: Vec<Column>, bounds: Bounds) -> Self {
        let bytes = columns.iter().map(|column| column.name.len() + 24).sum();
        let answer = Answer {
            columns,
            ..Answer::default()
        };
        Self {
            answer,
            bounds,
            bytes,
        }
    }

    /// Takes a row, if there is room for it.
    fn take(&mut self, row: Vec<Value>) -> std::result::Result<(), Fault> {
        self.bytes += row.iter().map(size).sum::<usize>();
        if self.bytes > self.bounds.bytes && self.answer.rows.is_empty() {
            return Err(Fault::TooLarge);
        }
        let fits = self.bytes <= self.bounds.bytes && self.answer.rows.len() < self.bounds.rows;
        if self.answer.has_more || !fits {
            self.answer.has_more = true;
        } else {
            self.answer.rows.push(row);
        }
        Ok(())
    }
}

/// Bytes of a value as JSON, about.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 3,
        Value::Array(values) => 2 + values.iter().map(size).sum::<usize>(),
        Value::Object(fields) => {
            let fields = fields.iter();
            2 + fields
                .map(|(name, value)| name.len() + 4 + size(value))
                .sum::<usize>()
        }
        _ => 8,
    }
}

/// Why a query came to nothing. It says nothing of where the database is, and who asks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Fault {
    /// The statement may not be made.
    Refused(String),
    /// The database says that something is wrong with it.
    Failed(String),
    /// One row is more than an answer may be.
    TooLarge,
    /// It ran for longer than it may.
    Late(u64),
    /// It took more memory than it may, and was ended.
    Memory,
    /// So many parameters were given, and so many are wanted.
    Miscounted(usize, usize),
    /// The file is larger now than it may become.
    Full,
    /// There is no such file.
    Missing,
    /// The file is no database, or can't be used.
    Unusable(String),
    /// Somebody else writes.
    Busy,
}

impl Fault {
    /// Of what reads only.
    fn changes() -> Self {
        Self::Refused("it changes something; say write: true, if you may".to_owned())
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) => Self::invalid(
                "query_refused",
                format!("the statement may not be made here: {why}"),
            ),
            Fault::Failed(said) => {
                Self::invalid("query_failed", format!("the database says: {said}"))
            }
            Fault::TooLarge => Self::new(
                Kind::Limited,
                "query_too_large",
                "a row of it is larger than an answer may be; select fewer columns, or substr() of them",
            ),
            Fault::Late(millis) => {
                let message = format!(
                    "it ran longer than {millis} ms; ask for less, or give it more timeout_seconds"
                );
                Self::new(Kind::Limited, "query_timeout", message)
            }
            Fault::Memory => {
                let message = "it took more memory than a query may; ask for less, or sort and join less of it";
                Self::new(Kind::Limited, "query_too_large", message)
            }
            Fault::Miscounted(given, wanted) => {
                let message = format!("{given} are given, and the statement has {wanted}");
                Self::invalid_at("/parameters", message)
            }
            Fault::Full => {
                let message =
                    "max_storage_bytes of this tenant, or what a database may be large, is reached";
                Self::new(Kind::Limited, "quota_exceeded", message)
            }
            Fault::Missing => Self::not_found(
                "unknown_file",
                "there is no such file; a query with write makes one",
            ),
            Fault::Unusable(why) => Self::new(
                Kind::Unavailable,
                "database_unusable",
                format!("the file can't be used: {why}"),
            ),
            Fault::Busy => {
                let message = "somebody else writes to the database; come back in a moment";
                Self::unavailable("queries_busy", message, Duration::from_secs(1))
            }
        }
    }
}

/// What queries databases. Cheap to clone.
#[derive(Clone)]
pub struct Queries(Arc<Inner>);

struct Inner {
    /// For all queries that run at a time.
    places: Arc<Semaphore>,
    /// For those of one tenant: half of all, so that others find a place.
    shares: DashMap<TenantId, Arc<Semaphore>>,
    share: usize,
    pools: Pools,
    program: PathBuf,
}

/// A place among the queries that run.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Queries {
    /// Queries of databases within the reach of `config`. Over TLS the authorities of the machine are trusted, and those that it
    /// names; its program opens SQLite files.
    pub fn new(config: &Config, clock: &Clock) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let places = (4 * cores).clamp(8, 64);
        Self(Arc::new(Inner {
            places: Arc::new(Semaphore::new(places)),
            shares: DashMap::new(),
            share: places / 2,
            pools: Pools::new(config.reach.clone(), config.ca_cert.clone(), clock.clone()),
            program: config.program.clone(),
        }))
    }

    /// Asks a PostgreSQL database, which the tenant calls `name`.
    ///
    /// # Errors
    /// `query_refused`, `query_failed`, `query_timeout`, `query_too_large`, `queries_busy`, `address_refused`,
    /// `database_unusable`; `outcome_unknown` when a change may have been made.
    pub async fn postgres(
        &self,
        tenant: &TenantId,
        name: &str,
        to: &Postgres,
        ask: &Ask,
    ) -> Result<Answer> {
        statement::check(statement::Dialect::Postgres, &ask.sql, ask.writes)?;
        let _place = self.place(tenant).await?;
        self.0.pools.ask((tenant, name), to, ask).await
    }

    /// Asks a SQLite file.
    ///
    /// # Errors
    /// As [`Queries::postgres`]; `unknown_file`, `quota_exceeded`.
    pub async fn sqlite(&self, tenant: &TenantId, file: &File, ask: &Ask) -> Result<Answer> {
        statement::check(statement::Dialect::Sqlite, &ask.sql, ask.writes)?;
        let _place = self.place(tenant).await?;
        apart::ask(&self.0.program, file, ask).await
    }

    /// Lets go of the connections to what `tenant` calls `name`. Those in use are closed when they come back.
    pub fn close(&self, tenant: &TenantId, name: &str) {
        self.0.pools.close(tenant, name);
    }

    /// Lets go of connections that nobody has used for a while, and of all of tenants that are not `good` any more.
    pub fn sweep(&self, good: impl Fn(&TenantId) -> bool) {
        self.0.pools.sweep(good);
        let share = self.0.share;
        let is_used = |share: &Semaphore, most: usize| share.available_permits() < most;
        self.0
            .shares
            .retain(|_, own| is_used(own, share) || Arc::strong_count(own) > 1);
    }

    /// Connections that are open and not in use.
    pub fn idle(&self) -> usize {
        self.0.pools.idle()
    }

    async fn place(&self, tenant: &TenantId) -> Result<Place> {
        let own = self.0.shares.entry(tenant.clone());
        let own = own
            .or_insert_with(|| Arc::new(Semaphore::new(self.0.share)))
            .clone();
        let both = async {
            Ok::<_, tokio::sync::AcquireError>((
                own.acquire_owned().await?,
                self.0.places.clone().acquire_owned().await?,
            ))
        };
        match tokio::time::timeout(PATIENCE, both).await {
            Ok(place) => place.map_err(Error::internal),
            Err(_) => Err(busy()),
        }
    }
}

fn busy() -> Error {
    let message = "as many queries run as may; come back in a moment";
    Error::unavailable("queries_busy", message, Duration::from_secs(1))
}
