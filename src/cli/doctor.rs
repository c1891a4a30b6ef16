//! `baton doctor`: looks at everything that a working setup needs and says what to do about what is not right.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::data::size;
use super::hosts::{Host, Scope};
use super::{Common, block_on, open, print};
use crate::app::App;
use crate::clock::{Clock, Time};
use crate::config::{Config, Pair};
use crate::error::Result;
use crate::events;
use crate::outbound::Client;
use crate::places::Places;
use crate::secrets;
use crate::store::Place;
use crate::tasks::counts;
use crate::tls;

/// Free bytes below which the data folder is in trouble, and soon will be.
const SCARCE: (u64, u64) = (64 << 20, 1 << 30);
/// Events checked in one read.
const PAGE: u32 = 5_000;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

/// What a check found.
enum Finding {
    Fine(String),
    /// Works, but look at it: what, and the cure.
    Doubtful(String, String),
    /// Does not work: what, and the cure.
    Broken(String, String),
}

use Finding::{Broken, Doubtful, Fine};

/// What was found, in the order of the checks.
#[derive(Default)]
struct Findings(Vec<(&'static str, Finding)>);

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    match args.common.begin() {
        Ok(config) => {
            findings.add("settings", Fine("complete".into()));
            block_on(examine(config, &mut findings))?;
        }
        Err(error) => findings.add(
            "settings",
            Broken(
                format!("{error:#}"),
                "correct it; `baton settings` prints a valid file".into(),
            ),
        ),
    }
    match Places::of_user() {
        Ok(places) => clients(&places, &mut findings),
        Err(error) => findings.add("clients", Broken(error.to_string(), "set HOME".into())),
    }
    print(&findings.text())?;
    Ok(ExitCode::from(u8::from(findings.any_broken())))
}

async fn examine(config: Config, findings: &mut Findings) -> anyhow::Result<ExitCode> {
    let on_server = config.database.is_some();
    findings.add("port", port(&config).await);
    if let Some(pair) = &config.tls {
        findings.add("certificate", certificate(pair, Clock::system().now()));
    }
    match open(config) {
        Ok(app) => {
            if let Place::Folder(folder) = app.system.store().place() {
                findings.add("data folder", self::folder(folder));
            }
            findings.add("database", database(&app).await);
            if let Some(finding) = role(&app).await {
                findings.add("database", finding);
            }
            findings.add("event log", log(&app).await);
            findings.add("secrets", secrets(&app).await);
            findings.add("clock", clock(&app).await);
            app.stop().await;
        }
        Err(error) => {
            let (what, cure) = if on_server {
                (
                    "database",
                    "see to the server, or name another one with --database",
                )
            } else {
                (
                    "data folder",
                    "make it writable for you, or name another folder with --data",
                )
            };
            findings.add(what, Broken(format!("{error:#}"), cure.into()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Findings {
    fn add(&mut self, what: &'static str, finding: Finding) {
        self.0.push((what, finding));
    }

    fn any_broken(&self) -> bool {
        self.0
            .iter()
            .any(|(_, finding)| matches!(finding, Broken(..)))
    }

    fn text(&self) -> String {
        let line = |(what, finding): &(&str, Finding)| match finding {
            Fine(found) => format!("ok    {what:12} {found}\n"),
            Doubtful(found, cure) => format!("warn  {what:12} {found}\n      {:12} → {cure}\n", ""),
            Broken(found, cure) => format!("FAIL  {what:12} {found}\n      {:12} → {cure}\n", ""),
        };
        self.0.iter().map(line).collect()
    }
}

/// Whether the folder takes files, and how many more.
fn folder(data: &Path) -> Finding {
    let probe = data.join(format!(".doctor-{}", std::process::id()));
    let written = fs::write(&probe, "x");
    let _ = fs::remove_file(&probe);
    if let Err(error) = written {
        return Broken(
            format!("{}: {error}", data.display()),
            "make it writable for you, or name another folder with --data".into(),
        );
    }
    let free = rustix::fs::statvfs(data).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    match free {
        Ok(free) if free < SCARCE.0 => Broken(
            format!("{} has {} left", data.display(), size(free)),
            "free disk space: without it, tasks are refused".into(),
        ),
        Ok(free) if free < SCARCE.1 => Doubtful(
            format!("{} has {} left", data.display(), size(free)),
            "free disk space before it runs out".into(),
        ),
        Ok(free) => Fine(format!("{} ({} free)", data.display(), size(free))),
        Err(_) => Fine(data.display().to_string()),
    }
}

async fn database(app: &App) -> Finding {
    match counts::of_all_tenants(&app.system).await {
        Ok(tenants) => {
            let tasks: i64 = tenants
                .values()
                .flat_map(|counts| counts.by_state.values())
                .sum();
            Fine(format!("{tasks} tasks of {} tenants", tenants.len()))
        }
        Err(error) => Broken(
            error.message().to_owned(),
            "keep a copy of the data, then restore a backup".into(),
        ),
    }
}

/// Whether the database keeps tenants apart by itself, should a statement ever forget to.
async fn role(app: &App) -> Option<Finding> {
    let found = app.system.store().is_row_bound().await.transpose()?;
    Some(match found {
        Ok(true) => Fine("row-level security binds its role".into()),
        Ok(false) => Doubtful(
            "its role stands above row-level security, the second wall between tenants".into(),
            "CREATE ROLE baton_server LOGIN NOSUPERUSER NOBYPASSRLS, then \
             `baton migrate --grant-to baton_server`, and serve as that role"
                .into(),
        ),
        Err(error) => Broken(
            error.message().to_owned(),
            "see whether the role may read pg_roles".into(),
        ),
    })
}

/// Whether every tenant's log is numbered without gaps and chained.
async fn log(app: &App) -> Finding {
    let checked = async || -> Result<i64> {
        let mut all = 0;
        for tenant in counts::of_all_tenants(&app.system).await?.into_keys() {
            let ctx = app.system.on_behalf_of(tenant);
            let (mut sequence, mut hash) = (0, Vec::new());
            loop {
                let (last, chained) = ctx
                    .read(move |_, tx| events::verify(tx, sequence, &hash, PAGE))
                    .await?;
                if last == sequence {
                    break;
                }
                (sequence, hash) = (last, chained);
            }
            all += sequence;
        }
        Ok(all)
    };
    match checked().await {
        Ok(all) => Fine(format!("{all} events, numbered and chained")),
        Err(error) => Broken(
            error.message().to_owned(),
            "somebody or something changed the database; keep a copy, and compare with a backup"
                .into(),
        ),
    }
}

/// Whether what tenants keep secret can be opened here, and by nobody else.
async fn secrets(app: &App) -> Finding {
    let vault = app.system.vault();
    let checked = match secrets::check(&app.system).await {
        Ok(checked) => checked,
        Err(error) => return Broken(error.message().to_owned(), "see to the database".into()),
    };
    if let Some(error) = checked.missing.first() {
        let cure = "keep this file wherever the data goes; without it, set the secrets anew";
        return Broken(error.message().to_owned(), cure.into());
    }
    let place = vault.place();
    match checked.tenants {
        _ if vault.is_open_to_others() => Doubtful(
            format!("others than its owner can read the master key in {place}"),
            format!("chmod 600 {place}"),
        ),
        0 => Fine("none are kept".into()),
        tenants => Fine(format!("those of {tenants} tenants open with {place}")),
    }
}

/// Whether time stands behind what was already written.
async fn clock(app: &App) -> Finding {
    let now = app.system.clock().now();
    let newest = async || -> Result<Option<Time>> {
        let mut newest = None;
        for tenant in counts::of_all_tenants(&app.system).await?.into_keys() {
            let ctx = app.system.on_behalf_of(tenant);
            let last = ctx
                .read(|_, tx| {
                    let head = events::head(tx)?;
                    events::after(tx, head - 1, 1)
                })
                .await?;
            newest = newest.max(last.last().map(|event| event.time));
        }
        Ok(newest)
    };
    match newest().await {
        Ok(Some(newest)) if newest.since(now).as_secs() > 60 => Doubtful(
            format!("it is {now}, but the newest event is of {newest}"),
            "set the machine's clock, and let it be kept by NTP".into(),
        ),
        _ => Fine(now.to_string()),
    }
}

/// Whether a server could listen, or who does.
async fn port(config: &Config) -> Finding {
    let address = config.listen;
    match TcpListener::bind(address) {
        Ok(_) => Fine(format!("{address} is free for `baton serve`")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match health(config).await {
            Some(version) => Fine(format!("a Baton {version} serves on {address}")),
            None => Doubtful(
                format!("something that is no Baton listens on {address}"),
                "end it, or serve on another port with --listen".into(),
            ),
        },
        Err(error) => Broken(
            format!("{address}: {error}"),
            "choose an address of this machine with --listen 127.0.0.1:5050".into(),
        ),
    }
}

/// The version of the Baton that answers there.
async fn health(config: &Config) -> Option<String> {
    // Its certificate is for the name that clients know it by, not for where it listens.
    let client = Client::stranger(&format!("{}://{}", config.scheme(), config.listen)).ok()?;
    let health = client.get("/health").await.ok()?;
    let is_ours = health["service"] == "baton";
    is_ours.then(|| health["version"].as_str().map(str::to_owned))?
}

/// Whether clients would take what a server shows them.
fn certificate(pair: &Pair, now: Time) -> Finding {
    let file = pair.cert.display();
    let renew = "renew it; a server that runs reads the new one by itself";
    match tls::valid_until(pair) {
        Err(error) => Broken(
            format!("{error:#}"),
            "name both files with --tls-cert and --tls-key".into(),
        ),
        Ok(until) if until < now => Broken(format!("{file} has expired at {until}"), renew.into()),
        Ok(until) if until < now + tls::LATE => {
            Doubtful(format!("{file} expires at {until}"), renew.into())
        }
        Ok(until) => Fine(format!("{file} is valid until {until}")),
    }
}

/// Whether a client knows of Baton, and whether what it knows is still there.
fn clients(places: &Places, findings: &mut Findings) {
    let mut any = false;
    for host in Host::ALL {
        for scope in [Scope::User, Scope::Local, Scope::Project] {
            let Ok(place) = host.place(scope, places) else {
                continue;
            };
            let Ok(text) = fs::read_to_string(&place.file) else {
                continue;
            };
            let file = place.file.display();
            let Ok(all) = serde_json::from_str::<Value>(text.trim_start_matches('\u{feff}')) else {
                findings.add(
                    "clients",
                    Doubtful(
                        format!(
                            "{file} is not plain JSON, so what {} knows can't be told",
                            host.title()
                        ),
                        "nothing, if it has comments and works; else correct it".into(),
                    ),
                );
                continue;
            };
            let servers = place
                .keys
                .iter()
                .try_fold(&all, |value, key| value.get(key));
            for (name, entry) in servers.and_then(Value::as_object).into_iter().flatten() {
                if let Some(finding) = entry_of(host, name, entry) {
                    any = true;
                    findings.add("clients", finding);
                }
            }
        }
    }
    if !any {
        findings.add(
            "clients",
            Doubtful(
                "no client knows of Baton".into(),
                "`baton install claude-code` (or claude-desktop, cursor, vscode)".into(),
            ),
        );
    }
}

/// What to say of an entry, if it is about Baton.
fn entry_of(host: Host, name: &str, entry: &Value) -> Option<Finding> {
    let title = host.title();
    if let Some(command) = entry["command"].as_str() {
        let path = Path::new(command);
        let is_ours = path.file_stem().is_some_and(|stem| stem == "baton");
        if !is_ours {
            return None;
        }
        return Some(if path.is_relative() || path.is_file() {
            Fine(format!("{title} starts {command} (as {name:?})"))
        } else {
            Broken(
                format!("{title} would start {command} (as {name:?}), which is not there"),
                format!(
                    "`baton install {}` writes where Baton is now",
                    cli_name(host)
                ),
            )
        });
    }
    let url = entry["url"].as_str()?;
    name.contains("baton")
        .then(|| Fine(format!("{title} calls {url} (as {name:?})")))
}

fn cli_name(host: Host) -> String {
    clap::ValueEnum::to_possible_value(&host)
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
