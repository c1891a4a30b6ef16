//! How often somebody may call and how much of his may go on at a time, in this process: by address, credential, tenant and
//! class of call. What the limits are is `quota`'s, who sets them `limits`'. Calls of whom nothing is limited cost a look
//! at one flag.

mod gauge;
mod rate;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::quota::{Caps, Class, Limit, Whom};
use gauge::Gauges;
pub use gauge::{Pass, Place};
use rate::{Buckets, Steady};

/// Somebody who is held to account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Whoever calls from there.
    Address(IpAddr),
    /// Whoever is called so.
    Credential(Arc<str>),
    /// Everybody of a tenant.
    Tenant(TenantId),
}

impl Key {
    /// Whoever calls from `address`. Who has one address of IPv6 has the whole network of /64, and could come from each.
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(network.into())
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What has been set since the start; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// For everybody.
    pub server: HashMap<Limit, u32>,
    /// For one tenant, before what is set for everybody.
    pub tenants: HashMap<TenantId, HashMap<Limit, u32>>,
}

/// The limits of this process, and what they count.
pub struct Throttle {
    /// Whether calls, and requests of addresses, are counted at all.
    counts_calls: AtomicBool,
    counts_requests: AtomicBool,
    /// After which change of what is set these are.
    changes: AtomicI64,
    table: RwLock<Arc<Table>>,
    gauges: Arc<Gauges>,
    at_start: Caps,
    clock: Steady,
}

/// The limits as they are now.
struct Table {
    set: Set,
    /// What holds for who has nothing of his own.
    caps: Caps,
    /// Of each rate, and of the tenants that have their own.
    rates: HashMap<(Limit, Option<TenantId>), Arc<Buckets>>,
}

impl Table {
    /// The limits that `set` makes of those `at_start`. Buckets of `old` ones that stay as they are keep what is in them.
    fn new(at_start: &Caps, set: Set, old: Option<&Self>, clock: &Steady) -> Self {
        let mut caps = at_start.clone();
        for (limit, value) in &set.server {
            caps.set(*limit, *value);
        }
        let usual = Limit::ALL
            .into_iter()
            .map(|limit| (limit, None, caps.get(limit)));
        let own = set.tenants.iter().flat_map(|(tenant, values)| {
            let own = values.iter().filter(|(_, value)| **value > 0);
            own.map(move |(limit, value)| (*limit, Some(tenant.clone()), Some(*value)))
        });
        let rates = usual.chain(own).filter(|(limit, ..)| limit.is_rate());
        let rates = rates.filter_map(|(limit, tenant, most)| {
            let most = most?;
            let key = (limit, tenant);
            let kept = old.and_then(|old| old.rates.get(&key));
            let kept = kept.filter(|kept| kept.most() == most).cloned();
            let buckets = kept.or_else(|| Buckets::new(most, clock).map(Arc::new))?;
            Some((key, buckets))
        });
        Self {
            rates: rates.collect(),
            caps,
            set,
        }
    }

    /// What a tenant has of its own of a limit; 0 is none.
    fn own(&self, limit: Limit, key: &Key) -> Option<u32> {
        let Key::Tenant(tenant) = key else {
            return None;
        };
        self.set.tenants.get(tenant)?.get(&limit).copied()
    }

    fn cap(&self, limit: Limit, key: &Key) -> Option<u32> {
        match self.own(limit, key) {
            Some(value) => (value > 0).then_some(value),
            None => self.caps.get(limit),
        }
    }

    fn buckets(&self, limit: Limit, key: &Key) -> Option<&Arc<Buckets>> {
        let own = match (key, self.own(limit, key)) {
            (Key::Tenant(tenant), Some(_)) => Some(tenant.clone()),
            _ => None,
        };
        self.rates.get(&(limit, own))
    }

    fn spend(&self, limit: Limit, key: &Key) -> Result<()> {
        let Some(buckets) = self.buckets(limit, key) else {
            return Ok(());
        };
        buckets.spend(key).map_err(|wait| {
            let most = buckets.most();
            let message = format!(
                "{limit} is {most}: more than {most} {}; slow down",
                limit.counts()
            );
            Error::limited("rate_limited", message, wait)
        })
    }

    /// Whether any of `limits` holds for anybody.
    fn limits_any(&self, limits: impl Fn(Limit) -> bool) -> bool {
        let own = self.set.tenants.values().flatten();
        let own = own
            .filter(|(_, value)| **value > 0)
            .map(|(limit, _)| *limit);
        let usual = Limit::ALL.into_iter();
        let mut all = usual
            .filter(|limit| self.caps.get(*limit).is_some())
            .chain(own);
        all.any(limits)
    }
}

