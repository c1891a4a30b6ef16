//! The bodies of POSTs to `/mcp`: what is no message is answered as JSON-RPC, which rmcp does not do, and a batch of
//! 2025-03-26 is taken apart.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use rmcp::model::{ClientRequest, JsonRpcMessage};

use super::early::{self, Events};
use super::wire::{self, Frame, Item, MAX_BYTES, Refusal};
use super::{MCP_PROTOCOL_VERSION, answer, refuse};

/// Bytes read and thrown away behind the limit, so that the client comes to read the answer.
const DISCARDED: usize = 16 * MAX_BYTES;
/// Time that a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// The middleware.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err((status, refusal)) => return answer(status, &refusal),
    };
    if body.trim_ascii_start().starts_with(b"[") {
        return batch(parts, &body, next).await;
    }
    let takes_long = early::may_take_long(&parts.headers);
    let answer = forward(parts, body.clone(), next);
    if takes_long {
        early::begin_early(answer, body).await
    } else {
        answer.await
    }
}

/// The whole body, if it is within the limit.
pub(super) async fn read(body: Body) -> Result<Bytes, (StatusCode, Refusal)> {
    let announced = body.size_hint().exact();
    let mut chunks = body.into_data_stream();
    let arrival = async {
        let (mut bytes, mut seen) = (Vec::new(), 0);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                let message = format!("the body broke off: {error}");
                (StatusCode::BAD_REQUEST, Refusal::parse(message))
            })?;
            let is_all = announced == u64::try_from(chunk.len()).ok();
            seen += chunk.len();
            if is_all && seen <= MAX_BYTES {
                return Ok(chunk);
            } else if seen <= MAX_BYTES {
                bytes.extend_from_slice(&chunk);
            } else if seen > DISCARDED {
                break;
            }
        }
        if seen > MAX_BYTES {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, Refusal::too_long()));
        }
        Ok(bytes.into())
    };
    tokio::time::timeout(ARRIVAL, arrival)
        .await
        .unwrap_or_else(|_| {
            let message = format!("the body did not arrive within {} s", ARRIVAL.as_secs());
            Err((StatusCode::REQUEST_TIMEOUT, Refusal::invalid(None, message)))
        })
}

/// Hands one message to rmcp. What rmcp can't read is read again, more slowly, to say why.
async fn forward(parts: Parts, body: Bytes, next: Next) -> Response {
    if let Some(refusal) = wire::misread(&body) {
        return answer(StatusCode::OK, &refusal);
    }
    let response = next
        .run(Request::from_parts(parts, Body::from(body.clone())))
        .await;
    if response.status() != StatusCode::UNSUPPORTED_MEDIA_TYPE {
        return response;
    }
    match wire::read(&body) {
        Some(Frame::One(Err(refusal))) => answer(StatusCode::BAD_REQUEST, &refusal),
        None => refuse(StatusCode::BAD_REQUEST, -32700, "the body is empty", None),
        // It is a message, so it was announced as something else.
        Some(_) => response,
    }
}

/// Answers a batch: each of its messages goes on alone, and what comes back goes out on one stream.
async fn batch(parts: Parts, body: &[u8], next: Next) -> Response {
    if !may_batch(&parts.headers) {
        return answer(StatusCode::BAD_REQUEST, &Refusal::no_batch());
    }
    let texts = match std::str::from_utf8(body) {
        Ok(text) => wire::split(text),
        Err(_) => Err(Refusal::parse("the message is not UTF-8")),
    };
    let texts = match texts {
        Ok(texts) => texts,
        Err(refusal) => return answer(StatusCode::BAD_REQUEST, &refusal),
    };
    let (mut answers, mut expects_answer) = (Vec::new(), false);
    for text in texts {
        let item = alone(wire::one(text));
        expects_answer |=
            !matches!(&item, Ok(message) if !matches!(**message, JsonRpcMessage::Request(_)));
        let text = Bytes::copy_from_slice(text.as_bytes());
        let (parts, next) = (parts.clone(), next.clone());
        answers.push(async move {
            let response = match item {
                Ok(_) => forward(parts, text.clone(), next).await,
                Err(refusal) => answer(StatusCode::BAD_REQUEST, &refusal),
            };
            early::events(response, &text)
        });
    }
    let count = answers.len();
    let mut events: Events = stream::iter(answers)
        .buffer_unordered(count)
        .flat_map_unordered(None, |events| events)
        .boxed();
    if expects_answer {
        early::respond(events)
    } else {
        while events.next().await.is_some() {}
        StatusCode::ACCEPTED.into_response()
    }
}

/// Only 2025-03-26 knows batches; its clients don't send the header that came with the next revision.
fn may_batch(headers: &HeaderMap) -> bool {
    headers.contains_key("mcp-session-id")
        && headers
            .get(&MCP_PROTOCOL_VERSION)
            .is_none_or(|version| version == "2025-03-26")
}

/// A session begins with a message of its own.
fn alone(item: Item) -> Item {
    match item {
        Ok(message) => match *message {
            JsonRpcMessage::Request(request)
                if matches!(request.request, ClientRequest::InitializeRequest(_)) =>
            {
                let message = "`initialize` can't be part of a batch";
                Err(Box::new(Refusal::invalid(Some(request.id), message)))
            }
            message => Ok(Box::new(message)),
        },
        refusal => refusal,
    }
}
