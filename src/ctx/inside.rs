//! What work inside of the server has besides: operations, which it can't name, and this program, for processes of its own.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Ctx, System};
use crate::error::{Error, Result};
use crate::queries::Queries;

/// Calls an operation, for what runs inside of the server and can't know which there are.
pub type Call = Arc<dyn Fn(Ctx, &'static str, Map<String, Value>) -> Called + Send + Sync>;
type Called = Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

impl Ctx {
    /// The same call, as a tool makes it that the caller called. Nobody is there to be talked to.
    #[must_use]
    pub fn by_tool(&self) -> Self {
        Self {
            by_tool: true,
            ..self.without_caller()
        }
    }
}

impl System {
    /// Says how operations are called.
    pub fn let_call(&self, call: Call) {
        let _ = self.0.call.set(call);
    }

    /// Calls the operation `name` for the caller of `ctx`.
    ///
    /// # Errors
    /// What it answers.
    pub async fn call(
        &self,
        ctx: Ctx,
        name: &'static str,
        input: Map<String, Value>,
    ) -> Result<Value> {
        match self.0.call.get() {
            Some(call) => call(ctx, name, input).await,
            None => Err(Error::internal("no operations yet")),
        }
    }

    /// What asks the databases that tenants name.
    pub fn queries(&self) -> &Queries {
        &self.0.queries
    }

    /// This program, for processes of its own.
    pub fn program(&self) -> &Path {
        &self.0.program
    }
}
