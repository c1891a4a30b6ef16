//! `task_claim`: the best tasks that an agent can take, each with a lease; waits for one when there is none.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::access::keys;
use crate::allowance::{Quota, Use};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::id::{AgentId, LeaseToken, TaskId};
use crate::store::Tx;
use crate::tasks::store::Lane;
use crate::tasks::{Answer, ExecutionContext, Priority, Problem, Task, TaskType, store, tell};
use crate::tenants;
use crate::trace::Trace;

/// What an executor offers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Claim {
    /// Who you are; keep it from call to call
    pub agent_id: AgentId,
    /// What you can do; tasks that need more are left for others
    #[serde(default)]
    #[schemars(length(max = 100), inner(length(min = 1, max = 64)))]
    pub capabilities: BTreeSet<String>,
    /// How many tasks you want at most
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub max_tasks: u32,
    /// How long you hold each without a heartbeat
    #[serde(default = "sixty")]
    #[schemars(range(min = 5, max = 3_600))]
    pub lease_seconds: u32,
    /// How long to wait for a task when there is none
    #[serde(default)]
    #[schemars(range(min = 0, max = 50))]
    pub wait_seconds: u32,
    /// How many tasks you work on at a time at most (default 3)
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1_000))]
    pub max_concurrent_tasks: u32,
    /// Whether you want a key with each task, which may speak of that task alone: for a sandbox that is to hold no other
    #[serde(default)]
    pub task_keys: bool,
}

const fn one() -> u32 {
    1
}

const fn three() -> u32 {
    3
}

pub(super) const fn sixty() -> u32 {
    60
}

/// The right to speak for a task.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LeaseView {
    /// Name it in every call about this task
    pub token: LeaseToken,
    /// Send a heartbeat before
    pub expires_at: Time,
}

/// A task that is now the caller's to do.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ClaimedTask {
    /// The task
    pub task_id: TaskId,
    /// Its title
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What is to be done
    pub description: String,
    /// What kind of work it is
    pub task_type: TaskType,
    /// How urgent it is
    pub priority: Priority,
    /// What to work with
    pub task_data: Map<String, Value>,
    /// Bounds of the attempt
    pub execution_context: ExecutionContext,
    /// Which attempt this is, from 1
    pub attempt: u32,
    /// When the attempt runs out of time
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<Time>,
    /// JSON Schema that the result must satisfy
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Map<String, Value>>,
    /// What the orchestrator answered to earlier questions
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// What went wrong in earlier attempts
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What this depended on, with the result of each
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub dependency_results: Map<String, Value>,
    /// The trace of the call that dispatched it: go on with it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// The right to speak for it
    pub lease: LeaseView,
    /// A key that may speak of this task alone, until it ends
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What an executor got.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Claimed {
    /// The tasks; none when there was nothing to do
    pub tasks: Vec<ClaimedTask>,
    /// How many tasks you hold now
    pub holding: u32,
    /// How many you may hold
    pub limit: u32,
    /// The limit of the tenant that kept tasks from you; try again once others have ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back_by: Option<Use>,
}

pub(crate) async fn claim(ctx: Ctx, input: Claim) -> Result<Claimed> {
    let most = ctx.limits().max_concurrent_tasks;
    if input.max_concurrent_tasks > most {
        return Err(Error::invalid_at(
            "/max_concurrent_tasks",
            format!("this server allows {most} at most"),
        ));
    }
    let deadline = ctx.clock().steady() + Duration::from_secs(input.wait_seconds.into());
    let mut wake = ctx.wake();
    let mut place = None;
    loop {
        let request = input.clone();
        let claimed = ctx
            .write(move |scope, tx| take(scope, tx, &request))
            .await?;
        if !claimed.tasks.is_empty() || ctx.clock().steady() >= deadline {
            return Ok(claimed);
        }
        if place.is_none() {
            place = Some(ctx.place_to_wait()?);
        }
        // Many may wait for few tasks: only who sees one asks the writer for it.
        loop {
            tokio::select! {
                () = wake.changed() => {}
                () = ctx.clock().sleep_until(deadline) => return Ok(claimed),
            }
            let request = input.clone();
            let look = move |scope: &Scope, tx: &mut Tx<'_>| is_there_any(scope, tx, &request);
            if ctx.read(look).await? {
                break;
            }
        }
    }
}

