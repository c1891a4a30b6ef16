//! `baton call`: one operation, its input as JSON, its result as JSON. Shared with other verbs: where calls go.

use std::fmt::Write;
use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Map, Value};

use super::serve::StopSignals;
use super::{Common, block_on, open, print, print_json};
use crate::config::{self, Config};
use crate::ctx::choose_tenant;
use crate::error::{Error, Kind};
use crate::outbound::Client;
use crate::work::Remote;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The operation; without it, all are listed
    #[arg(value_name = "TOOL")]
    operation: Option<String>,

    /// Its input: a JSON object, or - to read it from standard input
    #[arg(value_name = "JSON")]
    input: Option<String>,

    /// Print what the operation takes and answers, instead of calling it
    #[arg(long, requires = "operation")]
    schema: bool,

    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

/// Where calls go.
#[derive(clap::Args)]
pub(super) struct Target {
    /// Talk to the server at this address, instead of opening the data folder
    #[arg(long, env = "BATON_URL", value_name = "URL")]
    pub(super) url: Option<String>,
}

impl Target {
    /// The server at the given address, or the data folder. `actor` is who the log shows.
    pub(super) fn open(
        &self,
        config: Config,
        actor: &str,
    ) -> anyhow::Result<(Remote, Option<crate::app::App>)> {
        if let Some(url) = &self.url {
            // What stands in a client's configuration is the endpoint; its server is meant.
            let url = url.trim_end_matches('/');
            let url = url.strip_suffix("/mcp").unwrap_or(url);
            let trusted = config.ca_cert.as_deref();
            let client = Client::new(url, config.tenant, config.key, trusted)?;
            let remote = Remote::rest(client);
            return Ok((remote.traced(config::trace()), None));
        }
        let tenant = choose_tenant(None, config.tenant.as_ref(), &[])?;
        let app = open(config)?;
        let remote = Remote::local(app.catalog.clone(), app.system.ctx(tenant, actor));
        Ok((remote.traced(config::trace()), Some(app)))
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.common.begin()?;
    let Some(operation) = args.operation else {
        return list();
    };
    if args.schema {
        return describe(&operation);
    }
    let input = read_input(args.input.as_deref())?;
    block_on(async move {
        let mut stop = StopSignals::listen()?;
        let (remote, app) = args.target.open(config, "cli")?;
        let called = tokio::select! {
            called = remote.call(&operation, input) => called,
            signal = stop.next() => Err(interrupted(signal)),
        };
        if let Some(app) = app {
            app.stop().await;
        }
        print_json(&called.map_err(explain)?)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn interrupted(signal: &str) -> Error {
    Error::new(Kind::Cancelled, "cancelled", format!("stopped by {signal}"))
}

/// The input of a call: an object, from the command line or from standard input.
fn read_input(given: Option<&str>) -> anyhow::Result<Map<String, Value>> {
    let text = match given {
        None => return Ok(Map::new()),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("can't read the input from standard input")?;
            text
        }
        Some(text) => text.to_owned(),
    };
    Ok(serde_json::from_str(&text).map_err(|error| {
        Error::invalid(
            "invalid_input",
            format!("the input is not a JSON object: {error}"),
        )
    })?)
}

/// Says where to find the names that exist, when the one asked for does not.
fn explain(error: Error) -> Error {
    if error.code() == "unknown_operation" {
        let message = format!("{}; `baton call` lists them all", error.message());
        return Error::not_found("unknown_operation", message);
    }
    error
}

fn list() -> anyhow::Result<ExitCode> {
    let catalog = crate::catalog::Catalog::new();
    let mut text = String::new();
    for op in catalog.ops() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{:16} {}", op.name, op.description);
    }
    text.push_str("\n`baton call TOOL --schema` shows what one takes and answers.\n");
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(operation: &str) -> anyhow::Result<ExitCode> {
    let catalog = crate::catalog::Catalog::new();
    let op = catalog.require(operation).map_err(explain)?;
    print_json(&serde_json::json!({
        "name": op.name,
        "title": op.title,
        "description": op.description,
        "limited_as": op.classes(),
        "input": op.input_schema,
        "output": op.output_schema,
    }))?;
    Ok(ExitCode::SUCCESS)
}
