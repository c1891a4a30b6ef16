//! Tasks: what an orchestrator asks for, who works on it, and how it goes.
//!
//! `state` is the pure state machine, `life` the pure decisions about one task, `settle` what follows from them, `store`
//! the SQL, `reap` the worker that acts when time runs out. What callers may do is `orchestrator`'s, `executor`'s and
//! `end_task`'s.

pub mod counts;
mod life;
pub mod reap;
pub(crate) mod recent;
pub(crate) mod report;
pub(crate) mod settle;
mod state;
pub(crate) mod store;
pub(crate) mod view;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Time;
use crate::id::{AgentId, LeaseToken, TaskId};
use crate::trace::Trace;

pub use life::{Ending, Lease};
pub(crate) use report::Account;
pub use report::Report;
pub(crate) use settle::{end, requeue, tell, tell_with};
pub use state::{Message, Reason, State, TransitionError};
pub(crate) use view::Brief;

/// How urgent a task is; the best comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// As soon as possible.
    Urgent,
    /// Before the ordinary.
    High,
    /// The ordinary.
    #[default]
    #[serde(alias = "medium")]
    Normal,
    /// When there is nothing better to do.
    Low,
}

impl Priority {
    const ALL: [Self; 5] = [
        Self::Critical,
        Self::Urgent,
        Self::High,
        Self::Normal,
        Self::Low,
    ];

    /// What the database sorts by: 0 is the most urgent.
    pub(crate) fn rank(self) -> i64 {
        self as i64
    }

    pub(crate) fn from_rank(rank: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(rank).ok()?).copied()
    }
}

impl JsonSchema for Priority {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Priority".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "enum": ["critical", "urgent", "high", "normal", "low", "medium"],
            "default": "normal",
        })
    }
}

/// What kind of work a task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskType {
    CodeGeneration,
    Analysis,
    Research,
    Testing,
    Deployment,
    Documentation,
    DataProcessing,
    Integration,
    Review,
    #[default]
    Custom,
    Manager,
    Frontend,
    Backend,
    Database,
    Devops,
    Qa,
}

/// What becomes of a task when one that it depends on ends otherwise than completed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDependencyFailure {
    #[default]
    Cancel,
    Run,
}

/// Who dispatched a task.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OrchestratorInfo {
    /// The orchestrator's id
    pub agent_id: AgentId,
    /// When it decided to dispatch
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
    /// Ties together what belongs together
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub correlation_id: Option<String>,
}

/// Bounds of an attempt.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct ExecutionContext {
    /// Seconds that one attempt may take (default 3600)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub timeout_seconds: Option<u32>,
    /// Further attempts after a failed one or a lost executor (default 2)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_retries: Option<u32>,
    /// Limits for the executor to keep; passed on as they are
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<Map<String, Value>>,
}

/// What was asked for. What is absent is left out of the stored text, which is written with every change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub description: String,
    pub task_type: TaskType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<OrchestratorInfo>,
    pub timeout_seconds: u32,
    pub max_retries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub task_data: Map<String, Value>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depends_on: BTreeSet<TaskId>,
    pub on_dependency_failure: OnDependencyFailure,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub required_capabilities: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<AgentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_task_id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Map<String, Value>>,
    /// The trace of the call that dispatched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// How it goes. Stored as [`Spec`] is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// Attempts begun.
    pub attempt: u32,
    /// Retries used of those allowed.
    pub retries: u32,
    /// Who works on it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The last who worked on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// When the attempt, or the rest in `escalated`, runs out of time (steady clock).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<Time>,
    /// What was left of the attempt's time when its timeout was stopped, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_left: Option<i64>,
    /// When the next attempt may begin (steady clock).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// What `task_completed` or `task_failed` recorded for the end to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Recorded>,
    /// Grows with every change that an orchestrator makes.
    pub revision: u32,
    pub report_requested: bool,
    /// The end that was accepted last: a repetition of it is answered alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<String>,
    /// Why it ended as it did, for example `dependency_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// `success`, `partial`, `failure`, … once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    /// The key that was made for this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_claimed_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// What went wrong in earlier attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// What an executor needs to know before it can go on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// Why it can't go on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How bad it is
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// What it asks
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// What it would accept as answers
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub options: Option<Value>,
    /// When it asked
    pub asked_at: Time,
}

/// What the orchestrator answered.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// What was asked
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// What it answered
    #[schemars(schema_with = "any_json")]
    pub answer: Value,
    /// When
    pub answered_at: Time,
}

/// The outcome that an executor recorded before ending its task.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Recorded {
    pub result: Option<Value>,
    pub error: Option<Value>,
    pub retryable: Option<bool>,
    pub quality_score: Option<f64>,
}

/// What went wrong in an attempt.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Which attempt
    pub attempt: u32,
    /// Who worked on it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// When it ended
    pub at: Time,
    /// What happened
    #[schemars(schema_with = "any_json")]
    pub problem: Value,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    pub id: TaskId,
    pub created_at: Time,
    pub updated_at: Time,
    pub state: State,
    pub priority: Priority,
    pub spec: Spec,
    pub run: Run,
    pub result: Option<Value>,
    pub report: Option<Report>,
    /// Tells whether a repeated dispatch is the same one; empty where none can be.
    pub fingerprint: String,
    /// Whether others depend on it, as far as anybody looked.
    pub may_be_awaited: bool,
}

/// Kinds of events that are notifications of executors lie between these two.
pub(crate) const REPORTS: (&str, &str) = ("dev.baton.task.report.", "dev.baton.task.report/");

/// The schema of a field that takes any JSON.
pub(crate) fn any_json(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({})
}

/// A short text that says what `value` is the same as.
pub(crate) fn fingerprint(value: &impl Serialize) -> crate::error::Result<String> {
    use sha2::{Digest, Sha256};
    let text = serde_json::to_vec(value).map_err(crate::error::Error::internal)?;
    let digit = |four: u8| char::from_digit(four.into(), 16).unwrap_or('0');
    Ok(Sha256::digest(&text)
        .iter()
        .take(16)
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect())
}

/// The three fields that every call of an executor names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder<'a> {
    pub agent_id: &'a AgentId,
    pub lease_token: &'a LeaseToken,
}
