//! Calls to URLs that tenants name: http and https alone, to addresses that `reach` opens, redirect by redirect. Proxies that
//! the environment names are not asked: they would look names up for themselves.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap,
    HeaderName, LOCATION, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{Method, StatusCode};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{IDLE, builder, trusting, unreachable};
use crate::error::{Error, Kind, Result};
use crate::reach::{CLOSED, Opening, Reach, Refused};

/// Bytes of a URL at most.
const URL: usize = 8 * 1024;
/// Connections to one host that are kept for the next call.
const KEPT: usize = 4;
/// Ports of services that take an HTTP request for something else, as browsers have them (Fetch, "bad ports").
const BAD_PORTS: [u16; 82] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697,
];
/// What the connection decides, not who calls.
const OURS: [HeaderName; 9] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// What another origin is told as well. Anything else may be a secret that was not meant for it.
const TOLD: [HeaderName; 4] = [ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT];

/// A call.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: String,
    /// What is said about it.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: Option<Bytes>,
}

impl Request {
    /// Reads `url`.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            url: url.into(),
            headers: HeaderMap::new(),
            body: None,
        }
    }
}

/// What a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Time from the first word to the last; of a call whose answer is read bit by bit, until that begins.
    pub time: Duration,
    /// Bytes of the answer: what is beyond is not read.
    pub bytes: usize,
    /// Redirects that are followed; with one more, the call fails. With none, a redirect is an answer.
    pub redirects: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            bytes: 1024 * 1024,
            redirects: 5,
        }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// What is said about it.
    pub headers: HeaderMap,
    /// As much of it as was allowed.
    pub body: Vec<u8>,
    /// Whether there was more.
    pub is_cut: bool,
}

/// An answer whose body is read bit by bit.
#[derive(Debug)]
pub struct Incoming {
    /// The status.
    pub status: StatusCode,
    /// What is said about it.
    pub headers: HeaderMap,
    response: reqwest::Response,
    from: Url,
}

impl Incoming {
    /// The next bit; none at the end.
    ///
    /// # Errors
    /// `remote_unreachable`.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|error| unreachable(&self.from, error))
    }
}

/// The servers that tenants may call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outside(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reach: Reach,
    authorities: Option<PathBuf>,
    /// Made when it is first needed: it reads the authorities of the machine.
    http: OnceLock<reqwest::Client>,
}

