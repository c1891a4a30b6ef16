//! MCP over a pair of byte streams, one JSON message a line: a thread that reads, a thread that writes, and rmcp's
//! service loop between them. Knows neither methods nor tenants; nothing but JSON-RPC ever goes to the output.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Sink, Stream};
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, GetMeta, JsonRpcMessage,
    ProtocolVersion, RequestId, ServerJsonRpcMessage,
};
use rmcp::service::{RoleServer, ServerInitializeError};
use rmcp::{Service, ServiceExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::line::{Line, Open};
use super::wire::{self, Frame, Item, MAX_BYTES, Refusal};

/// What one read takes from the system, and the most messages that cross to the runtime at once.
const READ_BYTES: usize = 64 << 10;
const HANDOVER: usize = 64;
/// The three parts of the second within which [`serve`] returns once the input has ended: answers on their way, the
/// service's own farewell, the last write.
const LAST_ANSWERS: Duration = Duration::from_millis(700);
const FAREWELL: Duration = Duration::from_millis(80);
const LAST_WRITE: Duration = Duration::from_millis(120);

/// What can be answered without rmcp: the request's id, and a future of the whole answer.
pub(super) type Call = (RequestId, BoxFuture<'static, Vec<u8>>);
/// Recognises, in a session that has begun, what can be answered without rmcp.
pub(super) type Short = Box<dyn Fn(&[u8]) -> Option<Call> + Send>;

/// Serves until the input ends, the output breaks or `stop` is cancelled, and then returns within a second.
///
/// The reading thread may still hang in its read afterwards; it ends with the process.
///
/// # Errors
///
/// A thread can't be started, or the service itself refused the handshake.
pub async fn serve<S: Service<RoleServer>>(
    service: S,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve_with(service, Box::new(|_| None), (input, output), stop).await
}

/// As [`serve`]; what `short` recognises goes the short way.
pub(super) async fn serve_with<S: Service<RoleServer>>(
    service: S,
    short: Short,
    (input, output): (impl Read + Send + 'static, impl Write + Send + 'static),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let line = Arc::new(Line::default());
    let (sender, receiver) = mpsc::channel(4);
    let inbound = Inbound {
        receiver,
        current: Vec::new().into_iter(),
        line: line.clone(),
        supported: service.supported_protocol_versions().into_owned(),
        opened: false,
    };
    let writer = line.clone();
    std::thread::Builder::new()
        .name("stdout".to_owned())
        .spawn(move || writer.write_all(output))?;
    let cancel = CancellationToken::new();
    let reader = Reader {
        line: line.clone(),
        sender,
        messages: Vec::new(),
        short,
        calls: TaskTracker::new(),
        cancel: cancel.clone(),
    };
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            reader.run(input);
        })?;

    let session = run(service, (Outbound(line.clone()), inbound), cancel.clone());
    tokio::pin!(session);
    let ended = tokio::select! {
        result = &mut session => Some(result),
        () = line.over(&stop, LAST_ANSWERS) => None,
    };
    cancel.cancel();
    let ended = match ended {
        Some(result) => result,
        // What the handlers say to being cancelled is a courtesy: nobody waits long for it.
        None => tokio::time::timeout(FAREWELL, session)
            .await
            .unwrap_or(Ok(())),
    };
    line.close();
    // A client that does not read must not keep the process alive.
    let _ = tokio::time::timeout(LAST_WRITE, line.finished.cancelled()).await;
    ended
}

