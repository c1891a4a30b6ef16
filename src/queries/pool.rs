//! Connections to PostgreSQL databases: each tenant's own, as many to one database as its registration says, closed when nobody
//! needs them any more.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Semaphore;

use super::postgres::{After, Connection};
use super::target::Postgres;
use super::{Answer, Ask, PATIENCE, busy};
use crate::clock::{Clock, Time};
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::reach::Reach;

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_mins(1);
/// Connections that are kept for one tenant, and for all.
const KEPT: (usize, usize) = (16, 64);

/// Whose database it is, and what he calls it.
type Key = (TenantId, String);

/// All connections.
pub(super) struct Pools {
    reach: Reach,
    authorities: Option<PathBuf>,
    clock: Clock,
    pools: DashMap<Key, Arc<Pool>>,
    idle: Mutex<Vec<Idle>>,
}

/// Who may connect to one database.
struct Pool {
    to: Postgres,
    places: Arc<Semaphore>,
}

/// A connection that waits for the next query.
struct Idle {
    key: Key,
    pool: Arc<Pool>,
    connection: Connection,
    since: Time,
}

impl Pools {
    pub(super) fn new(reach: Reach, authorities: Option<PathBuf>, clock: Clock) -> Self {
        Self {
            reach,
            authorities,
            clock,
            pools: DashMap::new(),
            idle: Mutex::default(),
        }
    }

    /// Makes a statement, over a connection that is there or a new one.
    pub(super) async fn ask(
        &self,
        (tenant, name): (&TenantId, &str),
        to: &Postgres,
        ask: &Ask,
    ) -> Result<Answer> {
        let key = (tenant.clone(), name.to_owned());
        let pool = self.pool(&key, to);
        let place = tokio::time::timeout(PATIENCE, pool.places.acquire()).await;
        let place = place.map_err(|_| busy())?.map_err(Error::internal)?;
        let mut kept = self.take(&pool);
        let answer = loop {
            let was_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::open(&self.reach, self.authorities.as_deref(), to).await?,
            };
            let (answer, after) = connection.ask(to, ask).await;
            match after {
                // It ended while nobody used it, as all do when their database is started anew.
                After::Unbegun if was_kept => continue,
                After::Clean => self.keep(key, &pool, connection),
                After::Unbegun | After::Over => {}
            }
            break answer;
        };
        drop(place);
        answer
    }

    /// Where connections of `key` are; those that lead elsewhere by now are closed.
    fn pool(&self, key: &Key, to: &Postgres) -> Arc<Pool> {
        let make = || {
            Arc::new(Pool {
                to: to.clone(),
                places: Arc::new(Semaphore::new(to.connections)),
            })
        };
        let mut known = self.pools.entry(key.clone()).or_insert_with(make);
        if known.to == *to {
            return known.clone();
        }
        *known = make();
        let pool = known.clone();
        // Whoever keeps a connection locks the other way round.
        drop(known);
        self.lock()
            .retain(|idle| idle.key != *key || Arc::ptr_eq(&idle.pool, &pool));
        pool
    }

    fn take(&self, pool: &Arc<Pool>) -> Option<Connection> {
        let mut idle = self.lock();
        loop {
            let at = idle
                .iter()
                .rposition(|idle| Arc::ptr_eq(&idle.pool, pool))?;
            let connection = idle.remove(at).connection;
            if !connection.is_closed() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next query, unless what it leads to has changed or there are too many: the oldest goes.
    fn keep(&self, key: Key, pool: &Arc<Pool>, connection: Connection) {
        let mut idle = self.lock();
        let known = self.pools.get(&key).map(|known| known.clone());
        if !known.is_some_and(|known| Arc::ptr_eq(&known, pool)) {
            return;
        }
        let own = idle.iter().filter(|idle| idle.key.0 == key.0).count();
        let oldest = if own >= KEPT.0 {
            idle.iter().position(|idle| idle.key.0 == key.0)
        } else {
            (idle.len() >= KEPT.1).then_some(0)
        };
        let gone = oldest.map(|at| idle.remove(at));
        idle.push(Idle {
            key,
            pool: pool.clone(),
            connection,
            since: self.clock.steady(),
        });
        drop((idle, gone));
    }

    /// Closes what leads to `name`.
    pub(super) fn close(&self, tenant: &TenantId, name: &str) {
        let key = (tenant.clone(), name.to_owned());
        self.pools.remove(&key);
        self.lock().retain(|idle| idle.key != key);
    }

    /// Closes what nobody uses, and all of tenants that are not `good`.
    pub(super) fn sweep(&self, good: impl Fn(&TenantId) -> bool) {
        let now = self.clock.steady();
        self.lock().retain(|idle| {
            !idle.connection.is_closed() && now.since(idle.since) < IDLE && good(&idle.key.0)
        });
        // Whoever has neither a connection nor asks for one is only remembered here.
        self.pools
            .retain(|key, pool| good(&key.0) && Arc::strong_count(pool) > 1);
    }

    /// Connections that are kept.
    pub(super) fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
