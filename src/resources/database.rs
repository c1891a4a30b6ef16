//! Databases as resources: what they are registered as, `resource_query`, and what is in them. How they are asked is `queries`'.

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::OwnedMutexGuard;

use super::access::Right;
use super::files::{self, Turns};
use super::reading::{self, Contents, Held, Listed, Read};
use super::register::uri_of;
use super::{Entry, Kind, find};
use crate::allowance::Quota;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Kind as Fault, Result};
use crate::folders::{self, Named};
use crate::id::{AgentId, ResourceId};
use crate::op::Permission;
use crate::queries::{self, Answer, Ask, Bounds, Column, Description, File, POOL, Postgres};
use crate::secret::Secret;
use crate::secrets;
use crate::store::Tx;

/// What passwords are sealed as.
const PASSWORD: &str = "password of a database";
/// Bytes of an answer at most.
const BYTES: usize = 512 << 10;
/// Bytes of a SQLite file at most.
const LARGEST: u64 = 1 << 30;

/// What to ask a database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Query {
    /// The resource, of type database
    resource_id: ResourceId,
    /// One statement, with $1, $2 … where parameters go
    #[schemars(length(min = 1, max = 65_536))]
    sql: String,
    /// What $1, $2 … stand for, in order; bytes are {"base64": "…"}
    #[serde(default)]
    #[schemars(length(max = 500), schema_with = "values")]
    parameters: Vec<Value>,
    /// Let the statement change rows or tables; it takes the right to write
    #[serde(default)]
    write: bool,
    /// How many rows at most
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 5000))]
    limit: usize,
    /// After how many seconds it is ended
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 30))]
    timeout_seconds: u64,
    /// Who asks, where only what that agent may do is wanted
    agent_id: Option<AgentId>,
}

/// The schema of values of a database, which may be any. Hosts of MCP want an object for it.
fn values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"description": "A value, null too"}})
}

fn rows(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": values(generator)})
}

const fn hundred() -> usize {
    100
}

