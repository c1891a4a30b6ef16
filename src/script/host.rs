//! What scripts may ask the server for: calls to hosts that they were granted, with secrets that they were granted and never
//! see, and operations on memory, tasks and resources with the rights of whoever calls. Whatever a script says is held to this here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Job;
use super::wire::{Ask, Reply};
use crate::ctx::Ctx;
use crate::error::{Error, Kind, Result};
use crate::id::SecretName;
use crate::op;
use crate::outbound::{Bounds, Request};
use crate::secret::Secret;
use crate::secrets;

/// What a run may ask for at most.
const ASKS: u32 = 100;
/// Bytes of an answer from outside at most.
const ANSWER: usize = 1 << 20;
/// Between these stands the name of a secret.
const MARKS: [char; 2] = ['\u{e000}', '\u{e001}'];
/// Operations that scripts may call, none of which waits.
const OPERATIONS: [&str; 14] = [
    "memory_search",
    "memory_get",
    "memory_list",
    "memory_write",
    "memory_forget",
    "task_dispatch",
    "task_get",
    "task_list",
    "task_update",
    "task_cancel",
    "resource_list",
    "resource_read",
    "resource_write",
    "resource_query",
];

/// Who answers what one run asks.
pub(super) struct Host<'a> {
    ctx: Ctx,
    job: &'a Job,
    asked: AtomicU32,
}

/// A call to the outside.
#[derive(Deserialize)]
struct Fetch {
    url: String,
    method: String,
    headers: BTreeMap<String, String>,
    body: Option<String>,
}

impl<'a> Host<'a> {
    pub(super) fn new(ctx: &Ctx, job: &'a Job) -> Self {
        Self {
            ctx: ctx.by_tool(),
            job,
            asked: AtomicU32::new(0),
        }
    }

    /// What came of something that the script asked for.
    pub(super) async fn answer(&self, ask: Ask) -> Reply {
        let outcome = if self.asked.fetch_add(1, Ordering::Relaxed) >= ASKS {
            let message = format!("a run may ask for {ASKS} things at most");
            Err(Error::invalid("invalid_input", message))
        } else if ask.what == "fetch" {
            self.fetch(ask.input).await
        } else {
            self.call(&ask.what, ask.input).await
        };
        let value = match &outcome {
            Ok(value) => value.clone(),
            Err(error) => json!({"code": error.code(), "message": error.message()}),
        };
        Reply {
            id: ask.id,
            is_good: outcome.is_ok(),
            value,
        }
    }

    /// Calls an operation with the rights of whoever called the script.
    async fn call(&self, name: &str, input: Value) -> Result<Value> {
        let known = OPERATIONS.into_iter().find(|known| *known == name);
        let (Some(name), Value::Object(input)) = (known, input) else {
            let message = format!("scripts can't call {name} like this");
            return Err(Error::invalid("invalid_input", message));
        };
        self.ctx.system().call(self.ctx.clone(), name, input).await
    }

    async fn fetch(&self, input: Value) -> Result<Value> {
        let fetch: Fetch = op::parse(&input)?;
        let (host, port) = place(&fetch.url).ok_or_else(|| {
            Error::invalid(
                "invalid_input",
                "a URL begins with https:// or http:// and a host's name",
            )
        })?;
        if !self
            .job
            .hosts
            .iter()
            .any(|grant| covers(grant, &host, port))
        {
            let message =
                format!("the script was not granted {host}; its tool's manifest names the hosts");
            return Err(Error::new(Kind::Forbidden, "forbidden", message));
        }
        let texts = fetch.headers.values().chain(&fetch.body);
        let known = self.secrets(texts.map(String::as_str)).await?;
        let mut headers = HeaderMap::new();
        for (name, value) in &fetch.headers {
            let bad = || {
                Error::invalid(
                    "invalid_input",
                    format!("{name:?} is no header with such a value"),
                )
            };
            let name: HeaderName = name.parse().map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(&filled(value, &known)).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let method: Method = fetch
            .method
            .to_ascii_uppercase()
            .parse()
            .map_err(|_| Error::invalid("invalid_input", "there is no such method"))?;
        let request = Request {
            method,
            url: fetch.url,
            headers,
            body: fetch.body.map(|body| Bytes::from(filled(&body, &known))),
        };
        let bounds = Bounds {
            time: self.job.time,
            bytes: ANSWER,
            // Where it leads is the script's to see, and to be granted.
            redirects: 0,
        };
        let answer = self.ctx.outside().fetch(request, &bounds).await?;
        let headers = answer.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), Value::from(hidden(&value, &known)))
        });
        let body = String::from_utf8_lossy(&answer.body);
        Ok(json!({
            "status": answer.status.as_u16(),
            "headers": headers.collect::<Map<_, _>>(),
            "body": hidden(&body, &known),
            "is_cut": answer.is_cut,
        }))
    }

    /// The secrets that these texts name, of those that the script was granted.
    async fn secrets(
        &self,
        texts: impl Iterator<Item = &str>,
    ) -> Result<BTreeMap<SecretName, Secret>> {
        let mut names = Vec::new();
        for name in texts.flat_map(named) {
            let granted = self
                .job
                .secrets
                .iter()
                .find(|granted| granted.as_str() == name);
            let granted = granted.ok_or_else(|| {
                let message = format!("the script was not granted the secret {name:?}; its tool's manifest names secrets");
                Error::new(Kind::Forbidden, "forbidden", message)
            })?;
            names.push(granted.clone());
        }
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.ctx
            .read(move |scope, tx| secrets::resolve(scope, tx, &names))
            .await
    }
}

