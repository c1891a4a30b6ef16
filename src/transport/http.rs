//! MCP over HTTP: Streamable HTTP of both eras on `/mcp`, HTTP+SSE on `/sse` and `/messages`, each also below
//! `/t/{tenant}`. What comes in is checked here before rmcp sees it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use futures::StreamExt;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::plain::{self, Front};
use super::sse::SseServer;
use super::wire::MAX_BYTES;
use super::{
    MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, X_TENANT_ID, answer, body, failed, listen, no_room,
    refuse,
};
use crate::app::App;
use crate::ctx::{Ctx, choose_tenant};
use crate::error::Error;
use crate::id::TenantId;
use crate::mcp::{Beginning, Edge, Kept, Named, Shared, Visit};
use crate::principal::Principal;
use crate::sessions;
use crate::trace::Trace;

/// How long the last answers may take to leave when the server stops.
const FAREWELL: Duration = Duration::from_millis(500);
/// The method whose answer is a stream without end.
const LISTEN: &str = "subscriptions/listen";
/// The method that calls a tool.
const CALL: &str = "tools/call";
/// The methods that have nothing to say.
const ACKNOWLEDGED: [&str; 2] = ["tasks/update", "tasks/cancel"];
const SESSION: &str = "mcp-session-id";
/// The first revision without sessions.
pub(super) const MODERN: &str = "2026-07-28";

/// What the routes share.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    kept: Arc<Kept>,
    /// Room for listeners.
    listeners: Arc<Semaphore>,
    /// Whether plain calls go the short way.
    is_short: bool,
}

/// MCP and the `others`, to be served behind the guard of `http`.
pub fn front(app: &App, others: Router) -> Front {
    routes(app, others, true)
}

/// As [`front`], but rmcp answers every call, for tests that compare.
pub fn front_of_rmcp(app: &App, others: Router) -> Front {
    routes(app, others, false)
}

fn routes(app: &App, others: Router, is_short: bool) -> Front {
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
        kept: Kept::new(&shared),
        listeners: Arc::new(Semaphore::new(app.config.max_listeners)),
        is_short,
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
        move || Ok(Edge::for_one(&factory)),
        door.kept.clone(),
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
    Front::new(shared, others.merge(streamable).merge(sse), is_short)
}

/// Finds the tenant that path, header or process name, and binds the request to it.
async fn name_tenant(
    State(door): State<Door>,
    path: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let from_path = path
        .iter()
        .find(|(name, _)| *name == "tenant")
        .map(|(_, value)| value);
    let (parts, body) = request.into_parts();
    let bound = door.shared.app.config.tenant.as_ref();
    let named = match named(bound, from_path, &parts) {
        Ok(named) => named,
        Err(error) => {
            let principal = parts.extensions.get::<Arc<Principal>>();
            let access = &door.shared.app.access;
            let stray = (principal, Trace::of_headers(&parts.headers));
            access.note_stray(stray, parts.uri.path(), &error).await;
            let data = Some(json!({"error": error.body()}));
            return refuse(StatusCode::BAD_REQUEST, -32602, error.message(), data);
        }
    };
    if let Some(refusal) = step_up(&door.shared, &named, &parts).await {
        return refusal;
    }
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(named);
    next.run(request).await
}

/// [`beyond_scope`] of a modern request, whose headers say what it calls.
async fn step_up(shared: &Shared, named: &Named, parts: &Parts) -> Option<Response> {
    let is_call = parts.headers.get(&MCP_METHOD)? == CALL;
    let tool = parts.headers.get(&MCP_NAME).filter(|_| is_call)?;
    beyond_scope(shared, named, parts.uri.path(), tool.to_str().ok()?).await
}

/// The refusal of a tool that a token's scopes don't reach: by status and challenge, so that the client can ask its user for
/// more (MCP authorization, "Step-Up Authorization Flow"). Who shows a key learns of it by the tool's result.
pub(super) async fn beyond_scope(
    shared: &Shared,
    named: &Named,
    path: &str,
    tool: &str,
) -> Option<Response> {
    let principal = named.principal.as_ref().filter(|who| who.has_token())?;
    let op = shared.app.catalog.op(tool)?;
    let error = principal.admit(op.permission, op.name).err()?;
    let access = &shared.app.access;
    let stray = (Some(principal), named.trace.clone());
    access.note_stray(stray, op.name, &error).await;
    let data = Some(json!({"error": error.body()}));
    let mut response = refuse(StatusCode::FORBIDDEN, -32600, error.message(), data);
    let scope = Some(op.permission.scope());
    let challenge = access.challenge(path, Some("insufficient_scope"), scope);
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    Some(response)
}

/// The tool that a message calls.
fn called(message: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Call {
        method: String,
        params: Tool,
    }
    #[derive(Deserialize)]
    struct Tool {
        name: String,
    }
    let call: Call = serde_json::from_slice(message).ok()?;
    (call.method == CALL).then_some(call.params.name)
}

pub(super) fn named(
    bound: Option<&TenantId>,
    path: Option<&str>,
    parts: &Parts,
) -> Result<Named, Error> {
    let principal = parts.extensions.get::<Arc<Principal>>().cloned();
    let trace = Trace::of_headers(&parts.headers);
    let header = parts.headers.get(&X_TENANT_ID);
    let header = header.map(|value| value.to_str().unwrap_or(""));
    if bound.is_none() && path.is_none() && header.is_none() {
        let tenant = principal
            .as_ref()
            .and_then(|who| who.sole_tenant().cloned());
        return Ok(Named {
            tenant,
            principal,
            trace,
        });
    }
    let places = [("the path", path), ("the header X-Tenant-ID", header)];
    let tenant = choose_tenant(principal.as_deref(), bound, &places)?;
    Ok(Named {
        tenant: Some(tenant),
        principal,
        trace,
    })
}

