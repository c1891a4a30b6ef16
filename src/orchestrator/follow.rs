//! How `task_run` and `task_wait` are followed by a handle: where their tasks stand now, and their open questions as
//! forms. A handle remembers which tasks; everything else is read from them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::dispatch::{dispatch, order};
use super::steer;
use super::wait::{Ran, RunTask, Until, Wait, Waited};
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::TaskId;
use crate::op::{self, Ask, Beginning, Begun, Cancel, Follow, Reply, Stage, Standing, Structured};
use crate::store::Tx;
use crate::tasks::view::Outcome;
use crate::tasks::{Question, State, Task, settle, store};

/// The most options that a form offers; who has more asks for free text.
const OPTIONS: usize = 100;
/// The field of a form.
const FIELD: &str = "answer";

/// `task_run`: the handle is the task's.
pub(super) const RUN: Follow = Follow {
    begin: begin_run,
    look: |_, tx, kept| look(tx, kept, Call::Run),
    answer,
    answers_by: "task_answer",
    cancel: Some(Cancel {
        run: cancel,
        by: "task_cancel",
    }),
};

/// `task_wait`: the tasks are somebody's already, and go on whether or not he waits.
pub(super) const WAIT: Follow = Follow {
    begin: begin_wait,
    look: |_, tx, kept| look(tx, kept, Call::Wait),
    answer,
    answers_by: "task_answer",
    cancel: None,
};

/// What a handle remembers.
#[derive(Serialize, Deserialize)]
struct Kept {
    task_ids: BTreeSet<TaskId>,
    until: Until,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Run,
    Wait,
}

fn begin_run(scope: &Scope, input: &Value) -> Result<Beginning> {
    let RunTask {
        dispatch: request,
        wait_seconds,
    } = op::parse(input)?;
    let order = order(scope, request)?;
    Ok(Box::new(move |scope, tx| {
        let id = dispatch(scope, tx, &order)?.task_id;
        let task = store::get(tx, &id)?;
        if wait_seconds == 0 || task.state.is_terminal() {
            let ran = Ran::of(Outcome::of(task));
            return Ok(Begun::Done(Structured::of(&ran)?.into()));
        }
        let kept = Kept {
            task_ids: [id].into(),
            until: Until::All,
        };
        Ok(Begun::Going(json(&kept)?))
    }))
}

fn begin_wait(_: &Scope, input: &Value) -> Result<Beginning> {
    let wait: Wait = op::parse(input)?;
    Ok(Box::new(move |_, tx| {
        let tasks = outcomes(tx, &wait.task_ids)?;
        let waited = Waited::of(tasks, wait.until);
        if wait.wait_seconds == 0 || waited.done {
            return Ok(Begun::Done(Structured::of(&waited)?.into()));
        }
        let kept = Kept {
            task_ids: wait.task_ids.clone(),
            until: wait.until,
        };
        Ok(Begun::Going(json(&kept)?))
    }))
}

fn outcomes(tx: &mut Tx<'_>, ids: &BTreeSet<TaskId>) -> Result<Vec<Outcome>> {
    let tasks = ids.iter().map(|id| store::get(tx, id).map(Outcome::of));
    tasks.collect()
}

fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(Error::internal)
}

fn look(tx: &mut Tx<'_>, kept: &Value, call: Call) -> Result<Standing> {
    let kept: Kept = op::parse(kept)?;
    let ids = kept.task_ids.iter();
    let tasks: Vec<Task> = ids.map(|id| store::get(tx, id)).collect::<Result<_>>()?;
    let watched = kept.task_ids.iter();
    let watched = watched.map(|id| format!("baton://tasks/{id}")).collect();
    let updated_at = tasks.iter().map(|task| task.updated_at).max();
    let (message, stage) = stand(tasks, kept.until, call)?;
    Ok(Standing {
        stage,
        message,
        updated_at: updated_at.unwrap_or_default(),
        watched,
    })
}

/// How far `tasks` have come, in words and for the handle.
fn stand(tasks: Vec<Task>, until: Until, call: Call) -> Result<(String, Stage)> {
    let message = message(&tasks);
    let is_cancelled = tasks.iter().all(|task| task.state == State::Cancelled);
    if call == Call::Run && is_cancelled {
        return Ok((message, Stage::Cancelled));
    }
    let mut states = tasks.iter().map(|task| task.state);
    let has_ended = match until {
        Until::Any => states.any(State::is_terminal),
        Until::All => states.all(State::is_terminal),
    };
    let asks: Vec<Ask> = tasks.iter().filter_map(ask).collect();
    if !has_ended && asks.is_empty() {
        return Ok((message, Stage::Working));
    }
    let outcomes = tasks.into_iter().map(Outcome::of).collect();
    let waited = Waited::of(outcomes, until);
    let is_done = waited.done;
    let output = match call {
        Call::Wait => Structured::of(&waited)?,
        Call::Run => Structured::of(&waited.tasks.into_iter().next().map(Ran::of))?,
    };
    let output = output.into();
    let stage = if has_ended {
        Stage::Done(output)
    } else {
        let output = is_done.then_some(output);
        Stage::Asking { asks, output }
    };
    Ok((message, stage))
}

