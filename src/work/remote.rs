//! The Baton that a program on this machine talks to: the data folder in this process, or a server over REST.
//!
//! Both sides take an operation's name and its input. Where REST has it is looked up in the catalogue, written once.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::outbound::Client;
use crate::tools::{CALL, called};
use crate::trace::Trace;

/// Where calls go. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    catalog: Arc<Catalog>,
    side: Side,
}

#[derive(Clone)]
enum Side {
    Local(Ctx),
    Rest(Client),
}

impl Remote {
    /// Calls go to the data folder that this process has opened.
    pub fn local(catalog: Arc<Catalog>, ctx: Ctx) -> Self {
        Self {
            catalog,
            side: Side::Local(ctx),
        }
    }

    /// Calls go to a server.
    pub fn rest(client: Client) -> Self {
        Self {
            catalog: Arc::new(Catalog::new()),
            side: Side::Rest(client),
        }
    }

    /// The same, whose calls are part of `trace`.
    #[must_use]
    pub fn traced(self, trace: Option<Trace>) -> Self {
        let side = match self.side {
            Side::Local(ctx) => Side::Local(ctx.traced(trace)),
            Side::Rest(client) => Side::Rest(client.traced(trace)),
        };
        Self { side, ..self }
    }

    /// For which tenant calls are, as far as that is known: a server says so with its first answer.
    pub fn tenant(&self) -> Option<&str> {
        match &self.side {
            Side::Local(ctx) => Some(ctx.tenant().as_str()),
            Side::Rest(client) => client.tenant(),
        }
    }

    /// Calls the operation `name`, or the tool of the tenant that is called so.
    ///
    /// # Errors
    /// What the operation answers; `remote_unreachable` when the server does not answer.
    pub async fn call(&self, name: &str, input: Map<String, Value>) -> Result<Value> {
        if self.catalog.op(name).is_some() {
            return self.operate(name, input).await;
        }
        let called = self.operate(CALL, called(name, input)).await;
        called.map_err(|error| match (error.code(), self.catalog.require(name)) {
            ("unknown_tool", Err(unknown)) => unknown,
            _ => error,
        })
    }

    async fn operate(&self, name: &str, input: Map<String, Value>) -> Result<Value> {
        match &self.side {
            Side::Local(ctx) => self.catalog.call(ctx.clone(), name, input).await,
            Side::Rest(client) => {
                let op = self.catalog.require(name)?;
                let Some(route) = op.routes.first() else {
                    return Err(Error::internal(format!("{name} has no route")));
                };
                client.call(route.method, route.path, input).await
            }
        }
    }
}
