//! What handlers share: those of one process, and those of one session.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rmcp::model::{Implementation, ServerCapabilities, ServerConfig, Tool};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::tools;
use crate::app::App;
use crate::events::Follow;
use crate::id::TenantId;

/// URIs that one legacy session or one modern listener may subscribe to.
pub(super) const SUBSCRIPTIONS: usize = 1_000;

/// What the handlers of one process share.
pub(crate) struct Shared {
    pub(crate) app: App,
    pub(super) tools: Vec<Tool>,
    pub(super) info: ServerConfig,
    pub(crate) pumps: TaskTracker,
}

impl Shared {
    pub(crate) fn new(app: App) -> Self {
        let tools = tools::project(&app.catalog);
        Self {
            tools,
            info: info(),
            app,
            pumps: TaskTracker::new(),
        }
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
    subscribed: Mutex<HashSet<String>>,
    /// Who sent `initialize`.
    pub(super) begun: OnceLock<Begun>,
    /// The log as it was before a listener was acknowledged.
    before: Mutex<Option<Follow>>,
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
            subscribed: Mutex::default(),
            begun: OnceLock::new(),
            before: Mutex::default(),
            _guard: ended.clone().drop_guard(),
            ended,
        })
    }

    /// The URIs that the session subscribed to.
    pub(super) fn subscribed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.subscribed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the log as it is now, for a listener that is about to be acknowledged.
    pub(super) fn keep_before(&self, follow: Option<Follow>) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = follow;
    }

    /// The log of `tenant` as it was before the listener was acknowledged, if it was kept.
    pub(super) fn take_before(&self, tenant: &TenantId) -> Option<Follow> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.take_if(|follow| follow.tenant() == tenant)
    }
}
