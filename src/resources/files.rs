//! Files of a `file_storage`: in a folder of the disk (`folders`) or in an object store (`buckets`), with what the
//! registration's metadata says about it. Where folders may lie is for `places` to say.

use std::sync::Arc;

use dashmap::DashMap;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::places::{self, parts};
use super::{Entry, reading};
use crate::allowance::Quota;
use crate::buckets::{self, Bucket, Stores, Terms};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::folders::{Change, Folder, Found, Named, Place};
use crate::id::{SecretName, TenantId};

/// Whoever writes in a tenant's own folder, one after the other: each counts what is there before.
#[derive(Debug, Default)]
pub(super) struct Turns(DashMap<TenantId, Arc<Mutex<()>>>);

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

fn store(metadata: &Map<String, Value>) -> Result<Store> {
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
    let store = store(metadata)?;
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
    let said = store(&entry.metadata)?;
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

fn place(ctx: &Ctx, uri: &str) -> Result<Place> {
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

/// Changes what is at a path.
pub(super) async fn write(
    ctx: &Ctx,
    entry: &Entry,
    (path, mime_type, change): (&str, &'static str, Change),
    (stores, turns): (&Stores, &Turns),
) -> Result<()> {
    if buckets::is_store(&entry.uri) {
        let bucket = bucket(ctx, entry, stores).await?;
        return bucket.change(&parts(path)?, &change, mime_type).await;
    }
    let turn = turns.0.entry(ctx.tenant().clone()).or_default().clone();
    let turn = turn.lock_owned().await;
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
    let path = path.to_owned();
    let fresh = format!("{:032x}", ctx.system().random().u128());
    let work = move || {
        let _turn = turn;
        let parts = parts(&path)?;
        if let (Some(own), Change::Put(bytes)) = (own, &change) {
            let used = own
                .bytes()?
                .saturating_sub(folder.size(&parts).unwrap_or_default());
            allowance.admit(Quota::MaxStorageBytes, used, bytes.len() as u64)?;
        }
        folder.change(&parts, &change, &fresh)
    };
    blocking(work).await
}
