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
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dashmap::DashMap;
use futures::{Stream, StreamExt, stream};
use rmcp::ServiceExt;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, GetExtensions, JsonRpcError,
    JsonRpcMessage, JsonRpcNotification, RequestId, ServerJsonRpcMessage,
};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::http::beyond_scope;
use super::wire::{self, Frame, Refusal};
use super::{answer, body, no_room, refuse};
use crate::error::Error;
use crate::mcp::{Edge, Front, Named, Shared, too_many_sessions};
use crate::presence::Stay;
use crate::quota::Limit;
use crate::throttle::{Key, Place};

/// Requests of one session whose answers the client has not read. rmcp queues answers without bound, so a client that
/// posts and does not read is stopped here.
const UNANSWERED: usize = 64;
/// How long a session may do without `initialize`.
const INITIALIZE: Duration = Duration::from_mins(1);
/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a message may wait for the session to take it, and its client before it sends another one.
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
    owner: Named,
    unanswered: Arc<Unanswered>,
}

/// The requests of a session that have no answer yet.
#[derive(Default)]
struct Unanswered {
    ids: Mutex<HashSet<RequestId>>,
    fewer: Notify,
}

impl Unanswered {
    fn ids(&self) -> MutexGuard<'_, HashSet<RequestId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the requests among `messages`, unless that makes too many.
    fn admit(&self, messages: &[Box<ClientJsonRpcMessage>]) -> bool {
        let mut ids = self.ids();
        let requests = messages.iter().filter_map(|message| match &**message {
            JsonRpcMessage::Request(request) => Some(request.id.clone()),
            _ => None,
        });
        let requests: Vec<_> = requests.collect();
        if !requests.is_empty() && ids.len() + requests.len() > UNANSWERED {
            return false;
        }
        ids.extend(requests);
        drop(ids);
        for message in messages {
            // rmcp never answers a request that was cancelled.
            if let JsonRpcMessage::Notification(JsonRpcNotification {
                notification: ClientNotification::CancelledNotification(cancelled),
                ..
            }) = &**message
                && let Some(id) = &cancelled.params.request_id
            {
                self.settle(id);
            }
        }
        true
    }

    fn settle(&self, id: &RequestId) {
        self.ids().remove(id);
        self.fewer.notify_one();
    }

