//! `memory_search`, `memory_get` and `memory_list`.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::index::Found;
use super::shelf::Shelf;
use super::{Entry, Eyes, Kind, Query, Reach, find, store};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::Result;
use crate::id::{AgentId, MemoryId, TaskId};
use crate::language::{embed, words};
use crate::page::Position;
use crate::store::Tx;

/// Whose cursors these are.
const LIST: &str = "memory_list";
/// How long it is not noted again that an entry was read.
const SEEN: Duration = Duration::from_hours(24);

/// What to search for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Search {
    /// A question or a few words
    #[schemars(length(min = 1, max = 1000))]
    query: String,
    /// Who asks: sees its own entries and shared ones. Without it, the whole tenant's
    agent_id: Option<AgentId>,
    /// The task that it works on, whose entries it sees too
    task_id: Option<TaskId>,
    /// Only entries of this kind
    kind: Option<Kind>,
    /// Only entries that have all of these
    #[serde(default)]
    #[schemars(length(max = 20), inner(length(min = 1, max = 64)))]
    tags: Vec<String>,
    /// How many at most
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 50))]
    limit: u32,
}

const fn ten() -> u32 {
    10
}

/// What was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Hits {
    /// Best first
    hits: Vec<Hit>,
}

/// An entry that was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Hit {
    /// The entry
    memory_id: MemoryId,
    /// Who remembers
    agent_id: AgentId,
    /// What it says
    content: String,
    /// How well it answers, against the others of this answer
    score: f64,
    /// Why it was found
    why: Why,
    /// Who may know
    scope: Reach,
    /// Its tags
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// How much it matters
    importance: f64,
    /// When it was last said
    updated_at: Time,
}

/// Why an entry was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Why {
    /// The words of the query that it has, or what stands in for one that nobody ever used
    words: Vec<String>,
    /// The share of the query that these words make up
    coverage: f64,
    /// Its place by words
    #[serde(skip_serializing_if = "Option::is_none")]
    by_words: Option<usize>,
    /// How near its meaning is, at most 1
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<f64>,
    /// Its place by meaning
    #[serde(skip_serializing_if = "Option::is_none")]
    by_meaning: Option<usize>,
}

impl Hit {
    fn of(entry: Entry, found: Found) -> Self {
        let rounded = |number: f64| (number * 10_000.0).round() / 10_000.0;
        Self {
            memory_id: entry.id,
            agent_id: entry.agent_id,
            content: entry.content,
            score: rounded(found.score),
            why: Why {
                words: found.words,
                coverage: rounded(found.fused.coverage),
                by_words: found.fused.by_words,
                similarity: found.fused.similarity.map(rounded),
                by_meaning: found.fused.by_meaning,
            },
            scope: entry.reach,
            tags: entry.tags,
            importance: entry.importance,
            updated_at: entry.updated_at,
        }
    }
}

pub(super) async fn search(ctx: Ctx, input: Search, shelf: Arc<Shelf>) -> Result<Hits> {
    let scope = ctx.scope();
    let words = words::of(&input.query);
    let query = Query {
        vector: embed(&words),
        words,
        eyes: Eyes::of(&scope, input.agent_id.as_ref(), input.task_id.as_ref()),
        kind: input.kind,
        tags: input.tags,
        now: scope.now(),
    };
    let limit = usize::try_from(input.limit).unwrap_or(usize::MAX);
    // Some may have died with their tasks, which the index does not know.
    let mut found = shelf.search(&ctx, query, limit + 50).await?;
    let ids: Vec<MemoryId> = found.iter().map(|found| found.id.clone()).collect();
    let read = ctx.read(move |scope, tx| {
        // Most are there: the others are read when one is not.
        let (first, others) = ids.split_at(limit.min(ids.len()));
        let mut entries = store::find_all(tx, first, scope.now())?;
        if entries.len() < first.len() {
            entries.extend(store::find_all(tx, others, scope.now())?);
        }
        Ok(entries)
    });
    let mut entries = read.await?;
    entries.truncate(limit);
    note_seen(&ctx, &entries).await;
    let hits = entries.into_iter().filter_map(|entry| {
        let at = found.iter().position(|found| found.id == entry.id)?;
        Some(Hit::of(entry, found.swap_remove(at)))
    });
    Ok(Hits {
        hits: hits.collect(),
    })
}

/// Notes that entries were read, once a day each. That it could not be noted is no reason not to answer.
async fn note_seen(ctx: &Ctx, entries: &[Entry]) {
    let now = ctx.clock().now();
    let is_new = |entry: &&Entry| entry.seen_at.is_none_or(|seen| now.since(seen) >= SEEN);
    let ids: Vec<MemoryId> = entries
        .iter()
        .filter(is_new)
        .map(|it| it.id.clone())
        .collect();
    if ids.is_empty() {
        return;
    }
    let noted = ctx.write(move |scope, tx| {
        ids.iter()
            .try_for_each(|id| store::seen(tx, id, scope.now()))
    });
    if let Err(error) = noted.await {
        tracing::warn!(error = ?error, "that memory was read could not be noted");
    }
}

