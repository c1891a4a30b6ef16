//! What callers see of a task. A new column of the database does not appear here by itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Answer, ExecutionContext, OrchestratorInfo, Priority, Question, Reason, Report, State, Task,
    TaskType, any_json,
};
use crate::clock::Time;
use crate::events::Event;
use crate::id::{AgentId, TaskId};
use crate::trace::Trace;

/// The short answer of a call that changed a task.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Brief {
    /// The task
    pub task_id: TaskId,
    /// Where it stands now
    pub state: State,
    /// Attempts begun
    pub attempt: u32,
    /// How it ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Reason>,
    /// Why it ended so, as a stable word
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// When the next attempt may begin
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
}

impl Brief {
    pub(crate) fn of(task: &Task) -> Self {
        Self {
            task_id: task.id.clone(),
            state: task.state,
            attempt: task.run.attempt,
            outcome: task.run.outcome,
            cause: task.run.cause.clone(),
            retry_at: task.run.due_at,
        }
    }
}

/// A task as lists show it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// The task
    pub task_id: TaskId,
    /// Where it stands
    pub state: State,
    /// Its title
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What is to be done; cut after 200 characters, `task_get` has the whole
    pub description: String,
    /// What kind of work it is
    pub task_type: TaskType,
    /// How urgent it is
    pub priority: Priority,
    /// Who works or worked on it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// Percent done, as its executor last said
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// How it ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Reason>,
    /// Why it ended so, as a stable word
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Attempts begun
    pub attempt: u32,
    /// When it was dispatched
    pub created_at: Time,
    /// When it last changed
    pub updated_at: Time,
}

impl Summary {
    pub(crate) fn of(task: &Task) -> Self {
        const LONGEST: usize = 200;
        let description = &task.spec.description;
        let description = match description.char_indices().nth(LONGEST) {
            None => description.clone(),
            Some((end, _)) => format!("{}…", &description[..end]),
        };
        Self::with(task, description)
    }

    fn with(task: &Task, description: String) -> Self {
        Self {
            task_id: task.id.clone(),
            state: task.state,
            title: task.spec.title.clone(),
            description,
            task_type: task.spec.task_type,
            priority: task.priority,
            agent_id: task.run.agent_id.clone(),
            progress: task.run.progress,
            outcome: task.run.outcome,
            cause: task.run.cause.clone(),
            attempt: task.run.attempt,
            created_at: task.created_at,
            updated_at: task.updated_at,
        }
    }
}

/// A notification of an executor, as it stands in the log.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NotificationView {
    /// Its number in the tenant's event log
    pub sequence: i64,
    /// Its id
    pub notification_id: String,
    /// What kind it is
    pub notification_type: String,
    /// Who sent it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// When, by the executor's clock
    pub timestamp: String,
    /// The task's state after it
    pub status: String,
    /// What it says
    #[schemars(schema_with = "any_json")]
    pub data: Value,
    /// What the executor added
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub metadata: Option<Value>,
    /// The trace that it belongs to (W3C Trace Context)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What the tracing systems on the way added
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl NotificationView {
    pub(crate) fn of(mut event: Event) -> Self {
        let trace = event.trace.take().map(Trace::into_attributes);
        let (traceparent, tracestate) =
            trace.map_or((None, None), |(parent, state)| (Some(parent), state));
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            sequence: event.sequence,
            notification_id: event.id,
            notification_type: text(event.data.get("notification_type")),
            agent_id: event
                .data
                .get("agent_id")
                .and_then(Value::as_str)
                .map(str::to_owned),
            timestamp: text(event.data.get("timestamp")),
            status: text(event.data.get("status")),
            metadata: event.data.get_mut("metadata").map(Value::take),
            traceparent,
            tracestate,
            data: event
                .data
                .get_mut("data")
                .map(Value::take)
                .unwrap_or_default(),
        }
    }
}

