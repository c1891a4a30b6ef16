//! What is kept and what goes: duplicates, what is superseded, what is past the quota, what has expired or died with its
//! task. Nothing goes without an event. What was said is never in the log: what is forgotten is forgotten.

use futures::future::join_all;
use serde_json::json;

use super::{Entry, Kind, store};
use crate::clock::Time;
use crate::ctx::{Scope, System};
use crate::error::Result;
use crate::events;
use crate::id::MemoryId;
use crate::language::{Shape, words};
use crate::store::Tx;
use crate::tenants;

/// Entries removed in one round.
const BATCH: u32 = 200;
/// Candidates for each mark.
const CANDIDATES: u32 = 50;

/// Why an entry went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Asked,
    Expired,
    /// The tenant keeps nothing that long.
    Retention,
    TaskEnded,
    Quota,
    Duplicate,
    Stale,
}

impl Cause {
    const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Expired => "expired",
            Self::Retention => "retention",
            Self::TaskEnded => "task_ended",
            Self::Quota => "quota",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
        }
    }
}

/// Tells the log what became of an entry.
pub(super) fn tell(
    scope: &Scope,
    tx: &mut Tx<'_>,
    (kind, entry): (&'static str, &Entry),
    cause: Option<&str>,
) -> Result<()> {
    let mut about = json!({
        "agent_id": entry.agent_id, "kind": entry.kind, "scope": entry.reach, "importance": entry.importance,
    });
    let texts = [
        ("task_id", entry.task_id.as_ref().map(ToString::to_string)),
        (
            "superseded_by",
            entry.superseded_by.as_ref().map(ToString::to_string),
        ),
        ("cause", cause.map(str::to_owned)),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            about[name] = text.into();
        }
    }
    events::append(scope, tx, kind, entry.id.as_str(), &about).map(drop)
}

fn shape(entry: &Entry) -> Shape {
    Shape::of(&words::of(&entry.content))
}

/// Removes an entry for good.
pub(super) fn drop_entry(
    scope: &Scope,
    tx: &mut Tx<'_>,
    entry: &Entry,
    cause: Cause,
) -> Result<()> {
    if entry.superseded_by.is_none() {
        store::unmark(tx, &shape(entry).marks(&entry.audience()), &entry.id)?;
    }
    store::delete(tx, &entry.id)?;
    store::count(tx, -1)?;
    let about = ("dev.baton.memory.forgotten", entry);
    tell(scope, tx, about, Some(cause.name()))
}

/// An entry that says the same to the same, if there is one: the elder.
pub(super) fn twin(
    scope: &Scope,
    tx: &mut Tx<'_>,
    entry: &Entry,
    shape: &Shape,
) -> Result<Option<Entry>> {
    let audience = entry.audience();
    let marks = shape.marks(&audience);
    let found = store::marked(tx, &marks, scope.now(), CANDIDATES)?;
    let is_twin = |other: &Entry| {
        other.audience() == audience
            && (other.content == entry.content
                || Shape::of(&words::of(&other.content)).is_duplicate_of(shape))
    };
    Ok(found.into_iter().find(is_twin))
}

/// Makes `known` what `again` says too: as important and as lasting as either, with the tags of both. Its wording stays.
pub(super) fn merge(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut known: Entry,
    again: &Entry,
) -> Result<Entry> {
    known.importance = known.importance.max(again.importance);
    if again.kind == Kind::LongTerm {
        known.kind = Kind::LongTerm;
    }
    known.expires_at = match (known.expires_at, again.expires_at) {
        (Some(one), Some(other)) => Some(one.max(other)),
        _ => None,
    };
    known.tags.extend(again.tags.iter().cloned());
    known.tags.sort();
    known.tags.dedup();
    known.tags.truncate(super::TAGS);
    known.supersedes.extend(again.supersedes.iter().cloned());
    known.updated_at = scope.now();
    store::save(tx, &known)?;
    tell(scope, tx, ("dev.baton.memory.merged", &known), None)?;
    Ok(known)
}

/// Whether an entry is the caller's to change: of those whose credential speaks for some agents, what these wrote.
pub(super) fn is_own(scope: &Scope, entry: &Entry) -> bool {
    let own = scope.principal().map(|principal| &principal.grant.agents);
    own.is_none_or(|own| own.is_empty() || own.contains(&entry.agent_id))
}

/// Hides an entry behind the one that says it better.
pub(super) fn supersede(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut entry: Entry,
    by: &MemoryId,
) -> Result<()> {
    store::unmark(tx, &shape(&entry).marks(&entry.audience()), &entry.id)?;
    entry.superseded_by = Some(by.clone());
    store::save(tx, &entry)?;
    tell(scope, tx, ("dev.baton.memory.superseded", &entry), None)
}

/// Takes a new entry up, and lets those go that are worth least if there are too many now.
pub(super) fn take_up(
    scope: &Scope,
    tx: &mut Tx<'_>,
    (entry, shape): (&Entry, &Shape),
    (words, vector): (&str, Option<Vec<u8>>),
) -> Result<()> {
    store::insert(tx, entry, words, vector)?;
    store::mark(tx, &shape.marks(&entry.audience()), &entry.id)?;
    tell(scope, tx, ("dev.baton.memory.written", entry), None)?;
    let there = store::count(tx, 1)?;
    make_room(scope, tx, there, tenants::of(scope, tx).memory_entries)
}

