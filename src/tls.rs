//! The certificate that this server shows, and its key: read from two files, and again when these change. It does not know
//! what is said over the connections.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_cert::der::Decode;

use crate::clock::{Clock, Time};
use crate::config::Pair;

/// How often the files are looked at.
pub const PAUSE: Duration = Duration::from_secs(5);

/// Time before a certificate's end when it should have been renewed.
pub const LATE: Duration = Duration::from_hours(14 * 24);

/// What is shown to who connects.
pub struct Tls {
    files: Pair,
    clock: Clock,
    shown: RwLock<Shown>,
    /// The files as they were when they were last read.
    read: Mutex<[Option<Stamp>; 2]>,
}

struct Shown {
    config: Arc<ServerConfig>,
    until: Time,
    /// Whether it was said that it should be renewed.
    is_told: bool,
}

/// By what a file is seen to have changed: when it was written, and its length.
type Stamp = (SystemTime, u64);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn open(files: Pair, clock: Clock) -> anyhow::Result<Self> {
        let stamps = stamps(&files);
        let shown = read(&files)?;
        Ok(Self {
            files,
            clock,
            shown: RwLock::new(shown),
            read: Mutex::new(stamps),
        })
    }

    /// What the next connection begins with.
    pub fn acceptor(&self) -> TlsAcceptor {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.config.clone().into()
    }

    /// Looks at the files from time to time, until `stopping`.
    pub async fn watch(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            self.tell_if_late();
            let next = self.clock.steady() + PAUSE;
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.clock.sleep_until(next) => {}
            }
            let tls = self.clone();
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    /// Reads the files again if they have changed since they were read; whether there is something else to show.
    pub fn look(&self) -> bool {
        // Taken before the files are read: what changes meanwhile is seen the next time.
        let stamps = stamps(&self.files);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if *read == stamps {
            return false;
        }
        *read = stamps;
        drop(read);
        self.reload()
    }

    /// Reads the files again; whether they can be used. Connections from now on are shown what they hold, those that there are
    /// go on. If something is wrong with them, what was read before stays.
    pub fn reload(&self) -> bool {
        match read(&self.files) {
            Ok(new) => {
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = new;
                tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = %format!("{error:#}"),
                    "the certificate can't be read again; new connections are shown the one that was read before"
                );
                false
            }
        }
    }

    /// Says once that the certificate should be renewed.
    fn tell_if_late(&self) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        if !shown.is_told && shown.until < self.clock.now() + LATE {
            shown.is_told = true;
            let (cert, until) = (self.files.cert.display(), shown.until);
            tracing::warn!(%cert, %until, "the certificate should be renewed: it is valid until {until}");
        }
    }
}

/// Until when the certificate of `files` is valid.
///
/// # Errors
/// What is wrong with which file.
pub fn valid_until(files: &Pair) -> anyhow::Result<Time> {
    read(files).map(|shown| shown.until)
}

fn stamps(files: &Pair) -> [Option<Stamp>; 2] {
    [&files.cert, &files.key].map(|file| {
        let found = fs::metadata(file).ok()?;
        Some((found.modified().ok()?, found.len()))
    })
}

fn read(files: &Pair) -> anyhow::Result<Shown> {
    let chain = chain(&files.cert)?;
    let until = until(&chain[0]).with_context(|| no_certificate(&files.cert))?;
    let config = begin(certified(files, chain)?)?;
    Ok(Shown {
        config: Arc::new(config),
        until,
        is_told: false,
    })
}

fn begin(certified: CertifiedKey) -> anyhow::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates in a file; never none.
fn chain(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text =
        fs::read(file).with_context(|| format!("can't read the certificate {}", file.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => bail!(no_certificate(file)),
    }
}

fn no_certificate(file: &Path) -> String {
    format!(
        "there is no certificate in {} that can be read; it must be PEM (-----BEGIN CERTIFICATE-----), the server's own first",
        file.display()
    )
}

/// The certificates and their key, which belong together.
fn certified(files: &Pair, chain: Vec<CertificateDer<'static>>) -> anyhow::Result<CertifiedKey> {
    let (cert, file) = (files.cert.display(), files.key.display());
    let text = fs::read(&files.key).with_context(|| format!("can't read the key {file}"))?;
    let key = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => key,
        Err(_) if is_encrypted(&text) => bail!(
            "the key in {file} is encrypted, and nobody is there to be asked for its password; decrypt it with \
             `openssl pkey -in {file}`"
        ),
        Err(pem::Error::NoItemsFound) => {
            bail!("there is no private key in {file}; it must be PEM (-----BEGIN PRIVATE KEY-----)")
        }
        Err(_) => bail!("the private key in {file} is not PEM that can be read"),
    };
    let key = ring::sign::any_supported_type(&key)
        .with_context(|| format!("the private key in {file} can't be used"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => {
            bail!("the private key in {file} is not that of the certificate in {cert}")
        }
        Err(error) => {
            Err(error).with_context(|| format!("the certificate in {cert} can't be used"))
        }
    }
}

fn is_encrypted(text: &[u8]) -> bool {
    let marks = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"];
    let is_in = |mark: &&[u8]| text.windows(mark.len()).any(|window| window == *mark);
    marks.iter().any(is_in)
}

fn until(certificate: &CertificateDer<'_>) -> Option<Time> {
    let read = x509_cert::Certificate::from_der(certificate).ok()?;
    let until = read.tbs_certificate.validity.not_after.to_unix_duration();
    Some(Time::default() + until)
}

#[cfg(test)]
impl Tls {
    /// One for a unit test, with a certificate that nobody signed and that stands in no file.
    pub(crate) fn unsigned() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name");
        let key = made.signing_key.serialize_der().try_into().expect("a key");
        let key = ring::sign::any_supported_type(&key).expect("a key of ours");
        let certified = CertifiedKey::new(vec![made.cert.der().clone()], key);
        Self {
            files: Pair {
                cert: "none".into(),
                key: "none".into(),
            },
            clock: Clock::system(),
            shown: RwLock::new(Shown {
                config: Arc::new(begin(certified).expect("a configuration")),
                until: Time::from_micros(i64::MAX),
                is_told: false,
            }),
            read: Mutex::new([None, None]),
        }
    }
}
