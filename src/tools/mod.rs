//! Tools that tenants make at run time: listed, found and called beside the operations that the server has.
//!
//! `manifest` is what a tool says of itself and how it becomes one that can be called; `http` and `task` are ways in which
//! it is done; `change` makes, changes and approves tools, `import` tries them and makes them of what others describe, `look` shows and
//! finds them, `call` calls them.

mod call;
mod change;
mod http;
mod import;
mod look;
mod manifest;
mod ops;
mod store;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::id::ToolId;
use crate::op::{self, List, Permission};
use crate::script::{Script, Scripts};
use crate::store::Tx;
use crate::upstream::{Upstream, Upstreams};
pub(crate) use manifest::Compiled;
use manifest::Manifest;

/// What every operation that calls a tool is called, for credentials that name operations.
pub const CALL: &str = "tool_call";
/// The version of tools that all tenants have.
const COMMON: i64 = 0;
/// Bytes of manifests in each half of the tools that are kept ready.
const READY: usize = 2 << 20;

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    // Called, or called before.
    Approved,
    // Waits for an admin.
    Pending,
    // An admin said no.
    Rejected,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        match name {
            "approved" => Ok(Self::Approved),
            "pending" => Ok(Self::Pending),
            "rejected" => Ok(Self::Rejected),
            other => Err(Error::internal(format!("no state of a version: {other}"))),
        }
    }
}

/// A tool as the database has it.
#[derive(Debug, Clone)]
struct Kept {
    id: ToolId,
    name: String,
    /// The version that is called; 0 for none.
    live: i64,
    newest: i64,
    created_at: Time,
    updated_at: Time,
}

/// A version of a tool.
#[derive(Debug, Clone)]
struct Version {
    number: i64,
    manifest: String,
    hash: String,
    state: State,
    made_at: Time,
    made_by: String,
    decided_at: Option<Time>,
    decided_by: Option<String>,
    note: Option<String>,
}

/// A version that is called.
struct Live {
    id: ToolId,
    name: String,
    version: i64,
    hash: String,
    manifest: String,
}

/// What was counted of the calls of a tool.
#[derive(Debug, Clone, Default)]
struct Use {
    calls: i64,
    failures: i64,
    /// How long they took together.
    micros: i64,
    called_at: Time,
    /// The minute that counts now, and how many calls began in it.
    minute: i64,
    in_minute: i64,
}

/// A tool that can be called.
#[derive(Clone)]
pub(crate) struct Tool {
    /// Its id.
    pub(crate) id: ToolId,
    /// Its version.
    pub(crate) version: i64,
    /// The hash of its manifest.
    pub(crate) hash: String,
    /// What it is.
    pub(crate) made: Arc<Compiled>,
}

impl Tool {
    /// Whether callers may follow a call instead of waiting for it.
    pub(crate) fn is_followed(&self) -> bool {
        matches!(self.made.implementation, manifest::Implementation::Task(_))
    }
}

/// What the process knows of tools besides the database. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tools(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ready: Mutex<Ready>,
    /// What the operations of this server are called.
    reserved: OnceLock<Vec<&'static str>>,
    /// The tools of all tenants, by name.
    common: BTreeMap<String, Tool>,
    scripts: Scripts,
    upstreams: Upstreams,
}

/// Tools by the hash of their manifest, which is all that they are made of: whose they are makes no difference. What was not
/// needed while the younger half filled up is dropped with the older one.
#[derive(Default)]
struct Ready {
    young: HashMap<String, Arc<Compiled>>,
    old: HashMap<String, Arc<Compiled>>,
    /// Of the manifests of the younger half.
    bytes: usize,
}

impl Ready {
    fn find(&mut self, hash: &str) -> Option<Arc<Compiled>> {
        if let Some(known) = self.young.get(hash) {
            return Some(known.clone());
        }
        let known = self.old.remove(hash)?;
        self.keep(hash, &known);
        Some(known)
    }