impl Throttle {
    /// Limits as they are `at_start`, by `clock`.
    pub fn new(at_start: &Caps, clock: &Clock) -> Self {
        let clock = Steady(clock.clone());
        let table = Table::new(at_start, Set::default(), None, &clock);
        let throttle = Self {
            counts_calls: AtomicBool::new(false),
            counts_requests: AtomicBool::new(false),
            changes: AtomicI64::new(0),
            table: RwLock::new(Arc::new(table)),
            gauges: Arc::default(),
            at_start: at_start.clone(),
            clock,
        };
        throttle.apply(Set::default(), 0);
        throttle
    }

    /// Whether these are the limits as they were set by the change of this number.
    pub fn is_of(&self, changes: i64) -> bool {
        self.changes.load(Ordering::Relaxed) == changes
    }

    /// Changes the limits to what is `set` since the change of this number. What is older than these is late, and left.
    pub fn apply(&self, set: Set, changes: i64) {
        let mut place = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if changes < self.changes.load(Ordering::Relaxed) {
            return;
        }
        self.changes.store(changes, Ordering::Relaxed);
        let table = Table::new(&self.at_start, set, Some(&**place), &self.clock);
        let is_counted = |limit: Limit| {
            limit.is_rate()
                || matches!(
                    limit,
                    Limit::MaxCallsPerCredential | Limit::MaxCallsPerTenant
                )
        };
        let of_address =
            |limit: Limit| matches!(limit, Limit::RatePerAddress | Limit::MaxCallsPerAddress);
        let counts_calls = table.limits_any(|limit| is_counted(limit) && !of_address(limit));
        self.counts_calls.store(counts_calls, Ordering::Relaxed);
        let counts_requests = table.limits_any(of_address);
        self.counts_requests
            .store(counts_requests, Ordering::Relaxed);
        *place = Arc::new(table);
    }

    fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counts a request of `address`, which goes on until the pass is dropped.
    ///
    /// # Errors
    /// `rate_limited` or `too_many_calls`, with when to come back.
    pub fn admit_address(&self, address: IpAddr) -> Result<Pass> {
        if !self.counts_requests.load(Ordering::Relaxed) {
            return Ok(Pass::default());
        }
        let (table, key) = (self.table(), Key::of_address(address));
        let pass = self.enter(&table, Limit::MaxCallsPerAddress, &key)?;
        table.spend(Limit::RatePerAddress, &key)?;
        Ok(pass.into_iter().collect())
    }

    /// Counts a call of a class for `tenant` by somebody who is called `name`, if he is known. It goes on until the pass is
    /// dropped.
    ///
    /// # Errors
    /// As [`Throttle::admit_address`].
    pub fn admit(&self, tenant: &TenantId, name: Option<&Arc<str>>, class: Class) -> Result<Pass> {
        if !self.counts_calls.load(Ordering::Relaxed) {
            return Ok(Pass::default());
        }
        let (table, tenant) = (self.table(), Key::Tenant(tenant.clone()));
        let who = name.map(|name| Key::Credential(name.clone()));
        let mut places = Vec::new();
        if let Some(who) = &who {
            places.extend(self.enter(&table, Limit::MaxCallsPerCredential, who)?);
        }
        places.extend(self.enter(&table, Limit::MaxCallsPerTenant, &tenant)?);
        if let Some(who) = &who {
            table.spend(Limit::RatePerCredential, who)?;
        }
        table.spend(Limit::RatePerTenant, &tenant)?;
        table.spend(Limit::of_class(class), &tenant)?;
        Ok(places.into_iter().collect())
    }

    /// A place under a limit that is always counted, until it is dropped.
    ///
    /// # Errors
    /// `too_many_calls`, with when to come back.
    pub fn place(&self, limit: Limit, key: &Key) -> Result<Place> {
        let most = self.table().cap(limit, key);
        let place = self.gauges.take(limit, key, most);
        place.ok_or_else(|| full(limit, most.unwrap_or_default()))
    }

    /// A place under a limit that is counted where there is one.
    fn enter(&self, table: &Table, limit: Limit, key: &Key) -> Result<Option<Place>> {
        let Some(most) = table.cap(limit, key) else {
            return Ok(None);
        };
        let place = self.gauges.take(limit, key, Some(most));
        place.map(Some).ok_or_else(|| full(limit, most))
    }

    /// What `tenant` may have of a limit; `None` is any number.
    pub fn cap(&self, limit: Limit, tenant: &TenantId) -> Option<u32> {
        self.table().cap(limit, &Key::Tenant(tenant.clone()))
    }

