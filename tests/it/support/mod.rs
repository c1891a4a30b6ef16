//! A server of the test's own: temporary data, a clock that the test moves, seeded randomness.

pub(crate) mod client;
pub(crate) mod handles;
pub(crate) mod home;
pub(crate) mod http;
pub(crate) mod mcp;
pub(crate) mod model;
pub(crate) mod schema;
pub(crate) mod sse;
pub(crate) mod tls;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use baton::app::App;
use baton::clock::{Clock, Time};
use baton::config::{Config, Settings};
use baton::ctx::Ctx;
use baton::error::Error;
use baton::random::Random;
use baton::reach::Reach;
use baton::tasks::reap;
use serde_json::{Value, json};

use home::Home;

/// 2026-11-21T00:00:00Z.
pub const START: Time = Time::from_micros(1_795_219_200_000_000);

/// An in-process server.
#[derive(Clone)]
pub struct Server {
    pub app: App,
    pub clock: Clock,
    home: Arc<Home>,
}

/// Settings for a place, otherwise the defaults.
pub fn config(home: &Home) -> Config {
    let mut settings = Settings::default();
    home.settle(&mut settings);
    let config = settings.complete(Settings::default());
    let mut config = config.expect("the defaults are right");
    config.program = env!("CARGO_BIN_EXE_baton").into();
    config
}

impl Server {
    /// On an empty folder, with a manual clock.
    pub fn start() -> Self {
        Self::on(Arc::new(Home::new()), Clock::manual(START))
    }

    /// On a place that may have data, with the given clock.
    pub fn on(home: Arc<Home>, clock: Clock) -> Self {
        let app = App::open(config(&home), clock.clone(), Random::seeded(7)).expect("opens");
        Self { app, clock, home }
    }

    /// On an empty folder, where tenants' calls may lead as far as `reach` goes.
    pub fn within(reach: Reach) -> Self {
        let home = Arc::new(Home::new());
        let config = Config {
            reach,
            ..config(&home)
        };
        Self::with(home, config)
    }

    /// On an empty place, with these settings.
    pub fn with(home: Arc<Home>, config: Config) -> Self {
        let clock = Clock::manual(START);
        let app = App::open(config, clock.clone(), Random::seeded(7)).expect("opens");
        Self { app, clock, home }
    }

    /// The same place, opened anew after this server has stopped.
    pub async fn restart(self) -> Self {
        self.app.stop().await;
        Self::on(self.home.clone(), self.clock)
    }

    /// Where the data lies.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The same place, for one more process beside this one.
    pub fn shared_home(&self) -> Arc<Home> {
        self.home.clone()
    }

    /// Calls an operation for `tenant`.
    pub async fn try_call_as(&self, tenant: &str, op: &str, input: Value) -> Result<Value, Error> {
        let ctx = self
            .app
            .system
            .ctx(tenant.parse().expect("a tenant"), "test");
        let Value::Object(input) = input else {
            panic!("an input is an object")
        };
        self.app.catalog.call(ctx, op, input).await
    }

    /// A context for `tenant`.
    pub fn ctx(&self, tenant: &str) -> Ctx {
        self.app
            .system
            .ctx(tenant.parse().expect("a tenant"), "test")
    }

    /// Calls an operation for `tenant` that must succeed.
    pub async fn call_as(&self, tenant: &str, op: &str, input: Value) -> Value {
        self.try_call_as(tenant, op, input.clone())
            .await
            .unwrap_or_else(|error| panic!("{op} {input}: {error:?}"))
    }

    /// Calls an operation for the default tenant.
    pub async fn try_call(&self, op: &str, input: Value) -> Result<Value, Error> {
        self.try_call_as("default", op, input).await
    }

    /// Calls an operation that must succeed.
    pub async fn call(&self, op: &str, input: Value) -> Value {
        self.try_call(op, input.clone())
            .await
            .unwrap_or_else(|error| panic!("{op} {input}: {error:?}"))
    }

    /// Lets time pass, and the reaper act on it.
    pub async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.settle().await;
    }

    /// Runs the workers until there is nothing for them to do.
    pub async fn settle(&self) {
        while reap::tick(&self.app.system)
            .await
            .expect("the reaper works")
            > 0
        {}
    }

    /// Dispatches a task and returns its id.
    pub async fn dispatch(&self, input: Value) -> String {
        self.call("task_dispatch", input).await["task_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// Claims the best task as `agent`.
    pub async fn claim(&self, agent: &str, capabilities: &[&str]) -> Option<Held> {
        let input = json!({"agent_id": agent, "capabilities": capabilities});
        let task = self.call("task_claim", input).await["tasks"]
            .get(0)
            .cloned()?;
        Some(Held {
            task_id: task["task_id"].as_str().expect("an id").to_owned(),
            agent_id: agent.to_owned(),
            lease_token: task["lease"]["token"].as_str().expect("a token").to_owned(),
            task,
        })
    }

    /// Dispatches a task and claims it as `ada`; its id, and what she holds.
    pub async fn held(&self, input: Value) -> (String, Held) {
        let id = self.dispatch(input).await;
        let held = self.claim("ada", &[]).await.expect("a task");
        assert_eq!(held.task_id, id);
        (id, held)
    }

    /// Tells of a task that is held.
    pub async fn notify(&self, held: &Held, kind: &str, data: Value) -> Value {
        self.call("task_notify", held.notification(kind, data))
            .await
    }

    /// The code of the error that a call must end in.
    pub async fn code(&self, op: &str, input: Value) -> &'static str {
        let refused = self.try_call(op, input).await;
        refused.expect_err("it is refused").code()
    }

    /// The task, as anybody sees it.
    pub async fn task(&self, task_id: &str) -> Value {
        self.call("task_get", json!({"task_id": task_id})).await
    }

    /// The task's state.
    pub async fn state(&self, task_id: &str) -> String {
        self.task(task_id).await["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    }
}

/// A claimed task.
#[derive(Debug, Clone)]
pub struct Held {
    pub task_id: String,
    pub agent_id: String,
    pub lease_token: String,
    pub task: Value,
}

impl Held {
    /// `fields` with what every call of an executor names.
    pub fn with(&self, fields: Value) -> Value {
        let mut input = json!({"task_id": self.task_id, "agent_id": self.agent_id, "lease_token": self.lease_token});
        for (name, value) in fields.as_object().expect("an object") {
            input[name] = value.clone();
        }
        input
    }

    /// A notification of type `kind`.
    pub fn notification(&self, kind: &str, data: Value) -> Value {
        self.with(json!({"notification_type": kind, "data": data}))
    }

    /// An end for `reason`.
    pub fn end(&self, reason: &str) -> Value {
        self.with(json!({"reason": reason}))
    }
}
