//! Handles: what a client holds that follows a long call instead of waiting for it. A handle remembers in the database
//! what its call began, so every process can say where it stands, also after a restart. How clients speak of handles is
//! `mcp`'s; where a call stands, and what it asks, is its operation's ([`crate::op::Follow`]).

mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::access;
use crate::catalog::Catalog;
use crate::clock::Time;
use crate::ctx::{Ctx, Scope, System};
use crate::error::{Error, Kind, Result};
use crate::events::{self, Event};
use crate::id::{HandleId, TenantId};
use crate::limits::live_handles;
use crate::op::{Ask, Begun, Class, Follow, Op, Output, Reply, Stage, Standing};
use crate::quota::Limit;
use crate::store::Tx;
use crate::throttle;

/// How long a handle is good.
pub const KEPT: Duration = Duration::from_hours(7 * 24);
/// Handles removed in one round.
const BATCH: u32 = 200;
/// Somebody no longer cares for what his handle stands for.
const CANCELLED: &str = "dev.baton.handle.cancelled";

/// A handle as the database knows it.
#[derive(Clone)]
struct Handle {
    id: HandleId,
    operation: String,
    /// What its operation remembers.
    kept: Value,
    /// Whether its client can be asked.
    may_ask: bool,
    created_at: Time,
    /// By the steady clock.
    expires_at: Time,
    /// How it ended, once somebody was told.
    outcome: Option<Outcome>,
}

/// How a call ended, for good.
#[derive(Clone, Serialize, Deserialize)]
struct Outcome {
    output: Option<Output>,
    /// Why there is none; without both it was called off.
    failure: Option<String>,
    message: String,
    updated_at: Time,
}

/// Where a handle is found.
struct Place {
    tenant: TenantId,
    id: HandleId,
}

/// What a client sees of its handle.
pub struct View {
    /// Unguessable, and no task's id.
    pub id: HandleId,
    /// How far its call has come.
    pub status: Status,
    /// A sentence about it for people.
    pub message: String,
    /// When the call was made.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// The resources whose changes may change it.
    pub watched: Vec<String>,
}

/// How far a call has come. What has ended does not change any more.
pub enum Status {
    /// It goes on by itself.
    Working,
    /// It needs answers.
    Asking(Vec<Ask>),
    /// Its output.
    Done(Output),
    /// Why there is none.
    Failed(String),
    /// It was called off.
    Cancelled,
}

impl Status {
    /// Whether it has ended.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }
}

/// What a call came to when it was begun.
pub enum Started {
    /// There was nothing to wait for: its output.
    Done(Output),
    /// It goes on.
    Handle(View),
}

impl Handle {
    fn ended(&self, outcome: &Outcome) -> View {
        let status = match (&outcome.output, &outcome.failure) {
            (Some(output), _) => Status::Done(output.clone()),
            (None, Some(failure)) => Status::Failed(failure.clone()),
            (None, None) => Status::Cancelled,
        };
        View {
            id: self.id.clone(),
            status,
            message: outcome.message.clone(),
            created_at: self.created_at,
            updated_at: outcome.updated_at,
            watched: Vec::new(),
        }
    }

    /// Where it stands. Unless it has ended already, its operation says.
    fn look(&self, scope: &Scope, tx: &mut Tx<'_>, follow: &Follow) -> Result<View> {
        if let Some(outcome) = &self.outcome {
            return Ok(self.ended(outcome));
        }
        let Standing {
            stage,
            message,
            updated_at,
            watched,
        } = (follow.look)(scope, tx, &self.kept)?;
        let status = match stage {
            Stage::Working => Status::Working,
            Stage::Asking { asks, .. } if self.may_ask => Status::Asking(asks),
            Stage::Asking {
                output: Some(output),
                ..
            }
            | Stage::Done(output) => Status::Done(output),
            Stage::Asking { output: None, .. } => Status::Working,
            Stage::Failed(failure) => Status::Failed(failure),
            Stage::Cancelled => Status::Cancelled,
        };
        Ok(View {
            id: self.id.clone(),
            status,
            message,
            created_at: self.created_at,
            updated_at: updated_at.max(self.created_at),
            watched,
        })
    }

