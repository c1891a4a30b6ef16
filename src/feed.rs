//! What changes in a tenant, read from its log once per commit and shared by all who listen in this process: legacy
//! sessions and modern listeners alike. Who misses something reads it from the log; nothing is lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};
use tokio_util::task::TaskTracker;

use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::events;
use crate::handles;
use crate::id::TenantId;
use crate::op::List;
use crate::sessions;

/// Events read at a time.
const PAGE: u32 = 200;
/// Batches that wait for a slow listener; after these it reads the log by itself.
const BACKLOG: usize = 16;
/// Events that somebody who comes back may have missed and still hears of.
const REACH: i64 = 10_000;
/// How long a feed that can't read the log waits before it tries again.
const RETRY: Duration = Duration::from_millis(500);

/// What the events between two numbers of a tenant's log changed.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The number of the last event before these.
    after: i64,
    /// The number of the last of these.
    last: i64,
    changes: Vec<Change>,
    /// Whether the log began anew with these.
    is_anew: bool,
}

/// What an event changed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// The resource at this URI, or the handle that is known by it.
    Resource(String),
    /// A list.
    List(List),
}

/// A change that an event made.
#[derive(Debug)]
pub(crate) struct Change {
    sequence: i64,
    pub(crate) what: What,
    /// The stored sessions that subscribed to the resource. They are read after the event: whoever subscribed before it, on
    /// whatever process, is among them.
    pub(crate) sessions: Option<Arc<HashSet<String>>>,
}

/// The feeds of the tenants that somebody follows.
pub(crate) struct Feeds {
    catalog: Arc<Catalog>,
    tenants: DashMap<TenantId, Sender<Arc<Batch>>>,
    tasks: TaskTracker,
}

impl Feeds {
    pub(crate) fn new(catalog: Arc<Catalog>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            catalog,
            tenants: DashMap::new(),
            tasks,
        })
    }

    /// Follows the tenant of `ctx` from its newest event on: what is committed after this call is heard.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn follow(self: &Arc<Self>, ctx: &Ctx) -> Result<Follower> {
        self.follow_from(ctx, i64::MAX).await
    }

    /// Follows the tenant of `ctx` from the event number `after` on, as far as [`REACH`] goes back.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn follow_from(self: &Arc<Self>, ctx: &Ctx, after: i64) -> Result<Follower> {
        let head = ctx.read(|_, tx| events::head(tx)).await?;
        Ok(Follower {
            catalog: self.catalog.clone(),
            receiver: self.receiver(ctx, head),
            ctx: ctx.clone(),
            position: after.clamp((head - REACH).max(0), head),
            // The feed may be ahead of the number that was read before it was joined.
            behind: true,
        })
    }

    fn receiver(self: &Arc<Self>, ctx: &Ctx, position: i64) -> Receiver<Arc<Batch>> {
        match self.tenants.entry(ctx.tenant().clone()) {
            Entry::Occupied(feed) => feed.get().subscribe(),
            Entry::Vacant(place) => {
                let (sender, receiver) = tokio::sync::broadcast::channel(BACKLOG);
                place.insert(sender.clone());
                let (feeds, ctx) = (Arc::downgrade(self), ctx.clone());
                self.tasks.spawn(run(feeds, ctx, sender, position));
                receiver
            }
        }
    }

    /// Forgets the feed of `tenant`, unless somebody has joined it meanwhile.
    fn forget(&self, tenant: &TenantId) -> bool {
        self.tenants
            .remove_if(tenant, |_, feed| feed.receiver_count() == 0)
            .is_some()
    }
}

/// Reads the log after each commit of the tenant, until nobody follows any more.
async fn run(feeds: Weak<Feeds>, ctx: Ctx, sender: Sender<Arc<Batch>>, mut position: i64) {
    let mut wake = ctx.wake();
    loop {
        let Some(feeds) = feeds.upgrade() else { return };
        let retry = match page(&feeds.catalog, &ctx, position).await {
            Ok((batch, full)) => {
                if batch.last > position || batch.is_anew {
                    position = batch.last;
                    // Nobody there is found out below.
                    let _ = sender.send(Arc::new(batch));
                }
                if full {
                    continue;
                }
                None
            }
            Err(error) => {
                tracing::warn!(error = ?error, "the log can't be read; listeners wait");
                Some(RETRY)
            }
        };
        let again = async {
            match retry {
                Some(pause) => tokio::time::sleep(pause).await,
                None => wake.changed().await,
            }
        };
        tokio::select! {
            () = again => {}
            () = sender.closed() => if feeds.forget(ctx.tenant()) {
                return;
            },
        }
    }
}

/// What the events after number `after` changed, and whether there may be more of them. Where the log has fewer, the tenant was
/// deleted and another one has its name: then it is read from its beginning.
async fn page(catalog: &Arc<Catalog>, ctx: &Ctx, after: i64) -> Result<(Batch, bool)> {
    let catalog = catalog.clone();
    ctx.read(move |_, tx| {
        let mut after = after;
        let mut events = events::after(tx, after, PAGE)?;
        let is_anew = events.is_empty() && events::head(tx)? < after;
        if is_anew {
            after = 0;
            events = events::after(tx, after, PAGE)?;
        }
        let pairs = events.iter().flat_map(|event| {
            let uris = catalog.changed_by(event).into_iter();
            let uris = uris.chain(handles::changed_by(event)).map(What::Resource);
            let list = catalog.list_changed_by(event).map(What::List);
            uris.chain(list).map(|what| (event.sequence, what))
        });
        let pairs: Vec<_> = pairs.collect();
        let uris = pairs.iter().filter_map(|(_, what)| match what {
            What::Resource(uri) => Some(uri.as_str()),
            What::List(_) => None,
        });
        let subscribers = sessions::subscribers(tx, &uris.collect())?;
        let subscribers: HashMap<_, _> = subscribers
            .into_iter()
            .map(|(uri, sessions)| (What::Resource(uri), Arc::new(sessions)))
            .collect();
        let changes = pairs.into_iter().map(|(sequence, what)| Change {
            sequence,
            sessions: subscribers.get(&what).cloned(),
            what,
        });
        let batch = Batch {
            after,
            last: events.last().map_or(after, |event| event.sequence),
            changes: changes.collect(),
            is_anew,
        };
        Ok((batch, events.len() >= PAGE as usize))
    })
    .await
}

