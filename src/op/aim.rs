//! Operations whose input may name the tenant that a call is about, or what it calls.

use serde_json::{Map, Value};

use super::Op;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::id::TenantId;
use crate::principal::Principal;

/// The field by which an input names the tenant that it is about.
const TENANT: &str = "tenant_id";

impl Op {
    /// Says which field names what is called: a credential may name that instead of the operation.
    #[must_use]
    pub fn naming(mut self, field: &'static str) -> Self {
        self.naming = Some(field);
        self
    }

    /// By what name a caller is let in: the operation's, or that of what it calls, where his credential names that.
    pub(super) fn name_for<'a>(
        &'a self,
        principal: &Principal,
        input: &'a Map<String, Value>,
    ) -> &'a str {
        let named = self.naming.and_then(|field| input.get(field)?.as_str());
        let named = named.filter(|name| principal.may(self.permission, name));
        named.unwrap_or(self.name)
    }

    /// Says that the tenant that a call is about may be named by its input, as `tenant_id`, besides everywhere else.
    #[must_use]
    pub fn aims(mut self) -> Self {
        self.aims_by = Some(TENANT);
        self
    }

    /// Whether it is about tenants, also such as are on their way out.
    pub fn aims_at_tenants(&self) -> bool {
        self.aims_by.is_some()
    }

    /// The call for the tenant that its input names, if it names one. Who may not make it at all is refused for that.
    ///
    /// # Errors
    /// As [`Ctx::aimed`].
    pub fn aim(&self, ctx: &Ctx, input: &Map<String, Value>) -> Result<Option<Ctx>> {
        let may = |who: &Principal| who.may(self.permission, self.name);
        if self.aims_by.is_none() || !ctx.principal().is_none_or(may) {
            return Ok(None);
        }
        let named = self.aims_by.and_then(|field| input.get(field)?.as_str());
        // What is no name is for the schema to say.
        let named = named.filter(|name| name.parse::<TenantId>().is_ok());
        named.map(|name| ctx.aimed("/tenant_id", name)).transpose()
    }
}
