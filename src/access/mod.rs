//! Who may come in: what somebody shows becomes a principal, or he stays outside. Keys are this server's own.
//!
//! A principal is remembered for a second: a key that is revoked opens no door longer than that, on any process.

pub mod keys;
mod store;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Time;
use crate::config::Auth;
use crate::ctx::{Ctx, System};
use crate::error::{Error, Kind, Result};
use crate::events;
use crate::principal::{Principal, Tenants};

/// How long a key that was looked at is known without another look.
const FRESH: Duration = Duration::from_secs(1);
/// How exactly it is known when a key was last used: each call would be a write otherwise.
const EXACT: Duration = Duration::from_mins(1);
/// Credentials that are remembered; then all are forgotten and looked at again.
const REMEMBERED: usize = 20_000;

/// The door.
pub struct Access {
    system: System,
    auth: Vec<Auth>,
    known: DashMap<[u8; 32], Known>,
}

struct Known {
    principal: Arc<Principal>,
    until: Time,
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
    pub fn new(system: System, auth: Vec<Auth>) -> Self {
        Self {
            system,
            auth,
            known: DashMap::new(),
        }
    }

    /// Whether somebody who shows nothing may come in.
    pub fn is_open(&self) -> bool {
        self.auth.contains(&Auth::None)
    }

    /// Lets somebody in who shows `credential`. `None` stands for whoever comes where nobody is asked who he is.
    ///
    /// # Errors
    /// `credential_required`, `invalid_credential`, or a failure of the database.
    pub async fn let_in(&self, credential: Option<&str>) -> Result<Option<Arc<Principal>>> {
        if !self.auth.contains(&Auth::Keys) {
            return Ok(None);
        }
        let Some(credential) = credential else {
            return if self.is_open() {
                Ok(None)
            } else {
                let message =
                    "show a key: `Authorization: Bearer bt_…`, or BATON_KEY for a process";
                Err(Error::new(
                    Kind::Unauthenticated,
                    "credential_required",
                    message,
                ))
            };
        };
        let hash = hash_of(credential);
        let principal = match self.remembered(&hash) {
            Some(principal) => principal,
            None => self.look_up(credential, hash).await?,
        };
        let is_over = |until: Time| until <= self.system.clock().now();
        if principal.expires_at.is_some_and(is_over) {
            return Err(invalid());
        }
        Ok(Some(principal))
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Arc<Principal>> {
        let known = self.known.get(hash)?;
        (known.until > self.system.clock().steady()).then(|| known.principal.clone())
    }

    async fn look_up(&self, credential: &str, hash: [u8; 32]) -> Result<Arc<Principal>> {
        let id = keys::id_of(credential).ok_or_else(invalid)?.to_owned();
        let now = self.system.clock().now();
        let find = move |tx: &mut crate::store::SystemTx<'_>| store::find_anywhere(tx, &id);
        let kept = self.system.survey(find).await?.ok_or_else(invalid)?;
        let is_it = |known: &[u8]| bool::from(known.ct_eq(&hash));
        let is_old = kept.old_until.is_some_and(|until| until > now)
            && kept.old_hash.as_deref().is_some_and(is_it);
        if !is_it(&kept.hash) && !is_old {
            return Err(invalid());
        }
        if kept.last_used_at.is_none_or(|at| now.since(at) > EXACT) {
            self.note_use(&kept).await;
        }
        let principal = Arc::new(Principal {
            name: format!("key:{}", kept.key_id).into(),
            tenants: kept
                .tenant
                .clone()
                .map_or(Tenants::All, |tenant| Tenants::These(vec![tenant])),
            grant: kept.grant,
            expires_at: kept.expires_at,
        });
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let until = self.system.clock().steady() + FRESH;
        let known = Known {
            principal: principal.clone(),
            until,
        };
        self.known.insert(hash, known);
        Ok(principal)
    }

    /// Writes down that somebody was refused what he wanted before it was clear for which tenant: in the first of his own.
    pub async fn note_stray(
        &self,
        principal: Option<&Arc<Principal>>,
        wanted: &str,
        error: &Error,
    ) {
        let Some(principal) = principal else { return };
        let Some(tenant) = principal.first_tenant() else {
            tracing::warn!(who = %principal.name, wanted, code = error.code(), "refused");
            return;
        };
        let ctx = self.system.ctx(tenant.clone(), "").of(Some(principal));
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
        tracing::warn!(error = ?error, "a refusal could not be written down");
    }
}
