//! One task's life in the executor: started, running under heartbeats, ended or let go.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::child::{Child, Ended};
use super::{Claimed, Outcome, PAUSES, Worker, is_transient, object};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::NotificationId;
use crate::trace::{NAMES, Trace};

/// The shortest time between two progress reports.
const THROTTLE: Duration = Duration::from_millis(200);
/// The longest time between two heartbeats, so that a cancel is felt soon however long the lease.
const BEAT: Duration = Duration::from_secs(5);
/// How long past the lease an end is still worth trying: the server may not have taken the task back yet.
const LATE: Duration = Duration::from_secs(10);
/// Bytes of one environment variable; the kernel takes 128 KiB, and standard input has everything.
const VARIABLE: usize = 64 * 1024;
/// What programs look for their trace in, in the order of its [`NAMES`].
const VARIABLES: [&str; 3] = ["TRACEPARENT", "TRACESTATE", "BAGGAGE"];

/// One claimed task.
pub(super) struct Job {
    worker: Worker,
    claimed: Claimed,
    task: Value,
    /// The trace of whoever dispatched it.
    trace: Option<Trace>,
    /// When the lease runs out unless a heartbeat gets through.
    expires: watch::Sender<Time>,
    /// When the attempt has lasted too long.
    deadline: watch::Sender<Option<Time>>,
    /// The newest progress, waiting to be sent.
    progress: watch::Sender<Option<Map<String, Value>>>,
    /// Asks for a heartbeat at once.
    beat_now: Notify,
    started: Time,
}

/// Why a command was not left to end by itself.
enum Cut {
    /// The task is not this executor's any more.
    Gone(String),
    /// The attempt lasted too long.
    TimedOut,
    /// The executor stops.
    Stopped,
}

/// What a heartbeat says of one lease.
#[derive(Debug, Deserialize)]
struct Beat {
    held: bool,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    expires_at: Option<Time>,
    #[serde(default)]
    timeout_at: Option<Time>,
    #[serde(default)]
    report_requested: bool,
}

impl Job {
    pub(super) fn new(mut worker: Worker, task: Value) -> serde_json::Result<Self> {
        let claimed = Claimed::deserialize(&task)?;
        let trace = Trace::read(|name| Some(task["trace"][name].as_str()?.into()));
        if trace.is_some() {
            worker.remote = worker.remote.traced(trace.clone());
        }
        let (now, lease) = (worker.clock.steady(), worker.options.lease);
        let deadline = deadline(now, lease, claimed.lease.expires_at, claimed.timeout_at);
        Ok(Self {
            claimed,
            task,
            trace,
            expires: watch::Sender::new(now + lease),
            deadline: watch::Sender::new(deadline),
            progress: watch::Sender::new(None),
            beat_now: Notify::new(),
            started: now,
            worker,
        })
    }

    pub(super) async fn run(self) -> Outcome {
        let task_id = &self.claimed.task_id;
        tracing::info!("{task_id} started");
        let notified = self.notify("started", json!({}), *self.expires.borrow());
        if let Err(failure) = notified.await {
            tracing::warn!("{task_id} not begun: {failure}");
            return Outcome::Lost;
        }
        let line = self.task.to_string();
        let command = &self.worker.options.command;
        let (mut child, pipes) = match Child::start(command, &self.environment(), &line).await {
            Ok(started) => started,
            Err(error) => {
                let summary = json!({"error": format!("the command can't be started: {error}")});
                return self.end("failure", summary, Map::new()).await;
            }
        };
        let quiet = CancellationToken::new();
        let mut reading = std::pin::pin!(pipes.read(&self.progress));
        let mut reporting = std::pin::pin!(self.report(&quiet));
        let mut cutting = std::pin::pin!(self.cut());
        let mut read = None;
        let cut = loop {
            tokio::select! {
                said = &mut reading, if read.is_none() => read = Some(said),
                code = child.wait() => break Ok(code),
                cut = &mut cutting => break Err(cut),
                () = &mut reporting => {}
            }
        };
        let code = match &cut {
            Ok(code) => *code,
            Err(_) => child.end().await,
        };
        quiet.cancel();
        // Nobody is left to write, so the pipes are at their end.
        let (said, stderr) = match read {
            Some(read) => read,
            None => reading.await,
        };
        let ended = Ended { code, said, stderr };
        match cut {
            Err(Cut::Gone(reason)) => {
                tracing::info!("{task_id} let go: {reason}");
                Outcome::Lost
            }
            Err(Cut::TimedOut) => self.end_cut("timeout", "it ran out of time", ended).await,
            Err(Cut::Stopped) => {
                self.end_cut("failure", "the executor was stopped", ended)
                    .await
            }
            Ok(_) => {
                let _ = tokio::time::timeout(THROTTLE * 10, reporting).await;
                self.end_by_itself(ended).await
            }
        }
    }

