//! `memory_audit`: what is said twice, perhaps out of date, stale or never read. It looks at some entries at a time, and
//! compares each with what a search for its own words finds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keep::{self, Cause};
use super::read::{self, List};
use super::shelf::Shelf;
use super::{Entry, Eyes, Query, store};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::Result;
use crate::id::{AgentId, MemoryId};
use crate::language::{Shape, embed, words};
use crate::store::Tx;

/// Whose cursors these are.
const LIST: &str = "memory_audit";
/// What each entry is compared with.
const NEIGHBOURS: usize = 6;
/// The cosine from which on one may be an update of the other.
const NEAR: f64 = 0.85;
/// Days after which it tells something that an entry was never read.
const UNREAD: u64 = 30;
/// What matters at least so much is never stale.
const MATTERS: f64 = 0.5;

/// What to look through.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Audit {
    /// Only what this agent remembers
    agent_id: Option<AgentId>,
    /// Whether to look only (default); otherwise duplicates are merged and stale entries forgotten
    #[serde(default = "yes")]
    dry_run: bool,
    /// Days without being said or read after which what matters little is stale
    #[serde(default = "ninety")]
    #[schemars(range(min = 1, max = 3650))]
    stale_days: u32,
    /// How many entries to look at
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the last audit ended: its `next_cursor`
    cursor: Option<String>,
}

const fn yes() -> bool {
    true
}

const fn ninety() -> u32 {
    90
}

const fn fifty() -> u32 {
    50
}

