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

/// The name of the network file system that `data` lies on, by the magic numbers of Linux's `statfs(2)`.
#[cfg(target_os = "linux")]
fn network_file_system(data: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(data).ok()?.f_type;
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "the magic numbers are 32 bits"
    )]
    match kind as u32 {
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