const fn ten() -> u64 {
    10
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Queried {
    /// What each value of a row is
    columns: Vec<Column>,
    /// The rows, a value for each column: numbers beyond 2^53, times and the like as text, bytes as {"base64": "…"}
    #[schemars(schema_with = "rows")]
    rows: Vec<Vec<Value>>,
    /// Whether there are more rows than the limit or 512 KiB let through
    #[serde(skip_serializing_if = "Option::is_none")]
    has_more: Option<bool>,
    /// How many rows were changed
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<u64>,
}

/// Where a database is.
enum Place {
    Server(Postgres),
    /// A file, and the turn of whoever writes to the tenant's files.
    File(File, Option<OwnedMutexGuard<()>>),
}

fn is_server(uri: &str) -> bool {
    !uri.starts_with("file:")
}

/// The address of a resource without what is secret, and that.
pub(super) fn parted(kind: Kind, uri: String) -> Result<(String, Option<Secret>)> {
    match kind {
        Kind::Database if is_server(&uri) => queries::parted(&uri),
        _ => Ok((uri, None)),
    }
}

/// Refuses what can't be a database.
pub(super) async fn check(ctx: &Ctx, uri: &str, metadata: &Map<String, Value>) -> Result<()> {
    let connections = connections(metadata)?;
    if is_server(uri) {
        let to = Postgres::at(uri, None, connections)?;
        let found = ctx.outside().reach().addresses(to.host()).await;
        return found.map(drop).map_err(|refused| refused.at("the host"));
    }
    let opened = file(ctx, uri, false).await;
    opened.map(drop).map_err(|error| match error.code() {
        "unknown_file" => Error::invalid_at("/uri", "there is no such folder"),
        _ => error,
    })
}

fn connections(metadata: &Map<String, Value>) -> Result<usize> {
    let Some(said) = metadata.get("connection_pool_size") else {
        return Ok(POOL.1);
    };
    let size = said.as_u64().and_then(|size| usize::try_from(size).ok());
    size.filter(|size| (1..=POOL.0).contains(size))
        .ok_or_else(|| {
            let message = format!("must be a number of connections from 1 to {}", POOL.0);
            Error::invalid_at("/metadata/connection_pool_size", message)
        })
}

/// What is sealed, and where it leads: at another address it opens nothing.
fn about(entry: &Entry) -> String {
    format!("{} {}", entry.id, entry.uri)
}

/// Seals the password of an entry, unless the one before has the same. Who registers the same address without one keeps it.
pub(super) fn seal(
    scope: &Scope,
    tx: &mut Tx<'_>,
    entry: &mut Entry,
    (before, password): (Option<&Entry>, Option<&Secret>),
) -> Result<()> {
    let is_same_place = |before: &&Entry| (before.kind, &before.uri) == (entry.kind, &entry.uri);
    let kept = before
        .filter(is_same_place)
        .and_then(|before| before.sealed.clone());
    let Some(password) = password else {
        entry.sealed = kept;
        return Ok(());
    };
    let about = about(entry);
    if let Some(kept) = kept {
        // What can't be opened any more is replaced.
        if secrets::open(scope, tx, (PASSWORD, &about), &kept).is_ok_and(|known| known == *password)
        {
            entry.sealed = Some(kept);
            return Ok(());
        }
    }
    entry.sealed = Some(secrets::seal(scope, tx, (PASSWORD, &about), password)?);
    Ok(())
}

/// A database with its password.
type Found = (Entry, Option<Secret>);

/// A registration with its password, for whoever may do this with it.
fn opened(
    scope: &Scope,
    tx: &mut Tx<'_>,
    named: (&ResourceId, Option<&AgentId>),
    writes: bool,
) -> Result<Found> {
    let entry = find(scope, tx, named, Right::Read)?;
    if entry.kind != Kind::Database {
        return Err(Error::invalid_at(
            "/resource_id",
            "is no database; resource_read reads it",
        ));
    }
    if writes {
        find(scope, tx, named, Right::Write)?;
    }
    let password = open_password(scope, tx, &entry)?;
    Ok((entry, password))
}

fn open_password(scope: &Scope, tx: &mut Tx<'_>, entry: &Entry) -> Result<Option<Secret>> {
    let sealed = entry.sealed.as_ref();
    let open = |sealed: &Vec<u8>| secrets::open(scope, tx, (PASSWORD, &about(entry)), sealed);
    sealed.map(open).transpose()
}

/// Where an entry leads. Who writes to files has his turn as long as this is held.
async fn place(ctx: &Ctx, (entry, password): &Found, writes: Option<&Turns>) -> Result<Place> {
    if is_server(&entry.uri) {
        let to = Postgres::at(&entry.uri, password.clone(), connections(&entry.metadata)?)?;
        return Ok(Place::Server(to));
    }
    let turn = match writes {
        Some(turns) => Some(turns.of(ctx.tenant()).await),
        None => None,
    };
    Ok(Place::File(
        file(ctx, &entry.uri, turn.is_some()).await?,
        turn,
    ))
}

/// The file at an address, which need not be there yet.
async fn file(ctx: &Ctx, uri: &str, writes: bool) -> Result<File> {
    let mut place = files::place(ctx, uri)?;
    let name = place.below.pop();
    let name = name.ok_or_else(|| {
        Error::invalid_at("/uri", "must name a file, such as file://tenant/notes.db")
    })?;
    let own = (place.is_own && writes).then(|| folders::Place {
        below: Vec::new(),
        ..place.clone()
    });
    let own = match own {
        Some(own) => Some(files::open(ctx, own).await?),
        None => None,
    };
    let folder = files::open(ctx, place.clone()).await?;
    let most = ctx
        .system()
        .allowances()
        .of(ctx.tenant())
        .most(Quota::MaxStorageBytes);
    let find = move || {
        let mut path = place.base.canonicalize().map_err(Error::internal)?;
        path.extend(&place.below);
        path.push(&name);
        let most = match (own, most) {
            (Some(own), Some(most)) => {
                let others = own
                    .bytes()?
                    .saturating_sub(folder.size(&[&name]).unwrap_or_default());
                most.saturating_sub(others).min(LARGEST)
            }
            _ => LARGEST,
        };
        Ok(File { path, most })
    };
    files::blocking(find).await
}

pub(super) async fn query(ctx: Ctx, input: Query, held: Arc<Held>) -> Result<Queried> {
    let may = |who: &crate::principal::Principal| who.may(Permission::Supply, "resource_query");
    if input.write && !ctx.principal().is_none_or(may) {
        let message =
            "to write takes a credential that may change what is in resources (resources:write)";
        return Err(Error::new(Fault::Forbidden, "forbidden", message));
    }
    let (id, agent, writes) = (input.resource_id, input.agent_id, input.write);
    let named = (id.clone(), agent.clone());
    let found = ctx
        .read(move |scope, tx| opened(scope, tx, (&named.0, named.1.as_ref()), writes))
        .await?;
    let ask = Ask {
        sql: input.sql,
        parameters: input.parameters,
        writes,
        bounds: Bounds {
            rows: input.limit,
            bytes: BYTES,
            millis: input.timeout_seconds * 1_000,
        },
    };
    let place = place(&ctx, &found, writes.then_some(&held.turns)).await?;
    if !writes {
        return asked(&ctx, &id, &place, &ask).await.map(Queried::of);
    }
    let begun = held.begun(&ctx, &found.0, String::new()).await;
    reading::begin(&ctx, &begun).await?;
    let answer = asked(&ctx, &id, &place, &ask).await;
    let changed = answer.as_ref().ok().and_then(|answer| answer.changed);
    let told = changed.map(|changed| json!({"path": "", "changed": changed}));
    reading::end(&ctx, &begun, told).await?;
    answer.map(Queried::of)
}

async fn asked(ctx: &Ctx, id: &ResourceId, place: &Place, ask: &Ask) -> Result<Answer> {
    let (queries, tenant) = (ctx.system().queries(), ctx.tenant());
    match place {
        Place::Server(to) => queries.postgres(tenant, id.as_str(), to, ask).await,
        Place::File(file, _turn) => queries.sqlite(tenant, file, ask).await,
    }
}

impl Queried {
    fn of(answer: Answer) -> Self {
        Self {
            columns: answer.columns,
            rows: answer.rows,
            has_more: answer.has_more.then_some(true),
            changed: answer.changed,
        }
    }
}

/// What is in a database.
async fn describe(ctx: &Ctx, entry: Entry) -> Result<Description> {
    let opened = entry.clone();
    let password = ctx
        .read(move |scope, tx| open_password(scope, tx, &opened))
        .await?;
    let (found, tenant, asker) = ((entry, password), ctx.tenant(), ctx.system().queries());
    match place(ctx, &found, None).await? {
        Place::Server(to) => {
            let id = found.0.id.as_str();
            asker.describe_postgres(tenant, id, &to).await
        }
        Place::File(file, _) => asker.describe_sqlite(tenant, &file).await,
    }
}

/// At most so many tables whose names begin as typed; none when the database can't be asked.
pub(super) async fn names(ctx: &Ctx, entry: Entry, begin: &str, most: usize) -> Result<Vec<Named>> {
    let tables = describe(ctx, entry).await.unwrap_or_default().tables;
    let named = tables.into_iter().map(|table| Named {
        name: table.name,
        is_folder: false,
        bytes: 0,
        modified_at: None,
    });
    Ok(named
        .filter(|table| table.name.starts_with(begin))
        .take(most)
        .collect())
}

/// What is in a database: all of its tables, or the one that is named.
pub(super) async fn read(ctx: &Ctx, entry: Entry, input: &Read) -> Result<Contents> {
    let id = entry.id.clone();
    let mut whole = describe(ctx, entry).await?;
    let path = input.path.trim_end_matches('/');
    if !path.is_empty() {
        whole.tables.retain(|table| table.name == path);
        if whole.tables.is_empty() {
            return Err(Error::not_found(
                "unknown_file",
                "there is no such table in it",
            ));
        }
    }
    let entries = whole
        .tables
        .iter()
        .map(|table| Listed::named(table.name.clone()));
    let entries = path.is_empty().then(|| entries.collect());
    let text = serde_json::to_vec(&whole).map_err(Error::internal)?;
    Ok(Contents {
        resource_uri: uri_of(id.as_str(), path),
        entries,
        ..Contents::part(text, input, (whole.has_more, "application/json"))
    })
}
