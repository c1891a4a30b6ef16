//! What may be limited: each limit's name, whom it holds to account and what it counts, and the classes of calls. How the
//! limits are kept is `throttle`'s; who sets them, `limits`'.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// What sort of call it is, as far as limits go. It follows from what an operation declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Reads, and is soon done.
    Read,
    /// Writes, and is soon done.
    Write,
    /// May wait for something to happen: long polls and listeners.
    Wait,
    /// Decides who may come in, and with which limits.
    Admin,
}

/// Whom a limit holds to account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// An address, over HTTP.
    Address,
    /// A credential.
    Credential,
    /// A tenant.
    Tenant,
}

/// A limit that an administrator may set. (Variants are told apart by comments alone: each doc comment would be a `oneOf`
/// of its own in the schema, which clients dislike.)
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    RatePerAddress,
    RatePerCredential,
    RatePerTenant,
    RatePerTenantReads,
    RatePerTenantWrites,
    RatePerTenantWaits,
    RatePerTenantAdmin,
    MaxCallsPerAddress,
    MaxCallsPerCredential,
    MaxCallsPerTenant,
    MaxWaitingCallsPerTenant,
    MaxListenersPerTenant,
    MaxSessionsPerTenant,
    MaxConnectionsPerAddress,
    MaxHandlesPerTenant,
}

use Limit::{
    MaxCallsPerAddress, MaxCallsPerCredential, MaxCallsPerTenant, MaxConnectionsPerAddress,
    MaxHandlesPerTenant, MaxListenersPerTenant, MaxSessionsPerTenant, MaxWaitingCallsPerTenant,
    RatePerAddress, RatePerCredential, RatePerTenant, RatePerTenantAdmin, RatePerTenantReads,
    RatePerTenantWaits, RatePerTenantWrites,
};

impl Limit {
    /// All of them.
    pub const ALL: [Self; 15] = [
        RatePerAddress,
        RatePerCredential,
        RatePerTenant,
        RatePerTenantReads,
        RatePerTenantWrites,
        RatePerTenantWaits,
        RatePerTenantAdmin,
        MaxCallsPerAddress,
        MaxCallsPerCredential,
        MaxCallsPerTenant,
        MaxWaitingCallsPerTenant,
        MaxListenersPerTenant,
        MaxSessionsPerTenant,
        MaxConnectionsPerAddress,
        MaxHandlesPerTenant,
    ];