/// Host and port of a URL that no two readers read differently.
fn place(url: &str) -> Option<(String, u16)> {
    let (rest, usual) = match url.strip_prefix("https://") {
        Some(rest) => (rest, 443),
        None => (url.strip_prefix("http://")?, 80),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let (host, rest) = rest.split_at(rest.find(|c| !is_host(c)).unwrap_or(rest.len()));
    let (port, rest) = match rest.strip_prefix(':') {
        None => (usual, rest),
        Some(rest) => {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            (rest[..end].parse().ok()?, &rest[end..])
        }
    };
    let is_whole = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    (is_whole && !host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

/// Whether a grant can be one.
pub(super) fn is_grant(grant: &str) -> bool {
    let (name, port) = grant.rsplit_once(':').unwrap_or((grant, "443"));
    let name = name.strip_prefix("*.").unwrap_or(name);
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let is_name = name == "*" || (!name.is_empty() && name.chars().all(is_host));
    is_name && port.parse::<u16>().is_ok()
}

/// Whether a grant is for this host: `api.example.com`, `*.example.com` or `*`, with `:port` where it is not the usual one.
fn covers(grant: &str, host: &str, port: u16) -> bool {
    let grant = grant.to_ascii_lowercase();
    let (name, is_port) = match grant.rsplit_once(':') {
        Some((name, given)) => (name, given.parse() == Ok(port)),
        None => (grant.as_str(), matches!(port, 80 | 443)),
    };
    let is_name = match name.strip_prefix('*') {
        Some("") => true,
        Some(end) => end.starts_with('.') && host.ends_with(end),
        None => name == host,
    };
    is_name && is_port
}

/// The names between marks.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(MARKS[0]).skip(1);
    parts.filter_map(|part| part.split_once(MARKS[1]).map(|(name, _)| name))
}

/// The text with secrets in the place of their marks.
fn filled(text: &str, known: &BTreeMap<SecretName, Secret>) -> String {
    known.iter().fold(text.to_owned(), |text, (name, secret)| {
        text.replace(&format!("{}{name}{}", MARKS[0], MARKS[1]), secret.reveal())
    })
}

/// The text without secrets that whoever answers repeats.
fn hidden(text: &str, known: &BTreeMap<SecretName, Secret>) -> String {
    known.values().fold(text.to_owned(), |text, secret| {
        text.replace(secret.reveal(), "…")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_one_way_or_not_at_all() {
        let read = |url| place(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(
            read("https://API.example.com/x"),
            Some("api.example.com 443".into())
        );
        assert_eq!(
            read("http://a.example:8080?x"),
            Some("a.example 8080".into())
        );
        for bad in [
            "ftp://a.example",
            "https://",
            "https://a.example@b.example/",
            "https://a.example\\@b.example",
            "https://a.example:80@b.example",
            "https://a.example\t.b.example",
            "https:/a.example",
            "https://a.example:99999/",
            "https://[::1]/",
            "//a.example",
            "https://ä.example/",
            " https://a.example",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_grant_names_a_host() {
        for grant in [
            "a.example",
            "*.a.example",
            "*",
            "a.example:8443",
            "*:8080",
            "127.0.0.1",
        ] {
            assert!(is_grant(grant), "{grant}");
        }
        for grant in [
            "",
            "https://a.example",
            "a.example/",
            "*a.example",
            "a.*",
            "a:b",
            "a:99999",
            "*.",
        ] {
            assert!(!is_grant(grant), "{grant}");
        }
    }

    #[test]
    fn a_grant_is_for_a_host_and_its_usual_ports_unless_it_says_more() {
        for (grant, host, port, is_covered) in [
            ("a.example", "a.example", 443, true),
            ("A.example", "a.example", 80, true),
            ("a.example", "a.example", 8080, false),
            ("a.example:8080", "a.example", 8080, true),
            ("a.example", "b.a.example", 443, false),
            ("*.a.example", "b.a.example", 443, true),
            ("*.a.example", "a.example", 443, false),
            ("*.a.example", "ba.example", 443, false),
            ("*a.example", "ba.example", 443, false),
            ("*", "b.example", 443, true),
            ("", "b.example", 443, false),
        ] {
            assert_eq!(
                covers(grant, host, port),
                is_covered,
                "{grant} {host}:{port}"
            );
        }
    }
}
