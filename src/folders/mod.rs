//! Files of a folder: listed, read and written part by part of their path, each opened from the folder before it and never
//! through a link. What is neither file nor folder is not there. Everything here blocks. Which folders there may be is for
//! others to say.

mod watch;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

pub use watch::{Changed, Seen, Version};

use crate::clock::Time;
use crate::error::{Error, Kind, Result};

/// Names of a folder that are looked at, and shown.
const LOOKED_AT: usize = 10_000;
const SHOWN: usize = 1_000;
/// Files that are counted to see what a tenant stores.
const COUNTED: usize = 100_000;

/// Bytes of a path, parts of it, and bytes of a part at most.
const PATH: usize = 1_024;
const PARTS: usize = 32;
const PART: usize = 255;
/// How names begin that are Baton's own while it writes.
const FRESH: &str = ".baton-";

const AS_FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Whoever opens a pipe would wait for its other end.
const AS_FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// A place on the disk: somewhere below a folder that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder that the operator named, or the tenant's own.
    pub base: PathBuf,
    /// What follows, part by part.
    pub below: Vec<String>,
    /// Whether it is the tenant's own, which is made when it is missing and counts against what the tenant may store.
    pub is_own: bool,
}

/// One name in a folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// It.
    pub name: String,
    /// Whether there is more below it.
    pub is_folder: bool,
    /// Bytes of a file.
    pub bytes: u64,
    /// When it was last changed, where that is known.
    pub modified_at: Option<Time>,
}

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// A folder: what is in it, by name, and whether there is more.
    Folder(Vec<Named>, bool),
    /// A part of a file.
    File {
        /// As many as were asked for.
        bytes: Vec<u8>,
        /// Bytes of the whole.
        of: u64,
        /// When it was last changed.
        modified_at: Time,
    },
}

/// What is written at a path.
#[derive(Debug)]
pub enum Change {
    /// A file, whole.
    Put(Vec<u8>),
    /// Nothing: the file, or the empty folder, goes.
    Remove,
}

/// The parts of a path within a folder; none for its root.
pub fn parts(path: &str) -> Result<Vec<&str>> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |part: &&str| {
        !matches!(*part, "" | "." | "..")
            && part.len() <= PART
            && !part.starts_with(FRESH)
            && !part.chars().any(|c| c.is_control() || c == '\\')
    };
    if path.len() > PATH || parts.len() > PARTS || !parts.iter().all(fits) {
        return Err(Error::invalid_at(
            "/path",
            "must be names with / between them, such as docs/intro.md: without .., empty names and control characters",
        ));
    }
    Ok(parts)
}

/// A change that only has to happen: what is to be written is on the disk, under another name.
#[derive(Debug)]
pub struct Ready {
    folder: Folder,
    name: String,
    what: What,
    /// What it will be known by once it happened.
    pub mark: String,
}

#[derive(Debug)]
enum What {
    Put(String),
    Remove(AtFlags),
}

impl Ready {
    /// Lets it happen: afterwards it is on the disk.
    pub fn happen(&self) -> Result<()> {
        let folder = &self.folder.0;
        let done = match &self.what {
            What::Put(fresh) => renameat(folder, fresh.as_str(), folder, self.name.as_str()),
            What::Remove(how) => unlinkat(folder, self.name.as_str(), *how),
        };
        done.map_err(|error| match error {
            // Somebody took the file for a rest of what never happened.
            Errno::NOENT => nothing(),
            error => failed(error.into()),
        })?;
        let folder = folder.as_fd().try_clone_to_owned().map_err(failed)?;
        File::from(folder).sync_all().map_err(failed)
    }

    /// Takes away what was to be written.
    pub fn abandon(&self) {
        if let What::Put(fresh) = &self.what {
            // What is left is nothing that anybody sees.
            let _ = unlinkat(&self.folder.0, fresh.as_str(), AtFlags::empty());
        }
    }
}

