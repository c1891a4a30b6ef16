//! Calls a second: one bucket for each caller, as many calls at once as in a second.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use governor::clock::Clock as Pace;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, StateStore};
use governor::{Quota, RateLimiter};

use super::Key;
use crate::clock::{Clock, Time};

/// The clock of leases and timeouts, as the buckets read it.
#[derive(Clone)]
pub(super) struct Steady(pub(super) Clock);

impl Pace for Steady {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.steady().since(Time::from_micros(0))
    }
}

/// When each bucket will be full again, where it can be looked at: governor's own stores only say yes or no.
#[derive(Clone, Default)]
struct Levels(Arc<DashMap<Key, InMemoryState>>);

impl Levels {
    /// When the bucket of `key` is full again, since the limiter was made.
    fn look(&self, key: &Key) -> Duration {
        if !self.0.contains_key(key) {
            return Duration::ZERO;
        }
        // It is refused, so it changes nothing.
        let seen = self.measure_and_replace(key, Err::<((), Nanos), _>);
        seen.err().flatten().map_or(Duration::ZERO, Into::into)
    }
}

impl StateStore for Levels {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, measure)
    }
}

impl ShrinkableKeyedStateStore<Key> for Levels {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.retain_recent(drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(&*self.0);
    }

    fn len(&self) -> usize {
        ShrinkableKeyedStateStore::len(&*self.0)
    }

    fn is_empty(&self) -> bool {
        ShrinkableKeyedStateStore::is_empty(&*self.0)
    }
}

/// The buckets of everybody of whom a rate is the same.
pub(super) struct Buckets {
    limiter: RateLimiter<Key, Levels, Steady, NoOpMiddleware<Duration>>,
    levels: Levels,
    clock: Steady,
    begun: Duration,
    most: NonZeroU32,
}

impl Buckets {
    /// `None` for no calls at all, which is no rate.
    pub(super) fn new(most: u32, clock: &Steady) -> Option<Self> {
        let most = NonZeroU32::new(most)?;
        let levels = Levels::default();
        Some(Self {
            limiter: RateLimiter::new(Quota::per_second(most), levels.clone(), clock.clone()),
            levels,
            begun: clock.now(),
            clock: clock.clone(),
            most,
        })
    }

    pub(super) fn most(&self) -> u32 {
        self.most.get()
    }

    /// Takes a call out of the bucket of `key`, or says when there will be one in it.
    pub(super) fn spend(&self, key: &Key) -> Result<(), Duration> {
        let refused = self.limiter.check_key(key);
        refused.map_err(|refused| refused.wait_time_from(self.clock.now()))
    }

    /// How many calls are missing in the bucket of `key`.
    pub(super) fn used(&self, key: &Key) -> u32 {
        let now = self.clock.now().saturating_sub(self.begun);
        let missing = self.levels.look(key).saturating_sub(now);
        let each = Duration::from_secs(1) / self.most.get();
        let used = missing.as_nanos().div_ceil(each.as_nanos().max(1));
        u32::try_from(used).unwrap_or(u32::MAX).min(self.most())
    }

    /// How many calls are missing in the emptiest bucket.
    pub(super) fn busiest(&self) -> u32 {
        let keys: Vec<Key> = self.levels.0.iter().map(|it| it.key().clone()).collect();
        keys.iter().map(|key| self.used(key)).max().unwrap_or(0)
    }

    pub(super) fn sweep(&self) {
        self.limiter.retain_recent();
    }
}
