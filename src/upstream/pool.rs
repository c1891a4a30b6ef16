//! The sessions of this process: one for each tenant, place and credentials, begun when a call needs it, kept while calls
//! come, let go of after. A server that can't be reached is asked again after a while that grows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared as Joined};
use rmcp::model::{CallToolResult, Tool};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::servers::Servers;
use super::session::{self, Session, Shared};
use super::target::{Key, Target};
use super::{START, Upstream};
use crate::clock::{Clock, Time};
use crate::ctx::{Ctx, System};
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;
use crate::outbound;

/// Sessions at a time, and of one tenant.
const SESSIONS: (usize, usize) = (256, 16);
/// How long one waits for the next call, and how old it gets.
const IDLE: Duration = Duration::from_mins(5);
const AGE: Duration = Duration::from_hours(1);
/// How long a server that could not be reached is left alone: doubled each time, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why a call came to no result.
#[derive(Debug)]
pub(super) enum Failed {
    /// The other end has heard nothing of it.
    Unsent(Error),
    /// Nobody knows what became of it.
    Broken(Error),
    /// There was no answer in time.
    Late,
    /// The other end said no, in these words.
    Refused(String),
    /// It was not begun.
    Never(Error),
}

impl Failed {
    pub(super) fn into_error(self, target: &Target) -> Error {
        match self {
            Self::Unsent(error) | Self::Broken(error) | Self::Never(error) => error,
            Self::Late => {
                let message = format!("{} did not answer in time", place(target));
                Error::unavailable("remote_unreachable", message, Duration::from_secs(1))
            }
            Self::Refused(message) => Error::new(Kind::Unavailable, "remote_error", message),
        }
    }
}

/// The other server, without what may be secret in its address.
fn place(target: &Target) -> String {
    match &target.way {
        super::target::Way::Command(_) => format!("the server {}", target.label),
        super::target::Way::Url { url, .. } => outbound::origin_of(url),
    }
}

/// How sessions with a server are.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Health {
    /// idle: nobody called for a while; starting, connected; failing: see error
    pub state: &'static str,
    /// The revision of MCP that is spoken
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Calls that go on
    pub calls: usize,
    /// Why it could not be reached
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the other server says something else of the tool than when this one was made; this one stays as it was approved
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
}

/// What runs besides calls, ended with the pool.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.0);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// A beginning that several wait for.
type Beginning = Joined<BoxFuture<'static, std::result::Result<Shared, Arc<Error>>>>;

enum State {
    /// There is none, nor will be before `until`.
    Down {
        until: Time,
        failures: u32,
        error: Option<String>,
    },
    Starting(Beginning),
    Up(Shared),
}

/// A session, or its place.
struct Slot {
    /// As the manifest has it.
    label: String,
    state: Mutex<State>,
    calls: AtomicUsize,
    /// When it was last used, in microseconds of the steady clock.
    used: AtomicI64,
}

