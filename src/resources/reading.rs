//! `resource_read` and `resource_write`: leads each call to what the resource is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dashmap::DashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Mutex;

use super::access::Right;
use super::endpoint::{self, Kept};
use super::files::{Change, Folder, Found};
use super::places::{self, Place};
use super::register::uri_of;
use super::{Entry, Kind, find};
use crate::allowance::Quota;
use crate::clock::Time;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::events;
use crate::id::{AgentId, ResourceId, TenantId};

/// The event of something written.
const WRITTEN: &str = "dev.baton.resource.written";

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
    /// When it was last changed
    modified_at: Time,
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

/// Whoever writes in a tenant's own folder, one after the other: each counts what is there before.
#[derive(Debug, Default)]
pub(super) struct Turns(DashMap<TenantId, Arc<Mutex<()>>>);

/// Refuses what can't be a resource.
pub(super) async fn check(ctx: &Ctx, kind: Kind, uri: &str) -> Result<()> {
    match kind {
        Kind::ApiEndpoint => endpoint::check(uri),
        Kind::FileStorage => {
            let place = file_place(ctx, uri)?;
            let opened = open(ctx, place).await;
            opened.map(drop).map_err(|error| match error.code() {
                "unknown_file" => Error::invalid_at("/uri", "there is no such folder"),
                _ => error,
            })
        }
    }
}

fn file_place(ctx: &Ctx, uri: &str) -> Result<Place> {
    places::place("file", uri, ctx.tenant(), &ctx.limits().folders)
}

async fn open(ctx: &Ctx, place: Place) -> Result<Folder> {
    let data = ctx.limits().folders.data.clone();
    blocking(move || Folder::open(&place, &data)).await
}

/// Does what waits for a disk on a thread that nobody else needs.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Error::internal)?
}

pub(super) async fn read(ctx: Ctx, input: Read, kept: Arc<Kept>) -> Result<Contents> {
    let (id, agent) = (input.resource_id.clone(), input.agent_id.clone());
    let look = ctx.read(move |scope, tx| find(scope, tx, (&id, agent.as_ref()), Right::Read));
    let entry = look.await?;
    match entry.kind {
        Kind::FileStorage => read_file(&ctx, &entry, input).await,
        Kind::ApiEndpoint => read_endpoint(&ctx, &entry, input, &kept).await,
    }
}

async fn read_endpoint(ctx: &Ctx, entry: &Entry, input: Read, kept: &Kept) -> Result<Contents> {
    let (whole, has_more, mime_type) = endpoint::read(ctx, entry, &input.path, kept).await?;
    let from = usize::try_from(input.offset).unwrap_or(usize::MAX);
    let from = from.min(whole.len());
    let to = from.saturating_add(input.length).min(whole.len());
    let is_cut = to < whole.len();
    let (text, blob, shown) = as_text(whole[from..to].to_vec(), is_cut || has_more);
    Ok(Contents {
        resource_uri: uri_of(entry.id.as_str(), &input.path),
        mime_type: Some(mime_type),
        text,
        blob,
        bytes: (!has_more).then_some(whole.len() as u64),
        next_offset: is_cut.then_some(from as u64 + shown),
        has_more: has_more.then_some(true),
        ..Contents::default()
    })
}

async fn read_file(ctx: &Ctx, entry: &Entry, input: Read) -> Result<Contents> {
    let folder = open(ctx, file_place(ctx, &entry.uri)?).await?;
    let (path, offset, length) = (input.path.clone(), input.offset, input.length);
    let find = move || folder.read(&places::parts(&path)?, (offset, length));
    let path = input.path.trim_end_matches('/');
    Ok(match blocking(find).await? {
        Found::Folder(named, has_more) => {
            let above = if path.is_empty() {
                String::new()
            } else {
                format!("{path}/")
            };
            let entries = named.into_iter().map(|named| Listed {
                path: format!(
                    "{above}{}{}",
                    named.name,
                    if named.is_folder { "/" } else { "" }
                ),
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
                mime_type: Some(mime_type(path)),
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

/// The media type of a file, by its name.
fn mime_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match end.to_ascii_lowercase().as_str() {
        "md" | "markdown" => "text/markdown",
        "txt" | "log" | "ini" | "conf" => "text/plain",
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "csv" => "text/csv",
        "js" | "mjs" => "text/javascript",
        "xml" => "application/xml",
        "json" => "application/json",
        "yaml" | "yml" => "application/yaml",
        "toml" => "application/toml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => "application/octet-stream",
    }
}

pub(super) async fn write(ctx: Ctx, input: Write, turns: Arc<Turns>) -> Result<Written> {
    let change = input.change()?;
    let (id, agent) = (input.resource_id.clone(), input.agent_id.clone());
    let look = ctx.read(move |scope, tx| find(scope, tx, (&id, agent.as_ref()), Right::Write));
    let entry = look.await?;
    let bytes = match (entry.kind, change) {
        (Kind::FileStorage, change) => {
            write_file(&ctx, &entry, (&input.path, change), &turns).await?
        }
        (Kind::ApiEndpoint, change) => {
            let bytes = match &change {
                Change::Put(bytes) => Some(bytes.len()),
                Change::Remove => None,
            };
            let place = (input.path.as_str(), mime_type(&input.path));
            endpoint::write(&ctx, &entry, place, change).await?;
            bytes
        }
    };
    let path = input.path.trim_end_matches('/').to_owned();
    let id = entry.id.clone();
    let told = path.clone();
    let tell = ctx.write(move |scope, tx| {
        let data = json!({"path": told, "bytes": bytes, "removed": bytes.is_none()});
        events::append(scope, tx, WRITTEN, id.as_str(), &data).map(drop)
    });
    tell.await?;
    Ok(Written {
        resource_uri: uri_of(entry.id.as_str(), &path),
        bytes,
    })
}

async fn write_file(
    ctx: &Ctx,
    entry: &Entry,
    (path, change): (&str, Change),
    turns: &Turns,
) -> Result<Option<usize>> {
    let turn = turns.0.entry(ctx.tenant().clone()).or_default().clone();
    let turn = turn.lock_owned().await;
    let place = file_place(ctx, &entry.uri)?;
    let bytes = match &change {
        Change::Put(bytes) => Some(bytes.len()),
        Change::Remove => None,
    };
    let own = Place {
        below: Vec::new(),
        ..place.clone()
    };
    let own = if own.is_own {
        Some(open(ctx, own).await?)
    } else {
        None
    };
    let folder = open(ctx, place).await?;
    let allowance = ctx.system().allowances().of(ctx.tenant());
    let path = path.to_owned();
    let fresh = format!("{:032x}", ctx.system().random().u128());
    let work = move || {
        let _turn = turn;
        let parts = places::parts(&path)?;
        if let (Some(own), Some(more)) = (own, bytes) {
            let used = own
                .bytes()?
                .saturating_sub(folder.size(&parts).unwrap_or_default());
            allowance.admit(Quota::MaxStorageBytes, used, more as u64)?;
        }
        folder.change(&parts, &change, &fresh)
    };
    blocking(work).await?;
    Ok(bytes)
}
