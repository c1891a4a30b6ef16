//! Calling a tool: what it may take, who did it and what it came to are kept, whatever it is done by.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::manifest::{Answer, Compiled, Implementation, plain};
use super::task::Work;
use super::{Tool, Tools, Use, store, unknown};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::events;
use crate::op::{self, Beginning, Begun, Cancel, Follow, Output, Stage, Standing};
use crate::orchestrator::RUN;
use crate::script::Outcome;
use crate::store::Tx;
use crate::upstream::Bounds;

/// Microseconds of a minute.
const MINUTE: i64 = 60_000_000;

/// A call.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Call {
    /// The tool
    #[schemars(length(min = 1, max = 128))]
    name: String,
    /// What it is called with, as `tool_describe` shows its parameters
    #[serde(default)]
    arguments: Map<String, Value>,
    /// Refuse if the tool is not the one that you have looked at
    #[schemars(length(max = 64))]
    hash: Option<String>,
}

impl Compiled {
    /// Does what the tool does. Everything that a tool may be done by has its arm here.
    async fn run(
        &self,
        ctx: &Ctx,
        tools: &Tools,
        arguments: &Map<String, Value>,
    ) -> Result<Answer> {
        let limits = &self.manifest.limits;
        let time = Duration::from_secs(limits.timeout_seconds.into());
        match &self.implementation {
            Implementation::Http(http) => {
                let _place = ctx.place_to_wait()?;
                http.run(ctx, limits, arguments).await
            }
            Implementation::Script(script) => {
                let _place = ctx.place_to_wait()?;
                let bounds = (time, limits.max_bytes as usize);
                let job = script.job(ctx, arguments.clone().into(), bounds);
                Ok(match tools.scripts().run(ctx, &job).await? {
                    Outcome::Value(value) => Answer::Data(value, None),
                    Outcome::Failed(message) => Answer::Failure(message),
                })
            }
            Implementation::Task(work) => work.run(ctx, limits, arguments).await,
            Implementation::Upstream(upstream) => {
                let _place = ctx.place_to_wait()?;
                let said = self.annotations();
                let is_repeatable =
                    [said.read_only_hint, said.idempotent_hint].contains(&Some(true));
                let bounds = Bounds {
                    time,
                    is_repeatable,
                };
                let called = tools.upstreams().call(ctx, upstream, arguments, &bounds);
                called.await.map(Answer::Output)
            }
        }
    }

    /// What would be done, for a dry call.
    pub(super) fn shown(&self, arguments: &Map<String, Value>) -> Result<Value> {
        match &self.implementation {
            Implementation::Http(http) => http.shown(arguments),
            Implementation::Script(script) => Ok(script.shown(arguments)),
            Implementation::Task(work) => work.checked(arguments, &self.manifest.limits),
            Implementation::Upstream(upstream) => Ok(upstream.shown(arguments)),
        }
    }
}

/// The tool that a call means.
fn meant(tool: Option<Tool>, call: &Call) -> Result<Tool> {
    let tool = tool.ok_or_else(|| unknown(&call.name))?;
    if call.hash.as_ref().is_some_and(|hash| *hash != tool.hash) {
        let message = format!(
            "{} has the hash {} now; look at it again",
            call.name, tool.hash
        );
        return Err(Error::conflict("tool_changed", message));
    }
    Ok(tool)
}

pub(super) async fn call(ctx: Ctx, input: Value, tools: Tools) -> Result<Output> {
    let mut call: Call = op::parse(&input)?;
    let tool = meant(tools.find(&ctx, &call.name).await?, &call)?;
    let arguments = tool.made.input(std::mem::take(&mut call.arguments))?;
    if tool.made.manifest.limits.calls_per_minute.is_some() {
        let tool = tool.clone();
        ctx.without_caller()
            .write(move |scope, tx| begin_in_minute(scope, tx, &tool))
            .await?;
    }
    let audit = Audit::begin(&ctx, &tool);
    let ran = tool.made.run(&ctx, &tools, &arguments).await;
    let output = ran.map(|answer| tool.made.output(answer));
    let outcome = match &output {
        Ok(output) if output.is_error => "failed",
        Ok(_) => "succeeded",
        Err(error) => error.code(),
    };
    audit.end(outcome).await;
    output
}

/// Counts a call that begins, where only so many of a minute may.
fn begin_in_minute(scope: &Scope, tx: &mut Tx<'_>, tool: &Tool) -> Result<()> {
    let manifest = &tool.made.manifest;
    let most = manifest.limits.calls_per_minute.unwrap_or(u32::MAX);
    let mut used = store::uses(tx, &manifest.name)?.unwrap_or_default();
    let minute = scope.now().as_micros() / MINUTE;
    if used.minute != minute {
        (used.minute, used.in_minute) = (minute, 0);
    }
    if used.in_minute >= i64::from(most) {
        let message = format!(
            "{} may be called {most} times a minute; slow down",
            manifest.name
        );
        let next = Time::from_micros((minute + 1) * MINUTE);
        return Err(Error::limited(
            "rate_limited",
            message,
            next.since(scope.now()),
        ));
    }
    used.in_minute += 1;
    store::save_uses(tx, &manifest.name, &used)
}

