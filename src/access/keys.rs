//! Keys: made, listed, rotated and revoked by a tenant's admins. A key's text is shown once; kept is its hash.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::hash_of;
use super::store::{self, Kept};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope, System};
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::id::{AgentId, TaskId, TenantId};
use crate::op::{Op, Permission};
use crate::page::Position;
use crate::principal::{Grant, Role};
use crate::random::Random;
use crate::store::Tx;

/// What a key begins with.
const PREFIX: &str = "bt_";
/// Characters of a key's id behind the prefix.
const ID: usize = 16;
/// Seconds for which the key of an attempt outlives the attempt's time.
const GRACE: u32 = 60;

/// What a tenant's admins may do with keys.
pub fn operations() -> Vec<Op> {
    use Permission::Admin;
    vec![
        Op::write("key_create", Admin, create)
            .about("Create a key", "Let somebody in: make a key with roles, and optionally scopes, agents and an expiry. Its text is shown this once.")
            .at("POST", "/api/v1/keys")
            .sample(|| json!({"name": "ci", "roles": ["orchestrator"]})),
        Op::read("key_list", Admin, list)
            .about("List keys", "List the keys of this tenant: what they allow, until when, and when they were last used.")
            .at("GET", "/api/v1/keys")
            .sample(|| json!({"limit": 10})),
        Op::waiting("key_rotate", Admin, rotate_now)
            .at_once()
            .about("Rotate a key", "Give a key another text, shown this once. The old one stays good for keep_old_seconds.")
            .at("POST", "/api/v1/keys/{key_id}/rotate")
            .sample(|| json!({"key_id": "bt_0000000000000000"})),
        Op::waiting("key_revoke", Admin, revoke_now)
            .at_once()
            .about("Revoke a key", "Let its holder in no more, and end what goes on by its leave: at once here, within a second on every process.")
            .destructive()
            .at("DELETE", "/api/v1/keys/{key_id}")
            .sample(|| json!({"key_id": "bt_0000000000000000"})),
    ]
}

/// Whom to let in.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Create {
    /// What it is for, in a few words
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub name: String,
    /// What its holder is
    #[schemars(length(min = 1, max = 4))]
    pub roles: Vec<Role>,
    /// Narrow the roles down to these scopes (tasks:read, tasks:orchestrate, tasks:execute, memory:read, memory:write, resources:read, resources:write, resources:admin, tools:call, tools:write, tenant:admin), operations or tools
    #[serde(default)]
    #[schemars(length(max = 50), inner(length(min = 1, max = 64)))]
    pub scopes: Vec<String>,
    /// The agents for which its holder may speak; all, if none is named
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub agents: Vec<AgentId>,
    /// The only task of which its holder may speak
    pub task_id: Option<TaskId>,
    /// Seconds for which it is good; for ever, if not said
    #[schemars(range(min = 1, max = 3_153_600_000_u64))]
    pub expires_in_seconds: Option<u32>,
}

/// A key with its text.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Created {
    /// What it is called
    pub key_id: String,
    /// The key: keep it now, it is not shown again
    pub key: String,
    /// When it ends
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// Which keys.
#[derive(Debug, Deserialize, JsonSchema)]
struct List {
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the last page ended: its `next_cursor`
    cursor: Option<String>,
}

const fn fifty() -> u32 {
    50
}

/// A page of keys.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// The keys, by id
    keys: Vec<View>,
    /// Where the next page begins
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A key without its text.
#[derive(Debug, Serialize, JsonSchema)]
struct View {
    /// What it is called, and what its text begins with
    key_id: String,
    /// What it is for
    name: String,
    /// What its holder is
    roles: Vec<Role>,
    /// What the roles are narrowed down to
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    /// The agents for which its holder may speak
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<AgentId>,
    /// The only task of which its holder may speak
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    /// When it was made
    created_at: Time,
    /// Who made it
    created_by: String,
    /// When it ends
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    /// When it was last used, within a minute
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Time>,
}

/// Which key, and how long its old text stays good.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Rotate {
    /// The key
    #[schemars(regex(pattern = "^bt_[0-9a-f]{16}$"))]
    key_id: String,
    /// Seconds for which the old text stays good
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_592_000))]
    keep_old_seconds: u32,
}

