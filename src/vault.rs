//! The master key: where it lies, and how it seals. Which data it is for, and whose, is not known here.
//!
//! A key lies in a file or in the environment, never in the database. There may be several, so that one can take the place
//! of another while servers run: the first one seals, all of them open. Without a setting a data folder has a file of its
//! own, made when it is first needed; on PostgreSQL nothing can be made up that all replicas would share.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::random::Random;
use crate::secret::Secret;

/// The file of a data folder that has no other.
pub const FILE: &str = "master.key";
/// Bytes of a key.
const LENGTH: usize = 32;
/// What sealed bytes begin with: how they were sealed.
const AES_GCM: u8 = 1;

/// A key that seals.
#[derive(Clone)]
pub struct Key(Arc<LessSafeKey>);

impl Key {
    /// A key of these bytes, of which there must be 32.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).ok()?;
        Some(Self(Arc::new(LessSafeKey::new(key))))
    }

    /// Seals `plain` so that it opens only where the same is said of what it is.
    ///
    /// # Errors
    /// `internal` for more than any secret is.
    pub fn seal(&self, about: &[&str], plain: &[u8], random: &Random) -> Result<Vec<u8>> {
        let bytes = random.u128().to_be_bytes();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[..NONCE_LEN]);
        let mut text = plain.to_vec();
        let about = Aad::from(bound(about));
        let sealed =
            self.0
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about, &mut text);
        sealed.map_err(|_| Error::internal("too long to be sealed"))?;
        Ok([&[AES_GCM], &nonce[..], &text].concat())
    }

    /// Opens what this key sealed; `None` for anything else.
    pub fn open(&self, about: &[&str], sealed: &[u8]) -> Option<Vec<u8>> {
        let (how, rest) = sealed.split_first()?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let about = Aad::from(bound(about));
        let plain = self.0.open_in_place(nonce, about, &mut text).ok()?;
        (*how == AES_GCM).then(|| plain.to_vec())
    }
}

/// The parts as one text, of which no other parts are made.
fn bound(about: &[&str]) -> Vec<u8> {
    let parts = about.iter();
    let parts =
        parts.flat_map(|part| [part.len().to_string().as_bytes(), b":", part.as_bytes()].concat());
    parts.collect()
}

/// A master key with what it is called. The name tells nothing of the key.
#[derive(Clone)]
pub struct Master {
    /// What it is called where something says what sealed it.
    pub id: String,
    /// What it does.
    pub key: Key,
    text: Secret,
}

impl Master {
    fn new(bytes: &[u8]) -> Option<Self> {
        let digest = Sha256::new()
            .chain_update("baton master key")
            .chain_update(bytes)
            .finalize();
        let name = digest.first_chunk().copied().map(u64::from_be_bytes)?;
        Some(Self {
            id: format!("{name:016x}"),
            key: Key::of(bytes)?,
            text: STANDARD.encode(bytes).into(),
        })
    }

    /// A new one.
    fn make(random: &Random) -> Result<Self> {
        let bytes = [random.u128().to_be_bytes(), random.u128().to_be_bytes()].concat();
        Self::new(&bytes).ok_or_else(|| Error::internal("a key of another length"))
    }

    /// One as people write it: 32 bytes in base64 or hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let digits = (text.len() == 2 * LENGTH).then(|| {
            let pairs =
                (0..LENGTH).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok());
            pairs.collect::<Option<Vec<u8>>>()
        });
        Self::new(&digits.flatten().or_else(|| STANDARD.decode(text).ok())?)
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Master({})", self.id)
    }
}

/// A new master key, as a file or the environment has it.
///
/// # Errors
/// `internal`, if this program is wrong about how long a key is.
pub fn make(random: &Random) -> Result<Secret> {
    Ok(Master::make(random)?.text)
}

/// Where the keys lie.
#[derive(Debug, Clone)]
enum Origin {
    /// In the file of the data folder, which is made when it is missed.
    Own(PathBuf),
    /// In a file that the operator named.
    Named(PathBuf),
    /// In the environment.
    Given(Secret),
    /// Nowhere.
    Nowhere,
}

/// The master keys of this process.
pub struct Vault {
    origin: Origin,
    random: Random,
    known: Mutex<Vec<Master>>,
}

impl Vault {
    /// The vault that the settings name. Nothing is read before something is to be sealed or opened.
    pub fn new(config: &Config, random: &Random) -> Self {
        let origin = match (
            &config.master_key,
            &config.master_key_file,
            &config.database,
        ) {
            (Some(keys), ..) => Origin::Given(keys.clone()),
            (None, Some(file), _) => Origin::Named(file.clone()),
            (None, None, None) => Origin::Own(config.data.join(FILE)),
            (None, None, Some(_)) => Origin::Nowhere,
        };
        Self {
            origin,
            random: random.clone(),
            known: Mutex::default(),
        }
    }

