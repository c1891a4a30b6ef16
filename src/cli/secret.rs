//! `baton secret`: what is kept secret, without its passing through a conversation, a list of processes or a shell's
//! history; and the master key.

use std::io::{IsTerminal, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;

use super::call::Target;
use super::key::call;
use super::{Common, block_on, open, print, print_json};
use crate::random::Random;
use crate::secret::Secret;
use crate::{secrets, vault};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Keep a secret, read from standard input, or replace it
    Set(Set),
    /// List the names of a tenant's secrets
    List(Place),
    /// Forget a secret
    Delete(Delete),
    /// Seal everything by another master key: by a new one, or by the first in its file if that has not sealed all yet
    RotateKey(Common),
    /// Print a new master key
    MakeKey,
}

/// Whose secrets, and where.
#[derive(clap::Args)]
struct Place {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Set {
    /// What tools and resources call it
    name: String,
    /// What it is for, in a few words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Delete {
    /// Its name
    name: String,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (place, name, input) = match args.verb {
        Verb::RotateKey(common) => return rotate(common),
        Verb::MakeKey => {
            let key = vault::make(&Random::system())?;
            print(&format!("{}\n", key.reveal()))?;
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Set(args) => {
            let value = read(&args.name)?;
            let mut input = json!({"name": args.name, "value": value.reveal()});
            if let Some(text) = args.description {
                input["description"] = text.into();
            }
            (args.place, "secret_set", input)
        }
        Verb::List(place) => (place, "secret_list", json!({"limit": 200})),
        Verb::Delete(args) => (args.place, "secret_delete", json!({"name": args.name})),
    };
    print_json(&call(&place.target, place.common, name, input)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a secret: all of a pipe but its last line break, or a line that the terminal does not show.
fn read(name: &str) -> anyhow::Result<Secret> {
    let stdin = std::io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        let _ = write!(std::io::stderr(), "{name}: ");
        let shown = tcgetattr(&stdin)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &hidden)?;
        let line = stdin.read_line(&mut text);
        tcsetattr(&stdin, OptionalActions::Now, &shown)?;
        let _ = writeln!(std::io::stderr());
        line.map(drop)
    } else {
        stdin.lock().read_to_string(&mut text).map(drop)
    }
    .context("can't read the secret from standard input")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        bail!(
            "nothing to keep: give the secret on standard input, as in `baton secret set {name} < file`"
        );
    }
    Ok(text.to_owned().into())
}

fn rotate(common: Common) -> anyhow::Result<ExitCode> {
    let config = common.begin()?;
    block_on(async move {
        let app = open(config)?;
        let rotated = secrets::rotate(&app.system).await;
        let place = app.system.vault().place();
        app.stop().await;
        let rotated = rotated?;
        let how = if rotated.made {
            "a new master key"
        } else {
            "the first master key"
        };
        print(&format!(
            "the secrets of {} tenants are sealed by {how} in {place} ({})\n",
            rotated.tenants, rotated.master_id
        ))?;
        Ok(ExitCode::SUCCESS)
    })
}
