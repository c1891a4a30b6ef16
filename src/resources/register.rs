//! `resource_register`, `resource_list`, `resource_get` and `resource_delete`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::access::{RULE, Right, Rule, Who};
use super::places::encoded;
use super::{Entry, Kind, MOST, database, find, reading, store};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Kind as Fault, Result};
use crate::events;
use crate::id::{AgentId, ResourceId};
use crate::page::Position;
use crate::secret::Secret;
use crate::store::Tx;

/// Whose cursors these are.
const LIST: &str = "resource_list";
/// Bytes of a registration's metadata at most.
const METADATA: usize = 16 * 1024;
/// The events of registrations.
pub const REGISTERED: &str = "dev.baton.resource.registered";
const CHANGED: &str = "dev.baton.resource.changed";
pub const DELETED: &str = "dev.baton.resource.deleted";

/// What to register.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Register {
    /// What it is called; registering it again changes it
    resource_id: ResourceId,
    /// What it is
    #[serde(rename = "type")]
    kind: Kind,
    /// Where it is: `file://tenant/reports` (the tenant's own folder) or `file:///srv/docs` (below what the operator opened), `s3://bucket/prefix`, `gs://bucket/prefix` or `az://account/container/prefix`; for an `api_endpoint` its `https://` URL; for a `database` `postgres://USER:PASSWORD@HOST/NAME`, whose password is sealed and never shown, or the `file://` of a SQLite file
    #[schemars(length(min = 1, max = 2048), extend("writeOnly" = true))]
    uri: String,
    /// Who may read, write, admin and deploy (use it from tools): read is for everybody, executor:write for a role, agent:ada:write for an agent
    #[serde(default = "read_only")]
    #[schemars(length(max = 100), inner(regex(pattern = RULE)))]
    access_permissions: Vec<String>,
    /// Anything else about it; of an `api_endpoint`, `headers` and `auth` (`secret`, and its `header` if it is no bearer token); of an object store, `region`, `endpoint` and `auth` (`secret`); of a `database`, `connection_pool_size`
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Who registers it, if an agent does
    agent_id: Option<AgentId>,
}

fn read_only() -> Vec<String> {
    vec!["read".to_owned()]
}

/// A registration.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct View {
    /// What it is called
    resource_id: ResourceId,
    /// What it is
    #[serde(rename = "type")]
    kind: Kind,
    /// Where it is, without what is secret
    uri: String,
    /// Where MCP clients read it
    resource_uri: String,
    /// Who may do what
    access_permissions: Vec<String>,
    /// Anything else about it
    metadata: Map<String, Value>,
    /// When it was registered
    created_at: Time,
    /// Who registered it, as the log shows him
    created_by: String,
    /// When the registration was last changed
    updated_at: Time,
}

impl View {
    fn of(entry: Entry) -> Self {
        Self {
            resource_uri: uri_of(entry.id.as_str(), ""),
            resource_id: entry.id,
            kind: entry.kind,
            uri: entry.uri,
            access_permissions: entry.access.iter().map(ToString::to_string).collect(),
            metadata: entry.metadata,
            created_at: entry.created_at,
            created_by: entry.created_by,
            updated_at: entry.updated_at,
        }
    }
}

/// Where MCP clients read what is at `path` of a resource.
pub(super) fn uri_of(id: &str, path: &str) -> String {
    let (id, path) = (encoded(id), encoded(path));
    match path.as_str() {
        "" => format!("baton://resources/{id}"),
        path => format!("baton://resources/{id}/{path}"),
    }
}

pub(super) async fn register(ctx: Ctx, input: Register) -> Result<View> {
    let access = input.access_permissions.iter().enumerate();
    let access = access.map(|(at, rule)| {
        let wrong = |message| Error::invalid_at(format!("/access_permissions/{at}"), message);
        rule.parse().map_err(wrong)
    });
    let access = access.collect::<Result<Vec<Rule>>>()?;
    if serde_json::to_string(&input.metadata).map_or(0, |text| text.len()) > METADATA {
        let message = format!("must not be larger than {METADATA} bytes");
        return Err(Error::invalid_at("/metadata", message));
    }
    // Who may not change it learns nothing of what is where.
    let (id, agent) = (input.resource_id.clone(), input.agent_id.clone());
    ctx.read(move |scope, tx| before(scope, tx, &id, agent.as_ref()))
        .await?;
    let (uri, password) = database::parted(input.kind, input.uri)?;
    reading::check(&ctx, input.kind, &uri, &input.metadata).await?;
    if reading::takes_secret(input.kind, &uri, &input.metadata)? {
        // Who says where a secret is sent could read it.
        if !Who::of(&ctx.scope(), input.agent_id.as_ref()).is_admin {
            let message = "/metadata/auth: only an admin may give a resource a secret";
            return Err(Error::new(Fault::Forbidden, "forbidden", message));
        }
    }
    let agent = input.agent_id;
    let now = ctx.clock().now();
    let entry = Entry {
        id: input.resource_id,
        kind: input.kind,
        uri,
        sealed: None,
        access,
        metadata: input.metadata,
        created_at: now,
        created_by: ctx.actor().to_owned(),
        updated_at: now,
    };
    let write = move |scope: &Scope, tx: &mut Tx<'_>| {
        keep(
            scope,
            tx,
            entry.clone(),
            (password.as_ref(), agent.as_ref()),
        )
    };
    let kept = ctx.write(write).await?;
    ctx.system().queries().close(ctx.tenant(), kept.id.as_str());
    Ok(View::of(kept))
}

