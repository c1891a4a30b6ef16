//! What a manifest comes to for one tenant: where its session leads, with which credentials. Two tools share a session
//! when all of that is the same, and never two tenants.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::servers::{Command, Servers, Way as Place, filled, secrets_in};
use super::{Transport, Upstream};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::id::{SecretName, TenantId};
use crate::outbound::{Outside, Request};
use crate::secret::Secret;
use crate::secrets;

/// What tells sessions apart.
pub(super) type Key = (TenantId, [u8; 32]);

/// Where a session leads.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) key: Key,
    /// As people are shown it.
    pub(super) label: String,
    pub(super) way: Way,
    /// What is taken out of what comes back.
    pub(super) secrets: Vec<Secret>,
}

/// How it leads there.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Command(Command),
    Url {
        url: String,
        transport: Transport,
        headers: HeaderMap,
        outside: Outside,
    },
}

impl Target {
    /// What `upstream` comes to for the caller's tenant.
    ///
    /// # Errors
    /// `unknown_upstream`, `unknown_secret` and their like.
    pub(super) async fn of(ctx: &Ctx, servers: &Servers, upstream: &Upstream) -> Result<Self> {
        let tenant = ctx.tenant();
        let (way, secrets) = match (&upstream.server, &upstream.url) {
            (Some(name), _) => {
                let server = servers.find(tenant, name)?;
                match &server.way {
                    Place::Command(command) => {
                        let texts = command.arguments.iter().chain(command.environment.values());
                        let known = resolve(ctx, texts.flat_map(|text| secrets_in(text))).await?;
                        (Way::Command(own(command, tenant, &known)), known)
                    }
                    Place::Url(service) => {
                        let texts = service.headers.values().flat_map(|text| secrets_in(text));
                        let known = resolve(ctx, texts).await?;
                        let way = Way::Url {
                            url: service.url.clone(),
                            transport: service.transport,
                            headers: headers(&service.headers, tenant, &known)?,
                            outside: service.outside(ctx.outside()),
                        };
                        (way, known)
                    }
                }
            }
            (None, url) => {
                let named = upstream.auth.iter().map(|auth| auth.secret().clone());
                let texts = upstream.headers.values().flat_map(|text| secrets_in(text));
                let known = resolve(ctx, named.chain(texts)).await?;
                let mut call = Request::get(url.clone().unwrap_or_default());
                call.headers = headers(&upstream.headers, tenant, &known)?;
                if let Some(auth) = &upstream.auth
                    && let Some(secret) = known.get(auth.secret())
                {
                    auth.prove(&mut call, secret.reveal())?;
                }
                let way = Way::Url {
                    url: call.url,
                    transport: upstream.transport,
                    headers: call.headers,
                    outside: ctx.outside().clone(),
                };
                (way, known)
            }
        };
        Ok(Self {
            key: (tenant.clone(), way.hash(upstream.server.as_deref())),
            label: upstream.label().to_owned(),
            way,
            secrets: secrets.into_values().collect(),
        })
    }
}

impl Way {
    /// Tells it from every other one.
    fn hash(&self, server: Option<&str>) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        add(server.unwrap_or_default().as_bytes());
        match self {
            Self::Command(command) => {
                add(command.program.as_bytes());
                add(command.folder.as_os_str().as_encoded_bytes());
                add(&command.arguments.len().to_be_bytes());
                command
                    .arguments
                    .iter()
                    .for_each(|text| add(text.as_bytes()));
                for (name, value) in &command.environment {
                    add(name.as_bytes());
                    add(value.as_bytes());
                }
            }
            Self::Url {
                url,
                transport,
                headers,
                ..
            } => {
                add(url.as_bytes());
                add(&[u8::from(*transport == Transport::Sse)]);
                for (name, value) in headers {
                    add(name.as_str().as_bytes());
                    add(value.as_bytes());
                }
            }
        }
        hash.finalize().into()
    }
}

/// The tenant's secrets of these names.
async fn resolve(
    ctx: &Ctx,
    names: impl Iterator<Item = SecretName>,
) -> Result<BTreeMap<SecretName, Secret>> {
    let names: Vec<SecretName> = names.collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    ctx.read(move |scope, tx| secrets::resolve(scope, tx, &names))
        .await
}

fn value_of(known: &BTreeMap<SecretName, Secret>, name: &str) -> Option<String> {
    let found = known.iter().find(|(known, _)| known.as_str() == name);
    found.map(|(_, secret)| secret.reveal().to_owned())
}

/// The command for a tenant.
fn own(command: &Command, tenant: &TenantId, known: &BTreeMap<SecretName, Secret>) -> Command {
    let fill = |text: &str| filled(text, tenant, |name| value_of(known, name));
    let environment = command.environment.iter();
    Command {
        program: command.program.clone(),
        arguments: command.arguments.iter().map(|text| fill(text)).collect(),
        environment: environment
            .map(|(name, value)| (name.clone(), fill(value)))
            .collect(),
        folder: PathBuf::from(fill(&command.folder.to_string_lossy())),
    }
}

fn headers(
    given: &BTreeMap<String, String>,
    tenant: &TenantId,
    known: &BTreeMap<SecretName, Secret>,
) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, text) in given {
        let value = filled(text, tenant, |name| value_of(known, name));
        let header = name
            .parse::<HeaderName>()
            .ok()
            .zip(HeaderValue::from_str(&value).ok());
        let (header, mut value) = header.ok_or_else(|| {
            Error::invalid(
                "invalid_input",
                format!("what goes into the header {name} can't stand there"),
            )
        })?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}