    /// As [`Handle::look`], in a transaction that may write: an end is one for good from here on, whatever becomes of
    /// what was begun.
    fn settle(&mut self, scope: &Scope, tx: &mut Tx<'_>, follow: &Follow) -> Result<View> {
        let view = self.look(scope, tx, follow)?;
        if self.outcome.is_some() || !view.status.is_terminal() {
            return Ok(view);
        }
        let (output, failure) = match &view.status {
            Status::Done(output) => (Some(output.clone()), None),
            Status::Failed(failure) => (None, Some(failure.clone())),
            _ => (None, None),
        };
        self.outcome = Some(Outcome {
            output,
            failure,
            message: view.message.clone(),
            updated_at: view.updated_at,
        });
        store::end(tx, self)?;
        Ok(view)
    }
}

/// Begins a call of `op` for a client that follows it, and can be asked if `may_ask`. The handle is good as soon as this
/// returns.
///
/// # Errors
/// `rate_limited`; `too_many_calls` when too many of the tenant have not ended; what the operation answers to such a call.
pub async fn begin(
    ctx: &Ctx,
    op: &Op,
    input: Map<String, Value>,
    may_ask: bool,
) -> Result<Started> {
    let _pass = ctx.admit(Class::Write)?;
    let follow = follow(op)?;
    let ready = op.ready(ctx, input).await;
    let input = noted(ctx, op.name, ready).await?;
    let begin = (follow.begin)(&ctx.scope(), &input)?;
    let operation = op.name;
    ctx.write(move |scope, tx| {
        let kept = match begin(scope, tx)? {
            Begun::Done(output) => return Ok(Started::Done(output)),
            Begun::Going(kept) => kept,
        };
        let mut handle = Handle {
            id: HandleId::mint(scope.now(), scope.random()),
            operation: operation.to_owned(),
            kept,
            may_ask,
            created_at: scope.now(),
            expires_at: scope.steady() + KEPT,
            outcome: None,
        };
        let most = scope
            .throttle()
            .cap(Limit::MaxHandlesPerTenant, tx.tenant());
        store::insert(tx, &handle, owner(scope))?;
        let view = handle.settle(scope, tx, &follow)?;
        // Counted last, since what has ended by now takes no room. Whoever is refused has begun nothing.
        if let Some(most) = most
            && !view.status.is_terminal()
            && live_handles(tx, scope.steady())? > most
        {
            return Err(throttle::full(Limit::MaxHandlesPerTenant, most));
        }
        Ok(Started::Handle(view))
    })
    .await
}

/// Where the handle `id` of the caller stands.
///
/// # Errors
/// `unknown_handle` for what is not there, has expired or is somebody else's; a failure of the database.
pub async fn get(catalog: &Catalog, ctx: &Ctx, id: &str) -> Result<View> {
    let (id, follow) = open(catalog, ctx, id).await?;
    let known = id.clone();
    let view = ctx
        .read(move |scope, tx| {
            let handle = find(scope, tx, &known)?;
            let view = handle.look(scope, tx, &follow)?;
            let is_new = view.status.is_terminal() && handle.outcome.is_none();
            Ok((!is_new).then_some(view))
        })
        .await?;
    match view {
        Some(view) => Ok(view),
        None => {
            ctx.write(move |scope, tx| find(scope, tx, &id)?.settle(scope, tx, &follow))
                .await
        }
    }
}

/// Gives replies to open questions of the handle `id`, by their keys. Others are not for it.
///
/// # Errors
/// As [`get`]; `forbidden`; `invalid_input` for a form that is not filled in as it asks.
pub async fn answer(
    catalog: &Catalog,
    ctx: &Ctx,
    id: &str,
    replies: BTreeMap<String, Reply>,
) -> Result<()> {
    let (id, follow) = open(catalog, ctx, id).await?;
    allowed(ctx, catalog.require(follow.answers_by)?).await?;
    ctx.write(move |scope, tx| {
        let view = find(scope, tx, &id)?.look(scope, tx, &follow)?;
        let Status::Asking(asks) = view.status else {
            return Ok(());
        };
        for ask in asks {
            if let Some(reply) = replies.get(&ask.key) {
                (follow.answer)(scope, tx, &ask, reply)?;
            }
        }
        Ok(())
    })
    .await
}

