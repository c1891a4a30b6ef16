//! The first byte of a long call's answer. rmcp sends nothing, not even headers, before a handler's first message, and
//! proxies and clients give up on a silent answer after a minute or less.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};

/// Silence after which the answer is begun, and then the pause between signs of life.
const SILENCE: Duration = Duration::from_secs(5);
/// The longest answer that is still turned into an event.
const LONGEST: usize = 64 << 20;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

enum Phase {
    /// The answer has not come.
    Waiting(Answer),
    /// It is a stream, which goes on by itself.
    Streaming(BodyDataStream),
    Done,
}

/// Lets a modern tool call's answer begin after a while: `200 text/event-stream`, a comment, then what rmcp answers.
pub(super) async fn commit_early(request: Request, next: Next) -> Response {
    if request
        .headers()
        .get("mcp-method")
        .is_none_or(|method| method != "tools/call")
    {
        return next.run(request).await;
    }
    let mut answer: Answer = Box::pin(next.run(request));
    match tokio::time::timeout(SILENCE, &mut answer).await {
        Ok(response) => response,
        Err(_) => begun(answer),
    }
}

/// Dropping the body drops `answer`, which cancels the call.
fn begun(answer: Answer) -> Response {
    let first = stream::once(async { Ok(Bytes::from_static(b":\n\n")) });
    let rest = stream::unfold(Phase::Waiting(answer), async |phase| match phase {
        Phase::Waiting(mut answer) => match tokio::time::timeout(SILENCE, &mut answer).await {
            Err(_) => Some((Ok(Bytes::from_static(b":\n\n")), Phase::Waiting(answer))),
            Ok(response) => Some(forward(response).await),
        },
        Phase::Streaming(mut body) => body
            .next()
            .await
            .map(|chunk| (chunk, Phase::Streaming(body))),
        Phase::Done => None,
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (
        StatusCode::OK,
        headers,
        Body::from_stream(first.chain(rest)),
    )
        .into_response()
}

async fn forward(response: Response) -> (Result<Bytes, axum::Error>, Phase) {
    let is_stream = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event"));
    if is_stream {
        return (
            Ok(Bytes::from_static(b":\n\n")),
            Phase::Streaming(response.into_body().into_data_stream()),
        );
    }
    // One JSON answer becomes one event; its status can't be told any more.
    let event = axum::body::to_bytes(response.into_body(), LONGEST)
        .await
        .map(|body| Bytes::from([b"event: message\ndata: ", &body[..], b"\n\n"].concat()));
    (event, Phase::Done)
}
