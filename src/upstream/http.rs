//! How messages go to a server over HTTP. All of it leaves through `outbound`, which decides where it may lead, redirect by
//! redirect; rmcp says what is said. Credentials are added here, where nothing logs them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, ErrorData, JsonRpcMessage, ServerJsonRpcMessage,
};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream::{Sse, SseStream};

use super::{MESSAGE, START, Why, Wrong};
use crate::error::{Error, Kind};
use crate::outbound::{Bounds, Incoming, Outside, Request};

/// Bytes of what a server says when it refuses.
const REFUSAL: usize = 64 << 10;
/// Characters of that which are shown.
const SHOWN: usize = 300;
/// Bytes of what comes before and with one answer, however many messages.
const ANSWER: usize = 4 * MESSAGE;
/// Redirects that are followed: many servers lead from /mcp to /mcp/.
const REDIRECTS: usize = 3;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST: HeaderName = HeaderName::from_static("last-event-id");

type Failed = StreamableHttpError<Wrong>;
type Events = BoxStream<'static, Result<Sse, SseError>>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// A way to one server, with what it is shown.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) outside: Outside,
    pub(super) url: String,
    pub(super) headers: HeaderMap,
    pub(super) why: Why,
}

/// How a call begins.
struct Opening {
    method: Method,
    accept: HeaderValue,
    session: Option<Arc<str>>,
    last: Option<String>,
    more: Headers,
}

impl Line {
    /// Calls `url`, and reads its answer bit by bit.
    async fn open(&self, opening: Opening, body: Option<Bytes>) -> Result<Incoming, Wrong> {
        let mut headers = self.headers.clone();
        headers.extend(opening.more);
        headers.insert(ACCEPT, opening.accept);
        if body.is_some() {
            headers.insert(CONTENT_TYPE, JSON);
        }
        for (name, value) in [
            (SESSION, opening.session.as_deref()),
            (LAST, opening.last.as_deref()),
        ] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        let request = Request {
            method: opening.method,
            url: self.url.clone(),
            headers,
            body,
        };
        let bounds = Bounds {
            time: START,
            redirects: REDIRECTS,
            ..Bounds::default()
        };
        self.outside.open(request, &bounds).await.map_err(|error| {
            self.why.set(error);
            Wrong
        })
    }

    /// Says a message, whose answer comes on another way.
    pub(super) async fn say(&self, message: &ClientJsonRpcMessage) -> Result<(), Wrong> {
        let body = serde_json::to_vec(message).map_err(|error| self.wrong(&error.to_string()))?;
        let opening = Opening::of(Method::POST, BOTH);
        let incoming = self.open(opening, Some(body.into())).await?;
        if incoming.status.is_success() {
            return Ok(());
        }
        Err(self.refused(incoming.status, ""))
    }

    /// Listens to what the server says, on and on.
    pub(super) async fn listen(&self) -> Result<Events, Wrong> {
        let incoming = self.open(Opening::of(Method::GET, EVENTS), None).await?;
        if !incoming.status.is_success() || !is(&incoming, &EVENTS) {
            return Err(self.refused(incoming.status, "no events"));
        }
        Ok(self.events(incoming, usize::MAX))
    }

    /// The events of an answer, none of them and not all of them longer than they may be.
    fn events(&self, incoming: Incoming, most: usize) -> Events {
        let state = (incoming, Size::default(), self.why.clone());
        let next = move |(mut incoming, mut size, why): (Incoming, Size, Why)| async move {
            match incoming.chunk().await {
                Ok(None) => Ok(None),
                Ok(Some(chunk)) if size.add(&chunk) && size.total <= most => {
                    Ok(Some((chunk, (incoming, size, why))))
                }
                Ok(Some(_)) => {
                    why.set(too_long());
                    Err(Wrong)
                }
                Err(error) => {
                    why.set(error);
                    Err(Wrong)
                }
            }
        };
        let chunks = futures::stream::try_unfold(state, next);
        SseStream::from_bytes_stream(chunks).boxed()
    }

    /// The body of an answer, if it has at most so many bytes.
    async fn body(&self, incoming: &mut Incoming, most: usize) -> Result<Vec<u8>, Wrong> {
        let mut body = Vec::new();
        loop {
            match incoming.chunk().await {
                Ok(None) => return Ok(body),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) => {
                    self.why.set(error);
                    return Err(Wrong);
                }
            }
            if body.len() > most {
                self.why.set(too_long());
                return Err(Wrong);
            }
        }
    }

    fn wrong(&self, what: &str) -> Wrong {
        let message = format!("the other server answered {what}");
        self.why
            .set(Error::new(Kind::Unavailable, "remote_error", message));
        Wrong
    }

    fn refused(&self, status: StatusCode, said: &str) -> Wrong {
        let said: String = said.chars().take(SHOWN).collect();
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; see to its credentials",
            _ => "",
        };
        self.wrong(&format!("{status}{hint}: {said}"))
    }
}

impl Opening {
    fn of(method: Method, accept: HeaderValue) -> Self {
        Self {
            method,
            accept,
            session: None,
            last: None,
            more: Headers::new(),
        }
    }
}

impl StreamableHttpClient for Line {
    type Error = Wrong;

