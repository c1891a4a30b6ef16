//! Legacy sessions over Streamable HTTP. The database keeps them, and each request is served by itself, on whatever
//! process it comes to: what is held here is a few hundred bytes for each session that was used lately. rmcp judges the
//! requests and asks [`Kept`] for what it leaves to session managers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use futures::{Stream, stream};
use http::request::Parts;
use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, Extensions, GetExtensions, GetMeta,
    InitializeRequestParams, JsonRpcMessage, JsonRpcNotification, JsonRpcRequest, RequestId,
    ServerJsonRpcMessage, ServerResult,
};
use rmcp::service::serve_directly_with_ct;
use rmcp::transport::OneshotTransport;
use rmcp::transport::sink_stream::SinkStreamTransport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionState};
use rmcp::transport::streamable_http_server::{SessionId, SessionManager};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, PollSender};

use super::server::{Edge, Named, meta_tenant};
use super::session::{Begun, Session, Shared};
use crate::clock::Time;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::sessions;

/// How long a session counts among those in use after its last request.
const IN_USE: Duration = Duration::from_mins(1);
/// When a client may ask again for the rest of an answer that broke off.
pub(crate) const RETRY: Duration = Duration::from_secs(3);
/// Messages of an answer that are held for a client that reads slowly or comes back. Older steps of progress are
/// skipped: the next one says more.
const HELD: usize = 16;

/// A session that is in use on this process.
pub(crate) struct Live {
    used: AtomicI64,
    /// Cancelled when its client ends it here.
    pub(super) ended: CancellationToken,
    /// Which of its event streams tells of changes; the protocol wants no message on two.
    teller: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

/// A request that is being answered.
struct Call {
    number: u64,
    id: RequestId,
    cancel: CancellationToken,
    said: watch::Receiver<Said>,
}

impl Live {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            used: AtomicI64::new(0),
            ended: CancellationToken::new(),
            teller: AtomicU64::new(0),
            calls: Mutex::default(),
        })
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the stream `number` the one that tells: the newest, since older ones may be dead without a sign.
    pub(super) fn tells(&self, number: u64) {
        self.teller.store(number, Ordering::Relaxed);
    }

    /// Whether the stream `number` is the one to tell. When that one has gone, whoever asks first is.
    pub(super) fn is_told_by(&self, number: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        let teller = self.teller.compare_exchange(0, number, relaxed, relaxed);
        teller.is_ok() || teller == Err(number)
    }

    pub(super) fn tells_no_more(&self, number: u64) {
        let relaxed = Ordering::Relaxed;
        let _ = self.teller.compare_exchange(number, 0, relaxed, relaxed);
    }
}

/// A request of a session. It stands among the extensions of the HTTP request.
pub(crate) struct Visit {
    pub(crate) id: String,
    /// The tenant that the session belongs to.
    pub(crate) owner: TenantId,
    pub(crate) live: Arc<Live>,
    named: Named,
    serves: Option<TenantId>,
    /// What `initialize` said, with the revision that was agreed on.
    initialize: InitializeRequestParams,
}

impl Visit {
    /// The tenant that the session is for, where its messages name none.
    pub(crate) fn tenant(&self) -> &TenantId {
        self.serves.as_ref().unwrap_or(&self.owner)
    }

    /// A handler for this request alone.
    pub(crate) fn edge(&self, shared: &Arc<Shared>) -> Edge {
        let begun = Begun {
            tenant: self.tenant().clone(),
            is_bound: self.serves.is_some(),
            is_legacy: true,
            client: self.initialize.client_info.clone(),
        };
        let session = Session::kept(self.id.clone(), begun);
        Edge::of(shared, self.named.0.clone(), session)
    }
}

/// What a request that begins a session leaves for whoever sends its answer.
#[derive(Clone, Default)]
pub(crate) struct Beginning(Arc<OnceLock<(SessionState, Option<TenantId>)>>);

impl Beginning {
    /// Keeps the session that has begun as `id` in the tenant of `ctx`, and says whether one has.
    ///
    /// # Errors
    /// As [`sessions::begin`].
    pub(crate) async fn keep(&self, ctx: &Ctx, id: &str) -> Result<bool> {
        let Some((state, serves)) = self.0.get() else {
            return Ok(false);
        };
        let initialize = serde_json::to_string(state).map_err(Error::internal)?;
        sessions::begin(ctx, id, serves.clone(), initialize).await?;
        Ok(true)
    }

    /// Notes what was asked and answered.
    fn note(&self, asked: Option<Asked>, answer: &ServerJsonRpcMessage) {
        if let (Some((mut params, tenant)), JsonRpcMessage::Response(answer)) = (asked, answer)
            && let ServerResult::InitializeResult(result) = &answer.result
        {
            params.protocol_version = result.protocol_version.clone();
            let _ = self.0.set((SessionState::new(params), tenant));
        }
    }
}

/// The params of an `initialize`, and the tenant that its `_meta` names.
type Asked = (InitializeRequestParams, Option<TenantId>);

