//! What changes in a folder, whoever changes it: seen by looking again. That works on every disk, network or not, follows no
//! link, and misses nothing that is there longer than from one look to the next.

use std::collections::BTreeMap;

use rustix::fs::{AtFlags, Dir, FileType, Mode, Stat, openat, statat};

use super::{AS_FOLDER, Folder, LOOKED_AT, PARTS, parts, size};
use crate::clock::Time;
use crate::error::Result;

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    mark: String,
    /// When anything about it changed.
    changed_at: Time,
    /// Its size.
    pub bytes: u64,
}

impl Version {
    pub(super) fn of(about: &Stat) -> Self {
        let nanos = i64::try_from(about.st_ctime_nsec).unwrap_or_default();
        Self {
            mark: format!(
                "{}.{} {} {}",
                about.st_mtime, about.st_mtime_nsec, about.st_size, about.st_ino
            ),
            changed_at: Time::from_micros(about.st_ctime.saturating_mul(1_000_000) + nanos / 1_000),
            bytes: size(about),
        }
    }

    /// What this state is known by; with another, the file has changed.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// What its end is known by.
    pub fn end(&self) -> String {
        format!("end of {}", self.mark)
    }
}

/// The files of a folder as they were at one look.
#[derive(Debug, Clone, Default)]
pub struct Seen(BTreeMap<String, Version>);

/// A file that changed, as it was and as it is.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Where it is.
    pub path: String,
    /// As it was before, if it was there.
    pub before: Option<Version>,
    /// As it is, if it is there.
    pub now: Option<Version>,
}

impl Seen {
    /// What is other than before, by path.
    pub fn since(&self, before: &Self) -> Vec<Changed> {
        let changed = |path: &String| {
            let (was, is) = (before.0.get(path), self.0.get(path));
            let is_other = was.map(Version::mark) != is.map(Version::mark);
            is_other.then(|| Changed {
                path: path.clone(),
                before: was.cloned(),
                now: is.cloned(),
            })
        };
        let gone = before.0.keys().filter(|path| !self.0.contains_key(*path));
        self.0.keys().chain(gone).filter_map(changed).collect()
    }

    /// What changed after a time, as far as what is there can tell.
    pub fn after(&self, time: Time) -> Vec<Changed> {
        let young = self
            .0
            .iter()
            .filter(|(_, version)| version.changed_at > time);
        let changed = young.map(|(path, version)| Changed {
            path: path.clone(),
            before: None,
            now: Some(version.clone()),
        });
        changed.collect()
    }

    /// Takes back that a change was seen, so that the next look finds it again.
    pub fn forget(&mut self, changed: Changed) {
        match changed.before {
            Some(before) => self.0.insert(changed.path, before),
            None => self.0.remove(&changed.path),
        };
    }
}

impl Folder {
    /// The files that are in it and below, or the first of them where there are very many.
    ///
    /// # Errors
    /// `unknown_file` when it is gone.
    pub fn look(&self) -> Result<Seen> {
        let (mut seen, mut looked_at) = (Seen::default(), 0);
        let mut folders = vec![(String::new(), self.walk(&[], false)?)];
        while let Some((above, folder)) = folders.pop() {
            let Ok(entries) = Dir::read_from(&folder.0) else {
                continue;
            };
            for entry in entries.flatten() {
                looked_at += 1;
                if looked_at > LOOKED_AT {
                    return Ok(seen);
                }
                let Ok(name) = entry.file_name().to_str() else {
                    continue;
                };
                if parts(name).is_err() {
                    continue;
                }
                let Ok(about) = statat(&folder.0, name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                match FileType::from_raw_mode(about.st_mode) {
                    FileType::RegularFile => {
                        seen.0.insert(format!("{above}{name}"), Version::of(&about));
                    }
                    FileType::Directory if above.matches('/').count() < PARTS => {
                        if let Ok(below) = openat(&folder.0, name, AS_FOLDER, Mode::empty()) {
                            folders.push((format!("{above}{name}/"), Self(below)));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Place;
    use super::*;

    #[test]
    fn what_changes_is_seen_at_the_next_look_and_no_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (home.path().join("root"), home.path().join("elsewhere"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(root.join("a/same"), "1").unwrap();
        fs::write(root.join("a/b/gone"), "1").unwrap();
        fs::write(root.join("other"), "1").unwrap();
        fs::write(elsewhere.join("secret"), "1").unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("link")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("secret"), root.join("file")).unwrap();
        let place = Place {
            base: root.clone(),
            below: Vec::new(),
            is_own: true,
        };
        let folder = Folder::open(&place, home.path()).unwrap();
        let before = folder.look().unwrap();
        assert_eq!(before.after(Time::from_micros(0)).len(), 3);
        fs::remove_file(root.join("a/b/gone")).unwrap();
        fs::write(root.join("other"), "longer").unwrap();
        fs::write(root.join("new"), "1").unwrap();
        fs::write(root.join(".baton-x"), "1").unwrap();
        fs::write(elsewhere.join("secret"), "longer").unwrap();
        let mut now = folder.look().unwrap();
        let changed = now.since(&before);
        let paths: Vec<&str> = changed.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["new", "other", "a/b/gone"]);
        assert_eq!(now.since(&now).len(), 0);
        now.forget(changed[0].clone());
        assert_eq!(folder.look().unwrap().since(&now).len(), 1);
    }
}
