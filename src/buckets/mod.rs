//! Object stores (S3, Google Cloud Storage, Azure Blob Storage) as folders of files: objects whose keys begin alike are the
//! files of a folder, and a folder is there as long as something is in it. It knows nothing of who may do what.
//!
//! `place` says which store it is and who asks it, `wire` how.

mod place;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutOptions,
};
use sha2::{Digest as _, Sha256};

pub use place::{Place, Terms, check, is_store};

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::folders::{Change, Found, Named};
use crate::outbound::Outside;
use wire::{Said, Wire};

/// Names of a folder that are shown.
const SHOWN: usize = 1_000;
/// Answers that one list is made of at most: a store may give fewer names in one than were asked for.
const PAGES: usize = 8;
/// Time that one read or write takes at most, with all that is asked for it.
const TIME: Duration = Duration::from_secs(40);
/// Stores that are kept open, with the tokens that they were given.
const KEPT: usize = 64;

/// What can be read, written and listed page by page.
trait Stored: ObjectStore + PaginatedListStore {}

impl<T: ObjectStore + PaginatedListStore> Stored for T {}

/// Stores that were asked lately, by whom they were asked and how.
#[derive(Default)]
pub struct Stores(Mutex<VecDeque<Opened>>);

type Opened = ([u8; 32], Arc<dyn Stored>);

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

