//! The short way for plain tool calls over Streamable HTTP: no routing of their own, no layers, no service loop of rmcp.
//! Everything else, every mistake included, goes the long way with the same bytes, and so would a plain call, with the
//! same answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use tower_service::Service;

use super::http::{MODERN, named};
use super::{answer, body, early};
use crate::mcp::{Plain, Shared};

/// What clients accept: both kinds of answer. rmcp judges other spellings.
const ACCEPTS: [&str; 2] = [
    "application/json, text/event-stream",
    "text/event-stream, application/json",
];

/// The service behind a path of Streamable HTTP.
#[derive(Clone)]
pub(super) struct Short {
    pub(super) shared: Arc<Shared>,
    /// The long way.
    pub(super) long: Router,
}

impl Service<Request> for Short {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { shared, mut long } = self.clone();
        Box::pin(async move {
            if tool(request.method(), request.headers()).is_none() {
                return long.call(request).await;
            }
            let (parts, body) = request.into_parts();
            let body = match body::read(body).await {
                Ok(body) => body,
                Err((status, refusal)) => return Ok(answer(status, &refusal)),
            };
            let call = || {
                let path = parts.uri.path().strip_suffix("/mcp")?;
                let path = path.strip_prefix("/t/").filter(|tenant| !tenant.is_empty());
                let bound = shared.app.config.tenant.as_ref();
                let tenant = named(bound, path, &parts.headers).ok()?;
                let call = Plain::read(&shared, tenant.as_ref(), &body)?;
                (tool(&parts.method, &parts.headers)? == call.tool()).then_some(call)
            };
            if let Some(call) = call() {
                return Ok(early::begin_early(respond(call), body).await);
            }
            long.call(Request::from_parts(parts, Body::from(body)))
                .await
        })
    }
}

/// The tool that the headers name, if they are what a plain call comes with.
fn tool<'a>(method: &Method, headers: &'a HeaderMap) -> Option<&'a str> {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    };
    let is_plain = method == Method::POST
        && only("mcp-method")? == "tools/call"
        && only("mcp-protocol-version")? == MODERN
        && only("content-type")? == "application/json"
        && ACCEPTS.contains(&only("accept")?);
    if is_plain { only("mcp-name") } else { None }
}

async fn respond(call: Plain) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, call.answer().await).into_response()
}
