//! How MCP messages come and go: standard input and output, Streamable HTTP, HTTP+SSE.
//!
//! rmcp drives the protocol; what it lacks or gets wrong on the wire is mended here.

mod body;
mod early;
mod http;
mod line;
mod listen;
mod plain;
mod sse;
pub mod stdio;
mod wire;

use std::io::{Read, Write};
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{Error, Kind};
use crate::mcp::{self, Edge, Named, Shared};
use crate::presence::Stay;
use crate::secret::Secret;

pub use http::{front, front_of_rmcp};
pub use plain::Front;
use wire::Refusal;

// Names that are texts are parsed anew for every look.
static MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
static MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");
static MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
static X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Serves one client on standard input and output, until it closes them or the app stops.
pub async fn serve_stdio(app: App) -> anyhow::Result<()> {
    serve_pipes(&app, std::io::stdin(), std::io::stdout(), true).await
}

/// Serves one client on `input` and `output`. Unless the way is to be `short`, rmcp answers every call, for tests that
/// compare.
pub async fn serve_pipes(
    app: &App,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    short: bool,
) -> anyhow::Result<()> {
    let key = app.config.key.as_ref().map(Secret::reveal);
    let principal = app.access.let_in(key).await?;
    let named = Named {
        tenant: app.config.tenant.clone(),
        principal,
        trace: None,
    };
    let presence = app.system.presence();
    let stay = named.principal.as_ref().map(|who| presence.stay(who));
    let edge = Edge::new(&shared(app), named);
    let handler = edge.clone();
    let recognise = move |text: &[u8]| {
        let call = handler.plain(text).filter(|_| short)?;
        Some((call.id().clone(), call.answer().boxed()))
    };
    let stop = app.stopping().child_token();
    let over = async {
        Stay::over(stay.as_ref()).await;
        tracing::warn!("the key is good no longer: what it serves ends");
        stop.cancel();
        std::future::pending().await
    };
    let recognise = Box::new(recognise);
    let pipes = (input, output);
    let serving = Box::pin(stdio::serve_with(
        mcp::Front(edge),
        recognise,
        pipes,
        stop.clone(),
    ));
    tokio::select! {
        served = serving => served,
        never = over => never,
    }
}

/// What the handlers of one process share.
fn shared(app: &App) -> Arc<Shared> {
    Arc::new(Shared::new(app.clone()))
}

/// The answer to text that is no message.
fn answer(status: StatusCode, refusal: &Refusal) -> Response {
    let body = refusal.to_json().to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A JSON-RPC error that belongs to no request.
fn refuse(status: StatusCode, code: i32, message: &str, data: Option<Value>) -> Response {
    let mut error = json!({"code": code, "message": message});
    if let Some(data) = data {
        error["data"] = data;
    }
    let body = json!({"jsonrpc": "2.0", "id": null, "error": error}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
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

/// The answer when there is no room for another stream, session or message.
fn no_room(error: &Error) -> Response {
    let status = match error.kind() {
        Kind::Limited => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = error.body();
    let after = body.retry_after_seconds.map(HeaderValue::from);
    let data = Some(json!({"error": body}));
    let mut response = refuse(status, -32603, error.message(), data);
    if let Some(after) = after {
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    response
}

/// What the targets of `fuzz/` reach of the readers, with what must hold of every text.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz {
    use rmcp::model::{ClientRequest, JsonRpcMessage};

    use super::wire::{self, Frame, Item};
    use super::{App, Arc, Named, Shared, shared};
    use crate::mcp::Plain;

    /// Whatever a line or body holds, each of its messages is read or refused with an error that can be sent.
    pub fn frame(text: &[u8]) {
        let _ = wire::id(text);
        match wire::read(text) {
            None => assert!(text.trim_ascii().is_empty()),
            Some(Frame::One(item)) => check(&item),
            Some(Frame::Batch(items)) => {
                assert!((1..=wire::MAX_BATCH).contains(&items.len()));
                items.iter().for_each(check);
            }
        }
    }

    fn check(item: &Item) {
        match item {
            Ok(message) => {
                let text = serde_json::to_vec(message).expect("what was read can be written");
                let again = wire::read(&text);
                assert!(matches!(again, Some(Frame::One(Ok(_)))), "{again:?}");
            }
            Err(refusal) => {
                assert!([-32700, -32602, -32600].contains(&refusal.error.code.0));
                assert!(!refusal.error.message.is_empty());
                assert_eq!(refusal.to_json()["jsonrpc"], "2.0");
            }
        }
    }

    /// The reader of plain calls.
    pub struct PlainCalls(Arc<Shared>);

    impl PlainCalls {
        /// For the operations of `app`.
        pub fn new(app: &App) -> Self {
            Self(shared(app))
        }

        /// Whatever is taken for a plain call is the same call for rmcp.
        pub fn check(&self, text: &[u8]) {
            let Some(call) = Plain::read(&self.0, &Named::default(), text) else {
                return;
            };
            let Some(Frame::One(Ok(message))) = wire::read(text) else {
                panic!("a plain call is one message")
            };
            let JsonRpcMessage::Request(request) = *message else {
                panic!("a plain call is a request")
            };
            let ClientRequest::CallToolRequest(long) = request.request else {
                panic!("a plain call is a call")
            };
            assert_eq!(&request.id, call.id());
            assert_eq!(long.params.name, call.tool());
            assert_eq!(long.params.arguments.unwrap_or_default(), *call.input());
        }
    }
}
