//! Every HTTP call that leaves this process goes through here: a Baton that calls another one's REST interface, for the
//! command line and for executors that work over a URL; documents that an authorization server publishes; and, in `fetch`,
//! what tenants name.

mod fetch;
mod problem;
mod proof;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Certificate, Method, Url};
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::id::TenantId;
use crate::secret::Secret;
use crate::trace::Trace;
pub use fetch::{Answer, Bounds, Incoming, Outside, Request, beside, origin_of};
use problem::remote_error;
pub use proof::Auth;

/// Time to reach a server.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for a whole call: the longest wait of an operation and some.
const CALL: Duration = Duration::from_secs(75);
/// Time that a connection is kept for the next call; less than the server keeps it, so that none is used as it closes.
const IDLE: Duration = Duration::from_mins(1);
/// Time for a document that another server publishes, and its bytes at most.
const DOCUMENT: Duration = Duration::from_secs(10);
const PUBLISHED: usize = 1024 * 1024;
/// Bytes of an answer at most.
const ANSWER: usize = 64 * 1024 * 1024;
/// The header that names the tenant.
const TENANT: &str = "x-tenant-id";

/// Calls the REST interface of a Baton server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    tenant: Option<TenantId>,
    key: Option<Secret>,
    trace: Option<Trace>,
    /// For which tenant the server takes its calls, once it has said so.
    settled: Arc<OnceLock<String>>,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:5050`, for `tenant` or the server's own default. It is
    /// shown `key`. Over TLS the authorities of the machine are trusted, and those in the PEM file `authorities`.
    ///
    /// # Errors
    /// `invalid_input` when `base` is not a URL of HTTP, or there are no authorities in the file; `internal` when there is no
    /// usable TLS.
    pub fn new(
        base: &str,
        tenant: Option<TenantId>,
        key: Option<Secret>,
        authorities: Option<&Path>,
    ) -> Result<Self> {
        let builder = trusting(builder(), authorities)?;
        Ok(Self {
            tenant,
            key,
            ..Self::over(builder, base)?
        })
    }

    /// One that shows the server at `base` nothing, and does not ask it who it is: to see whether it lives.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn stranger(base: &str) -> Result<Self> {
        Self::over(builder().tls_danger_accept_invalid_certs(true), base)
    }

    fn over(builder: reqwest::ClientBuilder, base: &str) -> Result<Self> {
        let mut url = Url::parse(base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                let shown = if base.contains(['@', '?']) {
                    "the address".to_owned()
                } else {
                    format!("{base:?}")
                };
                let message = format!("{shown} is not a URL such as http://127.0.0.1:5050");
                Error::invalid("invalid_input", message)
            })?;
        // The whole base counts as a folder, so that a server behind a path prefix is reached.
        let folder = format!("{}/", url.path().trim_end_matches('/'));
        url.set_path(&folder);
        // A proxy that the environment names leads out of this machine, not back into it.
        let builder = if is_loopback(&url) {
            builder.no_proxy()
        } else {
            builder
        };
        let http = builder
            .timeout(CALL)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(Error::internal)?;
        Ok(Self {
            http,
            base: url,
            tenant: None,
            key: None,
            trace: None,
            settled: Arc::default(),
        })
    }

    /// For which tenant the server has taken calls so far.
    pub fn tenant(&self) -> Option<&str> {
        self.settled.get().map(String::as_str)
    }

    /// The same, whose calls are part of `trace`.
    #[must_use]
    pub fn traced(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }

    /// Calls `method` on `path`, whose `{name}` segments are filled from `input`; the rest of `input` goes into the query
    /// string of a `GET` and the body of anything else.
    ///
    /// # Errors
    /// What the server answers, with its code where it is one of ours and `remote_error` otherwise;
    /// `remote_unreachable` when it does not answer.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        mut input: Map<String, Value>,
    ) -> Result<Value> {
        let method = Method::from_bytes(method.as_bytes()).map_err(Error::internal)?;
        let mut url = self.url(path, &mut input)?;
        if method == Method::GET {
            add_query(&mut url, &input);
            return self.send(self.http.get(url)).await;
        }
        self.send(self.http.request(method, url).json(&input)).await
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = self.url(path, &mut Map::new())?;
        self.send(self.http.post(url).json(body)).await
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn get(&self, path: &str) -> Result<Value> {
        let url = self.url(path, &mut Map::new())?;
        self.send(self.http.get(url)).await
    }

    /// `path` below the base, with its variables taken out of `input`.
    fn url(&self, path: &str, input: &mut Map<String, Value>) -> Result<Url> {
        let mut url = self.base.clone();
        {
            let mut segments = url
                .path_segments_mut()
                .map_err(|()| Error::internal("an HTTP URL has a path"))?;
            segments.pop_if_empty();
            for segment in path.split('/').filter(|segment| !segment.is_empty()) {
                let name = segment
                    .strip_prefix('{')
                    .and_then(|rest| rest.strip_suffix('}'));
                let Some(name) = name else {
                    segments.push(segment);
                    continue;
                };
                let value = input.remove(name).map(|value| text(&value));
                // A dot segment or an empty one would lead to another path than meant.
                match value.as_deref() {
                    Some("" | "." | "..") | None => {
                        return Err(Error::invalid_at(
                            format!("/{name}"),
                            "needed, since it is part of the path",
                        ));
                    }
                    Some(value) => segments.push(value),
                };
            }
        }
        Ok(url)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let request = match &self.tenant {
            Some(tenant) => request.header(TENANT, tenant.as_str()),
            None => request,
        };
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        };
        let parts = self.trace.iter().flat_map(Trace::parts);
        let request = parts.fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        let response = request
            .send()
            .await
            .map_err(|error| unreachable(&self.base, error))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(reqwest::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let tenant = response.headers().get(TENANT);
        let tenant = tenant.and_then(|tenant| tenant.to_str().ok());
        if let Some(tenant) = tenant.filter(|_| status.is_success()) {
            self.settled.get_or_init(|| tenant.to_owned());
        }
        let body = self.body(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let base = shown(&self.base);
                let message = format!("{base} answered what is not JSON; is it a Baton?");
                Error::new(Kind::Unavailable, "remote_error", message).with_source(error)
            });
        }
        Err(remote_error(status, &body, retry_after))
    }

    async fn body(&self, response: reqwest::Response) -> Result<Vec<u8>> {
        body(response, ANSWER, &self.base).await
    }
}

/// Reads documents that other servers publish.
#[derive(Debug, Clone)]
pub struct Reader(reqwest::Client);

impl Reader {
    /// One that asks whoever it is told to: for addresses that the operator names. It trusts `authorities` as a [`Client`] does.
    ///
    /// # Errors
    /// `invalid_input` when there are no authorities in the file; `internal` when there is no usable TLS.
    pub fn new(authorities: Option<&Path>) -> Result<Self> {
        let builder = trusting(builder(), authorities)?.timeout(DOCUMENT);
        builder.build().map(Self).map_err(Error::internal)
    }

    /// The JSON document at `url`: over TLS, but for this machine.
    ///
    /// # Errors
    /// `invalid_input`, `remote_unreachable`, `remote_error`.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T> {
        let url = Url::parse(url).ok().filter(Url::has_host);
        let url = url.filter(|url| url.scheme() == "https" || is_loopback(url));
        let url = url.ok_or_else(|| {
            Error::invalid(
                "invalid_input",
                "a document is read over https://, or from this machine",
            )
        })?;
        let response = self.0.get(url.clone()).send().await;
        let response = response.map_err(|error| unreachable(&url, error))?;
        let status = response.status();
        let body = body(response, PUBLISHED, &url).await?;
        if !status.is_success() {
            let message = format!("{} answered {status}", shown(&url));
            return Err(Error::new(Kind::Unavailable, "remote_error", message));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let message = format!("{} is not the document that was expected", shown(&url));
            Error::new(Kind::Unavailable, "remote_error", message).with_source(error)
        })
    }
}

/// A URL without what may be a secret in it: who calls, with what password, and its query.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // What can't have them has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

/// As people see the address that they gave.
pub fn address(text: &str) -> String {
    let url = Url::parse(text);
    url.map_or_else(|_| String::new(), |url| shown(&url))
}

async fn body(mut response: reqwest::Response, most: usize, from: &Url) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let broken = |error| unreachable(from, error);
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > most {
            let message = format!("{} answered more than {most} bytes", shown(from));
            return Err(Error::new(Kind::Unavailable, "remote_error", message));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable(from: &Url, error: reqwest::Error) -> Error {
    use rustls::Error::{InvalidCertificate, InvalidMessage};
    let how = match tls_error(&error) {
        Some(InvalidCertificate(reason)) => format!(
            "shows a certificate that is not trusted ({reason}); name its authority with --ca-cert FILE (BATON_CA_CERT)"
        ),
        Some(InvalidMessage(_)) => "does not speak TLS; is it http:// that is meant?".to_owned(),
        Some(other) => format!("can't be agreed with on keys: {other}"),
        None if error.is_timeout() => "did not answer in time".to_owned(),
        None if error.is_connect() => "can't be reached; is the server running?".to_owned(),
        None => "broke the call off".to_owned(),
    };
    let message = format!("{} {how}", shown(from));
    let error = error.without_url();
    Error::unavailable("remote_unreachable", message, Duration::from_secs(1)).with_source(error)
}

/// What TLS has to say of a failure. An I/O error is not the source of what it wraps.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let io = error.downcast_ref::<io::Error>();
        next = match io.and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// A builder that trusts the authorities in a PEM file too.
fn trusting(
    builder: reqwest::ClientBuilder,
    authorities: Option<&Path>,
) -> Result<reqwest::ClientBuilder> {
    let Some(file) = authorities else {
        return Ok(builder);
    };
    let unusable = |error: &dyn std::fmt::Display| {
        let message = format!("no authorities in {}: {error}", file.display());
        Error::invalid("invalid_input", message)
    };
    let text = std::fs::read(file).map_err(|error| unusable(&error))?;
    let found = Certificate::from_pem_bundle(&text).map_err(|error| unusable(&error))?;
    if found.is_empty() {
        return Err(unusable(&"it must be PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(builder.tls_certs_merge(found))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that makes clients"
)]
fn builder() -> reqwest::ClientBuilder {
    // It fails only when a provider is there already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .user_agent(concat!("baton/", env!("CARGO_PKG_VERSION")))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A value as a segment of a path or a value of a query string.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn add_query(url: &mut Url, input: &Map<String, Value>) {
    let given = input.iter().filter(|(_, value)| !value.is_null());
    let pairs: Vec<(&str, String)> = given
        .map(|(name, value)| (name.as_str(), text(value)))
        .collect();
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
}

/// What a Baton sends with a status that is not a success.
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn paths_are_filled_and_stay_below_the_base() {
        let client = Client::new("http://127.0.0.1:5050/baton/", None, None, None).unwrap();
        let mut fields = input(json!({"task_id": "a/b c", "reason": "x"}));
        let url = client
            .url("/api/v1/tasks/{task_id}/cancel", &mut fields)
            .unwrap();
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:5050/baton/api/v1/tasks/a%2Fb%20c/cancel"
        );
        assert_eq!(fields, input(json!({"reason": "x"})));
        for bad in [json!({}), json!({"task_id": ""}), json!({"task_id": ".."})] {
            let error = client.url("/tasks/{task_id}", &mut input(bad)).unwrap_err();
            assert_eq!(error.findings()[0].path, "/task_id");
        }
    }

    #[test]
    fn queries_carry_what_the_server_parses() {
        let mut url = Url::parse("http://127.0.0.1/").unwrap();
        add_query(
            &mut url,
            &input(json!({"limit": 5, "states": ["a", "b"], "cursor": null, "text": "a&b"})),
        );
        assert_eq!(
            url.query(),
            Some("limit=5&states=%5B%22a%22%2C%22b%22%5D&text=a%26b")
        );
    }

    #[test]
    fn only_http_urls_are_taken() {
        for bad in ["", "127.0.0.1:5050", "ftp://127.0.0.1", "http://", "/x"] {
            assert!(Client::new(bad, None, None, None).is_err(), "{bad:?}");
        }
    }
}
