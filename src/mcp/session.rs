//! What handlers share: those of one process, and those of one session.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::request::Parts;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolResponse, ClientJsonRpcMessage, CompleteResult, CustomResult, Extensions,
    GetPromptResponse, GetTaskResult, Icon, Implementation, InitializeRequestParams,
    InitializeResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    ListToolsResult, MetaObject, ProtocolVersion, ReadResourceResponse, RequestId,
    ServerCapabilities, ServerConfig, ServerResult, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::SessionState;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::kept::Said;
use super::listen::hears;
use super::server::Named;
use super::tools;
use crate::app::App;
use crate::caller::Level;
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::feed::{Change, Feeds, What};
use crate::id::TenantId;
use crate::op::List;
use crate::presence::Hears;
use crate::sessions;
use crate::throttle::Place;

/// What the handlers of one process share.
pub(crate) struct Shared {
    pub(crate) app: App,
    pub(super) tools: Vec<Tool>,
    pub(super) info: ServerConfig,
    /// How it signs results.
    pub(super) signature: Signature,
    pub(super) feeds: Arc<Feeds>,
    pub(crate) pumps: TaskTracker,
}

impl Shared {
    pub(crate) fn new(app: App) -> Self {
        let tools = tools::project(&app.catalog);
        let pumps = TaskTracker::new();
        let info = info(&app.catalog);
        Self {
            tools,
            signature: Signature::of(&info.server_info),
            info,
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

fn info(catalog: &Catalog) -> ServerConfig {
    let mut capabilities = ServerCapabilities::builder()
        .enable_tools()
        .enable_prompts()
        .enable_resources()
        .enable_resources_subscribe()
        .enable_completions()
        .enable_tasks()
        .build();
    for list in catalog.lists() {
        match list {
            List::Tools => capabilities.tools.get_or_insert_default().list_changed = Some(true),
            List::Prompts => capabilities.prompts.get_or_insert_default().list_changed = Some(true),
            List::Resources => {
                capabilities.resources.get_or_insert_default().list_changed = Some(true);
            }
        }
    }
    capabilities.logging = Some(Map::new());
    let mut implementation = Implementation::new("baton", env!("CARGO_PKG_VERSION"));
    implementation.title = Some("Baton".into());
    implementation.description =
        Some("Hands work from an orchestrator to executors and never loses track of it".into());
    implementation.icons = Some(vec![icon()]);
    ServerConfig::new(capabilities)
        .with_server_info(implementation)
        .with_instructions(include_str!("../../resources/instructions.md").trim_end())
}

/// A baton, for whoever shows lists to people.
pub(super) fn icon() -> Icon {
    const BATON: &str = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9IjAgMCA4IDgiPjxwYXRoIGQ9Ik0xIDcgNyAxIiBzdHJva2U9IiM0NTciIHN0cm9rZS13aWR0aD0iMiIvPjwvc3ZnPg==";
    Icon::new(BATON)
        .with_mime_type("image/svg+xml")
        .with_sizes(vec!["any".into()])
}

/// Who answers: what results of the newest era say in `_meta`.
pub(super) struct Signature {
    key: &'static str,
    value: Value,
    /// `"_meta":{…}`, as it stands in a result.
    pub(super) member: String,
}

impl Signature {
    fn of(server: &Implementation) -> Self {
        let key = "io.modelcontextprotocol/serverInfo";
        let value = json!({"name": server.name, "title": server.title, "version": server.version});
        Self {
            key,
            member: format!("\"_meta\":{}", json!({ key: value })),
            value,
        }
    }

    /// Signs a result with this `_meta`.
    pub(super) fn sign(&self, meta: &mut Option<MetaObject>) {
        let meta = meta.get_or_insert_default();
        meta.insert(self.key.to_owned(), self.value.clone());
    }
}

/// A result that says who answers, if it has a place for that.
pub(super) trait Signed {
    fn meta(&mut self) -> Option<&mut Option<MetaObject>>;
}

macro_rules! signed {
    ($($result:ty),* $(,)?) => {
        $(impl Signed for $result {
            fn meta(&mut self) -> Option<&mut Option<MetaObject>> {
                Some(&mut self.meta)
            }
        })*
    };
}

signed!(
    CompleteResult,
    GetTaskResult,
    ListPromptsResult,
    ListResourceTemplatesResult,
    ListResourcesResult,
    ListToolsResult,
);

macro_rules! signed_responses {
    ($($response:ident),*) => {
        $(impl Signed for $response {
            fn meta(&mut self) -> Option<&mut Option<MetaObject>> {
                match self {
                    Self::Complete(result) => Some(&mut result.meta),
                    Self::InputRequired(result) => Some(&mut result.meta),
                    _ => None,
                }
            }
        })*
    };
}

signed_responses!(GetPromptResponse, ReadResourceResponse);

impl Signed for CallToolResponse {
    fn meta(&mut self) -> Option<&mut Option<MetaObject>> {
        match self {
            Self::Complete(result) => Some(&mut result.meta),
            Self::InputRequired(result) => Some(&mut result.meta),
            Self::Task(result) => Some(&mut result.meta),
            _ => None,
        }
    }
}

macro_rules! unsigned {
    ($($result:ty),*) => {
        $(impl Signed for $result {
            fn meta(&mut self) -> Option<&mut Option<MetaObject>> {
                None
            }
        })*
    };
}

// Those of the era before say it in `initialize`, and the last word of a listener has its own way.
unsigned!((), CustomResult, InitializeResult, ServerResult);

/// What a handler knows of those whom it serves: one legacy client, or one request.
pub(crate) struct Session {
    /// Cancelled when it ends.
    pub(super) ended: CancellationToken,
    subscriptions: Subscriptions,
    /// From which level on it wants log messages.
    log_from: Mutex<Option<Level>>,
    /// What `initialize` said.
    pub(super) begun: OnceLock<Begun>,
    _guard: DropGuard,
}

/// Where the subscriptions of a session are.
enum Subscriptions {
    /// The session lives as long as its handler.
    Here(Mutex<HashMap<String, Option<Hears>>>),
    /// The handler is for one request of the session of this id, which this context reaches.
    InDatabase(String, Ctx),
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
    /// Whether its user can be shown a form.
    pub(super) shows_forms: bool,
    /// Whether the session is certainly of the era before 2026-07-28.
    pub(super) is_legacy: bool,
}

/// What `initialize` leaves for whoever sends its answer: what is to be kept, and the tenant that it named.
#[derive(Clone, Default)]
pub(crate) struct Beginning(Arc<OnceLock<(SessionState, Option<TenantId>)>>);

impl Beginning {
    /// Notes what was agreed on, where the request of `cx` is to begin a session that is kept.
    pub(super) fn note(
        cx: &RequestContext<RoleServer>,
        mut params: InitializeRequestParams,
        (begun, version): (&Begun, &ProtocolVersion),
    ) {
        if let Some(Self(place)) = extension(&cx.extensions) {
            params.protocol_version = version.clone();
            let serves = begun.is_bound.then(|| begun.tenant.clone());
            let _ = place.set((SessionState::new(params), serves));
        }
    }

    /// Keeps the session that has begun as `id` in the tenant of `ctx`, and says whether one has.
    ///
    /// # Errors
    /// As [`sessions::begin`].
    pub(crate) async fn keep(&self, ctx: &Ctx, id: &str) -> Result<bool> {
        let Some((state, serves)) = self.0.get() else {
            return Ok(false);
        };
        let initialize = serde_json::to_string(state).map_err(Error::internal)?;
        sessions::begin(ctx, id, serves.clone(), initialize).await?;
        Ok(true)
    }
}

/// What the transport says of the HTTP request that `extensions` came with.
pub(super) fn extension<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Option<T> {
    extensions.get::<Parts>()?.extensions.get::<T>().cloned()
}

/// The refusal of one more session. Sessions of older clients don't end soon.
pub(crate) fn too_many_sessions(most: usize) -> Error {
    Error::unavailable(
        "too_many_sessions",
        format!("{most} sessions are open; end one, or speak 2026-07-28, which needs none"),
        Duration::from_secs(30),
    )
}

impl Session {
    fn new(subscriptions: Subscriptions) -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self {
            subscriptions,
            log_from: Mutex::default(),
            begun: OnceLock::new(),
            _guard: ended.clone().drop_guard(),
            ended,
        })
    }

    /// A session that lives and ends with its handler.
    pub(super) fn live() -> Arc<Self> {
        Self::new(Subscriptions::Here(Mutex::default()))
    }

    /// One request of the session that the database keeps as `id`, where `owner` reaches it.
    pub(super) fn kept(
        (id, owner): (String, Ctx),
        begun: Begun,
        log_from: Option<Level>,
    ) -> Arc<Self> {
        let session = Self::new(Subscriptions::InDatabase(id, owner));
        let _ = session.begun.set(begun);
        *session.level() = log_from;
        session
    }

    /// One request without a session.
    pub(super) fn none() -> Arc<Self> {
        Self::new(Subscriptions::Nowhere)
    }

    fn level(&self) -> MutexGuard<'_, Option<Level>> {
        self.log_from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From which level on it wants log messages.
    pub(super) fn log_from(&self) -> Option<Level> {
        *self.level()
    }

    /// Remembers from which level on it wants log messages.
    pub(super) async fn set_level(&self, level: Level) -> Result<()> {
        if let Subscriptions::InDatabase(id, owner) = &self.subscriptions {
            return sessions::set_level(owner, id, level.name()).await;
        }
        *self.level() = Some(level);
        Ok(())
    }

    /// What it subscribed to, if it lives with its handler.
    fn here(&self) -> Option<MutexGuard<'_, HashMap<String, Option<Hears>>>> {
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
        self.here().is_some_and(|here| match &change.what {
            What::Resource(uri) => here.contains_key(uri),
            What::List(_) => true,
        })
    }

