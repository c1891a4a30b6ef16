//! Legacy sessions over Streamable HTTP. The database keeps them, and each request is served by itself, on whatever
//! process it comes to: what is held here is a few hundred bytes for each session that was used lately. rmcp judges the
//! requests and asks [`Kept`] for what it leaves to session managers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use futures::{Stream, StreamExt, stream};
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, GetExtensions,
    InitializeRequestParams, JsonRpcMessage, JsonRpcNotification, JsonRpcRequest, RequestId,
    ServerJsonRpcMessage,
};
use rmcp::service::serve_directly_with_ct;
use rmcp::transport::sink_stream::SinkStreamTransport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionState};
use rmcp::transport::streamable_http_server::{SessionId, SessionManager};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;

use super::server::{Edge, Named};
use super::session::{Begun, Call, Live, Session, Shared, extension, too_many_sessions};
use crate::caller::Level;
use crate::clock::Time;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::questions::{self, Asked};
use crate::quota::Limit;
use crate::rounds::{read_level, shows_forms};
use crate::sessions::{self, Question};
use crate::throttle::{Key, Place};

/// How long a session counts among those in use after its last request.
const IN_USE: Duration = Duration::from_mins(1);
/// When a client may ask again for the rest of an answer that broke off.
pub(crate) const RETRY: Duration = Duration::from_secs(3);
/// Messages of an answer that are held for a client that reads slowly or comes back. Older steps of progress are
/// skipped: the next one says more.
const HELD: usize = 16;

/// A request of a session. It stands among the extensions of the HTTP request.
pub(crate) struct Visit {
    pub(super) id: String,
    pub(super) live: Arc<Live>,
    named: Named,
    serves: Option<TenantId>,
    /// From which level on it wants log messages.
    log_from: Option<Level>,
    /// What `initialize` said, with the revision that was agreed on.
    initialize: InitializeRequestParams,
}

impl Visit {
    /// A request of a session that the database knows.
    ///
    /// # Errors
    /// What is kept of it can't be read.
    pub(crate) fn new(
        known: sessions::Session,
        named: Named,
        live: Arc<Live>,
    ) -> Result<Arc<Self>> {
        let state: SessionState =
            serde_json::from_str(&known.initialize).map_err(Error::internal)?;
        live.named.get_or_init(|| named.clone());
        Ok(Arc::new(Self {
            id: known.id,
            live,
            named,
            serves: known.serves,
            log_from: known
                .log_level
                .and_then(|level| read_level(&level.into()).ok()),
            initialize: state.initialize_params,
        }))
    }

    /// A context for the session itself, as its owner's.
    pub(super) fn owner(&self, shared: &Shared) -> Ctx {
        shared.owner(&self.named)
    }

    /// The tenant that the session is for, where its messages name none.
    pub(super) fn tenant(&self) -> TenantId {
        self.serves.clone().unwrap_or_else(|| self.named.tenant())
    }

    /// A handler for this request alone.
    pub(crate) fn edge(&self, shared: &Arc<Shared>) -> Edge {
        let begun = Begun {
            tenant: self.tenant(),
            is_bound: self.serves.is_some(),
            is_legacy: true,
            client: self.initialize.client_info.clone(),
            shows_forms: shows_forms(&self.initialize.capabilities),
        };
        let place = (self.id.clone(), self.owner(shared));
        let session = Session::kept(place, begun, self.log_from);
        Edge::of(shared, self.named.clone(), session)
    }
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

    /// A place for one more session of `tenant` here. Those that have been at rest for a while make room first.
    ///
    /// # Errors
    /// `too_many_sessions`, or `too_many_calls` for those of the tenant.
    pub(crate) fn place(&self, tenant: &TenantId) -> Result<Place> {
        let most = self.shared.app.config.max_sessions;
        let take = || {
            if self.live.len() >= most {
                return Err(too_many_sessions(most));
            }
            let throttle = self.shared.app.system.throttle();
            throttle.place(Limit::MaxSessionsPerTenant, &Key::Tenant(tenant.clone()))
        };
        take().or_else(|_| {
            let now = self.now();
            self.live.retain(|_, live| {
                let used = Time::from_micros(live.used.load(Ordering::Relaxed));
                // A request or a stream holds another reference.
                Arc::strong_count(live) > 1 || now.since(used) < IN_USE
            });
            take()
        })
    }