fn asked(message: &ClientJsonRpcMessage) -> Option<Asked> {
    let JsonRpcMessage::Request(JsonRpcRequest { request, .. }) = message else {
        return None;
    };
    let tenant = meta_tenant(request.get_meta()).and_then(|tenant| tenant.parse().ok());
    match request {
        ClientRequest::InitializeRequest(request) => Some((request.params.clone(), tenant)),
        _ => None,
    }
}

fn extension<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> Option<T> {
    extensions.get::<Parts>()?.extensions.get::<T>().cloned()
}

/// The two ends of a handshake that rmcp carries out.
type Handshake = (
    mpsc::Sender<ClientJsonRpcMessage>,
    mpsc::Receiver<ServerJsonRpcMessage>,
);

/// The sessions in use.
pub(crate) struct Kept {
    shared: Arc<Shared>,
    live: DashMap<String, Arc<Live>>,
    beginning: DashMap<SessionId, Handshake>,
}

impl Kept {
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared: shared.clone(),
            live: DashMap::new(),
            beginning: DashMap::new(),
        })
    }

    fn now(&self) -> Time {
        self.shared.app.system.clock().steady()
    }

    /// Whether one more session may be used here. Those that have been at rest for a while are forgotten first.
    pub(crate) fn has_room(&self) -> bool {
        let most = self.shared.app.config.max_sessions;
        if self.live.len() >= most {
            let now = self.now();
            self.live.retain(|_, live| {
                let used = Time::from_micros(live.used.load(Ordering::Relaxed));
                // A request or a stream holds another reference.
                Arc::strong_count(live) > 1 || now.since(used) < IN_USE
            });
        }
        self.live.len() < most
    }

    /// Counts the session among those in use, if there is room.
    pub(crate) fn enter(&self, id: &str) -> Option<Arc<Live>> {
        let known = self.live.get(id).map(|live| live.clone());
        let live = match known {
            Some(live) => live,
            None if !self.has_room() => return None,
            None => self
                .live
                .entry(id.to_owned())
                .or_insert_with(Live::new)
                .clone(),
        };
        live.used.store(self.now().as_micros(), Ordering::Relaxed);
        Some(live)
    }

    /// A request of the session, which the database knows.
    ///
    /// # Errors
    /// What is kept of it can't be read.
    pub(crate) fn visit(
        known: sessions::Session,
        named: Named,
        live: Arc<Live>,
    ) -> Result<Arc<Visit>> {
        let state: SessionState =
            serde_json::from_str(&known.initialize).map_err(Error::internal)?;
        Ok(Arc::new(Visit {
            id: known.id,
            owner: named.tenant(),
            live,
            named,
            serves: known.serves,
            initialize: state.initialize_params,
        }))
    }

    /// Ends what goes on here of a session that is no more.
    pub(crate) fn end(&self, id: &str) {
        if let Some((_, live)) = self.live.remove(id) {
            live.ended.cancel();
        }
    }

    /// Serves one request. It goes on when its client goes: only `notifications/cancelled` calls it off.
    fn answer(
        &self,
        visit: Arc<Visit>,
        request: JsonRpcRequest<ClientRequest>,
    ) -> watch::Receiver<Said> {
        let number = number(&self.shared);
        let (sender, said) = watch::channel(Said::new(number));
        let cancel = visit.live.ended.child_token();
        visit.live.calls().push(Call {
            number,
            id: request.id.clone(),
            cancel: cancel.clone(),
            said: said.clone(),
        });
        let (transport, mut messages) =
            OneshotTransport::<RoleServer>::new(JsonRpcMessage::Request(request));
        let (edge, peer) = (visit.edge(&self.shared), visit.initialize.clone());
        let running = serve_directly_with_ct(edge, transport, Some(peer), cancel.clone());
        self.shared.pumps.spawn(async move {
            loop {
                let message = tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    message = messages.recv() => message,
                };
                let Some(message) = message else { break };
                let is_last = is_answer(&message);
                sender.send_modify(|said| said.say(message));
                if is_last {
                    break;
                }
            }
            visit.live.calls().retain(|call| call.number != number);
            drop(sender);
            // rmcp waits until it is rid of its last words, such as the answer to what was cancelled.
            while messages.recv().await.is_some() {}
            drop(running);
        });
        said
    }
}

/// Numbers tell answers and streams apart, also those of other processes. None is 0.
pub(crate) fn number(shared: &Shared) -> u64 {
    let random = shared.app.system.random().u128();
    u64::try_from(random >> 64).unwrap_or_default().max(1)
}

fn is_answer(message: &ServerJsonRpcMessage) -> bool {
    matches!(
        message,
        JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)
    )
}

/// What was said in answer to a request so far. Each message is an event whose id is its place and the answer's number.
struct Said {
    number: u64,
    /// The place of the next one.
    next: usize,
    held: VecDeque<ServerSseMessage>,
}

