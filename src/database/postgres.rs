//! Where a PostgreSQL server is, and how to connect to it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::{BuilderVerifierExt, Verifier};
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::dial::{DialError, Dialled, dial, driven};
use super::fault;
use crate::error::{Error, Kind, Result};

/// How long a connection to one host may take to be made, and the server to let us in.
const CONNECT: Duration = Duration::from_secs(10);
/// After how long a peer that acknowledges nothing, or does not take what is said first, is given up.
const SILENCE: Duration = Duration::from_secs(15);
/// PostgreSQL 15.
const OLDEST: i64 = 150_000;

/// What every connection begins with. A replica that stopped in the middle of a transaction must not hold its locks for
/// ever, and a cluster set up to lose commits is told not to lose ours. Everything is found by an index, and lists are read in
/// the order of one: while a table has no statistics, or few rows, PostgreSQL would rather read all of it, or gather a tenant's
/// rows by a bitmap and sort them for each page. What no index leads to it reads all the same, at a cost that it would
/// compile code for.
const BEGIN_SESSION: &str = "SET idle_in_transaction_session_timeout = '15s'; SET lock_timeout = '10s';
    SET statement_timeout = '60s'; SET client_min_messages = 'warning';
    SET enable_bitmapscan = off; SET enable_seqscan = off; SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A PostgreSQL database, ready to be connected to. Cheap to clone.
#[derive(Clone)]
pub struct Postgres(Arc<Target>);

struct Target {
    config: Config,
    tls: MakeRustlsConnect,
    shown: String,
}

/// Why a URL can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It does not follow the form.
    #[error(
        "not a URL of a PostgreSQL database such as postgres://user:password@host:5432/name: {0}"
    )]
    Url(String),
    /// The certificates to trust can't be read.
    #[error("sslrootcert {0}: {1}")]
    Certificates(String, String),
}

/// How much of the server's certificate is checked (libpq's `sslmode`).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Check {
    /// Nothing: encryption against listeners, not against impostors (`prefer`, `require`).
    Nothing,
    /// The chain and the name (`verify-ca`, `verify-full`).
    All,
}

impl Postgres {
    /// Understands `postgres://user:password@host:port/database?…` with libpq's parameters, `sslmode` and `sslrootcert`
    /// among them.
    ///
    /// # Errors
    /// What is wrong with the URL; it never shows the password.
    pub fn parse(url: &str) -> std::result::Result<Self, PostgresError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        if !base.starts_with("postgres://") && !base.starts_with("postgresql://") {
            return Err(PostgresError::Url("it begins otherwise".into()));
        }
        let (mut check, mut roots, mut rest) = (Check::Nothing, None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", "verify-ca" | "verify-full")) => {
                    check = Check::All;
                    rest.push("sslmode=require");
                }
                Some(("sslrootcert", file)) => {
                    check = Check::All;
                    roots = Some(file.replace("%2F", "/").replace("%2f", "/"));
                }
                _ => rest.push(parameter),
            }
        }
        let mut config: Config = format!("{base}?{}", rest.join("&"))
            .parse()
            .map_err(|error: tokio_postgres::Error| PostgresError::Url(error.to_string()))?;
        if config.get_application_name().is_none() {
            config.application_name("baton");
        }
        config
            .connect_timeout(config.get_connect_timeout().copied().unwrap_or(CONNECT))
            .keepalives_idle(SILENCE)
            .tcp_user_timeout(SILENCE);
        Ok(Self(Arc::new(Target {
            tls: MakeRustlsConnect::new(tls(check, roots)?),
            shown: shown(base),
            config,
        })))
    }

    /// Connects, and says what is said first. [`Dialled::connection`] must be polled for the client to work.
    pub(crate) async fn connect(&self) -> Result<Dialled> {
        let unreachable = |error: DialError| {
            fault::unreachable(&format!("{} can't be reached: {error}", self.0.shown))
                .with_source(error)
        };
        let dialled = dial(&self.0.config, &self.0.tls).await;
        let mut dialled = dialled.map_err(|error| match error {
            DialError::Login(error) if error.code().is_some() => fault::of_postgres(error),
            error => unreachable(error),
        })?;
        let begun = driven(
            &mut dialled.connection,
            Self::begin_session(&dialled.client),
        );
        let begun = tokio::time::timeout(SILENCE, begun).await;
        let begun = begun.map_err(io::Error::from).flatten();
        begun.map_err(|error| unreachable(error.into()))??;
        Ok(dialled)
    }

    /// What is said first on a connection.
    async fn begin_session(client: &Client) -> Result<()> {
        client
            .batch_execute(BEGIN_SESSION)
            .await
            .map_err(fault::of_postgres)?;
        let told = client.simple_query("SHOW server_version_num").await;
        let told = told.map_err(fault::of_postgres)?;
        let version = told.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
            _ => None,
        });
        let version = version.ok_or_else(|| Error::internal("a server without a version"))?;
        if version < OLDEST {
            return Err(Error::new(
                Kind::Unavailable,
                "store_unsupported",
                format!(
                    "the server is PostgreSQL {}; Baton needs 15 or later",
                    version / 10_000
                ),
            ));
        }
        Ok(())
    }
}

