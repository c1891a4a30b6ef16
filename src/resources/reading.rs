//! `resource_read` and `resource_write`: leads each call to what the resource is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

use super::access::Right;
use super::endpoint::{self, Kept};
use super::files::{self, Turns};
use super::register::uri_of;
use super::store::{self, Begun};
use super::{Entry, Kind, database, find, places};
use crate::buckets::{self, Stores};
use crate::clock::Time;
use crate::ctx::{Ctx, System};
use crate::error::{Error, Kind as Fault, Result};
use crate::folders::{self, Change, Found};
use crate::id::{AgentId, ResourceId, SecretName};
use crate::op::Typed;
use crate::secret::Secret;
use crate::secrets;

/// How long a write to a folder goes on at most once it has begun, and one to what is elsewhere.
const SETTLED: Duration = Duration::from_secs(5);
const ANSWERED: Duration = Duration::from_mins(2);
/// After how long a data folder does not come back.
const LOST: Duration = Duration::from_hours(24);
/// Writes that are ended in one round.
const BATCH: u32 = 100;
/// The event of something written.
pub(super) const WRITTEN: &str = "dev.baton.resource.written";

/// What to read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Read {
    /// The resource
    pub(super) resource_id: ResourceId,
    /// What in it: a file or folder, such as docs/intro.md; without it, the whole
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub(super) path: String,
    /// From which byte of a file on
    #[serde(default)]
    #[schemars(range(max = 1_000_000_000_000_i64))]
    pub(super) offset: u64,
    /// How many bytes of it at most
    #[serde(default = "much")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) length: usize,
    /// Who asks, where only what that agent may do is wanted
    pub(super) agent_id: Option<AgentId>,
}

const fn much() -> usize {
    64 * 1024
}

impl Read {
    /// All that one answer has room for.
    pub(super) fn all(resource_id: ResourceId, path: String) -> Self {
        Self {
            resource_id,
            path,
            offset: 0,
            length: 1 << 20,
            agent_id: None,
        }
    }
}

/// What is there.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Contents {
    /// Where MCP clients read it
    pub(super) resource_uri: String,
    /// Media type of a file
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mime_type: Option<&'static str>,
    /// What it says, if that is text
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    /// Anything else, in base64
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<String>,
    /// Bytes of the whole
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// From where to read on, if there is more
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_offset: Option<u64>,
    /// When it was last changed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) modified_at: Option<Time>,
    /// What a folder has in it, by name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entries: Option<Vec<Listed>>,
    /// Whether a folder has more than is listed, or a service more than is read of it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) has_more: Option<bool>,
}

/// Something in a folder.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// Its path in the resource; a folder's ends in /
    path: String,
    /// Bytes of a file
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// When it was last changed, where that is known
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_at: Option<Time>,
}

impl Listed {
    /// Something of which nothing is known but where it is.
    pub(super) const fn named(path: String) -> Self {
        Self {
            path,
            bytes: None,
            modified_at: None,
        }
    }
}

impl Contents {
    /// The part of something that was asked for.
    pub(super) fn part(
        whole: Vec<u8>,
        input: &Read,
        (has_more, mime_type): (bool, &'static str),
    ) -> Self {
        let from = usize::try_from(input.offset).unwrap_or(usize::MAX);
        let from = from.min(whole.len());
        let to = from.saturating_add(input.length).min(whole.len());
        let is_cut = to < whole.len();
        let (text, blob, shown) = as_text(whole[from..to].to_vec(), is_cut || has_more);
        Self {
            mime_type: Some(mime_type),
            text,
            blob,
            bytes: (!has_more).then_some(whole.len() as u64),
            next_offset: is_cut.then_some(from as u64 + shown),
            has_more: has_more.then_some(true),
            ..Self::default()
        }
    }
}

/// What to write.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Write {
    /// The resource
    resource_id: ResourceId,
    /// The file, such as docs/intro.md; folders are made
    #[schemars(length(min = 1, max = 1024))]
    path: String,
    /// What it is to say
    #[schemars(length(max = 1_000_000))]
    text: Option<String>,
    /// The same for what is no text, in base64
    #[schemars(length(max = 1_000_000))]
    blob: Option<String>,
    /// Remove the file, or the empty folder, instead
    #[serde(default)]
    remove: bool,
    /// Who writes, if an agent does
    agent_id: Option<AgentId>,
}