/// What a folder is called in which all tenants have theirs, for as long as it is there; and a lock, which is free while the
/// file is not held. `fresh` is what it is called if it has no name yet.
pub fn name_of(all: &Path, fresh: &str) -> Result<(String, File)> {
    let file = all.join(format!("{FRESH}place"));
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(all);
    made.map_err(failed)?;
    if !file.exists() {
        // Whole or not at all, and the first one's.
        let own = all.join(format!("{FRESH}{fresh}"));
        std::fs::write(&own, fresh).map_err(failed)?;
        match std::fs::hard_link(&own, &file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        std::fs::remove_file(own).map_err(failed)?;
    }
    let name = std::fs::read_to_string(&file).map_err(failed)?;
    Ok((name, File::open(file).map_err(failed)?))
}

/// Whether nobody else holds the lock, which is held from here on until it is dropped.
pub fn is_first(lock: &File) -> bool {
    flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// A folder that is open. It stays the same folder, whatever is renamed.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens the folder of a resource. `data` is Baton's own, which is in no resource.
    pub fn open(place: &Place, data: &Path) -> Result<Self> {
        if place.is_own {
            let mut builder = std::fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(&place.base);
            made.map_err(failed)?;
        }
        // What the operator named is trusted: it may be a link.
        let base = File::open(&place.base).map_err(|_| nothing())?;
        let base = Self(base.into());
        let below: Vec<&str> = place.below.iter().map(String::as_str).collect();
        let folder = base.walk(&below, place.is_own)?;
        if !place.is_own {
            folder.is_not(data)?;
        }
        Ok(folder)
    }

    /// Refuses to be a folder above or below Baton's own data, or that itself.
    fn is_not(&self, data: &Path) -> Result<()> {
        let own = fstat(&self.0).map_err(gone)?;
        let same = |other: &Stat| other.st_dev == own.st_dev && other.st_ino == own.st_ino;
        let data = data.canonicalize().map_err(failed)?;
        let mut above = data.ancestors();
        let is_around = above.any(|folder| {
            let found = rustix::fs::stat(folder);
            found.is_ok_and(|found| same(&found))
        });
        let mut up = openat(&self.0, ".", AS_FOLDER, Mode::empty()).map_err(gone)?;
        let inner = rustix::fs::stat(&data).map_err(gone)?;
        let mut is_within = false;
        for _ in 0..64 {
            let here = fstat(&up).map_err(gone)?;
            is_within |= here.st_dev == inner.st_dev && here.st_ino == inner.st_ino;
            let parent = openat(&up, "..", AS_FOLDER, Mode::empty()).map_err(gone)?;
            let above = fstat(&parent).map_err(gone)?;
            if above.st_dev == here.st_dev && above.st_ino == here.st_ino {
                break;
            }
            up = parent;
        }
        if is_around || is_within {
            let message = "Baton's own data lies there; the operator must open another folder";
            return Err(Error::invalid_at("/uri", message));
        }
        Ok(())
    }

    fn walk(&self, parts: &[&str], make: bool) -> Result<Self> {
        let mut at = self.0.try_clone().map_err(failed)?;
        for part in parts {
            let next = match openat(&at, *part, AS_FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    match mkdirat(&at, *part, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(failed(error.into())),
                    }
                    openat(&at, *part, AS_FOLDER, Mode::empty())
                }
                next => next,
            };
            at = next.map_err(gone)?;
        }
        Ok(Self(at))
    }

    /// What is at a path: of a file `length` bytes from `offset` on.
    pub fn read(&self, parts: &[&str], (offset, length): (u64, usize)) -> Result<Found> {
        let Some((name, above)) = parts.split_last() else {
            return self.list();
        };
        let above = self.walk(above, false)?;
        let file = openat(&above.0, *name, AS_FILE, Mode::empty()).map_err(gone)?;
        let about = fstat(&file).map_err(gone)?;
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => Self(file).list(),
            FileType::RegularFile => {
                let (file, mut bytes) = (File::from(file), vec![0; length]);
                let mut read = 0;
                while read < length {
                    match file.read_at(&mut bytes[read..], offset.saturating_add(read as u64)) {
                        Ok(0) => break,
                        Ok(count) => read += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
                bytes.truncate(read);
                Ok(Found::File {
                    bytes,
                    of: size(&about),
                    modified_at: modified(&about),
                })
            }
            _ => Err(nothing()),
        }
    }

    fn list(&self) -> Result<Found> {
        let (named, is_cut) = self.named("", SHOWN)?;
        Ok(Found::Folder(named, is_cut))
    }

    /// What is in the folder at a path and has a name that begins so: at most `most`, by name.
    pub fn names(&self, parts: &[&str], begin: &str, most: usize) -> Result<Vec<Named>> {
        let (named, _) = self.walk(parts, false)?.named(begin, most)?;
        Ok(named)
    }

    fn named(&self, begin: &str, most: usize) -> Result<(Vec<Named>, bool)> {
        let (mut found, mut is_cut) = (Vec::new(), false);
        for (at, entry) in Dir::read_from(&self.0).map_err(gone)?.enumerate() {
            let entry = entry.map_err(gone)?;
            is_cut |= at > LOOKED_AT;
            if is_cut {
                break;
            }
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if !name.starts_with(begin) || parts(name).is_err() {
                continue;
            }
            let Ok(about) = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = FileType::from_raw_mode(about.st_mode);
            if !matches!(kind, FileType::RegularFile | FileType::Directory) {
                continue;
            }
            let is_folder = kind == FileType::Directory;
            found.push(Named {
                name: name.to_owned(),
                is_folder,
                bytes: if is_folder { 0 } else { size(&about) },
                modified_at: Some(modified(&about)),
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        is_cut |= found.len() > most;
        found.truncate(most);
        Ok((found, is_cut))
    }

    /// The size of the file at a path, if there is one.
    pub fn size(&self, parts: &[&str]) -> Option<u64> {
        let (name, above) = parts.split_last()?;
        let above = self.walk(above, false).ok()?;
        let about = statat(&above.0, *name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(size(&about))
    }

    /// Gets ready to change what is at a path, whole or not at all. `fresh` names no other file that is being written.
    pub fn prepare(&self, parts: &[&str], change: &Change, fresh: &str) -> Result<Ready> {
        let Some((name, above)) = parts.split_last() else {
            return Err(Error::invalid_at("/path", "must name a file"));
        };
        let name = (*name).to_owned();
        match change {
            Change::Put(bytes) => {
                let folder = self.walk(above, true)?;
                let fresh = format!("{FRESH}{fresh}");
                let written = folder.put(bytes, &fresh);
                let about = written.inspect_err(|_| {
                    // Perhaps it was not even made.
                    let _ = unlinkat(&folder.0, fresh.as_str(), AtFlags::empty());
                })?;
                Ok(Ready {
                    folder,
                    name,
                    what: What::Put(fresh),
                    mark: Version::of(&about).mark().to_owned(),
                })
            }
            Change::Remove => {
                let folder = self.walk(above, false)?;
                let about = statat(&folder.0, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(gone)?;
                let how = match FileType::from_raw_mode(about.st_mode) {
                    FileType::RegularFile => AtFlags::empty(),
                    FileType::Directory => AtFlags::REMOVEDIR,
                    _ => return Err(nothing()),
                };
                Ok(Ready {
                    folder,
                    name,
                    what: What::Remove(how),
                    mark: Version::of(&about).end(),
                })
            }
        }
    }

    fn put(&self, bytes: &[u8], fresh: &str) -> Result<Stat> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.0, fresh, flags, Mode::from_raw_mode(0o644));
        let mut file = File::from(file.map_err(|error| failed(error.into()))?);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        fstat(&file).map_err(gone)
    }

    /// Whether a change happened that was prepared and whose process is gone, and which happens no more from here on.
    pub fn has_happened(&self, parts: &[&str], fresh: Option<&str>) -> bool {
        let Some((name, above)) = parts.split_last() else {
            return false;
        };
        let Ok(folder) = self.walk(above, false) else {
            return false;
        };
        match fresh {
            // Either this takes the file away, or it has its name already.
            Some(fresh) => {
                let fresh = format!("{FRESH}{fresh}");
                unlinkat(&folder.0, fresh, AtFlags::empty()) == Err(Errno::NOENT)
            }
            None => statat(&folder.0, *name, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT),
        }
    }

    /// Bytes of all files below.
    pub fn bytes(&self) -> Result<u64> {
        let (mut bytes, mut seen) = (0_u64, 0);
        let mut folders = vec![self.walk(&[], false)?];
        while let Some(folder) = folders.pop() {
            for entry in Dir::read_from(&folder.0).map_err(gone)? {
                let entry = entry.map_err(gone)?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                seen += 1;
                if seen > COUNTED {
                    let message = format!("there are more than {COUNTED} files; remove some");
                    return Err(Error::new(Kind::Limited, "quota_exceeded", message));
                }
                let Ok(about) = statat(&folder.0, name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                match FileType::from_raw_mode(about.st_mode) {
                    FileType::RegularFile => bytes += size(&about),
                    FileType::Directory => {
                        if let Ok(below) = openat(&folder.0, name, AS_FOLDER, Mode::empty()) {
                            folders.push(Self(below));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(bytes)
    }
}

fn size(about: &Stat) -> u64 {
    u64::try_from(about.st_size).unwrap_or_default()
}

fn modified(about: &Stat) -> Time {
    let nanos = i64::try_from(about.st_mtime_nsec).unwrap_or_default();
    Time::from_micros(about.st_mtime.saturating_mul(1_000_000) + nanos / 1_000)
}

/// What is not there, is a link, or is not for Baton to read: all the same to whoever asks.
fn nothing() -> Error {
    Error::not_found("unknown_file", "there is no such file or folder in it")
}

fn gone(_: Errno) -> Error {
    nothing()
}

fn failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::DirectoryNotEmpty => {
            Error::conflict("path_conflict", "the folder is not empty")
        }
        io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::AlreadyExists => Error::conflict(
            "path_conflict",
            "there is a folder where a file is meant, or the reverse",
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::conflict("path_conflict", "Baton may not write there")
        }
        _ => Error::internal(error),
    }
}
