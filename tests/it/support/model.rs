//! The reference model of a task's life. It knows no database, no protocol and no code of the server's.

/// How long a claim lasts, in seconds.
pub(crate) const LEASE: u64 = 60;
/// How long an attempt may take, in seconds.
pub(crate) const TIMEOUT: u64 = 500;

/// What the model knows of a task. Times are seconds since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) state: &'static str,
    pub(crate) depends_on: Vec<usize>,
    pub(crate) retries: u32,
    /// Who holds it, by what token, until when.
    pub(crate) held: Option<(usize, String, u64)>,
    pub(crate) old_token: Option<String>,
    pub(crate) times_out_at: Option<u64>,
    pub(crate) time_left: u64,
    /// A retry pauses; after three seconds it is over in any case, before half a second in none.
    pub(crate) resting: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) tasks: Vec<Known>,
    pub(crate) now: u64,
}

impl Model {
    pub(crate) fn settle_dependents(&mut self) {
        loop {
            let mut changed = false;
            for index in 0..self.tasks.len() {
                if self.tasks[index].state != "blocked" {
                    continue;
                }
                let states: Vec<_> = self.tasks[index]
                    .depends_on
                    .iter()
                    .map(|other| self.tasks[*other].state)
                    .collect();
                if states
                    .iter()
                    .any(|state| matches!(*state, "failed" | "cancelled"))
                {
                    self.tasks[index].state = "cancelled";
                    changed = true;
                } else if states.iter().all(|state| *state == "completed") {
                    self.tasks[index].state = "pending";
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }

    pub(crate) fn let_go(&mut self, task: usize, state: &'static str) {
        let known = &mut self.tasks[task];
        if let Some((_, token, _)) = known.held.take() {
            known.old_token = Some(token);
        }
        known.state = state;
        known.times_out_at = None;
        self.settle_dependents();
    }

    pub(crate) fn lose_or_retry(&mut self, task: usize) {
        if self.tasks[task].retries < 2 {
            self.tasks[task].retries += 1;
            self.tasks[task].resting = true;
            self.let_go(task, "pending");
        } else {
            self.let_go(task, "failed");
        }
    }

    pub(crate) fn rest_in_escalated(&mut self, task: usize) {
        self.let_go(task, "escalated");
        self.tasks[task].times_out_at = Some(self.now + TIMEOUT);
    }

    /// Time passes and the reaper acts: first on timeouts, then on leases.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        for task in 0..self.tasks.len() {
            let known = &self.tasks[task];
            if known.times_out_at.is_some_and(|at| at <= self.now) {
                self.let_go(task, "failed");
            } else if known
                .held
                .as_ref()
                .is_some_and(|(_, _, until)| *until <= self.now)
            {
                if known.state == "escalated" {
                    self.rest_in_escalated(task);
                } else {
                    self.lose_or_retry(task);
                }
            }
            if seconds >= 10 {
                self.tasks[task].resting = self.tasks[task].resting
                    && self.tasks[task].state == "pending"
                    && self.just_retried(task);
            }
        }
    }

    /// A task that was retried in this very step rests from now on.
    fn just_retried(&self, task: usize) -> bool {
        self.tasks[task].old_token.is_some()
            && self.tasks[task].held.is_none()
            && self.tasks[task].resting
    }
}
