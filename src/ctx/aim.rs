//! Calls whose input names the tenant that they are about: it is one more place that may name one.

use super::{Ctx, System, choose_tenant};
use crate::error::Result;
use crate::id::TenantId;

impl System {
    /// The tenant that the process is bound to.
    pub fn bound(&self) -> Option<&TenantId> {
        self.0.bound.as_ref()
    }
}

impl Ctx {
    /// The same call, about the tenant that `place` of its input names. Who named one elsewhere, has one alone or calls a
    /// process of one, means that one.
    ///
    /// # Errors
    /// As [`choose_tenant`].
    pub fn aimed(&self, place: &'static str, name: &str) -> Result<Self> {
        let named = Some(&self.tenant).filter(|own| **own != TenantId::default_tenant());
        let bound = self.system.bound().or(named);
        let principal = self.principal.as_deref();
        let tenant = choose_tenant(principal, bound, &[(place, Some(name))])?;
        Ok(Self {
            tenant,
            ..self.clone()
        })
    }
}