    fn keep(&mut self, hash: &str, made: &Arc<Compiled>) {
        if self.bytes + made.bytes > READY {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += made.bytes;
        self.young.insert(hash.to_owned(), made.clone());
    }
}

impl Tools {
    /// With tools for all tenants: the manifests (`.toml`, `.json`) in `folder`.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(folder: Option<&Path>) -> Result<Self> {
        Self::with(folder, Upstreams::default())
    }

    /// As [`Tools::load`], where there are other servers.
    ///
    /// # Errors
    /// As [`Tools::load`].
    pub fn with(folder: Option<&Path>, upstreams: Upstreams) -> Result<Self> {
        let mut common = BTreeMap::new();
        for path in folder.map(files).transpose()?.unwrap_or_default() {
            let tool = read(&path).map_err(|error| within(&path, &error.to_string()))?;
            let name = tool.made.manifest.name.clone();
            if common.insert(name, tool).is_some() {
                return Err(within(&path, "another file has a tool of this name"));
            }
        }
        let shared = Shared {
            common,
            upstreams,
            ..Shared::default()
        };
        Ok(Self(Arc::new(shared)))
    }

    /// The tools of all tenants that the caller may call, by name.
    pub(crate) fn common(&self, ctx: &Ctx) -> impl Iterator<Item = &Tool> {
        let all = self.0.common.iter();
        all.filter(|(name, _)| may_call(ctx, name))
            .map(|(_, tool)| tool)
    }

    /// Says what the operations of this server are called, which tools can't be.
    pub(crate) fn reserve(&self, names: impl Iterator<Item = &'static str>) {
        let _ = self.0.reserved.set(names.collect());
    }