/// Lets the entries go that are worth least, of those that are `there`, until there are `most`.
fn make_room(scope: &Scope, tx: &mut Tx<'_>, there: i64, most: u64) -> Result<()> {
    let over = there - i64::try_from(most).unwrap_or(i64::MAX);
    if over > 0 {
        for least in store::least(tx, over.min(BATCH.into()))? {
            drop_entry(scope, tx, &least, Cause::Quota)?;
        }
    }
    Ok(())
}

/// Whether an entry was last written longer ago than its tenant keeps any.
fn is_outlived(scope: &Scope, tx: &Tx<'_>, entry: &Entry) -> bool {
    let retention = tenants::of(scope, tx).memory_retention;
    retention.is_some_and(|retention| entry.updated_at + retention <= scope.now())
}

/// Removes what has expired, what died with its task and what is more, or older, than its tenant keeps, over all tenants, and
/// says how many that were. Any number of processes may do so at once.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    let now = system.clock().now();
    let expired = system.survey(move |tx| store::expired(tx, now, BATCH));
    let expired = expired.await?;
    let orphaned = system.survey(|tx| store::orphaned(tx, BATCH)).await?;
    let retained = system.allowances();
    let retained = retained.which(|allowance| allowance.memory_retention.is_some());
    let oldest = retained.into_iter().filter_map(|(tenant, allowance)| {
        let age = i64::try_from(allowance.memory_retention?.as_micros()).ok()?;
        Some((tenant, Time::from_micros(now.as_micros() - age)))
    });
    let oldest: Vec<_> = oldest.collect();
    let outlived = system.survey(move |tx| store::older(tx, &oldest, BATCH));
    let outlived = outlived.await?;
    let expired = expired.into_iter().map(|place| (place, Cause::Expired));
    let orphaned = orphaned.into_iter().map(|place| (place, Cause::TaskEnded));
    let outlived = outlived.into_iter().map(|place| (place, Cause::Retention));
    let gone: Vec<_> = expired.chain(orphaned).chain(outlived).collect();
    let count = gone.len();
    let rounds = gone.into_iter().map(|((tenant, id), cause)| {
        let ctx = system.on_behalf_of(tenant);
        async move {
            ctx.write(move |scope, tx| {
                // Another process may have been here, or a task may run again.
                let is_there = store::find(tx, &id, scope.now())?.is_some();
                match store::row(tx, &id)? {
                    Some(entry) if !is_there || is_outlived(scope, tx, &entry) => {
                        drop_entry(scope, tx, &entry, cause)
                    }
                    _ => Ok(()),
                }
            })
            .await
        }
    });
    let rounds = join_all(rounds).await;
    rounds.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(count + shrink(system).await?)
}

/// Lets entries go where there are more than their tenant may have by now, and says of how many tenants.
async fn shrink(system: &System) -> Result<usize> {
    let totals = system.survey(store::totals).await?;
    let allowances = system.allowances();
    let over = totals
        .into_iter()
        .filter(|(tenant, entries)| *entries > allowances.of(tenant).memory_entries);
    let over: Vec<_> = over.map(|(tenant, _)| tenant).collect();
    for tenant in &over {
        let ctx = system.on_behalf_of(tenant.clone());
        let made = ctx.write(|scope, tx| {
            let there = store::count(tx, 0)?;
            make_room(scope, tx, there, tenants::of(scope, tx).memory_entries)
        });
        made.await?;
    }
    Ok(over.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::app::App;
    use crate::id::TenantId;

    #[tokio::test]
    async fn past_the_quota_what_is_old_and_matters_little_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::on(folder.path());
        let ctx = app.system.ctx(TenantId::default_tenant(), "test");
        for (content, importance) in [
            ("The door code is on the board.", 0.9),
            ("Somebody liked the old logo.", 0.1),
            ("Backups run at four.", 0.5),
            ("The printer is on floor two.", 0.4),
        ] {
            let input = json!({"agent_id": "ada", "content": content, "importance": importance});
            let input = input.as_object().unwrap().clone();
            let written = app.catalog.call(ctx.clone(), "memory_write", input).await;
            assert!(written.is_ok());
        }
        ctx.write(|scope, tx| make_room(scope, tx, 4, 2))
            .await
            .unwrap();
        let left = ctx.read(|_, tx| store::least(tx, 10)).await.unwrap();
        let left: Vec<&str> = left.iter().map(|entry| entry.content.as_str()).collect();
        assert_eq!(
            left,
            ["Backups run at four.", "The door code is on the board."]
        );
        let log = ctx.read(|_, tx| events::after(tx, 4, 10)).await.unwrap();
        assert_eq!(log.len(), 2);
        assert!(log.iter().all(|event| event.data["cause"] == "quota"));
        app.stop().await;
    }
}
