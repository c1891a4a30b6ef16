//! Operations on their way to the writer: each is run in a group and answered exactly once.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::log::Log;
use crate::database::Db;
use crate::error::{Error, Result};
use crate::id::TenantId;

/// An operation whose types are hidden, so that one queue holds them all.
pub(super) trait Job: Send {
    /// For whom; `None` for an operation over all tenants.
    fn tenant(&self) -> Option<&TenantId>;
    /// Runs the operation; the answer is kept for [`Job::finish`]. Says whether it succeeded.
    fn run(&mut self, db: Db<'_>, log: Option<&mut Log>) -> bool;
    /// Runs the operation for what it asks of the database; its answer is not kept, nor what it appends to the log.
    fn rehearse(&mut self, db: Db<'_>);
    /// Answers the caller: what the operation said if the commit succeeded, else the commit's error.
    fn finish(self: Box<Self>, commit: Result<()>);
    /// Whether the caller has gone.
    fn is_abandoned(&self) -> bool;
}

pub(super) struct JobOf<T, F> {
    tenant: Option<TenantId>,
    operation: F,
    outcome: Option<Result<T>>,
    reply: Option<Reply<T, F>>,
}

/// The caller gets its operation back with the answer: memory goes back most cheaply where it came from.
type Reply<T, F> = oneshot::Sender<(Result<T>, Box<JobOf<T, F>>)>;

impl<T, F> JobOf<T, F> {
    pub(super) fn new(tenant: Option<TenantId>, operation: F, reply: Reply<T, F>) -> Self {
        Self {
            tenant,
            operation,
            outcome: None,
            reply: Some(reply),
        }
    }
}

impl<T, F> Job for JobOf<T, F>
where
    T: Send,
    F: FnMut(Option<&TenantId>, Db<'_>, Option<&mut Log>) -> Result<T> + Send,
{
    fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    fn run(&mut self, db: Db<'_>, log: Option<&mut Log>) -> bool {
        let operation = || (self.operation)(self.tenant.as_ref(), db, log);
        let outcome = catch_unwind(AssertUnwindSafe(operation))
            .unwrap_or_else(|_| Err(Error::internal("an operation panicked")));
        let succeeded = outcome.is_ok();
        self.outcome = Some(outcome);
        succeeded
    }

    fn rehearse(&mut self, db: Db<'_>) {
        self.run(db, Some(&mut Log::default()));
        self.outcome = None;
    }

    fn finish(mut self: Box<Self>, commit: Result<()>) {
        let answer = match (commit, self.outcome.take()) {
            // The operation's own refusal stands whatever became of the group: nothing of it was to be written.
            (_, Some(Err(error))) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), None) => Err(Error::internal("an operation that was not run")),
            (Err(error), _) => Err(error),
        };
        if let Some(reply) = self.reply.take() {
            // A caller that has gone needs no answer.
            let _ = reply.send((answer, self));
        }
    }

    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// Where groups are answered: on the runtime that the callers wait on, if the store was opened in one. Waking them from
/// there is cheap, and from a thread of the store each would have to be brought over by itself.
#[derive(Clone)]
pub(super) struct Desk(Option<Handle>);

impl Desk {
    pub(super) fn here() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Answers the callers of a group that was committed.
    pub(super) fn finish(&self, jobs: Vec<Box<dyn Job>>) {
        let finish = move || jobs.into_iter().for_each(|job| job.finish(Ok(())));
        match &self.0 {
            Some(runtime) => drop(runtime.spawn(async { finish() })),
            None => finish(),
        }
    }
}

/// Operations that may wait for a writer; one more is answered `Unavailable`.
const BOUND: usize = 8_192;

/// Waiting operations, bounded.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Box<dyn Job>>,
    /// Threads that wait for a job. Waking costs a call of the kernel even when there is nobody to wake.
    idle: usize,
    closed: bool,
}

/// What [`Queue::take`] found.
pub(super) enum Taken {
    Jobs(Vec<Box<dyn Job>>),
    Nothing,
    Closed,
}

impl Queue {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job; answers it `Unavailable` when the queue is full or closed.
    pub(super) fn push(&self, job: Box<dyn Job>) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return job.finish(Err(super::closed()));
        }
        if state.waiting.len() >= BOUND {
            drop(state);
            return job.finish(Err(Error::unavailable(
                "store_busy",
                format!("more than {BOUND} operations wait for the database"),
                Duration::from_secs(1),
            )));
        }
        state.waiting.push_back(job);
        let is_awaited = state.idle > 0;
        drop(state);
        if is_awaited {
            self.changed.notify_one();
        }
    }

    /// Lets jobs wait again, before all others.
    pub(super) fn put_back(&self, jobs: Vec<Box<dyn Job>>) {
        let mut state = self.state();
        for job in jobs.into_iter().rev() {
            state.waiting.push_front(job);
        }
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Up to `most` waiting jobs, waiting for the first at most `patience`.
    pub(super) fn take(&self, most: usize, patience: Duration) -> Taken {
        let mut state = self.state();
        loop {
            if !state.waiting.is_empty() {
                let count = most.min(state.waiting.len());
                return Taken::Jobs(state.waiting.drain(..count).collect());
            }
            if state.closed {
                return Taken::Closed;
            }
            state.idle += 1;
            let (waited, timeout) = self
                .changed
                .wait_timeout(state, patience)
                .unwrap_or_else(PoisonError::into_inner);
            state = waited;
            state.idle -= 1;
            if timeout.timed_out() && state.waiting.is_empty() && !state.closed {
                return Taken::Nothing;
            }
        }
    }
}
