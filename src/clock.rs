//! Time as a handle. [`Clock::Manual`] lets a test own it; nothing else in the crate asks the system for the time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::watch;

/// A moment: microseconds since 1970-01-01T00:00:00Z. Written and read as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

impl Time {
    /// The moment `micros` microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.6}"),
            Err(_) => f.write_str("9999-12-30T22:00:00Z"),
        }
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_microsecond()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            de::Error::custom("a time is RFC 3339 with an offset, for example 2026-11-21T09:30:00Z")
        })
    }
}

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Where the time comes from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clocks.
    System(Arc<Anchor>),
    /// A clock that moves when it is told to.
    Manual(Arc<watch::Sender<Manual>>),
}

/// The wall clock and the monotonic one, read together at start.
#[derive(Debug)]
pub struct Anchor {
    /// Microseconds: what the steady clock showed when `monotonic` was read.
    steady: AtomicI64,
    monotonic: Instant,
}

/// The two readings of a manual clock.
#[derive(Debug, Clone, Copy)]
pub struct Manual {
    wall: Time,
    steady: Time,
}

impl Clock {
    /// The machine's clocks, anchored now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clocks"
    )]
    pub fn system() -> Self {
        Self::System(Arc::new(Anchor {
            steady: AtomicI64::new(wall().as_micros()),
            monotonic: Instant::now(),
        }))
    }

    /// A clock that stands at `start` until [`Clock::advance`].
    pub fn manual(start: Time) -> Self {
        Self::Manual(Arc::new(watch::Sender::new(Manual {
            wall: start,
            steady: start,
        })))
    }

    /// The wall clock: what timestamps show.
    pub fn now(&self) -> Time {
        match self {
            Self::System(_) => wall(),
            Self::Manual(state) => state.borrow().wall,
        }
    }

    /// The clock of leases, timeouts and retries: a jump of the wall clock does not move it.
    pub fn steady(&self) -> Time {
        match self {
            Self::System(anchor) => {
                Time(anchor.steady.load(Ordering::Relaxed)) + anchor.monotonic.elapsed()
            }
            Self::Manual(state) => state.borrow().steady,
        }
    }

    /// Sets the steady clock by another one, which says that it is `now`: that of a database that several servers share,
    /// so that they agree on when a lease ends. A manual clock follows nobody.
    pub fn follow(&self, now: Time) {
        if let Self::System(anchor) = self {
            let off = now.as_micros() - self.steady().as_micros();
            anchor.steady.fetch_add(off, Ordering::Relaxed);
        }
    }

    /// Moves a manual clock forward. The system clock can't be moved.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(state) = self {
            state.send_modify(|clock| {
                clock.wall = clock.wall + by;
                clock.steady = clock.steady + by;
            });
        }
    }

    /// Sets only the wall clock of a manual clock, as a correction of the machine's time would.
    pub fn jump(&self, wall: Time) {
        if let Self::Manual(state) = self {
            state.send_modify(|clock| clock.wall = wall);
        }
    }

    /// Returns when [`Clock::steady`] has reached `deadline`.
    pub async fn sleep_until(&self, deadline: Time) {
        match self {
            Self::System(_) => tokio::time::sleep(deadline.since(self.steady())).await,
            Self::Manual(state) => {
                let mut receiver = state.subscribe();
                // The sender lives in `self`, so waiting can't fail.
                let _ = receiver.wait_for(|clock| clock.steady >= deadline).await;
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the machine's clocks"
)]
fn wall() -> Time {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