/// Which key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Revoke {
    /// The key
    #[schemars(regex(pattern = "^bt_[0-9a-f]{16}$"))]
    key_id: String,
}

/// What became of a key.
#[derive(Debug, Serialize, JsonSchema)]
struct Revoked {
    /// The key
    key_id: String,
    /// Always true
    revoked: bool,
}

/// The id in the text of a key.
pub(super) fn id_of(credential: &str) -> Option<&str> {
    let (id, secret) = credential.split_at_checked(PREFIX.len() + ID)?;
    (id.starts_with(PREFIX) && secret.starts_with('_')).then_some(id)
}

/// A text for the key `id`: 256 random bits that nobody can guess.
fn text_of(id: &str, random: &Random) -> String {
    format!("{id}_{:032x}{:032x}", random.u128(), random.u128())
}

fn grant(input: &Create) -> Grant {
    Grant {
        roles: input.roles.clone(),
        scopes: input.scopes.clone(),
        agents: input.agents.clone(),
        task: input.task_id.clone(),
    }
}

/// A new key and its text.
fn make(input: &Create, (now, random): (Time, &Random), created_by: &str) -> (Kept, String) {
    let key_id = format!("{PREFIX}{:016x}", random.u128() >> 64);
    let text = text_of(&key_id, random);
    let seconds = |seconds: u32| std::time::Duration::from_secs(seconds.into());
    let kept = Kept {
        tenant: None,
        name: input.name.clone(),
        grant: grant(input),
        hash: hash_of(&text).to_vec(),
        old_hash: None,
        old_until: None,
        created_at: now,
        created_by: created_by.to_owned(),
        expires_at: input.expires_in_seconds.map(|time| now + seconds(time)),
        last_used_at: None,
        key_id,
    };
    (kept, text)
}

/// Makes a key of the transaction's tenant, which allows no more than its maker may do.
///
/// # Errors
/// `forbidden` when it would.
pub(crate) fn create(scope: &Scope, tx: &mut Tx<'_>, input: &Create) -> Result<Created> {
    let wanted = grant(input);
    if scope
        .principal()
        .is_some_and(|own| !own.grant.covers(&wanted))
    {
        let message = "a key allows no more than the credential that makes it";
        return Err(Error::new(Kind::Forbidden, "forbidden", message));
    }
    insert(scope, tx, input)
}

fn insert(scope: &Scope, tx: &mut Tx<'_>, input: &Create) -> Result<Created> {
    let (mut kept, key) = make(input, (scope.now(), scope.random()), scope.actor());
    kept.tenant = Some(tx.tenant().clone());
    store::insert(tx, &kept)?;
    let told = json!({"name": kept.name, "allows": kept.grant, "expires_at": kept.expires_at});
    events::append(scope, tx, "dev.baton.key.created", &kept.key_id, &told)?;
    Ok(Created {
        key_id: kept.key_id,
        key,
        expires_at: kept.expires_at,
    })
}

/// Makes a key for an attempt at a task that may take `seconds`: it may speak of that task alone, for the agent that has
/// claimed it, and is no wider than the credential of who claims.
pub(crate) fn create_for_task(
    scope: &Scope,
    tx: &mut Tx<'_>,
    agent: &AgentId,
    (task, seconds): (&TaskId, u32),
) -> Result<Created> {
    let scopes = scope.principal().map(|own| own.grant.scopes.clone());
    let input = Create {
        name: format!("task {task}"),
        roles: vec![Role::Executor],
        scopes: scopes.unwrap_or_default(),
        agents: vec![agent.clone()],
        task_id: Some(task.clone()),
        expires_in_seconds: Some(seconds.saturating_add(GRACE)),
    };
    insert(scope, tx, &input)
}

/// Makes a key for all tenants: the operator's.
///
/// # Errors
/// A failure of the database.
pub async fn create_for_all(system: &System, input: &Create) -> Result<Created> {
    let (kept, key) = make(input, (system.clock().now(), system.random()), "operator");
    let created = Created {
        key_id: kept.key_id.clone(),
        key,
        expires_at: kept.expires_at,
    };
    system
        .command(move |tx| store::insert_for_all(tx, &kept))
        .await?;
    Ok(created)
}