/// What was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Audited {
    /// How many entries were looked at
    looked_at: usize,
    /// What is wrong with them
    findings: Vec<Finding>,
    /// Duplicates that were merged and stale entries that were forgotten
    removed: Vec<MemoryId>,
    /// Leads to the next entries; absent when all were looked at
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What is wrong. (Variants are told apart by comments alone.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Problem {
    // Both say the same: the younger one can go.
    Duplicate,
    // One may be an update of the other, or contradict it: supersede the elder if so.
    PerhapsOutdated,
    // Both are about the same and have no tag in common.
    TagsDisagree,
    // Neither said nor read for long, and it matters little.
    Stale,
    // Never read since it was written.
    NeverRead,
}

/// Something that is wrong with one entry or two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
struct Finding {
    /// What
    problem: Problem,
    /// The entries, the elder first
    memory_ids: Vec<MemoryId>,
}

pub(super) async fn audit(ctx: Ctx, input: Audit, shelf: Arc<Shelf>) -> Result<Audited> {
    let listed = input.clone();
    let (entries, next_cursor) = ctx.read(move |scope, tx| page(scope, tx, &listed)).await?;
    let now = ctx.clock().now();
    let mut findings = BTreeSet::new();
    for entry in &entries {
        findings.extend(alone(entry, now, input.stale_days));
        for (other, cosine) in neighbours(&ctx, &shelf, entry).await? {
            findings.extend(together(entry, &other, cosine));
        }
    }
    let findings: Vec<Finding> = findings.into_iter().collect();
    let mut removed = Vec::new();
    if !input.dry_run {
        let found = findings.clone();
        let days = input.stale_days;
        removed = ctx
            .write(move |scope, tx| mend(scope, tx, &found, days))
            .await?;
    }
    Ok(Audited {
        looked_at: entries.len(),
        findings,
        removed,
        next_cursor,
    })
}

fn page(scope: &Scope, tx: &mut Tx<'_>, input: &Audit) -> Result<(Vec<Entry>, Option<String>)> {
    let position = input.cursor.as_deref();
    let position = position.map(|cursor| tx.seal(LIST)?.open(cursor));
    let position = position.transpose()?;
    let list = List::of(input.agent_id.clone(), input.limit);
    let (entries, next) = read::page(scope, tx, &list, position)?;
    let next = next.map(|next| tx.seal(LIST).map(|seal| seal.close(&next)));
    Ok((entries, next.transpose()?))
}

/// The entries for the same audience that are nearest to one, with their cosines.
async fn neighbours(ctx: &Ctx, shelf: &Shelf, entry: &Entry) -> Result<Vec<(Entry, f64)>> {
    let words = words::of(&entry.content);
    let query = Query {
        vector: embed(&words),
        words,
        eyes: Eyes::All,
        kind: None,
        tags: Vec::new(),
        now: ctx.clock().now(),
    };
    let found = shelf.search(ctx, query, NEIGHBOURS).await?;
    let ids: Vec<MemoryId> = found.iter().map(|found| found.id.clone()).collect();
    let read = ctx.read(move |scope, tx| store::find_all(tx, &ids, scope.now()));
    let others = read.await?.into_iter();
    let others =
        others.filter(|other| other.id != entry.id && other.audience() == entry.audience());
    let cosine = |other: &Entry| {
        let found = found.iter().find(|found| found.id == other.id);
        found
            .and_then(|found| found.fused.similarity)
            .unwrap_or(0.0)
    };
    Ok(others
        .map(|other| (cosine(&other), other))
        .map(|(cosine, other)| (other, cosine))
        .collect())
}

/// What is wrong with an entry by itself.
fn alone(entry: &Entry, now: Time, stale_days: u32) -> Option<Finding> {
    let days = |days: u64| Duration::from_hours(24 * days);
    let last = entry
        .seen_at
        .map_or(entry.updated_at, |seen| seen.max(entry.updated_at));
    let problem = if entry.importance < MATTERS && now.since(last) >= days(stale_days.into()) {
        Problem::Stale
    } else if entry.seen_at.is_none() && now.since(entry.created_at) >= days(UNREAD) {
        Problem::NeverRead
    } else {
        return None;
    };
    Some(Finding {
        problem,
        memory_ids: vec![entry.id.clone()],
    })
}

/// What is wrong with two entries for the same audience.
fn together(one: &Entry, other: &Entry, cosine: f64) -> Vec<Finding> {
    let (elder, younger) = if one.id < other.id {
        (one, other)
    } else {
        (other, one)
    };
    let [a, b] = [elder, younger].map(|entry| Shape::of(&words::of(&entry.content)));
    let mut problems = Vec::new();
    if a.is_duplicate_of(&b) {
        problems.push(Problem::Duplicate);
    } else if a.is_related_to(&b) || cosine >= NEAR {
        problems.push(Problem::PerhapsOutdated);
    } else {
        return Vec::new();
    }
    let (tags, others) = (&elder.tags, &younger.tags);
    if !tags.is_empty() && !others.is_empty() && tags.iter().all(|tag| !others.contains(tag)) {
        problems.push(Problem::TagsDisagree);
    }
    let finding = |problem| Finding {
        problem,
        memory_ids: vec![elder.id.clone(), younger.id.clone()],
    };
    problems.into_iter().map(finding).collect()
}

/// Merges duplicates and forgets what is stale, as far as it still is so and is the caller's to change.
fn mend(
    scope: &Scope,
    tx: &mut Tx<'_>,
    findings: &[Finding],
    stale_days: u32,
) -> Result<Vec<MemoryId>> {
    let mut removed = Vec::new();
    for finding in findings {
        let entries = store::find_all(tx, &finding.memory_ids, scope.now())?;
        let is_as_found = entries.len() == finding.memory_ids.len()
            && entries
                .iter()
                .all(|entry| entry.superseded_by.is_none() && keep::is_own(scope, entry));
        let mut entries = entries.into_iter().filter(|_| is_as_found);
        match (finding.problem, entries.next(), entries.next()) {
            (Problem::Duplicate, Some(elder), Some(younger))
                if together(&elder, &younger, 0.0).contains(finding) =>
            {
                keep::drop_entry(scope, tx, &younger, Cause::Duplicate)?;
                removed.push(younger.id.clone());
                keep::merge(scope, tx, elder, &younger)?;
            }
            (Problem::Stale, Some(entry), None)
                if alone(&entry, scope.now(), stale_days).as_ref() == Some(finding) =>
            {
                keep::drop_entry(scope, tx, &entry, Cause::Stale)?;
                removed.push(entry.id);
            }
            _ => {}
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::app::App;
    use crate::id::TenantId;

    /// Calls refuse to say anything twice, but what came in at once, or long ago, may be there twice.
    #[tokio::test]
    async fn what_is_there_twice_is_merged_into_the_elder() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::on(folder.path());
        let ctx = app.system.ctx(TenantId::default_tenant(), "test");
        let call = async |name: &str, input: Value| {
            let input = input.as_object().unwrap().clone();
            app.catalog.call(ctx.clone(), name, input).await.unwrap()
        };
        let input =
            json!({"agent_id": "ada", "content": "Deploys need two approvals.", "tags": ["a"]});
        let first = call("memory_write", input).await["memory_id"].clone();
        let elder: MemoryId = first.as_str().unwrap().parse().unwrap();
        let again = ctx.write(move |scope, tx| {
            let mut twin = store::row(tx, &elder)?.expect("it was written");
            twin.id = format!("{elder}-again").parse().expect("an id");
            (twin.tags, twin.importance) = (vec!["b".to_owned()], 0.9);
            store::insert(tx, &twin, "deploys need two approvals", None)?;
            store::count(tx, 1)?;
            keep::tell(scope, tx, ("dev.baton.memory.written", &twin), None)?;
            Ok(twin.id)
        });
        let again = again.await.unwrap();
        let dry = call("memory_audit", json!({})).await;
        let pair = json!({"problem": "duplicate", "memory_ids": [first, again]});
        assert_eq!(dry["findings"][0], pair);
        let done = call("memory_audit", json!({"dry_run": false})).await;
        assert_eq!(done["removed"], json!([again]));
        let left = call("memory_list", json!({})).await;
        let left = &left["memories"].as_array().unwrap()[..];
        assert_eq!(left.len(), 1);
        assert_eq!(
            (&left[0]["memory_id"], &left[0]["importance"]),
            (&first, &json!(0.9))
        );
        assert_eq!(left[0]["tags"], json!(["a", "b"]));
        let after = call("memory_audit", json!({})).await;
        assert_eq!(after["findings"], json!([]));
        app.stop().await;
    }
}
