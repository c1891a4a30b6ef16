//! The in-process server with its HTTP edge on a free port, and a client that shows everything of an answer.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::middleware::from_fn_with_state;
use baton::app::App;
use baton::clock::Clock;
use baton::config::Settings;
use baton::random::Random;
use baton::tls::Tls;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::home::Home;
use super::mcp::in_time;
use super::tls::{Authority, Shown};
use super::wire::{self, Wire};

/// How a server is to be started.
#[derive(Default)]
pub(crate) struct Builder {
    settings: Settings,
    extra: Router,
    foreseeable: bool,
    long_way: bool,
    home: Option<Arc<Home>>,
    wire: Wire,
    tls: Option<(Authority, Shown)>,
}

impl Builder {
    /// Settings besides the address and the folder.
    pub(crate) fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Routes that are mounted beside MCP's.
    pub(crate) fn extra(mut self, extra: Router) -> Self {
        self.extra = self.extra.merge(extra);
        self
    }

    /// Time that stands still and randomness that repeats itself, so that two servers answer alike.
    pub(crate) fn foreseeable(mut self) -> Self {
        self.foreseeable = true;
        self
    }

    /// Lets rmcp answer every call of a tool.
    pub(crate) fn long_way(mut self) -> Self {
        self.long_way = true;
        self
    }

    /// On the database of another server, as one more process would be.
    pub(crate) fn beside(mut self, other: &HttpServer) -> Self {
        self.home = Some(other.home.clone());
        self.wire = other.wire.clone();
        self
    }

    /// With a certificate.
    pub(crate) fn tls(mut self, authority: Authority, shown: &Shown) -> Self {
        self.tls = Some((authority, shown.clone()));
        self
    }

    /// Starts it.
    pub(crate) async fn start(self) -> HttpServer {
        let home = self.home.unwrap_or_else(|| Arc::new(Home::new()));
        let mut settings = self.settings;
        home.settle(&mut settings);
        if let Some((_, shown)) = &self.tls {
            let pair = shown.write(home.path());
            (settings.tls_cert, settings.tls_key) = (Some(pair.cert), Some(pair.key));
        }
        let mut config = settings.complete(Settings::default()).unwrap();
        config.program = env!("CARGO_BIN_EXE_baton").into();
        let (clock, random) = if self.foreseeable {
            (Clock::manual(super::START), Random::seeded(7))
        } else {
            (Clock::system(), Random::system())
        };
        let pair = config.tls.clone();
        let tls = pair.map(|pair| Arc::new(Tls::open(pair, clock.clone()).unwrap()));
        let app = App::open(config, clock, random).unwrap();
        app.start_workers();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        let front = if self.long_way {
            baton::transport::front_of_rmcp
        } else {
            baton::transport::front
        };
        let record = from_fn_with_state(self.wire.clone(), wire::record_mcp);
        let mcp = app.clone();
        let front = move |others: Router| {
            let front = front(&mcp, others.merge(self.extra));
            Router::new().fallback_service(front).layer(record)
        };
        serving.spawn(baton::http::serve(
            app.clone(),
            listener,
            tls.clone(),
            front,
        ));
        let authority = self.tls.map(|(authority, _)| authority);
        HttpServer {
            app,
            address,
            home,
            serving,
            http: RwLock::new(client(HeaderMap::new(), authority.as_ref())),
            wire: self.wire,
            tls,
            authority,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test looks at the server from outside, past the program's own client"
)]
fn client(headers: HeaderMap, authority: Option<&Authority>) -> reqwest::Client {
    // It fails only when another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    let trusted = authority.map(|authority| Certificate::from_pem(authority.pem().as_bytes()));
    let builder = builder.tls_certs_merge(trusted.transpose().unwrap());
    builder.default_headers(headers).build().unwrap()
}

/// A running server.
pub(crate) struct HttpServer {
    pub(crate) app: App,
    pub(crate) address: SocketAddr,
    /// Its place, gone with the last server on it.
    pub(crate) home: Arc<Home>,
    serving: JoinSet<std::io::Result<()>>,
    http: RwLock<reqwest::Client>,
    /// What it said to clients of MCP.
    pub(crate) wire: Wire,
    /// What it shows, if it speaks TLS, and who signed that.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) authority: Option<Authority>,
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.wire.judge();
    }
}

impl HttpServer {
    /// One with the usual settings.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// One with unusual settings.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// The address of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.app.config.scheme(), self.address)
    }

    /// From here on every request shows this key.
    pub(crate) fn show(&self, key: &str) {
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {key}").parse().unwrap();
        headers.insert("authorization", bearer);
        *self.http.write().unwrap() = client(headers, self.authority.as_ref());
    }

    /// From here on every request has these headers, and shows no key.
    pub(crate) fn carry(&self, pairs: &[(&'static str, &'static str)]) {
        let pairs = pairs.iter();
        let pairs = pairs.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        *self.http.write().unwrap() = client(pairs.collect(), self.authority.as_ref());
    }

    /// A request, to be completed and sent.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let http = self.http.read().unwrap();
        http.request(method, self.url(path))
    }

    /// Reads `path`.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// Sends `body` to `path`.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    /// Sends exactly `text`; the answer in its announced length, or all until the server closes.
    pub(crate) async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let (mut answer, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
        while !is_whole(&answer) {
            match in_time(stream.read(&mut chunk)).await {
                Ok(count @ 1..) => answer.extend_from_slice(&chunk[..count]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Stops it as the program does, and returns when everything has ended.
    pub(crate) async fn stop(mut self) {
        self.app.stopping().cancel();
        self.serving.join_next().await.unwrap().unwrap().unwrap();
        self.app.stop().await;
    }
}

/// Whether an answer of HTTP/1 has its head, and as much of a body as that announces.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let mut lengths = head
        .lines()
        .filter_map(|line| line.strip_prefix("content-length:"));
    lengths
        .next()
        .and_then(|length| length.trim().parse().ok())
        .is_some_and(|length: usize| body.len() >= length)
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// Null when it is not JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// Sends `request`.
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        // A call that takes a while is answered by a stream, at whose end is the answer.
        let is_stream = headers
            .get("content-type")
            .is_some_and(|kind| kind == "text/event-stream");
        let mut said = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let answer = said.next_back().filter(|_| is_stream).unwrap_or(&text);
        let body = serde_json::from_str(answer).unwrap_or_default();
        Self {
            status,
            headers,
            text,
            body,
        }
    }

    /// A header as text; empty when it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Asserts that this is a problem with this status and code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["type"], format!("/docs#error-{code}"));
        for member in ["title", "detail"] {
            assert!(!self.body[member].as_str().unwrap().is_empty(), "{member}");
        }
        self
    }
}