    /// Subscribes to a resource of the tenant of `ctx`.
    pub(super) async fn subscribe(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        if let Subscriptions::InDatabase(id, _) = &self.subscriptions {
            return sessions::subscribe(ctx, id, uri).await;
        }
        if let Some(mut subscribed) = self.here() {
            if subscribed.len() >= sessions::SUBSCRIPTIONS as usize {
                return Err(sessions::too_many_subscriptions());
            }
            subscribed.insert(uri.to_owned(), hears(ctx, uri));
        }
        Ok(())
    }

    /// Ends a subscription, if there is one.
    pub(super) async fn unsubscribe(&self, ctx: &Ctx, uri: &str) -> Result<()> {
        if let Subscriptions::InDatabase(id, _) = &self.subscriptions {
            return sessions::unsubscribe(ctx, id, uri).await;
        }
        if let Some(mut subscribed) = self.here() {
            subscribed.remove(uri);
        }
        Ok(())
    }
}

/// A session that is in use on this process.
pub(crate) struct Live {
    /// Its place among those of its tenant.
    _place: Place,
    pub(super) used: AtomicI64,
    /// Whose it is.
    pub(super) named: OnceLock<Named>,
    /// Cancelled when its client ends it here.
    pub(super) ended: CancellationToken,
    /// The event stream that tells of changes.
    teller: Mutex<Weak<()>>,
    calls: Mutex<Vec<Call>>,
}

/// A request that is being answered.
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) id: RequestId,
    pub(super) cancel: CancellationToken,
    pub(super) said: watch::Receiver<Said>,
    /// Where the answers to its questions go.
    pub(super) answers: mpsc::Sender<ClientJsonRpcMessage>,
}

impl Live {
    pub(super) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self {
            _place: place,
            used: AtomicI64::default(),
            named: OnceLock::new(),
            ended: CancellationToken::new(),
            teller: Mutex::default(),
            calls: Mutex::default(),
        })
    }

    pub(super) fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        lock(&self.calls)
    }

    /// Makes the stream with this token the one that tells: the newest, since older ones may be dead without a sign.
    pub(super) fn tell_by(&self, token: &Arc<()>) {
        *lock(&self.teller) = Arc::downgrade(token);
    }

    /// Whether the stream with this token is to tell, since the protocol wants no message on two. When the one that did has
    /// gone, whoever asks first is.
    pub(super) fn is_told_by(&self, token: &Arc<()>) -> bool {
        let mut teller = lock(&self.teller);
        if teller.strong_count() == 0 {
            *teller = Arc::downgrade(token);
        }
        std::ptr::eq(teller.as_ptr(), Arc::as_ptr(token))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
