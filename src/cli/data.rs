//! Verbs about the data: what there is, by tenant and state; bring it to the newest version; move it elsewhere.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::call::Target;
use super::{Common, block_on, print, print_json};
use crate::app::{self, App};

use crate::outbound;
use crate::store::{self, Place};
use crate::tasks::counts::{self, Counts};
use crate::vault;
use crate::work::Remote;

/// Tasks that are counted on a server, page by page, before it is said that there are more.
const COUNTED: usize = 10_000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(super) struct Migrate {
    /// Let this PostgreSQL role serve the database; it needs no other right
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(super) struct Move {
    /// The data folder or database URL to copy; no server may run on it
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// An empty folder or database, or one where the same move was interrupted
    #[arg(long, value_name = "PLACE")]
    to: String,
}

pub(super) fn migrate(args: Migrate) -> anyhow::Result<ExitCode> {
    let place = app::place(&args.common.begin()?)?;
    let steps = store::migrate(&place, args.grant_to.as_deref())?;
    print(&match steps {
        0 => format!("{place} is up to date\n"),
        steps => format!("{place}: {steps} steps to the newest version\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn relocate(args: &Move) -> anyhow::Result<ExitCode> {
    let place = |text: &str| {
        // What names a password is no folder, and is not to be shown as one.
        if text.contains("://") || text.contains("password=") {
            app::place_at(text)
        } else {
            Ok(Place::Folder(text.into()))
        }
    };
    let (from, to) = (place(&args.from)?, place(&args.to)?);
    let mut told = String::new();
    let rows = store::transfer(&from, &to, &mut |line| {
        told.push_str(line);
        told.push('\n');
    })?;
    let secrets = master_key(&from, &to)?;
    print(&format!(
        "{told}{rows} rows are now in {to}, compared with {from}\n{secrets}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes the master key of a data folder along, or says where it is needed: it is in no database.
fn master_key(from: &Place, to: &Place) -> anyhow::Result<String> {
    let Place::Folder(folder) = from else {
        return Ok("Secrets, if there are any, open there with the same master key (BATON_MASTER_KEY_FILE)\n".into());
    };
    let file = folder.join(vault::FILE);
    Ok(match to {
        Place::Folder(to) if vault::carry(folder, to)? => {
            format!("{} went along\n", file.display())
        }
        Place::Postgres(_) if file.exists() => format!(
            "Secrets open there with the master key in {}: name it with --master-key-file\n",
            file.display()
        ),
        _ => String::new(),
    })
}

pub(super) fn status(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.common.begin()?;
    block_on(async move {
        let tenant = config.tenant.clone();
        let (remote, app) = args.target.open(config, "cli")?;
        let (place, tenants) = if let Some(app) = app {
            let found = (place_of(&app).await?, of_folder(&app).await?);
            app.stop().await;
            found
        } else {
            let counts = of_server(&remote).await?;
            // Who named none is of the tenant of the key, which the server knows.
            let named = || tenant.map_or_else(|| "default".to_owned(), |name| name.to_string());
            let tenant = remote.tenant().map_or_else(named, str::to_owned);
            let url = args.target.url.as_deref().map(outbound::address);
            let place = json!({"url": url});
            (place, BTreeMap::from([(tenant, counts)]))
        };
        if args.json {
            let mut all = json!({"tenants": tenants});
            merge(&mut all, place);
            print_json(&all)?;
        } else {
            print(&table(&place, &tenants))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn place_of(app: &App) -> anyhow::Result<Value> {
    let store = app.system.store();
    Ok(json!({"data": store.place().to_string(), "bytes": store.size().await?}))
}

async fn of_folder(app: &App) -> anyhow::Result<BTreeMap<String, Counts>> {
    let of_all = counts::of_all_tenants(&app.system).await?;
    let bound = app.config.tenant.as_ref();
    Ok(of_all
        .into_iter()
        .filter(|(tenant, _)| bound.is_none_or(|bound| bound == tenant))
        .map(|(tenant, counts)| (tenant.to_string(), counts))
        .collect())
}

/// Counts the tasks of the tenant that the server takes us for.
async fn of_server(remote: &Remote) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let (mut cursor, mut seen) = (Value::Null, 0);
    loop {
        let mut input = Map::from_iter([("limit".to_owned(), Value::from(200))]);
        if !cursor.is_null() {
            input.insert("cursor".into(), cursor);
        }
        let mut page = remote.call("task_list", input).await?;
        let tasks = page["tasks"].as_array().map_or(&[][..], Vec::as_slice);
        for task in tasks {
            let state = task["state"].as_str().unwrap_or("unknown");
            *counts.by_state.entry(state.to_owned()).or_default() += 1;
            counts.leased += i64::from(matches!(state, "assigned" | "in_progress"));
        }
        seen += tasks.len();
        cursor = page["next_cursor"].take();
        if cursor.is_null() {
            return Ok(counts);
        }
        if seen >= COUNTED {
            tracing::warn!("only the first {seen} tasks are counted");
            return Ok(counts);
        }
    }
}

fn merge(all: &mut Value, more: Value) {
    if let (Value::Object(all), Value::Object(more)) = (all, more) {
        all.extend(more);
    }
}

const STATES: [&str; 8] = [
    "blocked",
    "pending",
    "assigned",
    "in_progress",
    "escalated",
    "completed",
    "failed",
    "cancelled",
];

fn table(place: &Value, tenants: &BTreeMap<String, Counts>) -> String {
    let mut text = match (&place["url"], &place["data"], place["bytes"].as_u64()) {
        (Value::String(url), _, _) => format!("server  {url}\n"),
        (_, Value::String(data), Some(bytes)) => format!("data    {data} ({})\n", size(bytes)),
        _ => String::new(),
    };
    if tenants.is_empty() {
        return text + "\nNo tasks yet.\n";
    }
    let widest = tenants.keys().map(String::len).chain([6]).max();
    let width = widest.unwrap_or_default();
    let heads = STATES.map(str::to_owned);
    text += &row("\ntenant", width + 1, &heads, "running");
    for (tenant, counts) in tenants {
        let cells = STATES.map(|state| {
            let count = counts.by_state.get(state).copied().unwrap_or_default();
            count.to_string()
        });
        text += &row(tenant, width, &cells, &counts.leased.to_string());
    }
    text
}

/// One line of the table: a cell for each state, as wide as the state's name.
fn row(name: &str, width: usize, cells: &[String], last: &str) -> String {
    let cells = STATES.iter().zip(cells).map(|(state, cell)| {
        let width = state.len();
        format!("  {cell:>width$}")
    });
    format!("{name:width$}{}  {last:>7}\n", cells.collect::<String>())
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let mut amount = bytes;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if amount < 1_024 {
            return format!("{amount} {unit}");
        }
        amount /= 1_024;
    }
    format!("{amount} TiB")
}
