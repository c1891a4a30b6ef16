//! `task_get` and `task_list`: one task whole, or pages of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::{first_subtasks, subtask_states};
use crate::ctx::Scope;
use crate::error::Result;
use crate::events;
use crate::id::{AgentId, TaskId};
use crate::page::Position;
use crate::store::Tx;
use crate::tasks::view::{NotificationView, SubtaskView, SubtasksView, Summary, TaskView};
use crate::tasks::{Priority, REPORTS, State, Task, TaskType, store};

/// Subtasks shown with their parent.
const SUBTASKS: u32 = 100;

/// Which task to read.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Get {
    /// The task
    pub(super) task_id: TaskId,
    /// How many of its last notifications to show
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 200))]
    pub(super) notifications: u32,
}

pub(super) const fn twenty() -> u32 {
    20
}

pub(super) fn get(_: &Scope, tx: &mut Tx<'_>, input: &Get) -> Result<TaskView> {
    let (task, has_subtasks) = store::get_for_view(tx, &input.task_id)?;
    // Nobody reports on what nobody has claimed.
    let notifications = match task.run.attempt {
        0 => Vec::new(),
        _ => events::latest_of(tx, task.id.as_str(), REPORTS, input.notifications)?,
    };
    let subtasks = has_subtasks.then(|| subtasks(tx, &task.id)).transpose()?;
    Ok(TaskView::of(
        task,
        notifications
            .into_iter()
            .map(NotificationView::of)
            .collect(),
        subtasks,
    ))
}

fn subtasks(tx: &mut Tx<'_>, id: &TaskId) -> Result<SubtasksView> {
    let states = subtask_states(tx, id)?;
    let tasks = first_subtasks(tx, id, SUBTASKS)?;
    Ok(SubtasksView {
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
    })
}

/// What to list.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct List {
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
pub(super) struct Listed {
    /// The tasks, newest first
    tasks: Vec<Summary>,
    /// Leads to the next page; absent on the last
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Whose cursors these are.
const LIST: &str = "task_list";

pub(super) fn list(_: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let cursor = input.cursor.as_deref();
    let position = cursor
        .map(|cursor| tx.seal(LIST)?.open(cursor))
        .transpose()?;
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
        next_cursor: next
            .map(|next| tx.seal(LIST).map(|seal| seal.close(&next)))
            .transpose()?,
    })
}

/// A page and where the next one begins. One row more than asked for tells whether there is one.
pub(super) fn page(
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
