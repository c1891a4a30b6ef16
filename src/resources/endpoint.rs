//! Services over HTTP as resources: a path below a base URL is read with GET, written with PUT and removed with DELETE. What
//! was read before is asked for anew with its `ETag`. A secret goes along by name, and is never shown.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::places::{encoded, parts};
use super::{Entry, reading};
use crate::clock::Time;
use crate::ctx::Ctx;
use crate::error::{Error, Kind, Result};
use crate::folders::Change;
use crate::id::{ResourceId, SecretName, TenantId};
use crate::outbound::{Answer, Bounds, Request};

/// Answers that are kept, and bytes of one at most.
const KEPT: usize = 64;
const BYTES: usize = 256 * 1024;

/// What the registration's metadata says about calls.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Calls {
    headers: Map<String, Value>,
    auth: Option<Auth>,
}

/// A secret that goes along: `{"secret": "crm_token"}` as a bearer token, or in a header of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    secret: SecretName,
    header: Option<String>,
}

/// Of which registration, as it is now, which path it is.
type Key = (TenantId, ResourceId, Time, String);

/// Answers that may be still right.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<VecDeque<(Key, HeaderValue, Answer)>>);

impl Kept {
    fn find(&self, key: &Key) -> Option<(HeaderValue, Answer)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|(other, ..)| other == key)?;
        Some((found.1.clone(), found.2.clone()))
    }

    fn keep(&self, key: Key, answer: &Answer) {
        let tag = answer.headers.get(ETAG).cloned();
        let Some(tag) = tag.filter(|_| !answer.is_cut && answer.body.len() <= BYTES) else {
            return;
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, ..)| *other != key);
        kept.push_back((key, tag, answer.clone()));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
}

/// Whether a registration's metadata gives it a secret, and whether it says anything that can't be.
pub(super) fn takes_secret(metadata: &Map<String, Value>) -> Result<bool> {
    let calls = calls(metadata)?;
    headers(&calls)?;
    Ok(calls.auth.is_some())
}

fn calls(metadata: &Map<String, Value>) -> Result<Calls> {
    Calls::deserialize(Value::Object(metadata.clone())).map_err(|error| {
        let message =
            format!("headers or auth ({{secret, header}}) are not as they must be: {error}");
        Error::invalid_at("/metadata", message)
    })
}

fn headers(calls: &Calls) -> Result<HeaderMap> {
    let wrong = |name: &str| {
        let message = "must be a header and its text; passwords and tokens go into auth";
        Error::invalid_at(format!("/metadata/headers/{name}"), message)
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &calls.headers {
        let known: HeaderName = name.parse().map_err(|_| wrong(name))?;
        let value = value.as_str().and_then(|value| value.parse().ok());
        let value = value.filter(|_| known != AUTHORIZATION);
        headers.insert(known, value.ok_or_else(|| wrong(name))?);
    }
    Ok(headers)
}

/// Refuses what can't be the base of a service; where it leads is looked at when it is called.
pub(super) fn check(uri: &str) -> Result<()> {
    let rest = uri.strip_prefix("https://").or(uri.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next());
    match host {
        Some(host) if !host.is_empty() && !uri.contains(['@', '?', '#', ' ']) => Ok(()),
        _ => Err(Error::invalid_at(
            "/uri",
            "must be https://HOST/PATH without a query; names and passwords go into a secret that metadata.auth names",
        )),
    }
}

async fn call(
    ctx: &Ctx,
    entry: &Entry,
    (method, path): (Method, &str),
    (mut extra, body): (HeaderMap, Option<Bytes>),
) -> Result<Answer> {
    let calls = calls(&entry.metadata)?;
    extra.extend(headers(&calls)?);
    if let Some(auth) = calls.auth {
        let secret = reading::secret(ctx, &auth.secret).await?;
        let (header, text) = match &auth.header {
            None => (AUTHORIZATION, format!("Bearer {}", secret.reveal())),
            Some(name) => {
                let name = name.parse();
                let name =
                    name.map_err(|_| Error::invalid_at("/metadata/auth/header", "no header"))?;
                (name, secret.reveal().to_owned())
            }
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| Error::conflict("secret_broken", "the secret is no text of a header"))?;
        value.set_sensitive(true);
        extra.insert(header, value);
    }
    let path = encoded(&parts(path)?.join("/"));
    let base = entry.uri.trim_end_matches('/');
    let url = if path.is_empty() {
        entry.uri.clone()
    } else {
        format!("{base}/{path}")
    };
    let request = Request {
        method,
        url,
        headers: extra,
        body,
    };
    ctx.outside().fetch(request, &Bounds::default()).await
}

/// What is at a path of a service: its bytes, whether there are more, and its media type.
pub(super) async fn read(
    ctx: &Ctx,
    entry: &Entry,
    path: &str,
    kept: &Kept,
) -> Result<(Vec<u8>, bool, &'static str)> {
    let key = (
        ctx.tenant().clone(),
        entry.id.clone(),
        entry.updated_at,
        path.to_owned(),
    );
    let before = kept.find(&key);
    let mut headers = HeaderMap::new();
    if let Some((tag, _)) = &before {
        headers.insert(IF_NONE_MATCH, tag.clone());
    }
    let answer = call(ctx, entry, (Method::GET, path), (headers, None)).await?;
    let answer = match before {
        Some((_, before)) if answer.status == StatusCode::NOT_MODIFIED => before,
        _ => {
            succeeded(&answer)?;
            kept.keep(key, &answer);
            answer
        }
    };
    let kind = answer.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    Ok((answer.body, answer.is_cut, mime_type(kind)))
}

/// Changes what is at a path of a service.
pub(super) async fn write(
    ctx: &Ctx,
    entry: &Entry,
    (path, mime_type, change): (&str, &'static str, Change),
) -> Result<()> {
    let mut headers = HeaderMap::new();
    let (method, body) = match change {
        Change::Put(bytes) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(mime_type));
            (Method::PUT, Some(Bytes::from(bytes)))
        }
        Change::Remove => (Method::DELETE, None),
    };
    let answer = call(ctx, entry, (method, path), (headers, body)).await?;
    succeeded(&answer)
}

/// What the service says of a failure may hold what was sent to it, so its status must do.
fn succeeded(answer: &Answer) -> Result<()> {
    match answer.status {
        status if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(Error::not_found(
            "unknown_file",
            "the service has nothing there",
        )),
        status => {
            let message = format!("the service answered {status}");
            Err(Error::new(Kind::Unavailable, "remote_error", message))
        }
    }
}

fn mime_type(said: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "application/json",
        "application/xml",
        "application/pdf",
        "application/yaml",
        "text/plain",
        "text/html",
        "text/markdown",
        "text/csv",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/svg+xml",
    ];
    let said = said.split(';').next().unwrap_or_default().trim();
    let found = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(said));
    match found {
        Some(known) => known,
        None if said.ends_with("+json") => "application/json",
        None => "application/octet-stream",
    }
}
