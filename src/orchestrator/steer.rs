//! What an orchestrator changes about its tasks: `task_update`, `task_retry`, `task_cancel`, `task_answer`.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::{AgentId, TaskId};
use crate::op::UNCONFIRMED;
use crate::store::Tx;
use crate::tasks::settle::{self, Way};
use crate::tasks::view::Brief;
use crate::tasks::{
    Message, Priority, State, Task, TransitionError, any_json, store, tell, tell_with,
};

/// What to change.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Update {
    /// The task
    task_id: TaskId,
    /// How urgent it is now
    priority: Option<Priority>,
    /// Seconds that an attempt may take from now on, the running one included
    #[schemars(range(min = 1, max = 2_592_000))]
    timeout_seconds: Option<u32>,
    /// Merged into the task's data as RFC 7396 says: null removes a field
    task_data: Option<Map<String, Value>>,
    /// Ask its executor for a report
    #[serde(default)]
    request_report: bool,
}

pub(super) fn update(scope: &Scope, tx: &mut Tx<'_>, input: &Update) -> Result<Brief> {
    let mut task = store::lock(tx, &input.task_id)?;
    if task.state.is_terminal() {
        return Err(TransitionError::Ended(task.state).into());
    }
    let was = store::Columns::of(&task);
    let change = Change {
        priority: input.priority,
        timeout_seconds: input.timeout_seconds,
        task_data: input.task_data.as_ref(),
    };
    apply(&mut task, &change);
    task.run.revision += 1;
    task.run.report_requested |= input.request_report;
    store::save_all(tx, &task, &was, scope.now())?;
    let detail = json!({
        "priority": input.priority, "timeout_seconds": input.timeout_seconds,
        "task_data_changed": input.task_data.is_some(), "report_requested": input.request_report,
    });
    tell_with(scope, tx, "dev.baton.task.updated", &task, &detail)?;
    Ok(Brief::of(&task))
}

struct Change<'a> {
    priority: Option<Priority>,
    timeout_seconds: Option<u32>,
    task_data: Option<&'a Map<String, Value>>,
}

fn apply(task: &mut Task, change: &Change<'_>) {
    if let Some(priority) = change.priority {
        task.priority = priority;
    }
    if let Some(seconds) = change.timeout_seconds {
        let more = (i64::from(seconds) - i64::from(task.spec.timeout_seconds)) * 1_000_000;
        task.spec.timeout_seconds = seconds;
        let run = &mut task.run;
        run.timeout_at = run
            .timeout_at
            .map(|at| crate::clock::Time::from_micros(at.as_micros() + more));
        run.time_left = run.time_left.map(|left| left + more);
    }
    if let Some(data) = change.task_data {
        merge(&mut task.spec.task_data, data);
    }
}

/// JSON Merge Patch (RFC 7396) of one object into another. Its depth is bounded by the input's.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(patch) => {
                let field = target.entry(name.clone()).or_insert_with(|| json!({}));
                if !field.is_object() {
                    *field = json!({});
                }
                if let Value::Object(field) = field {
                    merge(field, patch);
                }
            }
            value => {
                target.insert(name.clone(), value.clone());
            }
        }
    }
}

/// What to try again, and how.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Retry {
    /// The task
    task_id: TaskId,
    /// Another description
    #[schemars(length(min = 1, max = 100_000))]
    description: Option<String>,
    /// Another priority
    priority: Option<Priority>,
    /// Seconds that an attempt may take
    #[schemars(range(min = 1, max = 2_592_000))]
    timeout_seconds: Option<u32>,
    /// Further attempts after a failed one
    #[schemars(range(min = 0, max = 100))]
    max_retries: Option<u32>,
    /// Merged into the task's data as RFC 7396 says: null removes a field
    task_data: Option<Map<String, Value>>,
    /// What an executor must be able to do now
    #[schemars(length(max = 32), inner(regex(pattern = "^[A-Za-z0-9._:/-]{1,64}$")))]
    required_capabilities: Option<BTreeSet<String>>,
    /// The only executor that may take it now
    assigned_to: Option<AgentId>,
}

pub(super) fn retry(scope: &Scope, tx: &mut Tx<'_>, input: &Retry) -> Result<Brief> {
    let mut task = store::lock(tx, &input.task_id)?;
    let was = store::Columns::of(&task);
    let blocked = match settle::way(tx, &task)? {
        Way::Free => false,
        Way::Blocked => true,
        Way::Failed(dependency) if task.state.after(Message::Retry { blocked: true }).is_ok() => {
            let message = format!(
                "{dependency}, which it depends on, did not complete; retry that one first"
            );
            return Err(Error::conflict("dependency_failed", message));
        }
        Way::Failed(_) => false,
    };
    task.try_again(blocked)?;
    let spec = &mut task.spec;
    if let Some(description) = &input.description {
        spec.description.clone_from(description);
    }
    if let Some(max_retries) = input.max_retries {
        spec.max_retries = max_retries;
    }
    if let Some(capabilities) = &input.required_capabilities {
        spec.required_capabilities.clone_from(capabilities);
    }
    if let Some(agent) = &input.assigned_to {
        spec.assigned_to = Some(agent.clone());
    }
    let change = Change {
        priority: input.priority,
        timeout_seconds: input.timeout_seconds,
        task_data: input.task_data.as_ref(),
    };
    apply(&mut task, &change);
    store::save_all(tx, &task, &was, scope.now())?;
    tell(scope, tx, "dev.baton.task.retried", &task)?;
    Ok(Brief::of(&task))
}

/// What to call off.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Cancel {
    /// The task
    task_id: TaskId,
    /// Why, for its executor and its report
    #[schemars(length(max = 2_000))]
    reason: Option<String>,
    /// Its subtasks too
    #[serde(default = "yes")]
    subtasks: bool,
    /// Yes, also subtasks that are being worked on
    #[serde(default)]
    confirm: bool,
}

const fn yes() -> bool {
    true
}

pub(super) fn cancel(scope: &Scope, tx: &mut Tx<'_>, input: &Cancel) -> Result<Brief> {
    let task = store::lock(tx, &input.task_id)?;
    if task.state == State::Cancelled {
        return Ok(Brief::of(&task));
    }
    if input.subtasks && !input.confirm {
        let running = settle::running_subtasks(tx, &task.id)?;
        if running > 0 {
            let message = format!(
                "cancelling {} also ends {running} of its subtasks that are being worked on; if that is meant, say so (confirm true)",
                task.id
            );
            return Err(Error::conflict(UNCONFIRMED, message));
        }
    }
    let task = settle::cancel(scope, tx, task, input.reason.as_deref(), input.subtasks)?;
    Ok(Brief::of(&task))
}

/// What to answer.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AnswerTask {
    /// The task
    pub(super) task_id: TaskId,
    /// The answer: a text, or whatever the question's options ask for
    #[schemars(schema_with = "any_json")]
    pub(super) answer: Value,
}

pub(super) fn answer(scope: &Scope, tx: &mut Tx<'_>, input: &AnswerTask) -> Result<Brief> {
    let mut task = store::lock(tx, &input.task_id)?;
    let was = store::Columns::of(&task);
    task.answer(scope, input.answer.clone())?;
    store::save(tx, &task, &was, scope.now())?;
    tell_with(scope, tx, "dev.baton.task.answered", &task, &input.answer)?;
    Ok(Brief::of(&task))
}
