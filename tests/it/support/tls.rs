//! An authority of the test's own, the pairs that it signs, and connections whose handshake the test looks at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use baton::config::Pair;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http::HttpServer;
use super::mcp::in_time;

/// Names that every certificate is for, besides others.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// Whom clients of a test trust.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate and its key, as they stand in files.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its own certificate, for who trusts it.
    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A new pair, the certificate valid until the end of a year.
    pub(crate) fn sign_until(&self, year: i32) -> Shown {
        self.signed(&NAMES, year)
    }

    /// A new pair for a server of this name or address alone.
    pub(crate) fn sign_for(&self, name: &str) -> Shown {
        self.signed(&[name], 2999)
    }

    fn signed(&self, names: &[&str], year: i32) -> Shown {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Shown {
            cert: pem("CERTIFICATE", certificate.der()),
            key: pem("PRIVATE KEY", key.serialized_der()),
        }
    }

    /// A new pair.
    pub(crate) fn sign(&self) -> Shown {
        self.sign_until(2999)
    }

    /// A client's side of TLS: what it offers to speak, and how old it is.
    pub(crate) fn trusted(
        &self,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }
}

impl Shown {
    /// Puts it where a server reads it, in one step each, the certificate first.
    pub(crate) fn write(&self, folder: &Path) -> Pair {
        let pair = Pair {
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        for (file, text) in [(&pair.cert, &self.cert), (&pair.key, &self.key)] {
            let fresh = PathBuf::from(format!("{}.new", file.display()));
            fs::write(&fresh, text).unwrap();
            fs::rename(&fresh, file).unwrap();
        }
        pair
    }

    /// Whether this is what the server at the other end shows.
    pub(crate) fn is_shown(&self, stream: &TlsStream<TcpStream>) -> bool {
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        pem("CERTIFICATE", &chain[0]) == self.cert
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

impl HttpServer {
    /// A connection of a client that offers to speak `alpn`.
    pub(crate) async fn connect(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let authority = self.authority.as_ref().expect("a server that speaks TLS");
        let connector = authority.trusted(alpn, rustls::ALL_VERSIONS);
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        in_time(connector.connect(name, stream)).await.unwrap()
    }
}

/// What is asked on one connection, in the version of HTTP that was agreed on.
pub(crate) struct Connection {
    sender: Sender,
    _driver: JoinSet<()>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> Self {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (stream, mut driver) = (TokioIo::new(stream), JoinSet::new());
        let sender = if is_http2 {
            let handshake = http2::handshake(TokioExecutor::new(), stream).await;
            let (sender, connection) = handshake.unwrap();
            driver.spawn(async { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            driver.spawn(async { drop(connection.await) });
            Sender::Http1(sender)
        };
        Self {
            sender,
            _driver: driver,
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        let answer = async {
            match &mut self.sender {
                Sender::Http1(sender) => sender.send_request(request).await,
                Sender::Http2(sender) => sender.send_request(request).await,
            }
        };
        in_time(answer).await.unwrap()
    }
}
