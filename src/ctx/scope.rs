//! What operations know of the call that they serve.

use std::borrow::Cow;
use std::sync::Arc;

use super::System;
use crate::allowance::Allowances;
use crate::clock::Time;
use crate::config::Limits;
use crate::meter::Meter;
use crate::principal::Principal;
use crate::random::Random;
use crate::throttle::Throttle;
use crate::trace::Trace;
use crate::vault::Vault;

/// What an operation may know besides its transaction. The tenant is the transaction's.
#[derive(Clone)]
pub struct Scope {
    pub(super) actor: Arc<str>,
    pub(super) now: Time,
    pub(super) steady: Time,
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) trace: Option<Arc<Trace>>,
    pub(super) by_tool: bool,
    pub(super) system: System,
}

impl Scope {
    /// Who calls, as the log shows it.
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Who was let in; `None` where nobody is asked who he is.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_deref()
    }

    /// Whether a tool that the caller called does this in his name, which he need not know.
    pub fn is_by_tool(&self) -> bool {
        self.by_tool
    }

    /// The trace that the call is part of.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_deref()
    }

    /// The same for something that came with `trace`: what happens to it belongs there, unless the call says where it
    /// belongs.
    pub fn within(&self, trace: Option<&Trace>) -> Cow<'_, Self> {
        match trace {
            Some(trace) if self.trace.is_none() => Cow::Owned(Self {
                trace: Some(Arc::new(trace.clone())),
                ..self.clone()
            }),
            _ => Cow::Borrowed(self),
        }
    }

    /// The wall clock, for timestamps.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The clock of leases, timeouts and retries.
    pub fn steady(&self) -> Time {
        self.steady
    }

    /// Runs a part of the call on another thread, where what it logs says whose it is too.
    pub(super) fn logged<T>(&self, work: impl FnOnce() -> T) -> T {
        Trace::span(self.trace()).in_scope(work)
    }

    /// Randomness.
    pub fn random(&self) -> &Random {
        &self.system.0.random
    }

    /// How often somebody may call, and how much at a time.
    pub fn throttle(&self) -> &Throttle {
        &self.system.0.throttle
    }

    /// What tenants may have, besides calls.
    pub fn allowances(&self) -> &Allowances {
        self.system.allowances()
    }

    /// The master keys, for what is kept secret.
    pub fn vault(&self) -> &Vault {
        self.system.vault()
    }

    /// The calls that this process answers.
    pub fn meter(&self) -> &Meter {
        self.system.meter()
    }

    /// The limits of this server.
    pub fn limits(&self) -> &Limits {
        &self.system.0.limits
    }
}
