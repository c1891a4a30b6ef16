//! Tools that are work for an executor: a call dispatches a task and waits for its outcome, or is followed by a handle.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::manifest::{Answer, Limits, Manifest};
use crate::ctx::Ctx;
use crate::error::Result;
use crate::op;
use crate::orchestrator;
use crate::template;

/// What a dispatch may look like.
static FORM: LazyLock<Validator> = LazyLock::new(|| {
    let form = Value::Object(orchestrator::form());
    op::compile(&form).expect("the schema of a dispatch is a JSON Schema")
});

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    #[serde(rename = "type")]
    _type: String,
    /// The members of a dispatch, with `{name}` where arguments go. Without `task_data`, that is all arguments.
    #[serde(flatten)]
    task: Map<String, Value>,
    /// What its result must look like.
    #[serde(skip)]
    result: Option<Map<String, Value>>,
}

impl Work {
    /// Refuses what could never be dispatched.
    pub(super) fn ready(mut self, manifest: &Manifest) -> Result<Self> {
        self.result.clone_from(&manifest.output_schema);
        let sample = manifest
            .parameters()
            .map(|name| (name.to_owned(), "x".into()));
        self.checked(&sample.collect(), &Limits::default())?;
        Ok(self)
    }

    /// As [`Work::call`], if that can be dispatched.
    pub(super) fn checked(&self, arguments: &Map<String, Value>, limits: &Limits) -> Result<Value> {
        let call = self.call(arguments, limits);
        op::check(&FORM, &call)?;
        orchestrator::readable(&call)?;
        Ok(call)
    }

    /// The input of `task_run` with these arguments.
    fn call(&self, arguments: &Map<String, Value>, limits: &Limits) -> Value {
        let mut task = template::object(&self.task, arguments);
        task.entry("task_data")
            .or_insert_with(|| arguments.clone().into());
        if let Some(result) = &self.result {
            task.entry("result_schema")
                .or_insert_with(|| result.clone().into());
        }
        task.insert("wait_seconds".into(), limits.timeout_seconds.into());
        Value::Object(task)
    }

    /// Dispatches the task and waits.
    pub(super) async fn run(
        &self,
        ctx: &Ctx,
        limits: &Limits,
        arguments: &Map<String, Value>,
    ) -> Result<Answer> {
        let call = self.checked(arguments, limits)?;
        let ran = orchestrator::run(ctx.clone(), &call).await?;
        Ok(Self::answer(self.result.is_some(), &ran))
    }

    /// What the outcome of a task, as `task_run` answers it, is to whoever called the tool, which may promise what it answers.
    pub(super) fn answer(promises: bool, ran: &Value) -> Answer {
        let (id, state) = (template::text(&ran["task_id"]), &ran["state"]);
        match state.as_str().unwrap_or_default() {
            "completed" => match &ran["result"] {
                Value::Null => {
                    Answer::Data(json!({"task_id": id, "outcome": ran["outcome"]}), None)
                }
                Value::String(text) => Answer::Text(text.clone()),
                result => Answer::Data(result.clone(), None),
            },
            "failed" | "cancelled" => {
                let last = ran["problems"].as_array().and_then(|all| all.last());
                let why = last.or_else(|| ran.get("cause"));
                let why = why.map(|why| format!(": {}", template::text(why)));
                let ended = match state.as_str() {
                    Some("failed") => "failed",
                    _ => "was cancelled",
                };
                Answer::Failure(format!("the task {id} {ended}{}", why.unwrap_or_default()))
            }
            // What it will be is not known yet, so it can't be what the tool promises.
            state => {
                let next = if state == "escalated" {
                    "it needs an answer (task_answer)"
                } else {
                    "go on with task_wait"
                };
                let text = format!("the task {id} is {state}: {next}");
                if promises {
                    return Answer::Failure(text);
                }
                let data = json!({"task_id": id, "state": state, "done": false});
                Answer::Data(data, Some(text))
            }
        }
    }
}