impl Write {
    fn change(&self) -> Result<Change> {
        match (&self.text, &self.blob, self.remove) {
            (Some(text), None, false) => Ok(Change::Put(text.clone().into_bytes())),
            (None, Some(blob), false) => {
                let bytes = STANDARD.decode(blob);
                let bytes = bytes.map_err(|_| Error::invalid_at("/blob", "must be base64"))?;
                Ok(Change::Put(bytes))
            }
            (None, None, true) => Ok(Change::Remove),
            _ => Err(Error::invalid_at("", "give one of text, blob and remove")),
        }
    }
}

/// What was written.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Written {
    /// Where MCP clients read it
    resource_uri: String,
    /// Bytes of the file; none of what was removed
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

/// What is kept from call to call: nothing that a restart would miss.
#[derive(Debug, Default)]
pub(super) struct Held {
    answers: Kept,
    pub(super) stores: Stores,
    pub(super) turns: Turns,
    place: OnceCell<String>,
}

impl Held {
    /// What this process's data folder is called.
    async fn place(&self, system: &System) -> String {
        let name = async || files::data_folder(system).await.0;
        self.place.get_or_init(name).await.clone()
    }

    /// A write of this process to what is elsewhere, as it stands when it begins.
    pub(super) async fn begun(&self, ctx: &Ctx, entry: &Entry, path: String) -> Begun {
        Begun {
            id: format!("{:032x}", ctx.system().random().u128()),
            resource: entry.id.clone(),
            uri: entry.uri.clone(),
            path,
            bytes: None,
            fresh: None,
            mark: None,
            place: self.place(ctx.system()).await,
            actor: ctx.actor().to_owned(),
            due_at: ctx.clock().steady() + ANSWERED,
        }
    }
}

/// Refuses what can't be a resource.
pub(super) async fn check(
    ctx: &Ctx,
    kind: Kind,
    uri: &str,
    metadata: &Map<String, Value>,
) -> Result<()> {
    match kind {
        Kind::Database => database::check(ctx, uri, metadata).await,
        Kind::ApiEndpoint => endpoint::check(uri),
        Kind::FileStorage => files::check(ctx, uri).await,
    }
}

/// Whether a registration's metadata gives it a secret, and whether it says anything that can't be.
pub(super) fn takes_secret(kind: Kind, uri: &str, metadata: &Map<String, Value>) -> Result<bool> {
    match kind {
        Kind::ApiEndpoint => endpoint::takes_secret(metadata),
        Kind::FileStorage => files::takes_secret(uri, metadata),
        Kind::Database => Ok(false),
    }
}

/// The secret that a registration names.
pub(super) async fn secret(ctx: &Ctx, name: &SecretName) -> Result<Secret> {
    let named = name.clone();
    let open = ctx.read(move |scope, tx| secrets::resolve(scope, tx, std::slice::from_ref(&named)));
    let found = open.await?.remove(name);
    found.ok_or_else(|| Error::internal("a secret that was found is there"))
}

pub(super) async fn read(ctx: Ctx, input: Read, held: Arc<Held>) -> Result<Contents> {
    let (id, agent) = (input.resource_id.clone(), input.agent_id.clone());
    let look = ctx.read(move |scope, tx| find(scope, tx, (&id, agent.as_ref()), Right::Read));
    let entry = look.await?;
    match entry.kind {
        Kind::FileStorage => read_file(&ctx, &entry, input, &held.stores).await,
        Kind::ApiEndpoint => read_endpoint(&ctx, &entry, input, &held.answers).await,
        Kind::Database => database::read(&ctx, entry, &input).await,
    }
}

async fn read_endpoint(ctx: &Ctx, entry: &Entry, input: Read, kept: &Kept) -> Result<Contents> {
    let (whole, has_more, mime_type) = endpoint::read(ctx, entry, &input.path, kept).await?;
    Ok(Contents {
        resource_uri: uri_of(entry.id.as_str(), &input.path),
        ..Contents::part(whole, &input, (has_more, mime_type))
    })
}

