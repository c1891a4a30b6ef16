//! What happens elsewhere, told to those who listen: legacy sessions that subscribed, and modern
//! `subscriptions/listen` requests. rmcp's own handler of these costs 60 KB a listener and can't read the log before it
//! acknowledges; messages are made of its types, so that they look the same. How they leave is the transport's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    ClientCapabilities, ClientJsonRpcMessage, ClientRequest, CustomNotification, Extensions,
    GetMeta, NotificationMetaObject, PromptListChangedNotification, ProtocolVersion, RequestId,
    RequestMetaObject, ResourceListChangedNotification, ResourceUpdatedNotification,
    ResourceUpdatedNotificationParam, ServerNotification, ServerResult, SubscriptionFilter,
    SubscriptionsAcknowledgedNotification, SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequest, SubscriptionsListenResult, ToolListChangedNotification,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, Peer, RoleServer};
use serde_json::{Value, json};

use super::kept::Visit;
use super::session::{Session, Shared};
use super::{handles, protocol_error};
use crate::ctx::Ctx;
use crate::feed::{Change, Follower, News, What};
use crate::op::{Class, List};
use crate::presence::{Hears, Stay};
use crate::quota::Limit;
use crate::resources;
use crate::sessions::{self, SUBSCRIPTIONS};
use crate::throttle::{Pass, Place};

/// How long a client may leave a notification unread before its session is given up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Notes that somebody wants to hear of a resource whose changes are looked for as long as somebody does.
pub(super) fn hears(ctx: &Ctx, uri: &str) -> Option<Hears> {
    let is_watched = uri.starts_with(resources::BELOW);
    is_watched.then(|| ctx.presence().hear(ctx.tenant(), uri))
}

/// What has changed and is wanted, each once, in the order of the changes.
fn wanted(news: &News, is_wanted: impl Fn(&Change) -> bool) -> Vec<&What> {
    let mut wanted: Vec<&What> = Vec::new();
    for change in news.changes() {
        if is_wanted(change) && !wanted.contains(&&change.what) {
            wanted.push(&change.what);
        }
    }
    wanted
}

/// The message that tells of a change.
fn told(what: &What) -> ServerNotification {
    use ServerNotification as Message;
    match what {
        What::Resource(uri) => {
            let param = ResourceUpdatedNotificationParam::new(uri.as_str());
            Message::ResourceUpdatedNotification(ResourceUpdatedNotification::new(param))
        }
        What::List(List::Tools) => {
            Message::ToolListChangedNotification(ToolListChangedNotification::default())
        }
        What::List(List::Prompts) => {
            Message::PromptListChangedNotification(PromptListChangedNotification::default())
        }
        What::List(List::Resources) => {
            Message::ResourceListChangedNotification(ResourceListChangedNotification::default())
        }
    }
}

