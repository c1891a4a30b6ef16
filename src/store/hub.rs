//! Wakes those who wait for a commit. A wake-up is a hint and never the truth: whoever is woken reads the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::sync::watch;

use crate::id::TenantId;

/// One wake-up channel per tenant that somebody waits for. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tenants: DashMap<TenantId, watch::Sender<u64>>,
    waiting: AtomicUsize,
}

impl Hub {
    /// Wake-ups of `tenant` from now on. Take it before reading, so that nothing falls between.
    pub fn wake(&self, tenant: &TenantId) -> Wake {
        let receiver = self
            .0
            .tenants
            .entry(tenant.clone())
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe();
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Wake {
            hub: self.clone(),
            tenant: tenant.clone(),
            receiver: Some(receiver),
        }
    }

    /// Something of `tenants` was committed here.
    pub(super) fn committed(&self, tenants: &[TenantId]) {
        for tenant in tenants {
            if let Some(sender) = self.0.tenants.get(tenant) {
                sender.send_modify(|count| *count += 1);
            }
        }
    }

    /// Something was committed by another process; it does not say for whom.
    pub(super) fn committed_elsewhere(&self) {
        for sender in &self.0.tenants {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// The tenants that somebody waits for.
    pub(super) fn tenants(&self) -> Vec<TenantId> {
        let entries = self.0.tenants.iter();
        entries.map(|entry| entry.key().clone()).collect()
    }

    /// Whether anybody waits at all.
    pub(super) fn is_waited_for(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Waits for commits of one tenant.
pub struct Wake {
    hub: Hub,
    tenant: TenantId,
    /// `None` only while dropping.
    receiver: Option<watch::Receiver<u64>>,
}

impl Wake {
    /// Returns when something was committed since the last call (or since this was made).
    pub async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // The sender stays in the table for as long as a receiver lives, so waiting can't fail.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.hub.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.receiver = None;
        self.hub
            .0
            .tenants
            .remove_if(&self.tenant, |_, sender| sender.receiver_count() == 0);
    }
}
