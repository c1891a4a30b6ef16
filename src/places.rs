//! Folders of the platform: where a user's data and settings lie. It knows nothing of what is in them.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context;

/// Shells expand `~` in some places only, and TOML never: a folder of that name is not what is meant.
pub(crate) fn at_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// Where this platform keeps what belongs to a user; `baton install` and `baton doctor` look there.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The user's home folder.
    pub(crate) home: PathBuf,
    /// The folder of programs' settings.
    pub(crate) config: PathBuf,
    /// The folder that this process was started in.
    pub(crate) current: PathBuf,
}

impl Places {
    /// The places of the user who runs this process.
    ///
    /// # Errors
    /// There is no home folder, or the current one is gone.
    #[expect(
        clippy::disallowed_methods,
        reason = "beside the settings, this is the one place that reads the environment"
    )]
    pub(crate) fn of_user() -> anyhow::Result<Self> {
        let home = std::env::home_dir()
            .filter(|home| home.is_absolute())
            .context("no home folder found; HOME must name one")?;
        let named = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|folder| folder.is_absolute())
        };
        let config = match std::env::consts::OS {
            "macos" => home.join("Library/Application Support"),
            "windows" => named("APPDATA").unwrap_or_else(|| home.join("AppData/Roaming")),
            _ => named("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        };
        Ok(Self {
            home,
            config,
            current: std::env::current_dir().context("the current folder is gone")?,
        })
    }
}

/// This program, as a path that also works after an update has replaced the file.
///
/// # Errors
/// Where it lies can't be told.
pub(crate) fn program() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        std::env::current_exe()
    }
}

/// What a program needs of the environment to be found and to find its user's home.
#[expect(
    clippy::disallowed_methods,
    reason = "beside the settings, this is the one place that reads the environment"
)]
pub(crate) fn minimum() -> impl Iterator<Item = (&'static str, OsString)> {
    let named = ["PATH", "HOME"].into_iter();
    named.filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// The folder that the platform gives programs for their data.
#[expect(
    clippy::disallowed_methods,
    reason = "beside the settings, this is the one place that reads the environment"
)]
pub(crate) fn default_data() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(folder) = folder("XDG_DATA_HOME") {
        return Some(folder.join("baton"));
    }
    let home = std::env::home_dir()?;
    Some(match std::env::consts::OS {
        "macos" => home.join("Library/Application Support/baton"),
        "windows" => folder("LOCALAPPDATA").unwrap_or(home).join("baton"),
        _ => home.join(".local/share/baton"),
    })
}