impl Outside {
    /// Those within `reach`. Over TLS the authorities of the machine are trusted, and those in the PEM file `authorities`.
    pub fn new(reach: Reach, authorities: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            reach,
            authorities,
            http: OnceLock::new(),
        }))
    }

    /// The same, which may call these besides.
    #[must_use]
    pub fn opening(&self, more: impl IntoIterator<Item = Opening>) -> Self {
        Self::new(self.0.reach.opening(more), self.0.authorities.clone())
    }

    /// Where calls may lead.
    pub fn reach(&self) -> &Reach {
        &self.0.reach
    }

    /// Makes a call and reads its answer, whatever its status.
    ///
    /// # Errors
    /// `address_refused` for what may not be called; `invalid_input` for headers that can't be; `remote_unreachable`,
    /// `remote_error`. None shows more of the URL than its origin.
    pub async fn fetch(&self, request: Request, bounds: &Bounds) -> Result<Answer> {
        let origin = origin_of(&request.url);
        let whole = async {
            let mut incoming = self.follow(request, bounds.redirects).await?;
            let mut body = Vec::new();
            while let Some(chunk) = incoming.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > bounds.bytes {
                    break;
                }
            }
            let is_cut = body.len() > bounds.bytes;
            body.truncate(bounds.bytes);
            Ok(Answer {
                status: incoming.status,
                headers: incoming.headers,
                body,
                is_cut,
            })
        };
        let within = tokio::time::timeout(bounds.time, whole).await;
        within.unwrap_or_else(|_| Err(too_late(&origin)))
    }

    /// Makes a call whose answer is read bit by bit, by whoever bounds that. Of `bounds`, the bytes do not matter.
    ///
    /// # Errors
    /// As [`Outside::fetch`].
    pub async fn open(&self, request: Request, bounds: &Bounds) -> Result<Incoming> {
        let origin = origin_of(&request.url);
        let within = tokio::time::timeout(bounds.time, self.follow(request, bounds.redirects));
        within.await.unwrap_or_else(|_| Err(too_late(&origin)))
    }

    async fn follow(&self, mut request: Request, redirects: usize) -> Result<Incoming> {
        if let Some(ours) = OURS.iter().find(|name| request.headers.contains_key(*name)) {
            let message = format!("the header {ours} is not for callers to say");
            return Err(Error::invalid("invalid_input", message));
        }
        let mut url = self.checked(&request.url).await?;
        for _ in 0..=redirects {
            let response = self.send(&request, &url).await?;
            let next = match response.headers().get(LOCATION) {
                Some(location) if redirects > 0 && is_redirect(response.status()) => location,
                _ => {
                    return Ok(Incoming {
                        status: response.status(),
                        headers: response.headers().clone(),
                        response,
                        from: origin(&url),
                    });
                }
            };
            let next = std::str::from_utf8(next.as_bytes()).ok();
            let next = next.and_then(|next| url.join(next).ok());
            let next = next.ok_or_else(|| misled(&url, "to what is no URL"))?;
            let next = self.checked(next.as_str()).await?;
            redirect(&mut request, response.status(), &url, &next)?;
            url = next;
        }
        Err(misled(&url, "on and on"))
    }

    /// The URL, if it may be called. Names are looked up as they are connected to; addresses are looked at here.
    async fn checked(&self, text: &str) -> Result<Url> {
        let no = |why: &str| Error::invalid(CLOSED, format!("the URL can't be called: {why}"));
        if text.len() > URL {
            return Err(no(&format!("it is longer than {URL} bytes")));
        }
        let mut url = Url::parse(text).map_err(|error| no(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(no("it must be of http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(no("names and passwords go into a header"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if BAD_PORTS.contains(&port) {
            return Err(no(&format!("nobody speaks HTTP on port {port}")));
        }
        url.set_fragment(None);
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| no("it names no host"))?;
        let is_name = host.parse::<std::net::Ipv4Addr>().is_err() && !host.starts_with('[');
        if !is_name {
            let found = self.0.reach.addresses(host).await;
            found.map_err(|refused| refused.at(host))?;
        }
        Ok(url)
    }

    async fn send(&self, request: &Request, url: &Url) -> Result<reqwest::Response> {
        let mut call = self
            .http()?
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone());
        if let Some(body) = &request.body {
            if body.is_empty() {
                // Nobody else says so, and some servers want to know.
                call = call.header(CONTENT_LENGTH, 0);
            }
            call = call.body(body.clone());
        }
        call.send().await.map_err(|error| {
            if is_refusal(&error) {
                return Refused.at(url.host_str().unwrap_or_default());
            }
            unreachable(&origin(url), error)
        })
    }

    fn http(&self) -> Result<&reqwest::Client> {
        if let Some(http) = self.0.http.get() {
            return Ok(http);
        }
        let builder = trusting(builder(), self.0.authorities.as_deref())?
            .no_proxy()
            .dns_resolver(Checked(self.0.reach.clone()))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT);
        let http = builder.build().map_err(Error::internal)?;
        Ok(self.0.http.get_or_init(|| http))
    }
}

/// The URL that `reference` is within what `base` answered, if it is one of the same origin.
pub fn beside(base: &str, reference: &str) -> Option<String> {
    let base = Url::parse(base).ok()?;
    let url = base.join(reference).ok()?;
    (url.origin() == base.origin()).then(|| url.into())
}

