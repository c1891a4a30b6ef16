//! Those who listen over HTTP, modern `subscriptions/listen` requests and event streams of legacy sessions: a stream
//! that belongs to no task, so that an idle listener costs little more than its connection. Whatever is not quite such
//! a request goes on to rmcp, which says what is wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use rmcp::ErrorData;
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, ErrorCode, GetMeta, RequestId, RequestMetaObject,
    ServerJsonRpcMessage, ServerNotification,
};

use super::http::MODERN;
use super::wire::MAX_BYTES;
use super::{MCP_METHOD, MCP_PROTOCOL_VERSION, early, failed, no_room, refuse};
use crate::ctx::Ctx;
use crate::error::Kind;
use crate::mcp::{
    Hearing, Leave, Listener, Named, RETRY, Requested, Shared, Visit, keep_task_ids,
    knows_listeners, protocol_error,
};

/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a session's stream looks whether the session was ended on another process.
const LOOK: Duration = Duration::from_secs(5);
const METHOD: &str = "subscriptions/listen";

/// The middleware.
pub(super) async fn serve(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if !is_for_us(request.headers()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BYTES).await else {
        return refuse(StatusCode::BAD_REQUEST, -32700, "the body broke off", None);
    };
    let Some((id, meta, requested)) = read(&body) else {
        return next.run(Request::from_parts(parts, Body::from(body))).await;
    };
    let named = parts.extensions.get::<Named>().cloned();
    let begun = async {
        let ctx = ctx(&shared, &named.unwrap_or_default(), &meta).await?;
        let leave = match Leave::take(&ctx) {
            Ok(leave) => leave,
            Err(error) => return Ok(Err(error)),
        };
        let listener = Listener::begin(&shared, (&ctx, leave), (&id, &meta), requested).await;
        listener.map(Ok)
    };
    match begun.await {
        Ok(Ok(listener)) => stream(shared.clone(), listener),
        Ok(Err(error)) => no_room(&error),
        Err(error) => {
            // As rmcp says it of other methods.
            let status = match error.code {
                ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY => StatusCode::BAD_REQUEST,
                _ => StatusCode::OK,
            };
            let answer = ServerJsonRpcMessage::error(error, Some(id));
            (
                status,
                [(header::CONTENT_TYPE, "application/json")],
                text(&answer),
            )
                .into_response()
        }
    }
}

/// By its headers; rmcp answers those that lack one.
fn is_for_us(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, wanted: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().is_some_and(|value| value == wanted) && values.next().is_none()
    };
    is(&MCP_METHOD, METHOD)
        && is(&MCP_PROTOCOL_VERSION, MODERN)
        && has_media_type(headers, &header::CONTENT_TYPE, "application/json")
        && has_media_type(headers, &header::ACCEPT, "application/json")
        && has_media_type(headers, &header::ACCEPT, "text/event-stream")
}

fn has_media_type(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|value| value.split(';').next())
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// The request in `body`, if rmcp would find nothing wrong with it.
fn read(body: &[u8]) -> Option<(RequestId, RequestMetaObject, Requested)> {
    let mut message = serde_json::from_slice(body).ok()?;
    keep_task_ids(&mut message, body);
    let ClientJsonRpcMessage::Request(message) = message else {
        return None;
    };
    let meta = message.request.get_meta().clone();
    match message.request {
        ClientRequest::SubscriptionsListenRequest(request) if knows_listeners(&meta) => {
            let requested = Requested::of(request.clone(), &request.extensions);
            Some((message.id, meta, requested))
        }
        _ => None,
    }
}

/// The context of a listener.
async fn ctx(shared: &Shared, named: &Named, meta: &RequestMetaObject) -> Result<Ctx, ErrorData> {
    match shared.ctx(named, meta) {
        Ok(ctx) => Ok(ctx),
        Err(error) => {
            let stray = (named.principal.as_ref(), named.trace(meta));
            let access = &shared.app.access;
            access.note_stray(stray, METHOD, &error).await;
            Err(protocol_error(&error))
        }
    }
}

/// What the stream of a listener says next. The stream holds it twice.
enum Stage {
    Acknowledge(Box<Listener>),
    Listen(Box<Listener>),
    Over,
}