    /// Refuses a name that an operation has, however it is spelled: clients that show `-` as `_` could not tell them apart.
    fn check_name(&self, name: &str) -> Result<()> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        let reserved = self.0.reserved.get();
        if reserved.is_some_and(|names| names.contains(&&*plain)) {
            let message = format!("{plain} is an operation of this server; choose another name");
            return Err(Error::invalid_at("/name", message));
        }
        if self.0.common.contains_key(name) {
            let message = format!("all tenants have a tool {name}; choose another name");
            return Err(Error::invalid_at("/name", message));
        }
        Ok(())
    }

    /// The tool that the caller's tenant calls by this name. One of all tenants goes before its own.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn find(&self, ctx: &Ctx, name: &str) -> Result<Option<Tool>> {
        if let Some(common) = self.0.common.get(name) {
            return Ok(Some(common.clone()));
        }
        let name = name.to_owned();
        let found = ctx.read(move |_, tx| store::find_live(tx, &name)).await?;
        found.map(|live| self.ready(live)).transpose()
    }

    /// What runs the scripts among them.
    fn scripts(&self) -> &Scripts {
        &self.0.scripts
    }

    /// The other servers.
    fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// Refuses a script that can't be read, and a server that there is none of, where a manifest gives one.
    async fn check(&self, ctx: &Ctx, implementation: &Value) -> Result<()> {
        let checked = match &*manifest::kind_of(implementation) {
            "script" => {
                let script: Script = op::parse(implementation)?;
                self.scripts().check(ctx, &script).await
            }
            "upstream" => {
                let upstream: Upstream = op::parse(implementation)?;
                self.upstreams().check(ctx.tenant(), &upstream)
            }
            _ => return Ok(()),
        };
        checked.map_err(|error| op::below(error, "/implementation"))
    }

    /// A manifest with what another server says of its tool, where it leaves out what that takes.
    async fn complete(&self, ctx: &Ctx, mut manifest: Manifest) -> Result<Manifest> {
        if let Some(upstream) = manifest.asks_elsewhere()? {
            let _place = ctx.place_to_wait()?;
            let said = self.upstreams().look(ctx, &upstream).await?;
            manifest.take(said);
        }
        Ok(manifest)
    }

    /// As [`Tools::find`], in a transaction.
    fn find_in(&self, tx: &mut Tx<'_>, name: &str) -> Result<Tool> {
        let found = store::find_live(tx, name)?.ok_or_else(|| unknown(name))?;
        self.ready(found)
    }

    /// At most `limit` of the tools that the caller may call, behind a name, by name; and the last name that was looked at,
    /// if there are more.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn page(
        &self,
        ctx: &Ctx,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<Tool>, Option<String>)> {
        let (after, asked) = (
            after.to_owned(),
            u32::try_from(limit + 1).unwrap_or(u32::MAX),
        );
        let mut found = ctx
            .read(move |_, tx| store::list_live(tx, &after, asked))
            .await?;
        let has_more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|last| last.name.clone());
        let last = has_more.then(|| last.unwrap_or_default());
        // One that this program can't read any more hides no other.
        let tools = found.into_iter().filter_map(|live| {
            let ready = self.ready(live).inspect_err(|error| {
                tracing::warn!(error = ?error, "a tool can't be listed");
            });
            ready
                .ok()
                .filter(|tool| may_call(ctx, &tool.made.manifest.name))
        });
        Ok((tools.collect(), last))
    }

    /// Makes what the database has ready to be called, once for all that are the same.
    fn ready(&self, live: Live) -> Result<Tool> {
        let known = self.kept().find(&live.hash);
        let made = if let Some(made) = known {
            made
        } else {
            let manifest = serde_json::from_str(&live.manifest).map_err(Error::internal)?;
            let made = Compiled::of(manifest).map_err(Error::internal)?;
            let made = Arc::new(made);
            self.kept().keep(&live.hash, &made);
            made
        };
        Ok(Tool {
            id: live.id,
            version: live.version,
            hash: live.hash,
            made,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Ready> {
        self.0.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the caller of `ctx` may call the tool `name`: his credential may name it, or the operation that calls all.
pub(crate) fn may_call(ctx: &Ctx, name: &str) -> bool {
    let may = |name| {
        let principal = ctx.principal();
        principal.is_none_or(|principal| principal.may(Permission::Use, name))
    };
    may(CALL) || may(name)
}

/// The input of the operation that calls the tool `name`.
pub(crate) fn called(name: &str, arguments: Map<String, Value>) -> Map<String, Value> {
    let fields = [("name", name.into()), ("arguments", arguments.into())];
    let fields = fields.map(|(field, value): (&str, Value)| (field.to_owned(), value));
    fields.into_iter().collect()
}

/// The list that an event changed.
pub(crate) fn list_changed_by(event: &Event) -> Option<List> {
    let is_ours = event.kind.starts_with("dev.baton.tool.");
    (is_ours && event.data["listed"] == true).then_some(List::Tools)
}

/// The files of a folder that may be manifests, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: &std::io::Error| within(folder, &error.to_string());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("toml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The tool that a file has.
fn read(path: &Path) -> Result<Tool> {
    let wrong = |error: &dyn std::fmt::Display| Error::invalid("invalid_input", error.to_string());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let given: Value = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).map_err(|error| wrong(&error))?
    } else {
        toml::from_str(&text).map_err(|error| wrong(&error))?
    };
    let made = Compiled::of(manifest::Manifest::read(&given)?)?;
    Ok(Tool {
        id: made.manifest.name.parse().map_err(Error::internal)?,
        version: COMMON,
        hash: hash_of(&made.text()?),
        made: Arc::new(made),
    })
}

fn within(path: &Path, what: &str) -> Error {
    Error::invalid("invalid_input", format!("{}: {what}", path.display()))
}

fn hash_of(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn find(tx: &mut Tx<'_>, id_or_name: &str) -> Result<Kept> {
    store::find(tx, id_or_name)?.ok_or_else(|| unknown(id_or_name))
}

fn unknown(id_or_name: &str) -> Error {
    Error::not_found("unknown_tool", format!("there is no tool {id_or_name:?}"))
}

/// Whether whoever acts is an admin who proved it.
fn is_admin(scope: &Scope) -> bool {
    let principal = scope.principal();
    principal.is_some_and(|principal| principal.may(Permission::Admin, "tool_approve"))
}

pub use ops::operations;
