//! What an executor says while it holds a lease: `task_heartbeat` and `task_notify`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::claim::sixty;
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::id::{AgentId, LeaseToken, NotificationId, TaskId};
use crate::store::{Sequence, Tx};
use crate::tasks::{Answer, Holder, Priority, Question, Recorded, State, Task, store};

/// A lease that an executor holds.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct HeldLease {
    /// The task
    pub task_id: TaskId,
    /// The token from `task_claim`
    pub lease_token: LeaseToken,
}

/// A sign of life.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Heartbeat {
    /// Who you are
    pub agent_id: AgentId,
    /// The leases that you hold
    #[schemars(length(min = 1, max = 100))]
    pub leases: Vec<HeldLease>,
    /// How long you hold each without a further heartbeat
    #[serde(default = "sixty")]
    #[schemars(range(min = 5, max = 3_600))]
    pub lease_seconds: u32,
}

/// What an executor must know about a task that it works on.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct HeartbeatLease {
    /// The task
    pub task_id: TaskId,
    /// False when it is not yours any more: drop the work on it
    pub held: bool,
    /// Why it is not yours, as a stable word
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Why it is not yours, in words
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it stands
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// When the lease runs out without a further heartbeat
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    #[serde(flatten)]
    pub news: News,
}

/// What the orchestrator has changed or wants since the task was claimed.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct News {
    /// When the attempt runs out of time; absent while a question is open
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<Time>,
    /// The orchestrator wants a `task_notify` now
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub report_requested: bool,
    /// What the orchestrator answered since the claim
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// The task's data, if it was changed since the claim
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_data: Option<Map<String, Value>>,
    /// The task's priority, if anything was changed since the claim
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}

impl News {
    fn of(task: &Task) -> Self {
        let lease = task.run.lease.as_ref();
        let changed = lease.is_some_and(|lease| task.run.revision > lease.revision);
        let since = lease.map(|lease| lease.since);
        Self {
            timeout_at: task.run.timeout_at,
            report_requested: task.run.report_requested,
            answers: task
                .run
                .answers
                .iter()
                .filter(|answer| Some(answer.answered_at) >= since)
                .cloned()
                .collect(),
            task_data: changed.then(|| task.spec.task_data.clone()),
            priority: changed.then_some(task.priority),
        }
    }
}

/// What came of a sign of life.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct HeartbeatAnswer {
    /// One for each lease of the call, in its order
    pub leases: Vec<HeartbeatLease>,
}

pub(crate) fn heartbeat(
    scope: &Scope,
    tx: &mut Tx<'_>,
    input: &Heartbeat,
) -> Result<HeartbeatAnswer> {
    let mut leases = Vec::with_capacity(input.leases.len());
    for lease in &input.leases {
        let (state, outcome) = match store::find(tx, &lease.task_id)? {
            None => (None, Err(store::unknown(&lease.task_id))),
            Some(task) => (Some(task.state), extend(scope, tx, task, input, lease)),
        };
        leases.push(match outcome {
            Ok(lease) => lease,
            // One lost lease must not cost the others their heartbeat.
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {
                HeartbeatLease {
                    task_id: lease.task_id.clone(),
                    held: false,
                    code: Some(error.code()),
                    reason: Some(error.message().to_owned()),
                    state,
                    expires_at: None,
                    news: News::default(),
                }
            }
            Err(error) => return Err(error),
        });
    }
    Ok(HeartbeatAnswer { leases })
}

fn extend(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut task: Task,
    input: &Heartbeat,
    held: &HeldLease,
) -> Result<HeartbeatLease> {
    let holder = Holder {
        agent_id: &input.agent_id,
        lease_token: &held.lease_token,
    };
    let was = store::Columns::of(&task);
    let expires_at = scope.steady() + Duration::from_secs(input.lease_seconds.into());
    task.held_by(holder)?.expires_at = expires_at;
    store::save(tx, &task, &was, scope.now())?;
    Ok(HeartbeatLease {
        held: true,
        code: None,
        reason: None,
        state: Some(task.state),
        expires_at: Some(expires_at),
        news: News::of(&task),
        task_id: task.id,
    })
}

/// What an executor reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NotificationType {
    #[serde(rename = "task_started", alias = "started")]
    Started,
    #[serde(rename = "task_progress", alias = "progress")]
    Progress,
    #[serde(rename = "task_completed", alias = "completed")]
    Completed,
    #[serde(rename = "task_failed", alias = "failed")]
    Failed,
    #[serde(rename = "task_escalated", alias = "escalated")]
    Escalated,
}

impl JsonSchema for NotificationType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NotificationType".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "enum": [
            "task_started", "task_progress", "task_completed", "task_failed", "task_escalated",
            "started", "progress", "completed", "failed", "escalated"
        ]})
    }
}

impl NotificationType {
    const fn event(self) -> &'static str {
        match self {
            Self::Started => "dev.baton.task.report.started",
            Self::Progress => "dev.baton.task.report.progress",
            Self::Completed => "dev.baton.task.report.completed",
            Self::Failed => "dev.baton.task.report.failed",
            Self::Escalated => "dev.baton.task.report.escalated",
        }
    }
}