/// Makes the request what a redirect from `from` to `to` makes of it.
fn redirect(request: &mut Request, status: StatusCode, from: &Url, to: &Url) -> Result<()> {
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(misled(from, "out of TLS"));
    }
    let is_read = matches!(request.method, Method::GET | Method::HEAD);
    let becomes_read = match status {
        StatusCode::SEE_OTHER => !is_read,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => request.method == Method::POST,
        _ => false,
    };
    if becomes_read {
        (request.method, request.body) = (Method::GET, None);
        request.headers.remove(CONTENT_TYPE);
    }
    if from.origin() != to.origin() {
        if request.body.is_some() {
            return Err(misled(from, "elsewhere, with what was sent to it alone"));
        }
        let headers = std::mem::take(&mut request.headers);
        for name in TOLD {
            if let Some(value) = headers.get(&name) {
                request.headers.insert(name, value.clone());
            }
        }
    }
    Ok(())
}

const fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Hands the connector only addresses that may be connected to.
struct Checked(Reach);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0.clone();
        Box::pin(async move {
            let found = reach.addresses(name.as_str()).await?;
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(found) as Addrs)
        })
    }
}

fn is_refusal(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(error) = next {
        if error.is::<Refused>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn misled(from: &Url, how: &str) -> Error {
    let message = format!("{} redirects {how}", origin(from));
    Error::new(Kind::Unavailable, "remote_error", message)
}

fn too_late(origin: &str) -> Error {
    let message = format!("{origin} did not answer in time");
    Error::unavailable("remote_unreachable", message, Duration::from_secs(1))
}

/// What of a URL is no secret: paths too have tokens in them.
fn origin(url: &Url) -> Url {
    let mut origin = url.clone();
    origin.set_path("/");
    origin.set_query(None);
    // What can't have them has none.
    let _ = origin.set_username("");
    let _ = origin.set_password(None);
    origin
}

/// As people are shown an address that may have secrets in its path.
pub fn origin_of(url: &str) -> String {
    let url = Url::parse(url);
    url.map_or_else(|_| "the server".to_owned(), |url| origin(&url).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirects_take_no_secrets_elsewhere() {
        let mut request = Request::get("https://a.test/");
        for (name, value) in [
            ("authorization", "secret"),
            ("x-api-key", "secret"),
            ("cookie", "secret"),
            ("accept", "text/html"),
        ] {
            let name: HeaderName = name.parse().unwrap();
            request.headers.insert(name, value.parse().unwrap());
        }
        let from = url("https://a.test/x");
        let mut same = request.clone();
        redirect(
            &mut same,
            StatusCode::FOUND,
            &from,
            &url("https://a.test/y"),
        )
        .unwrap();
        assert_eq!(same.headers.len(), 4);
        for elsewhere in ["https://b.test/", "https://a.test:444/"] {
            let mut other = request.clone();
            redirect(&mut other, StatusCode::FOUND, &from, &url(elsewhere)).unwrap();
            assert_eq!(other.headers.len(), 1, "{elsewhere}");
            assert!(other.headers.contains_key(ACCEPT));
        }
        let plain = url("http://a.test/");
        assert!(redirect(&mut request, StatusCode::FOUND, &from, &plain).is_err());
    }

    #[test]
    fn redirects_make_of_a_request_what_browsers_make_of_it() {
        for (status, method, becomes) in [
            (301, "POST", "GET"),
            (302, "POST", "GET"),
            (302, "PUT", "PUT"),
            (303, "PUT", "GET"),
            (303, "HEAD", "HEAD"),
            (307, "POST", "POST"),
            (308, "DELETE", "DELETE"),
        ] {
            let mut request = Request::get("http://a.test/");
            request.method = method.parse().unwrap();
            request.body = (method == "POST").then(|| Bytes::from_static(b"x"));
            let (from, to) = (url("http://a.test/"), url("http://a.test/b"));
            let status = StatusCode::from_u16(status).unwrap();
            redirect(&mut request, status, &from, &to).unwrap();
            assert_eq!(request.method.as_str(), becomes, "{status} {method}");
            assert_eq!(request.body.is_some(), becomes == "POST");
        }
        let mut request = Request::get("http://a.test/");
        request.body = Some(Bytes::from_static(b"x"));
        let (from, to) = (url("http://a.test/"), url("http://b.test/"));
        assert!(redirect(&mut request, StatusCode::PERMANENT_REDIRECT, &from, &to).is_err());
    }
}
