//! Conversations with MCP clients, kept so that every process on the database can go on with what another began: legacy
//! sessions (whose one is, what its `initialize` said, what it subscribed to), and the key that seals what modern clients
//! carry from round to round. What their messages mean is `mcp`'s.

mod store;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::clock::Time;
use crate::ctx::{Ctx, Guard, Scope, System};
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::op::ANSWERS_USED;
use crate::store::{SystemTx, Tx};

pub use store::subscribers;

/// How long a session is kept after its client was last seen.
pub const KEPT: Duration = Duration::from_hours(24);
/// How exactly it is known when a client was last seen: each call would be a write otherwise.
const EXACT: Duration = Duration::from_mins(10);
/// Subscriptions of all sessions that are looked at together.
const BELOW: u32 = 2_000;
/// URIs that a session may subscribe to.
pub const SUBSCRIPTIONS: u32 = 1_000;
/// The longest `initialize` that is kept.
const LONGEST: usize = 16 << 10;
/// How long the rounds of one call may take in all.
const ROUNDS: Duration = Duration::from_hours(1);
/// Sessions removed in one round.
const BATCH: u32 = 200;

/// A session as the database knows it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Unique and unguessable.
    pub id: String,
    /// The tenant that it is for, where its `initialize` chose one.
    pub serves: Option<TenantId>,
    /// What `initialize` said, as JSON.
    pub initialize: String,
    /// From which level on it wants log messages, if it said so.
    pub log_level: Option<String>,
    /// When its client was last seen, within ten minutes.
    seen: Time,
}

/// Where a session and its subscriptions are found.
struct Place {
    tenant: TenantId,
    id: String,
    serves: Option<TenantId>,
}

/// Keeps a session that was begun by the caller and for the tenant of `ctx`.
///
/// # Errors
/// `initialize_too_long`, or a failure of the database.
pub async fn begin(
    ctx: &Ctx,
    id: &str,
    serves: Option<TenantId>,
    initialize: String,
) -> Result<()> {
    if initialize.len() > LONGEST {
        let message = format!("the params of initialize are longer than {LONGEST} bytes");
        return Err(Error::invalid("initialize_too_long", message));
    }
    let id = id.to_owned();
    ctx.write(move |scope, tx| {
        let session = Session {
            id: id.clone(),
            serves: serves.clone(),
            initialize: initialize.clone(),
            log_level: None,
            seen: scope.steady(),
        };
        store::insert(tx, &session, owner(scope))
    })
    .await
}

/// The session `id` of the caller and the tenant of `ctx`, whose client is seen now.
///
/// # Errors
/// A failure of the database.
pub async fn find(ctx: &Ctx, id: &str) -> Result<Option<Session>> {
    let key = id.to_owned();
    let find = move |scope: &Scope, tx: &mut Tx<'_>| {
        let found = store::find(tx, &key, owner(scope))?;
        let found = found.map(|session| (scope.steady().since(session.seen), session));
        Ok(found.filter(|(unseen, _)| *unseen < KEPT))
    };
    let Some((unseen, session)) = ctx.read(find).await? else {
        return Ok(None);
    };
    if unseen > EXACT {
        let key = id.to_owned();
        ctx.write(move |scope, tx| store::see(tx, &key, scope.steady()))
            .await?;
    }
    Ok(Some(session))
}

/// Whose a session is.
fn owner(scope: &Scope) -> &str {
    scope.principal().map_or("", |principal| &principal.name)
}

/// Remembers from which level on the session `id` of the tenant of `ctx` wants log messages.
///
/// # Errors
/// A failure of the database.
pub async fn set_level(ctx: &Ctx, id: &str, level: &'static str) -> Result<()> {
    let id = id.to_owned();
    ctx.write(move |_, tx| store::set_level(tx, &id, level))
        .await
}

/// What seals the state that clients of the tenant of `ctx` carry between the rounds of a call.
///
/// # Errors
/// A failure of the database.
pub async fn key(ctx: &Ctx) -> Result<Vec<u8>> {
    if let Some(key) = ctx.read(|_, tx| store::key(tx)).await? {
        return Ok(key);
    }
    ctx.write(|scope, tx| {
        if let Some(key) = store::key(tx)? {
            return Ok(key);
        }
        let random = || scope.random().u128().to_be_bytes();
        let key = [random(), random()].concat();
        store::insert_key(tx, key.clone(), scope.now())?;
        Ok(key)
    })
    .await
}

/// A name for the rounds of a call that begins now. Later ones sort behind it.
pub fn begin_rounds(ctx: &Ctx) -> String {
    let scope = ctx.scope();
    format!("{}{:032x}", moment(scope.steady()), scope.random().u128())
}

/// Whether the rounds `id` are so old that what was acted on of them may be forgotten.
pub fn are_over(ctx: &Ctx, id: &str) -> bool {
    id < oldest(&ctx.scope()).as_str()
}

/// Lets the call of `ctx` act on the answers of the rounds `id`, and none after it: what its writes do first. A call that
/// lost its answer finds what it did when it asks again, and whoever repeats it later changes nothing.
pub fn once(ctx: &Ctx, id: String) -> Guard {
    let by = format!("{:032x}", ctx.scope().random().u128());
    Arc::new(move |scope, tx| {
        store::forget_rounds(tx, &oldest(scope))?;
        if store::end_rounds(tx, &id, &by)? {
            return Ok(());
        }
        let message = "the answers that this call brings were acted on before; see what became of that, or make the call again without requestState";
        Err(Error::conflict(ANSWERS_USED, message))
    })
}

