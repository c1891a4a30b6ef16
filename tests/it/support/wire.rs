//! Everything that MCP servers of the tests send, looked at on its way: over HTTP by a layer around the routes, over pipes by
//! what the server reads and writes. What is not as the schema of its revision has it fails the test that heard it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::schema::{Revision, Talk};

/// One client's exchange, which the requests of a session share.
type Shared = Arc<Mutex<Talk>>;

/// What was heard of one server, or of those on one database.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    sessions: HashMap<String, Shared>,
    messages: usize,
    complaints: Vec<String>,
}

impl Wire {
    /// How many messages there were.
    pub(crate) fn messages(&self) -> usize {
        self.0.lock().unwrap().messages
    }

    /// What was wrong with them, told once.
    pub(crate) fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().complaints)
    }

    /// Fails the test if anything was wrong. A test that fails already has enough to say.
    pub(crate) fn judge(&self) {
        let complaints = self.complaints();
        if !std::thread::panicking() {
            assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        }
    }

    fn session(&self, id: &str) -> Option<Shared> {
        self.0.lock().unwrap().sessions.get(id).cloned()
    }

    fn begun(&self, id: &str, talk: &Shared) {
        let sessions = &mut self.0.lock().unwrap().sessions;
        sessions.insert(id.to_owned(), talk.clone());
    }

    fn heard(&self, talk: &Shared, text: &str) {
        let checked = talk.lock().unwrap().heard(text);
        let mut heard = self.0.lock().unwrap();
        match checked {
            Ok(count) => heard.messages += count,
            Err(wrong) => heard.complaints.push(format!("{wrong}\nin {text:.1000}")),
        }
    }

    /// The server's ends of a client's pipes.
    pub(crate) fn pipes<R: Read, W: Write>(&self, input: R, output: W) -> (Input<R>, Output<W>) {
        let talk = Shared::default();
        let input = Input {
            inner: input,
            talk: talk.clone(),
            line: Vec::new(),
        };
        let output = Output {
            inner: output,
            talk,
            wire: self.clone(),
            line: Vec::new(),
        };
        (input, output)
    }
}

/// What the server reads.
pub(crate) struct Input<R> {
    inner: R,
    talk: Shared,
    line: Vec<u8>,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.line.extend_from_slice(&buffer[..count]);
        while let Some(line) = next_line(&mut self.line) {
            self.talk.lock().unwrap().sent(&line);
        }
        if count == 0 {
            self.talk.lock().unwrap().sent(&self.line);
        }
        Ok(count)
    }
}

/// What the server writes.
pub(crate) struct Output<W> {
    inner: W,
    talk: Shared,
    wire: Wire,
    line: Vec<u8>,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // Checked before it is written, so that whoever has read it knows that it was.
        self.line.extend_from_slice(bytes);
        while let Some(line) = next_line(&mut self.line) {
            self.wire.heard(&self.talk, &String::from_utf8_lossy(&line));
        }
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Takes the first line out of `text`, if it is whole.
fn next_line(text: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let rest = text.split_off(end + 1);
    Some(std::mem::replace(text, rest))
}

/// The layer around all that is served: it listens to the routes of MCP.
pub(crate) async fn record_mcp(wire: State<Wire>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let mut ends = ["/mcp", "/sse", "/messages"].iter();
    if !path.starts_with("/.well-known/") && ends.any(|end| path.ends_with(end)) {
        return record(wire, request, next).await;
    }
    next.run(request).await
}

/// The layer around what carries messages.
pub(crate) async fn record(State(wire): State<Wire>, request: Request, next: Next) -> Response {
    let talk = wire.talk_of(&request);
    let (parts, body) = request.into_parts();
    let noted = talk.clone();
    let body = Tee::around(body, move |text, is_end| {
        if is_end {
            noted.lock().unwrap().sent(text);
        }
    });
    let response = next.run(Request::from_parts(parts, body)).await;

    let begun = response.headers().get("mcp-session-id");
    if let Some(id) = begun.and_then(|id| id.to_str().ok()) {
        wire.begun(id, &talk);
    }
    let kind = response.headers().get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.to_owned();
    let (parts, body) = response.into_parts();
    let body = Tee::around(body, move |text: &mut Vec<u8>, is_end| {
        if kind == "text/event-stream" {
            while let Some(at) = text.windows(2).position(|two| two == b"\n\n") {
                let rest = text.split_off(at + 2);
                let event = String::from_utf8(std::mem::replace(text, rest));
                wire.event(&talk, &event.expect("events are UTF-8"));
            }
        } else if kind == "application/json" && is_end {
            wire.heard(&talk, &String::from_utf8_lossy(text));
        }
    });
    Response::from_parts(parts, body)
}

impl Wire {
    /// The exchange that a request belongs to.
    fn talk_of(&self, request: &Request) -> Shared {
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let query = request.uri().query().unwrap_or_default();
        let id = query.strip_prefix("sessionId=");
        let id = id.or_else(|| header("mcp-session-id"));
        let talk = id.and_then(|id| self.session(id));
        let revision = header("mcp-protocol-version").and_then(Revision::named);
        talk.unwrap_or_else(|| Arc::new(Mutex::new(Talk::of(revision))))
    }

    fn event(&self, talk: &Shared, event: &str) {
        let field = |name: &str| {
            let mut values = event.lines().filter_map(|line| line.strip_prefix(name));
            values.next().map(str::trim).unwrap_or_default()
        };
        let data = field("data:");
        if field("event:") == "endpoint" {
            let id = data.split_once("sessionId=").expect("where to post").1;
            self.begun(id, talk);
        } else if !data.is_empty() {
            self.heard(talk, data);
        }
    }
}

/// A body, and who is shown what of it has come, after each piece and at the end.
struct Tee<F> {
    inner: Body,
    seen: Vec<u8>,
    look: F,
    is_over: bool,
}

impl<F: FnMut(&mut Vec<u8>, bool) + Send + Unpin + 'static> Tee<F> {
    fn around(inner: Body, look: F) -> Body {
        Body::new(Self {
            inner,
            seen: Vec::new(),
            look,
            is_over: false,
        })
    }
}

impl<F: FnMut(&mut Vec<u8>, bool) + Send + Unpin> HttpBody for Tee<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.seen.extend_from_slice(data);
        }
        // Who knows the length does not ask for what comes behind it.
        let is_end = frame.is_none() || this.inner.is_end_stream();
        if !this.is_over {
            this.is_over = is_end;
            (this.look)(&mut this.seen, is_end);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
