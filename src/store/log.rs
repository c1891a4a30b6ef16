//! The event log's own half: entries of a group are kept until just before its commit, then numbered without gaps and
//! chained by hash, per tenant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::clock::Time;
use crate::database::{Value, vals};
use crate::id::TenantId;

/// An event before it has its number.
#[derive(Debug, Clone)]
pub struct Entry {
    /// By which it can be found again, unique in the tenant; empty when its number is name enough.
    pub id: String,
    /// `CloudEvents` `type`, for example `dev.baton.task.completed`.
    pub kind: std::borrow::Cow<'static, str>,
    /// What it is about (`CloudEvents` `subject`).
    pub subject: String,
    /// Who did it.
    pub actor: String,
    /// When.
    pub time: Time,
    /// `CloudEvents` `data`, JSON text.
    pub data: String,
    /// The trace of the call that caused it, as a line; empty when there was none.
    pub trace: String,
}

/// The number of an event in its tenant's log: 1, 2, 3 … without gaps. Zero until the commit.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<AtomicI64>);

impl Sequence {
    /// A number that is known already.
    pub fn known(number: i64) -> Self {
        Self(Arc::new(AtomicI64::new(number)))
    }

    /// The number, once its transaction has committed.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, number: i64) {
        self.0.store(number, Ordering::Release);
    }
}

impl Serialize for Sequence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.get())
    }
}

impl JsonSchema for Sequence {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sequence".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 1})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// The hash of an event: SHA-256 over the hash before it and everything that the event says, each part led by its
/// length so that no two events can be spelled the same.
pub fn chain(before: &[u8], sequence: i64, entry: &Entry) -> Vec<u8> {
    let mut hash = Sha256::new();
    let (number, time) = (sequence.to_string(), entry.time.as_micros().to_string());
    let parts = [
        before,
        number.as_bytes(),
        entry.id.as_bytes(),
        entry.kind.as_bytes(),
        entry.subject.as_bytes(),
        entry.actor.as_bytes(),
        time.as_bytes(),
        entry.data.as_bytes(),
    ];
    // An event without a trace is hashed as it was before there were any.
    let trace = Some(entry.trace.as_bytes()).filter(|trace| !trace.is_empty());
    for part in parts.into_iter().chain(trace) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

/// The events of a group, in order, whom to wake besides, and whose logs ended before these events.
#[derive(Default)]
pub(super) struct Log(
    Vec<(TenantId, Entry, Sequence)>,
    Vec<TenantId>,
    Vec<TenantId>,
);

impl Log {
    pub(super) fn append(&mut self, tenant: &TenantId, entry: Entry) -> Sequence {
        let sequence = Sequence::default();
        self.0.push((tenant.clone(), entry, sequence.clone()));
        sequence
    }

    /// Has those woken who wait for something of `tenant`, though no event tells of it.
    pub(super) fn wake(&mut self, tenant: &TenantId) {
        self.1.push(tenant.clone());
    }

    /// Has the log of `tenant` begin anew with what is appended from here on.
    pub(super) fn end(&mut self, tenant: &TenantId) {
        self.2.push(tenant.clone());
    }

    pub(super) fn find(
        &self,
        tenant: &TenantId,
        id: &str,
    ) -> Option<(String, String, String, Sequence)> {
        self.0
            .iter()
            .find(|(owner, entry, _)| owner == tenant && entry.id == id)
            .map(|(_, entry, sequence)| {
                (
                    entry.kind.clone().into_owned(),
                    entry.subject.clone(),
                    entry.data.clone(),
                    sequence.clone(),
                )
            })
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets what a failed operation appended.
    pub(super) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// The tenants that have events here, each once.
    pub(super) fn tenants(&self) -> Vec<TenantId> {
        let mut tenants: Vec<TenantId> = self.0.iter().map(|(tenant, ..)| tenant.clone()).collect();
        tenants.sort();
        tenants.dedup();
        tenants
    }

    /// The tenants whose waiting callers are woken by a commit.
    pub(super) fn told(&self) -> Vec<TenantId> {
        let mut told = self.tenants();
        told.extend(self.1.iter().cloned());
        told.sort();
        told.dedup();
        told
    }

    /// Numbers and chains the events behind the tenants' `heads`, moves those, and returns what to write.
    pub(super) fn number(&mut self, heads: &mut BTreeMap<TenantId, Head>) -> Vec<Numbered> {
        for tenant in &self.2 {
            heads.remove(tenant);
        }
        let number = |(tenant, entry, sequence): (TenantId, Entry, Sequence)| {
            let head = heads.entry(tenant.clone()).or_default();
            head.sequence += 1;
            head.hash = chain(&head.hash, head.sequence, &entry);
            if head.sequence == 1 {
                head.created_at = Some(entry.time);
            }
            sequence.set(head.sequence);
            (tenant, head.sequence, entry, head.hash.clone())
        };
        self.0.drain(..).map(number).collect()
    }
}

/// Where a tenant's log ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) sequence: i64,
    pub(super) hash: Vec<u8>,
    /// When the tenant's first event happened, if that is among those just numbered.
    pub(super) created_at: Option<Time>,
}

/// An event with its tenant, its number and its hash.
pub(super) type Numbered = (TenantId, i64, Entry, Vec<u8>);

/// An event as a row of `events`, in the order of its columns.
pub(super) fn row((tenant, number, entry, hash): Numbered) -> [Value; 10] {
    vals![
        &tenant,
        number,
        entry.id,
        &*entry.kind,
        entry.subject,
        entry.actor,
        entry.time,
        entry.data,
        entry.trace,
        hash
    ]
}