    /// Returns when the command must not go on.
    async fn cut(&self) -> Cut {
        let stop = &self.worker.stop;
        let stopped = async {
            stop.soon.cancelled().await;
            tokio::select! {
                () = stop.now.cancelled() => {}
                () = tokio::time::sleep(self.worker.options.grace) => {}
            }
        };
        tokio::select! {
            reason = self.keep_lease() => Cut::Gone(reason),
            () = self.time_out() => Cut::TimedOut,
            () = stopped => Cut::Stopped,
        }
    }

    /// Sends heartbeats until the lease is lost; says why it is.
    async fn keep_lease(&self) -> String {
        let clock = &self.worker.clock;
        let lease = self.worker.options.lease;
        let mut pause = (lease / 3).min(BEAT);
        loop {
            tokio::select! {
                () = clock.sleep_until(clock.steady() + pause) => {}
                () = self.beat_now.notified() => {}
            }
            let sent = clock.steady();
            let call = self.worker.remote.call("task_heartbeat", self.heartbeat());
            // An answer that comes later than the next heartbeat is due is as good as none.
            let answer = tokio::time::timeout((lease / 3).max(PAUSES.0), call).await;
            match answer.map(|answer| answer.map(|answer| beat(&answer))) {
                Ok(Ok(Some(beat))) if beat.held => {
                    self.renew(sent, &beat);
                    pause = (lease / 3).min(BEAT);
                    continue;
                }
                Ok(Ok(Some(beat))) => {
                    return beat.reason.unwrap_or_else(|| "the lease is lost".into());
                }
                Ok(Err(failure)) if !is_transient(&failure) => return failure.to_string(),
                Ok(Err(failure)) => tracing::warn!("no heartbeat got through: {failure}"),
                Ok(Ok(None)) | Err(_) => tracing::warn!("no heartbeat was answered"),
            }
            if clock.steady() >= *self.expires.borrow() {
                return "the lease ran out while the server could not be reached".into();
            }
            pause = PAUSES.1.min(lease / 6);
        }
    }

    fn renew(&self, sent: Time, beat: &Beat) {
        let lease = self.worker.options.lease;
        self.expires.send_replace(sent + lease);
        if let Some(expires_at) = beat.expires_at {
            let deadline = deadline(sent, lease, expires_at, beat.timeout_at);
            self.deadline.send_replace(deadline);
        }
        if beat.report_requested {
            let ran = self.worker.clock.steady().since(self.started).as_secs();
            self.progress.send_modify(|progress| {
                let fields = progress.get_or_insert_default();
                fields.entry("progress").or_insert_with(|| 0.into());
                fields
                    .entry("current_step")
                    .or_insert_with(|| format!("running for {ran} s").into());
            });
        }
    }

