//! What handlers share: those of one process, and those of one session.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rmcp::model::{Implementation, ServerCapabilities, ServerConfig, Tool};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::tools;
use crate::app::App;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::feed::{Change, Feeds};
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
        .enable_tasks()
        .build();
    let mut implementation = Implementation::new("baton", env!("CARGO_PKG_VERSION"));
    implementation.title = Some("Baton".into());
    implementation.description =
        Some("Hands work from an orchestrator to executors and never loses track of it".into());
    ServerConfig::new(capabilities)
        .with_server_info(implementation)
        .with_instructions(include_str!("../../resources/instructions.md").trim_end())
}

/// What a handler knows of those whom it serves: one legacy client, or one request.
pub(crate) struct Session {
    /// Cancelled when it ends.
    pub(super) ended: CancellationToken,
    subscriptions: Subscriptions,
    /// What `initialize` said.
    pub(super) begun: OnceLock<Begun>,
    _guard: DropGuard,
}

/// Where the subscriptions of a session are.
enum Subscriptions {
    /// The session lives as long as its handler.
    Here(Mutex<HashSet<String>>),
    /// The handler is for one request of the session of this id.
    InDatabase(String),
    /// There is no session, or not yet.
    Nowhere,
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
    fn new(subscriptions: Subscriptions) -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self {
            subscriptions,
            begun: OnceLock::new(),
            _guard: ended.clone().drop_guard(),
            ended,
        })
    }

    /// A session that lives and ends with its handler.
    pub(super) fn live() -> Arc<Self> {
        Self::new(Subscriptions::Here(Mutex::default()))
    }

    /// One request of the session that the database keeps as `id`.
    pub(super) fn kept(id: String, begun: Begun) -> Arc<Self> {
        let session = Self::new(Subscriptions::InDatabase(id));
        let _ = session.begun.set(begun);
        session
    }

    /// One request without a session.
    pub(super) fn none() -> Arc<Self> {
        Self::new(Subscriptions::Nowhere)
    }

    /// What it subscribed to, if it lives with its handler.
    fn here(&self) -> Option<MutexGuard<'_, HashSet<String>>> {
        let Subscriptions::Here(subscribed) = &self.subscriptions else {
            return None;
        };
        Some(subscribed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is told of changes by its handler.
    pub(super) fn is_live(&self) -> bool {
        self.here().is_some()
    }

    /// Whether it is told by its handler of what has changed.
    pub(super) fn wants(&self, change: &Change) -> bool {
        self.here().is_some_and(|here| here.contains(&change.uri))
    }

    /// Subscribes to a resource of the tenant of `ctx`.
    pub(super) async fn subscribe(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        if let Subscriptions::InDatabase(id) = &self.subscriptions {
            return sessions::subscribe(ctx, id, uri).await;
        }
        if let Some(mut subscribed) = self.here() {
            if subscribed.len() >= sessions::SUBSCRIPTIONS as usize {
                return Err(sessions::too_many_subscriptions());
            }
            subscribed.insert(uri.to_owned());
        }
        Ok(())
    }

    /// Ends a subscription, if there is one.
    pub(super) async fn unsubscribe(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        if let Subscriptions::InDatabase(id) = &self.subscriptions {
            return sessions::unsubscribe(ctx, id, uri).await;
        }
        if let Some(mut subscribed) = self.here() {
            subscribed.remove(uri);
        }
        Ok(())
    }
}