fn is_there_any(scope: &Scope, tx: &mut Tx<'_>, input: &Claim) -> Result<bool> {
    let (held, lanes) = offers(tx, input)?;
    let room = room(input, held);
    Ok(room > 0 && !lanes.is_empty() && held_back(scope, tx)?.0 > 0)
}

/// How many more tasks the tenant lets executors work on, and by which limit. Who has none is not counted.
fn held_back(scope: &Scope, tx: &mut Tx<'_>) -> Result<(u32, Option<Use>)> {
    let allowance = tenants::of(scope, tx);
    let Some(most) = allowance.running_tasks else {
        return Ok((u32::MAX, None));
    };
    let running = store::running(tx)?;
    let room = u32::try_from(most.saturating_sub(running)).unwrap_or(u32::MAX);
    let held_back_by = allowance.of_use(Quota::MaxRunningTasks, running);
    Ok((room, Some(held_back_by)))
}

/// How many tasks the agent holds, and the lanes whose tasks it can do.
fn offers(tx: &mut Tx<'_>, input: &Claim) -> Result<(u32, Vec<Lane>)> {
    let (held, mut lanes) = store::offers(tx, &input.agent_id)?;
    lanes.retain(|(_, needs)| {
        needs
            .split(',')
            .all(|need| need.is_empty() || input.capabilities.contains(need))
    });
    Ok((u32::try_from(held).unwrap_or(u32::MAX), lanes))
}

/// How many tasks an agent that holds so many may take.
fn room(input: &Claim, held: u32) -> u32 {
    let free = input.max_concurrent_tasks.saturating_sub(held);
    free.min(input.max_tasks)
}

fn take(scope: &Scope, tx: &mut Tx<'_>, input: &Claim) -> Result<Claimed> {
    let (held, lanes) = offers(tx, input)?;
    let mut tasks = Vec::new();
    let wanted = match lanes.as_slice() {
        [] => 0,
        _ => room(input, held),
    };
    let (room, held_back_by) = match wanted {
        0 => (0, None),
        _ => held_back(scope, tx)?,
    };
    let held_back_by = held_back_by.filter(|_| room < wanted);
    let best = match room.min(wanted) {
        0 => Vec::new(),
        room => store::best(tx, &lanes, room)?,
    };
    for mut task in best {
        let was = store::Columns::of(&task);
        task.claim(
            scope,
            &input.agent_id,
            Duration::from_secs(input.lease_seconds.into()),
        )?;
        let key = if input.task_keys {
            let key = keys::create_for_task(
                scope,
                tx,
                &input.agent_id,
                (&task.id, task.spec.timeout_seconds),
            )?;
            task.run.key_id = Some(key.key_id);
            Some(key.key)
        } else {
            None
        };
        store::save(tx, &task, &was, scope.now())?;
        tell(scope, tx, "dev.baton.task.claimed", &task)?;
        tasks.push(view(tx, task, key)?);
    }
    let holding = held.saturating_add(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
    Ok(Claimed {
        tasks,
        holding,
        limit: input.max_concurrent_tasks,
        held_back_by,
    })
}

fn view(tx: &mut Tx<'_>, task: Task, key: Option<String>) -> Result<ClaimedTask> {
    let mut dependency_results = Map::new();
    for dependency in &task.spec.depends_on {
        if let Some(result) = store::get(tx, dependency)?.result {
            dependency_results.insert(dependency.to_string(), result);
        }
    }
    let Some(lease) = task.run.lease else {
        return Err(Error::internal("a claimed task without a lease"));
    };
    Ok(ClaimedTask {
        task_id: task.id,
        title: task.spec.title,
        description: task.spec.description,
        task_type: task.spec.task_type,
        priority: task.priority,
        task_data: task.spec.task_data,
        execution_context: ExecutionContext {
            timeout_seconds: Some(task.spec.timeout_seconds),
            max_retries: Some(task.spec.max_retries),
            resource_limits: task.spec.resource_limits,
        },
        attempt: task.run.attempt,
        timeout_at: task.run.timeout_at,
        result_schema: task.spec.result_schema,
        answers: task.run.answers,
        problems: task.run.problems,
        dependency_results,
        trace: task.spec.trace,
        lease: LeaseView {
            token: lease.token,
            expires_at: lease.expires_at,
        },
        key,
    })
}