    /// What a limit was when this process started.
    pub fn at_start(&self, limit: Limit) -> Option<u32> {
        self.at_start.get(limit)
    }

    /// How much of a limit somebody uses now: of what goes on at a time, or of the calls of a second. `None` where that is
    /// not counted.
    pub fn used(&self, limit: Limit, key: &Key) -> Option<u32> {
        let table = self.table();
        match limit {
            _ if limit.is_rate() => table.buckets(limit, key).map(|buckets| buckets.used(key)),
            Limit::MaxHandlesPerTenant => None,
            Limit::MaxCallsPerAddress | Limit::MaxCallsPerCredential | Limit::MaxCallsPerTenant => {
                table.cap(limit, key)?;
                Some(self.gauges.count(limit, key))
            }
            _ => Some(self.gauges.count(limit, key)),
        }
    }

    /// How much of a limit by address the busiest one uses now.
    pub fn busiest(&self, limit: Limit) -> Option<u32> {
        debug_assert_eq!(limit.whom(), Whom::Address);
        let table = self.table();
        if limit.is_rate() {
            let buckets = table.rates.get(&(limit, None))?;
            return Some(buckets.busiest());
        }
        let is_counted = limit == Limit::MaxConnectionsPerAddress;
        let is_counted = is_counted || table.caps.get(limit).is_some();
        is_counted.then(|| self.gauges.busiest(limit))
    }

    /// Forgets those who have not called lately, who could not be told from strangers anyway.
    pub fn sweep(&self) {
        let table = self.table();
        table.rates.values().for_each(|buckets| buckets.sweep());
    }
}

/// The refusal of one more of what goes on at a time.
pub fn full(limit: Limit, most: u32) -> Error {
    let message = format!(
        "{limit} is {most}: there are {most} {} already; come back when one has ended",
        limit.counts()
    );
    Error::limited("too_many_calls", message, limit.patience())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::quota::Given;

    fn throttle(limits: &[(Limit, u32)]) -> Throttle {
        let given = limits.iter().map(|(limit, value)| Given {
            limit: *limit,
            value: *value,
        });
        let given: Vec<Given> = given.collect();
        let clock = Clock::manual(Time::from_micros(1_000_000_000));
        Throttle::new(&Caps::at_start(&[], &given), &clock)
    }

    fn acme() -> TenantId {
        "acme".parse().unwrap()
    }

    #[test]
    fn a_change_leaves_other_buckets_as_they_are_and_a_late_one_changes_nothing() {
        let throttle = throttle(&[(Limit::RatePerTenant, 2)]);
        let call = || throttle.admit(&acme(), None, Class::Read).map(drop);
        assert!(call().is_ok() && call().is_ok() && call().is_err());
        let mut set = Set::default();
        set.server.insert(Limit::RatePerTenantReads, 5);
        throttle.apply(set.clone(), 7);
        assert!(
            call().is_err(),
            "the bucket is not filled by a change of another"
        );
        let own = HashMap::from([(Limit::RatePerTenant, 0)]);
        set.tenants.insert(acme(), own);
        throttle.apply(set.clone(), 6);
        assert!(call().is_err() && throttle.is_of(7));
        throttle.apply(set, 8);
        assert!(call().is_ok());
        assert_eq!(throttle.cap(Limit::RatePerTenant, &acme()), None);
    }

    #[test]
    fn who_is_refused_holds_nothing_and_what_has_ended_is_not_remembered() {
        let throttle = throttle(&[(Limit::MaxCallsPerTenant, 1), (Limit::RatePerTenant, 2)]);
        let call = || throttle.admit(&acme(), None, Class::Write);
        let first = call().unwrap();
        assert_eq!(call().err().unwrap().code(), "too_many_calls");
        drop(first);
        drop(call().unwrap());
        assert_eq!(call().err().unwrap().code(), "rate_limited");
        let key = Key::Tenant(acme());
        assert_eq!(throttle.used(Limit::MaxCallsPerTenant, &key), Some(0));
        assert_eq!(throttle.used(Limit::RatePerTenant, &key), Some(2));
        assert!(throttle.gauges.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let throttle = throttle(&[(Limit::RatePerAddress, 1)]);
        let ask = |address: &str| throttle.admit_address(address.parse().unwrap()).is_ok();
        assert!(ask("2001:db8::1") && !ask("2001:db8::2") && ask("2001:db8:0:1::1"));
        assert!(ask("192.0.2.1") && ask("192.0.2.2") && !ask("::ffff:192.0.2.1"));
    }
}
