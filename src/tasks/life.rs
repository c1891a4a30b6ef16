//! Decisions about one task, on plain types: what a claim, a report, an answer or the passing of time makes of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, Holder, Message, Problem, Question, Reason, Recorded, State, Task};
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::{AgentId, LeaseToken};

/// The longest pause before a retry.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// Problems of earlier attempts that are kept: the last ones.
const PROBLEMS: usize = 20;
/// Answers that are kept: the last ones.
const ANSWERS: usize = 50;

/// The right to speak for a task, until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The fencing token: another claim gets another.
    pub token: LeaseToken,
    /// Who holds it.
    pub agent_id: AgentId,
    /// When it runs out without a heartbeat (steady clock).
    pub expires_at: Time,
    /// When the attempt began.
    pub since: Time,
    /// The task's revision when it was claimed: later changes are told by heartbeats.
    pub revision: u32,
}

/// How a task ends, for the report and the event.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// The state to end in.
    pub message: Message,
    /// What the report calls it.
    pub outcome: Reason,
    /// Why, as a stable word, when the executor did not say `success`.
    pub cause: Option<String>,
}

impl Task {
    /// Whether an executor could take it now.
    pub fn is_claimable(&self) -> bool {
        self.state == State::Pending && self.run.due_at.is_none()
    }