/// What is registered under an id that the caller may change.
fn before(
    scope: &Scope,
    tx: &mut Tx<'_>,
    id: &ResourceId,
    agent: Option<&AgentId>,
) -> Result<Option<Entry>> {
    let Some(entry) = store::find(tx, id)? else {
        return Ok(None);
    };
    if entry.allows(scope, &Who::of(scope, agent), Right::Admin) {
        return Ok(Some(entry));
    }
    let message = format!("{id} is taken, and its access_permissions do not allow you to admin it");
    Err(Error::new(Fault::Forbidden, "forbidden", message))
}

fn keep(
    scope: &Scope,
    tx: &mut Tx<'_>,
    mut entry: Entry,
    (password, agent): (Option<&Secret>, Option<&AgentId>),
) -> Result<Entry> {
    let before = before(scope, tx, &entry.id, agent)?;
    database::seal(scope, tx, &mut entry, (before.as_ref(), password))?;
    let event = match before {
        Some(before) => {
            let is_same = (before.kind, &before.uri, &before.sealed)
                == (entry.kind, &entry.uri, &entry.sealed)
                && (&before.access, &before.metadata) == (&entry.access, &entry.metadata);
            if is_same {
                return Ok(before);
            }
            (entry.created_at, entry.created_by) = (before.created_at, before.created_by);
            CHANGED
        }
        None if store::count(tx)? >= MOST => {
            let message = format!("there are {MOST} resources already; delete some");
            return Err(Error::new(Fault::Limited, "quota_exceeded", message));
        }
        None => REGISTERED,
    };
    store::save(tx, &entry)?;
    let data = json!({"type": entry.kind, "uri": entry.uri, "access_permissions": entry.access});
    events::append(scope, tx, event, entry.id.as_str(), &data)?;
    Ok(entry)
}

/// Which resource.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct One {
    /// The resource
    resource_id: ResourceId,
    /// Who asks, where only what that agent may do is wanted
    agent_id: Option<AgentId>,
}

pub(super) fn get(scope: &Scope, tx: &mut Tx<'_>, input: &One) -> Result<View> {
    let who = Who::of(scope, input.agent_id.as_ref());
    let found = store::find(tx, &input.resource_id)?;
    let found = found.filter(|entry| entry.is_seen_by(scope, &who));
    let entry = found.ok_or_else(|| super::unknown(&input.resource_id))?;
    Ok(View::of(entry))
}

/// What was removed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Deleted {
    /// The resource
    resource_id: ResourceId,
}

pub(super) async fn delete(ctx: Ctx, input: One) -> Result<Deleted> {
    let gone = ctx
        .write(move |scope, tx| remove(scope, tx, &input))
        .await?;
    ctx.system()
        .queries()
        .close(ctx.tenant(), gone.resource_id.as_str());
    Ok(gone)
}

fn remove(scope: &Scope, tx: &mut Tx<'_>, input: &One) -> Result<Deleted> {
    let named = (&input.resource_id, input.agent_id.as_ref());
    let entry = find(scope, tx, named, Right::Admin)?;
    store::delete(tx, &entry.id)?;
    let data = json!({"type": entry.kind, "uri": entry.uri});
    events::append(scope, tx, DELETED, entry.id.as_str(), &data)?;
    Ok(Deleted {
        resource_id: entry.id,
    })
}

/// What to list.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct List {
    /// Only resources of this type
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// Who asks, where only what that agent may use is wanted
    agent_id: Option<AgentId>,
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: usize,
    /// Where the last page ended: its `next_cursor`
    cursor: Option<String>,
}

const fn fifty() -> usize {
    50
}

/// A page of registrations.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// The registrations, by id
    resources: Vec<View>,
    /// Leads to the next page; absent on the last
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) fn list(scope: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let who = Who::of(scope, input.agent_id.as_ref());
    let cursor = input.cursor.as_deref();
    let position = cursor
        .map(|cursor| tx.seal(LIST)?.open(cursor))
        .transpose()?;
    let after = position.map_or(String::new(), |position| position.id);
    let (found, next) = page(scope, tx, &who, (&after, input.limit))?;
    let fits = |entry: &Entry| input.kind.is_none_or(|kind| kind == entry.kind);
    let seal = |next: Position| tx.seal(LIST).map(|seal| seal.close(&next));
    Ok(Listed {
        resources: found.into_iter().filter(fits).map(View::of).collect(),
        next_cursor: next.map(seal).transpose()?,
    })
}

/// At most so many of those that `who` may know of, behind an id, and where the next page begins. A tenant has few.
pub(super) fn page(
    scope: &Scope,
    tx: &mut Tx<'_>,
    who: &Who,
    (after, limit): (&str, usize),
) -> Result<(Vec<Entry>, Option<Position>)> {
    let mut found = store::list(tx, after, MOST)?;
    found.retain(|entry| entry.is_seen_by(scope, who) && entry.is_deployed(scope, who));
    let is_last = found.len() <= limit;
    found.truncate(limit);
    let last = found.last().filter(|_| !is_last);
    let next = last.map(|last| Position {
        key: 0,
        id: last.id.to_string(),
    });
    Ok((found, next))
}