fn stream(shared: Arc<Shared>, listener: Listener) -> Response {
    let pieces = stream::unfold(Stage::Acknowledge(Box::new(listener)), move |stage| {
        let shared = shared.clone();
        async move {
            match stage {
                Stage::Acknowledge(mut listener) => {
                    let first = listener.acknowledgement();
                    let piece = event(&ServerJsonRpcMessage::notification(first));
                    Some((piece, Stage::Listen(listener)))
                }
                Stage::Listen(listener) => Some(step(&shared, listener).await),
                Stage::Over => None,
            }
        }
    });
    early::respond(pieces.map(Ok).boxed())
}

async fn step(shared: &Shared, mut listener: Box<Listener>) -> (Bytes, Stage) {
    let over = listener.over();
    let over = async {
        tokio::select! {
            () = shared.stopping().cancelled() => {}
            () = over => {}
        }
    };
    let messages = tokio::select! {
        () = over => {
            let last = listener.farewell(shared);
            let last = ServerJsonRpcMessage::response(last, listener.id().clone());
            return (event(&last), Stage::Over);
        }
        messages = listener.next() => messages,
        () = tokio::time::sleep(KEEP_ALIVE) => {
            return (early::SIGN_OF_LIFE, Stage::Listen(listener));
        }
    };
    match messages {
        Ok(messages) => {
            let messages = messages.into_iter().map(ServerJsonRpcMessage::notification);
            let pieces: Vec<_> = messages.map(|message| event(&message)).collect();
            (pieces.concat().into(), Stage::Listen(listener))
        }
        Err(error) => {
            let last = ServerJsonRpcMessage::error(error, Some(listener.id().clone()));
            (event(&last), Stage::Over)
        }
    }
}

fn text(message: &ServerJsonRpcMessage) -> String {
    serde_json::to_string(message).unwrap_or_else(|error| {
        tracing::error!(%error, "a message could not be written");
        String::new()
    })
}

/// As rmcp writes it.
fn event(message: &ServerJsonRpcMessage) -> Bytes {
    format!("data: {}\n\n", text(message)).into()
}

/// The event stream of a session, from behind the event number `after`, if the client has heard so far before.
pub(super) async fn hear(shared: Arc<Shared>, visit: Arc<Visit>, after: Option<i64>) -> Response {
    let hearing = match Hearing::begin(&shared, visit, after).await {
        Ok(hearing) => hearing,
        Err(error) if error.kind() == Kind::Limited => return no_room(&error),
        Err(error) => return failed(&error),
    };
    let first = format!(
        "data: \nid: {}\nretry: {}\n\n",
        hearing.position(),
        RETRY.as_millis()
    );
    let pieces = stream::unfold((Box::new(hearing), 0), move |(mut hearing, silence)| {
        let shared = shared.clone();
        async move {
            let (piece, silence) = piece_of(&shared, &mut hearing, silence).await?;
            Some((piece, (hearing, silence)))
        }
    });
    let first = stream::once(async { Bytes::from(first) });
    early::respond(first.chain(pieces).map(Ok).boxed())
}

/// What a session's stream says next, and for how many looks it has been silent then; `None` at its end.
async fn piece_of(
    shared: &Shared,
    hearing: &mut Hearing,
    mut silence: u32,
) -> Option<(Bytes, u32)> {
    loop {
        tokio::select! {
            () = shared.stopping().cancelled() => return None,
            messages = hearing.next() => {
                // Who is cut off comes back, and goes on where it was.
                let pieces: Vec<_> = messages?.into_iter().map(numbered).collect();
                return Some((pieces.concat().into(), 0));
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        if !hearing.is_known(shared).await {
            return None;
        }
        silence += 1;
        if LOOK * silence >= KEEP_ALIVE {
            return Some((early::SIGN_OF_LIFE, 0));
        }
    }
}

fn numbered((number, message): (i64, ServerNotification)) -> Bytes {
    let message = ServerJsonRpcMessage::notification(message);
    format!("data: {}\nid: {number}\n\n", text(&message)).into()
}
