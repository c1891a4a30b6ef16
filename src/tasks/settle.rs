//! What follows when a task ends: its report, the event, and the tasks that waited for it, down the graph.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::report::{Account, Report};
use super::store::Columns;
use super::{Ending, Message, OnDependencyFailure, Reason, State, Task, store};
use crate::access::keys;
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::events;
use crate::id::{AgentId, TaskId};
use crate::store::Tx;

/// What an event says of a task.
#[derive(Debug, Serialize)]
struct Change<'a, D> {
    task_id: &'a TaskId,
    state: State,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<D>,
}

/// Appends an event of `kind` about `task`.
pub(crate) fn tell(scope: &Scope, tx: &mut Tx<'_>, kind: &'static str, task: &Task) -> Result<()> {
    append(scope, tx, kind, task, None::<()>)
}

/// As [`tell`], with more to say.
pub(crate) fn tell_with(
    scope: &Scope,
    tx: &mut Tx<'_>,
    kind: &'static str,
    task: &Task,
    detail: impl Serialize,
) -> Result<()> {
    append(scope, tx, kind, task, Some(detail))
}

fn append(
    scope: &Scope,
    tx: &mut Tx<'_>,
    kind: &'static str,
    task: &Task,
    detail: Option<impl Serialize>,
) -> Result<()> {
    let change = change(task, detail);
    let scope = scope.within(task.spec.trace.as_ref());
    events::append(&scope, tx, kind, task.id.as_str(), &change).map(drop)
}

/// What an event about `task` will say, for one that is written down before its transaction.
pub(crate) fn tellable(task: &Task, detail: Option<impl Serialize>) -> Result<Box<RawValue>> {
    to_raw_value(&change(task, detail)).map_err(Error::internal)
}

fn change<D>(task: &Task, detail: Option<D>) -> Change<'_, D> {
    Change {
        task_id: &task.id,
        state: task.state,
        attempt: task.run.attempt,
        agent_id: task.run.agent_id.as_ref(),
        outcome: task.run.outcome,
        cause: task.run.cause.as_deref(),
        detail,
    }
}

/// Ends `task` for good: report, event, and everything that waited for it.
pub(crate) fn end(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut task: Task,
    ending: &Ending,
    account: Account,
) -> Result<Task> {
    finish(scope, tx, &mut task, ending, account)?;
    if task.may_be_awaited {
        settle_dependents(scope, tx, task.id.clone())?;
    }
    Ok(task)
}

fn finish(
    scope: &Scope,
    tx: &mut Tx<'_>,
    task: &mut Task,
    ending: &Ending,
    account: Account,
) -> Result<()> {
    let was = Columns::of(task);
    task.end(scope, ending)?;
    forget_key(tx, task)?;
    task.report = Some(Report::of(task, ending.outcome, scope.now(), account));
    store::save_end(tx, task, &was, scope.now())?;
    let kind = match task.state {
        State::Completed => "dev.baton.task.completed",
        State::Failed => "dev.baton.task.failed",
        _ => "dev.baton.task.cancelled",
    };
    tell(scope, tx, kind, task)
}

/// A key that was made for an attempt ends with it.
fn forget_key(tx: &mut Tx<'_>, task: &mut Task) -> Result<()> {
    match task.run.key_id.take() {
        Some(key) => keys::forget(tx, &key),
        None => Ok(()),
    }
}

/// Gives `task` back to the queue for another attempt.
pub(crate) fn requeue(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut task: Task,
    message: Message,
    problem: Value,
) -> Result<Task> {
    let was = Columns::of(&task);
    task.retry_later(scope, message, problem.clone())?;
    forget_key(tx, &mut task)?;
    store::save(tx, &task, &was, scope.now())?;
    tell_with(scope, tx, "dev.baton.task.requeued", &task, &problem)?;
    Ok(task)
}