impl std::fmt::Display for Postgres {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.shown)
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Postgres({})", self.0.shown)
    }
}

/// The URL without password and parameters.
fn shown(base: &str) -> String {
    let Some((scheme, rest)) = base.split_once("://") else {
        return String::new();
    };
    match rest.rsplit_once('@') {
        Some((who, place)) => {
            let user = who.split_once(':').map_or(who, |(user, _)| user);
            format!("{scheme}://{user}@{place}")
        }
        None => base.to_owned(),
    }
}

fn tls(check: Check, roots: Option<String>) -> std::result::Result<ClientConfig, PostgresError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| PostgresError::Url(error.to_string()))?;
    if check == Check::Nothing {
        let trusting = Arc::new(Trusting(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(trusting)
            .with_no_client_auth());
    }
    let Some(file) = roots else {
        return Ok(builder
            .with_platform_verifier()
            .map_err(|error| {
                PostgresError::Certificates("of the platform".into(), error.to_string())
            })?
            .with_no_client_auth());
    };
    let wrong = |error: String| PostgresError::Certificates(file.clone(), error);
    let mut store = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(&file).map_err(|error| wrong(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("no certificate in it".into()));
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// How TLS is spoken to a database that somebody else names: with any certificate, or with one that is good for its host by an
/// authority of the machine or of the PEM file `more`.
///
/// # Errors
/// `internal` when the authorities can't be read.
pub(crate) fn tls_outside(is_checked: bool, more: Option<&Path>) -> Result<ClientConfig> {
    if !is_checked {
        return tls(Check::Nothing, None).map_err(Error::internal);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let files = more.map(CertificateDer::pem_file_iter).transpose();
    let certificates = files.map_err(Error::internal)?.into_iter().flatten();
    let certificates = certificates.collect::<std::result::Result<Vec<_>, _>>();
    let certificates = certificates.map_err(Error::internal)?;
    let verifier = Verifier::new_with_extra_roots(certificates, provider.clone());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier.map_err(Error::internal)?))
        .with_no_client_auth())
}

/// Takes any certificate, as libpq does for `sslmode=require`; the handshake itself is still checked.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let there =
            Postgres::parse("postgres://ada:se@cret@db.example:5433/baton?sslmode=verify-full")
                .unwrap();
        assert_eq!(there.to_string(), "postgres://ada@db.example:5433/baton");
        assert!(!format!("{there:?}").contains("cret"));
    }

    #[test]
    fn what_is_no_postgres_url_is_refused() {
        for url in [
            "mysql://x/y",
            "postgres://h/d?sslmode=sideways",
            "/var/lib/x",
        ] {
            assert!(Postgres::parse(url).is_err(), "{url}");
        }
        let unread = Postgres::parse("postgres://h/d?sslrootcert=/nowhere.pem").unwrap_err();
        assert!(unread.to_string().contains("/nowhere.pem"));
    }
}
