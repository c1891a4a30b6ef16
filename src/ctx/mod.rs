//! The one door: who calls, for which tenant, at what time, on which store. Feature code reaches none of these otherwise.

mod inside;
mod scope;
mod tenant;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use inside::Call;
pub use scope::Scope;
pub use tenant::choose_tenant;

use crate::allowance::Allowances;
use crate::caller::{Ability, Answers, Ask, Caller, Level, Progress, Question, cant_answer};
use crate::clock::{Clock, Time};
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::id::{LeaseToken, TenantId};
use crate::meter::Meter;
use crate::outbound::Outside;
use crate::presence::{Presence, Stay};
use crate::principal::Principal;
use crate::queries::Queries;
use crate::quota::{Class, Limit};
use crate::random::Random;
use crate::store::{Store, SystemTx, Tx, Wake};
use crate::throttle::{Key, Pass, Place, Throttle};
use crate::trace::Trace;
use crate::vault::Vault;

/// How long a worker's work is one process's without word from it.
const HOLD: Duration = Duration::from_secs(3);

/// What a write does first that acts on the answers of earlier rounds.
pub type Guard = Arc<dyn Fn(&Scope, &mut Tx<'_>) -> Result<()> + Send + Sync>;

/// What the whole process shares. Workers start from here; callers get a [`Ctx`].
#[derive(Clone)]
pub struct System(Arc<Shared>);

struct Shared {
    store: Store,
    clock: Clock,
    random: Random,
    limits: Limits,
    throttle: Throttle,
    allowances: Allowances,
    meter: Meter,
    presence: Arc<Presence>,
    outside: Outside,
    queries: Queries,
    /// The tenant that the process is bound to.
    bound: Option<TenantId>,
    vault: Vault,
    program: PathBuf,
    call: OnceLock<Call>,
    /// What this process is called among those that share the store, and what it holds there.
    name: LeaseToken,
    holds: DashMap<&'static str, Time>,
    waiting: Arc<Semaphore>,
}

impl System {
    /// Bundles the handles that `app` made.
    pub fn new(store: Store, clock: Clock, random: Random, config: &Config) -> Self {
        let limits = config.limits.clone();
        Self(Arc::new(Shared {
            store,
            throttle: Throttle::new(&config.caps, &clock),
            allowances: Allowances::default(),
            meter: Meter::new(&clock),
            presence: Arc::default(),
            outside: Outside::new(config.reach.clone(), config.ca_cert.clone()),
            queries: Queries::new(config, &clock),
            bound: config.tenant.clone(),
            vault: Vault::new(config, &random),
            program: config.program.clone(),
            call: OnceLock::new(),
            name: LeaseToken::mint(clock.steady(), &random),
            clock,
            holds: DashMap::new(),
            random,
            waiting: Arc::new(Semaphore::new(limits.max_waiting_calls)),
            limits,
        }))
    }

    /// Whether this process is the one that does the work of `worker` now. When it dies, another one is, seconds later.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn does(&self, worker: &'static str) -> Result<bool> {
        let now = self.0.clock.steady();
        let until = self.0.holds.get(worker).map(|until| *until);
        if until.is_some_and(|until| until.since(now) > HOLD / 2) {
            return Ok(true);
        }
        let until = now + HOLD;
        let does = self
            .0
            .store
            .hold(worker, self.0.name.as_str(), now, until)
            .await?;
        if does {
            self.0.holds.insert(worker, until);
        } else {
            self.0.holds.remove(worker);
        }
        Ok(does)
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Randomness.
    pub fn random(&self) -> &Random {
        &self.0.random
    }

    /// How often somebody may call, and how much at a time.
    pub fn throttle(&self) -> &Throttle {
        &self.0.throttle
    }

    /// What tenants may have, besides calls.
    pub fn allowances(&self) -> &Allowances {
        &self.0.allowances
    }

    /// The calls that this process answers.
    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// Who was let in lately.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.0.presence
    }

    /// The servers that tenants may call.
    pub fn outside(&self) -> &Outside {
        &self.0.outside
    }

    /// The master keys, for what is kept secret.
    pub fn vault(&self) -> &Vault {
        &self.0.vault
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// How many calls wait for something to happen.
    pub fn waiting_calls(&self) -> usize {
        let free = self.0.waiting.available_permits();
        self.0.limits.max_waiting_calls.saturating_sub(free)
    }

    /// A context for work that the server itself does for `tenant`.
    pub fn on_behalf_of(&self, tenant: TenantId) -> Ctx {
        Ctx {
            system: self.clone(),
            tenant,
            actor: "baton".into(),
            principal: None,
            caller: None,
            trace: None,
            guard: None,
            by_tool: false,
        }
    }

    /// A context for a caller who may do everything, unless [`Ctx::of`] says who he is.
    pub fn ctx(&self, tenant: TenantId, actor: &str) -> Ctx {
        Ctx {
            system: self.clone(),
            tenant,
            actor: actor.into(),
            principal: None,
            caller: None,
            trace: None,
            guard: None,
            by_tool: false,
        }
    }

    /// Changes what belongs to the server itself or to all tenants.
    ///
    /// # Errors
    /// What `operation` answers, or `Unavailable` when the store can't take it now.
    pub async fn command<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut SystemTx<'_>) -> Result<T> + Send + 'static,
    {
        self.0.store.command(operation).await
    }

    /// Reads over all tenants, for workers that look for what is due.
    ///
    /// # Errors
    /// What `operation` answers, or a failure of the database.
    pub async fn survey<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut SystemTx<'_>) -> Result<T> + Send + 'static,
    {
        self.0.store.survey(operation).await
    }
}

/// A place among the calls that wait, and among those of its tenant; dropping it lets another one wait.
pub struct WaitingPlace(
    #[expect(dead_code, reason = "held, not used")] (OwnedSemaphorePermit, Place),
);

/// One call of one caller. Cheap to clone.
#[derive(Clone)]
pub struct Ctx {
    system: System,
    tenant: TenantId,
    actor: Arc<str>,
    /// Who was let in; `None` where nobody is asked who he is.
    principal: Option<Arc<Principal>>,
    caller: Option<Arc<Caller>>,
    trace: Option<Arc<Trace>>,
    guard: Option<Guard>,
    by_tool: bool,
}

impl Ctx {
    /// The tenant that this call is for.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The same call of somebody who proved who he is: the log shows him.
    #[must_use]
    pub fn of(mut self, principal: Option<&Arc<Principal>>) -> Self {
        if let Some(principal) = principal {
            self.actor = principal.name.clone();
            self.principal = Some(principal.clone());
        }
        self
    }

    /// The same call, as part of its caller's trace.
    #[must_use]
    pub fn traced(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace.map(Arc::new);
        self
    }

    /// The span of what this call logs.
    pub fn span(&self) -> tracing::Span {
        Trace::span(self.trace.as_deref())
    }

    /// Who was let in; `None` where nobody is asked who he is.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_deref()
    }

    /// Counts this call against what its caller and its tenant may. It goes on until the pass is dropped.
    ///
    /// # Errors
    /// `rate_limited` or `too_many_calls`, with when to come back; `tenant_deleting`.
    pub fn admit(&self, class: Class) -> Result<Pass> {
        self.system.0.allowances.check_open(&self.tenant)?;
        self.admit_always(class)
    }

    /// As [`Ctx::admit`], for a call about a tenant that may be on its way out.
    ///
    /// # Errors
    /// As [`Ctx::admit`].
    pub fn admit_always(&self, class: Class) -> Result<Pass> {
        let name = self.principal.as_ref().map(|principal| &principal.name);
        self.throttle().admit(&self.tenant, name, class)
    }

    /// A place of its tenant under a limit, until it is dropped.
    ///
    /// # Errors
    /// `too_many_calls`, with when to come back.
    pub fn place(&self, limit: Limit) -> Result<Place> {
        let key = Key::Tenant(self.tenant.clone());
        self.throttle().place(limit, &key)
    }

    /// Goes on by leave of its caller, where somebody is asked who he is, and for as long as there is its tenant.
    pub fn stay(&self) -> Stay {
        self.presence()
            .stay_in(self.principal.as_ref(), &self.tenant)
    }

    /// How often somebody may call, and how much at a time.
    pub fn throttle(&self) -> &Throttle {
        &self.system.0.throttle
    }

    /// Who was let in lately.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.system.0.presence
    }

    /// The servers that tenants may call.
    pub fn outside(&self) -> &Outside {
        &self.system.0.outside
    }

    /// What the whole process shares.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.system.0.clock
    }

    /// The limits of this server.
    pub fn limits(&self) -> &Limits {
        &self.system.0.limits
    }

    /// The same call, from a caller who can be talked to.
    #[must_use]
    pub fn with_caller(mut self, caller: Caller) -> Self {
        self.caller = Some(Arc::new(caller));
        self
    }

    /// The same call, whose writes pass `guard` once they act on what its caller answered in earlier rounds.
    #[must_use]
    pub fn guarded(mut self, guard: Option<Guard>) -> Self {
        self.guard = guard;
        self
    }

    /// The same call, from a caller who can't be talked to. Whoever waits for a caller's last word keeps no other.
    #[must_use]
    pub fn without_caller(&self) -> Self {
        Self {
            caller: None,
            ..self.clone()
        }
    }

    /// Who calls, as the log shows it.
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Whether anybody wants to know how far this call has come.
    pub fn wants_progress(&self) -> bool {
        let caller = self.caller.as_ref();
        caller.is_some_and(|caller| caller.wants_progress || caller.log_from.is_some())
    }

    /// Tells how far this call has come.
    pub fn report_progress(&self, progress: Progress) {
        if let Some(caller) = &self.caller {
            caller.report_progress(progress);
        }
    }

    /// Writes to the log of the caller, if they want one.
    pub fn log(&self, level: Level, data: impl Into<Value>) {
        if let Some(caller) = &self.caller {
            caller.log(level, data.into());
        }
    }

    /// Whether the caller can be asked such a thing.
    pub fn can_ask(&self, ability: Ability) -> bool {
        let caller = self.caller.as_ref();
        caller.is_some_and(|caller| caller.can(ability))
    }

    /// Asks the caller. The call may end here and be made again with the answers, so nothing may have been written before.
    ///
    /// # Errors
    /// As [`Caller::ask`].
    pub async fn ask(&self, questions: Vec<Question>) -> Result<Answers> {
        match &self.caller {
            Some(caller) => caller.ask(questions).await,
            None => Err(cant_answer()),
        }
    }

    /// Asks the caller's user for a yes to `message`, and says whether there was one.
    ///
    /// # Errors
    /// As [`Caller::ask`].
    pub async fn confirm(&self, message: &str) -> Result<bool> {
        const KEY: &str = "confirm";
        let field = json!({"type": "boolean", "title": "Confirm", "default": false});
        let ask = Ask::Form {
            message: message.to_owned(),
            schema: json!({"type": "object", "properties": {KEY: field}, "required": [KEY]}),
        };
        let key = KEY.to_owned();
        let answers = self.ask(vec![Question { key, ask }]).await?;
        let answer = &answers[KEY];
        Ok(answer["action"] == "accept" && answer["content"][KEY] == true)
    }

    /// A place among the calls that wait, until it is dropped. Take it before anything is written for the call.
    ///
    /// # Errors
    /// `too_many_waiting` when all places are taken, `too_many_calls` when those of the tenant are.
    pub fn place_to_wait(&self) -> Result<WaitingPlace> {
        let own = self.place(Limit::MaxWaitingCallsPerTenant)?;
        let place = self.system.0.waiting.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            let most = self.system.0.limits.max_waiting_calls;
            Error::unavailable(
                "too_many_waiting",
                format!("{most} calls wait already; come back later, or ask without waiting (wait_seconds 0)"),
                Duration::from_secs(5),
            )
        })?;
        Ok(WaitingPlace((place, own)))
    }

    /// Wake-ups whenever something of the tenant is committed. Take it before reading.
    pub fn wake(&self) -> Wake {
        self.system.0.store.hub().wake(&self.tenant)
    }

    /// Runs `operation` in a transaction that may write, and answers after its commit.
    ///
    /// # Errors
    /// What `operation` answers, or `Unavailable` when the store can't take it now.
    pub async fn write<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&Scope, &mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let scope = self.scope();
        let caller = self.caller.as_ref();
        let acts_on_answers = caller.is_some_and(|caller| caller.notes.has_used());
        let guard = self.guard.clone().filter(|_| acts_on_answers);
        let guarded = move |tx: &mut Tx<'_>| {
            if let Some(guard) = &guard {
                guard(&scope, tx)?;
            }
            scope.logged(|| operation(&scope, tx))
        };
        self.system.0.store.write(&self.tenant, guarded).await
    }

    /// Runs `operation` on a snapshot of what is committed.
    ///
    /// # Errors
    /// What `operation` answers, or a failure of the database.
    pub async fn read<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&Scope, &mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let scope = self.scope();
        self.system
            .0
            .store
            .read(&self.tenant, move |tx| {
                scope.logged(|| operation(&scope, tx))
            })
            .await
    }

    /// What an operation that starts now may know.
    pub fn scope(&self) -> Scope {
        Scope {
            by_tool: self.by_tool,
            actor: self.actor.clone(),
            now: self.system.0.clock.now(),
            steady: self.system.0.clock.steady(),
            principal: self.principal.clone(),
            trace: self.trace.clone(),
            system: self.system.clone(),
        }
    }
}