impl Said {
    /// Begins with an event without a message, so that the client has an id to come back with.
    fn new(number: u64) -> Self {
        let first = ServerSseMessage::priming(format!("0/{number}"), RETRY);
        Self {
            number,
            next: 1,
            held: VecDeque::from([first]),
        }
    }

    fn say(&mut self, message: ServerJsonRpcMessage) {
        if self.held.len() >= HELD {
            self.held.pop_front();
        }
        let id = format!("{}/{}", self.next, self.number);
        self.held.push_back(ServerSseMessage::new(id, message));
        self.next += 1;
    }

    /// The first event that is held from `place` on, with the place behind it.
    fn from(&self, place: usize) -> Option<(ServerSseMessage, usize)> {
        let first = self.next - self.held.len();
        let place = place.max(first);
        let event = self.held.get(place - first)?.clone();
        Some((event, place + 1))
    }
}

/// What is said from `place` on.
fn listen_to(
    said: watch::Receiver<Said>,
    place: usize,
) -> impl Stream<Item = ServerSseMessage> + Send + Sync + 'static {
    stream::unfold((said, place), async |(mut said, place)| {
        let found = said.wait_for(|said| said.from(place).is_some()).await;
        let (event, next) = found.ok()?.from(place)?;
        Some((event, (said, next)))
    })
}

/// Why rmcp can't be given what it asks for.
#[derive(Debug)]
pub(crate) struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is no more")
    }
}

impl std::error::Error for Gone {}

impl SessionManager for Kept {
    type Error = Gone;
    type Transport =
        SinkStreamTransport<PollSender<ServerJsonRpcMessage>, ReceiverStream<ClientJsonRpcMessage>>;

    async fn create_session(&self) -> std::result::Result<(SessionId, Self::Transport), Gone> {
        // It can't be guessed: within its tenant it is all that a request needs.
        let id: SessionId = format!("{:032x}", self.shared.app.system.random().u128()).into();
        let (to_handler, from_client) = mpsc::channel(1);
        let (to_client, from_handler) = mpsc::channel(1);
        self.beginning
            .insert(id.clone(), (to_handler, from_handler));
        let (sink, stream) = (PollSender::new(to_client), ReceiverStream::new(from_client));
        Ok((id, SinkStreamTransport::new(sink, stream)))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> std::result::Result<ServerJsonRpcMessage, Gone> {
        let (_, (to_handler, mut from_handler)) = self.beginning.remove(id).ok_or(Gone)?;
        let beginning = match &message {
            JsonRpcMessage::Request(message) => {
                extension::<Beginning>(message.request.extensions())
            }
            _ => None,
        };
        let asked = asked(&message);
        to_handler.send(message).await.map_err(|_| Gone)?;
        // The handler that answers ends with its answer.
        drop(to_handler);
        let answer = from_handler.recv().await.ok_or(Gone)?;
        beginning.ok_or(Gone)?.note(asked, &answer);
        Ok(answer)
    }

    /// Whoever comes this far names a session that the database knows.
    async fn has_session(&self, _: &SessionId) -> std::result::Result<bool, Gone> {
        Ok(true)
    }

    /// Done by whoever can tell the client of a failure.
    async fn close_session(&self, _: &SessionId) -> std::result::Result<(), Gone> {
        Ok(())
    }

    async fn create_stream(
        &self,
        _: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> std::result::Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Gone>
    {
        let JsonRpcMessage::Request(message) = message else {
            return Err(Gone);
        };
        let visit = extension::<Arc<Visit>>(message.request.extensions()).ok_or(Gone)?;
        Ok(listen_to(self.answer(visit, message), 0))
    }

    /// Of all that clients tell without asking, one thing matters here.
    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> std::result::Result<(), Gone> {
        if let JsonRpcMessage::Notification(JsonRpcNotification {
            notification: ClientNotification::CancelledNotification(cancelled),
            ..
        }) = message
            && let Some(request) = cancelled.params.request_id
            && let Some(live) = self.live.get(&**id)
        {
            let calls = live.calls();
            let called_off = calls.iter().filter(|call| call.id == request);
            called_off.for_each(|call| call.cancel.cancel());
        }
        Ok(())
    }

    /// Only judged by rmcp; the stream itself is [`super::listen::Hearing`].
    async fn create_standalone_stream(
        &self,
        _: &SessionId,
    ) -> std::result::Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Gone>
    {
        Ok(stream::empty())
    }

    /// The rest of an answer that broke off.
    async fn resume(
        &self,
        id: &SessionId,
        last: String,
    ) -> std::result::Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Gone>
    {
        let (place, number) = last.split_once('/').ok_or(Gone)?;
        let place: usize = place.parse().map_err(|_| Gone)?;
        let number: u64 = number.parse().map_err(|_| Gone)?;
        let live = self.live.get(&**id).map(|live| live.clone()).ok_or(Gone)?;
        let said = live
            .calls()
            .iter()
            .find(|call| call.number == number)
            .map(|call| call.said.clone());
        Ok(listen_to(said.ok_or(Gone)?, place.saturating_add(1)))
    }
}
