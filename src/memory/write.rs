//! `memory_write` and `memory_forget`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keep::{self, Cause};
use super::read::One;
use super::{Entry, Eyes, Kind, Reach, find, store};
use crate::allowance::Quota;
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::id::{AgentId, MemoryId, TaskId};
use crate::language::{Shape, embed, words};
use crate::store::Tx;
use crate::tenants;

/// What to remember.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Write {
    /// Who remembers
    agent_id: AgentId,
    /// One fact, decision or lesson, understandable by itself
    #[schemars(length(min = 1, max = 8000))]
    content: String,
    /// `short_term` ends with its task, `long_term` (default) does not
    #[serde(default = "long_term")]
    kind: Kind,
    /// Who may know: agent (default) only this agent, shared everybody in the tenant, task who works on the task
    #[serde(default = "agent")]
    scope: Reach,
    /// The task that it is from; `short_term` and the scope task need it
    task_id: Option<TaskId>,
    /// Words to narrow searches and lists down by
    #[serde(default)]
    #[schemars(length(max = 20), inner(length(min = 1, max = 64)))]
    tags: Vec<String>,
    /// How much it matters, 0 to 1
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    importance: f64,
    /// When it is to be forgotten
    expires_at: Option<Time>,
    /// Entries that this one replaces; they are kept, and found no more
    #[serde(default)]
    #[schemars(length(max = 20))]
    supersedes: Vec<MemoryId>,
}

const fn long_term() -> Kind {
    Kind::LongTerm
}

const fn agent() -> Reach {
    Reach::Agent
}

const fn half() -> f64 {
    0.5
}

/// What is to be remembered, made ready.
pub(super) struct Draft {
    entry: Entry,
    shape: Shape,
    words: String,
    vector: Option<Vec<u8>>,
}

/// What became of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Written {
    /// The entry
    memory_id: MemoryId,
    /// False when an entry said so already, which now stands for both
    created: bool,
    /// What the entry says, where that is not what was sent
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Entries that are found no more
    #[serde(skip_serializing_if = "Vec::is_empty")]
    superseded: Vec<MemoryId>,
}

pub(super) fn draft(scope: &Scope, input: Write) -> Result<Draft> {
    let needs_task = input.kind == Kind::ShortTerm || input.scope == Reach::Task;
    if needs_task && input.task_id.is_none() {
        let message = "short_term and the scope task are about one task: name it";
        return Err(Error::invalid_at("/task_id", message));
    }
    if input.content.trim().is_empty() {
        return Err(Error::invalid_at("/content", "say something"));
    }
    if input.expires_at.is_some_and(|time| time <= scope.now()) {
        return Err(Error::invalid_at("/expires_at", "it is past already"));
    }
    let (mut tags, mut supersedes) = (input.tags, input.supersedes);
    tags.sort();
    tags.dedup();
    supersedes.sort();
    supersedes.dedup();
    let found = words::of(&input.content);
    Ok(Draft {
        shape: Shape::of(&found),
        words: words::indexed(&found).join(" "),
        vector: embed(&found).map(|vector| vector.to_bytes()),
        entry: Entry {
            id: MemoryId::mint(scope.now(), scope.random()),
            agent_id: input.agent_id,
            kind: input.kind,
            reach: input.scope,
            task_id: input.task_id,
            content: input.content,
            tags,
            importance: input.importance,
            created_at: scope.now(),
            created_by: scope.actor().to_owned(),
            updated_at: scope.now(),
            expires_at: input.expires_at,
            supersedes,
            superseded_by: None,
            seen_at: None,
        },
    })
}

pub(super) fn write(scope: &Scope, tx: &mut Tx<'_>, draft: &Draft) -> Result<Written> {
    let entry = &draft.entry;
    // One that may have none would lose each as soon as it is there.
    tenants::of(scope, tx).admit(Quota::MaxMemoryEntries, 0, 1)?;
    check_task(tx, entry)?;
    let eyes = Eyes::Of(vec![entry.agent_id.clone()], entry.task_id.clone());
    let old = entry.supersedes.iter();
    let old = old.map(|id| find(scope, tx, id, &eyes));
    let old = old.collect::<Result<Vec<Entry>>>()?;
    let twin = keep::twin(scope, tx, entry, &draft.shape)?;
    let twin = twin.filter(|twin| !entry.supersedes.contains(&twin.id));
    let id = twin.as_ref().map_or(&entry.id, |twin| &twin.id).clone();
    for old in old {
        match &old.superseded_by {
            None => keep::supersede(scope, tx, old, &id)?,
            Some(by) if *by == id => {}
            Some(by) => {
                let message = format!("{} is superseded by {by}; supersede that one", old.id);
                return Err(Error::conflict("memory_superseded", message));
            }
        }
    }
    let mut content = None;
    let created = twin.is_none();
    if let Some(twin) = twin {
        let merged = keep::merge(scope, tx, twin, entry)?;
        content = Some(merged.content).filter(|content| *content != entry.content);
    } else {
        let found = (draft.words.as_str(), draft.vector.clone());
        keep::take_up(scope, tx, (entry, &draft.shape), found)?;
    }
    Ok(Written {
        memory_id: id,
        created,
        content,
        superseded: entry.supersedes.clone(),
    })
}

/// A task that an entry is about exists; what would die with it at once is refused.
fn check_task(tx: &mut Tx<'_>, entry: &Entry) -> Result<()> {
    let Some(id) = &entry.task_id else {
        return Ok(());
    };
    match store::task_state(tx, id)?.as_deref() {
        None => Err(Error::not_found(
            "unknown_task",
            format!("there is no task {id}"),
        )),
        Some("completed" | "failed" | "cancelled") if entry.kind == Kind::ShortTerm => {
            let message = format!("{id} has ended, and short_term memory with it; use long_term");
            Err(Error::conflict("task_already_ended", message))
        }
        Some(_) => Ok(()),
    }
}

/// What became of an entry.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Forgotten {
    /// The entry
    memory_id: MemoryId,
    /// Always true
    forgotten: bool,
}

pub(super) fn forget(scope: &Scope, tx: &mut Tx<'_>, input: &One) -> Result<Forgotten> {
    let eyes = Eyes::of(scope, input.agent_id.as_ref(), input.task_id.as_ref());
    let entry = find(scope, tx, &input.memory_id, &eyes)?;
    if !keep::is_own(scope, &entry) {
        let message = format!("{} is another agent's to forget", entry.id);
        return Err(Error::new(ErrorKind::Forbidden, "forbidden", message));
    }
    keep::drop_entry(scope, tx, &entry, Cause::Asked)?;
    Ok(Forgotten {
        memory_id: entry.id,
        forgotten: true,
    })
}
