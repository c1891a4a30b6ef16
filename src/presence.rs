//! Who was let in lately, and what goes on by his leave: streams, sessions and calls that wait end when what he showed is
//! good no longer. Who looks whether it still is, is `access`.

use std::sync::Arc;

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;

use crate::clock::Time;
use crate::principal::{Principal, Shown};

/// Credentials that are remembered; then all are forgotten and looked at again.
const REMEMBERED: usize = 20_000;

/// What this process knows of credentials without asking anybody.
#[derive(Default)]
pub struct Presence {
    known: DashMap<Shown, Known>,
    /// By whose leave something goes on.
    stays: DashMap<Shown, Leave>,
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

/// Something that goes on by somebody's leave, until it is dropped.
pub struct Stay {
    presence: Arc<Presence>,
    shown: Shown,
    over: CancellationToken,
}

impl Stay {
    /// Returns when it has to end; where nobody is asked who he is, never.
    pub fn over(stay: Option<&Self>) -> impl Future<Output = ()> + Send + use<> {
        let over = stay.map(|stay| stay.over.clone());
        async move {
            match over {
                Some(over) => over.cancelled().await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let stays = &self.presence.stays;
        let is_last = |_: &Shown, leave: &mut Leave| {
            leave.count -= 1;
            leave.count == 0
        };
        stays.remove_if_mut(&self.shown, is_last);
    }
}

impl Presence {
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
            shown,
            over,
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