/// Somebody uses a slot.
struct InUse(Arc<Slot>, Clock);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0
            .used
            .store(self.1.steady().as_micros(), Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All sessions.
#[derive(Default)]
pub(super) struct Pool {
    servers: Servers,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    tasks: Tasks,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(servers: Servers) -> Self {
        Self {
            servers,
            ..Self::default()
        }
    }

    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    pub(super) async fn target(&self, ctx: &Ctx, upstream: &Upstream) -> Result<Target> {
        Target::of(ctx, &self.servers, upstream).await
    }

    /// The tools that a server has now.
    pub(super) async fn list(
        &self,
        ctx: &Ctx,
        target: &Target,
        until: Time,
    ) -> std::result::Result<Vec<Tool>, Failed> {
        self.with(ctx, target, until, async |session| session.list().await)
            .await
    }

    /// Calls a tool.
    pub(super) async fn call(
        &self,
        ctx: &Ctx,
        target: &Target,
        call: (&str, &Map<String, Value>),
        until: Time,
    ) -> std::result::Result<CallToolResult, Failed> {
        self.with(ctx, target, until, async |session| {
            session.call(ctx, call).await
        })
        .await
    }

    /// Does something with a session, which is let go of when that breaks it.
    async fn with<T>(
        &self,
        ctx: &Ctx,
        target: &Target,
        until: Time,
        work: impl AsyncFnOnce(&Session) -> std::result::Result<T, Failed>,
    ) -> std::result::Result<T, Failed> {
        let slot = self.slot(ctx, target).map_err(Failed::Never)?;
        let _used = InUse(slot.clone(), ctx.clock().clone());
        let left = || until.since(ctx.clock().steady());
        let begun = self.session(ctx, target, &slot).map_err(Failed::Never)?;
        let begun = tokio::time::timeout(left(), joined(begun)).await;
        let session = begun.map_err(|_| Failed::Late)?.map_err(Failed::Never)?;
        let done = tokio::time::timeout(left(), work(&session)).await;
        let done = done.unwrap_or(Err(Failed::Late));
        if matches!(done, Err(Failed::Unsent(_) | Failed::Broken(_))) {
            slot.lose(&session);
        }
        done
    }

    /// The place of a session, with one more who uses it.
    fn slot(&self, ctx: &Ctx, target: &Target) -> Result<Arc<Slot>> {
        let mut slots = lock(&self.slots);
        if !slots.contains_key(&target.key) {
            make_room(&mut slots, &target.key.0)?;
        }
        let slot = match slots.entry(target.key.clone()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::new(Slot::new(target))).clone(),
        };
        slot.calls.fetch_add(1, Ordering::Relaxed);
        slot.used
            .store(ctx.clock().steady().as_micros(), Ordering::Relaxed);
        Ok(slot)
    }

    /// The session of a slot: the one that there is, or a new one.
    fn session(&self, ctx: &Ctx, target: &Target, slot: &Arc<Slot>) -> Result<Beginning> {
        let now = ctx.clock().steady();
        let mut state = lock(&slot.state);
        let failures = match &*state {
            State::Up(session) if !session.is_over() && now.since(session.begun) < AGE => {
                return Ok(std::future::ready(Ok(session.clone())).boxed().shared());
            }
            State::Starting(beginning) => return Ok(beginning.clone()),
            State::Down { until, error, .. } if now < *until => {
                let why = error.as_deref().unwrap_or("it could not be reached");
                let left = until.since(now);
                return Err(Error::unavailable("remote_unreachable", why, left));
            }
            State::Down { failures, .. } => *failures,
            State::Up(_) => 0,
        };
        let beginning = self.begin(ctx, target, slot, failures);
        *state = State::Starting(beginning.clone());
        // It goes on when whoever needs it first has gone: the next one finds it begun.
        self.tasks.spawn(beginning.clone().map(drop));
        Ok(beginning)
    }

    fn begin(&self, ctx: &Ctx, target: &Target, slot: &Arc<Slot>, failures: u32) -> Beginning {
        let (slot, target, clock) = (Arc::downgrade(slot), target.clone(), ctx.clock().clone());
        let program: PathBuf = ctx.system().program().to_owned();
        // The slot has what waits for this, and the tasks are the pool's: neither is held from here.
        let tasks = Tasks::clone(&self.tasks);
        let work = async move {
            let begun = session::begin(&target, &program, &tasks, clock.steady());
            let begun = tokio::time::timeout(START, begun).await;
            let begun = begun.unwrap_or_else(|_| Err(Failed::Late.into_error(&target)));
            let begun = begun.map(Arc::new).map_err(Arc::new);
            settle(&slot, &begun, failures, clock.steady());
            begun
        };
        work.boxed().shared()
    }

    pub(super) fn health(
        &self,
        tenant: &TenantId,
        (label, tool, pin): (&str, &str, Option<&str>),
    ) -> Health {
        let slots = lock(&self.slots);
        let own = slots
            .iter()
            .filter(|((whose, _), slot)| whose == tenant && slot.label == label);
        let newest = own
            .map(|(_, slot)| slot)
            .max_by_key(|slot| slot.used.load(Ordering::Relaxed));
        let mut health = Health {
            state: "idle",
            protocol_version: None,
            calls: newest.map_or(0, |slot| slot.calls.load(Ordering::Relaxed)),
            error: None,
            changed: None,
        };
        match newest.map(|slot| lock(&slot.state)).as_deref() {
            Some(State::Up(session)) if !session.is_over() => {
                health.state = "connected";
                health.protocol_version = Some(session.protocol.clone());
                health.changed =
                    pin.map(|pin| session.tools.get(tool).is_none_or(|now| now != pin));
            }
            Some(State::Starting(_)) => health.state = "starting",
            Some(State::Down {
                error: Some(error), ..
            }) => {
                (health.state, health.error) = ("failing", Some(error.clone()));
            }
            _ => {}
        }
        health
    }

    /// Lets go of what nobody needs.
    pub(super) fn sweep(&self, system: &System) {
        let now = system.clock().steady();
        lock(&self.slots).retain(|(tenant, _), slot| {
            if system.allowances().check_open(tenant).is_err() {
                return false;
            }
            let used = Time::from_micros(slot.used.load(Ordering::Relaxed));
            slot.calls.load(Ordering::Relaxed) > 0 || now.since(used) < IDLE
        });
    }

    pub(super) fn close(&self) {
        lock(&self.slots).clear();
    }
}