/// How many executors work on the subtasks of a task, at any depth.
pub(crate) fn running_subtasks(tx: &mut Tx<'_>, id: &TaskId) -> Result<usize> {
    let (mut running, mut parents) = (0, vec![id.clone()]);
    while let Some(parent) = parents.pop() {
        for id in store::live_subtasks(tx, &parent)? {
            let state = store::get(tx, &id)?.state;
            running += usize::from(!matches!(state, State::Blocked | State::Pending));
            parents.push(id);
        }
    }
    Ok(running)
}

/// Cancels `task` and, when `with_subtasks`, all of its subtasks that have not ended, and theirs.
pub(crate) fn cancel(
    scope: &Scope,
    tx: &mut Tx<'_>,
    task: Task,
    reason: Option<&str>,
    with_subtasks: bool,
) -> Result<Task> {
    let ending = Ending {
        message: Message::Cancel,
        outcome: Reason::Cancelled,
        cause: Some("cancelled".into()),
    };
    let mut cancelled = task;
    cancelled.run.cancel_reason = reason.map(str::to_owned);
    let cancelled = end(scope, tx, cancelled, &ending, Account::default())?;
    let mut parents = if with_subtasks {
        vec![cancelled.id.clone()]
    } else {
        Vec::new()
    };
    while let Some(parent) = parents.pop() {
        for id in store::live_subtasks(tx, &parent)? {
            let mut subtask = store::lock(tx, &id)?;
            // Cancelling one subtask may have cancelled others that depended on it.
            if !subtask.state.is_terminal() {
                subtask.run.cancel_reason = reason.map(str::to_owned);
                let ending = Ending {
                    cause: Some("parent_cancelled".into()),
                    ..ending.clone()
                };
                end(scope, tx, subtask, &ending, Account::default())?;
            }
            parents.push(id);
        }
    }
    Ok(cancelled)
}

/// What stands in a blocked task's way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Free,
    Blocked,
    /// This one ended otherwise than completed.
    Failed(TaskId),
}

/// Looks at what `task` depends on.
pub(crate) fn way(tx: &mut Tx<'_>, task: &Task) -> Result<Way> {
    let mut way = Way::Free;
    for (id, state) in store::dependencies(tx, &task.id)? {
        match state {
            State::Completed => {}
            State::Failed | State::Cancelled => {
                if task.spec.on_dependency_failure == OnDependencyFailure::Cancel {
                    return Ok(Way::Failed(id));
                }
            }
            _ => way = Way::Blocked,
        }
    }
    Ok(way)
}

/// Releases or cancels the tasks that waited for `ended`, and those that waited for them.
pub(crate) fn settle_dependents(scope: &Scope, tx: &mut Tx<'_>, ended: TaskId) -> Result<()> {
    let mut ended = vec![ended];
    while let Some(id) = ended.pop() {
        for dependent in store::dependents(tx, &id)? {
            let mut task = store::lock(tx, &dependent)?;
            if settle(scope, tx, &mut task)? {
                ended.push(dependent);
            }
        }
    }
    Ok(())
}

/// Moves a blocked task on if nothing stands in its way any more; says whether it ended.
pub(crate) fn settle(scope: &Scope, tx: &mut Tx<'_>, task: &mut Task) -> Result<bool> {
    match way(tx, task)? {
        Way::Blocked => Ok(false),
        Way::Free => {
            let was = Columns::of(task);
            task.state = task.state.after(Message::Unblock)?;
            store::save(tx, task, &was, scope.now())?;
            tell(scope, tx, "dev.baton.task.unblocked", task)?;
            Ok(false)
        }
        Way::Failed(dependency) => {
            let ending = Ending {
                message: Message::DependencyFailed,
                outcome: Reason::Cancelled,
                cause: Some("dependency_failed".into()),
            };
            task.note_problem(scope, format!("{dependency} did not complete").into());
            finish(scope, tx, task, &ending, Account::default())?;
            Ok(true)
        }
    }
}
