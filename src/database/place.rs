//! The data folder: made when missing, for its owner only, and refused where SQLite's locks don't hold.

use std::path::Path;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

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
fn network_file_system(data: &Path) -> Option<String> {
    let kind = rustix::fs::statfs(data).ok()?.f_type;
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "the magic numbers are 32 bits"
    )]
    let kind = kind as u32;
    if kind == FUSE {
        let data = data.canonicalize().ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        return network_by_mount(&mounts, &data);
    }
    network_by_magic(kind).map(str::to_owned)
}

/// All that a program serves: only the table of mounts says which program.
#[cfg(target_os = "linux")]
const FUSE: u32 = 0x6573_5546;

/// Programs that serve what lies on another machine. Locks behind them hold in one process, or not at all.
#[cfg(target_os = "linux")]
const REMOTE: &[&str] = &[
    "afpfs",
    "blobfuse",
    "blobfuse2",
    "ceph",
    "ceph-fuse",
    "curlftpfs",
    "davfs",
    "davfs2",
    "dbxfs",
    "fuse_dfs",
    "gcsfuse",
    "geesefs",
    "glusterfs",
    "google-drive-ocamlfuse",
    "goofys",
    "gvfsd-fuse",
    "hdfs",
    "ipfs",
    "juicefs",
    "kio-fuse",
    "lizardfs",
    "mfs",
    "mfsmount",
    "mount-s3",
    "mountpoint-s3",
    "onedriver",
    "rclone",
    "s3fs",
    "s3ql",
    "seaweedfs",
    "smbnetfs",
    "sshfs",
    "vmhgfs-fuse",
    "weed",
];

/// The network file system of a program that `data` lies on, by a text as of Linux's `/proc/self/mountinfo`.
#[cfg(target_os = "linux")]
fn network_by_mount(mounts: &str, data: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(mount);
    let around = mounts.filter(|mount| data.starts_with(&mount.place));
    // The deepest one, and of those at one place the last, which covers the others.
    let found = around.max_by_key(|mount| mount.place.components().count())?;
    let program = found.kind.strip_prefix("fuse.").unwrap_or(found.kind);
    (REMOTE.contains(&program) || names_a_host(found.source))
        .then(|| format!("{program} (FUSE, {})", found.source))
}

/// Whether a mount's source is a URL or `host:/path`, which tells of programs that no list has.
#[cfg(target_os = "linux")]
fn names_a_host(source: &str) -> bool {
    source
        .split_once(":/")
        .is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'))
}

/// A line of the table of mounts.
#[cfg(target_os = "linux")]
struct Mount<'a> {
    place: PathBuf,
    kind: &'a str,
    source: &'a str,
}

#[cfg(target_os = "linux")]
fn mount(line: &str) -> Option<Mount<'_>> {
    let (about, what) = line.split_once(" - ")?;
    let mut what = what.split(' ');
    Some(Mount {
        place: unescaped(about.split(' ').nth(4)?),
        kind: what.next()?,
        source: what.next()?,
    })
}

/// A path of the table, where white space and backslashes are written as three octal digits.
#[cfg(target_os = "linux")]
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, others @ ..] = rest {
        let code = others
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &others[3..] } else { others };
    }
    std::ffi::OsString::from_vec(bytes).into()
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
fn network_file_system(_: &Path) -> Option<String> {
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

    #[test]
    fn network_file_systems_of_programs_are_known_by_the_table_of_mounts() {
        let mounts = r"
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:44 / /home/ada/far rw,nosuid,nodev shared:9 - fuse.sshfs ada@far.example:/home/ada rw,user_id=1000
31 22 0:45 / /home/ada/my\040data rw master:3 propagate_from:2 - fuse.rclone drive: rw,user_id=1000
32 22 0:46 / /mnt/pool rw - fuse.mergerfs /disks/a:/disks/b rw
33 22 8:17 / /mnt/usb rw - fuseblk /dev/sdb1 rw
34 22 0:47 / /mnt/dav rw - fuse https://dav.example/files rw
35 22 0:48 / /mnt/bucket rw - fuse.s3fs s3fs rw
36 35 8:33 / /mnt/bucket/cache rw - ext4 /dev/sdc1 rw
37 22 0:49 / /mnt/covered rw - fuse.gcsfuse bucket rw
38 22 8:49 / /mnt/covered rw - ext4 /dev/sdd1 rw
39 22 0:50 / /mnt/new rw - fuse.brandnew files.example:/export rw
40 22 0:51 / /mnt/gluster rw - fuse.glusterfs files.example:/volume rw
a line that is none";
        for (data, expected) in [
            ("/home/ada/far", Some("sshfs")),
            ("/home/ada/far/baton/data", Some("sshfs")),
            ("/home/ada/farther", None),
            ("/home/ada/my data/baton", Some("rclone")),
            ("/home/ada/my", None),
            ("/mnt/pool/baton", None),
            ("/mnt/usb/baton", None),
            ("/mnt/dav/baton", Some("fuse")),
            ("/mnt/bucket/baton", Some("s3fs")),
            ("/mnt/bucket/cache/baton", None),
            ("/mnt/covered/baton", None),
            ("/mnt/new", Some("brandnew")),
            ("/mnt/gluster", Some("glusterfs")),
            ("/var/lib/baton", None),
        ] {
            let found = network_by_mount(mounts, Path::new(data));
            let program = found.as_deref().and_then(|name| name.split(' ').next());
            assert_eq!(program, expected, "{data}: {found:?}");
        }
        assert_eq!(unescaped(r"/a\134b\011c\9"), PathBuf::from("/a\\b\tc\\9"));
    }
}
