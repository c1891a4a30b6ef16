//! What handlers share: those of one process, and those of one session.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rmcp::model::{Implementation, ServerCapabilities, ServerConfig, Tool};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::feed::{Change, Feeds};
use super::tools;
use crate::app::App;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::id::TenantId;
use crate::sessions;

/// What the handlers of one process share.
pub(crate) struct Shared {
    pub(crate) app: App,
    pub(super) tools: Vec<Tool>,
    pub(super) info: ServerConfig,
    pub(super) feeds: Arc<Feeds>,
    pub(crate) pumps: TaskTracker,
}

impl Shared {
    pub(crate) fn new(app: App) -> Self {
        let tools = tools::project(&app.catalog);
        let pumps = TaskTracker::new();
        Self {
            tools,
            info: info(),
            feeds: Feeds::new(app.catalog.clone(), pumps.clone()),
            app,
            pumps,
        }
    }

    /// Cancelled when the server begins to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        self.app.stopping()
    }
}

fn info() -> ServerConfig {
    let capabilities = ServerCapabilities::builder()
        .enable_tools()
        .enable_prompts()
        .enable_resources()
        .enable_resources_subscribe()
        .enable_completions()
        .build();
    let mut implementation = Implementation::new("baton", env!("CARGO_PKG_VERSION"));
    implementation.title = Some("Baton".into());
    implementation.description =
        Some("Hands work from an orchestrator to executors and never loses track of it".into());
    ServerConfig::new(capabilities)
        .with_server_info(implementation)
        .with_instructions(include_str!("../../resources/instructions.md").trim_end())
}

/// One legacy session, or one modern request, or one pipe. Dropped when it ends.
pub(crate) struct Session {
    pub(super) ended: CancellationToken,
    /// What it is called in the database, if it is kept there: then its subscriptions are there too.
    stored: OnceLock<String>,
    subscribed: Mutex<HashSet<String>>,
    /// Who sent `initialize`.
    pub(super) begun: OnceLock<Begun>,
    /// The tenant that its `initialize` chose, when another process answered that.
    pub(super) serves: OnceLock<TenantId>,
    _guard: DropGuard,
}

/// For whom a legacy session was begun.
pub(super) struct Begun {
    pub(super) tenant: TenantId,
    /// Whether `initialize` itself named the tenant: then the session is for no other.
    pub(super) is_bound: bool,
    /// Who sent it.
    pub(super) client: Implementation,
    /// Whether the session is certainly of the era before 2026-07-28.
    pub(super) is_legacy: bool,
}

impl Session {
    pub(super) fn new() -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self {
            stored: OnceLock::new(),
            subscribed: Mutex::default(),
            begun: OnceLock::new(),
            serves: OnceLock::new(),
            _guard: ended.clone().drop_guard(),
            ended,
        })
    }

    /// The session is kept in the database from now on, or was all along.
    pub(super) fn is_stored_as(&self, id: &str) {
        let _ = self.stored.set(id.to_owned());
    }

    /// Whether it subscribed to what has changed.
    pub(super) fn wants(&self, change: &Change) -> bool {
        match self.stored.get() {
            Some(id) => change
                .sessions
                .as_ref()
                .is_some_and(|sessions| sessions.contains(id)),
            None => self.subscribed().contains(&change.uri),
        }
    }

    /// Subscribes to a resource of the tenant of `ctx`.
    pub(super) async fn subscribe(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        if let Some(id) = self.stored.get() {
            return sessions::subscribe(ctx, id, uri).await;
        }
        let mut subscribed = self.subscribed();
        if subscribed.len() >= sessions::SUBSCRIPTIONS as usize {
            return Err(sessions::too_many_subscriptions());
        }
        subscribed.insert(uri.to_owned());
        Ok(())
    }

    /// Ends a subscription, if there is one.
    pub(super) async fn unsubscribe(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        if let Some(id) = self.stored.get() {
            return sessions::unsubscribe(ctx, id, uri).await;
        }
        self.subscribed().remove(uri);
        Ok(())
    }

    fn subscribed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.subscribed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