    /// When the reaper must look at it next.
    pub fn wake_at(&self) -> Option<Time> {
        let lease = self.run.lease.as_ref().map(|lease| lease.expires_at);
        [lease, self.run.timeout_at, self.run.due_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether another attempt is allowed after this one.
    pub fn has_retries_left(&self) -> bool {
        self.run.retries < self.spec.max_retries
    }

    fn step(&mut self, message: Message) -> Result<()> {
        self.state = self.state.after(message)?;
        Ok(())
    }

    /// An executor takes it for `lease_for`.
    pub fn claim(&mut self, scope: &Scope, agent_id: &AgentId, lease_for: Duration) -> Result<()> {
        self.step(Message::Claim)?;
        let token = LeaseToken::mint(scope.now(), scope.random());
        self.run.attempt += 1;
        self.run.agent_id = Some(agent_id.clone());
        self.run.timeout_at = Some(scope.steady() + self.timeout());
        self.run.time_left = None;
        self.run.first_claimed_at.get_or_insert(scope.now());
        self.run.lease = Some(Lease {
            token,
            agent_id: agent_id.clone(),
            expires_at: scope.steady() + lease_for,
            since: scope.now(),
            revision: self.run.revision,
        });
        Ok(())
    }

    /// The time that an attempt may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.spec.timeout_seconds))
    }

    /// The lease, when `holder` has it.
    ///
    /// # Errors
    /// `task_already_ended` or `lease_lost`: the executor must drop its work.
    pub(crate) fn held_by(&mut self, holder: Holder<'_>) -> Result<&mut Lease> {
        let state = self.state;
        let reason = self.run.cancel_reason.clone();
        match &mut self.run.lease {
            Some(lease)
                if lease.token == *holder.lease_token && lease.agent_id == *holder.agent_id =>
            {
                Ok(lease)
            }
            _ if state.is_terminal() => {
                let why = reason
                    .map(|reason| format!(" ({reason})"))
                    .unwrap_or_default();
                Err(Error::conflict(
                    "task_already_ended",
                    format!("the task is {}{why}; drop the work on it", state.name()),
                ))
            }
            _ => Err(Error::conflict(
                "lease_lost",
                "this lease is over and the task may be another executor's now; drop the work on it",
            )),
        }
    }

    /// Its executor reports that it works on it.
    pub fn report(&mut self, progress: Option<f64>, current_step: Option<&str>) -> Result<()> {
        self.step(Message::Report)?;
        if progress.is_some() {
            self.run.progress = progress;
        }
        if let Some(step) = current_step {
            self.run.current_step = Some(step.to_owned());
        }
        self.run.report_requested = false;
        Ok(())
    }

    /// Its executor records the outcome that its end will confirm.
    pub fn record(&mut self, recorded: Recorded) -> Result<()> {
        self.step(Message::Report)?;
        self.run.recorded = Some(recorded);
        self.run.report_requested = false;
        Ok(())
    }

    /// Its executor asks a question and keeps its lease; the attempt's timeout stands still.
    pub fn escalate(&mut self, scope: &Scope, question: Question) -> Result<()> {
        self.step(Message::Escalate)?;
        self.run.question = Some(question);
        self.stop_timeout(scope);
        Ok(())
    }

    fn stop_timeout(&mut self, scope: &Scope) {
        if let Some(timeout_at) = self.run.timeout_at.take() {
            self.run.time_left = Some(timeout_at.as_micros() - scope.steady().as_micros());
        }
    }

    /// Nobody holds it while its question is open: it rests, for as long as an attempt may take.
    fn rest(&mut self, scope: &Scope) {
        self.run.lease = None;
        self.run.time_left = None;
        self.run.timeout_at = Some(scope.steady() + self.timeout());
    }

    /// The orchestrator answers: its executor goes on, or the next one begins with the answer.
    pub fn answer(&mut self, scope: &Scope, answer: Value) -> Result<()> {
        let held = self.run.lease.is_some();
        self.step(Message::Answer { held })?;
        let question = self.run.question.take();
        self.run.answers.push(Answer {
            question: question.and_then(|question| question.question.or(question.reason)),
            answer,
            answered_at: scope.now(),
        });
        let surplus = self.run.answers.len().saturating_sub(ANSWERS);
        self.run.answers.drain(..surplus);
        self.run.revision += 1;
        let left = self.run.time_left.take().unwrap_or_default().max(1_000_000);
        self.run.timeout_at = held.then(|| {
            scope.steady() + Duration::from_micros(u64::try_from(left).unwrap_or(1_000_000))
        });
        Ok(())
    }

    /// Goes back to the queue for another attempt, after a pause that doubles with every retry.
    pub fn retry_later(&mut self, scope: &Scope, message: Message, problem: Value) -> Result<()> {
        self.step(message)?;
        let doublings = self.run.retries.min(16);
        let pause = scope
            .limits()
            .retry_backoff
            .saturating_mul(1 << doublings)
            .min(LONGEST_BACKOFF);
        // Half of the pause is fixed and half is random, so that those who failed together don't return together.
        let pause = pause.mul_f64(0.5 + scope.random().fraction() / 2.0);
        self.note_problem(scope, problem);
        self.run.retries += 1;
        self.run.question = None;
        self.let_go();
        self.run.due_at = Some(scope.steady() + pause);
        Ok(())
    }

    /// Remembers what went wrong, for the report.
    pub fn note_problem(&mut self, scope: &Scope, problem: Value) {
        self.run.problems.push(Problem {
            attempt: self.run.attempt,
            agent_id: self.run.agent_id.clone(),
            at: scope.now(),
            problem,
        });
        let surplus = self.run.problems.len().saturating_sub(PROBLEMS);
        self.run.problems.drain(..surplus);
    }

    /// Its executor gives it back with a question: it rests until it is answered, cancelled or out of time.
    pub fn give_back(&mut self, scope: &Scope, message: Message, question: Question) -> Result<()> {
        self.step(message)?;
        // The question that was asked before the end is the better one.
        self.run.question.get_or_insert(question);
        self.rest(scope);
        Ok(())
    }

    /// Its lease ran out while its question is open.
    pub fn lose_asker(&mut self, scope: &Scope) -> Result<()> {
        self.step(Message::LeaseLost { retry: false })?;
        self.note_problem(scope, "the lease ran out while a question was open".into());
        self.rest(scope);
        Ok(())
    }

    /// Ends for good.
    pub fn end(&mut self, scope: &Scope, ending: &Ending) -> Result<()> {
        self.step(ending.message)?;
        self.let_go();
        self.run.question = None;
        self.run.outcome = Some(ending.outcome);
        self.run.cause.clone_from(&ending.cause);
        self.run.ended_at = Some(scope.now());
        Ok(())
    }

    /// Everything that belonged to the attempt.
    fn let_go(&mut self) {
        let run = &mut self.run;
        run.lease = None;
        run.timeout_at = None;
        run.time_left = None;
        run.due_at = None;
        run.recorded = None;
        run.report_requested = false;
    }

    /// The orchestrator wants it tried again, with all its retries.
    pub fn try_again(&mut self, blocked: bool) -> Result<()> {
        self.step(Message::Retry { blocked })?;
        let run = &mut self.run;
        run.retries = 0;
        (run.progress, run.current_step, run.recorded) = (None, None, None);
        (
            run.cause,
            run.outcome,
            run.cancel_reason,
            run.ended_at,
            run.last_end,
        ) = (None, None, None, None, None);
        run.revision += 1;
        (self.result, self.report) = (None, None);
        Ok(())
    }
}