/// The names of rounds that are over sort before this.
fn oldest(scope: &Scope) -> String {
    let rounds = i64::try_from(ROUNDS.as_micros()).unwrap_or(i64::MAX);
    moment(Time::from_micros(scope.steady().as_micros() - rounds))
}

fn moment(time: Time) -> String {
    format!("{:016x}", time.as_micros().max(0))
}

/// Which question of a call it is that a session's client is asked. Calls are told apart by their numbers.
#[derive(Debug, Clone)]
pub struct Question {
    /// The session.
    pub session: String,
    /// The call.
    pub call: u64,
    /// The question.
    pub number: i64,
}

/// Notes that `question` waits for its answer.
///
/// # Errors
/// A failure of the database.
pub async fn ask(ctx: &Ctx, question: &Question) -> Result<()> {
    let question = question.clone();
    ctx.write(move |_, tx| store::ask(tx, &question)).await
}

/// Hands an answer on to whatever process waits for it, and says whether one did.
///
/// # Errors
/// A failure of the database.
pub async fn answer(ctx: &Ctx, question: Question, answer: String) -> Result<bool> {
    ctx.write(move |_, tx| {
        let is_open = store::answer(tx, &question, &answer)?;
        if is_open {
            tx.wake();
        }
        Ok(is_open)
    })
    .await
}

/// The answers to questions of a call that came to other processes so far.
///
/// # Errors
/// A failure of the database.
pub async fn answers(ctx: &Ctx, session: &str, call: u64) -> Result<Vec<(i64, String)>> {
    let session = session.to_owned();
    ctx.read(move |_, tx| store::answers(tx, &session, call))
        .await
}

/// Forgets the questions of a call that has ended.
///
/// # Errors
/// A failure of the database.
pub async fn forget_questions(ctx: &Ctx, session: &str, call: u64) -> Result<()> {
    let session = session.to_owned();
    ctx.write(move |_, tx| store::delete_questions_of(tx, &session, call))
        .await
}

/// Forgets a session of `tenant` and its subscriptions.
///
/// # Errors
/// A failure of the database.
pub async fn end(system: &System, tenant: &TenantId, session: &Session) -> Result<()> {
    let place = Place {
        tenant: tenant.clone(),
        id: session.id.clone(),
        serves: session.serves.clone(),
    };
    forget(system, place, Time::from_micros(i64::MAX)).await
}

/// Forgets a session unless its client was seen after `limit`.
async fn forget(system: &System, place: Place, limit: Time) -> Result<()> {
    let (id, key) = (place.id.clone(), place.id);
    let delete = move |_: &Scope, tx: &mut Tx<'_>| {
        let is_gone = store::delete(tx, &key, limit)?;
        if is_gone {
            store::delete_subscriptions(tx, &key)?;
            store::delete_questions(tx, &key)?;
        }
        Ok(is_gone)
    };
    let is_gone = system.on_behalf_of(place.tenant).write(delete).await?;
    let Some(serves) = place.serves.filter(|_| is_gone) else {
        return Ok(());
    };
    let delete = move |_: &Scope, tx: &mut Tx<'_>| store::delete_subscriptions(tx, &id);
    system.on_behalf_of(serves).write(delete).await
}

/// Subscribes the session to a resource of the tenant of `ctx`.
///
/// # Errors
/// `too_many_subscriptions`, or a failure of the database.
pub async fn subscribe(ctx: &Ctx, id: &str, uri: &str) -> Result<()> {
    let (id, uri) = (id.to_owned(), uri.to_owned());
    ctx.write(move |_, tx| {
        if store::count_subscriptions(tx, &id)? >= i64::from(SUBSCRIPTIONS) {
            return Err(too_many_subscriptions());
        }
        store::subscribe(tx, &id, &uri)
    })
    .await
}

/// What the sessions of all tenants subscribed to that begins with `begin`, as far as there is room for it.
///
/// # Errors
/// A failure of the database.
pub async fn subscribed_below(
    system: &System,
    begin: &'static str,
) -> Result<Vec<(TenantId, String)>> {
    let find = move |tx: &mut SystemTx<'_>| store::subscribed_below(tx, begin, BELOW);
    system.survey(find).await
}

/// The refusal of one subscription more than a session may have.
pub fn too_many_subscriptions() -> Error {
    let message = format!("a session may subscribe to {SUBSCRIPTIONS} resources at most");
    Error::invalid("too_many_subscriptions", message)
}

/// Ends a subscription, if there is one.
///
/// # Errors
/// A failure of the database.
pub async fn unsubscribe(ctx: &Ctx, id: &str, uri: &str) -> Result<()> {
    let (id, uri) = (id.to_owned(), uri.to_owned());
    ctx.write(move |_, tx| store::unsubscribe(tx, &id, &uri))
        .await
}

/// Removes sessions whose clients have not been seen for [`KEPT`], over all tenants, and says how many it looked at.
/// Any number of processes may do so at once.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
    let limit = Time::from_micros(system.clock().steady().as_micros() - kept);
    let old = system
        .survey(move |tx| store::unseen_since(tx, limit, BATCH))
        .await?;
    let count = old.len();
    let rounds = old.into_iter().map(|place| forget(system, place, limit));
    join_all(rounds)
        .await
        .into_iter()
        .collect::<Result<Vec<()>>>()?;
    Ok(count)
}
