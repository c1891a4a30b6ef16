//! What stands before every request, MCP's included: which host it is addressed to (DNS rebinding), which page sent it
//! (cross-site calls), and what becomes of a handler that panics.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt};
use tower_service::Service;

use super::error::Problem;
use super::listen::Peer;
use super::names::{Names, is_loopback};
use crate::access::Access;
use crate::app::App;
use crate::ctx::System;
use crate::error::{Error, Kind};
use crate::throttle::Pass;
use crate::trace::Trace;

/// Headers that a page of another origin may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "mcp-session-id, mcp-protocol-version, retry-after, allow, www-authenticate",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
/// What every answer says: that it is what it claims to be, and belongs to who asked.
const AS_ANNOUNCED: HeaderValue = HeaderValue::from_static("nosniff");
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");
const BY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");
/// That a browser shall come back over TLS, for a year.
const SECURELY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What everybody may see: whether the server lives, and what it takes.
const OPEN: [&str; 5] = ["/", "/health", "/ready", "/docs", "/openapi.json"];

/// Documents for who looks for a way in (RFC 8615).
const PUBLISHED: &str = "/.well-known/";

/// What stands before every request.
pub(super) struct Guard {
    system: System,
    access: Arc<Access>,
    proxies: Vec<IpAddr>,
    names: Names,
    /// How long browsers may remember what a preflight was answered, in seconds.
    max_age: HeaderValue,
}

impl Guard {
    /// The guard that `config` asks for. An entry that is no host name never matches.
    pub(super) fn new(app: &App) -> Arc<Self> {
        let config = &app.config;
        let origins = config.allowed_origins.iter();
        Arc::new(Self {
            system: app.system.clone(),
            access: app.access.clone(),
            proxies: config.trusted_proxies.clone(),
            names: Names {
                hosts: config
                    .allowed_hosts
                    .iter()
                    .filter_map(|host| host.parse().ok())
                    .collect(),
                origins: origins
                    .map(|origin| origin.trim_end_matches('/').to_owned())
                    .collect(),
                is_secure: config.tls.is_some(),
            },
            max_age: config.cors_max_age.into(),
        })
    }
}

impl Guard {
    /// Finds out who sends the request, and answers it if he may come in.
    async fn let_in<S: Serves>(&self, mut request: Request, inner: S) -> Response {
        let path = request.uri().path();
        let address = self.address(&request);
        let pass = match address.map(|address| self.system.throttle().admit_address(address)) {
            Some(Err(error)) => return Problem::from(error).into_response(),
            Some(Ok(pass)) => pass,
            None => Pass::default(),
        };
        if !OPEN.contains(&path) && !path.starts_with(PUBLISHED) {
            let shown = credential(request.headers());
            match self.access.let_in(shown).await {
                Ok(Some(principal)) => drop(request.extensions_mut().insert(principal)),
                Ok(None) => {}
                Err(error) => {
                    self.access.note_stranger(address);
                    return self.stay_out(error, shown.is_some(), path);
                }
            }
        }
        hold(pass, caught(request, inner).await)
    }

    /// Where a request comes from: the other end of its connection, or what that says, where its word is taken.
    fn address(&self, request: &Request) -> Option<IpAddr> {
        let Peer(peer) = *request.extensions().get::<Peer>()?;
        if !self.proxies.contains(&peer.to_canonical()) {
            return Some(peer);
        }
        // Each proxy adds whom it heard from at the end; what stands before a stranger's word is worth nothing.
        let mut address = peer;
        for named in forwarded(request.headers()).into_iter().rev() {
            let Some(named) = named else { break };
            address = named;
            if !self.proxies.contains(&named) {
                break;
            }
        }
        Some(address)
    }

    /// The answer to who may not come in: with a challenge that leads to where he gets a token, if there is such a place
    /// (RFC 6750 §3, RFC 9728 §5.1).
    fn stay_out(&self, error: Error, has_shown: bool, path: &str) -> Response {
        let is_unknown = error.kind() == Kind::Unauthenticated;
        let mut response = Problem::from(error).into_response();
        if is_unknown {
            let problem = has_shown.then_some("invalid_token");
            let challenge = self.access.challenge(path, problem, None);
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                let headers = response.headers_mut();
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
        }
        response
    }
}

/// Keeps the places of a request until all of its answer has left: a stream goes on for long after its head.
fn hold(pass: Pass, response: Response) -> Response {
    if pass.is_empty() || response.body().size_hint().exact().is_some() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let body = body.into_data_stream().inspect(move |_| {
        let _ = &pass;
    });
    Response::from_parts(parts, Body::from_stream(body))
}

