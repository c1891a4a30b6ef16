//! The calls that this process answers, counted by tenant: how many, how many were refused or failed, how long they took.
//! A call costs two looks at the clock and a few additions. Who may see the counts is `tenants`'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::{Clock, Time};
use crate::error::{Kind, Result};
use crate::id::TenantId;

/// Tenants that are counted; of those that come later, nothing is.
const TENANTS: usize = 10_000;
/// Buckets of durations: four for each doubling, up to 2^27 microseconds, which is two minutes.
const BUCKETS: usize = 104;

/// The counts of every tenant.
pub struct Meter {
    tenants: DashMap<TenantId, Arc<Counts>>,
    clock: Clock,
    since: Time,
}

struct Counts {
    calls: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    limited: AtomicU64,
    took: [AtomicU32; BUCKETS],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            calls: AtomicU64::default(),
            refused: AtomicU64::default(),
            failed: AtomicU64::default(),
            limited: AtomicU64::default(),
            took: std::array::from_fn(|_| AtomicU32::default()),
        }
    }
}

/// A call that goes on. One that is withdrawn is not counted.
pub struct Measure {
    counts: Option<Arc<Counts>>,
    clock: Clock,
    /// `None` for a call that may wait for something: how long it takes tells nothing of the server.
    begun: Option<Time>,
}

/// The calls of a tenant since a process began, as that process answered them.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Calls {
    /// Since when this process counts
    since: Time,
    /// Calls that were answered
    count: u64,
    /// Of these, refused: what was asked for was wrong, unknown, forbidden or did not fit
    refused: u64,
    /// Of these, refused by a limit
    limited: u64,
    /// Of these, not done though nothing was wrong with them
    failed: u64,
    /// How long those took that did not wait for anything, in milliseconds
    latency_ms: Latency,
}

/// Within how many milliseconds so many of a hundred calls were answered, within a fifth.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Latency {
    /// Half of them
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    /// 90
    #[serde(skip_serializing_if = "Option::is_none")]
    p90: Option<f64>,
    /// 99
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
}

/// The bucket of a duration.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < 4 {
        return usize::try_from(micros).unwrap_or(0);
    }
    let doublings = micros.ilog2();
    let quarter = (micros >> (doublings - 2)) & 3;
    let index = u64::from(doublings - 1) * 4 + quarter;
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The microseconds below which the durations of a bucket are.
fn above(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    if next < 4 {
        return next;
    }
    (4 + next % 4) << (next / 4 - 1)
}

impl Meter {
    /// Counts from now on.
    pub fn new(clock: &Clock) -> Self {
        Self {
            tenants: DashMap::new(),
            clock: clock.clone(),
            since: clock.now(),
        }
    }

    /// Begins to count a call of `tenant`, which may wait for something or not.
    pub fn begin(&self, tenant: &TenantId, waits: bool) -> Measure {
        let known = self.tenants.get(tenant).map(|counts| counts.clone());
        let counts = known.or_else(|| {
            let is_full = self.tenants.len() >= TENANTS;
            let counts = || self.tenants.entry(tenant.clone()).or_default().clone();
            (!is_full).then(counts)
        });
        Measure {
            counts,
            clock: self.clock.clone(),
            begun: (!waits).then(|| self.clock.steady()),
        }
    }

    /// Forgets what it counted of a tenant.
    pub fn forget(&self, tenant: &TenantId) {
        self.tenants.remove(tenant);
    }

    /// What was counted of a tenant.
    pub fn calls(&self, tenant: &TenantId) -> Calls {
        let counts = self.tenants.get(tenant).map(|counts| counts.clone());
        let counts = counts.unwrap_or_default();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Calls {
            since: self.since,
            count: load(&counts.calls),
            refused: load(&counts.refused),
            limited: load(&counts.limited),
            failed: load(&counts.failed),
            latency_ms: counts.latency(),
        }
    }
}

impl Counts {
    fn latency(&self) -> Latency {
        let took = self.took.iter();
        let took: Vec<u64> = took
            .map(|count| count.load(Ordering::Relaxed).into())
            .collect();
        let all: u64 = took.iter().sum();
        let within = |percent: u64| {
            let enough = (all * percent).div_ceil(100);
            let mut seen = 0;
            let found = took.iter().position(|count| {
                seen += count;
                seen >= enough
            });
            let micros = above(found.filter(|_| all > 0)?);
            Some(Duration::from_micros(micros).as_secs_f64() * 1e3)
        };
        Latency {
            p50: within(50),
            p90: within(90),
            p99: within(99),
        }
    }
}

impl Measure {
    /// Counts the call, now that it is answered so.
    pub fn end<T>(self, outcome: &Result<T>) {
        let Some(counts) = self.counts else { return };
        let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        add(&counts.calls);
        match outcome.as_ref().map_err(crate::error::Error::kind) {
            Ok(_) => 0,
            Err(Kind::Limited) => add(&counts.limited),
            Err(Kind::Unavailable | Kind::Internal) => add(&counts.failed),
            Err(_) => add(&counts.refused),
        };
        if let Some(begun) = self.begun {
            let took = self.clock.steady().since(begun);
            counts.took[bucket(took)].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn durations_fall_into_buckets_without_gaps() {
        let mut last = 0;
        for micros in 0..200_000 {
            let bucket = bucket(Duration::from_micros(micros));
            assert!(bucket == last || bucket == last + 1, "{micros}");
            assert!(micros < above(bucket), "{micros}");
            assert!(bucket == 0 || micros >= above(bucket - 1), "{micros}");
            last = bucket;
        }
        assert_eq!(bucket(Duration::from_hours(1)), BUCKETS - 1);
    }

    #[test]
    fn calls_are_counted_by_how_they_ended_and_how_long_they_took() {
        let clock = Clock::manual(Time::from_micros(0));
        let meter = Meter::new(&clock);
        let acme: TenantId = "acme".parse().unwrap();
        assert!(meter.calls(&acme).latency_ms.p50.is_none());
        for number in 0..100 {
            let call = meter.begin(&acme, false);
            let millis = if number < 95 { 10 } else { 1_000 };
            clock.advance(Duration::from_millis(millis));
            let limited = Error::new(Kind::Limited, "rate_limited", "slow down");
            call.end(&if number == 0 { Err(limited) } else { Ok(()) });
        }
        let waits = meter.begin(&acme, true);
        clock.advance(Duration::from_mins(1));
        waits.end(&Err::<(), _>(Error::internal("a fault")));
        let calls = meter.calls(&acme);
        assert_eq!((calls.count, calls.limited, calls.failed), (101, 1, 1));
        let [p50, p90, p99] = [
            calls.latency_ms.p50,
            calls.latency_ms.p90,
            calls.latency_ms.p99,
        ]
        .map(|millis| millis.unwrap());
        assert!((10.0..12.5).contains(&p50), "{p50}");
        assert!((p50 - p90).abs() < f64::EPSILON, "{p90}");
        assert!((1_000.0..1_250.0).contains(&p99), "{p99}");
        meter.forget(&acme);
        assert_eq!(meter.calls(&acme).count, 0);
    }
}