/// Tells a legacy session that lives with its handler of changes, until it ends.
pub(super) async fn pump(
    shared: &Arc<Shared>,
    ctx: &Ctx,
    session: &Arc<Session>,
    peer: Peer<RoleServer>,
) {
    let Ok(mut follower) = shared.feeds.follow(ctx).await else {
        tracing::warn!("a session will hear of no changes: the log can't be read");
        return;
    };
    let (ended, stopping) = (session.ended.clone(), shared.app.stopping().clone());
    // An `Arc` would keep the session alive for ever.
    let session = Arc::downgrade(session);
    shared.pumps.spawn(async move {
        loop {
            let news = tokio::select! {
                () = ended.cancelled() => break,
                () = stopping.cancelled() => break,
                news = follower.next() => news,
            };
            let (Ok(news), Some(session)) = (news, session.upgrade()) else {
                break;
            };
            let changes = wanted(&news, |change| session.wants(change));
            drop(session);
            for what in changes {
                let sent = peer.send_notification(told(what));
                if !matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    });
}

/// What whoever listens takes: places under the limits, and the leave of his credential.
pub(crate) struct Leave {
    stay: Stay,
    _places: (Pass, Place),
}

impl Leave {
    /// For somebody who listens to the tenant of `ctx`.
    ///
    /// # Errors
    /// `rate_limited` or `too_many_calls`, with when to come back.
    pub(crate) fn take(ctx: &Ctx) -> crate::error::Result<Self> {
        let place = ctx.place(Limit::MaxListenersPerTenant)?;
        Ok(Self {
            _places: (ctx.admit(Class::Wait)?, place),
            stay: ctx.stay(),
        })
    }

    /// Returns when he may listen no longer.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        Stay::over(Some(&self.stay))
    }
}

/// An event stream of a legacy session that the database keeps.
pub(crate) struct Hearing {
    leave: Leave,
    visit: Arc<Visit>,
    token: Arc<()>,
    follower: Follower,
}

impl Hearing {
    /// Goes on behind the event number `after`, or begins with what is committed from here on.
    ///
    /// # Errors
    /// As [`Leave::take`], or a failure of the database.
    pub(crate) async fn begin(
        shared: &Shared,
        visit: Arc<Visit>,
        after: Option<i64>,
    ) -> crate::error::Result<Self> {
        let leave = Leave::take(&visit.owner(shared))?;
        let ctx = shared.app.system.ctx(visit.tenant(), "mcp");
        let after = after.unwrap_or(i64::MAX);
        let follower = shared.feeds.follow_from(&ctx, after).await?;
        let token = Arc::new(());
        visit.live.tell_by(&token);
        Ok(Self {
            leave,
            visit,
            token,
            follower,
        })
    }

    /// The number of the event up to which its client has heard.
    pub(crate) fn position(&self) -> i64 {
        self.follower.position()
    }

    /// The next messages, each with the number of an event behind which nothing is lost to who comes back; `None` when the
    /// client has ended the session on this process, may listen no longer, or the log can't be read. Dropping the future
    /// loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Vec<(i64, ServerNotification)>> {
        loop {
            let news = tokio::select! {
                () = self.visit.live.ended.cancelled() => return None,
                () = self.leave.over() => return None,
                news = self.follower.next() => news,
            };
            let news = news.inspect_err(|error| {
                tracing::warn!(error = ?error, "a session's stream ends: the log can't be read");
            });
            let news = news.ok()?;
            let changes = wanted(&news, |change| self.wants(change));
            if changes.is_empty() || !self.visit.live.is_told_by(&self.token) {
                continue;
            }
            let last = changes.len() - 1;
            let messages = changes.into_iter().enumerate().map(|(index, what)| {
                let is_last = index == last;
                let so_far = if is_last {
                    self.position()
                } else {
                    news.after()
                };
                (so_far, told(what))
            });
            return Some(messages.collect());
        }
    }

    fn wants(&self, change: &Change) -> bool {
        let sessions = change.sessions.as_ref();
        matches!(change.what, What::List(_))
            || sessions.is_some_and(|sessions| sessions.contains(&self.visit.id))
    }

    /// Whether the session is still known, as far as can be said.
    pub(crate) async fn is_known(&self, shared: &Shared) -> bool {
        let ctx = self.visit.owner(shared);
        !matches!(sessions::find(&ctx, &self.visit.id).await, Ok(None))
    }
}

/// Whether a request is of the era that has `subscriptions/listen`; what is not quite so is rmcp's to refuse.
pub(crate) fn knows_listeners(meta: &RequestMetaObject) -> bool {
    let modern = ProtocolVersion::V_2026_07_28;
    meta.missing_required_keys(&modern).is_empty() && meta.protocol_version() == Some(modern)
}

/// What a listener asks for.
pub(crate) struct Requested {
    filter: SubscriptionFilter,
    /// The handles of the Tasks extension, which rmcp's filter lacks.
    task_ids: Option<Value>,
}

/// Where the handles that a listener names are kept beside rmcp's request.
#[derive(Clone)]
struct TaskIds(Value);