/// Lets go of a session that nobody uses now, where there are as many as may be.
fn make_room(slots: &mut HashMap<Key, Arc<Slot>>, tenant: &TenantId) -> Result<()> {
    let own = slots.keys().filter(|(whose, _)| whose == tenant).count();
    let is_own_full = own >= SESSIONS.1;
    if slots.len() < SESSIONS.0 && !is_own_full {
        return Ok(());
    }
    let free = slots.iter().filter(|((whose, _), slot)| {
        slot.calls.load(Ordering::Relaxed) == 0 && (!is_own_full || whose == tenant)
    });
    let oldest = free.min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed));
    let oldest = oldest.map(|(key, _)| key.clone());
    let oldest = oldest.ok_or_else(|| {
        let message =
            "as many sessions with other servers are in use as may be; come back in a moment";
        Error::unavailable("upstreams_busy", message, Duration::from_secs(1))
    })?;
    slots.remove(&oldest);
    Ok(())
}

/// Writes down what a beginning came to.
fn settle(
    slot: &Weak<Slot>,
    begun: &std::result::Result<Shared, Arc<Error>>,
    failures: u32,
    now: Time,
) {
    let Some(slot) = slot.upgrade() else { return };
    *lock(&slot.state) = match begun {
        Ok(session) => State::Up(session.clone()),
        Err(error) => State::Down {
            until: now
                + PAUSE
                    .1
                    .min(PAUSE.0 * 2_u32.saturating_pow(failures.min(10))),
            failures: failures.saturating_add(1),
            error: Some(error.message().to_owned()),
        },
    };
}

async fn joined(beginning: Beginning) -> Result<Shared> {
    beginning.await.map_err(|error| {
        let again = Error::new(error.kind(), error.code(), error.message());
        again.with_source(error.to_string())
    })
}

impl Slot {
    fn new(target: &Target) -> Self {
        Self {
            label: target.label.clone(),
            state: Mutex::new(State::Down {
                until: Time::from_micros(0),
                failures: 0,
                error: None,
            }),
            calls: AtomicUsize::new(0),
            used: AtomicI64::new(0),
        }
    }

    /// Lets go of a session, unless there is another one by now.
    fn lose(&self, session: &Shared) {
        let mut state = lock(&self.state);
        if matches!(&*state, State::Up(known) if Arc::ptr_eq(known, session)) {
            *state = State::Down {
                until: Time::from_micros(0),
                failures: 0,
                error: None,
            };
        }
    }
}
