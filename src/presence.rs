//! Who was let in lately, and what goes on by his leave: streams, sessions and calls that wait end when what he showed is
//! good no longer. Who looks whether it still is, is `access`.

use std::sync::Arc;

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;

use crate::clock::Time;
use crate::id::TenantId;
use crate::principal::{Principal, Shown};

/// Credentials that are remembered; then all are forgotten and looked at again.
const REMEMBERED: usize = 20_000;

/// What this process knows of credentials without asking anybody.
#[derive(Default)]
pub struct Presence {
    known: DashMap<Shown, Known>,
    /// By whose leave something goes on.
    stays: DashMap<Shown, Leave>,
    /// The tenants of which something goes on, and how much.
    tenants: DashMap<TenantId, (CancellationToken, usize)>,
    /// What somebody here wants to hear of that is not in the log by itself, and how many do.
    heard: DashMap<(TenantId, String), usize>,
}

/// Somebody who wants to hear of something, until it is dropped.
pub struct Hears {
    presence: Arc<Presence>,
    of: (TenantId, String),
}

impl Drop for Hears {
    fn drop(&mut self) {
        let is_last = |_: &(TenantId, String), count: &mut usize| {
            *count -= 1;
            *count == 0
        };
        self.presence.heard.remove_if_mut(&self.of, is_last);
    }
}

struct Known {
    principal: Arc<Principal>,
    until: Time,
}

struct Leave {
    principal: Arc<Principal>,
    over: CancellationToken,
    count: usize,
}

/// Something that goes on by somebody's leave, or for as long as there is a tenant, until it is dropped.
pub struct Stay {
    presence: Arc<Presence>,
    by: Option<(Shown, CancellationToken)>,
    tenant: Option<(TenantId, CancellationToken)>,
}

impl Stay {
    /// Returns when it has to end; where nothing says so, never.
    pub fn over(stay: Option<&Self>) -> impl Future<Output = ()> + Send + use<> {
        let by = stay.and_then(|stay| stay.by.as_ref());
        let tenant = stay.and_then(|stay| stay.tenant.as_ref());
        let ends = [
            by.map(|(_, over)| over.clone()),
            tenant.map(|(_, over)| over.clone()),
        ];
        let ends = ends.map(|over| async move {
            match over {
                Some(over) => over.cancelled().await,
                None => std::future::pending().await,
            }
        });
        async move {
            let [by, tenant] = ends;
            tokio::select! {
                () = by => {}
                () = tenant => {}
            }
        }
    }

    /// Whether it has to end because its tenant does.
    pub fn is_without_tenant(&self) -> bool {
        let tenant = self.tenant.as_ref();
        tenant.is_some_and(|(_, over)| over.is_cancelled())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some((shown, _)) = &self.by {
            let is_last = |_: &Shown, leave: &mut Leave| {
                leave.count -= 1;
                leave.count == 0
            };
            self.presence.stays.remove_if_mut(shown, is_last);
        }
        if let Some((tenant, _)) = &self.tenant {
            let is_last = |_: &TenantId, (_, count): &mut (CancellationToken, usize)| {
                *count -= 1;
                *count == 0
            };
            self.presence.tenants.remove_if_mut(tenant, is_last);
        }
    }
}

impl Presence {
    /// Notes that somebody wants to hear of what is at `uri`.
    pub fn hear(self: &Arc<Self>, tenant: &TenantId, uri: &str) -> Hears {
        let of = (tenant.clone(), uri.to_owned());
        *self.heard.entry(of.clone()).or_default() += 1;
        Hears {
            presence: self.clone(),
            of,
        }
    }

    /// What somebody here wants to hear of.
    pub fn heard(&self) -> Vec<(TenantId, String)> {
        self.heard.iter().map(|heard| heard.key().clone()).collect()
    }

    /// Who shows this, if that was looked at a moment before `now`.
    pub fn find(&self, shown: &Shown, now: Time) -> Option<Arc<Principal>> {
        let known = self.known.get(shown)?;
        (known.until > now).then(|| known.principal.clone())
    }

    /// Remembers until when somebody need not be looked at again.
    pub fn remember(&self, principal: &Arc<Principal>, until: Time) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let principal = principal.clone();
        self.known
            .insert(principal.shown, Known { principal, until });
    }

    /// Begins something that goes on by the leave of `principal`.
    pub fn stay(self: &Arc<Self>, principal: &Arc<Principal>) -> Stay {
        let shown = principal.shown;
        let mut leave = self.stays.entry(shown).or_insert_with(|| Leave {
            principal: principal.clone(),
            over: CancellationToken::new(),
            count: 0,
        });
        leave.count += 1;
        let over = leave.over.clone();
        drop(leave);
        Stay {
            presence: self.clone(),
            by: Some((shown, over)),
            tenant: None,
        }
    }

    /// Begins something of `tenant` that goes on by the leave of `principal`, where somebody is asked who he is.
    pub fn stay_in(
        self: &Arc<Self>,
        principal: Option<&Arc<Principal>>,
        tenant: &TenantId,
    ) -> Stay {
        let mut stay = principal.map_or_else(
            || Stay {
                presence: self.clone(),
                by: None,
                tenant: None,
            },
            |principal| self.stay(principal),
        );
        let mut place = self.tenants.entry(tenant.clone()).or_default();
        place.1 += 1;
        stay.tenant = Some((tenant.clone(), place.0.clone()));
        stay
    }

    /// Ends what goes on of `tenant`.
    pub fn end_tenant(&self, tenant: &TenantId) {
        let gone = |known: &Known| known.principal.sole_tenant() == Some(tenant);
        self.known.retain(|_, known| !gone(known));
        if let Some(mut place) = self.tenants.get_mut(tenant) {
            // What begins from here on is of another tenant of that name.
            std::mem::take(&mut place.0).cancel();
        }
    }

    /// By whose leave something goes on.
    pub fn staying(&self) -> Vec<Arc<Principal>> {
        let stays = self.stays.iter();
        stays.map(|leave| leave.principal.clone()).collect()
    }

    /// Ends what goes on by leave of what was shown.
    pub fn end(&self, shown: &Shown) {
        self.known.remove(shown);
        if let Some(leave) = self.stays.get(shown) {
            leave.over.cancel();
        }
    }

    /// Ends what goes on by leave of somebody who is called `name`, whatever he showed.
    pub fn end_all_of(&self, name: &str) {
        self.doubt(name);
        let stays = self.stays.iter();
        let his = stays.filter(|leave| &*leave.principal.name == name);
        his.for_each(|leave| leave.over.cancel());
    }

    /// Has somebody who is called `name` looked at again when he comes.
    pub fn doubt(&self, name: &str) {
        self.known.retain(|_, known| &*known.principal.name != name);
    }
}
