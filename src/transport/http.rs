//! MCP over HTTP: Streamable HTTP of both eras on `/mcp`, HTTP+SSE on `/sse` and `/messages`, each also below
//! `/t/{tenant}`. What comes in is checked here before rmcp sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use dashmap::DashMap;
use futures::StreamExt;
use rmcp::transport::streamable_http_server::session::SessionManager as _;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::json;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use super::plain::Short;
use super::sse::SseServer;
use super::wire::MAX_BYTES;
use super::{body, listen, no_room, refuse, too_many_sessions};
use crate::app::App;
use crate::ctx::{Ctx, choose_tenant};
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;
use crate::mcp::{AtHand, Edge, Kept, NAMED, Named, Shared};
use crate::sessions;

/// How long a process keeps an idle legacy session alive; after that the next request goes on from the database. rmcp
/// counts neither an open stream nor a running call as activity.
const SESSION_IDLE: Duration = Duration::from_hours(1);
/// How long a session without requests stays on this process, up to twice as long.
const REST: Duration = Duration::from_secs(30);
/// How often an open event stream looks whether its session was ended on another process.
const LOOK: Duration = Duration::from_secs(5);
/// How long the last answers may take to leave when the server stops.
const FAREWELL: Duration = Duration::from_millis(500);
/// The method whose answer is a stream without end.
const LISTEN: &str = "subscriptions/listen";
const SESSION: &str = "mcp-session-id";
/// The first revision without sessions.
pub(super) const MODERN: &str = "2026-07-28";

/// What the routes share.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    manager: Arc<LocalSessionManager>,
    /// The legacy sessions that were used on this process.
    live: Arc<DashMap<String, Arc<Live>>>,
    /// Room for listeners.
    listeners: Arc<Semaphore>,
}

/// A legacy session on this process.
struct Live {
    owner: Named,
    /// Whether rmcp has all of it, as long as it has it at all.
    is_here: AtomicBool,
    turn: Arc<Mutex<()>>,
    /// Requests being answered, event streams among them.
    open: AtomicUsize,
    /// Whether there was a request since the last round of [`Door::rest`].
    is_used: AtomicBool,
}

/// A request of a session, until its answer has been sent.
struct Visit(Arc<Live>);

impl Visit {
    fn new(live: Arc<Live>) -> Self {
        live.open.fetch_add(1, Ordering::SeqCst);
        Self(live)
    }

