//! Wiring: opens the store, starts the workers, hands the catalogue to the edges, and stops everything in order.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::Config;
use crate::ctx::{Call, System};
use crate::error::{Error, Result};
use crate::random::Random;
use crate::store::{Hub, Place, Postgres, Store};
use crate::tools::Tools;
use crate::upstream::Upstreams;
use crate::{handles, limits, memory, resources, sessions, tasks, tenants};

/// How often the reaper looks for what is due.
const REAP: Duration = Duration::from_millis(250);
/// How often it is looked whether limits were set, or keys revoked, on another process.
const LOOK: Duration = Duration::from_secs(1);
/// How often sessions are looked for that nobody comes back to, and handles that have expired.
const FORGET: Duration = Duration::from_mins(1);
/// When calls that still wait are answered that they can't go on, counted from the moment when the server begins to stop:
/// shortly before connections are cut, so that few are cut without a word.
const LAST_CALL: Duration = Duration::from_secs(6);

/// A running Baton without its edges. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Handles that everything shares.
    pub system: System,
    /// The one table of operations.
    pub catalog: Arc<Catalog>,
    /// Who may come in.
    pub access: Arc<Access>,
    /// The settings.
    pub config: Arc<Config>,
    /// Other servers, whose tools tenants use.
    pub upstreams: Upstreams,
    stopping: CancellationToken,
    workers: TaskTracker,
}

impl App {
    /// Opens the store where the settings say that it is.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(config: Config, clock: Clock, random: Random) -> Result<Self> {
        let upstreams = Upstreams::load(config.upstreams.as_deref())?;
        let tools = Tools::with(config.tools.as_deref(), upstreams.clone())?;
        let app = Self::with_catalog(config, clock, random, Catalog::with(tools))?;
        Ok(Self { upstreams, ..app })
    }

    /// As [`App::open`], with other operations, resources and prompts than the product's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn with_catalog(
        config: Config,
        clock: Clock,
        random: Random,
        catalog: Catalog,
    ) -> Result<Self> {
        let store = Store::open(&place(&config)?, Hub::default(), &clock)?;
        let system = System::new(store, clock, random, &config);
        let catalog = Arc::new(catalog);
        system.let_call(calls(&catalog));
        Ok(Self {
            catalog,
            access: Arc::new(Access::new(system.clone(), &config)?),
            system,
            config: Arc::new(config),
            upstreams: Upstreams::default(),
            stopping: CancellationToken::new(),
            workers: TaskTracker::new(),
        })
    }

    /// Starts what runs besides the calls: the reaper of expired leases, timeouts and retries due, the removal of
    /// sessions and handles that nobody comes back to, and the look at limits and keys that other processes changed.
    pub fn start_workers(&self) {
        self.start(
            REAP,
            |system| async move { tasks::reap::tick(&system).await },
        );
        self.start(
            FORGET,
            |system| async move { sessions::tick(&system).await },
        );
        let access = self.access.clone();
        self.start(FORGET, move |system| {
            system.throttle().sweep();
            access.tell_of_strangers();
            async { Ok(0) }
        });
        self.start(FORGET, |system| async move { handles::tick(&system).await });
        self.start(FORGET, |system| async move { memory::tick(&system).await });
        let upstreams = self.upstreams.clone();
        self.start(LOOK, move |system| {
            let swept = upstreams.tick(&system);
            async { swept }
        });
        self.start(LOOK, |system| async move { limits::tick(&system).await });
        self.start(LOOK, |system| async move { tenants::tick(&system).await });
        self.start(LOOK, |system| async move { resources::tick(&system).await });
        let watches = Arc::new(resources::Watches::default());
        self.start(LOOK, move |system| {
            let watches = watches.clone();
            async move {
                let mut wanted = system.presence().heard();
                wanted.extend(sessions::subscribed_below(&system, resources::BELOW).await?);
                // What has changed is no reason to look again at once.
                let look = resources::watch(&system, &watches, wanted);
                look.await.map(|_| 0)
            }
        });
        self.start(LOOK, |system| {
            let allowances = system.allowances();
            system
                .queries()
                .sweep(|tenant| allowances.check_open(tenant).is_ok());
            async { Ok(0) }
        });
        let access = self.access.clone();
        self.start(LOOK, move |_| {
            let access = access.clone();
            // What ends takes a moment, and is no reason to look again at once.
            async move { access.look_around().await.map(|_| 0) }
        });
    }

    /// Runs `tick` until the server stops, at once again while there is something to do.
    fn start<T, F>(&self, pause: Duration, tick: T)
    where
        T: Fn(System) -> F + Send + 'static,
        F: Future<Output = Result<usize>> + Send,
    {
        let (system, stopping) = (self.system.clone(), self.stopping.clone());
        self.workers.spawn(async move {
            while !stopping.is_cancelled() {
                match tick(system.clone()).await {
                    Ok(0) => {
                        tokio::select! {
                            () = stopping.cancelled() => {}
                            () = tokio::time::sleep(pause) => {}
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(error = ?error, "a worker could not do its round");
                        tokio::time::sleep(REAP * 4).await;
                    }
                }
            }
        });
    }

    /// Cancelled when the server begins to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Returns, once the server stops, when a call can wait no longer, with what to answer it.
    pub async fn last_call(&self) -> Error {
        self.stopping.cancelled().await;
        tokio::time::sleep(LAST_CALL).await;
        shutting_down()
    }

    /// Ends the workers, lets waiting operations finish and closes the store.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.workers.close();
        self.workers.wait().await;
        self.upstreams.close();
        let store = self.system.store().clone();
        // Joining the writer blocks; the runtime must stay free for those it answers.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }
}

/// How work inside of the server calls operations.
fn calls(catalog: &Arc<Catalog>) -> Call {
    let catalog = catalog.clone();
    Arc::new(move |ctx, name, input| {
        let catalog = catalog.clone();
        Box::pin(async move { catalog.call(ctx, name, input).await })
    })
}

/// What a call is answered that can't go on because the server stops.
pub fn shutting_down() -> Error {
    Error::unavailable(
        "shutting_down",
        "the server stops; repeat the call once it is back",
        Duration::from_secs(1),
    )
}

/// Where the settings say that the data is.
///
/// # Errors
/// `invalid_database` for a URL that can't be used.
pub fn place(config: &Config) -> Result<Place> {
    match &config.database {
        None => Ok(Place::Folder(config.data.clone())),
        Some(url) => place_at(url.reveal()),
    }
}

/// The PostgreSQL database at `url`.
///
/// # Errors
/// `invalid_database` for a URL that can't be used.
pub fn place_at(url: &str) -> Result<Place> {
    Postgres::parse(url)
        .map(Place::Postgres)
        .map_err(|error| Error::invalid("invalid_database", error.to_string()))
}

#[cfg(test)]
impl App {
    /// One for a unit test, with the usual settings.
    pub(crate) fn on(folder: &std::path::Path) -> Self {
        let settings = crate::config::Settings {
            data: Some(folder.to_owned()),
            ..Default::default()
        };
        let config = settings.complete(crate::config::Settings::default());
        let config = config.expect("the usual settings are right");
        Self::open(config, Clock::system(), Random::system()).expect("an empty folder")
    }
}
