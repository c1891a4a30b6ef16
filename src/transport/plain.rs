//! The short way for plain tool calls over Streamable HTTP: before all routes, without layers or rmcp's service loop.
//! Everything else, every mistake included, goes the long way with the same bytes, and so would a plain call, with the
//! same answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, Method};
use axum::response::{IntoResponse, Response};
use rmcp::model::ProtocolVersion;
use tower_service::Service;

use super::http::{MODERN, named};
use super::{MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, answer, body, early, failed};
use crate::error::Error;
use crate::mcp::{Plain, RETRY, Shared, Visit, number};

/// What clients accept: both kinds of answer. rmcp judges other spellings.
const ACCEPTS: [&str; 2] = [
    "application/json, text/event-stream",
    "text/event-stream, application/json",
];

/// All that is served, with the short way before it.
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
    /// The long way.
    long: Router,
    is_short: bool,
}

impl Front {
    /// What does not go the short way, or nothing does, goes to `long`.
    pub(super) fn new(shared: Arc<Shared>, long: Router, is_short: bool) -> Self {
        Self {
            shared,
            long,
            is_short,
        }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let is_plain = self.is_short
            && tenant(request.uri().path()).is_some()
            && is_plain(request.method(), request.headers());
        if !is_plain {
            return Box::pin(self.long.call(request));
        }
        let (shared, mut long) = (self.shared.clone(), self.long.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body::read(body).await {
                Ok(body) => body,
                Err((status, refusal)) => return Ok(answer(status, &refusal)),
            };
            let call = || {
                let path = Some(tenant(parts.uri.path())?).filter(|tenant| !tenant.is_empty());
                let bound = shared.app.config.tenant.as_ref();
                let named = named(bound, path, &parts).ok()?;
                let call = Plain::read(&shared, &named, &body)?;
                // What a token does not reach is refused by status, which is the long way's.
                let is_his = named
                    .principal
                    .as_ref()
                    .is_none_or(|who| !who.has_token() || call.is_admitted(who));
                (is_his && only(&parts.headers, &MCP_NAME)? == call.tool()).then_some(call)
            };
            if let Some(call) = call() {
                // On the heap once, rather than copied from one future into the next.
                return Ok(early::begin_early(Box::pin(respond(call)), body).await);
            }
            Box::pin(long.call(Request::from_parts(parts, Body::from(body)))).await
        })
    }
}

/// The answer to a plain call in a session, or the request as it came.
pub(super) async fn in_session(
    shared: &Arc<Shared>,
    visit: &Arc<Visit>,
    request: Request,
) -> Result<Response, Request> {
    if !is_plain_in_session(request.method(), request.headers()) {
        return Err(request);
    }
    let (parts, body) = request.into_parts();
    let body = match body::read(body).await {
        Ok(body) => body,
        Err((status, refusal)) => return Ok(answer(status, &refusal)),
    };
    let Some(call) = visit.edge(shared).plain(&body) else {
        return Err(Request::from_parts(parts, Body::from(body)));
    };
    let number = number(shared);
    // It goes on when its client goes.
    let call = shared.pumps.spawn(call.answer());
    Ok(match call.await {
        Ok(message) => events(&message, number),
        Err(error) => failed(&Error::internal(error)),
    })
}

/// Whether a request of a session has the headers that a plain call comes with.
fn is_plain_in_session(method: &Method, headers: &HeaderMap) -> bool {
    let is_known = |version: &str| {
        let known = ProtocolVersion::KNOWN_VERSIONS.iter();
        known
            .map(ProtocolVersion::as_str)
            .any(|known| known == version)
    };
    method == Method::POST
        && only(headers, &CONTENT_TYPE) == Some("application/json")
        && only(headers, &ACCEPT).is_some_and(|accept| ACCEPTS.contains(&accept))
        && (!headers.contains_key(&MCP_PROTOCOL_VERSION)
            || only(headers, &MCP_PROTOCOL_VERSION).is_some_and(is_known))
        && !headers.contains_key(&MCP_METHOD)
}

/// A whole answer, as rmcp sends it: an event without a message first, then one with it.
fn events(message: &[u8], number: u64) -> Response {
    let retry = RETRY.as_millis();
    let (first, last) = (
        format!("data: \nid: 0/{number}\nretry: {retry}\n\ndata: "),
        format!("\nid: 1/{number}\n\n"),
    );
    let body = [first.as_bytes(), message, last.as_bytes()].concat();
    (early::HEADERS, body).into_response()
}

/// The value of a header that there is once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The tenant that a path of Streamable HTTP names, empty for none, if it is such a path.
fn tenant(path: &str) -> Option<&str> {
    if path == "/mcp" {
        return Some("");
    }
    let tenant = path.strip_prefix("/t/")?.strip_suffix("/mcp")?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

/// Whether a request has the headers that a plain call comes with.
fn is_plain(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::POST
        && only(headers, &MCP_METHOD) == Some("tools/call")
        && only(headers, &MCP_PROTOCOL_VERSION) == Some(MODERN)
        && only(headers, &CONTENT_TYPE) == Some("application/json")
        && only(headers, &ACCEPT).is_some_and(|accept| ACCEPTS.contains(&accept))
}

async fn respond(call: Plain) -> Response {
    let headers = [(CONTENT_TYPE, "application/json")];
    (headers, call.answer().await).into_response()
}
