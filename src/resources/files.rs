//! Files of a `file_storage`: in a folder of the disk (`folders`) or in an object store (`buckets`), with what the
//! registration's metadata says about it. Where folders may lie is for `places` to say.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use dashmap::DashMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::places::{self, parts};
use super::store::{self, Begun};
use super::{Entry, reading};
use crate::allowance::Quota;
use crate::buckets::{self, Bucket, Stores, Terms};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope, System};
use crate::error::{Error, Result};
use crate::events;
use crate::folders::{self, Change, Changed, Folder, Found, Named, Place, Seen, Version};
use crate::id::{NotificationId, ResourceId, SecretName, TenantId};
use crate::store::Tx;

/// How what is in a resource is called by MCP clients.
pub const BELOW: &str = "baton://resources/";
/// The event of something that somebody else changed.
const FOUND: &str = "dev.baton.resource.file_changed";
/// Folders that are watched for one tenant, and for all.
const WATCHED_OF_ONE: usize = 32;
const WATCHED: usize = 256;
/// Changes that are told in one transaction.
const TOLD: usize = 200;
/// Microseconds before the first look in which something may have changed that is told.
const RECENT: i64 = 3_000_000;

/// Whoever writes in a tenant's own folder, one after the other: each counts what is there before.
#[derive(Debug, Default)]
pub(super) struct Turns(DashMap<TenantId, Arc<Mutex<()>>>);

impl Turns {
    /// Waits for the turn of one who writes in `tenant`.
    pub(super) async fn of(&self, tenant: &TenantId) -> OwnedMutexGuard<()> {
        let turn = self.0.entry(tenant.clone()).or_default().clone();
        turn.lock_owned().await
    }
}

/// What the registration's metadata says of a store.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Store {
    region: Option<String>,
    endpoint: Option<String>,
    auth: Option<Auth>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    secret: SecretName,
}

fn said(metadata: &Map<String, Value>) -> Result<Store> {
    Store::deserialize(Value::Object(metadata.clone())).map_err(|error| {
        let message =
            format!("region, endpoint or auth ({{secret}}) are not as they must be: {error}");
        Error::invalid_at("/metadata", message)
    })
}

/// Whether a registration's metadata gives a store a secret, and whether it says anything that can't be.
pub(super) fn takes_secret(uri: &str, metadata: &Map<String, Value>) -> Result<bool> {
    if !buckets::is_store(uri) {
        return Ok(false);
    }
    let store = said(metadata)?;
    buckets::check(&terms(&store))?;
    Ok(store.auth.is_some())
}

fn terms(store: &Store) -> Terms<'_> {
    Terms {
        region: store.region.as_deref(),
        endpoint: store.endpoint.as_deref(),
        secret: None,
    }
}

/// Refuses what can't be a folder; a store is asked when it is read.
pub(super) async fn check(ctx: &Ctx, uri: &str) -> Result<()> {
    if buckets::is_store(uri) {
        return buckets::Place::parse(uri).map(drop);
    }
    let opened = open(ctx, place(ctx, uri)?).await;
    opened.map(drop).map_err(|error| match error.code() {
        "unknown_file" => Error::invalid_at("/uri", "there is no such folder"),
        _ => error,
    })
}

async fn bucket(ctx: &Ctx, entry: &Entry, stores: &Stores) -> Result<Bucket> {
    let place = buckets::Place::parse(&entry.uri)?;
    let said = said(&entry.metadata)?;
    let secret = match &said.auth {
        Some(auth) => Some(reading::secret(ctx, &auth.secret).await?),
        None => None,
    };
    let terms = Terms {
        secret: secret.as_ref(),
        ..terms(&said)
    };
    stores.open(&place, terms, ctx.outside())
}

pub(super) fn place(ctx: &Ctx, uri: &str) -> Result<Place> {
    places::place("file", uri, ctx.tenant(), &ctx.limits().folders)
}

