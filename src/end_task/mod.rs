//! The controlled end of a task: once, fenced by the lease, with a report, and repeatable without harm.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ctx::Scope;
use crate::error::{Error, Finding, Kind, Result};
use crate::id::{AgentId, LeaseToken, TaskId};
use crate::op::{self, Op, Permission};
use crate::store::Tx;
use crate::tasks::{
    self, Account, Brief, Ending, Holder, Message, Question, Reason, Recorded, Task, store,
};

/// What callers may do.
pub fn operations() -> Vec<Op> {
    let end = Op::write("task_end", Permission::Execute, end)
        .about(
            "End a task",
            "As an executor: end a task for good, with its result. Repeating the same call is harmless.",
        )
        .destructive()
        .idempotent()
        .at("POST", "/api/v1/tasks/{task_id}/end")
        .strictly_at("/agent/end-task", "agent_end_task")
        .sample(|| {
            json!({
                "task_id": "tsk_sample", "agent_id": "agent-1", "lease_token": "lse_sample",
                "reason": "success", "result": {"lines": 42},
            })
        });
    vec![end]
}

/// How an executor ends a task.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct EndTask {
    /// The task
    task_id: TaskId,
    /// Who you are
    agent_id: AgentId,
    /// The token from `task_claim`
    lease_token: LeaseToken,
    /// success, partial: completed. failure: tried again while retries are left, else failed. timeout: failed.
    /// cancelled: cancelled. escalated: given back with a question
    reason: Reason,
    /// What you did
    #[serde(default)]
    execution_summary: Map<String, Value>,
    /// What came of it: any JSON; without it, what `task_completed` recorded
    #[serde(default)]
    #[schemars(schema_with = "tasks::any_json")]
    result: Option<Value>,
    /// What you cleaned up
    #[serde(default)]
    #[schemars(length(max = 100))]
    cleanup_actions: Vec<String>,
    /// What should come next
    #[serde(default)]
    #[schemars(length(max = 100))]
    next_steps: Vec<String>,
    /// Whether a failure may be tried again; without it, what `task_failed` said, else true
    retryable: Option<bool>,
}

fn end(scope: &Scope, tx: &mut Tx<'_>, input: &EndTask) -> Result<Brief> {
    let mut task = store::lock_to_end(tx, &input.task_id)?;
    let fingerprint = tasks::fingerprint(input)?;
    if task.run.last_end.as_ref() == Some(&fingerprint) {
        return Ok(Brief::of(&task));
    }
    task.held_by(Holder {
        agent_id: &input.agent_id,
        lease_token: &input.lease_token,
    })?;
    let recorded = task.run.recorded.clone().unwrap_or_default();
    let result = input.result.clone().or_else(|| recorded.result.clone());
    if matches!(input.reason, Reason::Success | Reason::Partial) {
        check_result(&task, result.as_ref())?;
    }
    task.run.last_end = Some(fingerprint);
    let retryable = input.retryable.or(recorded.retryable).unwrap_or(true);
    let retry = input.reason == Reason::Failure && retryable && task.has_retries_left();
    let message = Message::End {
        reason: input.reason,
        retry,
    };
    let task = match input.reason {
        Reason::Failure if retry => {
            tasks::requeue(scope, tx, task, message, problem(input, &recorded))?
        }
        Reason::Escalated => give_back(scope, tx, task, message, input)?,
        reason => {
            if reason == Reason::Failure || reason == Reason::Timeout {
                task.note_problem(scope, problem(input, &recorded));
            }
            task.result = result;
            let account = Account {
                execution_summary: input.execution_summary.clone(),
                cleanup_actions: input.cleanup_actions.clone(),
                next_steps: input.next_steps.clone(),
                quality_score: recorded.quality_score,
            };
            tasks::end(
                scope,
                tx,
                task,
                &Ending {
                    message,
                    outcome: reason,
                    cause: cause(reason),
                },
                account,
            )?
        }
    };
    Ok(Brief::of(&task))
}

/// Why a task ended, when its executor did not simply succeed.
fn cause(reason: Reason) -> Option<String> {
    let cause = match reason {
        Reason::Success | Reason::Partial | Reason::Escalated => return None,
        Reason::Failure => "failure",
        Reason::Timeout => "timeout",
        Reason::Cancelled => "cancelled_by_executor",
    };
    Some(cause.to_owned())
}

/// What went wrong: the error that was reported, else the summary, else that there was none.
fn problem(input: &EndTask, recorded: &Recorded) -> Value {
    if let Some(error) = &recorded.error {
        return error.clone();
    }
    if input.execution_summary.is_empty() {
        return "the executor gave no reason".into();
    }
    Value::Object(input.execution_summary.clone())
}

fn give_back(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut task: Task,
    message: Message,
    input: &EndTask,
) -> Result<Task> {
    let was = store::Columns::of(&task);
    let text = |name: &str| {
        input
            .execution_summary
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let question = Question {
        reason: text("reason").or_else(|| Some("the executor gave the task back".into())),
        severity: text("severity"),
        question: text("question"),
        options: input.execution_summary.get("options").cloned(),
        asked_at: scope.now(),
    };
    task.give_back(scope, message, question)?;
    store::save(tx, &task, &was, scope.now())?;
    tasks::tell(scope, tx, "dev.baton.task.escalated", &task)?;
    Ok(task)
}

/// Refuses a result that is not what the orchestrator asked for, with all findings, so that the executor can mend it.
fn check_result(task: &Task, result: Option<&Value>) -> Result<()> {
    let Some(schema) = &task.spec.result_schema else {
        return Ok(());
    };
    let validator = op::compile(&Value::Object(schema.clone())).map_err(Error::internal)?;
    let result = result.unwrap_or(&Value::Null);
    if validator.is_valid(result) {
        return Ok(());
    }
    let findings: Vec<Finding> = validator
        .iter_errors(result)
        .take(20)
        .map(|error| Finding {
            path: format!("/result{}", error.instance_path()),
            message: error.to_string(),
        })
        .collect();
    let first = findings
        .first()
        .map(|finding| format!("{}: {}", finding.path, finding.message))
        .unwrap_or_default();
    let message = format!(
        "the result is not what result_schema asks for: {first}; mend it and end the task again"
    );
    Err(Error::new(Kind::Invalid, "invalid_result", message).with_findings(findings))
}
