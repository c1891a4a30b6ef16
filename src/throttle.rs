//! How often somebody may call: buckets by address, by credential and by tenant, in this process.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as Pace;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::{Clock, Time};
use crate::config::Rates;
use crate::error::{Error, Result};
use crate::id::TenantId;

/// Calls a second of each kind of caller; what is not limited has no buckets.
pub struct Throttle {
    addresses: Option<Buckets<IpAddr>>,
    credentials: Option<Buckets<Arc<str>>>,
    tenants: Option<Buckets<TenantId>>,
}

impl Throttle {
    /// Limits as the settings say, by `clock`.
    pub fn new(rates: &Rates, clock: &Clock) -> Self {
        Self {
            addresses: Buckets::new(rates.per_address, "address", clock),
            credentials: Buckets::new(rates.per_credential, "credential", clock),
            tenants: Buckets::new(rates.per_tenant, "tenant", clock),
        }
    }

    /// Counts a request of `address`.
    ///
    /// # Errors
    /// `rate_limited` says when to come back.
    pub fn admit_address(&self, address: IpAddr) -> Result<()> {
        let buckets = self.addresses.as_ref();
        buckets.map_or(Ok(()), |buckets| buckets.admit(&address))
    }

    /// Counts a call for `tenant` by somebody who is called `name`, if he is known.
    ///
    /// # Errors
    /// As [`Throttle::admit_address`].
    pub fn admit(&self, tenant: &TenantId, name: Option<&Arc<str>>) -> Result<()> {
        if let (Some(buckets), Some(name)) = (&self.credentials, name) {
            buckets.admit(name)?;
        }
        let buckets = self.tenants.as_ref();
        buckets.map_or(Ok(()), |buckets| buckets.admit(tenant))
    }

    /// Forgets those who have not called lately, who could not be told from strangers anyway.
    pub fn sweep(&self) {
        self.addresses.iter().for_each(Buckets::sweep);
        self.credentials.iter().for_each(Buckets::sweep);
        self.tenants.iter().for_each(Buckets::sweep);
    }
}

/// The clock of leases and timeouts, as the buckets read it.
#[derive(Clone)]
struct Steady(Clock);

impl Pace for Steady {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.steady().since(Time::from_micros(0))
    }
}

/// One bucket for each key: as many calls at once as in a second.
struct Buckets<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DashMapStateStore<K>, Steady, NoOpMiddleware<Duration>>,
    clock: Steady,
    most: NonZeroU32,
    whose: &'static str,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(most: Option<NonZeroU32>, whose: &'static str, clock: &Clock) -> Option<Self> {
        let (most, clock) = (most?, Steady(clock.clone()));
        let quota = Quota::per_second(most);
        Some(Self {
            limiter: RateLimiter::new(quota, DashMapStateStore::default(), clock.clone()),
            clock,
            most,
            whose,
        })
    }

    fn admit(&self, key: &K) -> Result<()> {
        let Err(refused) = self.limiter.check_key(key) else {
            return Ok(());
        };
        let (most, whose) = (self.most, self.whose);
        let wait = refused.wait_time_from(self.clock.now());
        let message = format!("more than {most} calls a second from this {whose}; slow down");
        Err(Error::limited("rate_limited", message, wait))
    }

    fn sweep(&self) {
        self.limiter.retain_recent();
    }
}