/// Whom proxies say that they forward, the first hop first (RFC 7239 §4, or X-Forwarded-For); `None` for who is hidden.
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let hops = values.flat_map(|value| value.split(','));
        hops.map(|hop| hop.trim().to_owned()).collect()
    };
    let standard = lines("forwarded");
    if standard.is_empty() {
        return lines("x-forwarded-for")
            .iter()
            .map(|hop| address(hop))
            .collect();
    }
    let of_hop = |hop: &String| {
        let mut pairs = hop
            .split(';')
            .filter_map(|pair| pair.trim().split_once('='));
        let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
        address(node.trim_matches('"'))
    };
    standard.iter().map(of_hop).collect()
}

/// An address, with or without brackets and a port.
fn address(node: &str) -> Option<IpAddr> {
    let parsed = node.parse::<IpAddr>().ok();
    let parsed = parsed.or_else(|| node.parse::<SocketAddr>().ok().map(|node| node.ip()));
    let bare = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    parsed.or_else(bare).map(|address| address.to_canonical())
}

/// What somebody shows: `Authorization: Bearer …` (RFC 6750), or `X-API-Key`.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

pub(super) fn first_text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).map(HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// Whatever answers every request, always ready.
pub trait Serves:
    Service<Request, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Serves for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What is served, behind the guard. A layer of the router would be another hop and several allocations for each call.
#[derive(Clone)]
pub struct Guarded<S> {
    guard: Arc<Guard>,
    inner: S,
}

impl<S> Guarded<S> {
    pub(super) fn new(app: &App, inner: S) -> Self {
        Self {
            guard: Guard::new(app),
            inner,
        }
    }
}

impl<S: Serves> Service<Request> for Guarded<S> {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { guard, inner } = self.clone();
        Box::pin(async move { Ok(guard.answer(request, inner).await) })
    }
}

impl Guard {
    async fn answer<S: Serves>(&self, request: Request, inner: S) -> Response {
        let (names, headers) = (&self.names, request.headers());
        let host = names.check_host(request.uri(), headers);
        // Whoever is told of a loopback host would refuse to talk without TLS to anything else on that machine.
        let is_pinned =
            names.is_secure && host.as_ref().is_ok_and(|host| !is_loopback(host.host()));
        let mut response = match host.and_then(|host| names.check_origin(&host, headers)) {
            Ok(None) => self.let_in(request, inner).await,
            Ok(Some(origin)) => Box::pin(self.let_page_in(origin, request, inner)).await,
            Err(problem) => problem.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, AS_ANNOUNCED);
        headers.entry(header::CACHE_CONTROL).or_insert(NOT_KEPT);
        headers.append(header::VARY, BY_ORIGIN);
        if is_pinned {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, SECURELY);
        }
        response
    }

    /// Answers a page of another origin, which may call.
    async fn let_page_in<S: Serves>(
        &self,
        origin: HeaderValue,
        request: Request,
        inner: S,
    ) -> Response {
        let headers = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = if is_preflight {
            self.preflight(headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS))
        } else {
            self.let_in(request, inner).await
        };
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        response
    }

    /// A browser asks whether a page of an allowed origin may send what it is about to send. Any header may come: `mcp-param-…`
    /// have names without end, and none of them counts unless a credential comes with it.
    fn preflight(&self, asked: Option<&HeaderValue>) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        response
    }
}

async fn caught<S: Serves>(request: Request, mut inner: S) -> Response {
    let trace = Trace::of_headers(request.headers());
    let answer = AssertUnwindSafe(inner.call(request)).catch_unwind().await;
    let panic = match answer {
        Ok(Ok(response)) => return response,
        Err(panic) => panic,
    };
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let _span = Trace::span(trace.as_ref()).entered();
    Problem::from(Error::internal(format!("a handler panicked: {text}"))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn proxies_say_whom_they_forward() {
        let v4 = |last| Some(IpAddr::from([192, 0, 2, last]));
        for (name, value, expected) in [
            (
                "x-forwarded-for",
                "192.0.2.1, 192.0.2.2:4711",
                vec![v4(1), v4(2)],
            ),
            (
                "x-forwarded-for",
                "unknown, ::ffff:192.0.2.3",
                vec![None, v4(3)],
            ),
            (
                "forwarded",
                r#"for=192.0.2.1;proto=https, FOR="[2001:db8::1]:80", for=_hidden"#,
                vec![v4(1), "2001:db8::1".parse().ok(), None],
            ),
            ("forwarded", "proto=https", vec![None]),
        ] {
            let name = HeaderName::from_static(name);
            assert_eq!(forwarded(&headers(&[(name, value)])), expected, "{value}");
        }
        assert_eq!(forwarded(&HeaderMap::new()), []);
    }
}
