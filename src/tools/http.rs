//! Tools that are an HTTP call: where it goes and what it says is filled in from the arguments, and what comes back is
//! narrowed down to what whoever calls wants to know. Calls leave through `outbound`, which decides where they may lead.

use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::manifest::{Answer, Limits, Manifest};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::language::page;
use crate::op::below;
use crate::outbound::{self, Auth, Bounds, Request};
use crate::secret::Secret;
use crate::secrets;
use crate::template;

/// What a URL that is an argument as a whole looks like.
const WHOLE: &str = "{+";
/// Characters of a failure that are shown.
const SHOWN: usize = 500;
/// Bytes that are read of an answer of which only a part is wanted, for each that is wanted.
const READ: usize = 4;

/// An HTTP call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    #[serde(rename = "type")]
    _type: String,
    /// Where to; `{name}` is an argument as a segment or a value of a query, `{+name}` alone the whole URL.
    url: String,
    #[serde(default = "post")]
    method: String,
    /// Added to the URL; what has no value is left out.
    #[serde(default)]
    query: Map<String, Value>,
    /// An object, or `{name}` of an argument that is one.
    #[serde(default)]
    headers: Value,
    /// Any JSON; a text is sent as it is. Without it, arguments that stand nowhere else are sent.
    body: Option<Value>,
    #[serde(default)]
    response: Mapping,
    /// How a call proves who it is.
    auth: Option<Auth>,
}

fn post() -> String {
    "POST".into()
}

/// What is made of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mapping {
    format: Format,
    /// The part that is wanted (JSON Pointer).
    pointer: String,
    /// An object of parts of that, or of each of its items.
    fields: Map<String, Value>,
    /// Words about it, with `{/pointer}` for parts.
    text: Option<String>,
    /// Whether status and type are answered too; then no status is a failure.
    envelope: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// JSON where it says that it is, else text.
    #[default]
    Auto,
    Json,
    Text,
    /// A page as a reader sees it.
    Page,
}

/// A call as people see it.
fn shown(call: &Request) -> Value {
    let headers = call.headers.iter();
    let headers = headers.map(|(name, value)| {
        let value = value.to_str().unwrap_or("…");
        (name.to_string(), Value::from(value))
    });
    let mut shown = json!({"method": call.method.as_str(), "url": call.url,
        "headers": headers.collect::<Map<_, _>>()});
    if let Some(body) = &call.body {
        let text = String::from_utf8_lossy(body);
        shown["body"] = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
    }
    shown
}

impl Http {
    /// Refuses what could never be called.
    pub(super) fn ready(self, manifest: &Manifest) -> Result<Self> {
        let bad = |at: &str, message: String| Error::invalid_at(at, message);
        for name in template::names(&self.url) {
            if !manifest.parameters().any(|known| known == name) {
                return Err(bad("/url", format!("{name} is none of the parameters")));
            }
            if !manifest.always_has(name) {
                let message = format!("{name} must be required, or have a default");
                return Err(bad("/url", message));
            }
        }
        if !self.url.starts_with(WHOLE) {
            let origin = self.url.split_once("://").map(|(_, rest)| rest);
            let origin = origin.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
            if origin.is_none_or(|origin| origin.contains(['{', '}'])) {
                let message = "an http:// or https:// URL whose host is no argument; {+name} alone is a whole URL";
                return Err(bad("/url", message.into()));
            }
            let sample = template::fill(&self.url, &|_| Some("x".into()));
            let url: Option<Uri> = sample.parse().ok();
            let scheme = url.as_ref().and_then(Uri::scheme_str);
            if !matches!(scheme, Some("http" | "https")) {
                return Err(bad("/url", "no http:// or https:// URL".into()));
            }
        } else if template::whole(&self.url).is_none() {
            return Err(bad(
                "/url",
                "{+name} is the whole URL, or is not there".into(),
            ));
        }
        if template::whole(&self.method).is_none() {
            method(&self.method)?;
        }
        for (name, value) in self.headers.as_object().into_iter().flatten() {
            let value = value
                .as_str()
                .map(|text| template::fill(text, &|_| Some("x".into())));
            let value = value.ok_or_else(|| bad("/headers", format!("{name} must be a text")))?;
            header(name, &value)?;
        }
        if !(self.headers.is_object() || self.headers.is_null())
            && self.headers.as_str().and_then(template::whole).is_none()
        {
            let message = "an object of texts, or {name} of an argument that is one";
            return Err(bad("/headers", message.into()));
        }
        if let Some(auth) = &self.auth {
            auth.check().map_err(|error| below(error, "/auth"))?;
            if self.url.starts_with(WHOLE) {
                let message =
                    "whoever calls would choose who is told the secret: name the host in url";
                return Err(bad("/auth", message.into()));
            }
        }
        self.response.check()?;
        Ok(self)
    }

