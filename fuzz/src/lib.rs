//! The server that the targets speak to: one a process, on a temporary folder, with a clock that stands still.

use std::sync::LazyLock;

use baton::app::App;
use baton::clock::{Clock, Time};
use baton::config::Settings;
use baton::random::Random;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A server, and the runtime that it lives on.
pub struct Server {
    pub app: App,
    pub runtime: Runtime,
    _folder: TempDir,
}

/// The time there.
pub const NOW: Time = Time::from_micros(1_795_219_200_000_000);

/// The server.
pub static SERVER: LazyLock<Server> = LazyLock::new(|| Server::with(|_| {}));

impl Server {
    /// One of its own with these settings.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let shared = std::path::Path::new("/dev/shm");
        let folder = if shared.is_dir() {
            tempfile::tempdir_in(shared)
        } else {
            tempfile::tempdir()
        };
        let folder = folder.expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let _entered = runtime.enter();
        let mut settings = Settings {
            data: Some(folder.path().to_owned()),
            ..Settings::default()
        };
        change(&mut settings);
        let config = settings
            .complete(Settings::default())
            .expect("the defaults are right");
        let clock = Clock::manual(NOW);
        let app = App::open(config, clock, Random::seeded(7)).expect("opens");
        drop(_entered);
        Server {
            app,
            runtime,
            _folder: folder,
        }
    }
}
