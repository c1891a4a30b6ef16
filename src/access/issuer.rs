//! The keys of the authorization server whose tokens are honoured: found by discovery, fetched again when a token names one
//! that is not known, and now and then.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use serde::Deserialize;

use crate::clock::{Clock, Time};
use crate::error::{Error, Kind, Result};
use crate::outbound::Reader;

/// How long keys are good without another look: one that the issuer withdrew opens no door longer.
const KEPT: Duration = Duration::from_mins(15);
/// How soon they may be fetched again: whoever sends tokens with keys that nobody knows does not make us ask for each.
const PAUSE: Duration = Duration::from_secs(10);
/// Where an issuer says where its keys are (`OpenID` Connect Discovery 1.0 §4, RFC 8414 §3).
const DISCOVERY: [&str; 2] = [
    ".well-known/openid-configuration",
    ".well-known/oauth-authorization-server",
];

/// An authorization server.
pub(super) struct Issuer {
    url: String,
    reader: Reader,
    clock: Clock,
    keys: Mutex<Keys>,
    /// One asks at a time; the others wait for what he is told.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Keys {
    known: Vec<(Option<String>, DecodingKey)>,
    fetched: Option<Time>,
    tried: Option<Time>,
}

/// What of the discovery document is read.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    pub(super) fn new(url: &str, clock: &Clock, authorities: Option<&Path>) -> Result<Self> {
        Ok(Self {
            url: url.to_owned(),
            reader: Reader::new(authorities)?,
            clock: clock.clone(),
            keys: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// As tokens name it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The keys that may have signed a token that names `id`, or none.
    ///
    /// # Errors
    /// `issuer_unreachable` when there are no keys yet and none can be had.
    pub(super) async fn keys(&self, id: Option<&str>) -> Result<Vec<DecodingKey>> {
        let (found, is_stale) = self.known(id);
        if !found.is_empty() && !is_stale {
            return Ok(found);
        }
        let _asking = self.asking.lock().await;
        if self.may_ask() {
            match self.fetch().await {
                Ok(known) => {
                    let fetched = Some(self.clock.steady());
                    let mut keys = self.lock();
                    (keys.known, keys.fetched) = (known, fetched);
                }
                Err(error) => {
                    tracing::warn!(error = ?error, issuer = self.url, "the issuer's keys can't be had");
                }
            }
        }
        if self.lock().fetched.is_none() {
            return Err(Error::unavailable(
                "issuer_unreachable",
                "the authorization server's keys can't be had now",
                PAUSE,
            ));
        }
        Ok(self.known(id).0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: Option<&str>) -> (Vec<DecodingKey>, bool) {
        let now = self.clock.steady();
        let keys = self.lock();
        let fits = |known: &Option<String>| id.is_none() || known.as_deref() == id;
        let found = keys.known.iter().filter(|(known, _)| fits(known));
        let is_stale = keys.fetched.is_none_or(|at| now.since(at) > KEPT);
        (found.map(|(_, key)| key.clone()).collect(), is_stale)
    }

    /// Whether it is time to ask, which then is done.
    fn may_ask(&self) -> bool {
        let now = self.clock.steady();
        let mut keys = self.lock();
        let may = keys.tried.is_none_or(|at| now.since(at) >= PAUSE);
        if may {
            keys.tried = Some(now);
        }
        may
    }

    async fn fetch(&self) -> Result<Vec<(Option<String>, DecodingKey)>> {
        let mut problem = None;
        for path in DISCOVERY {
            let url = format!("{}/{path}", self.url.trim_end_matches('/'));
            match self.reader.get::<Metadata>(&url).await {
                // A document that speaks for another issuer speaks for nobody (OpenID Connect Discovery 1.0 §4.3).
                Ok(metadata) if metadata.issuer == self.url => {
                    let set: JwkSet = self.reader.get(&metadata.jwks_uri).await?;
                    return Ok(set.keys.iter().filter_map(usable).collect());
                }
                Ok(metadata) => {
                    let message = format!("{url} speaks for {:?}", metadata.issuer);
                    problem = Some(Error::new(Kind::Unavailable, "remote_error", message));
                }
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        Err(problem.unwrap_or_else(|| Error::internal("no place to look")))
    }
}

/// A key that signs, in a family that is honoured.
fn usable(jwk: &Jwk) -> Option<(Option<String>, DecodingKey)> {
    let is_for_signing = jwk.common.public_key_use != Some(PublicKeyUse::Encryption);
    let key = DecodingKey::from_jwk(jwk).ok()?;
    is_for_signing.then(|| (jwk.common.key_id.clone(), key))
}
