//! How MCP messages come and go: standard input and output, Streamable HTTP, HTTP+SSE.
//!
//! rmcp drives the protocol; what it lacks or gets wrong on the wire is mended here.

mod early;
mod http;
mod line;
mod sse;
pub mod stdio;
mod wire;

use std::sync::Arc;

use crate::app::App;
use crate::mcp::{Edge, Shared};

pub use http::router;

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