/// The tenant of the key `id`; `None` inside for one of all tenants.
///
/// # Errors
/// `unknown_key`, or a failure of the database.
pub async fn tenant_of(system: &System, id: &str) -> Result<Option<TenantId>> {
    let key = id.to_owned();
    let found = system
        .survey(move |tx| store::find_anywhere(tx, &key))
        .await?;
    found.map(|kept| kept.tenant).ok_or_else(|| unknown(id))
}

/// Whose cursors these are.
const LIST: &str = "key_list";

fn list(_: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let cursor = input.cursor.as_deref();
    let behind = cursor
        .map(|cursor| tx.seal(LIST)?.open(cursor))
        .transpose()?;
    let mut keys = store::list(tx, behind.as_ref(), input.limit + 1)?;
    let limit = usize::try_from(input.limit).unwrap_or(usize::MAX);
    let is_more = keys.len() > limit;
    keys.truncate(limit);
    let last = keys.last().filter(|_| is_more);
    Ok(Listed {
        next_cursor: last
            .map(|key| {
                let id = key.key_id.clone();
                tx.seal(LIST)
                    .map(|seal| seal.close(&Position { key: 0, id }))
            })
            .transpose()?,
        keys: keys.into_iter().map(View::of).collect(),
    })
}

impl View {
    fn of(kept: Kept) -> Self {
        Self {
            key_id: kept.key_id,
            name: kept.name,
            roles: kept.grant.roles,
            scopes: kept.grant.scopes,
            agents: kept.grant.agents,
            task_id: kept.grant.task,
            created_at: kept.created_at,
            created_by: kept.created_by,
            expires_at: kept.expires_at,
            last_used_at: kept.last_used_at,
        }
    }
}

/// Rotates a key. This process forgets what it knew of it.
async fn rotate_now(ctx: Ctx, input: Rotate) -> Result<Created> {
    let name = format!("key:{}", input.key_id);
    let rotated = ctx
        .write(move |scope, tx| rotate(scope, tx, &input))
        .await?;
    ctx.presence().doubt(&name);
    Ok(rotated)
}

/// Revokes a key. What goes on by its leave in this process ends before this is answered.
async fn revoke_now(ctx: Ctx, input: Revoke) -> Result<Revoked> {
    let name = format!("key:{}", input.key_id);
    let revoked = ctx
        .write(move |scope, tx| revoke(scope, tx, &input))
        .await?;
    ctx.presence().end_all_of(&name);
    Ok(revoked)
}

fn rotate(scope: &Scope, tx: &mut Tx<'_>, input: &Rotate) -> Result<Created> {
    let kept = store::find(tx, &input.key_id)?.ok_or_else(|| unknown(&input.key_id))?;
    if scope
        .principal()
        .is_some_and(|own| !own.grant.covers(&kept.grant))
    {
        let message = "this key allows more than the credential that would rotate it";
        return Err(Error::new(Kind::Forbidden, "forbidden", message));
    }
    let key = text_of(&kept.key_id, scope.random());
    let kept_for = std::time::Duration::from_secs(input.keep_old_seconds.into());
    store::rotate(tx, &kept.key_id, &hash_of(&key), scope.now() + kept_for)?;
    let told = json!({"keep_old_seconds": input.keep_old_seconds});
    events::append(scope, tx, "dev.baton.key.rotated", &kept.key_id, &told)?;
    Ok(Created {
        key_id: kept.key_id,
        key,
        expires_at: kept.expires_at,
    })
}

fn revoke(scope: &Scope, tx: &mut Tx<'_>, input: &Revoke) -> Result<Revoked> {
    if !store::delete(tx, &input.key_id)? {
        return Err(unknown(&input.key_id));
    }
    let nothing = json!({});
    events::append(scope, tx, "dev.baton.key.revoked", &input.key_id, &nothing)?;
    Ok(Revoked {
        key_id: input.key_id.clone(),
        revoked: true,
    })
}

/// Forgets the key `id`, which was made for a task that is over.
///
/// # Errors
/// A failure of the database.
pub(crate) fn forget(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    store::delete(tx, id).map(drop)
}

fn unknown(id: &str) -> Error {
    Error::not_found("unknown_key", format!("there is no key {id}"))
}
