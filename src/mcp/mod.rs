//! The MCP edge: one handler for every transport and era, which only translates between the protocol and the catalogue.
//!
//! rmcp drives the protocol; what it lacks or gets wrong on the wire is mended here (`wire`, `early`, `http`, `sse`).

mod content;
mod early;
mod http;
mod line;
mod listen;
mod server;
mod sse;
pub mod stdio;
mod tools;
mod wire;

use std::sync::Arc;

use rmcp::ErrorData;
use rmcp::model::ErrorCode;
use serde_json::json;

use crate::app::App;
use crate::error::{Error, Kind};

pub use http::router;
use server::{Edge, Shared};

/// An error that is the protocol's and not a tool's: JSON-RPC shows it.
fn protocol_error(error: &Error) -> ErrorData {
    let code = match error.kind() {
        Kind::Invalid | Kind::NotFound => ErrorCode::INVALID_PARAMS,
        Kind::Unauthenticated | Kind::Forbidden => ErrorCode::INVALID_REQUEST,
        Kind::Conflict | Kind::Limited | Kind::Unavailable | Kind::Cancelled | Kind::Internal => {
            ErrorCode::INTERNAL_ERROR
        }
    };
    log(error);
    ErrorData::new(
        code,
        error.message().to_owned(),
        Some(json!({"error": error.body()})),
    )
}

/// A fault of ours goes to the log with its source, once.
fn log(error: &Error) {
    if error.kind() == Kind::Internal {
        tracing::error!(error = ?error, "a call failed");
    }
}

/// Serves one client on standard input and output, until it closes them or the app stops.
pub async fn serve_stdio(app: App) -> anyhow::Result<()> {
    let edge = Edge::new(&shared(&app), app.config.tenant.clone());
    stdio::serve(
        edge,
        std::io::stdin(),
        std::io::stdout(),
        app.stopping().clone(),
    )
    .await
}

/// What the handlers of one process share.
fn shared(app: &App) -> Arc<Shared> {
    Arc::new(Shared::new(app.clone()))
}
