//! HTTP+SSE, the transport of 2024-11-05: the client opens a stream, is told where to post, and reads answers there.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dashmap::DashMap;
use futures::{Stream, StreamExt, stream};
use rmcp::ServiceExt;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, GetExtensions, JsonRpcError, JsonRpcMessage,
    JsonRpcNotification, RequestId, ServerJsonRpcMessage,
};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::refuse;
use super::wire::{self, Frame, MAX_BYTES};
use crate::mcp::{Edge, Named, Shared};

/// Sessions at a time.
const SESSIONS: usize = 4_096;
/// Requests of one session whose answers the client has not read. rmcp queues answers without bound, so a client that
/// posts and does not read is stopped here.
const UNANSWERED: usize = 64;
/// How long a session may do without `initialize`.
const INITIALIZE: Duration = Duration::from_mins(1);
/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a message may wait for the session to take it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The open sessions. Cheap to clone.
#[derive(Clone)]
pub(super) struct SseServer(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    kill: CancellationToken,
    live: DashMap<String, Live>,
}

#[derive(Clone)]
struct Live {
    to_handler: mpsc::Sender<ClientJsonRpcMessage>,
    owner: Option<Named>,
    unanswered: Arc<Mutex<HashSet<RequestId>>>,
}

impl SseServer {
    pub(super) fn new(shared: Arc<Shared>, kill: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            shared,
            kill,
            live: DashMap::new(),
        }))
    }
}

fn lock(ids: &Mutex<HashSet<RequestId>>) -> MutexGuard<'_, HashSet<RequestId>> {
    ids.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stream of a session; dropping it, when the client goes, ends the session.
struct Answers {
    inner: Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>,
    id: String,
    server: SseServer,
    _cancel: DropGuard,
}

impl Stream for Answers {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.server.0.live.remove(&self.id);
    }
}

/// `GET /sse`: begins a session. The first event tells where to post.
pub(super) async fn open(State(server): State<SseServer>, parts: Parts) -> Response {
    if server.0.live.len() >= SESSIONS {
        let message = format!("{SESSIONS} sessions are open; try again later");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, -32603, &message, None);
    }
    let owner = parts.extensions.get::<Named>().cloned();
    let id = uuid_like(&server);
    let (to_handler, from_client) = mpsc::channel(16);
    let (to_client, from_handler) = mpsc::channel(64);
    let ended = server.0.kill.child_token();
    let unanswered = Arc::new(Mutex::new(HashSet::new()));
    let live = Live {
        to_handler,
        owner: owner.clone(),
        unanswered: unanswered.clone(),
    };
    server.0.live.insert(id.clone(), live);
    let edge = Edge::new(&server.0.shared, owner.and_then(|owner| owner.0));
    let (running, token) = (server.clone(), ended.clone());
    let session = id.clone();
    server.0.shared.pumps.spawn(async move {
        let transport = (PollSender::new(to_client), ReceiverStream::new(from_client));
        match tokio::time::timeout(INITIALIZE, edge.serve_with_ct(transport, token)).await {
            Ok(Ok(service)) => drop(service.waiting().await),
            Ok(Err(error)) => tracing::debug!(%error, "an SSE session ended before it began"),
            Err(_) => tracing::debug!("an SSE session did not initialize"),
        }
        running.0.live.remove(&session);
    });
    // The path that the client used, with its tenant, if it has one.
    let base = parts.uri.path().trim_end_matches("/sse").to_owned();
    let endpoint = Event::default()
        .event("endpoint")
        .data(format!("{base}/messages?sessionId={id}"));
    let stopping = server.0.shared.app.stopping().clone();
    let answers =
        ReceiverStream::new(from_handler).map(move |message| as_event(&message, &unanswered));
    let inner = stream::iter([endpoint])
        .chain(answers)
        .take_until(stopping.cancelled_owned())
        .map(Ok)
        .boxed();
    let body = Answers {
        inner,
        id,
        server,
        _cancel: ended.drop_guard(),
    };
    let mut response = Sse::new(body)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A session's id can't be guessed: it is all that a message needs.
fn uuid_like(server: &SseServer) -> String {
    let random = server.0.shared.app.system.random();
    format!("{:032x}", random.u128())
}

fn as_event(message: &ServerJsonRpcMessage, unanswered: &Mutex<HashSet<RequestId>>) -> Event {
    match message {
        JsonRpcMessage::Response(response) => {
            lock(unanswered).remove(&response.id);
        }
        JsonRpcMessage::Error(JsonRpcError { id: Some(id), .. }) => {
            lock(unanswered).remove(id);
        }
        _ => {}
    }
    let data = serde_json::to_string(message).unwrap_or_else(|error| {
        tracing::error!(%error, "a message could not be written");
        String::new()
    });
    Event::default().event("message").data(data)
}

/// The query of `/messages`.
#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(rename = "sessionId")]
    session_id: String,
}

/// `POST /messages`: takes one message; its answer comes on the session's stream.
pub(super) async fn message(
    State(server): State<SseServer>,
    address: Result<Query<Address>, QueryRejection>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let session = address.ok().and_then(|address| {
        server
            .0
            .live
            .get(&address.session_id)
            .map(|live| live.clone())
    });
    let Some(live) = session.filter(|live| live.owner.as_ref() == parts.extensions.get::<Named>())
    else {
        return refuse(
            StatusCode::NOT_FOUND,
            -32600,
            "there is no such session; open /sse again",
            None,
        );
    };
    let Ok(body) = axum::body::to_bytes(body, MAX_BYTES).await else {
        let message = format!("a message may have {MAX_BYTES} bytes at most");
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, -32600, &message, None);
    };
    let mut message = match wire::read(&body) {
        Some(Frame::One(Ok(message))) => *message,
        Some(Frame::One(Err(refusal))) => {
            let body = refusal.to_json().to_string();
            return (
                StatusCode::BAD_REQUEST,
                [(header::CONTENT_TYPE, "application/json")],
                body,
            )
                .into_response();
        }
        Some(Frame::Batch(_)) | None => {
            return refuse(
                StatusCode::BAD_REQUEST,
                -32600,
                "send one message a request",
                None,
            );
        }
    };
    if !admit(&live, &message) {
        let text =
            format!("{UNANSWERED} requests of this session are unanswered; read the answers first");
        return refuse(StatusCode::TOO_MANY_REQUESTS, -32603, &text, None);
    }
    match &mut message {
        JsonRpcMessage::Request(request) => {
            request.request.extensions_mut().insert(parts);
        }
        JsonRpcMessage::Notification(notification) => {
            notification.notification.extensions_mut().insert(parts);
        }
        _ => {}
    }
    match live.to_handler.send_timeout(message, PATIENCE).await {
        Ok(()) => (StatusCode::ACCEPTED, "Accepted").into_response(),
        Err(_) => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            -32603,
            "the session does not take messages",
            None,
        ),
    }
}

/// Counts a request as unanswered, unless there are too many already.
fn admit(live: &Live, message: &ClientJsonRpcMessage) -> bool {
    match message {
        JsonRpcMessage::Request(request) => {
            let mut unanswered = lock(&live.unanswered);
            unanswered.len() < UNANSWERED && {
                unanswered.insert(request.id.clone());
                true
            }
        }
        // rmcp never answers a request that was cancelled.
        JsonRpcMessage::Notification(JsonRpcNotification {
            notification: ClientNotification::CancelledNotification(cancelled),
            ..
        }) => {
            if let Some(id) = &cancelled.params.request_id {
                lock(&live.unanswered).remove(id);
            }
            true
        }
        _ => true,
    }
}
