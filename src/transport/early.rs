//! The first byte of a long call's answer. rmcp sends nothing, not even headers, before a handler's first message, and
//! proxies and clients give up on a silent answer after a minute or less.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use serde_json::json;

use super::{MCP_METHOD, wire};

/// Silence after which the answer is begun, and then the pause between signs of life.
const SILENCE: Duration = Duration::from_secs(5);
/// The longest answer that is still turned into an event.
const LONGEST: usize = 64 << 20;
/// A comment, which clients skip.
pub(super) const SIGN_OF_LIFE: Bytes = Bytes::from_static(b":\n\n");

/// What a stream of events is announced with.
pub(super) const HEADERS: [(header::HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-cache"),
    (header::HeaderName::from_static("x-accel-buffering"), "no"),
];

/// Pieces of a stream of events.
pub(super) type Events = BoxStream<'static, Result<Bytes, axum::Error>>;

/// Whether a request with these headers may take long without a word: modern tool calls may.
pub(super) fn may_take_long(headers: &HeaderMap) -> bool {
    headers
        .get(&MCP_METHOD)
        .is_some_and(|method| method == "tools/call")
}

/// Lets the answer to `message` begin after a while: `200 text/event-stream`, a comment, then what rmcp answers.
/// Dropping the response drops `answer`, which cancels the call.
pub(super) async fn begin_early(
    answer: impl Future<Output = Response> + Send + 'static,
    message: Bytes,
) -> Response {
    let mut answer: Pin<Box<dyn Future<Output = Response> + Send>> = Box::pin(answer);
    if let Ok(response) = tokio::time::timeout(SILENCE, &mut answer).await {
        return response;
    }
    let pings = stream::unfold(Some((answer, message)), async |waiting| {
        let (mut answer, message) = waiting?;
        match tokio::time::timeout(SILENCE, &mut answer).await {
            Err(_) => Some((sign_of_life(), Some((answer, message)))),
            Ok(response) => Some((events(response, &message), None)),
        }
    });
    respond(sign_of_life().chain(pings.flatten()).boxed())
}

fn sign_of_life() -> Events {
    stream::once(async { Ok(SIGN_OF_LIFE) }).boxed()
}

/// A stream of events as a response.
pub(super) fn respond(events: Events) -> Response {
    (StatusCode::OK, HEADERS, Body::from_stream(events)).into_response()
}

/// A whole response to `message` as events. Its status can't be told any more.
pub(super) fn events(response: Response, message: &[u8]) -> Events {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is = |wanted: &[u8]| kind.is_some_and(|kind| kind.as_bytes().starts_with(wanted));
    if is(b"text/event-stream") {
        return response.into_body().into_data_stream().boxed();
    }
    if response.status() == StatusCode::ACCEPTED {
        return stream::empty().boxed();
    }
    if is(b"application/json") {
        let body = axum::body::to_bytes(response.into_body(), LONGEST);
        return stream::once(async { body.await.map(|body| event(&body)) }).boxed();
    }
    // What rmcp says in plain text is no message of the protocol.
    let text = format!("the call failed with HTTP status {}", response.status());
    let error = json!({"code": -32603, "message": text});
    let answer = json!({"jsonrpc": "2.0", "id": wire::id(message), "error": error});
    stream::once(async move { Ok(event(answer.to_string().as_bytes())) }).boxed()
}

/// One event that carries `message`.
pub(super) fn event(message: &[u8]) -> Bytes {
    [b"event: message\ndata: ", message, b"\n\n"]
        .concat()
        .into()
}