pub(super) async fn open(ctx: &Ctx, place: Place) -> Result<Folder> {
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

/// What is at a path: of a file `length` bytes from `offset` on.
pub(super) async fn read(
    ctx: &Ctx,
    entry: &Entry,
    (path, part): (&str, (u64, usize)),
    stores: &Stores,
) -> Result<Found> {
    if buckets::is_store(&entry.uri) {
        let bucket = bucket(ctx, entry, stores).await?;
        return bucket.read(&parts(path)?, part).await;
    }
    let folder = open(ctx, place(ctx, &entry.uri)?).await?;
    let path = path.to_owned();
    blocking(move || folder.read(&parts(&path)?, part)).await
}

/// What is in a folder and has a name that begins so: at most `most`, by name.
pub(super) async fn names(
    ctx: &Ctx,
    entry: &Entry,
    (path, begin, most): (&str, &str, usize),
    stores: &Stores,
) -> Result<Vec<Named>> {
    if buckets::is_store(&entry.uri) {
        let bucket = bucket(ctx, entry, stores).await?;
        let (named, _) = bucket.names(&parts(path)?, begin, most).await?;
        return Ok(named);
    }
    let folder = open(ctx, place(ctx, &entry.uri)?).await?;
    let (path, begin) = (path.to_owned(), begin.to_owned());
    let look = move || folder.names(&parts(&path)?, &begin, most);
    blocking(look).await
}

/// A write that only has to happen.
pub(super) enum Ready {
    /// In a folder, while nobody else of the tenant writes.
    Folder(folders::Ready, OwnedMutexGuard<()>),
    /// In a store.
    Bucket(Bucket, String, Change, &'static str),
}

/// Gets ready to change what is at a path. `fresh` is what a file is called before it gets its name.
pub(super) async fn prepare(
    ctx: &Ctx,
    entry: &Entry,
    (path, mime_type, change): (&str, &'static str, Change),
    (held, fresh): ((&Stores, &Turns), &str),
) -> Result<Ready> {
    let ((stores, turns), path) = (held, path.to_owned());
    if buckets::is_store(&entry.uri) {
        let bucket = bucket(ctx, entry, stores).await?;
        parts(&path)?;
        return Ok(Ready::Bucket(bucket, path, change, mime_type));
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if ["-journal", "-wal", "-shm"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        // Whoever writes them can say what a database beside them is to be, or which file is to go.
        let message = "names that end in -journal, -wal or -shm are SQLite's own";
        return Err(Error::invalid_at("/path", message));
    }
    let turn = turns.of(ctx.tenant()).await;
    let place = place(ctx, &entry.uri)?;
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
    let fresh = fresh.to_owned();
    let work = move || {
        let parts = parts(&path)?;
        if let (Some(own), Change::Put(bytes)) = (own, &change) {
            let used = own
                .bytes()?
                .saturating_sub(folder.size(&parts).unwrap_or_default());
            allowance.admit(Quota::MaxStorageBytes, used, bytes.len() as u64)?;
        }
        folder.prepare(&parts, &change, &fresh)
    };
    blocking(work).await.map(|ready| Ready::Folder(ready, turn))
}

impl Ready {
    /// What the file will be known by, if it is one of a folder.
    pub(super) fn mark(&self) -> Option<String> {
        match self {
            Self::Folder(ready, _) => Some(ready.mark.clone()),
            Self::Bucket(..) => None,
        }
    }

    /// Lets it happen. What did not is left where it is: whoever comes after must find out that it did not.
    pub(super) async fn happen(self) -> (Result<()>, Option<folders::Ready>) {
        match self {
            Self::Bucket(bucket, path, change, mime_type) => {
                let write = async { bucket.change(&parts(&path)?, &change, mime_type).await };
                (write.await, None)
            }
            Self::Folder(ready, turn) => {
                let work = move || {
                    let _turn = turn;
                    let done = ready.happen();
                    let rest = done.is_err().then_some(ready);
                    Ok((done, rest))
                };
                blocking(work)
                    .await
                    .unwrap_or_else(|error| (Err(error), None))
            }
        }
    }
}

/// Whether a write happened whose process is gone.
pub(super) async fn has_happened(ctx: &Ctx, begun: &Begun) -> Result<bool> {
    let (path, fresh) = (begun.path.clone(), begun.fresh.clone());
    // What is closed, or gone, has nothing to tell.
    let Ok(place) = place(ctx, &begun.uri) else {
        return Ok(false);
    };
    let Ok(folder) = open(ctx, place).await else {
        return Ok(false);
    };
    let look = move || Ok(folder.has_happened(&parts(&path)?, fresh.as_deref()));
    blocking(look).await
}

/// What this process's data folder is called, and its lock. Without one it is called nothing.
pub(super) async fn data_folder(system: &System) -> (String, Option<File>) {
    let (all, fresh) = (system.folders().own.clone(), system.random().u128());
    let named = blocking(move || folders::name_of(&all, &format!("{fresh:032x}"))).await;
    named.map_or_else(|_| (String::new(), None), |(name, lock)| (name, Some(lock)))
}

/// Tells of a file, once of each state that it is known by, whoever sees it first.
pub(super) fn tell(
    scope: &Scope,
    tx: &mut Tx<'_>,
    (kind, resource): (&'static str, &str),
    (path, mark): (&str, Option<&str>),
    data: &Value,
) -> Result<()> {
    let Some(mark) = mark else {
        return events::append(scope, tx, kind, resource, data).map(drop);
    };
    let digest = Sha256::digest(format!("{resource}\0{path}\0{mark}"));
    let id = STANDARD_NO_PAD.encode(&digest[..24]);
    let id = format!("file-{}", id.replace(['+', '/'], "_"));
    let id: NotificationId = id.parse().map_err(Error::internal)?;
    if tx.event(id.as_str())?.is_some() {
        return Ok(());
    }
    events::append_as(scope, tx, &id, (kind, resource), data).map(drop)
}

/// Folders that somebody wants to hear of, as they were when they were last looked at.
#[derive(Default)]
pub struct Watches(Mutex<(Looks, Time)>);

/// Where each folder lies, and what was seen in it.
type Looks = HashMap<(TenantId, ResourceId), (String, Seen)>;

/// Looks at the folders that `wanted` are in, and writes into the log what has changed. Says how much that was.
///
/// # Errors
/// A failure of the database.
pub async fn watch(
    system: &System,
    watches: &Watches,
    wanted: Vec<(TenantId, String)>,
) -> Result<usize> {
    let began = system.clock().steady();
    let mut known = watches.0.lock().await;
    if began < known.1 {
        return Ok(0);
    }
    let mut before = std::mem::take(&mut known.0);
    let wanted = wanted.into_iter().filter_map(|(tenant, uri)| {
        let id = uri.strip_prefix(BELOW)?.split('/').next()?;
        Some((tenant, places::decoded(id)?.parse().ok()?))
    });
    let wanted: BTreeSet<(TenantId, ResourceId)> = wanted.collect();
    let (mut count, mut of) = (0, HashMap::<TenantId, usize>::new());
    for (tenant, id) in wanted {
        let own = of.entry(tenant.clone()).or_default();
        *own += 1;
        if *own > WATCHED_OF_ONE || known.0.len() >= WATCHED {
            continue;
        }
        let ctx = system.on_behalf_of(tenant.clone());
        let named = id.clone();
        let found = ctx.read(move |_, tx| store::find(tx, &named)).await?;
        let is_folder = |entry: &Entry| entry.uri.starts_with("file:");
        let Some(entry) = found.filter(is_folder) else {
            continue;
        };
        let key = (tenant, id);
        let last = before.remove(&key).filter(|(uri, _)| *uri == entry.uri);
        // What is gone, or closed, comes back perhaps.
        let Ok(place) = place(&ctx, &entry.uri) else {
            continue;
        };
        let Ok(folder) = open(&ctx, place).await else {
            continue;
        };
        let Ok(mut seen) = blocking(move || folder.look()).await else {
            continue;
        };
        let changed = match &last {
            Some((_, last)) => seen.since(last),
            // Somebody may have begun to listen since the last round.
            None => seen.after(Time::from_micros(ctx.clock().now().as_micros() - RECENT)),
        };
        for some in changed.chunks(TOLD) {
            count += some.len();
            for later in tell_all(&ctx, &entry, some.to_vec()).await? {
                seen.forget(later);
            }
        }
        known.0.insert(key, (entry.uri, seen));
    }
    // Looking must not become what the machine does.
    let took = system.clock().steady().since(began);
    known.1 = system.clock().steady() + took * 20;
    Ok(count)
}

/// Tells of what has changed, but for what is being written: that comes later.
async fn tell_all(ctx: &Ctx, entry: &Entry, changed: Vec<Changed>) -> Result<Vec<Changed>> {
    let id = entry.id.clone();
    let tell_all = ctx.write(move |scope, tx| {
        let mut later = Vec::new();
        for file in &changed {
            if store::is_writing(tx, &id, &file.path)? {
                later.push(file.clone());
                continue;
            }
            let bytes = file.now.as_ref().map(|now| now.bytes);
            let data = json!({"path": file.path, "bytes": bytes, "removed": bytes.is_none()});
            let mark = match (&file.now, &file.before) {
                (Some(now), _) => Some(now.mark().to_owned()),
                (None, before) => before.as_ref().map(Version::end),
            };
            let about = (FOUND, id.as_str());
            tell(scope, tx, about, (&file.path, mark.as_deref()), &data)?;
        }
        Ok(later)
    });
    tell_all.await
}
