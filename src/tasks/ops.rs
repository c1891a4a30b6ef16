//! What callers may do with tasks: the declarations, and the orchestrator's calls that are not in a file of their own.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::settle::{self, Way, tell};
use super::view::{Brief, NotificationView, SubtaskView, SubtasksView, Summary, TaskView};
use super::{
    Message, Priority, State, Task, TaskType, any_json, claim, dispatch, execute, store, wait,
};
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::events;
use crate::id::{AgentId, TaskId};
use crate::op::{Content, Item, Items, Op, Params, Permission, Resource};
use crate::page::Position;
use crate::store::Tx;

/// Subtasks shown with their parent.
const SUBTASKS: u32 = 100;

/// Everything that callers may do with tasks, besides ending them.
pub fn operations() -> Vec<Op> {
    let mut operations = orchestrator_operations();
    operations.extend(executor_operations());
    operations
}

fn orchestrator_operations() -> Vec<Op> {
    use Permission::{Orchestrate, Read};
    vec![
        Op::write("task_dispatch", Orchestrate, dispatch::dispatch)
            .about("Dispatch a task", "Hand out a piece of work and return at once. Dispatch all tasks first, then wait for them with task_wait.")
            .idempotent()
            .alias(&[("type", "task_type")])
            .at("POST", "/api/v1/tasks")
            .strictly_at("/execute", "task_execution")
            .sample(|| json!({"description": "Count the lines of this repository"})),
        Op::waiting("task_run", Orchestrate, wait::run)
            .about("Run a task", "Hand out one piece of work and wait for its outcome. If done is false, go on with task_wait.")
            .idempotent()
            .alias(&[("type", "task_type")])
            .at("POST", "/api/v1/runs")
            .sample(|| json!({"description": "Count the lines of this repository", "wait_seconds": 0})),
        Op::read("task_get", Read, get)
            .about("Get a task", "Read one task whole: where it stands, what its executor reported, its result and report.")
            .at("GET", "/api/v1/tasks/{task_id}")
            .sample(|| json!({"task_id": "tsk_sample"})),
        Op::read("task_list", Read, list)
            .about("List tasks", "List tasks, newest first, narrowed down by state, type, priority, agent, project or parent.")
            .alias(&[("type", "task_type")])
            .at("GET", "/api/v1/tasks")
            .sample(|| json!({"limit": 10})),
        Op::waiting("task_wait", Read, wait::wait)
            .about("Wait for tasks", "Wait until any (or all) of the given tasks have ended or need an answer. Returns results. Call again while done is false.")
            .read_only()
            .at("POST", "/api/v1/waits")
            .sample(|| json!({"task_ids": ["tsk_sample"], "wait_seconds": 0})),
        Op::write("task_update", Orchestrate, update)
            .about("Steer a task", "Change priority, timeout or data of a task that has not ended, or ask its executor for a report.")
            .at("PATCH", "/api/v1/tasks/{task_id}")
            .sample(|| json!({"task_id": "tsk_sample", "priority": "high"})),
        Op::write("task_retry", Orchestrate, retry)
            .about("Retry a task", "Put a failed or cancelled task back into the queue, changed if asked.")
            .at("POST", "/api/v1/tasks/{task_id}/retry")
            .sample(|| json!({"task_id": "tsk_sample"})),
        Op::write("task_cancel", Orchestrate, cancel)
            .about("Cancel a task", "Call a task and its subtasks off. Its executor learns of it by its next heartbeat.")
            .destructive()
            .idempotent()
            .at("POST", "/api/v1/tasks/{task_id}/cancel")
            .sample(|| json!({"task_id": "tsk_sample", "reason": "not needed any more"})),
        Op::write("task_answer", Orchestrate, answer)
            .about("Answer a question", "Answer an escalated task, which then goes on. task_get and task_wait show its question.")
            .at("POST", "/api/v1/tasks/{task_id}/answer")
            .sample(|| json!({"task_id": "tsk_sample", "answer": "yes"})),
    ]
}

fn executor_operations() -> Vec<Op> {
    use Permission::Execute;
    vec![
        Op::waiting("task_claim", Execute, claim::claim)
            .about("Claim tasks", "As an executor: take the best tasks that you can do, each with a lease. Waits for one if asked to.")
            .at("POST", "/api/v1/claims")
            .sample(|| json!({"agent_id": "agent-1", "capabilities": ["shell"]})),
        Op::write("task_heartbeat", Execute, execute::heartbeat)
            .about("Keep leases", "As an executor: keep your leases while you work, at least every third of lease_seconds; tells what changed.")
            .idempotent()
            .at("POST", "/api/v1/heartbeats")
            .sample(|| json!({"agent_id": "agent-1", "leases": [{"task_id": "tsk_sample", "lease_token": "lse_sample"}]})),
        Op::write("task_notify", Execute, execute::notify)
            .about("Report on a task", "As an executor: report started, progress, completed, failed or escalated. Only task_end ends the task.")
            .rules(include_str!("../../resources/schemas/notification.json"))
            .alias(&[("type", "notification_type")])
            .at("POST", "/api/v1/tasks/{task_id}/notifications")
            .sample(|| json!({
                "task_id": "tsk_sample", "agent_id": "agent-1", "lease_token": "lse_sample",
                "notification_type": "task_progress", "data": {"progress": 40, "current_step": "counting"},
            })),
    ]
}