/// A subtask and what came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SubtaskView {
    /// The subtask
    pub task_id: TaskId,
    /// Where it stands
    pub state: State,
    /// What came of it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub result: Option<Value>,
}

/// All subtasks together.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SubtasksView {
    /// How many are in which state
    pub by_state: BTreeMap<String, i64>,
    /// Whether all of them have ended
    pub all_ended: bool,
    /// The first hundred, oldest first; `task_list` with `parent_task_id` has them all
    pub tasks: Vec<SubtaskView>,
}

/// A task, whole.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TaskView {
    #[serde(flatten)]
    pub summary: Summary,
    /// What the executor gets to work with
    pub task_data: Map<String, Value>,
    /// Bounds of an attempt
    pub execution_context: ExecutionContext,
    /// Who dispatched it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator_info: Option<OrchestratorInfo>,
    /// The trace of the call that dispatched it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// What it depends on
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskId>,
    /// What an executor must be able to do
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_capabilities: Vec<String>,
    /// The only executor that may take it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<AgentId>,
    /// The project that it belongs to
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// The task that it is part of
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_task_id: Option<TaskId>,
    /// What its executor does now
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<String>,
    /// What its executor needs to know: `task_answer` answers it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// What was answered
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// When its executor's lease runs out without a heartbeat
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Time>,
    /// When the attempt runs out of time
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<Time>,
    /// When the next attempt may begin
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// Why it was cancelled
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    /// What came of it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub result: Option<Value>,
    /// The report, once it has ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// What its executors reported last, oldest first
    pub notifications: Vec<NotificationView>,
    /// Its subtasks
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtasks: Option<SubtasksView>,
}

impl TaskView {
    pub(crate) fn of(
        task: Task,
        notifications: Vec<NotificationView>,
        subtasks: Option<SubtasksView>,
    ) -> Self {
        let summary = Summary::with(&task, task.spec.description.clone());
        let (spec, run) = (task.spec, task.run);
        Self {
            summary,
            task_data: spec.task_data,
            execution_context: ExecutionContext {
                timeout_seconds: Some(spec.timeout_seconds),
                max_retries: Some(spec.max_retries),
                resource_limits: spec.resource_limits,
            },
            orchestrator_info: spec.orchestrator,
            trace: spec.trace,
            depends_on: spec.depends_on.into_iter().collect(),
            required_capabilities: spec.required_capabilities.into_iter().collect(),
            assigned_to: spec.assigned_to,
            project_id: spec.project_id,
            parent_task_id: spec.parent_task_id,
            current_step: run.current_step,
            question: run.question,
            answers: run.answers,
            lease_expires_at: run.lease.map(|lease| lease.expires_at),
            timeout_at: run.timeout_at,
            retry_at: run.due_at,
            cancel_reason: run.cancel_reason,
            result: task.result,
            report: task.report,
            notifications,
            subtasks,
        }
    }
}

/// What an orchestrator that waits needs to know of a task.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Outcome {
    /// The task
    pub task_id: TaskId,
    /// Where it stands
    pub state: State,
    /// How it ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Reason>,
    /// Why it ended so, as a stable word
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What came of it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub result: Option<Value>,
    /// What its executor needs to know: `task_answer` answers it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// Percent done, as its executor last said
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// What its executor does now
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<String>,
    /// What went wrong, when it failed
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<super::Problem>,
}

impl Outcome {
    pub(crate) fn of(task: Task) -> Self {
        let problems = if task.state == State::Failed {
            task.run.problems
        } else {
            Vec::new()
        };
        Self {
            task_id: task.id,
            state: task.state,
            outcome: task.run.outcome,
            cause: task.run.cause,
            result: task.result,
            question: task.run.question,
            progress: task.run.progress,
            current_step: task.run.current_step,
            problems,
        }
    }

    /// Whether there is nothing to wait for: it has ended, or needs an answer.
    pub(crate) fn is_settled(&self) -> bool {
        self.state.is_terminal() || self.state == State::Escalated
    }
}