/// Which entry.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct One {
    /// The entry
    pub(super) memory_id: MemoryId,
    /// Who asks, where only what that agent may know is wanted
    pub(super) agent_id: Option<AgentId>,
    /// The task that it works on
    pub(super) task_id: Option<TaskId>,
}

/// An entry, whole.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct View {
    /// The entry
    memory_id: MemoryId,
    /// Who remembers
    agent_id: AgentId,
    /// How long it lives
    kind: Kind,
    /// Who may know
    scope: Reach,
    /// What it says
    content: String,
    /// Its tags
    tags: Vec<String>,
    /// How much it matters, 0 to 1
    importance: f64,
    /// Where it is from
    provenance: Provenance,
    /// When it was last said
    updated_at: Time,
    /// When it is to be forgotten
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    /// What it replaced
    #[serde(skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<MemoryId>,
    /// What replaced it
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<MemoryId>,
    /// When it was last read before, within a day
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_at: Option<Time>,
}

/// Where an entry is from.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Provenance {
    /// Who wrote it, as the log shows him
    by: String,
    /// From which task
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    /// When
    at: Time,
}

impl View {
    pub(super) fn of(entry: Entry) -> Self {
        Self {
            memory_id: entry.id,
            agent_id: entry.agent_id,
            kind: entry.kind,
            scope: entry.reach,
            content: entry.content,
            tags: entry.tags,
            importance: entry.importance,
            provenance: Provenance {
                by: entry.created_by,
                task_id: entry.task_id,
                at: entry.created_at,
            },
            updated_at: entry.updated_at,
            expires_at: entry.expires_at,
            supersedes: entry.supersedes,
            superseded_by: entry.superseded_by,
            seen_at: entry.seen_at,
        }
    }
}

pub(super) async fn get(ctx: Ctx, input: One) -> Result<View> {
    let read = ctx.read(move |scope, tx| {
        let eyes = Eyes::of(scope, input.agent_id.as_ref(), input.task_id.as_ref());
        find(scope, tx, &input.memory_id, &eyes)
    });
    let entry = read.await?;
    note_seen(&ctx, std::slice::from_ref(&entry)).await;
    Ok(View::of(entry))
}

/// What to list.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct List {
    /// Only what this agent remembers
    agent_id: Option<AgentId>,
    /// Only entries of this kind
    kind: Option<Kind>,
    /// Only entries of this scope
    scope: Option<Reach>,
    /// Only entries from this task
    task_id: Option<TaskId>,
    /// Only entries that have all of these
    #[serde(default)]
    #[schemars(length(max = 20), inner(length(min = 1, max = 64)))]
    tags: Vec<String>,
    /// Superseded ones too
    #[serde(default)]
    include_superseded: bool,
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the last page ended: its `next_cursor`
    cursor: Option<String>,
}

impl List {
    /// Everything that an agent remembers, or all agents, so many at a time.
    pub(super) fn of(agent_id: Option<AgentId>, limit: u32) -> Self {
        Self {
            agent_id,
            kind: None,
            scope: None,
            task_id: None,
            tags: Vec::new(),
            include_superseded: false,
            limit,
            cursor: None,
        }
    }
}

const fn fifty() -> u32 {
    50
}

/// A page of entries.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// The entries, newest first
    pub(super) memories: Vec<View>,
    /// Leads to the next page; absent on the last
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}

pub(super) fn list(scope: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let position = input.cursor.as_deref();
    let position = position.map(|cursor| tx.seal(LIST)?.open(cursor));
    let position = position.transpose()?;
    let (entries, next) = page(scope, tx, input, position)?;
    Ok(Listed {
        memories: entries.into_iter().map(View::of).collect(),
        next_cursor: next
            .map(|next| tx.seal(LIST).map(|seal| seal.close(&next)))
            .transpose()?,
    })
}

/// A page of what the caller may see, and where the next one begins. Few match where few are looked for, so no more than
/// some are looked at for one page.
pub(super) fn page(
    scope: &Scope,
    tx: &mut Tx<'_>,
    input: &List,
    position: Option<Position>,
) -> Result<(Vec<Entry>, Option<Position>)> {
    const ROUNDS: usize = 10;
    let eyes = Eyes::of(scope, input.agent_id.as_ref(), input.task_id.as_ref());
    let filter = store::Filter {
        agent_id: input.agent_id.as_ref(),
        kind: input.kind,
        reach: input.scope,
        task_id: input.task_id.as_ref(),
        all: input.include_superseded,
    };
    let limit = usize::try_from(input.limit).unwrap_or(usize::MAX);
    let (mut found, mut before) = (Vec::new(), position.map(|position| position.id));
    for _ in 0..ROUNDS {
        let rows = store::list(tx, &filter, before.as_deref(), scope.now(), input.limit + 1)?;
        let is_last = rows.len() <= limit;
        for entry in rows.into_iter().take(limit) {
            if found.len() == limit {
                return Ok((found, before.map(|id| Position { key: 0, id })));
            }
            before = Some(entry.id.to_string());
            if eyes.see(entry.place()) && input.tags.iter().all(|tag| entry.tags.contains(tag)) {
                found.push(entry);
            }
        }
        if is_last {
            return Ok((found, None));
        }
    }
    Ok((found, before.map(|id| Position { key: 0, id })))
}