impl Requested {
    /// What `request` asks for, which came with `extensions`.
    pub(crate) fn of(request: SubscriptionsListenRequest, extensions: &Extensions) -> Self {
        let task_ids = extensions.get::<TaskIds>();
        Self {
            filter: request.params.notifications,
            task_ids: task_ids.map(|TaskIds(ids)| ids.clone()),
        }
    }

    /// The handles.
    fn task_ids(&mut self, meta: &RequestMetaObject) -> Result<Option<Vec<String>>, ErrorData> {
        let Some(ids) = self.task_ids.take() else {
            return Ok(None);
        };
        if !meta
            .client_capabilities()
            .is_some_and(|it| it.supports_tasks())
        {
            let required = ClientCapabilities::builder().enable_tasks().build();
            return Err(ErrorData::missing_required_client_capability(required));
        }
        let ids = serde_json::from_value(ids).map_err(|error| {
            let path = "/params/notifications/taskIds";
            let message = format!("subscriptions/listen: {path}: {error}");
            ErrorData::invalid_params(message, Some(json!({"path": path})))
        })?;
        Ok(Some(ids))
    }
}

/// Keeps the handles that a listener names in its request's `text`, where `message` is such a request.
pub(crate) fn keep_task_ids(message: &mut ClientJsonRpcMessage, text: &[u8]) {
    let ClientJsonRpcMessage::Request(message) = message else {
        return;
    };
    let ClientRequest::SubscriptionsListenRequest(request) = &mut message.request else {
        return;
    };
    let text: Result<Value, _> = serde_json::from_slice(text);
    let ids = text.ok().and_then(|mut text| {
        let ids = text.pointer_mut("/params/notifications/taskIds")?;
        Some(ids.take())
    });
    if let Some(ids) = ids {
        request.extensions.insert(TaskIds(ids));
    }
}

/// One `subscriptions/listen` request that is being served.
pub(crate) struct Listener {
    id: RequestId,
    leave: Leave,
    follower: Follower,
    /// What of the filter is honoured.
    accepted: SubscriptionFilter,
    wanted: HashSet<What>,
    /// The handles that it is told of, where it asked for some.
    watching: Option<Box<handles::Watching>>,
    /// Messages that wait for others of the same news.
    ready: Vec<ServerNotification>,
    _hears: Vec<Hears>,
}