    /// Returns once the server stops and every request has its answer.
    async fn over(&self, stopping: CancellationToken) {
        stopping.cancelled().await;
        while !self.ids().is_empty() {
            self.fewer.notified().await;
        }
    }
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

/// The stream of a session; dropping it, when the client goes, ends the session.
struct Answers {
    inner: Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>,
    id: String,
    server: SseServer,
    _cancel: DropGuard,
    _place: Place,
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
    let most = server.0.shared.app.config.max_sessions;
    if server.0.live.len() >= most {
        return no_room(&too_many_sessions(most));
    }
    let owner = parts.extensions.get::<Named>().cloned().unwrap_or_default();
    let system = &server.0.shared.app.system;
    let key = Key::Tenant(owner.tenant());
    let place = match system.throttle().place(Limit::MaxSessionsPerTenant, &key) {
        Ok(place) => place,
        Err(error) => return no_room(&error),
    };
    let principal = owner.principal.as_ref();
    let stay = principal.map(|principal| system.presence().stay(principal));
    let id = uuid_like(&server);
    let (to_handler, from_client) = mpsc::channel(16);
    let (to_client, from_handler) = mpsc::channel(64);
    let ended = server.0.kill.child_token();
    let unanswered = Arc::new(Unanswered::default());
    let live = Live {
        to_handler,
        owner: owner.clone(),
        unanswered: unanswered.clone(),
    };
    server.0.live.insert(id.clone(), live);
    let edge = Front(Edge::new(&server.0.shared, owner));
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
    let owing = unanswered.clone();
    let answers = ReceiverStream::new(from_handler).map(move |message| as_event(&message, &owing));
    let inner = stream::iter([endpoint])
        .chain(answers)
        .take_until(async move { unanswered.over(stopping).await })
        .take_until(async move {
            let stay = stay;
            Stay::over(stay.as_ref()).await;
        })
        .map(Ok)
        .boxed();
    let body = Answers {
        inner,
        id,
        server,
        _cancel: ended.drop_guard(),
        _place: place,
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

fn as_event(message: &ServerJsonRpcMessage, unanswered: &Unanswered) -> Event {
    match message {
        JsonRpcMessage::Response(response) => unanswered.settle(&response.id),
        JsonRpcMessage::Error(JsonRpcError { id: Some(id), .. }) => unanswered.settle(id),
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
    let named = parts.extensions.get::<Named>().cloned().unwrap_or_default();
    let Some(live) = session.filter(|live| live.owner.agrees(&named)) else {
        return refuse(
            StatusCode::NOT_FOUND,
            -32600,
            "no such session has its stream in this process; HTTP+SSE sessions live in one process: open /sse again, \
             and with several processes route by sessionId, or use /mcp, whose sessions every process serves",
            None,
        );
    };
    let body = match body::read(body).await {
        Ok(body) => body,
        Err((status, refusal)) => return answer(status, &refusal),
    };
    let messages: Result<Vec<_>, _> = match wire::read(&body) {
        Some(Frame::One(item)) => item.map(|message| vec![message]),
        // The answers to a batch come one by one.
        Some(Frame::Batch(items)) => items.into_iter().collect(),
        None => Err(Box::new(Refusal::parse("the body is empty"))),
    };
    let messages = match messages {
        Ok(messages) => messages,
        Err(refusal) => return answer(StatusCode::BAD_REQUEST, &refusal),
    };
    if let [message] = messages.as_slice()
        && let JsonRpcMessage::Request(request) = &**message
        && let ClientRequest::CallToolRequest(call) = &request.request
    {
        let (shared, tool) = (&server.0.shared, &call.params.name);
        let refused = beyond_scope(shared, &named, parts.uri.path(), tool).await;
        if let Some(refusal) = refused {
            return refusal;
        }
    }
    if !live.unanswered.admit(&messages) {
        return no_room(&Error::limited(
            "too_many_unanswered",
            format!("{UNANSWERED} requests of this session are unanswered; read the answers first"),
            PATIENCE,
        ));
    }
    for mut message in messages {
        match &mut *message {
            JsonRpcMessage::Request(request) => {
                request.request.extensions_mut().insert(parts.clone());
            }
            JsonRpcMessage::Notification(notification) => {
                notification
                    .notification
                    .extensions_mut()
                    .insert(parts.clone());
            }
            _ => {}
        }
        if live
            .to_handler
            .send_timeout(*message, PATIENCE)
            .await
            .is_err()
        {
            return no_room(&Error::unavailable(
                "session_busy",
                "the session takes no more messages",
                PATIENCE,
            ));
        }
    }
    (StatusCode::ACCEPTED, "Accepted").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::App;

    #[tokio::test(start_paused = true)]
    async fn a_session_that_takes_nothing_says_when_to_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::on(folder.path());
        let server = SseServer::new(super::super::shared(&app), CancellationToken::new());
        let (to_handler, _unread) = mpsc::channel(1);
        let live = Live {
            to_handler,
            owner: Named::default(),
            unanswered: Arc::default(),
        };
        server.0.live.insert("s".into(), live);
        let post = async || {
            let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            let address = Address {
                session_id: "s".into(),
            };
            let request = Request::new(Body::from(note));
            message(State(server.clone()), Ok(Query(address)), request).await
        };
        assert_eq!(post().await.status(), StatusCode::ACCEPTED);
        let refused = post().await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "5");
        let body = axum::body::to_bytes(refused.into_body(), 1_000).await;
        let text = String::from_utf8(body.unwrap().into()).unwrap();
        assert!(text.contains("session_busy"), "{text}");
    }
}