    /// Counts the session of `tenant` among those in use.
    ///
    /// # Errors
    /// As [`Kept::place`].
    pub(crate) fn enter(&self, id: &str, tenant: &TenantId) -> Result<Arc<Live>> {
        let known = self.live.get(id).map(|live| live.clone());
        let live = if let Some(live) = known {
            live
        } else {
            let place = self.place(tenant)?;
            let entry = self.live.entry(id.to_owned());
            entry.or_insert_with(|| Live::new(place)).clone()
        };
        live.used.store(self.now().as_micros(), Ordering::Relaxed);
        Ok(live)
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
        let (answers, from_client) = mpsc::channel(HELD);
        let (to_client, mut messages) = mpsc::channel(1);
        visit.live.calls().push(Call {
            number,
            id: request.id.clone(),
            cancel: cancel.clone(),
            said: said.clone(),
            answers: answers.clone(),
        });
        let request = stream::iter([JsonRpcMessage::Request(request)]);
        let transport = SinkStreamTransport::new(
            PollSender::new(to_client),
            request.chain(ReceiverStream::new(from_client)),
        );
        let mut asked = Asked::new(visit.owner(&self.shared), &visit.id, number);
        let (edge, peer) = (visit.edge(&self.shared), visit.initialize.clone());
        let running = serve_directly_with_ct(edge, transport, Some(peer), cancel.clone());
        self.shared.pumps.spawn(async move {
            loop {
                let message = tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    message = messages.recv() => message,
                    () = asked.news() => {
                        for answer in asked.answers().await {
                            // There is room: a call asks one thing after the other.
                            let _ = answers.try_send(answer);
                        }
                        continue;
                    }
                };
                let Some(mut message) = message else { break };
                if let JsonRpcMessage::Request(question) = &mut message {
                    asked.note(&mut question.id).await;
                }
                let is_last = is_answer(&message);
                if is_last {
                    asked.forget().await;
                }
                sender.send_modify(|said| said.say(message));
                if is_last {
                    break;
                }
            }
            visit.live.calls().retain(|call| call.number != number);
            asked.forget().await;
            drop((sender, answers));
            // rmcp waits until it is rid of its last words, such as the answer to what was cancelled.
            while messages.recv().await.is_some() {}
            drop(running);
        });
        said
    }
}

/// Numbers tell answers apart, also those of other processes.
pub(crate) fn number(shared: &Shared) -> u64 {
    let random = shared.app.system.random().u128();
    u64::try_from(random >> 64).unwrap_or_default()
}

fn is_answer(message: &ServerJsonRpcMessage) -> bool {
    matches!(
        message,
        JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)
    )
}

/// What was said in answer to a request so far. Each message is an event whose id is its place and the answer's number.
pub(super) struct Said {
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

/// The answer when rmcp asks for what is not there.
fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl SessionManager for Kept {
    type Error = io::Error;
    type Transport =
        SinkStreamTransport<PollSender<ServerJsonRpcMessage>, ReceiverStream<ClientJsonRpcMessage>>;

    async fn create_session(&self) -> io::Result<(SessionId, Self::Transport)> {
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
    ) -> io::Result<ServerJsonRpcMessage> {
        let (_, (to_handler, mut from_handler)) = self.beginning.remove(id).ok_or_else(gone)?;
        to_handler.send(message).await.map_err(|_| gone())?;
        // The handler that answers ends with its answer: nothing else will come to it.
        drop(to_handler);
        from_handler.recv().await.ok_or_else(gone)
    }

    /// Whoever comes this far names a session that the database knows.
    async fn has_session(&self, _: &SessionId) -> io::Result<bool> {
        Ok(true)
    }

    /// Done by whoever can tell the client of a failure.
    async fn close_session(&self, _: &SessionId) -> io::Result<()> {
        Ok(())
    }

    async fn create_stream(
        &self,
        _: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> io::Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static> {
        let JsonRpcMessage::Request(message) = message else {
            return Err(gone());
        };
        let visit = extension::<Arc<Visit>>(message.request.extensions()).ok_or_else(gone)?;
        Ok(listen_to(self.answer(visit, message), 0))
    }

    /// Of all that clients tell without asking, two things matter here: that they call something off, and the answers to
    /// questions of calls, which may run elsewhere.
    async fn accept_message(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> io::Result<()> {
        let live = self.live.get(&**id).map(|live| live.clone());
        let answered = match &mut message {
            JsonRpcMessage::Response(response) => Some(&mut response.id),
            JsonRpcMessage::Error(error) => error.id.as_mut(),
            JsonRpcMessage::Notification(JsonRpcNotification {
                notification: ClientNotification::CancelledNotification(cancelled),
                ..
            }) => {
                if let (Some(request), Some(live)) = (&cancelled.params.request_id, live) {
                    let calls = live.calls();
                    let called_off = calls.iter().filter(|call| call.id == *request);
                    called_off.for_each(|call| call.cancel.cancel());
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        let unasked = || io::Error::other("no call that runs has asked this");
        let own = answered.and_then(|id| {
            let (call, number) = questions::read_id(id)?;
            *id = RequestId::Number(number);
            Some((call, number))
        });
        let ((call, number), live) = own.zip(live).ok_or_else(unasked)?;
        let here = live
            .calls()
            .iter()
            .find(|it| it.number == call)
            .map(|it| it.answers.clone());
        if let Some(here) = here {
            return here.send(message).await.map_err(|_| gone());
        }
        let owner = live.named.get().map(|named| self.shared.owner(named));
        let question = Question {
            session: id.to_string(),
            call,
            number,
        };
        match questions::hand_on(&owner.ok_or_else(gone)?, question, &message).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(unasked()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Only judged by rmcp; the stream itself is [`super::listen::Hearing`].
    async fn create_standalone_stream(
        &self,
        _: &SessionId,
    ) -> io::Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static> {
        Ok(stream::empty())
    }

    /// The rest of an answer that broke off.
    async fn resume(
        &self,
        id: &SessionId,
        last: String,
    ) -> io::Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static> {
        let (place, number) = last.split_once('/').ok_or_else(gone)?;
        let place: usize = place.parse().map_err(|_| gone())?;
        let number: u64 = number.parse().map_err(|_| gone())?;
        let live = self
            .live
            .get(&**id)
            .map(|live| live.clone())
            .ok_or_else(gone)?;
        let said = live
            .calls()
            .iter()
            .find(|call| call.number == number)
            .map(|call| call.said.clone());
        Ok(listen_to(said.ok_or_else(gone)?, place.saturating_add(1)))
    }
}
