//! Legacy sessions over Streamable HTTP as the database keeps them, for rmcp to go on with what another process began.
//! rmcp's own store knows neither tenants nor handlers, but it is called in the task of the HTTP request at hand: what
//! it has to know lies there.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::transport::streamable_http_server::session::{
    SessionState, SessionStore, SessionStoreError,
};

use super::session::Session;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::sessions;

tokio::task_local! {
    static AT_HAND: Arc<AtHand>;
}

/// The legacy session that the HTTP request at hand is of, or begins.
#[derive(Default)]
pub(crate) struct AtHand {
    /// As the database has it.
    known: Option<sessions::Session>,
    /// What rmcp wants to be kept of a session that begins.
    state: Mutex<Option<SessionState>>,
    /// The handler of the session, if one was made in this request.
    handler: Mutex<Option<Arc<Session>>>,
}

impl AtHand {
    /// For a request of a session that the database knows, or of none yet.
    pub(crate) fn new(known: Option<sessions::Session>) -> Arc<Self> {
        Arc::new(Self {
            known,
            ..Self::default()
        })
    }

    /// Serves the request.
    pub(crate) async fn scope<T>(self: &Arc<Self>, request: impl Future<Output = T>) -> T {
        AT_HAND.scope(self.clone(), request).await
    }

    /// Keeps the session that rmcp has begun as `id` in this request, in the tenant of `ctx`.
    ///
    /// # Errors
    /// As [`sessions::begin`].
    pub(crate) async fn keep(&self, ctx: &Ctx, id: &str) -> Result<()> {
        let (Some(state), Some(handler)) = (take(&self.state), take(&self.handler)) else {
            return Err(Error::internal("a session without initialize"));
        };
        let begun = handler.begun.get().filter(|begun| begun.is_bound);
        let serves = begun.map(|begun| begun.tenant.clone());
        let initialize = serde_json::to_string(&state).map_err(Error::internal)?;
        sessions::begin(ctx, id, serves, initialize).await?;
        // It could not subscribe before: its client does not know its id yet.
        handler.is_stored_as(id);
        Ok(())
    }
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn put<T>(place: &Mutex<Option<T>>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

/// The session of a handler that is made now: one that goes on, or a new one.
pub(super) fn session_at_hand() -> Arc<Session> {
    let session = Session::new();
    let _ = AT_HAND.try_with(|at_hand| {
        if let Some(known) = &at_hand.known {
            session.is_stored_as(&known.id);
            if let Some(tenant) = known.serves.clone() {
                let _ = session.serves.set(tenant);
            }
        }
        put(&at_hand.handler, session.clone());
    });
    session
}

/// What rmcp asks when it does not have a session. Whether the caller may use it was found out before.
pub(crate) struct Kept;

type Answer<'a, T> =
    Pin<Box<dyn Future<Output = std::result::Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for Kept {
    fn load<'a: 'c, 'b: 'c, 'c>(&'a self, id: &'b str) -> Answer<'c, Option<SessionState>> {
        let state = AT_HAND.try_with(|at_hand| {
            let known = at_hand.known.as_ref().filter(|known| known.id == id);
            known.map(|known| serde_json::from_str(&known.initialize))
        });
        let state = state.ok().flatten().transpose();
        Box::pin(async move { Ok(state?) })
    }

    /// The rest follows once rmcp has answered, where a failure can still be told to the client.
    fn store<'a: 'd, 'b: 'd, 'c: 'd, 'd>(
        &'a self,
        _: &'b str,
        state: &'c SessionState,
    ) -> Answer<'d, ()> {
        let _ = AT_HAND.try_with(|at_hand| put(&at_hand.state, state.clone()));
        Box::pin(async { Ok(()) })
    }

    /// Done before the answer leaves, by who can tell the client of a failure.
    fn delete<'a: 'c, 'b: 'c, 'c>(&'a self, _: &'b str) -> Answer<'c, ()> {
        Box::pin(async { Ok(()) })
    }
}