fn message(tasks: &[Task]) -> String {
    let mut open = tasks.iter().filter(|task| !task.state.is_terminal());
    let step = open.find_map(|task| task.run.current_step.as_deref());
    let mut message = match tasks {
        [task] => {
            let name = task.state.name();
            let reason = task.run.cancel_reason.as_deref();
            let progress = task.run.progress.filter(|_| !task.state.is_terminal());
            match (reason, progress) {
                (Some(reason), _) => format!("{name}: {reason}"),
                (None, Some(percent)) => format!("{name}, {percent} %"),
                (None, None) => name.to_owned(),
            }
        }
        tasks => {
            let ended = tasks.iter().filter(|task| task.state.is_terminal()).count();
            format!("{ended} of {} tasks ended", tasks.len())
        }
    };
    if let Some(step) = step {
        message.push_str(": ");
        message.push_str(step);
    }
    message
}

/// The open question of `task`, if it has one.
fn ask(task: &Task) -> Option<Ask> {
    let question = task.run.question.as_ref()?;
    if task.state != State::Escalated {
        return None;
    }
    let asked_at = question.asked_at.as_micros();
    let text = question.question.as_ref().or(question.reason.as_ref());
    let mut message = text
        .map_or("How is it to go on?", String::as_str)
        .to_owned();
    if let (Some(_), Some(reason)) = (&question.question, &question.reason) {
        message = format!("{message}\n\nWhy it is asked: {reason}");
    }
    let title = task.spec.title.as_deref();
    message = format!("{}: {message}", title.unwrap_or(task.id.as_str()));
    let mut field = json!({"type": "string", "title": "Answer"});
    match (labels(question), &question.options) {
        (Some(labels), _) => field["enum"] = labels.into(),
        (None, Some(options)) => message = format!("{message}\n\nOptions: {options}"),
        (None, None) => field["minLength"] = 1.into(),
    }
    Some(Ask {
        key: format!("{}-{}-{asked_at}", task.id, task.run.attempt),
        about: task.id.to_string(),
        message,
        form: json!({"type": "object", "properties": {FIELD: field}, "required": [FIELD]}),
    })
}

/// What the options are called in a form, if each has a name of its own.
fn labels(question: &Question) -> Option<Vec<String>> {
    let options = question.options.as_ref()?;
    let labels: Vec<String> = match options {
        Value::Array(options) => options.iter().map(label).collect::<Option<_>>()?,
        Value::Object(options) => options.keys().cloned().collect(),
        _ => return None,
    };
    let distinct: BTreeSet<&String> = labels.iter().collect();
    let is_usable = (1..=OPTIONS).contains(&labels.len()) && distinct.len() == labels.len();
    is_usable.then_some(labels)
}

fn label(option: &Value) -> Option<String> {
    match option {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => ["label", "title", "name", "id", "value"]
            .iter()
            .find_map(|name| fields.get(*name)?.as_str())
            .map(str::to_owned),
        Value::Number(_) | Value::Bool(_) => Some(option.to_string()),
        Value::Null | Value::Array(_) => None,
    }
}

/// Gives the task its answer as `task_answer` would: the option itself, where the form named options.
fn answer(scope: &Scope, tx: &mut Tx<'_>, ask: &Ask, reply: &Reply) -> Result<()> {
    let task_id: TaskId = ask.about.parse().map_err(Error::internal)?;
    let question = store::get(tx, &task_id)?.run.question;
    let answer = match reply {
        Reply::Accepted(content) => {
            let text = content.get(FIELD).and_then(Value::as_str);
            let text = text.ok_or_else(|| refuse(&ask.key, "answer is a text"))?;
            meant(question.as_ref(), text)
                .ok_or_else(|| refuse(&ask.key, "answer is none of the options"))?
        }
        Reply::Declined => json!({"declined": true}),
        Reply::Dismissed => json!({"dismissed": true}),
    };
    steer::answer(scope, tx, &steer::AnswerTask { task_id, answer }).map(drop)
}

fn refuse(key: &str, what: &str) -> Error {
    Error::invalid_at(format!("/inputResponses/{key}/content"), what)
}

/// What `text` stands for among the options of `question`; itself where there are none to choose from.
fn meant(question: Option<&Question>, text: &str) -> Option<Value> {
    let Some(labels) = question.and_then(labels) else {
        return Some(text.into());
    };
    let index = labels.iter().position(|label| label == text)?;
    match question?.options.as_ref()? {
        Value::Array(options) => options.get(index).cloned(),
        _ => Some(text.into()),
    }
}

fn cancel(scope: &Scope, tx: &mut Tx<'_>, kept: &Value) -> Result<()> {
    let kept: Kept = op::parse(kept)?;
    for id in &kept.task_ids {
        let task = store::lock(tx, id)?;
        if !task.state.is_terminal() {
            settle::cancel(scope, tx, task, Some("its caller called it off"), true)?;
        }
    }
    Ok(())
}
