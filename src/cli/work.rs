//! `baton work`: the flags of the executor.

use std::process::ExitCode;
use std::time::Duration;

use super::call::Target;
use super::serve::StopSignals;
use super::{Common, block_on};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Finding};
use crate::id::AgentId;
use crate::random::Random;
use crate::work::{self, Options, Stop};

const HOW: &str = "\
`sh -c` runs the command once per task:
  standard input   the task as one line of JSON
  variables        BATON_TASK_ID, BATON_TASK_TYPE, BATON_TITLE, BATON_DESCRIPTION, BATON_PRIORITY,
                   BATON_TASK_DATA (JSON), BATON_ATTEMPT, BATON_LEASE_TOKEN, BATON_AGENT_ID,
                   BATON_TENANT, and BATON_DATA or BATON_URL (so that `baton call` goes there too;
                   with BATON_CA_CERT, if there is one);
                   TRACEPARENT, TRACESTATE, BAGGAGE of a task that was dispatched with them
  standard output  lines {\"progress\": 40, \"current_step\": \"…\"} are progress; the last JSON value is
                   the result, or else the text; {\"result\": …, \"summary\": …, \"next_steps\": […],
                   \"retryable\": false} says more
  exit code        0 ends the task with success, another one as a failure, which is tried again
                   while retries are left

The command ends, with everything that it started, when the task is cancelled or out of time, when
its lease is lost, and when the executor ends, however it ends.

Examples:
  baton work --exec 'make test'
  baton work --capabilities rust,review --exec 'claude -p \"$BATON_DESCRIPTION\"' --concurrency 2
  baton work --url http://127.0.0.1:5050 --exec ./convert.py --idle-exit 60";

#[derive(clap::Args)]
#[command(after_help = HOW)]
pub(super) struct Args {
    /// What to run for each task
    #[arg(long, env = "BATON_EXEC", value_name = "CMD")]
    exec: String,

    /// What this executor is able to do; it is given tasks that require nothing else
    #[arg(
        long,
        env = "BATON_CAPABILITIES",
        value_name = "A,B",
        value_delimiter = ','
    )]
    capabilities: Vec<String>,

    /// Tasks at a time
    #[arg(long, env = "BATON_CONCURRENCY", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,

    /// Name of this executor [default: the machine's name and the process number]
    #[arg(long, env = "BATON_AGENT_ID", value_name = "ID")]
    agent_id: Option<AgentId>,

    /// A task goes back to the queue when nothing was heard of its executor for that long
    #[arg(long, env = "BATON_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(5..=3600))]
    lease_seconds: u32,

    /// How long running commands may go on after SIGTERM or Ctrl-C; then their tasks are handed back as failed
    #[arg(
        long,
        env = "BATON_GRACE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    grace_seconds: u32,

    /// End after one task, with exit code 1 unless it succeeded
    #[arg(long)]
    once: bool,

    /// End when there was nothing to do for that long
    #[arg(long, value_name = "SECONDS")]
    idle_exit: Option<u32>,

    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let once = args.once;
    let concurrency = args.concurrency;
    let (options, target, config) = args.split()?;
    block_on(async move {
        let mut signals = StopSignals::listen()?;
        let actor = options.agent_id.to_string();
        let (remote, app) = target.open(config, &actor)?;
        if let Some(app) = &app {
            app.start_workers();
        }
        tracing::info!("{actor} waits for tasks");
        let stop = Stop::default();
        let working = work::run(
            remote,
            options,
            (Clock::system(), Random::system()),
            stop.clone(),
        );
        let mut working = std::pin::pin!(working);
        let worked = loop {
            tokio::select! {
                worked = &mut working => break worked,
                _ = signals.next() => {
                    if stop.soon.is_cancelled() {
                        stop.now.cancel();
                    }
                    stop.soon.cancel();
                }
            }
        };
        if let Some(app) = app {
            app.stop().await;
        }
        let tally = worked.map_err(|error| explain(error, concurrency))?;
        tracing::info!(
            "{actor} ends: {} succeeded, {} failed, {} let go",
            tally.succeeded,
            tally.failed,
            tally.lost
        );
        let in_vain = once && tally.succeeded == 0 && tally.failed + tally.lost > 0;
        Ok(ExitCode::from(u8::from(in_vain)))
    })
}

impl Args {
    fn split(self) -> anyhow::Result<(Options, Target, Config)> {
        let mut config = self.common.begin()?;
        let agent_id = match self.agent_id {
            Some(agent_id) => agent_id,
            None => default_agent_id()?,
        };
        let mut environment = vec![("BATON_AGENT_ID", agent_id.to_string())];
        if let Some(url) = &self.target.url {
            environment.push(("BATON_URL", url.clone()));
            if let Some(file) = &config.ca_cert {
                let file = std::path::absolute(file)?;
                environment.push(("BATON_CA_CERT", file.display().to_string()));
            }
        } else {
            // The command may change its folder; the data stays where it is.
            config.data = std::path::absolute(&config.data)?;
            environment.push(("BATON_DATA", config.data.display().to_string()));
        }
        let options = Options {
            agent_id,
            capabilities: self.capabilities,
            command: self.exec,
            concurrency: usize::from(self.concurrency),
            lease: Duration::from_secs(self.lease_seconds.into()),
            grace: Duration::from_secs(self.grace_seconds.into()),
            once: self.once,
            idle_exit: self
                .idle_exit
                .map(|seconds| Duration::from_secs(seconds.into())),
            environment,
        };
        Ok((options, self.target, config))
    }
}

/// Says which flags to change when the server does not want to give so many tasks.
fn explain(error: Error, concurrency: u16) -> anyhow::Error {
    let is_limit = |finding: &Finding| finding.path == "/max_concurrent_tasks";
    let limited = error.findings().iter().any(is_limit);
    let error = anyhow::Error::new(error);
    if limited {
        return error.context(format!(
            "--concurrency {concurrency} is more than this Baton gives one executor; start the server (or, on a data folder, \
             this executor) with --max-concurrent-tasks {concurrency}"
        ));
    }
    error
}

/// Says where it runs, so that people find it.
fn default_agent_id() -> anyhow::Result<AgentId> {
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy();
    let machine: String = machine
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .take(80)
        .collect();
    Ok(format!("{machine}-{}", std::process::id()).parse()?)
}