    /// The key that seals now, as it stands in its file at this moment.
    ///
    /// # Errors
    /// `master_key_missing`, `master_key_invalid`.
    pub fn current(&self) -> Result<Master> {
        if let Origin::Own(path) = &self.origin
            && !path.exists()
        {
            let made = Master::make(&self.random)?;
            write(path, &[&made], Place::New)?;
        }
        let keys = self.read()?;
        keys.into_iter()
            .next()
            .ok_or_else(|| self.invalid("has no key"))
    }

    /// The key `id`, if it is here.
    ///
    /// # Errors
    /// `master_key_missing`, `master_key_invalid`, `master_key_unknown`.
    pub fn find(&self, id: &str) -> Result<Master> {
        let known = |keys: &[Master]| keys.iter().find(|key| key.id == id).cloned();
        let found = known(&self.known.lock().unwrap_or_else(PoisonError::into_inner));
        // What another process or the operator has put there since is read now.
        let found =
            found.map_or_else(|| self.read().map(|keys| known(&keys)), |key| Ok(Some(key)))?;
        found.ok_or_else(|| {
            let message = format!(
                "secrets are sealed by the master key {id}, which is not in {}; name the file that has it with --master-key-file",
                self.place()
            );
            Error::new(Kind::Unavailable, "master_key_unknown", message)
        })
    }

    /// Reads all keys anew.
    fn read(&self) -> Result<Vec<Master>> {
        let text = match &self.origin {
            Origin::Own(path) | Origin::Named(path) => {
                Secret::from(fs::read_to_string(path).map_err(|error| {
                    let code = if error.kind() == ErrorKind::NotFound {
                        "master_key_missing"
                    } else {
                        "master_key_invalid"
                    };
                    let message = format!(
                        "the master key's file {} can't be read: {error}",
                        path.display()
                    );
                    Error::new(Kind::Unavailable, code, message)
                })?)
            }
            Origin::Given(keys) => keys.clone(),
            Origin::Nowhere => {
                let message = "secrets need a master key that all servers of this database share: make one with `baton secret make-key`, \
                               and name its file with --master-key-file (BATON_MASTER_KEY_FILE)";
                return Err(Error::new(Kind::Unavailable, "master_key_missing", message));
            }
        };
        let lines = text.reveal().split(['\n', ',']).map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(Master::parse).collect::<Option<Vec<_>>>();
        let keys = keys.ok_or_else(|| {
            self.invalid(
                "has a line that is none: 32 bytes in base64 (`baton secret make-key` prints one)",
            )
        })?;
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&keys);
        Ok(keys)
    }

    fn invalid(&self, what: &str) -> Error {
        let message = format!("the master key: {} {what}", self.place());
        Error::new(Kind::Unavailable, "master_key_invalid", message)
    }

    /// Where the keys lie, for people.
    pub fn place(&self) -> String {
        match &self.origin {
            Origin::Own(path) | Origin::Named(path) => path.display().to_string(),
            Origin::Given(_) => "BATON_MASTER_KEY".into(),
            Origin::Nowhere => "no place".into(),
        }
    }

    /// The file of the keys, if others than its owner may read it.
    pub fn is_open_to_others(&self) -> bool {
        let (Origin::Own(path) | Origin::Named(path)) = &self.origin else {
            return false;
        };
        fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
    }

    /// Keeps others from changing the file of the keys, as long as the answer is held.
    ///
    /// # Errors
    /// `rotation_running`.
    pub fn lock(&self) -> Result<Option<File>> {
        let (Origin::Own(path) | Origin::Named(path)) = &self.origin else {
            return Ok(None);
        };
        let folder = File::open(folder_of(path)).map_err(Error::internal)?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::conflict(
                "rotation_running",
                "another process changes the master key; let it end",
            )
        })?;
        Ok(Some(folder))
    }

    /// Puts a new key before the others. Hold the lock.
    ///
    /// # Errors
    /// `master_key_fixed` when the keys lie where they can't be changed from here.
    pub fn renew(&self) -> Result<Master> {
        let made = Master::make(&self.random)?;
        let keys = self.read()?;
        let all: Vec<_> = std::iter::once(&made).chain(&keys).collect();
        self.replace(&all)?;
        Ok(made)
    }

    /// Forgets all keys but the first, the one before it, and those that `is_used`. Hold the lock.
    ///
    /// # Errors
    /// As [`Vault::renew`].
    pub fn trim(&self, is_used: impl Fn(&str) -> bool) -> Result<()> {
        let keys = self.read()?;
        // Another replica may be about to seal with the one that was the first a moment ago.
        let kept = keys
            .iter()
            .enumerate()
            .filter(|(at, key)| *at < 2 || is_used(&key.id));
        let kept: Vec<_> = kept.map(|(_, key)| key).collect();
        if kept.len() == keys.len() {
            return Ok(());
        }
        self.replace(&kept)
    }

    fn replace(&self, keys: &[&Master]) -> Result<()> {
        let fixed = |why: String| {
            let message = format!(
                "{why}; put a new key (`baton secret make-key`) before the old one in {}, restart the servers, and repeat this",
                self.place()
            );
            Error::conflict("master_key_fixed", message)
        };
        match &self.origin {
            Origin::Own(path) | Origin::Named(path) => {
                write(path, keys, Place::Old).map_err(|error| fixed(error.to_string()))?;
                self.read().map(drop)
            }
            _ => Err(fixed("the master key can't be changed from here".into())),
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.place())
    }
}