/// Hears of the changes of one tenant and remembers how far it has come.
pub(crate) struct Follower {
    catalog: Arc<Catalog>,
    ctx: Ctx,
    receiver: Receiver<Arc<Batch>>,
    position: i64,
    /// Whether the log may hold what the feed does not bring.
    behind: bool,
}

/// The part of a batch that a follower has not heard of yet.
pub(crate) struct News {
    batch: Arc<Batch>,
    after: i64,
}

impl News {
    /// The number of the last event before these.
    pub(crate) fn after(&self) -> i64 {
        self.after
    }

    /// In the order of the log.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Change> {
        let new = |change: &&Change| change.sequence > self.after;
        self.batch.changes.iter().filter(new)
    }
}

impl Follower {
    /// The number of the event up to which it has heard.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    /// What comes next, in order. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A failure of the database, for a follower that has to read the log by itself.
    pub(crate) async fn next(&mut self) -> Result<News> {
        loop {
            let batch = if self.behind {
                let (batch, full) = page(&self.catalog, &self.ctx, self.position).await?;
                self.behind = full;
                Arc::new(batch)
            } else {
                match self.receiver.recv().await {
                    Ok(batch) => batch,
                    Err(RecvError::Lagged(_)) => {
                        self.behind = true;
                        continue;
                    }
                    Err(RecvError::Closed) => return Err(Error::internal("the feed has ended")),
                }
            };
            if batch.is_anew && batch.last < self.position {
                self.position = 0;
            }
            if batch.after > self.position {
                self.behind = true;
            } else if batch.last > self.position {
                let after = std::mem::replace(&mut self.position, batch.last);
                return Ok(News { batch, after });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::app::App;

    struct Setting {
        app: App,
        feeds: Arc<Feeds>,
        ctx: Ctx,
        _folder: tempfile::TempDir,
    }

    fn setting() -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let app = App::on(folder.path());
        Setting {
            feeds: Feeds::new(app.catalog.clone(), TaskTracker::new()),
            ctx: app.system.ctx(TenantId::default_tenant(), "test"),
            app,
            _folder: folder,
        }
    }

    impl Setting {
        async fn dispatch(&self, number: usize) {
            let Value::Object(input) = json!({"description": "x", "task_id": number.to_string()})
            else {
                unreachable!()
            };
            let call = self
                .app
                .catalog
                .call(self.ctx.clone(), "task_dispatch", input);
            call.await.unwrap();
        }
    }

    /// The numbers of the tasks heard of, up to `last`.
    async fn heard(follower: &mut Follower, last: usize) -> Vec<usize> {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&last) {
            let news = tokio::time::timeout(Duration::from_secs(10), follower.next());
            let news = news.await.expect("news come in time").unwrap();
            let tasks = news.changes().filter_map(|change| {
                let What::Resource(uri) = &change.what else {
                    return None;
                };
                uri.strip_prefix("baton://tasks/")?.parse::<usize>().ok()
            });
            numbers.extend(tasks);
            numbers.dedup();
        }
        numbers
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_falls_behind_reads_the_log_and_misses_nothing() {
        let setting = setting();
        let mut slow = setting.feeds.follow(&setting.ctx).await.unwrap();
        let mut quick = setting.feeds.follow(&setting.ctx).await.unwrap();
        let count = 3 * BACKLOG;
        for number in 0..count {
            setting.dispatch(number).await;
            // Each is a batch of its own.
            assert_eq!(heard(&mut quick, number).await, [number]);
        }
        let all: Vec<_> = (0..count).collect();
        assert_eq!(heard(&mut slow, count - 1).await, all);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_joins_while_much_happens_hears_of_all_that_follows() {
        const COUNT: usize = 400;
        let setting = Arc::new(setting());
        let writer = setting.clone();
        let writing = TaskTracker::new().spawn(async move {
            for number in 0..COUNT {
                writer.dispatch(number).await;
            }
        });
        let mut followers = tokio::task::JoinSet::new();
        while !writing.is_finished() && followers.len() < 64 {
            let mut follower = setting.feeds.follow(&setting.ctx).await.unwrap();
            if follower.position < 3 * i64::try_from(COUNT).unwrap() / 4 {
                followers.spawn(async move { heard(&mut follower, COUNT - 1).await });
            }
            tokio::task::yield_now().await;
        }
        writing.await.unwrap();
        assert!(!followers.is_empty());
        while let Some(numbers) = followers.join_next().await {
            let numbers = numbers.unwrap();
            let rest: Vec<_> = (numbers[0]..COUNT).collect();
            assert_eq!(numbers, rest);
        }
    }

    #[tokio::test]
    async fn a_feed_ends_with_its_last_follower() {
        let setting = setting();
        let follower = setting.feeds.follow(&setting.ctx).await.unwrap();
        let other = setting.feeds.follow(&setting.ctx).await.unwrap();
        assert_eq!(setting.feeds.tasks.len(), 1);
        drop((follower, other));
        setting.feeds.tasks.close();
        setting.feeds.tasks.wait().await;
        assert!(setting.feeds.tenants.is_empty());
    }
}
