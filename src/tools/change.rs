//! Making and changing tools. A change is a new version; which one is called is decided apart: at once, or by an admin
//! where the tenant wants that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::manifest::{Compiled, Manifest};
use super::{Kept, State, Tools, Version, find, hash_of, is_admin, store};
use crate::allowance::Quota;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::events;
use crate::id::ToolId;
use crate::language::{embed, words};
use crate::op::below;
use crate::store::Tx;
use crate::tenants;

/// Versions that are kept of a tool, besides the one that is called.
const VERSIONS: i64 = 50;

/// A new tool.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Create {
    /// Your own id for it
    pub(super) tool_id: Option<ToolId>,
    #[serde(flatten)]
    pub(super) manifest: Manifest,
}

/// What became of a change.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Changed {
    /// The tool
    pub(super) tool_id: ToolId,
    /// What it is called by
    pub(super) name: String,
    /// The version that this is about
    pub(super) version: i64,
    /// The hash of its manifest
    pub(super) hash: String,
    /// Where it stands
    pub(super) state: State,
    /// Whether it is the one that is called now
    pub(super) live: bool,
    /// Whether anything was changed
    pub(super) changed: bool,
}

impl Changed {
    fn of(tool: &Kept, version: &Version, changed: bool) -> Self {
        Self {
            tool_id: tool.id.clone(),
            name: tool.name.clone(),
            version: version.number,
            hash: version.hash.clone(),
            state: version.state,
            live: tool.live == version.number,
            changed,
        }
    }
}

/// A manifest that was looked at, on its way to the writer.
#[derive(Clone)]
pub(super) struct Draft {
    name: String,
    text: String,
    hash: String,
    meaning: store::Meaning,
}

impl Draft {
    /// Looks at a manifest.
    ///
    /// # Errors
    /// As [`Compiled::of`]; `invalid_input` for a name that an operation has.
    pub(super) fn of(tools: &Tools, manifest: Manifest) -> Result<Self> {
        tools.check_name(&manifest.name)?;
        let made = Compiled::of(manifest)?;
        let text = made.text()?;
        Ok(Self {
            hash: hash_of(&text),
            text,
            meaning: meaning(&made.manifest),
            name: made.manifest.name,
        })
    }
}

/// What a tool is found by.
pub(super) fn meaning(manifest: &Manifest) -> store::Meaning {
    let mut text = format!(
        "{} {} {}",
        manifest.name,
        manifest.title(),
        manifest.description
    );
    for name in manifest.parameters() {
        text.extend([" ", name]);
    }
    let words = words::of(&text);
    let vector = embed(&words).map(|vector| vector.to_bytes());
    let stems = words::indexed(&words).into_iter().map(words::stem);
    (stems.collect::<Vec<_>>().join(" "), vector)
}

pub(super) async fn create(ctx: Ctx, input: Create, tools: Tools) -> Result<Changed> {
    let manifest = tools.complete(&ctx, input.manifest).await?;
    let implementation = manifest.implementation.0.clone();
    let draft = Draft::of(&tools, manifest)?;
    tools.check(&ctx, &implementation).await?;
    let id = input.tool_id;
    ctx.write(move |scope, tx| add(scope, tx, id.clone(), &draft))
        .await
}

/// Adds a tool, once however often it is said.
pub(super) fn add(
    scope: &Scope,
    tx: &mut Tx<'_>,
    id: Option<ToolId>,
    draft: &Draft,
) -> Result<Changed> {
    let by_id = match &id {
        Some(id) => store::find(tx, id.as_str())?,
        None => None,
    };
    let known = match by_id {
        Some(known) => Some(known),
        None => store::find(tx, &draft.name)?,
    };
    if let Some(known) = known {
        let newest = store::find_version(tx, &known.id, known.newest)?;
        let is_same = known.name == draft.name && id.as_ref().is_none_or(|id| *id == known.id);
        return match newest.filter(|newest| is_same && newest.hash == draft.hash) {
            Some(newest) => Ok(Changed::of(&known, &newest, false)),
            None => Err(taken(&known)),
        };
    }
    let (allowed, count) = (tenants::of(scope, tx), store::count(tx)?);
    for quota in [Quota::MaxDynamicTools, Quota::MaxTools] {
        allowed.admit(quota, count, 1)?;
    }
    let mut tool = Kept {
        id: id.unwrap_or_else(|| ToolId::mint(scope.now(), scope.random())),
        name: draft.name.clone(),
        live: 0,
        newest: 0,
        created_at: scope.now(),
        updated_at: scope.now(),
    };
    let version = next(scope, tx, &mut tool, draft);
    store::insert(tx, &tool, &draft.meaning)?;
    store::insert_version(tx, &tool.id, &version)?;
    tell(scope, tx, "dev.baton.tool.created", (&tool, &version))?;
    Ok(Changed::of(&tool, &version, true))
}

