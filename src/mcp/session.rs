//! What handlers share: those of one process, and those of one session.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};

use rmcp::model::{Implementation, ServerCapabilities, ServerConfig, Tool};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::tools;
use crate::app::App;
use crate::id::TenantId;

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
    pub(super) subscribed: Mutex<HashSet<String>>,
    /// The tenant of the one who sent `initialize`.
    pub(super) tenant: OnceLock<TenantId>,
    _guard: DropGuard,
}

impl Session {
    pub(super) fn new() -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self {
            subscribed: Mutex::default(),
            tenant: OnceLock::new(),
            _guard: ended.clone().drop_guard(),
            ended,
        })
    }
}
