//! What an orchestrator may do: dispatch tasks, wait for them, read them and steer them; and what can be read of tasks.

mod dispatch;
mod follow;
mod read;
mod steer;
mod store;
mod wait;

use serde_json::{Map, Value, json};

use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::id::TaskId;
use crate::op::{
    self, Body, Completer, Content, Item, Items, Op, Params, Permission, Reader, Resource,
};
use crate::page::Position;
use crate::store::Tx;
use crate::tasks::{self, Task};

/// What an orchestrator may do.
pub fn operations() -> Vec<Op> {
    use Permission::{Orchestrate, Read};
    vec![
        Op::write_ordered("task_dispatch", Orchestrate, dispatch::order, dispatch::dispatch)
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
            .followed(follow::RUN)
            .at("POST", "/api/v1/runs")
            .sample(|| json!({"description": "Count the lines of this repository", "wait_seconds": 0})),
        Op::read("task_get", Read, read::get)
            .about("Get a task", "Read one task whole: where it stands, what its executor reported, its result and report.")
            .at("GET", "/api/v1/tasks/{task_id}")
            .sample(|| json!({"task_id": "tsk_sample"})),
        Op::read("task_list", Read, read::list)
            .about("List tasks", "List tasks, newest first, narrowed down by state, type, priority, agent, project or parent.")
            .alias(&[("type", "task_type")])
            .at("GET", "/api/v1/tasks")
            .sample(|| json!({"limit": 10})),
        Op::waiting("task_wait", Read, wait::wait)
            .about("Wait for tasks", "Wait until any (or all) of the given tasks have ended or need an answer. Returns results. Call again while done is false.")
            .read_only()
            .followed(follow::WAIT)
            .at("POST", "/api/v1/waits")
            .sample(|| json!({"task_ids": ["tsk_sample"], "wait_seconds": 0})),
        Op::write("task_update", Orchestrate, steer::update)
            .about("Steer a task", "Change priority, timeout or data of a task that has not ended, or ask its executor for a report.")
            .at("PATCH", "/api/v1/tasks/{task_id}")
            .sample(|| json!({"task_id": "tsk_sample", "priority": "high"})),
        Op::write("task_retry", Orchestrate, steer::retry)
            .about("Retry a task", "Put a failed or cancelled task back into the queue, changed if asked.")
            .at("POST", "/api/v1/tasks/{task_id}/retry")
            .sample(|| json!({"task_id": "tsk_sample"})),
        Op::write("task_cancel", Orchestrate, steer::cancel)
            .about("Cancel a task", "Call a task and its subtasks off. Its executor learns of it by its next heartbeat.")
            .destructive()
            .idempotent()
            .confirms()
            .at("POST", "/api/v1/tasks/{task_id}/cancel")
            .sample(|| json!({"task_id": "tsk_sample", "reason": "not needed any more"})),
        Op::write("task_answer", Orchestrate, steer::answer)
            .about("Answer a question", "Answer an escalated task, which then goes on. task_get and task_wait show its question.")
            .at("POST", "/api/v1/tasks/{task_id}/answer")
            .sample(|| json!({"task_id": "tsk_sample", "answer": "yes"})),
    ]
}

/// How `task_run` is followed, for what is more than it.
pub(crate) const RUN: op::Follow = follow::RUN;

/// What the input of `task_run` looks like.
pub(crate) fn form() -> Map<String, Value> {
    op::of_input::<wait::RunTask>()
}

/// Whether such an input can be read.
pub(crate) fn readable(input: &Value) -> Result<()> {
    op::parse::<wait::RunTask>(input).map(drop)
}

/// As `task_run`, for who has looked at the input.
pub(crate) async fn run(ctx: Ctx, input: &Value) -> Result<Value> {
    let ran = wait::run(ctx, op::parse(input)?).await?;
    serde_json::to_value(ran).map_err(Error::internal)
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
            permission: Some(Permission::Read),
            read: Reader::Stored(|scope, tx, params| {
                let view = read::get(
                    scope,
                    tx,
                    &read::Get {
                        task_id: task_id(params)?,
                        notifications: read::twenty(),
                    },
                )?;
                let text = serde_json::to_string(&view).map_err(Error::internal)?;
                Ok(Content {
                    mime_type: "application/json",
                    body: Body::Text(text),
                })
            }),
            list: Some(items),
            complete: Completer::Stored(|_, tx, _, prefix, limit| {
                store::ids_with_prefix(tx, prefix, limit)
            }),
            changed_by: |event| {
                event
                    .kind
                    .starts_with("dev.baton.task.")
                    .then(|| format!("baton://tasks/{}", event.subject))
                    .into_iter()
                    .collect()
            },
        },
        Resource {
            template: "baton://tasks/{task_id}/report",
            name: "task-report",
            title: "Report of a task",
            description: "What came of an ended task, for people and models",
            mime_type: "text/markdown",
            permission: Some(Permission::Read),
            read: Reader::Stored(|_, tx, params| {
                let task = tasks::store::get(tx, &task_id(params)?)?;
                let title = task.spec.title.as_deref().unwrap_or("Report").to_owned();
                let report = task.report.ok_or_else(|| tasks::store::unknown(&task.id))?;
                let text = report.to_markdown(&title, task.result.as_ref());
                Ok(Content {
                    mime_type: "text/markdown",
                    body: Body::Text(text),
                })
            }),
            list: None,
            complete: Completer::Stored(|_, tx, _, prefix, limit| {
                store::ids_with_prefix(tx, prefix, limit)
            }),
            changed_by: |event| {
                const ENDS: [&str; 3] = [
                    "dev.baton.task.completed",
                    "dev.baton.task.failed",
                    "dev.baton.task.cancelled",
                ];
                ENDS.contains(&event.kind.as_str())
                    .then(|| format!("baton://tasks/{}/report", event.subject))
                    .into_iter()
                    .collect()
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
    let (tasks, next) = read::page(tx, &tasks::store::Filter::default(), position, limit)?;
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