    /// Lasts as long as `response`.
    fn until_sent(self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let body = body.into_data_stream().inspect(move |_| {
            let _ = &self;
        });
        Response::from_parts(parts, Body::from_stream(body))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.is_used.store(true, Ordering::SeqCst);
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Live {
    fn new(owner: &Named) -> Arc<Self> {
        Arc::new(Self {
            owner: owner.clone(),
            is_here: AtomicBool::new(false),
            turn: Arc::default(),
            open: AtomicUsize::new(0),
            is_used: AtomicBool::new(true),
        })
    }
}

/// All routes of MCP, to be mounted behind the guard of `http`.
pub fn router(app: &App) -> Router {
    routes(app, true).1
}

/// As [`router`], but rmcp answers every call, for tests that compare.
pub fn router_of_rmcp(app: &App) -> Router {
    routes(app, false).1
}

fn routes(app: &App, short: bool) -> (Door, Router) {
    let shared = super::shared(app);
    let kill = CancellationToken::new();
    let (stopping, killer) = (app.clone(), kill.clone());
    shared.pumps.spawn(async move {
        stopping.last_call().await;
        tokio::time::sleep(FAREWELL).await;
        killer.cancel();
    });
    let door = Door {
        shared: shared.clone(),
        manager: Arc::new(manager()),
        live: Arc::default(),
        listeners: Arc::new(Semaphore::new(app.config.max_listeners)),
    };
    let resting = door.clone();
    shared.pumps.spawn(async move {
        let stopping = resting.shared.stopping().clone();
        while !stopping.is_cancelled() {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(REST) => resting.rest().await,
            }
        }
    });
    let mut config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(true)
        .with_json_response(true)
        .with_max_request_body_bytes(MAX_BYTES)
        .with_cancellation_token(kill.clone())
        // The guard before these routes checks hosts and origins for everything that is served.
        .disable_allowed_hosts();
    config.session_store = Some(Arc::new(Kept));
    let factory = shared.clone();
    let service = StreamableHttpService::new(
        move || {
            Ok(Edge::new(
                &factory,
                NAMED.try_with(Clone::clone).ok().flatten(),
            ))
        },
        door.manager.clone(),
        config,
    );
    let sse = SseServer::new(shared.clone(), kill);
    let streamable = Router::new()
        .route_service("/mcp", service.clone())
        .route_service("/t/{tenant}/mcp", service)
        .layer(from_fn_with_state(shared.clone(), listen::serve))
        .layer(from_fn(body::check))
        .layer(from_fn_with_state(door.clone(), check_session))
        .layer(from_fn_with_state(door.clone(), name_tenant));
    let sse = Router::new()
        .route("/sse", get(super::sse::open))
        .route("/t/{tenant}/sse", get(super::sse::open))
        .route("/messages", post(super::sse::message))
        .route("/t/{tenant}/messages", post(super::sse::message))
        .with_state(sse)
        .layer(from_fn_with_state(door.clone(), name_tenant));
    if !short {
        return (door, streamable.merge(sse));
    }
    let short = Short {
        shared,
        long: streamable,
    };
    let short = Router::new()
        .route_service("/mcp", short.clone())
        .route_service("/t/{tenant}/mcp", short);
    (door, short.merge(sse))
}

fn manager() -> LocalSessionManager {
    let mut manager = LocalSessionManager::default();
    manager.session_config.keep_alive = Some(SESSION_IDLE);
    manager
}

/// Finds the tenant that path, header or process name, and binds the request to it.
async fn name_tenant(
    State(door): State<Door>,
    path: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let from_path = path
        .iter()
        .find(|(name, _)| *name == "tenant")
        .map(|(_, value)| value);
    let named = match named(
        door.shared.app.config.tenant.as_ref(),
        from_path,
        request.headers(),
    ) {
        Ok(named) => named,
        Err(error) => {
            let data = Some(json!({"error": error.body()}));
            return refuse(StatusCode::BAD_REQUEST, -32602, error.message(), data);
        }
    };
    request.extensions_mut().insert(Named(named.clone()));
    NAMED.scope(named, next.run(request)).await
}

pub(super) fn named(
    bound: Option<&TenantId>,
    path: Option<&str>,
    headers: &HeaderMap,
) -> Result<Option<TenantId>> {
    let header = headers
        .get("x-tenant-id")
        .map(|value| value.to_str().unwrap_or(""));
    if bound.is_none() && path.is_none() && header.is_none() {
        return Ok(None);
    }
    choose_tenant(
        bound,
        &[("the path", path), ("the header X-Tenant-ID", header)],
    )
    .map(Some)
}

/// Lets legacy requests into the sessions of their tenant alone: rmcp lets whoever knows the id in, and asks nobody
/// before it goes on with a session of another process. A foreign session is an unknown one.
async fn check_session(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    if is_modern(&request) {
        // Some clients send the id of a session that they had before; it means nothing any more.
        request.headers_mut().remove(SESSION);
        return door.admit(request, next).await;
    }
    let named = request.extensions().get::<Named>().cloned();
    let named = named.unwrap_or_default();
    let id = request
        .headers()
        .get(SESSION)
        .map(|id| id.to_str().unwrap_or_default().to_owned());
    match id {
        Some(id) => door.go_on(named, id, request, next).await,
        None => door.begin(named, request, next).await,
    }
}

/// Modern requests know no sessions.
fn is_modern(request: &Request) -> bool {
    let version = request.headers().get("mcp-protocol-version");
    request.method() == Method::POST
        && version.is_some_and(|version| version.as_bytes() >= MODERN.as_bytes())
}

/// Modern requests name their method in a header; a request without one may begin a session.
fn is_initialize(request: &Request) -> bool {
    request.method() == Method::POST && !request.headers().contains_key("mcp-method")
}

impl Door {
    /// Runs a modern request. A listener takes a place until its stream ends.
    async fn admit(&self, request: Request, next: Next) -> Response {
        let method = request.headers().get("mcp-method");
        if method.is_none_or(|method| method != LISTEN) {
            return next.run(request).await;
        }
        let Ok(place) = self.listeners.clone().try_acquire_owned() else {
            let most = self.shared.app.config.max_listeners;
            return no_room(&Error::unavailable(
                "too_many_listeners",
                format!("{most} listeners are open; come back later"),
                Duration::from_secs(30),
            ));
        };
        let (parts, body) = next.run(request).await.into_parts();
        let body = body.into_data_stream().inspect(move |_| {
            let _ = &place;
        });
        Response::from_parts(parts, Body::from_stream(body))
    }