/// Which task to read.
#[derive(Debug, Deserialize, JsonSchema)]
struct Get {
    /// The task
    task_id: TaskId,
    /// How many of its last notifications to show
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 200))]
    notifications: u32,
}

const fn twenty() -> u32 {
    20
}

fn get(_: &Scope, tx: &mut Tx<'_>, input: &Get) -> Result<TaskView> {
    let task = store::get(tx, &input.task_id)?;
    let notifications =
        events::latest_of(tx, task.id.as_str(), execute::REPORTS, input.notifications)?;
    let subtasks = subtasks(tx, &task.id)?;
    Ok(TaskView::of(
        task,
        notifications
            .into_iter()
            .map(NotificationView::of)
            .collect(),
        subtasks,
    ))
}

fn subtasks(tx: &mut Tx<'_>, id: &TaskId) -> Result<Option<SubtasksView>> {
    let states = store::subtask_states(tx, id)?;
    if states.is_empty() {
        return Ok(None);
    }
    let tasks = store::subtasks(tx, id, SUBTASKS)?;
    Ok(Some(SubtasksView {
        all_ended: states.iter().all(|(state, _)| state.is_terminal()),
        by_state: states
            .into_iter()
            .map(|(state, count)| (state.name().to_owned(), count))
            .collect(),
        tasks: tasks
            .into_iter()
            .map(|(task_id, state, result)| SubtaskView {
                task_id,
                state,
                result,
            })
            .collect(),
    }))
}

/// What to list.
#[derive(Debug, Deserialize, JsonSchema)]
struct List {
    /// Only tasks in this state
    state: Option<State>,
    /// Only tasks of this type
    task_type: Option<TaskType>,
    /// Only tasks of this priority
    priority: Option<Priority>,
    /// Only tasks that this agent works or worked on
    agent_id: Option<AgentId>,
    /// Only tasks of this project
    #[schemars(length(max = 128))]
    project_id: Option<String>,
    /// Only subtasks of this task
    parent_task_id: Option<TaskId>,
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the last page ended: its `next_cursor`
    cursor: Option<String>,
}

const fn fifty() -> u32 {
    50
}

/// A page of tasks.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// The tasks, newest first
    tasks: Vec<Summary>,
    /// Leads to the next page; absent on the last
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

fn list(_: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let position = input.cursor.as_deref().map(Position::decode).transpose()?;
    let task_type = input
        .task_type
        .map(|kind| serde_json::to_value(kind).unwrap_or_default());
    let filter = store::Filter {
        state: input.state,
        task_type: task_type.as_ref().and_then(Value::as_str),
        priority: input.priority,
        agent_id: input.agent_id.as_ref(),
        project_id: input.project_id.as_deref(),
        parent: input.parent_task_id.as_ref(),
    };
    let (tasks, next) = page(tx, &filter, position.as_ref(), input.limit)?;
    Ok(Listed {
        tasks: tasks.iter().map(Summary::of).collect(),
        next_cursor: next.map(|position| position.encode()),
    })
}

/// A page and where the next one begins. One row more than asked for tells whether there is one.
fn page(
    tx: &mut Tx<'_>,
    filter: &store::Filter<'_>,
    position: Option<&Position>,
    limit: u32,
) -> Result<(Vec<Task>, Option<Position>)> {
    let mut tasks = store::list(tx, filter, position, limit + 1)?;
    let is_last = tasks.len() <= usize::try_from(limit).unwrap_or(usize::MAX);
    tasks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let last = tasks.last().filter(|_| !is_last);
    let next = last.map(|task| Position {
        key: task.created_at.as_micros(),
        id: task.id.to_string(),
    });
    Ok((tasks, next))
}

