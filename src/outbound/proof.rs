//! How a call proves to a server who it is: by a secret of the tenant, which only the call itself is told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::Request;
use crate::error::{Error, Result};
use crate::id::SecretName;

/// How a call proves who it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    #[serde(rename = "type")]
    kind: Scheme,
    /// What the secret is called.
    secret: SecretName,
    /// The header, or the name in the query.
    name: Option<String>,
    /// Whose password it is.
    username: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scheme {
    Bearer,
    Basic,
    Header,
    Query,
}

impl Auth {
    /// What the secret is called.
    pub fn secret(&self) -> &SecretName {
        &self.secret
    }

    /// Refuses what lacks something, or has too much.
    ///
    /// # Errors
    /// `invalid_input` says what.
    pub fn check(&self) -> Result<()> {
        let bad = |at: &str, message: &str| Err(Error::invalid_at(at, message));
        match (self.kind, &self.name, &self.username) {
            (Scheme::Header, Some(name), None) => match name.parse::<HeaderName>() {
                Ok(_) => Ok(()),
                Err(_) => bad("/name", "is no header of HTTP"),
            },
            (Scheme::Query, Some(_), None)
            | (Scheme::Bearer, None, None)
            | (Scheme::Basic, None, Some(_)) => Ok(()),
            (Scheme::Header | Scheme::Query, None, _) => bad("/name", "missing, and required"),
            (Scheme::Basic, _, None) => bad("/username", "missing, and required"),
            (Scheme::Bearer | Scheme::Basic, Some(_), _) => bad("/name", "is for header and query"),
            (_, _, Some(_)) => bad("/username", "is for basic"),
        }
    }

    /// Adds the proof to a call.
    ///
    /// # Errors
    /// `invalid_input` for a secret that can't stand where it should.
    pub fn prove(&self, call: &mut Request, secret: &str) -> Result<()> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (name, value) = match self.kind {
            Scheme::Query => {
                let url = Url::parse(&call.url);
                let mut url = url.map_err(|_| Error::invalid_at("/url", "is no URL"))?;
                url.query_pairs_mut().append_pair(&text(&self.name), secret);
                call.url = url.into();
                return Ok(());
            }
            Scheme::Bearer => ("authorization".into(), format!("Bearer {secret}")),
            Scheme::Basic => {
                let pair = format!("{}:{secret}", text(&self.username));
                (
                    "authorization".into(),
                    format!("Basic {}", STANDARD.encode(pair)),
                )
            }
            Scheme::Header => (text(&self.name), secret.to_owned()),
        };
        let name: HeaderName = name.parse().map_err(Error::internal)?;
        let value = HeaderValue::from_str(&value);
        let mut value = value.map_err(|_| {
            let message = format!("the secret {} can't stand in a header", self.secret);
            Error::invalid("invalid_input", message)
        })?;
        value.set_sensitive(true);
        call.headers.insert(name, value);
        Ok(())
    }
}