    /// Whether it only reads, as far as HTTP goes.
    pub(super) fn only_reads(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }

    /// The call with these arguments.
    ///
    /// # Errors
    /// `invalid_input` for arguments that can't be said in HTTP.
    fn call(&self, arguments: &Map<String, Value>) -> Result<Request> {
        let method = match template::value(&self.method, arguments) {
            Some(Value::String(name)) => method(&name)?,
            _ => method(&self.method)?,
        };
        let mut url = match template::whole(&self.url) {
            Some(name) => template::text(&arguments[name]),
            None => template::url(&self.url, arguments)?,
        };
        let mut used: Vec<&str> = template::names(&self.url).collect();
        used.extend(template::names(&self.method));
        let mut headers = self.headers(arguments, &mut used)?;
        let mut query = template::object(&self.query, arguments);
        let mut body = self.body.as_ref();
        let rest: Map<String, Value>;
        let whole;
        if body.is_none() && self.query.is_empty() {
            let others = arguments.iter();
            let others = others.filter(|(name, _)| !used.contains(&name.as_str()));
            rest = others
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            if matches!(method, Method::GET | Method::HEAD | Method::DELETE) {
                query = rest;
            } else {
                whole = Value::Object(rest);
                body = Some(&whole);
            }
        }
        template::add_query(&mut url, &query);
        let body = match body.and_then(|body| template::json(body, arguments)) {
            None => None,
            Some(Value::String(text)) => Some(text.into()),
            Some(other) => {
                let json = HeaderValue::from_static("application/json");
                headers.entry(CONTENT_TYPE).or_insert(json);
                Some(other.to_string().into())
            }
        };
        Ok(Request {
            method,
            url,
            headers,
            body,
        })
    }

    fn headers<'a>(
        &'a self,
        arguments: &Map<String, Value>,
        used: &mut Vec<&'a str>,
    ) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.5"),
        );
        let said = match &self.headers {
            Value::String(whole) => {
                used.extend(template::names(whole));
                template::value(whole, arguments)
            }
            Value::Object(fields) => {
                let texts = fields.values().filter_map(Value::as_str);
                used.extend(texts.flat_map(template::names));
                Some(Value::Object(template::object(fields, arguments)))
            }
            _ => None,
        };
        for (name, value) in said.iter().filter_map(Value::as_object).flatten() {
            let (name, value) = header(name, &template::text(value))?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// The call as it would be, with the secret's name in the place of the secret.
    pub(super) fn shown(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let mut call = self.call(arguments)?;
        if let Some(auth) = &self.auth {
            auth.prove(&mut call, &format!("[{}]", auth.secret()))?;
        }
        Ok(shown(&call))
    }

    /// The secret that a call needs.
    async fn secret(&self, ctx: &Ctx) -> Result<Option<Secret>> {
        let Some(auth) = &self.auth else {
            return Ok(None);
        };
        let name = auth.secret().clone();
        let read =
            ctx.read(move |scope, tx| secrets::resolve(scope, tx, std::slice::from_ref(&name)));
        Ok(read.await?.remove(auth.secret()))
    }

    /// Makes the call.
    pub(super) async fn run(
        &self,
        ctx: &Ctx,
        limits: &Limits,
        arguments: &Map<String, Value>,
    ) -> Result<Answer> {
        let mut call = self.call(arguments)?;
        let secret = self.secret(ctx).await?;
        if let (Some(auth), Some(secret)) = (&self.auth, &secret) {
            auth.prove(&mut call, secret.reveal())?;
        }
        let bounds = Bounds {
            time: Duration::from_secs(limits.timeout_seconds.into()),
            bytes: (limits.max_bytes as usize).saturating_mul(READ),
            ..Bounds::default()
        };
        let mut answer = ctx.outside().fetch(call, &bounds).await?;
        if let Some(secret) = &secret {
            answer.body = without(&answer.body, secret.reveal());
        }
        Ok(self.response.of(&answer, limits.max_bytes as usize))
    }
}