/// A call of which the log will tell, also when whoever called goes away meanwhile.
struct Audit(Option<Running>);

struct Running {
    ctx: Ctx,
    tool: Tool,
    begun: Time,
}

impl Audit {
    fn begin(ctx: &Ctx, tool: &Tool) -> Self {
        Self(Some(Running {
            begun: ctx.clock().steady(),
            ctx: ctx.without_caller(),
            tool: tool.clone(),
        }))
    }

    async fn end(mut self, outcome: &'static str) {
        if let Some(running) = self.0.take() {
            running.tell(outcome).await;
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let (Some(running), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { running.tell("cancelled").await });
        }
    }
}

impl Running {
    /// What was done can't be undone because it can't be written down, so that is the log's alone to complain about.
    async fn tell(self, outcome: &'static str) {
        let Self { ctx, tool, begun } = self;
        let took = ctx.clock().steady().since(begun);
        let took = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        let told = ctx.write(move |scope, tx| tell(scope, tx, &tool, (outcome, took)));
        if let Err(error) = told.await {
            tracing::error!(error = ?error, "a call of a tool could not be written down");
        }
    }
}

/// Writes down what a call came to.
fn tell(
    scope: &Scope,
    tx: &mut Tx<'_>,
    tool: &Tool,
    (outcome, micros): (&'static str, i64),
) -> Result<()> {
    let name = &tool.made.manifest.name;
    let mut used: Use = store::uses(tx, name)?.unwrap_or_default();
    used.calls += 1;
    used.failures += i64::from(!matches!(outcome, "succeeded" | "followed"));
    used.micros = used.micros.saturating_add(micros);
    used.called_at = scope.now();
    store::save_uses(tx, name, &used)?;
    let about = json!({
        "name": name, "version": tool.version, "implementation": tool.made.implementation.kind(),
        "outcome": outcome, "duration_ms": micros / 1_000,
    });
    events::append(scope, tx, "dev.baton.tool.called", tool.id.as_str(), &about).map(drop)
}

/// Calls of tools that are work for executors: the handle is the task's.
pub(super) const FOLLOW: Follow = Follow {
    begin,
    look,
    answer: RUN.answer,
    answers_by: super::CALL,
    cancel: Some(Cancel {
        run: |scope, tx, kept| match RUN.cancel {
            Some(cancel) => (cancel.run)(scope, tx, &kept["run"]),
            None => Ok(()),
        },
        by: super::CALL,
    }),
};

/// What a handle remembers.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Whether the tool says what it answers.
    promises: bool,
    /// What `task_run` remembers.
    run: Value,
}

fn begin(_: &Scope, input: &Value) -> Result<Beginning> {
    let call: Call = op::parse(input)?;
    Ok(Box::new(move |scope, tx| {
        let tool = Tools::default().find_in(tx, &call.name)?;
        let tool = meant(Some(tool), &call)?;
        let Implementation::Task(work) = &tool.made.implementation else {
            let message = format!("{} changed as it was called; call it again", call.name);
            return Err(Error::conflict("tool_changed", message));
        };
        let arguments = tool.made.input(call.arguments.clone())?;
        let limits = &tool.made.manifest.limits;
        if limits.calls_per_minute.is_some() {
            begin_in_minute(scope, tx, &tool)?;
        }
        let run = work.checked(&arguments, limits)?;
        let promises = tool.made.promises();
        tell(scope, tx, &tool, ("followed", 0))?;
        Ok(match (RUN.begin)(scope, &run)?(scope, tx)? {
            Begun::Done(output) => Begun::Done(answered(promises, output)?),
            Begun::Going(run) => {
                let kept = serde_json::to_value(Kept { promises, run });
                Begun::Going(kept.map_err(Error::internal)?)
            }
        })
    }))
}

fn look(scope: &Scope, tx: &mut Tx<'_>, kept: &Value) -> Result<Standing> {
    let kept: Kept = op::parse(kept)?;
    let mut standing = (RUN.look)(scope, tx, &kept.run)?;
    standing.stage = match standing.stage {
        Stage::Done(output) => Stage::Done(answered(kept.promises, output)?),
        Stage::Asking { asks, output } => Stage::Asking {
            asks,
            output: output
                .map(|output| answered(kept.promises, output))
                .transpose()?,
        },
        other => other,
    };
    Ok(standing)
}

/// What `task_run` answers, as the tool answers it.
fn answered(promises: bool, output: Output) -> Result<Output> {
    match output.structured {
        Some(ran) => Ok(plain(Work::answer(promises, &ran.value()?), promises)),
        None => Ok(output),
    }
}