fn taken(known: &Kept) -> Error {
    let message = format!(
        "there is another tool {} (id {}); change it with tool_update, or choose another name and id",
        known.name, known.id
    );
    Error::conflict("already_exists", message)
}

/// The next version of a tool, which is called from now on unless an admin has to say so.
fn next(scope: &Scope, tx: &Tx<'_>, tool: &mut Kept, draft: &Draft) -> Version {
    let waits = tenants::of(scope, tx).tool_approval && !is_admin(scope);
    tool.newest += 1;
    tool.updated_at = scope.now();
    if !waits {
        tool.live = tool.newest;
    }
    Version {
        number: tool.newest,
        manifest: draft.text.clone(),
        hash: draft.hash.clone(),
        state: if waits {
            State::Pending
        } else {
            State::Approved
        },
        made_at: scope.now(),
        made_by: scope.actor().to_owned(),
        decided_at: None,
        decided_by: None,
        note: None,
    }
}

/// Tells the log. `listed` says whether the list of tools is another one now.
fn tell(
    scope: &Scope,
    tx: &mut Tx<'_>,
    kind: &'static str,
    (tool, version): (&Kept, &Version),
) -> Result<()> {
    let about = json!({
        "name": tool.name, "version": version.number, "hash": version.hash, "state": version.state,
        "listed": tool.live == version.number,
    });
    events::append(scope, tx, kind, tool.id.as_str(), &about).map(drop)
}

/// A change of a tool.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Update {
    /// The tool: its id or name
    #[schemars(length(min = 1, max = 128))]
    tool_id: String,
    /// The fields of `tool_create` that change; null removes one
    manifest: Map<String, Value>,
    /// Refuse if the newest version is another one
    #[schemars(range(min = 1))]
    expected_version: Option<i64>,
}

pub(super) async fn update(ctx: Ctx, input: Update, tools: Tools) -> Result<Changed> {
    let Update {
        tool_id,
        manifest,
        expected_version,
    } = input;
    let key = tool_id.clone();
    let read = ctx.read(move |_, tx| {
        let tool = find(tx, &key)?;
        let newest = store::find_version(tx, &tool.id, tool.newest)?;
        newest.ok_or_else(|| Error::internal("a tool without a version"))
    });
    let newest = read.await?;
    if expected_version.is_some_and(|expected| expected != newest.number) {
        return Err(moved(newest.number));
    }
    let mut whole: Value = serde_json::from_str(&newest.manifest).map_err(Error::internal)?;
    let name = whole["name"].clone();
    for (field, value) in manifest {
        if field == "name" && value != name {
            let message =
                "a tool keeps its name, since callers know it by that; create another one";
            return Err(Error::invalid_at("/manifest/name", message));
        }
        match value {
            Value::Null => drop(whole.as_object_mut().map(|whole| whole.remove(&field))),
            value => whole[field] = value,
        }
    }
    let at = |error| below(error, "/manifest");
    let manifest = Manifest::read(&whole).map_err(at)?;
    let manifest = tools.complete(&ctx, manifest).await.map_err(at)?;
    let draft = Draft::of(&tools, manifest).map_err(at)?;
    let checked = tools.check(&ctx, &whole["implementation"]).await;
    checked.map_err(at)?;
    ctx.write(move |scope, tx| {
        let mut tool = find(tx, &tool_id)?;
        if tool.newest != newest.number {
            return Err(moved(tool.newest));
        }
        if newest.hash == draft.hash {
            return Ok(Changed::of(&tool, &newest, false));
        }
        let version = next(scope, tx, &mut tool, &draft);
        store::insert_version(tx, &tool.id, &version)?;
        store::save(tx, &tool)?;
        store::save_meaning(tx, &tool.name, &draft.meaning)?;
        store::forget_versions(tx, &tool, tool.newest - VERSIONS)?;
        tell(scope, tx, "dev.baton.tool.updated", (&tool, &version))?;
        Ok(Changed::of(&tool, &version, true))
    })
    .await
}

fn moved(newest: i64) -> Error {
    let message = format!("the newest version is {newest} now; look at it and decide again");
    Error::conflict("tool_changed", message)
}

