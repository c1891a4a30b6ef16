//! The report of an ended task: what was asked, what came of it, how long it took and what went wrong on the way.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Problem, Reason, State, Task};
use crate::clock::Time;
use crate::id::{AgentId, TaskId};

/// What stays when a task has ended.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The task
    pub task_id: TaskId,
    /// The state that it ended in
    pub state: State,
    /// What the end was called
    pub outcome: Reason,
    /// Why, as a stable word, when it did not simply succeed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Who ended it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// What the executor says that it did
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub execution_summary: Map<String, Value>,
    /// What was cleaned up
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub cleanup_actions: Vec<String>,
    /// What should come next
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub next_steps: Vec<String>,
    /// How good the executor thinks that it is, 0 to 1
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_score: Option<f64>,
    /// Attempts begun
    pub attempts: u32,
    /// How long it took
    pub timings: Timings,
    /// What went wrong in earlier attempts
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<Problem>,
}

/// Moments and durations of a task's life.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// When it was dispatched
    pub dispatched_at: Time,
    /// When it was first claimed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_claimed_at: Option<Time>,
    /// When it ended
    pub ended_at: Time,
    /// Seconds from dispatch to the first claim, or to the end when there was none
    pub waited_seconds: f64,
    /// Seconds from the first claim to the end
    pub worked_seconds: f64,
}

/// What only the executor can add.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub execution_summary: Map<String, Value>,
    pub cleanup_actions: Vec<String>,
    pub next_steps: Vec<String>,
    pub quality_score: Option<f64>,
}

impl Report {
    /// The report of a task that has just ended.
    pub(crate) fn of(task: &Task, outcome: Reason, now: Time, account: Account) -> Self {
        let claimed = task.run.first_claimed_at;
        Self {
            task_id: task.id.clone(),
            state: task.state,
            outcome,
            cause: task.run.cause.clone(),
            agent_id: task.run.agent_id.clone(),
            execution_summary: account.execution_summary,
            cleanup_actions: account.cleanup_actions,
            next_steps: account.next_steps,
            quality_score: account.quality_score,
            attempts: task.run.attempt,
            timings: Timings {
                dispatched_at: task.created_at,
                first_claimed_at: claimed,
                ended_at: now,
                waited_seconds: claimed.unwrap_or(now).since(task.created_at).as_secs_f64(),
                worked_seconds: claimed.map_or(0.0, |claimed| now.since(claimed).as_secs_f64()),
            },
            problems: task.run.problems.clone(),
        }
    }

    /// The report for people and models, as Markdown. A textual result stands in it as it is.
    pub(crate) fn to_markdown(&self, title: &str, result: Option<&Value>) -> String {
        let mut text = format!("# {}\n\n", title.replace('\n', " "));
        let line = |text: &mut String, name: &str, value: &str| {
            let _ = writeln!(text, "- {name}: {value}");
        };
        line(&mut text, "Task", self.task_id.as_str());
        line(&mut text, "State", self.state.name());
        line(&mut text, "Outcome", json(&self.outcome).trim_matches('"'));
        if let Some(cause) = &self.cause {
            line(&mut text, "Cause", cause);
        }
        if let Some(agent_id) = &self.agent_id {
            line(&mut text, "Executor", agent_id.as_str());
        }
        line(&mut text, "Attempts", &self.attempts.to_string());
        let Timings {
            waited_seconds,
            worked_seconds,
            ..
        } = self.timings;
        line(
            &mut text,
            "Time",
            &format!("waited {waited_seconds:.1} s, worked {worked_seconds:.1} s"),
        );
        match result {
            Some(Value::String(result)) => {
                let _ = write!(text, "\n## Result\n\n{result}\n");
            }
            Some(result) => {
                let pretty = serde_json::to_string_pretty(result).unwrap_or_default();
                let _ = write!(text, "\n## Result\n\n```json\n{pretty}\n```\n");
            }
            None => {}
        }
        self.write_account(&mut text);
        text
    }

    fn write_account(&self, text: &mut String) {
        if !self.execution_summary.is_empty() {
            text.push_str("\n## Summary\n\n");
            for (name, value) in &self.execution_summary {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                let _ = writeln!(text, "- {name}: {value}");
            }
        }
        for (title, lines) in [
            ("Cleaned up", &self.cleanup_actions),
            ("Next steps", &self.next_steps),
        ] {
            if !lines.is_empty() {
                let _ = write!(text, "\n## {title}\n\n- {}\n", lines.join("\n- "));
            }
        }
        if !self.problems.is_empty() {
            text.push_str("\n## Problems on the way\n\n");
            for problem in &self.problems {
                let _ = writeln!(
                    text,
                    "- attempt {}, {}: {}",
                    problem.attempt, problem.at, problem.problem
                );
            }
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
