//! Who may come in: what somebody shows becomes a principal, or he stays outside. Keys are this server's own, tokens an
//! authorization server's.
//!
//! A principal is remembered for a second: a key that is revoked opens no door longer than that, on any process, and what
//! goes on by its leave ends. Where it is revoked, that is at once.

mod issuer;
pub mod keys;
mod ring;
mod store;
mod token;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Time;
use crate::config::{Auth, Config, Oidc};
use crate::ctx::{Ctx, System};
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::id::TenantId;
use crate::principal::{Principal, Shown};
use crate::trace::Trace;
use token::Tokens;

/// How long a key that was looked at is known without another look.
const FRESH: Duration = Duration::from_secs(1);
/// How exactly it is known when a key was last used: each call would be a write otherwise.
const EXACT: Duration = Duration::from_mins(1);
/// Addresses of strangers that are told apart within a minute.
const STRANGERS: usize = 1_000;
/// Where clients are told how to come in, before the path of the resource (RFC 9728 §3).
pub const METADATA: &str = "/.well-known/oauth-protected-resource";
/// What an ordinary client asks its user for.
const SCOPES: &str = "tasks:read tasks:orchestrate tasks:execute memory:read memory:write resources:read resources:write tools:call tools:write";
/// Keys that are looked at in one round.
const LOOKED_AT: usize = 500;

/// The door.
pub struct Access {
    system: System,
    auth: Vec<Auth>,
    tokens: Option<Tokens>,
    /// How often each address was turned away since that was last logged.
    strangers: DashMap<Option<IpAddr>, u64>,
}

/// What a refused principal wanted.
#[derive(Serialize)]
struct Refusal<'a> {
    wanted: &'a str,
    code: &'a str,
    reason: &'a str,
}

impl Access {
    /// A door that opens as the settings say.
    ///
    /// # Errors
    /// There is no usable TLS to ask an issuer with.
    pub fn new(system: System, config: &Config) -> Result<Self> {
        let tokens = config.oidc.clone();
        let tokens = tokens.map(|settings| Tokens::new(settings, system.clock()));
        Ok(Self {
            tokens: tokens.transpose()?,
            auth: config.auth.clone(),
            strangers: DashMap::new(),
            system,
        })
    }

    /// Whose tokens are honoured, if any are.
    pub fn oidc(&self) -> Option<&Oidc> {
        self.tokens.as_ref().map(Tokens::settings)
    }

    /// Whether somebody who shows nothing may come in.
    pub fn is_open(&self) -> bool {
        self.auth.contains(&Auth::None)
    }

    /// What to tell who may not do what he wants at `path`: how to prove who he is, or which scope it would take (RFC 6750 §3,
    /// RFC 9728 §5.1).
    pub fn challenge(&self, path: &str, problem: Option<&str>, scope: Option<&str>) -> String {
        let mut challenge = "Bearer realm=\"baton\"".to_owned();
        let mut add = |name: &str, value: &str| {
            // Writing to a string can't fail.
            let _ = write!(challenge, ", {name}=\"{value}\"");
        };
        if let Some(problem) = problem {
            add("error", problem);
        }
        if let Some(oidc) = self.oidc() {
            let resource = resource_at(path);
            let metadata = format!("{}{METADATA}{resource}", oidc.public_url);
            add("resource_metadata", &metadata);
            add("scope", scope.unwrap_or(SCOPES));
        }
        challenge
    }

    /// What clients are told of the resource at `path` (RFC 9728 §2); `None` when no tokens are honoured here.
    pub fn metadata(&self, path: &str) -> Option<Value> {
        let oidc = self.oidc()?;
        Some(json!({
            "resource": format!("{}{}", oidc.public_url, resource_at(path)),
            "authorization_servers": [oidc.issuer],
            "scopes_supported": SCOPES.split(' ').collect::<Vec<_>>(),
            "bearer_methods_supported": ["header"],
            "resource_name": "Baton",
            "resource_documentation": format!("{}/docs", oidc.public_url),
        }))
    }

