//! The reaper: gives time its say. Leases that ran out, attempts that took too long, retries that are due.

use futures::future::join_all;

use super::{Ending, Message, Reason, State, Task, report, settle, store};
use crate::ctx::{Scope, System};
use crate::error::{Kind, Result};
use crate::id::TaskId;
use crate::store::Tx;

/// Tasks looked at in one round.
const BATCH: u32 = 200;

/// Does one round over all tenants and says how many tasks it looked at. Of those that share a store, one
/// does so.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    let now = system.clock().steady();
    let due = system.survey(move |tx| store::due(tx, now, BATCH)).await?;
    // Looking costs little; acting is one process's at a time.
    if due.is_empty() || !system.does("reaper").await? {
        return Ok(0);
    }
    let count = due.len();
    let rounds = due.into_iter().map(|(tenant, id)| async move {
        let ctx = system.on_behalf_of(tenant);
        let outcome = ctx.write(move |scope, tx| look_after(scope, tx, &id)).await;
        match outcome {
            // One task that can't be looked after must not keep the others waiting.
            Err(error) if error.kind() == Kind::Internal => {
                tracing::error!(error = ?error, "a due task could not be looked after");
                Ok(())
            }
            outcome => outcome,
        }
    });
    join_all(rounds)
        .await
        .into_iter()
        .collect::<Result<Vec<()>>>()?;
    Ok(count)
}

fn look_after(scope: &Scope, tx: &mut Tx<'_>, id: &TaskId) -> Result<()> {
    let mut task = store::lock(tx, id)?;
    let passed = |time: Option<crate::clock::Time>| time.is_some_and(|time| time <= scope.steady());
    let was = store::Columns::of(&task);
    if passed(task.run.timeout_at) {
        let ending = Ending {
            message: Message::TimedOut,
            outcome: Reason::Timeout,
            cause: Some("timeout".into()),
        };
        return settle::end(scope, tx, task, &ending, report::Account::default()).map(drop);
    }
    if passed(task.run.lease.as_ref().map(|lease| lease.expires_at)) {
        return lose_lease(scope, tx, task);
    }
    if passed(task.run.due_at) {
        task.run.due_at = None;
        store::save(tx, &task, &was, scope.now())?;
        return settle::tell(scope, tx, "dev.baton.task.due", &task);
    }
    Ok(())
}

fn lose_lease(scope: &Scope, tx: &mut Tx<'_>, mut task: Task) -> Result<()> {
    let problem = "the executor's lease ran out";
    if task.state == State::Escalated {
        let was = store::Columns::of(&task);
        task.lose_asker(scope)?;
        store::save(tx, &task, &was, scope.now())?;
        return settle::tell(scope, tx, "dev.baton.task.lease_lost", &task);
    }
    if task.has_retries_left() {
        return settle::requeue(
            scope,
            tx,
            task,
            Message::LeaseLost { retry: true },
            problem.into(),
        )
        .map(drop);
    }
    task.note_problem(scope, problem.into());
    let ending = Ending {
        message: Message::LeaseLost { retry: false },
        outcome: Reason::Failure,
        cause: Some("lease_lost".into()),
    };
    settle::end(scope, tx, task, &ending, report::Account::default()).map(drop)
}
