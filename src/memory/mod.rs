//! What agents remember: entries of a tenant, found again by words and by meaning, without a model or service elsewhere.
//!
//! `rank` is pure; `index` is what search needs of one tenant, `shelf` keeps such indexes up to date with the log; `ops`
//! declares what callers may do, `write`, `read` and `audit` do it; `keep` is what time and quota remove.

mod audit;
mod index;
mod keep;
mod ops;
mod rank;
mod read;
mod shelf;
mod store;
mod write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::{AgentId, MemoryId, TaskId};
use crate::language::Vector;
use crate::language::words::Word;
use crate::store::Tx;

pub use keep::tick;
pub use ops::{operations, resources};

/// How long an entry lives. (Variants are told apart by comments alone: each doc comment would be a `oneOf` of its own.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    // Until its task ends.
    ShortTerm,
    // Across tasks.
    LongTerm,
}

impl Kind {
    /// As everywhere outside.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ShortTerm => "short_term",
            Self::LongTerm => "long_term",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        match name {
            "short_term" => Ok(Self::ShortTerm),
            "long_term" => Ok(Self::LongTerm),
            other => Err(Error::internal(format!("no kind of memory: {other}"))),
        }
    }
}

/// Who may know of an entry. (Outside it is called scope.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    // The agent that wrote it.
    Agent,
    // Everybody in the tenant.
    Shared,
    // Who works on its task, and the agent that wrote it.
    Task,
}

impl Reach {
    /// As everywhere outside.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Shared => "shared",
            Self::Task => "task",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        match name {
            "agent" => Ok(Self::Agent),
            "shared" => Ok(Self::Shared),
            "task" => Ok(Self::Task),
            other => Err(Error::internal(format!("no scope of memory: {other}"))),
        }
    }
}

/// Tags of an entry at most.
const TAGS: usize = 20;

/// One entry.
#[derive(Debug, Clone)]
struct Entry {
    id: MemoryId,
    agent_id: AgentId,
    kind: Kind,
    reach: Reach,
    task_id: Option<TaskId>,
    content: String,
    tags: Vec<String>,
    importance: f64,
    created_at: Time,
    created_by: String,
    updated_at: Time,
    expires_at: Option<Time>,
    supersedes: Vec<MemoryId>,
    superseded_by: Option<MemoryId>,
    /// When it was last read, within a day.
    seen_at: Option<Time>,
}

impl Entry {
    /// Among whom it must not be said twice.
    fn audience(&self) -> String {
        match (self.reach, &self.task_id) {
            (Reach::Task, Some(task)) => format!("task {task}"),
            (Reach::Shared, _) => "shared".into(),
            _ => format!("agent {}", self.agent_id),
        }
    }

    /// By what entries are told apart when some must go: the least first. What is superseded goes before its equals.
    fn worth(&self) -> i64 {
        const DAY: f64 = 86_400e6;
        let importance = if self.superseded_by.is_some() {
            0.0
        } else {
            self.importance
        };
        #[expect(clippy::cast_possible_truncation, reason = "a few hundred days")]
        let worth = (rank::worth_days(importance) * DAY) as i64;
        self.updated_at.as_micros().saturating_add(worth)
    }

    fn place(&self) -> (Reach, &AgentId, Option<&TaskId>) {
        (self.reach, &self.agent_id, self.task_id.as_ref())
    }
}

/// What search knows of an entry besides its words and vector.
#[derive(Debug, Clone)]
struct Facts {
    id: MemoryId,
    agent_id: AgentId,
    kind: Kind,
    reach: Reach,
    task_id: Option<TaskId>,
    tags: Vec<String>,
    importance: f64,
    updated_at: Time,
    expires_at: Option<Time>,
}

/// What is searched for.
#[derive(Clone)]
struct Query {
    words: Vec<Word>,
    vector: Option<Vector>,
    eyes: Eyes,
    kind: Option<Kind>,
    tags: Vec<String>,
    now: Time,
}

impl Query {
    /// Whether it asks for a part of the entries only.
    fn is_narrow(&self) -> bool {
        self.kind.is_some() || !self.tags.is_empty() || !matches!(self.eyes, Eyes::All)
    }

    /// Whether it asks for such entries, and may see this one.
    fn asks_for(&self, facts: &Facts) -> bool {
        facts
            .expires_at
            .is_none_or(|expires_at| expires_at > self.now)
            && self.kind.is_none_or(|kind| kind == facts.kind)
            && self.tags.iter().all(|tag| facts.tags.contains(tag))
            && self
                .eyes
                .see((facts.reach, &facts.agent_id, facts.task_id.as_ref()))
    }
}

/// Whose eyes look at entries.
#[derive(Debug, Clone)]
enum Eyes {
    /// They see all of the tenant.
    All,
    /// They see what these agents may know, and what belongs to the task that they work on.
    Of(Vec<AgentId>, Option<TaskId>),
}

impl Eyes {
    /// Those of the agent that a caller names; else of all for whom its credential speaks.
    fn of(scope: &Scope, agent_id: Option<&AgentId>, task_id: Option<&TaskId>) -> Self {
        let bound = scope.principal().map(|principal| &principal.grant.agents);
        let agents = match (agent_id, bound) {
            (Some(agent), _) => vec![agent.clone()],
            (None, Some(agents)) if !agents.is_empty() => agents.clone(),
            _ => return Self::All,
        };
        Self::Of(agents, task_id.cloned())
    }

    fn see(&self, (reach, agent, task): (Reach, &AgentId, Option<&TaskId>)) -> bool {
        match self {
            Self::All => true,
            Self::Of(agents, at_work) => {
                reach == Reach::Shared
                    || agents.contains(agent)
                    || (reach == Reach::Task && task.is_some() && task == at_work.as_ref())
            }
        }
    }
}

/// The entry, if it is there and these eyes see it.
fn find(scope: &Scope, tx: &mut Tx<'_>, id: &MemoryId, eyes: &Eyes) -> Result<Entry> {
    let found = store::find(tx, id, scope.now())?;
    let found = found.filter(|entry| eyes.see(entry.place()));
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: &MemoryId) -> Error {
    Error::not_found("unknown_memory", format!("there is no memory {id}"))
}
