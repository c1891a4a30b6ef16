//! `task_wait` and `task_run`: an orchestrator waits for outcomes without asking again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dispatch::{Dispatch, dispatch, order};
use crate::caller::{Level, Progress};
use crate::ctx::{Ctx, WaitingPlace};
use crate::error::Result;
use crate::id::TaskId;
use crate::tasks::store;
use crate::tasks::view::Outcome;

/// How much of what is waited for is enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Until {
    #[default]
    Any,
    All,
}

/// What to wait for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Wait {
    /// The tasks
    #[schemars(length(min = 1, max = 100))]
    pub task_ids: BTreeSet<TaskId>,
    /// Return when any, or all, of them have ended or need an answer
    #[serde(default)]
    pub until: Until,
    /// How long to wait at most
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 50))]
    pub wait_seconds: u32,
}

const fn thirty() -> u32 {
    30
}

/// What is known of the tasks that were waited for.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Waited {
    /// True when what was waited for has come; false when the time ran out: call again
    pub done: bool,
    /// The tasks
    pub tasks: Vec<Outcome>,
}

impl Waited {
    /// What the tasks say of `until`.
    pub(super) fn of(tasks: Vec<Outcome>, until: Until) -> Self {
        let mut settled = tasks.iter().map(Outcome::is_settled);
        let done = match until {
            Until::Any => settled.any(|is_settled| is_settled),
            Until::All => settled.all(|is_settled| is_settled),
        };
        Self { done, tasks }
    }
}

pub(crate) async fn wait(ctx: Ctx, input: Wait) -> Result<Waited> {
    wait_in(ctx, input, None).await
}

/// Waits in `place`, or in one that it takes when it has to wait.
async fn wait_in(ctx: Ctx, input: Wait, mut place: Option<WaitingPlace>) -> Result<Waited> {
    let deadline = ctx.clock().steady() + Duration::from_secs(input.wait_seconds.into());
    let mut wake = ctx.wake();
    let mut told = -1.0;
    loop {
        let ids = input.task_ids.clone();
        let tasks = ctx
            .read(move |_, tx| {
                ids.iter()
                    .map(|id| store::get(tx, id).map(Outcome::of))
                    .collect::<Result<Vec<_>>>()
            })
            .await?;
        let waited = Waited::of(tasks, input.until);
        tell(&ctx, &waited.tasks, &mut told);
        if waited.done || ctx.clock().steady() >= deadline {
            return Ok(waited);
        }
        if place.is_none() {
            place = Some(ctx.place_to_wait()?);
        }
        tokio::select! {
            () = wake.changed() => {}
            () = ctx.clock().sleep_until(deadline) => {}
        }
    }
}

/// Tells how far the tasks have come, if that is farther than was told.
fn tell(ctx: &Ctx, tasks: &[Outcome], told: &mut f64) {
    if !ctx.wants_progress() {
        return;
    }
    let percent = |task: &Outcome| {
        if task.state.is_terminal() {
            100.0
        } else {
            task.progress.unwrap_or(0.0)
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "at most 100 tasks")]
    let mean = tasks.iter().map(percent).sum::<f64>() / tasks.len().max(1) as f64;
    if mean > *told {
        *told = mean;
        let ended = tasks.iter().filter(|task| task.state.is_terminal()).count();
        let step = tasks
            .iter()
            .filter(|task| !task.state.is_terminal())
            .find_map(|task| task.current_step.clone());
        let message = match (tasks, step) {
            ([task], None) => task.state.name().to_owned(),
            ([_], Some(step)) => step,
            (_, None) => format!("{ended} of {} ended", tasks.len()),
            (_, Some(step)) => format!("{ended} of {} ended; {step}", tasks.len()),
        };
        ctx.log(Level::Info, message.as_str());
        ctx.report_progress(Progress {
            progress: mean,
            total: Some(100.0),
            message: Some(message),
        });
    }
}

/// What to have done.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct RunTask {
    #[serde(flatten)]
    pub dispatch: Dispatch,
    /// How long to wait for the outcome at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 0, max = 50))]
    pub wait_seconds: u32,
}

const fn fifty() -> u32 {
    50
}

/// What came of it, as far as it is known.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Ran {
    /// True when it has ended or needs an answer; false when the time ran out: go on with `task_wait`
    pub done: bool,
    #[serde(flatten)]
    pub task: Outcome,
}

impl Ran {
    /// What is known of the task.
    pub(super) fn of(task: Outcome) -> Self {
        Self {
            done: task.is_settled(),
            task,
        }
    }
}

pub(crate) async fn run(ctx: Ctx, input: RunTask) -> Result<Ran> {
    let RunTask {
        dispatch: request,
        wait_seconds,
    } = input;
    // Once the task is dispatched, it is too late to refuse.
    let place = match wait_seconds {
        0 => None,
        _ => Some(ctx.place_to_wait()?),
    };
    let order = order(&ctx.scope(), request)?;
    let task_id = ctx
        .write(move |scope, tx| dispatch(scope, tx, &order))
        .await?
        .task_id;
    let task_ids = BTreeSet::from([task_id.clone()]);
    let outcome = Wait {
        task_ids,
        until: Until::All,
        wait_seconds,
    };
    let waited = wait_in(ctx, outcome, place).await?;
    let task = waited.tasks.into_iter().next();
    task.map(Ran::of).ok_or_else(|| store::unknown(&task_id))
}
