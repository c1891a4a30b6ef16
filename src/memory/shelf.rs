//! The indexes that this process has in memory: one per tenant that searches, made from the database when it is first
//! needed, and brought up to date by the log before each search. So a search finds what any process committed before it
//! began, and a restart loses nothing. The tenants that searched longest ago give way when there are too many.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dashmap::DashMap;

use super::index::{Found, Index};
use super::{Query, store};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::events;
use crate::id::{MemoryId, TenantId};

/// Bytes that all indexes may take together, about. One tenant's alone may take more.
const ROOM: usize = 256 << 20;
/// Entries read at a time.
const PAGE: u32 = 2_000;
/// Entries from which on a search is too long for a thread that serves others.
const MANY: usize = 2_000;
/// The part of [`full_scan`] that the database compares instead.
const FEW: usize = 20;

/// All indexes of this process.
#[derive(Default)]
pub(super) struct Shelf {
    tenants: DashMap<TenantId, Arc<Place>>,
}

#[derive(Default)]
struct Place {
    /// Held by whoever brings the index up to date.
    turn: tokio::sync::Mutex<()>,
    state: RwLock<State>,
    size: AtomicUsize,
    /// When it was last searched, by the steady clock.
    used: AtomicI64,
}

#[derive(Default)]
struct State {
    index: Index,
    /// The event up to which the index knows everything; none when it must be made anew.
    sequence: Option<i64>,
}

impl Shelf {
    /// The entries of the caller's tenant that answer `query` best.
    ///
    /// # Errors
    /// A failure of the database.
    pub(super) async fn search(&self, ctx: &Ctx, query: Query, limit: usize) -> Result<Vec<Found>> {
        let place = self.place(ctx);
        place.catch_up(ctx).await?;
        self.make_room(ctx.tenant());
        let near = place.near(ctx, &query).await?;
        if place.read().index.len() < MANY {
            return Ok(place.read().index.search(&query, &near, limit));
        }
        let search = move || place.read().index.search(&query, &near, limit);
        let found = tokio::task::spawn_blocking(search).await;
        found.map_err(Error::internal)
    }

    fn place(&self, ctx: &Ctx) -> Arc<Place> {
        let place = self.tenants.entry(ctx.tenant().clone()).or_default();
        let now = ctx.clock().steady().as_micros();
        place.used.store(now, Ordering::Relaxed);
        place.clone()
    }

    /// Drops indexes of others than `tenant`, while all together take too much.
    fn make_room(&self, tenant: &TenantId) {
        let size = |place: &Place| place.size.load(Ordering::Relaxed);
        let mut all: usize = self.tenants.iter().map(|entry| size(entry.value())).sum();
        while all > ROOM {
            let others = self.tenants.iter().filter(|entry| entry.key() != tenant);
            let oldest = others.min_by_key(|entry| entry.used.load(Ordering::Relaxed));
            let Some(oldest) = oldest.map(|entry| entry.key().clone()) else {
                return;
            };
            if let Some((_, place)) = self.tenants.remove(&oldest) {
                all -= size(&place).min(all);
            }
        }
    }
}

/// How many entries of a tenant are compared with every query, whatever the database can do.
fn full_scan(ctx: &Ctx) -> usize {
    usize::try_from(ctx.limits().full_scan_threshold).unwrap_or(usize::MAX)
}

impl Place {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the database finds near, when it is that which looks.
    async fn near(&self, ctx: &Ctx, query: &Query) -> Result<Vec<(MemoryId, f64)>> {
        if !self.read().index.is_looked_up() || query.vector.is_none() {
            return Ok(Vec::new());
        }
        // Looking up goes past those that a query does not ask for: when it asks for few, these are compared.
        let most = full_scan(ctx) / FEW;
        let (query, few) = (query.clone(), self.read().index.few(query, most));
        let near = ctx.read(move |_, tx| store::near(tx, &query, few.as_deref()));
        near.await
    }

    /// Makes the index know everything that is committed now.
    async fn catch_up(&self, ctx: &Ctx) -> Result<()> {
        let _turn = self.turn.lock().await;
        if self.read().index.is_worn() {
            self.write().sequence = None;
        }
        loop {
            let known = self.read().sequence;
            let Some(known) = known else {
                self.load(ctx).await?;
                continue;
            };
            let read = ctx.read(move |_, tx| {
                let head = events::head(tx)?;
                if head <= known {
                    return Ok((head, Vec::new()));
                }
                Ok((head, store::news(tx, known, PAGE)?))
            });
            let (head, news) = read.await?;
            if head < known {
                // The tenant was deleted, and another one has its name.
                self.write().sequence = None;
                continue;
            }
            let is_all = u32::try_from(news.len()).is_ok_and(|count| count < PAGE);
            let last = news.last().map_or(head, |news| news.sequence);
            if head > known {
                let mut state = self.write();
                let before = state.index.len();
                for news in news {
                    match news.entry {
                        Some(entry) => state.index.put(entry),
                        None => state.index.remove(&news.id),
                    }
                }
                state.sequence = Some(if is_all { head.max(known) } else { last });
                let most = full_scan(ctx);
                if before <= most && state.index.len() > most {
                    // Perhaps the database looks up so many.
                    state.sequence = None;
                    continue;
                }
                self.size.store(state.index.size(), Ordering::Relaxed);
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// Reads everything anew; whoever searches meanwhile has the index that was. What changes meanwhile is behind the event
    /// that was the last when this began.
    async fn load(&self, ctx: &Ctx) -> Result<()> {
        let most = ctx.limits().full_scan_threshold;
        let begin = ctx.read(move |_, tx| Ok((events::head(tx)?, store::is_looked_up(tx, most)?)));
        let (head, is_looked_up) = begin.await?;
        let mut index = Index::new(is_looked_up);
        let mut after = String::new();
        loop {
            let behind = after.clone();
            let read = ctx.read(move |_, tx| store::load(tx, &behind, PAGE));
            let page = read.await?;
            let is_last = u32::try_from(page.len()).is_ok_and(|count| count < PAGE);
            if let Some(last) = page.last() {
                last.facts.id.as_str().clone_into(&mut after);
            }
            for entry in page {
                index.put(entry);
            }
            if is_last {
                break;
            }
            // SQLite answers at once: others of this thread have their turn between pages.
            tokio::task::yield_now().await;
        }
        self.size.store(index.size(), Ordering::Relaxed);
        *self.write() = State {
            index,
            sequence: Some(head),
        };
        Ok(())
    }
}
