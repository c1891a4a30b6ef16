//! MCP over HTTP: Streamable HTTP of both eras on `/mcp`, HTTP+SSE on `/sse` and `/messages`, each also below
//! `/t/{tenant}`. What comes in is checked here before rmcp sees it.

use std::sync::Arc;
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
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::plain::Short;
use super::sse::SseServer;
use super::wire::MAX_BYTES;
use super::{body, no_room, refuse, too_many_sessions};
use crate::app::App;
use crate::ctx::choose_tenant;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::mcp::{Edge, NAMED, Named, Shared};

/// How long a legacy session may be idle. rmcp counts neither an open stream nor a running call as activity.
const SESSION_IDLE: Duration = Duration::from_hours(1);
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
    /// The tenant that each legacy session was begun for.
    owners: Arc<DashMap<String, Named>>,
    /// Room for listeners.
    listeners: Arc<Semaphore>,
}

/// All routes of MCP, to be mounted behind the guard of `http`.
pub fn router(app: &App) -> Router {
    routes(app, true)
}

/// As [`router`], but rmcp answers every call, for tests that compare.
pub fn router_of_rmcp(app: &App) -> Router {
    routes(app, false)
}

fn routes(app: &App, short: bool) -> Router {
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
        owners: Arc::default(),
        listeners: Arc::new(Semaphore::new(app.config.max_listeners)),
    };
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(true)
        .with_json_response(true)
        .with_max_request_body_bytes(MAX_BYTES)
        .with_cancellation_token(kill.clone())
        // The guard before these routes checks hosts and origins for everything that is served.
        .disable_allowed_hosts();
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
        .layer(from_fn(body::check))
        .layer(from_fn_with_state(door.clone(), check_session))
        .layer(from_fn_with_state(door.clone(), name_tenant));
    let sse = Router::new()
        .route("/sse", get(super::sse::open))
        .route("/t/{tenant}/sse", get(super::sse::open))
        .route("/messages", post(super::sse::message))
        .route("/t/{tenant}/messages", post(super::sse::message))
        .with_state(sse)
        .layer(from_fn_with_state(door, name_tenant));
    if !short {
        return streamable.merge(sse);
    }
    let short = Short {
        shared,
        long: streamable,
    };
    Router::new()
        .route_service("/mcp", short.clone())
        .route_service("/t/{tenant}/mcp", short)
        .merge(sse)
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

/// Binds legacy sessions to the tenant that they were begun for: rmcp lets whoever knows the id in. A foreign session is
/// an unknown one.
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
    let is_get = request.method() == Method::GET;
    if let Some(id) = &id {
        let is_owner = door
            .owners
            .get(id)
            .is_some_and(|owner| owner.agrees(&named));
        if !is_owner {
            return refuse(
                StatusCode::NOT_FOUND,
                -32600,
                "there is no such session; initialize a new one",
                None,
            );
        }
        if request.method() == Method::DELETE {
            door.owners.remove(id);
        }
    } else if is_initialize(&request) && !door.has_room().await {
        return no_room(&too_many_sessions(door.shared.app.config.max_sessions));
    }
    let response = next.run(request).await;
    if id.is_none()
        && let Some(new) = response
            .headers()
            .get(SESSION)
            .and_then(|id| id.to_str().ok())
    {
        door.owners.insert(new.to_owned(), named);
    }
    if is_get {
        until_stopped(response, door.shared.app.stopping().clone())
    } else {
        response
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

    /// Whether another session may begin. Sessions that rmcp has given up are forgotten here first.
    async fn has_room(&self) -> bool {
        let most = self.shared.app.config.max_sessions;
        if self.owners.len() >= most {
            let live = self.manager.sessions.read().await;
            self.owners.retain(|id, _| live.contains_key(id.as_str()));
        }
        self.owners.len() < most
    }
}

/// A session's event stream has no end of its own, which would hold up the end of the server.
fn until_stopped(response: Response, stopping: CancellationToken) -> Response {
    let (parts, body) = response.into_parts();
    let body = body
        .into_data_stream()
        .take_until(stopping.cancelled_owned());
    Response::from_parts(parts, Body::from_stream(body.map(|chunk| chunk)))
}
