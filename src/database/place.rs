//! The data folder: made when missing, for its owner only, and refused where SQLite's locks don't hold.

use std::path::Path;

use crate::error::{Error, Kind, Result};

/// Makes the folder and checks that a database can live in it.
pub(crate) fn prepare(data: &Path) -> Result<()> {
    create(data).map_err(|error| {
        Error::new(
            Kind::Unavailable,
            "store_unreadable",
            format!(
                "the data folder {} can't be made: {error}; name another with --data",
                data.display()
            ),
        )
    })?;
    if let Some(name) = network_file_system(data) {
        return Err(Error::new(
            Kind::Unavailable,
            "store_on_network",
            format!(
                "{} is on {name}, where file locks are not reliable; name a folder on a local disk with --data",
                data.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(unix)]
fn create(data: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
}

#[cfg(not(unix))]
fn create(data: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(data)
}

/// The name of the network file system that `data` lies on.
#[cfg(target_os = "linux")]
fn network_file_system(data: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(data).ok()?.f_type;
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "the magic numbers are 32 bits"
    )]
    network_by_magic(kind as u32)
}

/// The name of a network file system by its magic number in Linux's `statfs(2)`.
#[cfg(target_os = "linux")]
const fn network_by_magic(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB"),
        0x5346_414f => Some("AFS"),
        0x00c3_6400 => Some("Ceph"),
        0x0102_1997 => Some("9P"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_numbers_and_local_ones_are_none() {
        for (magic, name) in [
            (0x6969, Some("NFS")),
            (0xff53_4d42, Some("SMB")),
            (0xfe53_4d42, Some("SMB")),
            (0x00c3_6400, Some("Ceph")),
            (0x0102_1997, Some("9P")),
            (0xef53, None),
            (0x5846_5342, None),
            (0x9123_683e, None),
            (0x0102_1994, None),
            (0x794c_7630, None),
        ] {
            assert_eq!(network_by_magic(magic), name, "{magic:#x}");
        }
        let here = tempfile::tempdir().unwrap();
        assert_eq!(network_file_system(here.path()), None);
    }
}