    /// Serves a request that belongs to no session, and keeps the session if it begins one.
    async fn begin(&self, named: Named, request: Request, next: Next) -> Response {
        if is_initialize(&request) && !self.has_room().await {
            return self.is_full();
        }
        let at_hand = AtHand::new(None);
        let response = at_hand.scope(next.run(request)).await;
        let id = response.headers().get(SESSION);
        let Some(id) = id.and_then(|id| id.to_str().ok()).map(str::to_owned) else {
            return response;
        };
        let live = Live::new(&named);
        live.is_here.store(true, Ordering::SeqCst);
        self.live.insert(id.clone(), live);
        if let Err(error) = at_hand.keep(&self.ctx(&named), &id).await {
            self.close(&id).await;
            return failed(&error);
        }
        response
    }

    /// Serves a request of the session `id`, on whatever process it was begun.
    async fn go_on(&self, named: Named, id: String, request: Request, next: Next) -> Response {
        let ctx = self.ctx(&named);
        let known = match sessions::find(&ctx, &id).await {
            Ok(Some(known)) => known,
            Ok(None) => {
                // Another process may have ended it; a stranger must not.
                let is_own = self
                    .live
                    .get(&id)
                    .is_some_and(|live| live.owner.agrees(&named));
                if is_own {
                    self.close(&id).await;
                }
                let message = "there is no such session; initialize a new one";
                return refuse(StatusCode::NOT_FOUND, -32600, message, None);
            }
            Err(error) => return failed(&error),
        };
        let (is_get, is_delete) = (
            request.method() == Method::GET,
            request.method() == Method::DELETE,
        );
        let at_hand = AtHand::new(Some(known.clone()));
        let answer = async move { at_hand.scope(next.run(request)).await };
        let response = if is_delete {
            answer.await
        } else {
            self.in_turn(&named, &id, answer).await
        };
        if is_delete && response.status().is_success() {
            self.live.remove(&id);
            let system = &self.shared.app.system;
            if let Err(error) = sessions::end(system, ctx.tenant(), &known).await {
                return failed(&error);
            }
        }
        if is_get {
            self.clone().until_ended(response, ctx, id)
        } else {
            response
        }
    }

    /// Serves a request of the session `id`; the first one here brings the session over, and others wait for it. rmcp
    /// fails the second of two that bring a session over, and hands messages to one that is not all there.
    async fn in_turn(
        &self,
        owner: &Named,
        id: &str,
        answer: impl Future<Output = Response> + Send + 'static,
    ) -> Response {
        let live = self.live.entry(id.to_owned());
        let live = live.or_insert_with(|| Live::new(owner)).clone();
        let visit = Visit::new(live.clone());
        let is_here = async || live.is_here.load(Ordering::SeqCst) && self.is_live(id).await;
        if is_here().await {
            return visit.until_sent(answer.await);
        }
        let turn = live.turn.clone().lock_owned().await;
        if is_here().await {
            drop(turn);
            return visit.until_sent(answer.await);
        }
        if !self.has_room().await {
            return self.is_full();
        }
        live.is_here.store(false, Ordering::SeqCst);
        // A client that leaves half-way must not leave half a session behind.
        let work = NAMED.scope(owner.0.clone(), async move {
            let response = answer.await;
            live.is_here.store(true, Ordering::SeqCst);
            drop(turn);
            visit.until_sent(response)
        });
        match self.shared.pumps.spawn(work).await {
            Ok(response) => response,
            Err(error) => failed(&Error::internal(error)),
        }
    }

    /// Lets go of sessions that had no request since the last round: what rmcp holds for one is 110 KB, and the next
    /// request goes on from the database.
    async fn rest(&self) {
        let all = self
            .live
            .iter()
            .map(|live| (live.key().clone(), live.value().clone()));
        let all: Vec<_> = all.collect();
        for (id, live) in all {
            let is_busy = || live.open.load(Ordering::SeqCst) > 0;
            let is_here = live.is_here.load(Ordering::SeqCst);
            if !is_here || live.is_used.swap(false, Ordering::SeqCst) || is_busy() {
                continue;
            }
            let Ok(_turn) = live.turn.clone().try_lock_owned() else {
                continue;
            };
            // Who comes from here on waits for the turn; who came before is seen.
            live.is_here.store(false, Ordering::SeqCst);
            if is_busy() {
                live.is_here.store(true, Ordering::SeqCst);
            } else {
                self.let_go(&id).await;
            }
        }
    }