impl Mapping {
    fn check(&self) -> Result<()> {
        let pointers = self.fields.iter().map(|(name, value)| {
            let pointer = value.as_str();
            pointer.ok_or_else(|| {
                let message = "a JSON Pointer: the empty text, or /a/b";
                Error::invalid_at(format!("/response/fields/{name}"), message)
            })
        });
        let pointers: Vec<&str> = pointers.collect::<Result<_>>()?;
        let is_pointer = |text: &str| text.is_empty() || text.starts_with('/');
        if !pointers
            .into_iter()
            .chain([self.pointer.as_str()])
            .all(is_pointer)
        {
            let message = "a JSON Pointer is the empty text, or begins with a slash";
            return Err(Error::invalid_at("/response", message));
        }
        Ok(())
    }

    /// What an answer comes to, in `most` bytes.
    fn of(&self, answer: &outbound::Answer, most: usize) -> Answer {
        let kind = answer.headers.get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&answer.body);
        let status = answer.status;
        if !self.envelope && !status.is_success() {
            let text: String = text.chars().take(SHOWN).collect();
            return Answer::Failure(format!("it answered {status}: {text}"));
        }
        let is_json = self.format == Format::Json || (self.format == Format::Auto && is_json(kind));
        let read = match self.format {
            Format::Page if is_html(kind, &text) => {
                let page = page(&text);
                let mut read = json!({"text": cut(page.text, most)});
                if let Some(title) = page.title {
                    read["title"] = title.into();
                }
                read
            }
            Format::Page => json!({"text": cut(text.into_owned(), most)}),
            _ if is_json && answer.is_cut => {
                return Answer::Failure(format!(
                    "it answered more than {most} bytes; ask for less, or raise max_bytes"
                ));
            }
            _ if is_json && text.trim().is_empty() => Value::Null,
            _ if is_json => match serde_json::from_str(&text) {
                Ok(read) => read,
                Err(error) => {
                    return Answer::Failure(format!("it answered what is not JSON: {error}"));
                }
            },
            _ => cut(text.into_owned(), most).into(),
        };
        let read = match self.pick(read) {
            Ok(read) => read,
            Err(failure) => return Answer::Failure(failure),
        };
        if self.envelope {
            let said = json!({"status": status.as_u16(), "content_type": kind, "body": read});
            return Answer::Data(said, None);
        }
        let about = self.text.as_ref();
        let about =
            about.map(|text| template::fill(text, &|name| read.pointer(name).map(template::text)));
        match (read, about) {
            (Value::String(text), None) => Answer::Text(text),
            (read, about) => Answer::Data(read, about),
        }
    }

    /// The part of `read` that is wanted.
    fn pick(&self, mut read: Value) -> std::result::Result<Value, String> {
        let part = read.pointer_mut(&self.pointer).map(Value::take);
        let Some(part) = part else {
            return Err(format!("its answer has nothing at {}", self.pointer));
        };
        if self.fields.is_empty() {
            return Ok(part);
        }
        let of = |one: &Value| -> Value {
            let fields = self.fields.iter();
            let fields = fields.filter_map(|(name, pointer)| {
                Some((name.clone(), one.pointer(pointer.as_str()?)?.clone()))
            });
            Value::Object(fields.collect())
        };
        Ok(match part {
            Value::Array(items) => items.iter().map(of).collect(),
            one => of(&one),
        })
    }
}

/// What a server answered without the secret that it was told: some say again what they heard.
fn without(body: &[u8], secret: &str) -> Vec<u8> {
    match std::str::from_utf8(body) {
        Ok(text) if !secret.is_empty() => text.replace(secret, "[secret]").into_bytes(),
        _ => body.to_vec(),
    }
}

fn method(name: &str) -> Result<Method> {
    const KNOWN: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let known = KNOWN
        .contains(&name)
        .then(|| Method::from_bytes(name.as_bytes()));
    known
        .and_then(std::result::Result::ok)
        .ok_or_else(|| Error::invalid_at("/method", format!("one of {}", KNOWN.join(", "))))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let found = name.parse().ok().zip(value.parse().ok());
    found.ok_or_else(|| Error::invalid_at(format!("/headers/{name}"), "is no header of HTTP"))
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json")
}

fn is_html(kind: &str, text: &str) -> bool {
    let start = text.trim_start().get(..14).unwrap_or_default();
    kind.contains("html") || start.eq_ignore_ascii_case("<!doctype html")
}

/// At most `most` bytes of `text`, which then says that it was cut.
fn cut(mut text: String, most: usize) -> String {
    const CUT: &str = "\n[cut here]";
    if text.len() > most {
        let end = text.floor_char_boundary(most.saturating_sub(CUT.len()));
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}