    async fn post_message(
        &self,
        _: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        more: Headers,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let is_request = matches!(message, JsonRpcMessage::Request(_));
        let has_session = session.is_some();
        let body = serde_json::to_vec(&message)?;
        let opening = Opening {
            session,
            more,
            ..Opening::of(Method::POST, BOTH)
        };
        let mut incoming = self
            .open(opening, Some(body.into()))
            .await
            .map_err(Failed::Client)?;
        let status = incoming.status;
        if matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        if status == StatusCode::NOT_FOUND && has_session {
            return Err(Failed::SessionExpired);
        }
        let begun = incoming.headers.get(&SESSION);
        let begun = begun.and_then(|id| id.to_str().ok()).map(str::to_owned);
        if status.is_success() && is(&incoming, &EVENTS) {
            return Ok(StreamableHttpPostResponse::Sse(
                self.events(incoming, ANSWER),
                begun,
            ));
        }
        let most = if status.is_success() {
            MESSAGE
        } else {
            REFUSAL
        };
        let body = self
            .body(&mut incoming, most)
            .await
            .map_err(Failed::Client)?;
        let said = serde_json::from_slice::<ServerJsonRpcMessage>(&body);
        if status.is_success() {
            return match said {
                Ok(said) => Ok(StreamableHttpPostResponse::Json(said, begun)),
                // What is no request has no answer: whatever this is, it was taken.
                Err(_) if !is_request => Ok(StreamableHttpPostResponse::Accepted),
                Err(_) => Err(Failed::Client(self.wrong("what is no message of MCP"))),
            };
        }
        let is_closed = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if let JsonRpcMessage::Request(request) = &message
            && let ClientRequest::DiscoverRequest(_) = &request.request
            && status.is_client_error()
            && !is_closed
        {
            // Servers of older revisions refuse what they don't know before they read its id.
            let error = match said {
                Ok(JsonRpcMessage::Error(error)) => error.error,
                _ => ErrorData::invalid_request("it knows no server/discover", None),
            };
            let said = ServerJsonRpcMessage::error(error, Some(request.id.clone()));
            return Ok(StreamableHttpPostResponse::Json(said, None));
        }
        match said {
            Ok(said @ JsonRpcMessage::Error(_)) if !is_closed => {
                Ok(StreamableHttpPostResponse::Json(said, begun))
            }
            _ => Err(Failed::Client(
                self.refused(status, &String::from_utf8_lossy(&body)),
            )),
        }
    }

    async fn delete_session(
        &self,
        _: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        more: Headers,
    ) -> Result<(), Failed> {
        let opening = Opening {
            session: Some(session),
            more,
            ..Opening::of(Method::DELETE, BOTH)
        };
        let said = tokio::time::timeout(Duration::from_secs(5), self.open(opening, None)).await;
        // Whether it heard that is its own business.
        said.map(drop).map_err(|_| Failed::Client(Wrong))
    }

    /// An answer that broke off is read on. Nobody here listens to what else a server may say, which would take a connection.
    async fn get_stream(
        &self,
        _: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        _: Option<String>,
        more: Headers,
    ) -> Result<Events, Failed> {
        if last.is_none() {
            return Err(Failed::ServerDoesNotSupportSse);
        }
        let opening = Opening {
            session,
            last,
            more,
            ..Opening::of(Method::GET, EVENTS)
        };
        let incoming = self.open(opening, None).await.map_err(Failed::Client)?;
        match incoming.status {
            status if status.is_success() && is(&incoming, &EVENTS) => {
                Ok(self.events(incoming, ANSWER))
            }
            StatusCode::METHOD_NOT_ALLOWED => Err(Failed::ServerDoesNotSupportSse),
            status => Err(Failed::Client(self.refused(status, "no events"))),
        }
    }
}

fn is(incoming: &Incoming, kind: &HeaderValue) -> bool {
    let found = incoming.headers.get(CONTENT_TYPE);
    found.is_some_and(|found| found.as_bytes().starts_with(kind.as_bytes()))
}

fn too_long() -> Error {
    let message = format!("the other server answered more than {MESSAGE} bytes at once");
    Error::new(Kind::Unavailable, "remote_error", message)
}

/// How long the event is that comes in.
#[derive(Debug, Default, Clone, Copy)]
struct Size {
    event: usize,
    line: usize,
    total: usize,
}

impl Size {
    /// Adds a bit of the stream. False when an event is too long.
    fn add(&mut self, chunk: &[u8]) -> bool {
        self.total = self.total.saturating_add(chunk.len());
        for byte in chunk {
            match byte {
                // An empty line ends an event.
                b'\n' if self.line == 0 => self.event = 0,
                b'\n' => self.line = 0,
                b'\r' => {}
                _ => {
                    self.line += 1;
                    self.event += 1;
                }
            }
            if self.event > MESSAGE {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_event_by_itself_can_be_too_long() {
        let mut size = Size::default();
        let half = [b"data: ".as_slice(), &vec![b'x'; MESSAGE / 2], b"\r\n\r\n"].concat();
        for _ in 0..5 {
            assert!(size.add(&half));
        }
        let lines = [b"data: ".as_slice(), &vec![b'x'; MESSAGE / 3], b"\n"].concat();
        let mut size = Size::default();
        assert!(size.add(&lines) && size.add(&lines));
        assert!(!size.add(&lines));
    }
}