/// Calls off what the handle `id` stands for, or only the handle where others care for that. What has ended stays so.
///
/// # Errors
/// As [`get`]; `forbidden`.
pub async fn cancel(catalog: &Catalog, ctx: &Ctx, id: &str) -> Result<()> {
    let (id, follow) = open(catalog, ctx, id).await?;
    if let Some(cancel) = follow.cancel {
        allowed(ctx, catalog.require(cancel.by)?).await?;
    }
    ctx.write(move |scope, tx| {
        let mut handle = find(scope, tx, &id)?;
        if handle.settle(scope, tx, &follow)?.status.is_terminal() {
            return Ok(());
        }
        if let Some(cancel) = follow.cancel {
            (cancel.run)(scope, tx, &handle.kept)?;
            return handle.settle(scope, tx, &follow).map(drop);
        }
        handle.outcome = Some(Outcome {
            output: None,
            failure: None,
            message: "called off by its client".into(),
            updated_at: scope.now(),
        });
        store::end(tx, &handle)?;
        let about = json!({"operation": handle.operation});
        events::append(scope, tx, CANCELLED, id.as_str(), &about).map(drop)
    })
    .await
}

/// What the changes of a handle itself are known by to those who listen. No resource is found there.
pub fn place(id: &str) -> String {
    format!("handle:{id}")
}

/// The handle that `event` changed.
pub fn changed_by(event: &Event) -> Option<String> {
    (event.kind == CANCELLED).then(|| place(&event.subject))
}

/// Removes handles that are good no longer, over all tenants, and says how many. Any number of processes may do so at
/// once.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    let now = system.clock().steady();
    let expired = system.survey(move |tx| store::expired(tx, now, BATCH));
    let expired = expired.await?;
    let count = expired.len();
    let rounds = expired.into_iter().map(|Place { tenant, id }| {
        let ctx = system.on_behalf_of(tenant);
        async move { ctx.write(move |_, tx| store::delete(tx, &id)).await }
    });
    let rounds = join_all(rounds).await;
    rounds.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(count)
}

/// Whose a handle is.
fn owner(scope: &Scope) -> &str {
    scope.principal().map_or("", |principal| &principal.name)
}

fn find(scope: &Scope, tx: &mut Tx<'_>, id: &HandleId) -> Result<Handle> {
    let found = store::find(tx, id, owner(scope), scope.steady())?;
    found.ok_or_else(unknown)
}

/// The same words whatever is wrong with an id, which is not repeated.
fn unknown() -> Error {
    Error::not_found("unknown_handle", "there is no such task handle")
}

/// Finds the caller's handle, and how its operation is followed. Who may not call that any more may not follow it.
async fn open(catalog: &Catalog, ctx: &Ctx, id: &str) -> Result<(HandleId, Follow)> {
    let id: HandleId = id.parse().map_err(|_| unknown())?;
    let known = id.clone();
    let found = ctx.read(move |scope, tx| find(scope, tx, &known));
    let op = catalog.require(&found.await?.operation)?;
    allowed(ctx, op).await?;
    Ok((id, follow(op)?))
}

fn follow(op: &Op) -> Result<Follow> {
    let follow = op.follow();
    follow.ok_or_else(|| Error::internal(format!("{} can't be followed", op.name)))
}

/// Refuses a caller who may not call `op`.
async fn allowed(ctx: &Ctx, op: &Op) -> Result<()> {
    let Some(principal) = ctx.principal() else {
        return Ok(());
    };
    let allowed = principal.admit(op.permission, op.name);
    noted(ctx, op.name, allowed).await
}

/// Writes a refusal down, as the catalogue does for calls.
async fn noted<T>(ctx: &Ctx, wanted: &str, outcome: Result<T>) -> Result<T> {
    if let Err(error) = &outcome
        && error.kind() == Kind::Forbidden
    {
        access::note_refusal(ctx, wanted, error).await;
    }
    outcome
}