/// A notification of an executor.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Notify {
    /// The task
    pub task_id: TaskId,
    /// Who you are
    pub agent_id: AgentId,
    /// The token from `task_claim`
    pub lease_token: LeaseToken,
    /// What kind it is
    notification_type: NotificationType,
    /// What it says. started: `estimated_duration`, complexity, `required_resources`. progress: progress (0-100),
    /// `current_step`, `intermediate_results`, challenges, opportunities. completed: result, `quality_score` (0-1),
    /// `performance_metrics`, recommendations, `related_tasks`, `next_steps`, `lessons_learned`. failed: error, `root_cause`,
    /// `partial_results`, `recovery_recommendations`, retryable, `suggested_modifications`. escalated: reason, severity,
    /// question, options
    #[serde(default)]
    pub data: Map<String, Value>,
    /// Your own id for it; repeating a call with the same id changes nothing more
    pub notification_id: Option<NotificationId>,
    /// When, by your clock
    pub timestamp: Option<Time>,
    /// The state that you think the task is in afterwards
    #[schemars(length(max = 64))]
    pub status: Option<String>,
    /// Anything else
    pub metadata: Option<Map<String, Value>>,
}

/// What came of a notification.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Notified {
    /// The task
    pub task_id: TaskId,
    /// Where it stands now
    pub state: State,
    /// The notification's id
    pub notification_id: NotificationId,
    /// Its number in the tenant's event log
    pub sequence: Sequence,
    #[serde(flatten)]
    pub news: News,
}

pub(crate) fn notify(scope: &Scope, tx: &mut Tx<'_>, input: &Notify) -> Result<Notified> {
    let mut task = store::lock(tx, &input.task_id)?;
    let kind = input.notification_type.event();
    if let Some(id) = &input.notification_id
        && let Some((known_kind, subject, _, sequence)) = tx.event(id.as_str())?
    {
        if known_kind != kind || subject != task.id.as_str() {
            let message =
                format!("there is another notification {id}; use another notification_id");
            return Err(Error::conflict("notification_id_taken", message));
        }
        let (state, news) = (task.state, News::of(&task));
        return Ok(Notified {
            task_id: task.id,
            state,
            notification_id: id.clone(),
            sequence,
            news,
        });
    }
    let was = store::Columns::of(&task);
    task.held_by(Holder {
        agent_id: &input.agent_id,
        lease_token: &input.lease_token,
    })?;
    apply(scope, &mut task, input)?;
    store::save(tx, &task, &was, scope.now())?;
    let notification_id = input
        .notification_id
        .clone()
        .unwrap_or_else(|| NotificationId::mint(scope.now(), scope.random()));
    let envelope = Envelope {
        notification_id: &notification_id,
        task_id: &task.id,
        agent_id: &input.agent_id,
        notification_type: input.notification_type,
        timestamp: input.timestamp.unwrap_or(scope.now()),
        status: task.state,
        reported_status: input.status.as_deref(),
        data: &input.data,
        metadata: input.metadata.as_ref(),
    };
    let sequence = events::append_as(
        &scope.within(task.spec.trace.as_ref()),
        tx,
        &notification_id,
        (kind, task.id.as_str()),
        &envelope,
    )?;
    let (state, news) = (task.state, News::of(&task));
    Ok(Notified {
        task_id: task.id,
        state,
        notification_id,
        sequence,
        news,
    })
}

#[derive(Serialize)]
struct Envelope<'a> {
    notification_id: &'a NotificationId,
    task_id: &'a TaskId,
    agent_id: &'a AgentId,
    notification_type: NotificationType,
    timestamp: Time,
    status: State,
    /// What the executor thinks that the state is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_status: Option<&'a str>,
    data: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Map<String, Value>>,
}

fn apply(scope: &Scope, task: &mut Task, input: &Notify) -> Result<()> {
    let data = &input.data;
    let text = |name: &str| data.get(name).and_then(Value::as_str).map(str::to_owned);
    match input.notification_type {
        NotificationType::Started => task.report(None, None),
        NotificationType::Progress => task.report(
            data.get("progress").and_then(Value::as_f64),
            text("current_step").as_deref(),
        ),
        NotificationType::Completed => task.record(Recorded {
            result: data.get("result").cloned(),
            quality_score: data.get("quality_score").and_then(Value::as_f64),
            ..Recorded::default()
        }),
        NotificationType::Failed => task.record(Recorded {
            error: data.get("error").cloned(),
            retryable: data.get("retryable").and_then(Value::as_bool),
            ..Recorded::default()
        }),
        NotificationType::Escalated => {
            let question = Question {
                reason: text("reason"),
                severity: text("severity"),
                question: text("question"),
                options: data.get("options").cloned(),
                asked_at: scope.now(),
            };
            task.escalate(scope, question)
        }
    }
}
