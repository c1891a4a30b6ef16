//! Scripts: JavaScript that tenants write, run where it can do nothing but compute and ask.
//!
//! `engine` is a process of its own, in which scripts run; `pool` has these processes; `host` answers what scripts ask for;
//! `wire` is what both sides say. A run is bounded in time, memory, stack, answer, log and questions, by the engine where it
//! notices and by the end of its process where it does not, so that it is never the server that waits or grows.

mod engine;
mod host;
mod pool;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::caller::Level;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::id::SecretName;
use host::Host;
use pool::{Pool, Worker};
use wire::{Line, Order, Run, Word};

pub use engine::serve;

/// Bytes of memory that a script may take.
const MEMORY: usize = 64 << 20;
/// How much later than the engine the server ends a script.
const GRACE: Duration = Duration::from_millis(500);
/// Lines of a script's log that are told, and characters of each.
const LOG: (usize, usize) = (100, 2_000);
/// Words of a script, and bytes of one besides the answer: whoever says more is ended.
const WORDS: (usize, usize) = (5_000, 2 << 20);
/// How long a script that is only looked at may take.
const LOOK: Duration = Duration::from_secs(2);
/// What a script is told to have failed by that has brought its process down.
const DIED: &str = "it took more than a script may, and was ended";

/// A script and what it may do.
#[derive(Debug, Clone)]
pub struct Job {
    /// JavaScript with a function `main(args, baton)`.
    pub source: String,
    /// What `main` gets first.
    pub arguments: Value,
    /// How long it may run.
    pub time: Duration,
    /// Bytes of its answer at most.
    pub most: usize,
    /// Hosts that it may call.
    pub hosts: Vec<String>,
    /// Secrets that it may send.
    pub secrets: Vec<SecretName>,
}

/// How a run ended.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// What `main` answered.
    Value(Value),
    /// Why it did not, for whoever wrote it.
    Failed(String),
}

/// What runs scripts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Scripts(Arc<Pool>);

impl Scripts {
    /// Runs a script for the caller of `ctx`, with his rights and in his tenant. What it logs goes to his log.
    ///
    /// # Errors
    /// `scripts_busy`; `internal` when no process can be started.
    pub async fn run(&self, ctx: &Ctx, job: &Job) -> Result<Outcome> {
        self.perform(ctx, job, Some(job.arguments.clone())).await
    }

    /// Looks at a script without running its `main`.
    ///
    /// # Errors
    /// `invalid_input` says what is wrong with its source; as [`Scripts::run`].
    pub async fn check(&self, ctx: &Ctx, script: &Script) -> Result<()> {
        let job = script.job(ctx, Value::Null, (LOOK, WORDS.1));
        match self.perform(ctx, &job, None).await? {
            Outcome::Value(_) => Ok(()),
            Outcome::Failed(message) => Err(Error::invalid_at("/source", message)),
        }
    }

    async fn perform(&self, ctx: &Ctx, job: &Job, arguments: Option<Value>) -> Result<Outcome> {
        let _place = self.0.place(ctx.tenant()).await?;
        let begun = ctx.clock().steady();
        let mut worker = self.0.take(ctx.tenant(), ctx.system().program())?;
        let run = Run {
            source: job.source.clone(),
            arguments,
            millis: u64::try_from(job.time.as_millis()).unwrap_or(u64::MAX),
            memory: MEMORY,
            most: job.most,
        };
        worker.mouth.add(&Order::Run(run))?;
        let talk = tokio::time::timeout(job.time + GRACE, converse(ctx, job, &mut worker));
        match talk.await {
            Ok(Ok(Some(outcome))) => {
                worker.ran(ctx.clock().steady().since(begun));
                self.0.keep(ctx.tenant(), worker);
                Ok(outcome)
            }
            Ok(Ok(None)) => Ok(Outcome::Failed(DIED.into())),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let most = job.time.as_millis();
                Ok(Outcome::Failed(format!("it ran longer than {most} ms")))
            }
        }
    }
}

/// A script as the manifest of a tool gives it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    #[serde(rename = "type")]
    _type: String,
    source: String,
    /// `api.example.com`, `*.example.com` or `*`, with `:port` where it is not the usual one.
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    secrets: Vec<SecretName>,
}

impl Script {
    /// Refuses what could never be granted.
    ///
    /// # Errors
    /// `invalid_input` says what and where.
    pub fn ready(self) -> Result<Self> {
        let is_any = self
            .hosts
            .iter()
            .any(|host| host.starts_with("*:") || host == "*");
        if is_any && !self.secrets.is_empty() {
            let message = "a script that has secrets names the hosts that it may call";
            return Err(Error::invalid_at("/hosts", message));
        }
        match self.hosts.iter().position(|host| !host::is_grant(host)) {
            Some(at) => {
                let message =
                    "a host such as api.example.com, *.example.com or api.example.com:8443";
                Err(Error::invalid_at(format!("/hosts/{at}"), message))
            }
            None => Ok(self),
        }
    }

    /// What it may do, for whoever asks what a call would do.
    pub fn shown(&self, arguments: &Map<String, Value>) -> Value {
        json!({"arguments": arguments, "hosts": self.hosts, "secrets": self.secrets})
    }

    /// A run that may take so long, and answer so much; the tenant may have less.
    pub fn job(&self, ctx: &Ctx, arguments: Value, (time, most): (Duration, usize)) -> Job {
        let allowed = ctx.system().allowances().of(ctx.tenant()).script_time;
        Job {
            source: self.source.clone(),
            arguments,
            time: time.min(allowed),
            most,
            hosts: self.hosts.clone(),
            secrets: self.secrets.clone(),
        }
    }
}

/// Hears and answers a script to its end. Nothing, if its process came to an end instead, or must.
async fn converse(ctx: &Ctx, job: &Job, worker: &mut Worker) -> Result<Option<Outcome>> {
    let host = Host::new(ctx, job);
    let mut answers = FuturesUnordered::new();
    let (mut words, mut lines) = (0, 0);
    let longest = job.most + WORDS.1;
    let (mouth, ear) = (&mut worker.mouth, &mut worker.ear);
    loop {
        tokio::select! {
            said = mouth.say(), if mouth.has_more() => if said.is_err() {
                return Ok(None);
            },
            Some(reply) = answers.next() => mouth.add(&Order::Reply(reply))?,
            word = ear.hear(longest) => {
                words += 1;
                match word.filter(|_| words <= WORDS.0) {
                    None => return Ok(None),
                    Some(Word::Ask(ask)) => answers.push(host.answer(ask)),
                    Some(Word::Log(line)) => {
                        lines += 1;
                        if lines <= LOG.0 {
                            log(ctx, &line);
                        }
                    }
                    Some(Word::Failed(message)) => return Ok(Some(Outcome::Failed(message))),
                    Some(Word::Done(answer)) => {
                        let value = serde_json::from_str(answer.get());
                        let failed = |_| Outcome::Failed("what it answered is nested too deep".into());
                        return Ok(Some(value.map_or_else(failed, Outcome::Value)));
                    }
                }
            }
        }
    }
}

fn log(ctx: &Ctx, line: &Line) {
    let level = match line.level.as_str() {
        "debug" => Level::Debug,
        "warning" => Level::Warning,
        "error" => Level::Error,
        _ => Level::Info,
    };
    let text: String = line.text.chars().take(LOG.1).collect();
    ctx.log(level, text);
}
