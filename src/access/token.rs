//! Tokens (JWT, RFC 9068): who signed one, for whom it is, how long, and what its claims allow here.

use std::time::Duration;

use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::issuer::Issuer;
use super::{invalid, ring};
use crate::clock::{Clock, Time};
use crate::config::Oidc;
use crate::error::Result;
use crate::id::TenantId;
use crate::principal::{Grant, Permission, Principal, Role, Shown, Tenants};

/// By how much the issuer's clock and ours may differ.
const SKEW: Duration = Duration::from_mins(1);
/// The longest token that is looked at.
const LONGEST: usize = 16 << 10;
/// The longest name of somebody that the log shows.
const NAME: usize = 128;

/// Tokens of one issuer, as the settings want them read.
pub(super) struct Tokens {
    issuer: Issuer,
    settings: Oidc,
}

impl Tokens {
    pub(super) fn new(settings: Oidc, clock: &Clock) -> Result<Self> {
        ring::install();
        Ok(Self {
            issuer: Issuer::new(&settings.issuer, clock, settings.ca_cert.as_deref())?,
            settings,
        })
    }

    /// The settings.
    pub(super) fn settings(&self) -> &Oidc {
        &self.settings
    }

    /// Whose `token` is and what it allows. Expiry is for whoever asks again.
    ///
    /// # Errors
    /// `invalid_credential`; `issuer_unreachable`.
    pub(super) async fn read(&self, token: &str, shown: Shown, now: Time) -> Result<Principal> {
        if token.len() > LONGEST {
            return Err(invalid());
        }
        let header = decode_header(token).map_err(|_| invalid())?;
        if !ring::ALGORITHMS.contains(&header.alg) {
            return Err(invalid());
        }
        let keys = self.issuer.keys(header.kid.as_deref()).await?;
        let mut rules = Validation::new(header.alg);
        rules.set_issuer(&[self.issuer.url()]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Time is the clock's to tell, and whom a token is for may say for which tenant.
        (rules.validate_exp, rules.validate_nbf, rules.validate_aud) = (false, false, false);
        let claims = keys
            .iter()
            .find_map(|key| decode::<Map<String, Value>>(token, key, &rules).ok())
            .ok_or_else(invalid)?
            .claims;
        let principal = self.principal(&claims, shown, now);
        principal.ok_or_else(invalid)
    }

    fn principal(&self, claims: &Map<String, Value>, shown: Shown, now: Time) -> Option<Principal> {
        let expires_at = moment(claims.get("exp")?)? + SKEW;
        if let Some(since) = claims.get("nbf") {
            (moment(since)? <= now + SKEW).then_some(())?;
        }
        let audience = texts(claims.get("aud"));
        let mut tenants = self.tenants(claims)?;
        if !audience
            .iter()
            .any(|it| self.settings.audience.contains(it))
        {
            // A token for the address of one tenant is for no other.
            let base = format!("{}/t/", self.settings.public_url);
            let named = audience
                .iter()
                .find_map(|it| it.strip_prefix(&base)?.strip_suffix("/mcp"));
            let named: TenantId = named?.parse().ok()?;
            let own = match &tenants {
                Tenants::All => true,
                Tenants::These(tenants) => tenants.contains(&named),
            };
            own.then_some(())?;
            tenants = Tenants::These(vec![named]);
        }
        let subject: String = claims.get("sub")?.as_str()?.chars().take(NAME).collect();
        let is_fit = !subject.is_empty() && !subject.chars().any(char::is_control);
        is_fit.then(|| Principal {
            name: format!("user:{subject}").into(),
            tenants,
            grant: self.grant(claims),
            expires_at: Some(expires_at),
            shown,
        })
    }

    /// The tenants that the claim names; the default one where it says nothing. `None` when it says what is no tenant.
    fn tenants(&self, claims: &Map<String, Value>) -> Option<Tenants> {
        let Some(claim) = claims.get(&self.settings.tenant_claim) else {
            return Some(Tenants::These(vec![TenantId::default_tenant()]));
        };
        let named = texts(Some(claim));
        if named.iter().any(|name| name == "*") {
            return Some(Tenants::All);
        }
        let tenants: Option<Vec<TenantId>> = named.iter().map(|name| name.parse().ok()).collect();
        tenants
            .filter(|tenants| !tenants.is_empty())
            .map(Tenants::These)
    }

    /// What roles and scopes allow. Roles without a scope of ours are not narrowed down; scopes without a role bring the
    /// roles that they are for.
    fn grant(&self, claims: &Map<String, Value>) -> Grant {
        let roles = texts(claims.get(&self.settings.role_claim));
        let mut roles: Vec<Role> = roles.iter().filter_map(|role| role.parse().ok()).collect();
        let scopes = claims.get("scope").or(claims.get("scp"));
        let mut scopes = texts(scopes);
        scopes.retain(|scope| {
            Permission::ALL
                .iter()
                .any(|permission| permission.scope() == scope)
        });
        if roles.is_empty() {
            let is_granted =
                |permission: &Permission| scopes.iter().any(|it| it == permission.scope());
            let granted = Permission::ALL.into_iter().filter(is_granted);
            roles = granted.map(role_for).collect();
        }
        Grant {
            roles,
            scopes,
            ..Grant::default()
        }
    }
}

/// The smallest role that may do something.
fn role_for(permission: Permission) -> Role {
    match permission {
        Permission::Read | Permission::Recall | Permission::Consult => Role::Observer,
        Permission::Orchestrate | Permission::Register | Permission::Build => Role::Orchestrator,
        Permission::Execute | Permission::Remember | Permission::Supply | Permission::Use => {
            Role::Executor
        }
        Permission::Admin | Permission::Operate => Role::Admin,
    }
}

/// A text of words, or a list of texts.
fn texts(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(items)) => {
            let texts = items.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Seconds since the epoch (RFC 7519 `NumericDate`), as a number and nothing else.
fn moment(claim: &Value) -> Option<Time> {
    let seconds = claim.as_i64().or_else(|| {
        let seconds = claim.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "whole seconds are meant")]
        (seconds.abs() < 1e12).then_some(seconds as i64)
    })?;
    // Later than anybody cares, and far from where adding to it would overflow.
    (seconds.abs() < 1_000_000_000_000).then(|| Time::from_micros(seconds * 1_000_000))
}
