//! `baton-load`: puts an MCP server under load, checks every answer, and prints one JSON line. One thread and raw
//! sockets, so that it takes little from the server beside it. Closed loop: with one connection the latency is the
//! unloaded one. The exit code is 1 when anything failed.

mod call;
mod calls;
mod http;
mod lives;
mod meter;
mod proc;
mod rpc;
mod sse;
mod stdio;
mod template;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use crate::call::Tool;
use crate::calls::{Call, Calls};
use crate::http::Target;
use crate::lives::Lives;
use crate::meter::{Meter, Stats};
use crate::proc::Usage;
use crate::stdio::Child;
use crate::template::Template;

#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    load: Kind,
    /// Connections, or calls in flight over stdio
    #[arg(long, global = true, default_value_t = 64)]
    concurrency: usize,
    /// How long to measure
    #[arg(long, global = true, default_value_t = 3.0)]
    seconds: f64,
    /// How long to run before measuring
    #[arg(long, global = true, default_value_t = 0.5)]
    warmup: f64,
    /// Stop after so many, whatever the time
    #[arg(long, global = true)]
    requests: Option<u64>,
    /// Seconds until an answer counts as missing
    #[arg(long, global = true, default_value_t = 30.0)]
    timeout: f64,
    /// Stop after so many failures
    #[arg(long, global = true, default_value_t = 100)]
    max_errors: u64,
    /// Server whose CPU time and memory are measured, with its children
    #[arg(long, global = true)]
    pid: Vec<u32>,
    /// `Name: value`, sent with every request over HTTP
    #[arg(long, global = true)]
    header: Vec<String>,
}

#[derive(Subcommand)]
enum Kind {
    /// Calls of one tool over modern Streamable HTTP
    Http {
        #[arg(long)]
        url: Target,
        #[command(flatten)]
        call: CallArgs,
    },
    /// Calls of one tool on the standard streams of a command
    Stdio {
        /// Give the command socket pairs, as Node clients do, instead of pipes
        #[arg(long)]
        sockets: bool,
        #[command(flatten)]
        call: CallArgs,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Whole lives of tasks over modern Streamable HTTP: dispatch, claim, started, progress, end
    Lives {
        #[arg(long)]
        url: Target,
        /// Tenants that take turns
        #[arg(long, default_value_t = 1)]
        tenants: usize,
    },
}

#[derive(clap::Args)]
struct CallArgs {
    #[arg(long)]
    tool: String,
    /// JSON; {{i}} is the number of the call, {{i%N}} that modulo N, {{w}} the connection
    #[arg(long, default_value = "{}", value_parser = Template::parse)]
    args: Template,
    /// Text that the answer must hold, with the same placeholders
    #[arg(long, value_parser = Template::parse)]
    expect: Option<Template>,
}

enum Load {
    Calls(Calls),
    Lives(Lives),
    Stdio(Box<Child>),
}

impl Load {
    fn new(args: &Args) -> std::io::Result<Self> {
        let timeout = Duration::from_secs_f64(args.timeout);
        let call = |call: &CallArgs, target| Call {
            tool: Tool::new(&call.tool, target, &args.header),
            arguments: call.args.clone(),
            expect: call.expect.clone(),
        };
        Ok(match &args.load {
            Kind::Http { url, call: what } => Self::Calls(Calls::new(
                call(what, Some(url)),
                url,
                args.concurrency,
                timeout,
            )),
            Kind::Lives { url, tenants } => {
                let load = (args.concurrency, *tenants);
                Self::Lives(Lives::new(url, &args.header, load, timeout))
            }
            Kind::Stdio {
                sockets,
                call: what,
                command,
            } => Self::Stdio(Box::new(Child::spawn(
                command,
                *sockets,
                call(what, None),
                args.concurrency,
                timeout,
            )?)),
        })
    }

    async fn phase(&mut self, meter: &Meter) {
        match self {
            Self::Calls(load) => load.phase(meter).await,
            Self::Lives(load) => load.phase(meter).await,
            Self::Stdio(load) => load.phase(meter).await,
        }
    }
}

async fn measure(args: &Args) -> std::io::Result<(bool, Value)> {
    let mut load = Load::new(args)?;
    let meter = Meter::new(args.max_errors);
    let mut pids = args.pid.clone();
    if let Load::Stdio(child) = &load {
        pids.extend(child.pid());
    }
    meter.arm(None, Duration::from_secs_f64(args.warmup));
    load.phase(&meter).await;
    let warm = meter.finish();
    let server = Usage::start(proc::tree(&pids));
    let own = Usage::start(vec![std::process::id()]);
    let started = Instant::now();
    meter.arm(args.requests, Duration::from_secs_f64(args.seconds));
    if !warm.latencies.is_empty() || args.warmup == 0.0 {
        load.phase(&meter).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut stats = meter.finish();
    stats.failed += warm.failed;
    stats.first_failure = warm.first_failure.or(stats.first_failure);
    let mut report = report(&mut stats, seconds, &server, &own);
    let good = stats.failed == 0 && !stats.latencies.is_empty();
    if let Load::Stdio(child) = load {
        report["ended_by_itself"] = json!(child.stop().await);
    }
    Ok((good, report))
}

fn report(stats: &mut Stats, seconds: f64, server: &Usage, own: &Usage) -> Value {
    let latencies = &mut stats.latencies;
    latencies.sort_unstable();
    let good = latencies.len();
    let quantile = |part: f64| {
        let rank = (good as f64 * part).ceil() as usize;
        latencies
            .get(rank.saturating_sub(1))
            .map(|nanoseconds| rounded(*nanoseconds as f64 / 1e6))
    };
    let each = |cpu: f64| (good > 0).then(|| rounded(cpu * 1e6 / good as f64));
    let measured = (!server.is_empty()).then(|| {
        json!({
            "cpu_us_each": each(server.cpu_seconds()),
            "cores_used": rounded(server.cpu_seconds() / seconds),
            "peak_rss_mib": rounded(server.peak_mib()),
        })
    });
    json!({
        "ok": good,
        "failed": stats.failed,
        "first_failure": stats.first_failure.as_ref().map(|fail| format!("{:?}: {}", fail.kind, fail.text)),
        "seconds": rounded(seconds),
        "per_second": (good as f64 / seconds).round(),
        "latency_ms": {"p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "max": quantile(1.0)},
        "server": measured,
        "client_cpu_us_each": each(own.cpu_seconds()),
    })
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match measure(&Args::parse()).await {
        Ok((good, report)) => {
            println!("{report}");
            if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("baton-load: {error}");
            ExitCode::from(2)
        }
    }
}
