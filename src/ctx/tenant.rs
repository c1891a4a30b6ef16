//! For which tenant a call is: what connection, credential, address, `_meta` and input say about it must agree.

use super::{Ctx, System};
use crate::config::Folders;
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::principal::Principal;

impl System {
    /// The tenant that the process is bound to.
    pub fn bound(&self) -> Option<&TenantId> {
        self.0.bound.as_ref()
    }

    /// Where files of tenants may lie.
    pub fn folders(&self) -> &Folders {
        &self.0.limits.folders
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

/// The tenant of a call, from every place that may name one. `bound` is what the process is bound to; a tenant named in
/// two places must agree, and be one of those that the caller has. Who names none and has one alone means that.
///
/// # Errors
/// `tenant_conflict` when two places disagree or the caller has no such tenant, whether or not there is one;
/// `invalid_tenant` when a name is not one; `tenant_required` when it can't be told which one is meant.
pub fn choose_tenant(
    principal: Option<&Principal>,
    bound: Option<&TenantId>,
    named: &[(&'static str, Option<&str>)],
) -> Result<TenantId> {
    let mut chosen = bound
        .or(principal.and_then(Principal::sole_tenant))
        .cloned();
    for (place, name) in named
        .iter()
        .filter_map(|(place, name)| name.map(|name| (place, name)))
    {
        let tenant: TenantId = name
            .parse()
            .map_err(|error| Error::invalid("invalid_tenant", format!("{place}: {error}")))?;
        match &chosen {
            Some(other) if *other != tenant => {
                return Err(Error::invalid(
                    "tenant_conflict",
                    format!(
                        "{place} names another tenant than this connection is for; name one tenant, once"
                    ),
                ));
            }
            _ => chosen = Some(tenant),
        }
    }
    let is_named = chosen.is_some();
    let tenant = chosen.unwrap_or_else(TenantId::default_tenant);
    match principal {
        Some(principal) if !principal.has(&tenant) && !is_named => Err(Error::invalid(
            "tenant_required",
            "this credential is for several tenants; name one, with the header X-Tenant-ID for example",
        )),
        Some(principal) if !principal.has(&tenant) => Err(Error::invalid(
            "tenant_conflict",
            "this credential is for other tenants than the one that is named",
        )),
        _ => Ok(tenant),
    }
}