    /// Lets somebody in who shows `credential`. `None` stands for whoever comes where nobody is asked who he is.
    ///
    /// # Errors
    /// `credential_required`, `invalid_credential`, or a failure of the database.
    pub async fn let_in(&self, credential: Option<&str>) -> Result<Option<Arc<Principal>>> {
        if self.auth == [Auth::None] {
            return Ok(None);
        }
        let Some(credential) = credential else {
            return if self.is_open() {
                Ok(None)
            } else {
                let message =
                    "show who you are: `Authorization: Bearer …`, or BATON_KEY for a process";
                Err(Error::new(
                    Kind::Unauthenticated,
                    "credential_required",
                    message,
                ))
            };
        };
        let shown = Shown(hash_of(credential));
        let (clock, presence) = (self.system.clock(), self.system.presence());
        let principal = if let Some(principal) = presence.find(&shown, clock.steady()) {
            principal
        } else {
            let principal = Arc::new(self.look_up(credential, shown).await?);
            presence.remember(&principal, clock.steady() + FRESH);
            principal
        };
        if is_over(&principal, clock.now()) {
            return Err(invalid());
        }
        Ok(Some(principal))
    }

    async fn look_up(&self, credential: &str, shown: Shown) -> Result<Principal> {
        let now = self.system.clock().now();
        let Some(id) = keys::id_of(credential).filter(|_| self.auth.contains(&Auth::Keys)) else {
            let tokens = self.tokens.as_ref().ok_or_else(invalid)?;
            return tokens.read(credential, shown, now).await;
        };
        let id = id.to_owned();
        let find = move |tx: &mut crate::store::SystemTx<'_>| store::find_anywhere(tx, &id);
        let kept = self.system.survey(find).await?.ok_or_else(invalid)?;
        if !opens(&kept, &shown, now) {
            return Err(invalid());
        }
        if kept.last_used_at.is_none_or(|at| now.since(at) > EXACT) {
            self.note_use(&kept).await;
        }
        Ok(Principal {
            name: format!("key:{}", kept.key_id).into(),
            tenants: kept.tenants(),
            grant: kept.grant,
            expires_at: kept.expires_at,
            shown,
        })
    }

    /// Ends what goes on by leave of credentials that are good no longer, and says of how many: keys that were revoked or
    /// changed on whatever process, and whatever has expired.
    ///
    /// # Errors
    /// A failure of the database.
    pub async fn look_around(&self) -> Result<usize> {
        let presence = self.system.presence();
        let now = self.system.clock().now();
        let (over, rest): (Vec<_>, Vec<_>) = presence
            .staying()
            .into_iter()
            .partition(|who| is_over(who, now));
        let mut gone: Vec<Shown> = over.into_iter().map(|who| who.shown).collect();
        let keys = rest.into_iter().filter_map(|who| {
            let id = who.name.strip_prefix("key:")?.to_owned();
            Some((id, who))
        });
        let keys: Vec<_> = keys.collect();
        for some in keys.chunks(LOOKED_AT) {
            let ids: Vec<String> = some.iter().map(|(id, _)| id.clone()).collect();
            let find = move |tx: &mut crate::store::SystemTx<'_>| store::find_all(tx, &ids);
            let found = self.system.survey(find).await?;
            let is_gone = |(id, who): &&(String, Arc<Principal>)| {
                let kept = found.get(id);
                !kept.is_some_and(|kept| {
                    opens(kept, &who.shown, now)
                        && kept.tenants() == who.tenants
                        && kept.grant == who.grant
                })
            };
            let unknown = some.iter().filter(is_gone);
            gone.extend(unknown.map(|(_, who)| who.shown));
        }
        for shown in &gone {
            presence.end(shown);
        }
        Ok(gone.len())
    }

    /// Counts somebody at `address` who could not prove who he is. Strangers are logged together, once a minute: what they do
    /// must not cost more than it costs them.
    pub fn note_stranger(&self, address: Option<IpAddr>) {
        let is_full = self.strangers.len() >= STRANGERS;
        // Beyond so many addresses the others are counted as one.
        let address = address.filter(|_| !is_full || self.strangers.contains_key(&address));
        *self.strangers.entry(address).or_default() += 1;
    }