    /// A context for the sessions of the tenant that the request names.
    fn ctx(&self, named: &Named) -> Ctx {
        self.shared.app.system.ctx(named.tenant(), "mcp")
    }

    async fn is_live(&self, id: &str) -> bool {
        self.manager.sessions.read().await.contains_key(id)
    }

    /// Ends this process's copy of a session.
    async fn close(&self, id: &str) {
        self.live.remove(id);
        self.let_go(id).await;
    }

    async fn let_go(&self, id: &str) {
        if let Err(error) = self.manager.close_session(&id.into()).await {
            tracing::debug!(%error, "a session could not be closed");
        }
    }

    fn is_full(&self) -> Response {
        no_room(&too_many_sessions(self.shared.app.config.max_sessions))
    }

    /// Whether another session may live here. Sessions that rmcp has given up are forgotten first.
    async fn has_room(&self) -> bool {
        let live = self.manager.sessions.read().await;
        let most = self.shared.app.config.max_sessions;
        if self.live.len() >= most {
            self.live.retain(|id, session| {
                live.contains_key(id.as_str()) || session.open.load(Ordering::SeqCst) > 0
            });
        }
        live.len() < most
    }

    /// A session's event stream has no end of its own: it ends with the server, and soon after another process has
    /// ended the session.
    fn until_ended(self, response: Response, ctx: Ctx, id: String) -> Response {
        let (parts, body) = response.into_parts();
        let ended = async move {
            let gone = async {
                loop {
                    tokio::time::sleep(LOOK).await;
                    if matches!(sessions::find(&ctx, &id).await, Ok(None)) {
                        break;
                    }
                }
            };
            tokio::select! {
                () = self.shared.stopping().cancelled() => {}
                () = gone => self.close(&id).await,
            }
        };
        let body = body.into_data_stream().take_until(ended);
        Response::from_parts(parts, Body::from_stream(body))
    }
}

/// The answer when sessions can't be looked up or kept.
fn failed(error: &Error) -> Response {
    let (status, code) = match error.kind() {
        Kind::Invalid => (StatusCode::BAD_REQUEST, -32602),
        _ => (StatusCode::SERVICE_UNAVAILABLE, -32603),
    };
    if error.kind() == Kind::Internal {
        tracing::error!(error = ?error, "a session failed");
    }
    let data = json!({"error": error.body()});
    refuse(status, code, error.message(), Some(data))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tower_service::Service as _;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Settings;
    use crate::random::Random;

    async fn send(router: &Router, method: Method, id: &str, message: Value) -> Response {
        let request = axum::http::Request::builder()
            .method(method)
            .uri("/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        let request = if id.is_empty() {
            request
        } else {
            request.header(SESSION, id)
        };
        let request = request.body(Body::from(message.to_string())).unwrap();
        router.clone().call(request).await.unwrap()
    }

    /// Whether the session answers; the answer is read to its end.
    async fn answers(router: &Router, id: &str) -> bool {
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let response = send(router, Method::POST, id, ping).await;
        let text = axum::body::to_bytes(response.into_body(), MAX_BYTES).await;
        String::from_utf8_lossy(&text.unwrap()).contains("\"result\":{}")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_at_rest_takes_no_room_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            data: Some(folder.path().to_owned()),
            ..Settings::default()
        };
        let config = settings.complete(Settings::default()).unwrap();
        let app = App::open(config, Clock::system(), Random::system()).unwrap();
        let (door, router) = routes(&app, true);
        let client = json!({"name": "test", "version": "1"});
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let initialize =
            json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let begun = send(&router, Method::POST, "", initialize).await;
        let id = begun.headers()[SESSION].to_str().unwrap().to_owned();
        drop(begun);
        for _ in 0..3 {
            assert!(answers(&router, &id).await);
            door.rest().await;
            assert!(door.is_live(&id).await, "it was used in this round");
            door.rest().await;
            assert!(!door.is_live(&id).await);
        }
        let stream = send(&router, Method::GET, &id, Value::Null).await;
        for _ in 0..3 {
            door.rest().await;
            assert!(door.is_live(&id).await, "its stream is open");
        }
        drop(stream);
        door.rest().await;
        door.rest().await;
        assert!(!door.is_live(&id).await);
        assert!(answers(&router, &id).await);
    }
}
