//! The executor that ships: claims tasks, runs a command for each, reports its progress and ends the task with what it
//! said. It knows Baton only by its operations, so it works on a data folder and over REST alike.

mod child;
mod job;
mod output;
mod remote;

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use child::{bind, supervise};
pub use remote::Remote;

use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use crate::id::AgentId;
use crate::random::Random;
use job::Job;

/// How long a claim waits for work; the server takes at most 50 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause after a first failed call, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What to work on and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who works.
    pub agent_id: AgentId,
    /// What it is able to do.
    pub capabilities: Vec<String>,
    /// What `sh -c` runs for each task.
    pub command: String,
    /// Tasks at a time.
    pub concurrency: usize,
    /// How long a lease lasts without a heartbeat.
    pub lease: Duration,
    /// How long running commands may go on after a stop was asked for.
    pub grace: Duration,
    /// Whether to end after one task.
    pub once: bool,
    /// Whether to end when there was nothing to do for that long.
    pub idle_exit: Option<Duration>,
    /// Variables for the command besides the task's own.
    pub environment: Vec<(&'static str, String)>,
}

/// How to stop: soon, or now.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Claim nothing more; running commands get their grace.
    pub soon: CancellationToken,
    /// End running commands at once.
    pub now: CancellationToken,
}

/// How many tasks went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended with success.
    pub succeeded: usize,
    /// Ended with failure or timeout.
    pub failed: usize,
    /// Cancelled, or taken away with their lease.
    pub lost: usize,
}

/// How one task went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Succeeded,
    Failed,
    Lost,
}

/// Handles that all jobs share.
#[derive(Clone)]
struct Worker {
    remote: Remote,
    options: Arc<Options>,
    clock: Clock,
    random: Random,
    stop: Stop,
}

/// A task as a claim gives it; the command gets the whole of it.
#[derive(Debug, Deserialize)]
struct Claimed {
    task_id: String,
    lease: Lease,
    #[serde(default)]
    timeout_at: Option<Time>,
}

#[derive(Debug, Deserialize)]
struct Lease {
    token: String,
    expires_at: Time,
}

/// Works until told to stop, or as long as the options say.
///
/// # Errors
/// A claim that was refused for good, for example because a capability has an impossible name.
pub async fn run(
    remote: Remote,
    options: Options,
    (clock, random): (Clock, Random),
    stop: Stop,
) -> Result<Tally> {
    let worker = Worker {
        remote,
        options: Arc::new(options),
        clock,
        random,
        stop,
    };
    let mut jobs = JoinSet::new();
    let mut tally = Tally::default();
    let claimed = worker.claim_all(&mut jobs, &mut tally).await;
    if !jobs.is_empty() && worker.stop.soon.is_cancelled() {
        tracing::info!(
            "stopping: {} running command(s) may go on for {} s; stop again to end them now",
            jobs.len(),
            worker.options.grace.as_secs()
        );
    }
    while let Some(done) = jobs.join_next().await {
        tally.add(done);
    }
    claimed.map(|()| tally)
}

impl Worker {
    /// Claims and starts tasks for as long as there is reason to.
    async fn claim_all(&self, jobs: &mut JoinSet<Outcome>, tally: &mut Tally) -> Result<()> {
        let mut busy_at = self.clock.steady();
        let mut pause = PAUSES.0;
        loop {
            while let Some(done) = jobs.try_join_next() {
                tally.add(done);
            }
            let free = self.options.concurrency.saturating_sub(jobs.len());
            if free == 0 {
                tokio::select! {
                    Some(done) = jobs.join_next() => tally.add(done),
                    () = self.stop.soon.cancelled() => return Ok(()),
                }
                continue;
            }
            if !jobs.is_empty() {
                busy_at = self.clock.steady();
            }
            let idle = self.clock.steady().since(busy_at);
            let patience = match self.options.idle_exit {
                Some(limit) if jobs.is_empty() && idle >= limit => return Ok(()),
                // While something runs, its end must be noticed, since idleness counts from there.
                Some(limit) => limit.saturating_sub(idle).min(PATIENCE),
                None => PATIENCE,
            };
            let claimed = tokio::select! {
                claimed = self.claim(free, patience) => claimed,
                () = self.stop.soon.cancelled() => return Ok(()),
            };
            match claimed {
                Ok(tasks) => {
                    pause = PAUSES.0;
                    let any = !tasks.is_empty();
                    for task in tasks {
                        self.start(task, jobs);
                        busy_at = self.clock.steady();
                    }
                    if any && self.options.once {
                        return Ok(());
                    }
                }
                Err(failure) if is_transient(&failure) => {
                    tracing::warn!("can't claim, trying again: {failure}");
                    tokio::select! {
                        () = self.clock.sleep_until(self.clock.steady() + pause) => {}
                        () = self.stop.soon.cancelled() => return Ok(()),
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Up to `free` tasks, waiting for the first at most `patience`.
    async fn claim(&self, free: usize, patience: Duration) -> Result<Vec<Value>> {
        let most = if self.options.once { 1 } else { free };
        let input = object(json!({
            "agent_id": self.options.agent_id,
            "capabilities": self.options.capabilities,
            "max_tasks": most,
            "max_concurrent_tasks": self.options.concurrency,
            "lease_seconds": self.options.lease.as_secs(),
            "wait_seconds": patience.as_secs() + u64::from(patience.subsec_nanos() > 0),
        }));
        match self
            .remote
            .call("task_claim", input)
            .await?
            .get_mut("tasks")
        {
            Some(Value::Array(tasks)) => Ok(std::mem::take(tasks)),
            _ => Ok(Vec::new()),
        }
    }

    fn start(&self, task: Value, jobs: &mut JoinSet<Outcome>) {
        match Job::new(self.clone(), task) {
            Ok(job) => {
                jobs.spawn(job.run());
            }
            Err(error) => tracing::error!("the server gave a task that can't be read: {error}"),
        }
    }

    /// Calls until there is an answer that trying again can't change, or until `deadline`.
    async fn persist(
        &self,
        name: &str,
        input: &Map<String, Value>,
        deadline: Time,
    ) -> Result<Value> {
        let mut pause = PAUSES.0;
        loop {
            match self.remote.call(name, input.clone()).await {
                Err(failure)
                    if is_transient(&failure) && self.clock.steady() + pause < deadline =>
                {
                    tracing::warn!("{name} failed, trying again: {failure}");
                    self.clock.sleep_until(self.clock.steady() + pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                answer => return answer,
            }
        }
    }
}

impl Tally {
    fn add(&mut self, done: std::result::Result<Outcome, JoinError>) {
        match done {
            Ok(Outcome::Succeeded) => self.succeeded += 1,
            Ok(Outcome::Failed) => self.failed += 1,
            Ok(Outcome::Lost) => self.lost += 1,
            Err(error) => {
                tracing::error!("a job broke off: {error}");
                self.lost += 1;
            }
        }
    }
}

/// Whether the same call may succeed in a moment.
fn is_transient(error: &Error) -> bool {
    match error.kind() {
        Kind::Limited | Kind::Unavailable | Kind::Internal => true,
        Kind::Invalid
        | Kind::Unauthenticated
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Cancelled => false,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
