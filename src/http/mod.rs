//! The HTTP edge besides MCP: the REST projection of the catalogue, its OpenAPI document and page, and health.
//!
//! It translates only. What MCP needs of HTTP is mounted beside it, behind the same guard.

mod error;
mod guard;
mod http2;
mod input;
mod listen;
mod names;
mod openapi;
mod patient;
mod rest;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures::future::OptionFuture;
use serde_json::json;
use tokio::net::TcpListener;

use crate::access::METADATA;
use crate::app::App;
use crate::tls::Tls;
use error::Problem;
pub use guard::{Guarded, Serves};
use listen::Room;

/// Serves what `front` makes of the routes of REST on `listener`, over TLS if there is a certificate, until the app stops. Then
/// no connection is accepted any more, calls in flight have seven seconds to finish, and what is left is cut. The store must
/// be open until this returns.
///
/// # Errors
/// The listener is not usable.
pub fn serve<S: Serves>(
    app: App,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    front: impl FnOnce(Router) -> S,
) -> impl Future<Output = std::io::Result<()>> {
    let served = guarded(&app, front);
    async move {
        let (config, stopping) = (&app.config, app.stopping().clone());
        let room = Room::new(config.max_connections).shared(&app.system, &config.trusted_proxies);
        let watching = tls.clone().map(|tls| tls.watch(stopping.clone()));
        let port = (listener, tls);
        let serving = listen::listen(port, served, room, stopping, listen::GRACE);
        let (served, _) = tokio::join!(serving, OptionFuture::from(watching));
        served
    }
}

/// All that is served, behind the guard.
pub fn guarded<S: Serves>(app: &App, front: impl FnOnce(Router) -> S) -> Guarded<S> {
    Guarded::new(app, front(router(app).fallback(unknown_path)))
}

/// Everything but MCP, without the guard.
pub fn router(app: &App) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route(METADATA, get(metadata))
        .route(&format!("{METADATA}/{{*path}}"), get(metadata))
        .with_state(app.clone())
        .merge(openapi::router(&app.catalog))
        .merge(openapi::docs())
        .merge(rest::router(app))
        .method_not_allowed_fallback(method_not_allowed)
}

/// Says how clients prove who they are (RFC 9728).
async fn metadata(State(app): State<App>, uri: Uri) -> Result<Response, Problem> {
    let path = uri.path().trim_start_matches(METADATA);
    match app.access.metadata(path) {
        Some(metadata) => Ok(answer(StatusCode::OK, &metadata)),
        None => Err(unknown(uri.path())),
    }
}

/// Says that the process lives, without asking anything else.
async fn health() -> Response {
    let body = json!({"status": "ok", "service": "baton", "version": env!("CARGO_PKG_VERSION")});
    answer(StatusCode::OK, &body)
}

/// Says whether calls can be served: the database can be read and the server does not stop.
async fn ready(State(app): State<App>) -> Response {
    if app.stopping().is_cancelled() {
        return answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "stopping"}),
        );
    }
    match app.system.store().ping().await {
        Ok(()) => answer(
            StatusCode::OK,
            &json!({"status": "ready", "database": "ok"}),
        ),
        Err(error) => {
            tracing::warn!(error = ?error, "not ready: the database can't be read");
            answer(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"status": "not_ready", "database": "unavailable"}),
            )
        }
    }
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, body.to_string()).into_response()
}

async fn unknown_path(request: Request) -> Problem {
    unknown(request.uri().path())
}

fn unknown(path: &str) -> Problem {
    let detail = format!("there is nothing at {path}; /docs shows what there is");
    Problem::new("unknown_path", detail)
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!(
        "{} does not take {}; the Allow header names what it takes",
        request.uri().path(),
        request.method()
    );
    Problem::new("method_not_allowed", detail)
}
