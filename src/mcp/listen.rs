//! What happens elsewhere, told to those who listen: legacy sessions that subscribed, and modern
//! `subscriptions/listen` streams. Both follow the tenant's log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{SubscriptionContext, SubscriptionSendError};
use rmcp::{ErrorData, Peer, RoleServer};

use super::session::{SUBSCRIPTIONS, Session, Shared};
use super::{content, protocol_error};
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::events::{Event, Follow};

/// How long a client may leave a notification unread before its session is given up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each changed resource once, in the order of the changes.
fn changes(catalog: &Catalog, events: &[Event]) -> Vec<String> {
    let mut uris: Vec<String> = Vec::new();
    for uri in events.iter().flat_map(|event| catalog.changed_by(event)) {
        if !uris.contains(&uri) {
            uris.push(uri);
        }
    }
    uris
}

/// Tells a legacy session of changes, until it ends.
pub(super) async fn pump(
    shared: &Arc<Shared>,
    ctx: &Ctx,
    session: &Arc<Session>,
    peer: Peer<RoleServer>,
) {
    let Ok(mut follow) = Follow::from_now(ctx).await else {
        tracing::warn!("a session will hear of no changes: the log can't be read");
        return;
    };
    let (catalog, ended, stopping) = (
        shared.app.catalog.clone(),
        session.ended.clone(),
        shared.app.stopping().clone(),
    );
    // An `Arc` would keep the session alive for ever.
    let session = Arc::downgrade(session);
    shared.pumps.spawn(async move {
        loop {
            let events = tokio::select! {
                () = ended.cancelled() => break,
                () = stopping.cancelled() => break,
                events = follow.next() => events,
            };
            let (Ok(events), Some(session)) = (events, session.upgrade()) else {
                break;
            };
            let mut uris = changes(&catalog, &events);
            uris.retain(|uri| session.subscribed().contains(uri));
            drop(session);
            for uri in uris {
                let sent = peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri));
                if !matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    });
}

/// What of a filter is honoured: updates of resources that can exist, and changes of lists (which never change yet).
pub(super) fn accepted(catalog: &Catalog, requested: &SubscriptionFilter) -> SubscriptionFilter {
    let mut accepted = requested.clone();
    if let Some(uris) = &mut accepted.resource_subscriptions {
        uris.retain(|uri| content::is_known_kind(catalog, uri));
        // The acknowledgement shows what is left.
        uris.truncate(SUBSCRIPTIONS);
    }
    accepted
}

/// Tells a modern listener of changes, until it cancels or the server stops.
pub(super) async fn listen(
    shared: &Shared,
    session: &Session,
    ctx: &Ctx,
    cx: &SubscriptionContext,
) -> Result<(), ErrorData> {
    let mut follow = match session.take_before(ctx.tenant()) {
        Some(follow) => follow,
        None => Follow::from_now(ctx)
            .await
            .map_err(|error| protocol_error(&error))?,
    };
    let sink = cx.sink().clone();
    let wanted = cx.accepted().resource_subscriptions.clone();
    let wanted: HashSet<String> = wanted.unwrap_or_default().into_iter().collect();
    loop {
        let events = tokio::select! {
            () = cx.cancelled() => return Ok(()),
            () = shared.app.stopping().cancelled() => return Ok(()),
            events = follow.next() => events.map_err(|error| protocol_error(&error))?,
        };
        for uri in changes(&shared.app.catalog, &events) {
            if !wanted.contains(&uri) {
                continue;
            }
            match sink.notify_resource_updated(uri).await {
                Ok(()) | Err(SubscriptionSendError::NotificationNotAccepted(_)) => {}
                Err(_) => return Ok(()),
            }
        }
    }
}