/// Brings the keys of one data folder to another, behind those that are there. Says whether there were any.
///
/// # Errors
/// A file that can't be read or written.
pub fn carry(from: &Path, to: &Path) -> Result<bool> {
    let keys = |folder: &Path| -> Result<Vec<Master>> {
        let text = match fs::read_to_string(folder.join(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.map_err(Error::internal)?,
        };
        Ok(text
            .lines()
            .filter_map(|line| Master::parse(line.trim()))
            .collect())
    };
    let (theirs, mut all) = (keys(from)?, keys(to)?);
    let is_any = !theirs.is_empty();
    for key in theirs {
        if all.iter().all(|known| known.id != key.id) {
            all.push(key);
        }
    }
    if is_any {
        write(&to.join(FILE), &all.iter().collect::<Vec<_>>(), Place::Old)?;
    }
    Ok(is_any)
}

/// Whether there may be a file already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// There may be none; if there is, it stays.
    New,
    /// What is there is replaced.
    Old,
}

/// Writes a file of keys for its owner alone. Who reads meanwhile reads all of the old or all of the new, and it is on
/// the disk before this returns.
fn write(path: &Path, keys: &[&Master], place: Place) -> Result<()> {
    let lines: Vec<&str> = keys.iter().map(|key| key.text.reveal()).collect();
    let lines = lines.join("\n");
    let note = "# Baton's master key. Whoever has it and the database can read every secret; without it nobody can.\n";
    let folder = folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let written = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(format!("{note}{lines}\n").as_bytes())?;
        file.sync_all()?;
        match place {
            Place::Old => fs::rename(&draft, path)?,
            // Of two processes that make one, the first has made it for both.
            Place::New => match fs::hard_link(&draft, path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => linked?,
            },
        }
        File::open(folder)?.sync_all()
    };
    let outcome = written();
    let _ = fs::remove_file(&draft);
    outcome.map_err(|error| {
        let message = format!(
            "the master key's file {} can't be written: {error}",
            path.display()
        );
        Error::new(Kind::Unavailable, "master_key_invalid", message)
    })
}

fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_as_what_it_is_and_whole() {
        let random = Random::seeded(1);
        let (key, other) = (
            Master::make(&random).unwrap().key,
            Master::make(&random).unwrap().key,
        );
        let sealed = key.seal(&["acme", "token"], b"text", &random).unwrap();
        assert_eq!(key.open(&["acme", "token"], &sealed).unwrap(), b"text");
        assert!(other.open(&["acme", "token"], &sealed).is_none());
        for about in [
            &["acme", "other"][..],
            &["globex", "token"],
            &["acmetoken"],
            &["acme", "token", ""],
        ] {
            assert!(key.open(about, &sealed).is_none(), "{about:?}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(
                key.open(&["acme", "token"], &changed).is_none(),
                "byte {at}"
            );
            assert!(
                key.open(&["acme", "token"], &sealed[..at]).is_none(),
                "{at} bytes"
            );
        }
        let again = key.seal(&["acme", "token"], b"text", &random).unwrap();
        assert_ne!(sealed, again);
    }

    #[test]
    fn keys_are_read_as_base64_and_as_hexadecimal_digits() {
        let key = Master::make(&Random::seeded(1)).unwrap();
        let bytes = STANDARD.decode(key.text.reveal()).unwrap();
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        let digits = digits.concat();
        assert_eq!(Master::parse(&digits).unwrap().id, key.id);
        assert_eq!(Master::parse(key.text.reveal()).unwrap().id, key.id);
        for bad in ["", "short", &digits[2..], &"é".repeat(32), &"z".repeat(64)] {
            assert!(Master::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn where_replicas_share_a_database_no_key_is_made_up() {
        let settings = crate::config::Settings {
            database: Some("postgres://localhost/baton".to_owned().into()),
            ..Default::default()
        };
        let config = settings
            .complete(crate::config::Settings::default())
            .unwrap();
        let refused = Vault::new(&config, &Random::seeded(1))
            .current()
            .unwrap_err();
        assert_eq!(refused.code(), "master_key_missing");
        assert!(refused.message().contains("--master-key-file"), "{refused}");
    }
}