    /// As settings, operations and refusals spell it.
    pub const fn name(self) -> &'static str {
        match self {
            RatePerAddress => "rate_per_address",
            RatePerCredential => "rate_per_credential",
            RatePerTenant => "rate_per_tenant",
            RatePerTenantReads => "rate_per_tenant_reads",
            RatePerTenantWrites => "rate_per_tenant_writes",
            RatePerTenantWaits => "rate_per_tenant_waits",
            RatePerTenantAdmin => "rate_per_tenant_admin",
            MaxCallsPerAddress => "max_calls_per_address",
            MaxCallsPerCredential => "max_calls_per_credential",
            MaxCallsPerTenant => "max_calls_per_tenant",
            MaxWaitingCallsPerTenant => "max_waiting_calls_per_tenant",
            MaxListenersPerTenant => "max_listeners_per_tenant",
            MaxSessionsPerTenant => "max_sessions_per_tenant",
            MaxConnectionsPerAddress => "max_connections_per_address",
            MaxHandlesPerTenant => "max_handles_per_tenant",
        }
    }

    /// What it counts.
    pub const fn counts(self) -> &'static str {
        match self {
            RatePerAddress => "requests a second from one address",
            RatePerCredential => "calls a second with one credential",
            RatePerTenant => "calls a second for one tenant",
            RatePerTenantReads => "calls a second for one tenant that read",
            RatePerTenantWrites => "calls a second for one tenant that write",
            RatePerTenantWaits => "calls a second for one tenant that may wait, and new listeners",
            RatePerTenantAdmin => "calls a second for one tenant that administer",
            MaxCallsPerAddress => "requests at a time from one address",
            MaxCallsPerCredential => "calls and listeners at a time with one credential",
            MaxCallsPerTenant => "calls and listeners at a time for one tenant",
            MaxWaitingCallsPerTenant => "calls at a time that wait for one tenant",
            MaxListenersPerTenant => "listeners at a time of one tenant",
            MaxSessionsPerTenant => "sessions of older clients in use at a time of one tenant",
            MaxConnectionsPerAddress => "connections at a time from one address",
            MaxHandlesPerTenant => "task handles at a time of one tenant that have not ended",
        }
    }

    /// Whom it holds to account.
    pub const fn whom(self) -> Whom {
        match self {
            RatePerAddress | MaxCallsPerAddress | MaxConnectionsPerAddress => Whom::Address,
            RatePerCredential | MaxCallsPerCredential => Whom::Credential,
            _ => Whom::Tenant,
        }
    }

    /// Whether it is about calls a second; otherwise it is about what goes on at a time.
    pub const fn is_rate(self) -> bool {
        matches!(
            self,
            RatePerAddress
                | RatePerCredential
                | RatePerTenant
                | RatePerTenantReads
                | RatePerTenantWrites
                | RatePerTenantWaits
                | RatePerTenantAdmin
        )
    }

    /// The rate of calls of a class.
    pub const fn of_class(class: Class) -> Self {
        match class {
            Class::Read => RatePerTenantReads,
            Class::Write => RatePerTenantWrites,
            Class::Wait => RatePerTenantWaits,
            Class::Admin => RatePerTenantAdmin,
        }
    }

    /// After how long somebody may have made room, of what goes on at a time.
    pub const fn patience(self) -> Duration {
        Duration::from_secs(match self {
            MaxWaitingCallsPerTenant | MaxConnectionsPerAddress => 5,
            MaxListenersPerTenant | MaxSessionsPerTenant | MaxHandlesPerTenant => 30,
            _ => 1,
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The largest value of a limit.
pub const MOST: u32 = 1_000_000;

/// A limit with its value, 0 for none, as settings write it: `max_calls_per_tenant=50`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Which one.
    pub limit: Limit,
    /// How much.
    pub value: u32,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let found = Limit::ALL.into_iter().find(|it| it.name() == name.trim());
        let limit = found.ok_or_else(|| {
            let names: Vec<&str> = Limit::ALL.into_iter().map(Limit::name).collect();
            format!("{name:?} is no limit; there are {}", names.join(", "))
        })?;
        let value = value.trim().parse().ok().filter(|value| *value <= MOST);
        let value = value.ok_or_else(|| format!("{limit} is 0 (none) to {MOST}: {limit}=50"))?;
        Ok(Self { limit, value })
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A value for every limit; `None` where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caps([Option<u32>; Limit::ALL.len()]);

/// Handles of a tenant that have not ended, unless said otherwise.
const HANDLES: u32 = 10_000;

impl Caps {
    /// Those that hold when nobody has set any since: what is `given`, later ones before earlier ones. Nobody may have more
    /// than half of what is bounded for all together, where that is `shared`.
    pub fn at_start(shared: &[(Limit, usize)], given: &[Given]) -> Self {
        let mut caps = Self::default();
        caps.set(MaxHandlesPerTenant, HANDLES);
        for (limit, whole) in shared {
            let half = u32::try_from(whole.div_ceil(2)).unwrap_or(MOST);
            caps.set(*limit, half);
        }
        for Given { limit, value } in given {
            caps.set(*limit, *value);
        }
        caps
    }

    /// What is so of one limit.
    pub fn get(&self, limit: Limit) -> Option<u32> {
        self.0[limit as usize]
    }

    /// Sets one limit; 0 lifts it.
    pub fn set(&mut self, limit: Limit, value: u32) {
        self.0[limit as usize] = (value > 0).then_some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_where_it_belongs_and_is_spelt_one_way() {
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, index);
            let json = serde_json::to_value(limit).unwrap();
            assert_eq!(json, limit.name());
            let given = format!("{limit}=7").parse();
            assert_eq!(given, Ok(Given { limit, value: 7 }));
            assert_eq!(limit.is_rate(), limit.name().starts_with("rate_"));
        }
        for bad in [
            "",
            "max_calls",
            "max_calls_per_tenant",
            "max_calls_per_tenant=-1",
            "rate_per_tenant=1000001",
        ] {
            assert!(bad.parse::<Given>().is_err(), "{bad}");
        }
    }
}