impl Listener {
    /// Begins to follow the tenant of `ctx`; what is committed from here on will be told.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn begin(
        shared: &Shared,
        (ctx, leave): (&Ctx, Leave),
        (id, meta): (&RequestId, &RequestMetaObject),
        mut requested: Requested,
    ) -> Result<Self, ErrorData> {
        let task_ids = requested.task_ids(meta)?;
        let follower = shared.feeds.follow(ctx).await;
        let accepted = accepted(shared, ctx, requested.filter);
        let uris = accepted.resource_subscriptions.iter().flatten();
        let watching = match task_ids {
            None => None,
            Some(ids) => Some(
                handles::Watching::begin(&shared.app, ctx, ids)
                    .await?
                    .into(),
            ),
        };
        let lists = [
            (accepted.tools_list_changed, List::Tools),
            (accepted.prompts_list_changed, List::Prompts),
            (accepted.resources_list_changed, List::Resources),
        ];
        let lists = lists
            .into_iter()
            .filter(|(wanted, _)| *wanted == Some(true));
        let lists = lists.map(|(_, list)| What::List(list));
        let hears = uris.clone().filter_map(|uri| hears(ctx, uri));
        Ok(Self {
            _hears: hears.collect(),
            id: id.clone(),
            leave,
            follower: follower.map_err(|error| protocol_error(&error))?,
            wanted: uris.cloned().map(What::Resource).chain(lists).collect(),
            accepted,
            watching,
            ready: Vec::new(),
        })
    }

    /// The first message: what will be told.
    pub(crate) fn acknowledgement(&mut self) -> ServerNotification {
        // Nobody asks again, and a thousand listeners need not remember it.
        let accepted = std::mem::take(&mut self.accepted);
        if let Some(watching) = &self.watching {
            let mut accepted = json!(accepted);
            accepted["taskIds"] = watching.ids().collect();
            let meta = json!({"io.modelcontextprotocol/subscriptionId": self.id});
            let params = json!({"_meta": meta, "notifications": accepted});
            let method = "notifications/subscriptions/acknowledged";
            let message = CustomNotification::new(method, Some(params));
            return ServerNotification::CustomNotification(message);
        }
        let mut message = SubscriptionsAcknowledgedNotification::new(
            SubscriptionsAcknowledgedNotificationParams::new(accepted),
        );
        let mut meta = NotificationMetaObject::new();
        meta.set_subscription_id(self.id.clone());
        message.extensions.insert(meta);
        ServerNotification::SubscriptionsAcknowledgedNotification(message)
    }

    /// The next messages. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn next(&mut self) -> Result<Vec<ServerNotification>, ErrorData> {
        loop {
            if let Some(watching) = &mut self.watching {
                while let Some(message) = watching.next(&self.id).await? {
                    self.ready.push(message);
                }
            }
            if !self.ready.is_empty() {
                return Ok(std::mem::take(&mut self.ready));
            }
            let news = self.follower.next().await;
            let news = news.map_err(|error| protocol_error(&error))?;
            if let Some(watching) = &mut self.watching {
                watching.note(&news);
            }
            let changes = wanted(&news, |change| self.wanted.contains(&change.what));
            let messages: Vec<_> = changes.into_iter().map(|what| self.tell(what)).collect();
            self.ready.extend(messages);
        }
    }

    fn tell(&self, what: &What) -> ServerNotification {
        let mut message = told(what);
        message.get_meta_mut().set_subscription_id(self.id.clone());
        message
    }

    /// Returns when its client may listen no longer.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.leave.over()
    }

    /// The last message, when it is the server that ends it.
    pub(crate) fn farewell(&self, shared: &Shared) -> ServerResult {
        let mut result = SubscriptionsListenResult::complete(self.id.clone());
        result.meta.set_server_info(shared.info.server_info.clone());
        ServerResult::SubscriptionsListenResult(result)
    }

    /// What the request is to be called in an answer.
    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }
}

/// What of a filter is honoured: what the server announces, of resources that can exist and that the caller may read.
fn accepted(shared: &Shared, ctx: &Ctx, requested: SubscriptionFilter) -> SubscriptionFilter {
    let mut accepted = requested.supported_by(&shared.info.capabilities);
    if let Some(uris) = &mut accepted.resource_subscriptions {
        uris.retain(|uri| shared.app.catalog.check_uri(ctx, uri).is_ok());
        // The acknowledgement shows what is left.
        uris.truncate(SUBSCRIPTIONS as usize);
    }
    accepted
        .resource_subscriptions
        .take_if(|uris| uris.is_empty());
    accepted
}

/// Serves a listener on a connection that rmcp drives, until the client cancels or the server stops.
pub(super) async fn serve(
    shared: &Shared,
    ctx: &Ctx,
    requested: Requested,
    cx: &RequestContext<RoleServer>,
) -> Result<ServerResult, ErrorData> {
    let leave = Leave::take(ctx).map_err(|error| protocol_error(&error))?;
    let mut listener = Listener::begin(shared, (ctx, leave), (&cx.id, &cx.meta), requested).await?;
    let gone = |error| ErrorData::internal_error(format!("the client is gone: {error}"), None);
    let first = listener.acknowledgement();
    cx.peer.send_notification(first).await.map_err(gone)?;
    loop {
        let messages = tokio::select! {
            () = cx.ct.cancelled() => break,
            () = shared.app.stopping().cancelled() => break,
            () = listener.over() => break,
            messages = listener.next() => messages?,
        };
        for message in messages {
            cx.peer.send_notification(message).await.map_err(gone)?;
        }
    }
    // rmcp sends no answer to a request that was cancelled.
    Ok(listener.farewell(shared))
}