/// Which tool.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Delete {
    /// The tool: its id or name
    #[schemars(length(min = 1, max = 128))]
    tool_id: String,
}

/// What was removed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Deleted {
    /// The tool
    tool_id: ToolId,
    /// What it was called by
    name: String,
    /// Always true
    deleted: bool,
}

pub(super) fn delete(scope: &Scope, tx: &mut Tx<'_>, input: &Delete) -> Result<Deleted> {
    let tool = find(tx, &input.tool_id)?;
    store::delete(tx, &tool)?;
    let about = json!({"name": tool.name, "listed": tool.live > 0});
    events::append(
        scope,
        tx,
        "dev.baton.tool.deleted",
        tool.id.as_str(),
        &about,
    )?;
    Ok(Deleted {
        tool_id: tool.id,
        name: tool.name,
        deleted: true,
    })
}

/// A decision about a version.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Approve {
    /// The tool: its id or name
    #[schemars(length(min = 1, max = 128))]
    tool_id: String,
    /// Which version; the newest if not said
    #[schemars(range(min = 1))]
    version: Option<i64>,
    /// The hash of what you have looked at: another manifest is refused
    #[schemars(length(max = 64))]
    hash: Option<String>,
    /// False to reject it
    #[serde(default = "yes")]
    approve: bool,
    /// Why
    #[schemars(length(max = 1000))]
    note: Option<String>,
}

const fn yes() -> bool {
    true
}

pub(super) fn approve(scope: &Scope, tx: &mut Tx<'_>, input: &Approve) -> Result<Changed> {
    let mut tool = find(tx, &input.tool_id)?;
    let number = input.version.unwrap_or(tool.newest);
    let mut version = the_version(tx, &tool, number)?;
    if input
        .hash
        .as_ref()
        .is_some_and(|hash| *hash != version.hash)
    {
        let message = format!(
            "version {number} has the hash {}; look at that",
            version.hash
        );
        return Err(Error::conflict("tool_changed", message));
    }
    let wanted = if input.approve {
        State::Approved
    } else {
        State::Rejected
    };
    let goes_live = input.approve && tool.live < number;
    if version.state == wanted && !goes_live {
        return Ok(Changed::of(&tool, &version, false));
    }
    if !input.approve && tool.live == number {
        let message = "it is called already; roll back to another version, or delete the tool";
        return Err(Error::conflict("version_live", message));
    }
    version.state = wanted;
    version.decided_at = Some(scope.now());
    version.decided_by = Some(scope.actor().to_owned());
    version.note.clone_from(&input.note);
    store::decide(tx, &tool.id, &version)?;
    if goes_live {
        tool.live = number;
        tool.updated_at = scope.now();
        store::save(tx, &tool)?;
    }
    let kind = if input.approve {
        "dev.baton.tool.approved"
    } else {
        "dev.baton.tool.rejected"
    };
    tell(scope, tx, kind, (&tool, &version))?;
    Ok(Changed::of(&tool, &version, true))
}

/// Which version to call again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Rollback {
    /// The tool: its id or name
    #[schemars(length(min = 1, max = 128))]
    tool_id: String,
    /// The version to call from now on, as `tool_history` shows it
    #[schemars(range(min = 1))]
    version: i64,
}

pub(super) fn roll_back(scope: &Scope, tx: &mut Tx<'_>, input: &Rollback) -> Result<Changed> {
    let mut tool = find(tx, &input.tool_id)?;
    let version = the_version(tx, &tool, input.version)?;
    if version.state != State::Approved {
        let message = format!("version {} was never approved", version.number);
        return Err(Error::conflict("version_not_approved", message));
    }
    if tool.live == version.number {
        return Ok(Changed::of(&tool, &version, false));
    }
    tool.live = version.number;
    tool.updated_at = scope.now();
    store::save(tx, &tool)?;
    let manifest = serde_json::from_str(&version.manifest).map_err(Error::internal)?;
    store::save_meaning(tx, &tool.name, &meaning(&manifest))?;
    tell(scope, tx, "dev.baton.tool.rolled_back", (&tool, &version))?;
    Ok(Changed::of(&tool, &version, true))
}

pub(super) fn the_version(tx: &mut Tx<'_>, tool: &Kept, number: i64) -> Result<Version> {
    store::find_version(tx, &tool.id, number)?.ok_or_else(|| {
        let message = format!(
            "{} has no version {number}; tool_history shows which it has",
            tool.name
        );
        Error::not_found("unknown_version", message)
    })
}