async fn read_file(ctx: &Ctx, entry: &Entry, input: Read, stores: &Stores) -> Result<Contents> {
    let (offset, part) = (input.offset, (input.offset, input.length));
    let found = files::read(ctx, entry, (&input.path, part), stores).await?;
    let path = input.path.trim_end_matches('/');
    Ok(match found {
        Found::Folder(named, has_more) => {
            let entries = named.into_iter().map(|named| Listed {
                path: places::path_of(path, &named),
                bytes: (!named.is_folder).then_some(named.bytes),
                modified_at: named.modified_at,
            });
            Contents {
                resource_uri: uri_of(entry.id.as_str(), path),
                entries: Some(entries.collect()),
                has_more: has_more.then_some(true),
                ..Contents::default()
            }
        }
        Found::File {
            bytes,
            of,
            modified_at,
        } => {
            let is_cut = offset.saturating_add(bytes.len() as u64) < of;
            let (text, blob, shown) = as_text(bytes, is_cut);
            Contents {
                resource_uri: uri_of(entry.id.as_str(), path),
                mime_type: Some(places::mime_type(path)),
                text,
                blob,
                bytes: Some(of),
                next_offset: is_cut.then_some(offset.saturating_add(shown)),
                modified_at: Some(modified_at),
                ..Contents::default()
            }
        }
    })
}

/// Paths that begin as typed, for whoever may read the resource; folders end in `/`. Nobody learns here why there are none.
pub(super) async fn names(
    ctx: &Ctx,
    id: ResourceId,
    typed: &Typed,
    held: &Held,
) -> Result<Vec<String>> {
    let look = ctx.read(move |scope, tx| find(scope, tx, (&id, None), Right::Read));
    let found = async {
        let entry = look.await?;
        let whole = ("", typed.begin.as_str());
        let (folder, begin) = typed.begin.rsplit_once('/').unwrap_or(whole);
        let most = usize::try_from(typed.most).unwrap_or(usize::MAX);
        let named = match entry.kind {
            Kind::FileStorage => {
                files::names(ctx, &entry, (folder, begin, most), &held.stores).await?
            }
            Kind::Database if folder.is_empty() => database::names(ctx, entry, begin, most).await?,
            Kind::ApiEndpoint | Kind::Database => Vec::new(),
        };
        Ok::<_, Error>((folder, named))
    };
    match found.await {
        Ok((folder, named)) => {
            let named = named.into_iter();
            Ok(named.map(|named| places::path_of(folder, &named)).collect())
        }
        Err(error) => match error.kind() {
            Fault::NotFound | Fault::Forbidden | Fault::Invalid => Ok(Vec::new()),
            _ => Err(error),
        },
    }
}

/// Bytes as text, if they are one, or else in base64; and how many of them are shown. A character that is cut off belongs to
/// the next part.
pub(super) fn as_text(bytes: Vec<u8>, is_cut: bool) -> (Option<String>, Option<String>, u64) {
    let (all, is_binary) = (bytes.len(), bytes.contains(&0));
    let text = match String::from_utf8(bytes) {
        Ok(text) if !is_binary => Ok(text),
        Ok(text) => Err(text.into_bytes()),
        Err(error) => {
            let valid = error.utf8_error();
            let whole = valid.valid_up_to();
            let mut bytes = error.into_bytes();
            if is_cut && !is_binary && whole > 0 && valid.error_len().is_none() {
                bytes.truncate(whole);
                String::from_utf8(bytes).map_err(std::string::FromUtf8Error::into_bytes)
            } else {
                Err(bytes)
            }
        }
    };
    match text {
        Ok(text) => {
            let shown = text.len() as u64;
            (Some(text), None, shown)
        }
        Err(bytes) => (None, Some(STANDARD.encode(bytes)), all as u64),
    }
}