/// What to change.
#[derive(Debug, Deserialize, JsonSchema)]
struct Update {
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

fn update(scope: &Scope, tx: &mut Tx<'_>, input: &Update) -> Result<Brief> {
    let mut task = store::lock(tx, &input.task_id)?;
    if task.state.is_terminal() {
        return Err(super::TransitionError::Ended(task.state).into());
    }
    let was = task.state;
    let change = Change {
        priority: input.priority,
        timeout_seconds: input.timeout_seconds,
        task_data: input.task_data.as_ref(),
    };
    apply(&mut task, &change);
    task.run.revision += 1;
    task.run.report_requested |= input.request_report;
    store::save_all(tx, &task, was, scope.now())?;
    let detail = json!({
        "priority": input.priority, "timeout_seconds": input.timeout_seconds,
        "task_data_changed": input.task_data.is_some(), "report_requested": input.request_report,
    });
    tell(scope, tx, "dev.baton.task.updated", &task, Some(&detail))?;
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
struct Retry {
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

fn retry(scope: &Scope, tx: &mut Tx<'_>, input: &Retry) -> Result<Brief> {
    let mut task = store::lock(tx, &input.task_id)?;
    let was = task.state;
    let blocked = match settle::way(tx, &task)? {
        Way::Free => false,
        Way::Blocked => true,
        Way::Failed(dependency) if was.after(Message::Retry { blocked: true }).is_ok() => {
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
    store::save_all(tx, &task, was, scope.now())?;
    tell(scope, tx, "dev.baton.task.retried", &task, None)?;
    Ok(Brief::of(&task))
}

/// What to call off.
#[derive(Debug, Deserialize, JsonSchema)]
struct Cancel {
    /// The task
    task_id: TaskId,
    /// Why, for its executor and its report
    #[schemars(length(max = 2_000))]
    reason: Option<String>,
    /// Its subtasks too
    #[serde(default = "yes")]
    subtasks: bool,
}

const fn yes() -> bool {
    true
}

fn cancel(scope: &Scope, tx: &mut Tx<'_>, input: &Cancel) -> Result<Brief> {
    let task = store::lock(tx, &input.task_id)?;
    if task.state == State::Cancelled {
        return Ok(Brief::of(&task));
    }
    let task = settle::cancel(scope, tx, task, input.reason.as_deref(), input.subtasks)?;
    Ok(Brief::of(&task))
}

/// What to answer.
#[derive(Debug, Deserialize, JsonSchema)]
struct AnswerTask {
    /// The task
    task_id: TaskId,
    /// The answer: a text, or whatever the question's options ask for
    #[schemars(schema_with = "any_json")]
    answer: Value,
}

fn answer(scope: &Scope, tx: &mut Tx<'_>, input: &AnswerTask) -> Result<Brief> {
    let mut task = store::lock(tx, &input.task_id)?;
    let was = task.state;
    task.answer(scope, input.answer.clone())?;
    store::save(tx, &task, was, scope.now())?;
    tell(
        scope,
        tx,
        "dev.baton.task.answered",
        &task,
        Some(&input.answer),
    )?;
    Ok(Brief::of(&task))
}

/// What can be read of tasks.
pub fn resources() -> Vec<Resource> {
    vec![
        Resource {
            template: "baton://tasks/{task_id}",
            name: "task",
            title: "Task",
            description: "One task whole, as task_get shows it",
            mime_type: "application/json",
            read: |scope, tx, params| {
                let view = get(
                    scope,
                    tx,
                    &Get {
                        task_id: task_id(params)?,
                        notifications: twenty(),
                    },
                )?;
                let text = serde_json::to_string(&view).map_err(Error::internal)?;
                Ok(Content {
                    mime_type: "application/json",
                    text,
                })
            },
            list: Some(items),
            complete: |_, tx, _, prefix, limit| store::ids_with_prefix(tx, prefix, limit),
            changed_by: |event| {
                event
                    .kind
                    .starts_with("dev.baton.task.")
                    .then(|| format!("baton://tasks/{}", event.subject))
            },
        },
        Resource {
            template: "baton://tasks/{task_id}/report",
            name: "task-report",
            title: "Report of a task",
            description: "What came of an ended task, for people and models",
            mime_type: "text/markdown",
            read: |_, tx, params| {
                let task = store::get(tx, &task_id(params)?)?;
                let title = task.spec.title.as_deref().unwrap_or("Report").to_owned();
                let report = task.report.ok_or_else(|| store::unknown(&task.id))?;
                let text = report.to_markdown(&title, task.result.as_ref());
                Ok(Content {
                    mime_type: "text/markdown",
                    text,
                })
            },
            list: None,
            complete: |_, tx, _, prefix, limit| store::ids_with_prefix(tx, prefix, limit),
            changed_by: |event| {
                const ENDS: [&str; 3] = [
                    "dev.baton.task.completed",
                    "dev.baton.task.failed",
                    "dev.baton.task.cancelled",
                ];
                ENDS.contains(&event.kind.as_str())
                    .then(|| format!("baton://tasks/{}/report", event.subject))
            },
        },
    ]
}

fn task_id(params: &Params) -> Result<TaskId> {
    let unknown = || Error::not_found("unknown_task", "there is no such task");
    params
        .get("task_id")
        .and_then(|id| id.parse().ok())
        .ok_or_else(unknown)
}

fn items(_: &Scope, tx: &mut Tx<'_>, position: Option<&Position>, limit: u32) -> Result<Items> {
    let (tasks, next) = page(tx, &store::Filter::default(), position, limit)?;
    let item = |task: Task| Item {
        uri: format!("baton://tasks/{}", task.id),
        title: format!(
            "{} ({})",
            task.spec.title.as_deref().unwrap_or("Task"),
            task.state.name()
        ),
    };
    Ok((tasks.into_iter().map(item).collect(), next))
}