async fn run<S: Service<RoleServer>>(
    service: S,
    transport: (Outbound, Inbound),
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    match service.serve_with_ct(transport, cancel).await {
        Ok(running) => running.waiting().await.map(drop).map_err(Into::into),
        // A client that only asks what this is, and leaves, has done nothing wrong.
        Err(
            ServerInitializeError::ConnectionClosed(_)
            | ServerInitializeError::Cancelled
            | ServerInitializeError::TransportError { .. },
        ) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The thread that reads.
struct Reader {
    line: Arc<Line>,
    sender: mpsc::Sender<Vec<ClientJsonRpcMessage>>,
    /// Read, but not handed over yet: one wake-up of the runtime for all that came in one read.
    messages: Vec<ClientJsonRpcMessage>,
    short: Short,
    /// Calls on the short way that wait for the store.
    calls: TaskTracker,
    cancel: CancellationToken,
}

impl Reader {
    fn run(mut self, input: impl Read) {
        let mut input = BufReader::with_capacity(READ_BYTES, input);
        let mut partial = Vec::new();
        let mut skipping = false;
        loop {
            let chunk = match input.fill_buf() {
                Ok([]) => break,
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "the input can't be read any more");
                    break;
                }
            };
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let piece = &chunk[..end.unwrap_or(chunk.len())];
            if !skipping && partial.len() + piece.len() > MAX_BYTES {
                skipping = true;
                partial = Vec::new();
                self.line.refuse(&Refusal::too_long(), None);
            }
            if !skipping {
                if end.is_some() && partial.is_empty() {
                    self.take(piece);
                } else {
                    partial.extend_from_slice(piece);
                    if end.is_some() {
                        self.take(&partial);
                        partial.clear();
                    }
                }
            }
            skipping &= end.is_none();
            let used = end.map_or(piece.len(), |end| end + 1);
            input.consume(used);
            if input.buffer().is_empty() && !self.hand_over() {
                break;
            }
        }
        // The last line may lack its newline, or have been cut off: either way it deserves an answer.
        self.take(&partial);
        self.hand_over();
        self.line.ended.cancel();
    }

    fn take(&mut self, text: &[u8]) {
        if self.line.has_begun()
            && let Some(call) = (self.short)(text)
        {
            return self.answer(call);
        }
        match wire::read(text) {
            None => {}
            Some(Frame::One(item)) => self.pass(item, None),
            Some(Frame::Batch(_)) if !self.line.takes_batches() => {
                self.line.refuse(&Refusal::no_batch(), None);
            }
            Some(Frame::Batch(items)) => {
                let answers = |item: &Item| match item {
                    Ok(message) => matches!(**message, JsonRpcMessage::Request(_)),
                    Err(_) => true,
                };
                let missing = items.iter().filter(|item| answers(item)).count();
                let number = self.line.gather(missing);
                for item in items {
                    self.pass(item, Some(number));
                }
            }
        }
    }

    /// Answers a call on the short way: at once if it does not wait, which a read of SQLite never does.
    fn answer(&mut self, (id, mut answer): Call) {
        if let Err(refusal) = self.admit(&id, Open::default()) {
            return self.line.refuse(&refusal, None);
        }
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(text) = answer.as_mut().poll(&mut context) {
            return self.line.answer(&id, &text);
        }
        let (line, cancel) = (self.line.clone(), self.cancel.clone());
        self.calls.spawn(async move {
            if let Some(text) = cancel.run_until_cancelled(answer).await {
                line.answer(&id, &text);
            }
        });
    }

    /// Waits for room for a request, and notes that it will be answered.
    fn admit(&mut self, id: &RequestId, open: Open) -> Result<(), Refusal> {
        // Waiting for room while messages wait here would be waiting for oneself.
        if self.messages.len() >= HANDOVER || self.line.crowded() {
            self.hand_over();
        }
        self.line.admit(id, open)
    }

    fn pass(&mut self, item: Item, batch: Option<u64>) {
        let message = match item {
            Ok(message) => *message,
            Err(refusal) => return self.line.refuse(&refusal, batch),
        };
        if let JsonRpcMessage::Request(request) = &message {
            let lasting = matches!(
                request.request,
                ClientRequest::SubscriptionsListenRequest(_)
            );
            if let Err(refusal) = self.admit(&request.id, Open { batch, lasting }) {
                return self.line.refuse(&refusal, batch);
            }
        }
        self.messages.push(message);
        if self.messages.len() >= HANDOVER {
            self.hand_over();
        }
    }

    /// False when nobody listens any more.
    fn hand_over(&mut self) -> bool {
        self.messages.is_empty()
            || self
                .sender
                .blocking_send(std::mem::take(&mut self.messages))
                .is_ok()
    }
}

/// Messages for rmcp.
struct Inbound {
    receiver: mpsc::Receiver<Vec<ClientJsonRpcMessage>>,
    current: std::vec::IntoIter<ClientJsonRpcMessage>,
    line: Arc<Line>,
    supported: Vec<ProtocolVersion>,
    opened: bool,
}

impl Inbound {
    /// Until it knows which era it speaks, rmcp ends the session at the first message that is no request. This is its
    /// own rule for when it knows.
    fn admits(&mut self, message: &ClientJsonRpcMessage) -> bool {
        let JsonRpcMessage::Request(request) = message else {
            if !self.opened {
                tracing::debug!("a notification before the first request is ignored");
            }
            return self.opened;
        };
        self.opened = self.opened
            || match &request.request {
                ClientRequest::InitializeRequest(_) => true,
                ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => false,
                other => {
                    let meta = other.get_meta();
                    meta.missing_required_keys(&ProtocolVersion::V_2026_07_28)
                        .is_empty()
                        && meta
                            .protocol_version()
                            .is_some_and(|version| self.supported.contains(&version))
                }
            };
        true
    }
}

impl Stream for Inbound {
    type Item = ClientJsonRpcMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.opened {
            // rmcp asks for more only after the handshake.
            self.line.begin();
        }
        loop {
            while let Some(message) = self.current.next() {
                if let JsonRpcMessage::Notification(notification) = &message
                    && let ClientNotification::CancelledNotification(cancelled) =
                        &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.line.forget(id);
                }
                if self.admits(&message) {
                    return Poll::Ready(Some(message));
                }
            }
            match self.receiver.poll_recv(context) {
                Poll::Ready(Some(messages)) => self.current = messages.into_iter(),
                // `serve` decides when it is over: rmcp would stop serving its handlers' notifications at once.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Messages from rmcp.
struct Outbound(Arc<Line>);

impl Sink<ServerJsonRpcMessage> for Outbound {
    type Error = Infallible;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.0.has_room(context) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn start_send(self: Pin<&mut Self>, message: ServerJsonRpcMessage) -> Result<(), Infallible> {
        self.0.send(&message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}