impl Stores {
    /// Opens the folder at `place`. Nothing is asked yet.
    ///
    /// # Errors
    /// `invalid_input`; `secret_broken` for a secret that is none of this store's.
    pub fn open(&self, place: &Place, terms: Terms<'_>, outside: &Outside) -> Result<Bucket> {
        let key = (
            place,
            &terms,
            terms.secret.map(crate::secret::Secret::reveal),
        );
        let key: [u8; 32] = Sha256::digest(format!("{key:?}")).into();
        let found = self.with(|kept| {
            let found = kept.iter().find(|(other, _)| *other == key);
            found.map(|(_, store)| store.clone())
        });
        let store = if let Some(store) = found {
            store
        } else {
            let store = place.open(terms, Wire(outside.clone()))?;
            self.with(|kept| {
                kept.push_back((key, store.clone()));
                if kept.len() > KEPT {
                    kept.pop_front();
                }
            });
            store
        };
        Ok(Bucket {
            store,
            prefix: place.prefix.clone(),
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<Opened>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A folder in a store.
pub struct Bucket {
    store: Arc<dyn Stored>,
    prefix: Vec<String>,
}

impl Bucket {
    /// What is at a path: of a file `length` bytes from `offset` on.
    ///
    /// # Errors
    /// `unknown_file`; `remote_error`, `remote_unreachable`, `address_refused`.
    pub async fn read(&self, parts: &[&str], part: (u64, usize)) -> Result<Found> {
        let read = async {
            if !parts.is_empty() {
                match self.file(parts, part).await {
                    Err(object_store::Error::NotFound { .. }) => {}
                    found => return found.map_err(failed),
                }
            }
            let (named, is_cut) = self.list(parts, "", SHOWN).await?;
            if named.is_empty() && !parts.is_empty() {
                return Err(nothing());
            }
            Ok(Found::Folder(named, is_cut))
        };
        in_time(read).await
    }

    async fn file(
        &self,
        parts: &[&str],
        (offset, length): (u64, usize),
    ) -> object_store::Result<Found> {
        let key = self.key(parts)?;
        let about = self.store.head(&key).await?;
        // Nothing can be read behind the end, nor of an empty object.
        let end = about.size.min(offset.saturating_add(length as u64));
        if end <= offset {
            return Ok(Found::File {
                bytes: Vec::new(),
                of: about.size,
                modified_at: modified(&about),
            });
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(offset..end)),
            ..GetOptions::default()
        };
        let got = self.store.get_opts(&key, options).await?;
        let (of, modified_at) = (got.meta.size, modified(&got.meta));
        Ok(Found::File {
            bytes: got.bytes().await?.into(),
            of,
            modified_at,
        })
    }

    /// What is in a folder and has a name that begins so, by name: at most `most`, and whether there is more.
    ///
    /// # Errors
    /// As [`Bucket::read`]; a folder that is not there has nothing in it.
    pub async fn names(
        &self,
        parts: &[&str],
        begin: &str,
        most: usize,
    ) -> Result<(Vec<Named>, bool)> {
        in_time(self.list(parts, begin, most)).await
    }

    async fn list(&self, parts: &[&str], begin: &str, most: usize) -> Result<(Vec<Named>, bool)> {
        let folder = self.key(parts).map_err(|error| failed(error.into()))?;
        let folder = match folder.as_ref() {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let (prefix, mut found, mut token) = (format!("{folder}{begin}"), Vec::new(), None);
        for _ in 0..PAGES {
            let options = PaginatedListOptions {
                delimiter: Some("/".into()),
                max_keys: Some(SHOWN),
                page_token: token,
                ..PaginatedListOptions::default()
            };
            let prefix = Some(prefix.as_str()).filter(|prefix| !prefix.is_empty());
            let page = self.store.list_paginated(prefix, options).await;
            let page = page.map_err(failed)?;
            let name = |path: &Path| {
                // A folder that is written down as an object is not in itself.
                let name = path.as_ref().strip_prefix(&folder)?;
                let is_one = crate::folders::parts(name).is_ok_and(|parts| parts.len() == 1);
                is_one.then(|| name.to_owned())
            };
            let folders = page.result.common_prefixes.iter().filter_map(|path| {
                let name = name(path)?;
                Some(Named {
                    name,
                    is_folder: true,
                    bytes: 0,
                    modified_at: None,
                })
            });
            found.extend(folders);
            let files = page.result.objects.iter().filter_map(|about| {
                let name = name(&about.location)?;
                Some(Named {
                    name,
                    is_folder: false,
                    bytes: about.size,
                    modified_at: Some(modified(about)),
                })
            });
            found.extend(files);
            token = page.page_token;
            if token.is_none() || found.len() >= most {
                break;
            }
        }
        found.sort_by(|a, b| (&a.name, a.is_folder).cmp(&(&b.name, b.is_folder)));
        let is_cut = token.is_some() || found.len() > most;
        found.truncate(most);
        Ok((found, is_cut))
    }

    /// Changes what is at a path. What is written is there whole or not at all.
    ///
    /// # Errors
    /// As [`Bucket::read`].
    pub async fn change(
        &self,
        parts: &[&str],
        change: &Change,
        mime_type: &'static str,
    ) -> Result<()> {
        if parts.is_empty() {
            return Err(Error::invalid_at("/path", "must name a file"));
        }
        let write = async {
            let key = self.key(parts)?;
            match change {
                Change::Put(bytes) => {
                    let options = PutOptions {
                        attributes: Attributes::from_iter([(Attribute::ContentType, mime_type)]),
                        ..PutOptions::default()
                    };
                    let bytes = Bytes::from(bytes.clone());
                    self.store.put_opts(&key, bytes.into(), options).await?;
                }
                Change::Remove => {
                    // Stores say yes to the removal of what is not there.
                    self.store.head(&key).await?;
                    self.store.delete(&key).await?;
                }
            }
            Ok(())
        };
        in_time(async { write.await.map_err(failed) }).await
    }

    fn key(&self, parts: &[&str]) -> std::result::Result<Path, object_store::path::Error> {
        let all = self.prefix.iter().map(String::as_str);
        let all: Vec<&str> = all.chain(parts.iter().copied()).collect();
        Path::parse(all.join("/"))
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let within = tokio::time::timeout(TIME, work).await;
    within.unwrap_or_else(|_| {
        let message = "the store did not answer in time";
        Err(Error::unavailable(
            "remote_unreachable",
            message,
            Duration::from_secs(1),
        ))
    })
}

fn modified(about: &object_store::ObjectMeta) -> Time {
    Time::from_micros(about.last_modified.timestamp_micros())
}

fn nothing() -> Error {
    Error::not_found("unknown_file", "there is no such file or folder in it")
}

/// As callers are told. What else the library says may repeat what was sent to the store.
fn failed(error: object_store::Error) -> Error {
    if let Some(said) = Said::within(&error) {
        return said;
    }
    let message = match error {
        object_store::Error::NotFound { .. } => return nothing(),
        object_store::Error::InvalidPath { .. } => {
            "a key there is no path: it has an empty part, or control characters"
        }
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            "the store says that somebody else changes it"
        }
        _ => "the store answered what is not understood",
    };
    Error::new(Kind::Unavailable, "remote_error", message)
}
