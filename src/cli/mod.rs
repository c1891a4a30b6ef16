//! The command line: verbs, the flags that they share, logs and exit codes. What a verb does stands in its own file.

mod call;
mod data;
mod doctor;
mod hosts;
mod install;
mod key;
mod secret;
mod serve;
mod work;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::Value;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use crate::config::{example, table as settings_table};

use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, LogFormat, Settings};
use crate::error::{Error, Kind};
use crate::random::Random;
use crate::upstream::UNHEARD;

const START: &str = "\
Start here:
  baton serve                        a server for many clients, on http://127.0.0.1:5050
  baton install claude-code          put Baton into a client (claude-desktop, cursor, vscode too)
  baton work --exec 'make test'      an executor: runs a command for each task

Then ask the client for work to be done, or hand out a task yourself:
  baton call task_dispatch '{\"description\": \"say hello\"}'

Settings are flags, BATON_… variables or lines of a file given with --config; `baton settings` prints one.";

const ABOUT: &str = "\
Baton is an MCP server through which an orchestrator (Claude, or a program) hands work to executors and
never loses track of it. What it is told stands in a database file on this machine, or in PostgreSQL, before it answers.";

/// The whole command line.
#[derive(Parser)]
#[command(name = "baton", version, about = ABOUT, long_about = None, after_help = START, max_term_width = 104)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve MCP (/mcp, /sse) and REST (/api/v1, /docs) over HTTP
    Serve(Common),
    /// Serve MCP on standard input and output, for a client that starts Baton itself
    Stdio(Common),
    /// Work as an executor: claim tasks and run a command for each
    Work(work::Args),
    /// Call one operation and print its result
    Call(call::Args),
    /// Show what is in the data folder, or on a server
    Status(data::Args),
    /// Bring the database to the newest version; `serve` does so too when its role may
    Migrate(data::Migrate),
    /// Copy everything from one database to an empty one, and compare the two
    Move(data::Move),
    /// Say who may come in: make, list, rotate and revoke keys
    Key(key::Args),
    /// Keep what tools and resources need and nobody is to read: set, list, delete; change the master key
    Secret(secret::Args),
    /// Put Baton into a client's configuration
    Install(install::Args),
    /// Find out what is wrong with this setup, and the cure
    Doctor(doctor::Args),
    /// Print a configuration file with every setting and its default
    Settings,
    /// Run what a server's tenants write, apart from it
    #[command(hide = true)]
    RunScripts,
    /// Run the command of an upstream and end it, with all that it started, with the server
    #[command(hide = true)]
    RunUpstream {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Ask one SQLite file of a server's tenants one thing, apart from the server
    #[command(hide = true)]
    RunQuery,
    /// Run an executor's command and end it with the executor
    #[command(hide = true)]
    Supervise { command: String },
    /// Become a command that dies with its supervisor
    #[command(hide = true)]
    Bound {
        parent: i32,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// What most verbs take.
#[derive(clap::Args)]
struct Common {
    /// A TOML file with settings; flags and variables go before it
    #[arg(long, env = "BATON_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Common {
    /// The settings, complete, with logging begun as they say.
    fn begin(self) -> anyhow::Result<Config> {
        let file = match &self.config {
            Some(path) => Settings::from_file(path)?,
            None => Settings::default(),
        };
        let config = self.settings.complete(file)?;
        begin_logs(&config)?;
        Ok(config)
    }
}

/// Settings that a verb has no use for; they stay possible, since the environment may hold them, and leave its help.
const UNSEEN: [(&str, &[&str]); 6] = [
    ("stdio", EDGE),
    ("work", EDGE),
    ("call", EDGE),
    ("status", EDGE),
    ("migrate", EDGE),
    (
        "doctor",
        &["allowed_hosts", "allowed_origins", "cors_max_age"],
    ),
];
const EDGE: &[&str] = &[
    "listen",
    "tls_cert",
    "tls_key",
    "allowed_hosts",
    "allowed_origins",
    "cors_max_age",
];

fn command() -> clap::Command {
    UNSEEN
        .iter()
        .fold(Cli::command(), |command, (verb, unseen)| {
            command.mut_subcommand(*verb, |command| {
                unseen.iter().fold(command, |command, setting| {
                    command.mut_arg(*setting, |arg| arg.hide(true))
                })
            })
        })
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&command().get_matches());
    let verb = match cli {
        Ok(cli) => cli.verb,
        Err(error) => error.exit(),
    };
    run(verb).unwrap_or_else(|error| {
        complain(&error);
        exit_code(&error)
    })
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Serve(common) => block_on(serve::serve(common.begin()?)),
        Verb::Stdio(common) => block_on(serve::stdio(common.begin()?)),
        Verb::Work(args) => work::run(args),
        Verb::Call(args) => call::run(args),
        Verb::Status(args) => data::status(args),
        Verb::Migrate(args) => data::migrate(args),
        Verb::Move(args) => data::relocate(&args),
        Verb::Key(args) => key::run(args),
        Verb::Secret(args) => secret::run(args),
        Verb::Install(args) => install::run(&args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Settings => {
            print(&example())?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::RunScripts => Ok(crate::script::serve()),
        Verb::RunQuery => Ok(crate::queries::serve()),
        Verb::RunUpstream { command } => on_one_thread(crate::upstream::supervise(&command)),
        Verb::Supervise { command } => on_one_thread(crate::work::supervise(&command)),
        Verb::Bound { parent, command } => Err(crate::work::bind(parent, &command).into()),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(work);
    runtime.shutdown_background();
    code
}

/// For processes that see to one other: their main thread is the one whose end the kernel notices.
fn on_one_thread(
    work: impl Future<Output = std::io::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(work)?)
}

fn open(config: Config) -> anyhow::Result<App> {
    Ok(App::open(config, Clock::system(), Random::system())?)
}

/// Logs go to standard error: standard output belongs to results, and on `stdio` to the protocol.
fn begin_logs(config: &Config) -> anyhow::Result<()> {
    // What the user says comes last, so that it wins over the quiet default for the protocol library.
    let filter = EnvFilter::try_new(format!("rmcp=warn,{UNHEARD},{}", config.log_level))
        .with_context(|| {
            format!(
                "log_level {:?} is not a level or a list of filters",
                config.log_level
            )
        })?;
    // Below that, the protocol library logs whole messages, with the keys that are in them.
    let no_messages = filter_fn(|metadata| {
        *metadata.level() <= Level::INFO || !metadata.target().starts_with("rmcp")
    });
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => logs.finish().with(no_messages).init(),
        LogFormat::Json => {
            // No spans are within others: the current one says it all.
            let logs = logs.json().flatten_event(true);
            logs.with_span_list(false).finish().with(no_messages).init();
        }
    }
    Ok(())
}

/// Prints to standard output. A reader that has gone, such as `head`, is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Says on standard error what went wrong, with all findings.
fn complain(error: &anyhow::Error) {
    // Writing to a string can't fail.
    let mut text = format!("error: {error}\n");
    let mut causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    // Some libraries repeat their own message as its cause.
    causes.dedup();
    for cause in causes {
        let _ = writeln!(text, "  because: {cause}");
    }
    let findings = error.downcast_ref::<Error>().map(Error::findings);
    // A single finding is what the message says already.
    for finding in findings.filter(|all| all.len() > 1).unwrap_or_default() {
        let path = if finding.path.is_empty() {
            "/"
        } else {
            &finding.path
        };
        let _ = writeln!(text, "  {path}: {}", finding.message);
    }
    // There is nobody left to tell when standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// What a shell sees.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref().map(Error::kind) {
        None | Some(Kind::Internal) => 1,
        Some(Kind::Invalid) => 2,
        Some(Kind::Unauthenticated) => 3,
        Some(Kind::Forbidden) => 4,
        Some(Kind::NotFound) => 5,
        Some(Kind::Conflict) => 6,
        Some(Kind::Limited) => 7,
        Some(Kind::Unavailable) => 8,
        Some(Kind::Cancelled) => 9,
    })
}
