//! The tools that tenants make, as the catalogue knows them: what calls them, and which calls can be followed.

use serde_json::{Map, Value};

use super::Catalog;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::op::Op;
use crate::tools::{self, Tool, Tools};

impl Catalog {
    /// The tools that tenants made.
    pub(crate) fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The tool `name` of the caller's tenant, and the operation that calls it.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn tool(&self, ctx: &Ctx, name: &str) -> Result<Option<(&Op, Tool)>> {
        let Some(op) = self.op(tools::CALL) else {
            return Ok(None);
        };
        let found = self.tools.find(ctx, name).await?;
        Ok(found.map(|tool| (op, tool)))
    }

    /// Whether callers who know how may follow such a call instead of waiting for it.
    ///
    /// # Errors
    /// A failure of the database.
    pub(crate) async fn follows(
        &self,
        ctx: &Ctx,
        op: &Op,
        input: &Map<String, Value>,
    ) -> Result<bool> {
        if op.name != tools::CALL {
            return Ok(op.follow().is_some());
        }
        let name = input.get("name").and_then(Value::as_str);
        let tool = self.tools.find(ctx, name.unwrap_or_default()).await?;
        Ok(tool.is_some_and(|tool| tool.is_followed()))
    }
}