    /// Returns when the attempt has lasted too long. A heartbeat may move that moment.
    async fn time_out(&self) {
        let mut moved = self.deadline.subscribe();
        loop {
            let deadline = *moved.borrow_and_update();
            let passed = async {
                match deadline {
                    Some(deadline) => self.worker.clock.sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                _ = moved.changed() => {}
            }
        }
    }

    /// Sends the newest progress, at most every [`THROTTLE`], until `quiet`; then what is still unsent.
    async fn report(&self, quiet: &CancellationToken) {
        let mut progress = self.progress.subscribe();
        loop {
            let last = tokio::select! {
                _ = progress.changed() => false,
                () = quiet.cancelled() => true,
            };
            if last && !progress.has_changed().unwrap_or(false) {
                return;
            }
            let newest = progress.borrow_and_update().clone();
            if let Some(newest) = newest {
                self.send_progress(newest).await;
            }
            if last {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(THROTTLE) => {}
                () = quiet.cancelled() => {}
            }
        }
    }

    async fn send_progress(&self, progress: Map<String, Value>) {
        let sent = self.notify("progress", progress.into(), self.worker.clock.steady());
        match sent.await {
            Ok(()) => {}
            // The heartbeat asks what became of the task; a report that is merely wrong is the command's affair.
            Err(failure) if failure.kind() == Kind::Conflict => self.beat_now.notify_one(),
            Err(failure) => {
                tracing::warn!("{} progress not taken: {failure}", self.claimed.task_id);
            }
        }
    }

    async fn notify(&self, kind: &str, data: Value, until: Time) -> Result<()> {
        let clock = &self.worker.clock;
        let id = NotificationId::mint(clock.now(), &self.worker.random);
        let mut input = self.credentials();
        input.insert("notification_id".into(), id.as_str().into());
        input.insert("notification_type".into(), kind.into());
        input.insert("data".into(), data);
        let call = self.worker.persist("task_notify", &input, until);
        call.await.map(|_| ())
    }

    async fn end_by_itself(&self, ended: Ended) -> Outcome {
        let reason = if ended.code == 0 {
            "success"
        } else {
            "failure"
        };
        let mut summary = self.summary(&ended);
        if reason == "failure" && !ended.stderr.is_empty() {
            summary.insert("stderr".into(), ended.stderr.clone().into());
        }
        let mut more = Map::new();
        match ended.said.summary {
            Some(Value::Object(own)) => summary.extend(own),
            Some(own) => {
                summary.insert("summary".into(), own);
            }
            None => {}
        }
        if let Some(result) = ended.said.result {
            more.insert("result".into(), result);
        }
        if !ended.said.next_steps.is_empty() {
            more.insert("next_steps".into(), ended.said.next_steps.into());
        }
        if let Some(retryable) = ended.said.retryable
            && reason == "failure"
        {
            more.insert("retryable".into(), retryable.into());
        }
        tracing::info!(
            "{} came to its end: exit code {}",
            self.claimed.task_id,
            ended.code
        );
        self.end(reason, summary.into(), more).await
    }

    async fn end_cut(&self, reason: &str, why: &str, ended: Ended) -> Outcome {
        let mut summary = self.summary(&ended);
        summary.insert("error".into(), why.into());
        if !ended.stderr.is_empty() {
            summary.insert("stderr".into(), ended.stderr.into());
        }
        tracing::info!("{} was ended: {why}", self.claimed.task_id);
        self.end(reason, summary.into(), Map::new()).await
    }

    fn summary(&self, ended: &Ended) -> Map<String, Value> {
        let ran = self.worker.clock.steady().since(self.started);
        let mut summary = object(json!({
            "exit_code": ended.code,
            "duration_seconds": (ran.as_secs_f64() * 1_000.0).round() / 1_000.0,
        }));
        if ended.said.cut {
            summary.insert("output_truncated".into(), true.into());
        }
        summary
    }

    /// Ends the task. What the server will not take as a success is a failure, with the reason.
    async fn end(&self, reason: &str, summary: Value, more: Map<String, Value>) -> Outcome {
        let mut input = self.credentials();
        input.insert("reason".into(), reason.into());
        input.insert("execution_summary".into(), summary);
        input.extend(more);
        let until = *self.expires.borrow() + LATE;
        match self.worker.persist("task_end", &input, until).await {
            Ok(_) if reason == "success" => Outcome::Succeeded,
            Ok(_) => Outcome::Failed,
            Err(failure) if failure.kind() == Kind::Invalid => {
                tracing::warn!("{} result refused: {failure}", self.claimed.task_id);
                let mut again = self.credentials();
                again.insert("reason".into(), "failure".into());
                again.insert(
                    "execution_summary".into(),
                    json!({"error": format!("what the command printed was refused: {}", failure.message())}),
                );
                match self.worker.persist("task_end", &again, until).await {
                    Ok(_) => Outcome::Failed,
                    Err(failure) => self.lost(&failure),
                }
            }
            Err(failure) => self.lost(&failure),
        }
    }

    fn lost(&self, failure: &Error) -> Outcome {
        tracing::warn!("{} could not be ended: {failure}", self.claimed.task_id);
        Outcome::Lost
    }

    /// What proves that this executor may speak for the task.
    fn credentials(&self) -> Map<String, Value> {
        object(json!({
            "task_id": self.claimed.task_id,
            "agent_id": self.worker.options.agent_id,
            "lease_token": self.claimed.lease.token,
        }))
    }

    fn heartbeat(&self) -> Map<String, Value> {
        object(json!({
            "agent_id": self.worker.options.agent_id,
            "lease_seconds": self.worker.options.lease.as_secs(),
            "leases": [{"task_id": self.claimed.task_id, "lease_token": self.claimed.lease.token}],
        }))
    }

    /// The task in variables. What is too long for one is left out; standard input has it.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |name: &str| match self.task.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.replace('\0', ""),
            Some(value) => value.to_string(),
        };
        let mut environment = self.worker.options.environment.clone();
        environment.extend([
            ("BATON_TASK_ID", text("task_id")),
            ("BATON_TASK_TYPE", text("task_type")),
            ("BATON_TITLE", text("title")),
            ("BATON_DESCRIPTION", text("description")),
            ("BATON_PRIORITY", text("priority")),
            ("BATON_TASK_DATA", text("task_data")),
            ("BATON_ATTEMPT", text("attempt")),
            ("BATON_LEASE_TOKEN", self.claimed.lease.token.clone()),
        ]);
        if let Some(tenant) = self.worker.remote.tenant() {
            environment.push(("BATON_TENANT", tenant.to_owned()));
        }
        if let Some(trace) = &self.trace {
            // What this process has of another trace is no part of this one.
            for (name, variable) in NAMES.into_iter().zip(VARIABLES) {
                let value = trace.parts().find(|(known, _)| *known == name);
                environment.push((variable, value.map_or("", |(_, value)| value).to_owned()));
            }
        }
        environment.retain(|(_, value)| value.len() <= VARIABLE);
        environment
    }
}

fn beat(answer: &Value) -> Option<Beat> {
    Beat::deserialize(answer.get("leases")?.get(0)?).ok()
}

/// When an attempt has lasted too long, on this machine's clock. Both times are the server's, whose clock may differ: a
/// lease was given for `lease` at `now`, which tells the difference.
fn deadline(
    now: Time,
    lease: Duration,
    expires_at: Time,
    timeout_at: Option<Time>,
) -> Option<Time> {
    let left = (timeout_at? + lease).since(expires_at);
    Some(now + left)
}