pub(super) async fn write(ctx: Ctx, input: Write, held: Arc<Held>) -> Result<Written> {
    let change = input.change()?;
    let (id, agent) = (input.resource_id.clone(), input.agent_id.clone());
    let look = ctx.read(move |scope, tx| find(scope, tx, (&id, agent.as_ref()), Right::Write));
    let entry = look.await?;
    let bytes = match &change {
        Change::Put(bytes) => Some(bytes.len()),
        Change::Remove => None,
    };
    let path = input.path.trim_end_matches('/').to_owned();
    let mut begun = held.begun(&ctx, &entry, path.clone()).await;
    begun.bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok());
    if entry.kind == Kind::FileStorage && !buckets::is_store(&entry.uri) {
        begun.fresh = bytes.is_some().then(|| begun.id.clone());
        begun.due_at = ctx.clock().steady() + SETTLED;
    }
    let place = (input.path.as_str(), places::mime_type(&input.path), change);
    match entry.kind {
        Kind::FileStorage => {
            let own = ((&held.stores, &held.turns), begun.id.as_str());
            let ready = files::prepare(&ctx, &entry, place, own).await?;
            begun.mark = ready.mark();
            begin(&ctx, &begun).await?;
            let (done, rest) = ready.happen().await;
            end(&ctx, &begun, done.is_ok().then(|| begun.told())).await?;
            if let Some(rest) = rest {
                // Not before nobody asks any more whether it is there.
                files::blocking(move || {
                    rest.abandon();
                    Ok(())
                })
                .await?;
            }
            done?;
        }
        Kind::ApiEndpoint => {
            begin(&ctx, &begun).await?;
            let done = endpoint::write(&ctx, &entry, place).await;
            end(&ctx, &begun, done.is_ok().then(|| begun.told())).await?;
            done?;
        }
        Kind::Database => {
            let message = "is a database: resource_query changes what is in it, with write";
            return Err(Error::invalid_at("/resource_id", message));
        }
    }
    Ok(Written {
        resource_uri: uri_of(entry.id.as_str(), &path),
        bytes,
    })
}

/// Notes that a write begins.
pub(super) async fn begin(ctx: &Ctx, begun: &Begun) -> Result<()> {
    let begun = begun.clone();
    ctx.write(move |_, tx| store::begin_write(tx, &begun)).await
}

/// Ends a write, and tells of it if it happened.
pub(super) async fn end(ctx: &Ctx, begun: &Begun, told: Option<Value>) -> Result<()> {
    let begun = begun.clone();
    let end = ctx.write(move |scope, tx| {
        let is_open = store::end_write(tx, &begun.id)?;
        // Of a file that has its name somebody else has told, if he has ended this.
        let is_told = !is_open && begun.fresh.is_some();
        let Some(told) = told.as_ref().filter(|_| !is_told) else {
            return Ok(());
        };
        let about = (WRITTEN, begun.resource.as_str());
        files::tell(scope, tx, about, (&begun.path, begun.mark.as_deref()), told)
    });
    end.await
}

/// Ends the writes whose processes are gone: those to folders by what is on the disk, where its data folder is; those to
/// others, of which nobody knows, as what perhaps happened.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    let now = system.clock().steady();
    let due = system
        .survey(move |tx| store::due_writes(tx, now, BATCH))
        .await?;
    if due.is_empty() {
        return Ok(0);
    }
    let (place, lock) = files::data_folder(system).await;
    // One process of a data folder at a time: what one has taken away, another would take for what has its name.
    let lock = lock.filter(folders::is_first);
    let mut count = 0;
    for (tenant, begun) in due {
        let is_ours = lock.is_some() && begun.place == place;
        let is_lost = now.since(begun.due_at) > LOST;
        if !is_ours && !is_lost {
            continue;
        }
        let ctx = system.ctx(tenant, &begun.actor);
        // A database may be a file, and what happened in it does not show.
        let is_folder = begun.uri.starts_with("file:") && !begun.path.is_empty();
        let mut told = begun.told();
        let happened = if is_ours && is_folder {
            files::has_happened(&ctx, &begun).await?
        } else {
            told["uncertain"] = true.into();
            true
        };
        end(&ctx, &begun, happened.then_some(told)).await?;
        count += 1;
    }
    Ok(count)
}
