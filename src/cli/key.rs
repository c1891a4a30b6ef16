//! `baton key`: who may come in. In the data folder or the database, or on a server with an admin's key.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::call::Target;
use super::{Common, block_on, print, print_json};
use crate::access::keys;
use crate::app::App;
use crate::id::AgentId;
use crate::principal::Role;
use crate::work::Remote;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a key and print it, this once
    Create(Create),
    /// List the keys of a tenant
    List(Common),
    /// Give a key another text and print it, this once
    Rotate(Rotate),
    /// Let a key's holder in no more
    Revoke(Revoke),
}

#[derive(clap::Args)]
struct Create {
    /// What its holder is: admin, orchestrator, executor or observer
    #[arg(
        long = "role",
        value_name = "ROLE",
        required = true,
        value_delimiter = ','
    )]
    roles: Vec<Role>,
    /// What it is for, in a few words
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Narrow the roles down to scopes such as tasks:read, or to operations
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// An agent for which its holder may speak, and for no other
    #[arg(long = "agent", value_name = "AGENT_ID", value_delimiter = ',')]
    agents: Vec<AgentId>,
    /// How long it is good, such as 90m, 12h or 30d
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Duration>,
    /// A key of all tenants, for who operates the server
    #[arg(long, conflicts_with_all = ["tenant", "url"])]
    all_tenants: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Rotate {
    /// What the key begins with
    key_id: String,
    /// How long the old text stays good, such as 1h
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0s")]
    keep_old: Duration,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Revoke {
    /// What the key begins with
    key_id: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

/// Reads a time such as `30d`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number and s, m, h or d, such as 12h".to_owned();
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Create(args) => create(args),
        Verb::List(common) => {
            let listed = call(
                &Target { url: None },
                common,
                "key_list",
                json!({"limit": 200}),
            )?;
            print_json(&listed)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Rotate(args) => {
            let input = json!({"key_id": args.key_id, "keep_old_seconds": args.keep_old.as_secs()});
            show(&call(&args.target, args.common, "key_rotate", input)?)
        }
        Verb::Revoke(args) => {
            let input = json!({"key_id": args.key_id});
            print_json(&call(&args.target, args.common, "key_revoke", input)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn create(args: Create) -> anyhow::Result<ExitCode> {
    let mut input = json!({
        "name": args.name,
        "roles": args.roles,
        "scopes": args.scopes,
        "agents": args.agents,
    });
    if let Some(expires) = args.expires {
        input["expires_in_seconds"] = expires.as_secs().into();
    }
    if !args.all_tenants {
        return show(&call(&args.target, args.common, "key_create", input)?);
    }
    let config = args.common.begin()?;
    let asked: keys::Create = serde_json::from_value(input)?;
    block_on(async move {
        let app = super::open(config)?;
        let created = keys::create_for_all(&app.system, &asked).await;
        app.stop().await;
        show(&serde_json::to_value(created?)?)
    })
}

/// Calls an operation there or here.
pub(super) fn call(
    target: &Target,
    common: Common,
    name: &str,
    input: Value,
) -> anyhow::Result<Value> {
    let config = common.begin()?;
    let input = match input {
        Value::Object(input) => input,
        _ => Map::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (remote, app): (Remote, Option<App>) = target.open(config, "cli")?;
        let outcome = remote.call(name, input).await;
        if let Some(app) = app {
            app.stop().await;
        }
        Ok(outcome?)
    })
}

/// The key alone on standard output, so that a script can keep it; the rest for people.
fn show(created: &Value) -> anyhow::Result<ExitCode> {
    let text = |name: &str| created[name].as_str().unwrap_or_default().to_owned();
    print(&format!("{}\n", text("key")))?;
    let until = match text("expires_at") {
        until if until.is_empty() => "for ever".to_owned(),
        until => format!("until {until}"),
    };
    let note = format!(
        "{} is good {until}; keep its text now, it is not shown again. Use it as `Authorization: Bearer …`, or BATON_KEY\n",
        text("key_id")
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        let seconds = |text: &str| time(text).ok().map(|time| time.as_secs());
        assert_eq!(seconds("90m"), Some(5_400));
        assert_eq!(seconds("30d"), Some(2_592_000));
        assert_eq!(seconds("0s"), Some(0));
        for bad in ["", "1", "d", "-1s", "1w", "1.5h", "99999999999999999d", "é"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
    }
}