/// Lets legacy requests into the sessions of their tenant alone, as the database knows them. A foreign session is an
/// unknown one.
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
    let version = request.headers().get(&MCP_PROTOCOL_VERSION);
    request.method() == Method::POST
        && version.is_some_and(|version| version.as_bytes() >= MODERN.as_bytes())
}

/// Modern requests name their method in a header; a request without one may begin a session.
fn is_initialize(request: &Request) -> bool {
    request.method() == Method::POST && !request.headers().contains_key(&MCP_METHOD)
}

impl Door {
    /// Runs a modern request. A listener takes a place until its stream ends.
    async fn admit(&self, request: Request, next: Next) -> Response {
        let method = request.headers().get(&MCP_METHOD);
        let is = |name: &&str| method.is_some_and(|method| method == name);
        if ACKNOWLEDGED.iter().any(is) {
            return self.sign(next.run(request).await).await;
        }
        if !is(&LISTEN) {
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

    /// Says who answers, which rmcp's acknowledgements leave out.
    async fn sign(&self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        let Ok(body) = axum::body::to_bytes(body, MAX_BYTES).await else {
            return failed(&Error::internal("an acknowledgement broke off"));
        };
        let Ok(mut message) = serde_json::from_slice(&body) else {
            return Response::from_parts(parts, Body::from(body));
        };
        self.shared.sign(&mut message);
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, Body::from(message.to_string()))
    }

    /// Serves a request that belongs to no session, and keeps the session if it begins one.
    async fn begin(&self, named: Named, mut request: Request, next: Next) -> Response {
        let tenant = named.tenant();
        if is_initialize(&request)
            && let Err(error) = self.kept.place(&tenant)
        {
            return no_room(&error);
        }
        let beginning = Beginning::default();
        request.extensions_mut().insert(beginning.clone());
        let mut response = next.run(request).await;
        let id = response.headers().get(SESSION);
        let Some(id) = id.and_then(|id| id.to_str().ok()).map(str::to_owned) else {
            return response;
        };
        match beginning.keep(&self.ctx(&named), &id).await {
            Ok(true) => drop(self.kept.enter(&id, &tenant)),
            // `initialize` was refused.
            Ok(false) => drop(response.headers_mut().remove(SESSION)),
            Err(error) => return failed(&error),
        }
        response
    }

    /// Serves a request of the session `id`, on whatever process it was begun.
    async fn go_on(&self, named: Named, id: String, mut request: Request, next: Next) -> Response {
        let ctx = self.ctx(&named);
        let known = match sessions::find(&ctx, &id).await {
            Ok(Some(known)) => known,
            Ok(None) => {
                let message = "there is no such session; initialize a new one";
                return refuse(StatusCode::NOT_FOUND, -32600, message, None);
            }
            Err(error) => return failed(&error),
        };
        if request.method() == Method::DELETE {
            return self.end(&ctx, &known, request, next).await;
        }
        request = match self.within_scope(&named, request).await {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        let live = match self.kept.enter(&id, ctx.tenant()) {
            Ok(live) => live,
            Err(error) => return no_room(&error),
        };
        let visit = match Visit::new(known, named, live) {
            Ok(visit) => visit,
            Err(error) => return failed(&error),
        };
        request.extensions_mut().insert(visit.clone());
        if request.method() == Method::GET {
            return self.listen(visit, request, next).await;
        }
        if !self.is_short {
            return next.run(request).await;
        }
        match plain::in_session(&self.shared, &visit, request).await {
            Ok(response) => response,
            Err(request) => next.run(request).await,
        }
    }

    /// The request of a session as it came, or its refusal by [`beyond_scope`]: its body says what it calls.
    async fn within_scope(&self, named: &Named, request: Request) -> Result<Request, Response> {
        let has_token = named.principal.as_ref().is_some_and(|who| who.has_token());
        if !has_token || request.method() != Method::POST {
            return Ok(request);
        }
        let (parts, body) = request.into_parts();
        let body = body::read(body).await;
        let body = body.map_err(|(status, refusal)| answer(status, &refusal))?;
        if let Some(tool) = called(&body) {
            let refused = beyond_scope(&self.shared, named, parts.uri.path(), &tool).await;
            refused.map_or(Ok(()), Err)?;
        }
        Ok(Request::from_parts(parts, Body::from(body)))
    }

    /// Ends a session, if rmcp finds nothing wrong with the request.
    async fn end(
        &self,
        ctx: &Ctx,
        known: &sessions::Session,
        request: Request,
        next: Next,
    ) -> Response {
        let response = next.run(request).await;
        if response.status().is_success() {
            let system = &self.shared.app.system;
            if let Err(error) = sessions::end(system, ctx.tenant(), known).await {
                return failed(&error);
            }
            self.kept.end(&known.id);
        }
        response
    }

    /// Opens an event stream of a session, if rmcp finds nothing wrong with the request. The rest of an answer that broke
    /// off is rmcp's to send.
    async fn listen(&self, visit: Arc<Visit>, mut request: Request, next: Next) -> Response {
        let last = request.headers().get("last-event-id");
        let last = last.and_then(|last| last.to_str().ok()?.parse::<i64>().ok());
        if last.is_some() {
            request.headers_mut().remove("last-event-id");
        }
        let is_ours = !request.headers().contains_key("last-event-id");
        let response = next.run(request).await;
        if is_ours && response.status() == StatusCode::OK {
            return listen::hear(self.shared.clone(), visit, last).await;
        }
        response
    }

    /// A context for the sessions of the tenant that the request names.
    fn ctx(&self, named: &Named) -> Ctx {
        self.shared.owner(named)
    }
}