    /// Logs who was turned away since the last time, and says how many addresses that were.
    pub fn tell_of_strangers(&self) -> usize {
        let addresses: Vec<_> = self.strangers.iter().map(|entry| *entry.key()).collect();
        for address in &addresses {
            if let Some((_, times)) = self.strangers.remove(address) {
                let address = address.map_or("others".to_owned(), |address| address.to_string());
                tracing::warn!(%address, times, "requests without a valid credential were refused");
            }
        }
        addresses.len()
    }

    /// Writes down that somebody was refused what he wanted before it was clear for which tenant: in the first of his own.
    pub async fn note_stray(
        &self,
        (principal, trace): (Option<&Arc<Principal>>, Option<Trace>),
        wanted: &str,
        error: &Error,
    ) {
        let Some(principal) = principal else { return };
        let Some(tenant) = principal.first_tenant() else {
            let _span = Trace::span(trace.as_ref()).entered();
            tracing::warn!(who = %principal.name, wanted, code = error.code(), "refused");
            return;
        };
        let ctx = self.system.ctx(tenant.clone(), "").of(Some(principal));
        let ctx = ctx.traced(trace);
        note_refusal(&ctx, wanted, error).await;
    }

    /// A key that can't be noted as used is used all the same.
    async fn note_use(&self, kept: &store::Kept) {
        let (id, now) = (kept.key_id.clone(), self.system.clock().now());
        let note = move |tx: &mut crate::store::SystemTx<'_>| store::note_use(tx, &id, now);
        if let Err(error) = self.system.command(note).await {
            tracing::warn!(error = ?error, "the use of a key could not be noted");
        }
    }
}

/// The MCP endpoint that a path belongs to, alone or of a tenant.
fn resource_at(path: &str) -> String {
    let tenant = path
        .strip_prefix("/t/")
        .and_then(|rest| rest.split('/').next());
    match tenant.map(str::parse::<TenantId>) {
        Some(Ok(tenant)) => format!("/t/{tenant}/mcp"),
        _ => "/mcp".to_owned(),
    }
}

/// Whether somebody is to prove himself again.
fn is_over(principal: &Principal, now: Time) -> bool {
    principal.expires_at.is_some_and(|until| until <= now)
}

/// Whether what was shown is the key, or what the key was before it was rotated, as long as that is good.
fn opens(kept: &store::Kept, shown: &Shown, now: Time) -> bool {
    let is_it = |known: &[u8]| bool::from(known.ct_eq(&shown.0));
    let is_old = kept.old_until.is_some_and(|until| until > now)
        && kept.old_hash.as_deref().is_some_and(is_it);
    is_it(&kept.hash) || is_old
}

/// What goes on by leave of a credential that is good no longer is answered so.
pub fn no_longer() -> Error {
    invalid()
}

fn hash_of(credential: &str) -> [u8; 32] {
    Sha256::digest(credential.as_bytes()).into()
}

/// One answer for every credential that opens nothing: unknown, wrong, revoked, expired.
fn invalid() -> Error {
    let message = "the credential is unknown, wrong, expired or revoked";
    Error::new(Kind::Unauthenticated, "invalid_credential", message)
}

/// Writes down that somebody known was refused what he wanted. The refusal stands whether or not that succeeds.
pub async fn note_refusal(ctx: &Ctx, wanted: &str, error: &Error) {
    if ctx.principal().is_none() {
        return;
    }
    let span = ctx.span();
    let (wanted, code) = (wanted.to_owned(), error.code());
    let reason = error.message().to_owned();
    let noted = ctx.write(move |scope, tx| {
        let refusal = Refusal {
            wanted: &wanted,
            code,
            reason: &reason,
        };
        events::append(
            scope,
            tx,
            "dev.baton.access.refused",
            scope.actor(),
            &refusal,
        )
        .map(drop)
    });
    if let Err(error) = noted.await {
        let _span = span.entered();
        tracing::warn!(error = ?error, "a refusal could not be written down");
    }
}
