//! Settings, read from flags, environment and file, in this order of precedence: what users may set (`settings`), and what
//! that comes to once it is complete and checked. Besides `places`, nothing else reads environment variables.

mod settings;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::id::TenantId;
use crate::places::{at_home, default_data, program};
use crate::quota::{Caps, Given, Limit};
use crate::reach::Reach;
use crate::secret::Secret;
use crate::trace::Trace;
pub use settings::Settings;
pub use text::{example, table};

/// How callers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Not at all: whoever comes may do everything, in every tenant.
    None,
    /// With a key of this server.
    Keys,
    /// With a token of the authorization server.
    Oidc,
}

/// Whose tokens are honoured, and how they are read.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// The authorization server, as its tokens name it.
    pub issuer: String,
    /// For whom tokens must be; never empty.
    pub audience: Vec<String>,
    /// The claim that names tenants.
    pub tenant_claim: String,
    /// The claim that names roles.
    pub role_claim: String,
    /// Where clients reach this server, without a slash at the end.
    pub public_url: String,
    /// Authorities to trust besides the machine's, when the authorization server is asked for its keys.
    pub ca_cert: Option<PathBuf>,
}

/// The files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Settings, complete and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the data lies.
    pub data: PathBuf,
    /// Which database holds the data instead.
    pub database: Option<Secret>,
    /// The tenant that this process is bound to.
    pub tenant: Option<TenantId>,
    /// How callers prove who they are; never empty.
    pub auth: Vec<Auth>,
    /// Where clients reach this server, if it was said.
    pub public_url: Option<String>,
    /// Whose tokens are honoured, if any are.
    pub oidc: Option<Oidc>,
    /// The certificate to show, if HTTP is to be spoken over TLS.
    pub tls: Option<Pair>,
    /// Authorities to trust besides the machine's.
    pub ca_cert: Option<PathBuf>,
    /// Folder of manifests of tools that every tenant has.
    pub tools: Option<PathBuf>,
    /// File of the MCP servers whose tools tenants may use.
    pub upstreams: Option<PathBuf>,
    /// Where calls that tenants ask for may lead.
    pub reach: Reach,
    /// The file of the master key, if it is not the data folder's own.
    pub master_key_file: Option<PathBuf>,
    /// The master key itself, with older ones.
    pub master_key: Option<Secret>,
    /// The key that this process shows.
    pub key: Option<Secret>,
    /// What to log.
    pub log_level: String,
    /// How to log.
    pub log_format: LogFormat,
    /// Host names that requests may be addressed to, besides loopback.
    pub allowed_hosts: Vec<String>,
    /// Origins that may call, besides loopback.
    pub allowed_origins: Vec<String>,
    /// How long browsers may remember that.
    pub cors_max_age: u32,
    /// Reverse proxies whose word is taken.
    pub trusted_proxies: Vec<IpAddr>,
    /// This program, for the processes in which scripts run.
    pub program: PathBuf,
    /// How often somebody may call, and how much of his may go on at a time, unless an administrator has said otherwise.
    pub caps: Caps,
    /// Bounds for operations.
    pub limits: Limits,
    /// Sessions of older MCP clients at a time, of either transport.
    pub max_sessions: usize,
    /// Streams of `subscriptions/listen` at a time.
    pub max_listeners: usize,
    /// Connections over HTTP at a time.
    pub max_connections: usize,
}

impl Config {
    /// How URLs of this server begin.
    pub fn scheme(&self) -> &'static str {
        scheme(self.tls.as_ref())
    }
}

fn scheme(tls: Option<&Pair>) -> &'static str {
    if tls.is_some() { "https" } else { "http" }
}

/// Up to here, comparing all is as quick as looking up.
const FULL_SCAN: u32 = 100_000;

/// Bounds that operations keep.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Tasks that one executor may hold at a time at most.
    pub max_concurrent_tasks: u32,
    /// Time before the first retry of a failed task; doubles with each further one.
    pub retry_backoff: Duration,
    /// Calls that may wait for something to happen at a time.
    pub max_waiting_calls: usize,
    /// Memories of a tenant up to which every one is compared with what is searched for.
    pub full_scan_threshold: u32,
    /// Where files of resources may lie.
    pub folders: Folders,
}

/// Where files of resources may lie.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    /// Baton's own data, of which nothing is a resource but what is in `own`.
    pub data: PathBuf,
    /// Below it every tenant has a folder of its own.
    pub own: PathBuf,
    /// What the operator opened; `{tenant}` in a path stands for the tenant's name.
    pub opened: Vec<PathBuf>,
}

impl Folders {
    fn of(data: &Path, opened: Vec<PathBuf>) -> anyhow::Result<Self> {
        let opened = opened.into_iter();
        let opened = opened.map(|folder| Ok(std::path::absolute(at_home(folder))?));
        Ok(Self {
            data: data.to_owned(),
            own: data.join("files"),
            opened: opened.collect::<anyhow::Result<_>>()?,
        })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent_tasks: 5,
            retry_backoff: Duration::from_secs(1),
            max_waiting_calls: 10_000,
            full_scan_threshold: FULL_SCAN,
            folders: Folders::default(),
        }
    }
}

impl Settings {
    /// Whose tokens are honoured, if any are to be.
    fn oidc(&self, file: &Self, origin: &str) -> anyhow::Result<Option<Oidc>> {
        let auth = either(self.auth.clone(), file.auth.clone());
        if !auth.contains(&Auth::Oidc) {
            return Ok(None);
        }
        let text = |own: &Option<String>, file: &Option<String>| own.clone().or(file.clone());
        let issuer = text(&self.oidc_issuer, &file.oidc_issuer).context(
            "--auth oidc needs --oidc-issuer URL: the authorization server whose tokens are honoured",
        )?;
        let public_url = text(&self.public_url, &file.public_url);
        let public_url = public_url.unwrap_or_else(|| origin.to_owned());
        let public_url = public_url.trim_end_matches('/').to_owned();
        let mut audience = either(self.oidc_audience.clone(), file.oidc_audience.clone());
        if audience.is_empty() {
            audience.push(format!("{public_url}/mcp"));
        }
        let claim = |own, file, default: &str| text(own, file).unwrap_or_else(|| default.into());
        Ok(Some(Oidc {
            issuer,
            audience,
            tenant_claim: claim(&self.oidc_tenant_claim, &file.oidc_tenant_claim, "tenant"),
            role_claim: claim(&self.oidc_role_claim, &file.oidc_role_claim, "roles"),
            public_url,
            ca_cert: path(self.ca_cert.as_ref(), file.ca_cert.as_ref()),
        }))
    }

    /// The master key, or its file: whatever was said last counts, be it the one or the other.
    fn master_key(&self, file: &Self) -> (Option<Secret>, Option<PathBuf>) {
        let is_said = self.master_key.is_some() || self.master_key_file.is_some();
        let last = if is_said { self } else { file };
        let file = path(last.master_key_file.as_ref(), None);
        (last.master_key.clone(), file)
    }

    /// Bounds that operations keep.
    fn limits(&self, file: &Self, max_waiting_calls: usize) -> anyhow::Result<Limits> {
        let tasks = self.max_concurrent_tasks.or(file.max_concurrent_tasks);
        let max_concurrent_tasks = tasks.unwrap_or(5);
        if !(1..=1_000).contains(&max_concurrent_tasks) {
            bail!("max_concurrent_tasks is {max_concurrent_tasks}; 1 to 1000 would be right");
        }
        let backoff = self.retry_backoff_ms.or(file.retry_backoff_ms);
        Ok(Limits {
            max_concurrent_tasks,
            retry_backoff: Duration::from_millis(backoff.unwrap_or(1_000)),
            max_waiting_calls,
            full_scan_threshold: self
                .full_scan_threshold
                .or(file.full_scan_threshold)
                .unwrap_or(FULL_SCAN),
            folders: Folders::default(),
        })
    }

    /// The certificate to show, if there is to be one.
    fn tls(&self, file: &Self) -> anyhow::Result<Option<Pair>> {
        let cert = path(self.tls_cert.as_ref(), file.tls_cert.as_ref());
        let key = path(self.tls_key.as_ref(), file.tls_key.as_ref());
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some(Pair { cert, key })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                bail!("--tls-cert needs --tls-key FILE: the private key of the certificate")
            }
            (None, Some(_)) => bail!("--tls-key needs --tls-cert FILE: the certificate of the key"),
        }
    }

    /// Completes these settings with those of `file`, then with defaults, and checks the whole.
    ///
    /// # Errors
    /// A setting that can't be, with the flag to use.
    pub fn complete(self, file: Self) -> anyhow::Result<Config> {
        let listen = self
            .listen
            .or(file.listen)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 5050)));
        let tls = self.tls(&file)?;
        let oidc = self.oidc(&file, &format!("{}://{listen}", scheme(tls.as_ref())))?;
        let most = |name: &str, of: fn(&Self) -> Option<u32>, default| match of(&self).or(of(&file))
        {
            None => Ok(default),
            Some(most @ 1..=1_000_000) => Ok(usize::try_from(most)?),
            Some(most) => bail!("{name} is {most}; 1 to 1000000 would be right"),
        };
        let max_waiting_calls = most("max_waiting_calls", |it| it.max_waiting_calls, 10_000)?;
        let max_sessions = most("max_sessions", |it| it.max_sessions, 4_096)?;
        let max_listeners = most("max_listeners", |it| it.max_listeners, 10_000)?;
        let max_connections = most("max_connections", |it| it.max_connections, 16_384)?;
        let rates = file.rates().chain(self.rates());
        let given = file.limits.iter().chain(&self.limits).copied();
        let given: Vec<Given> = given.chain(rates).collect();
        let ca_cert = path(self.ca_cert.as_ref(), file.ca_cert.as_ref());
        let mut limits = self.limits(&file, max_waiting_calls)?;
        let (master_key, master_key_file) = self.master_key(&file);
        let allowed_origins = either(self.allowed_origins, file.allowed_origins);
        let auth = auth(either(self.auth, file.auth), listen, &allowed_origins)?;
        let data = match self.data.or(file.data) {
            Some(data) => at_home(data),
            None => default_data()
                .context("no home folder found for the data; name a folder with --data")?,
        };
        limits.folders = Folders::of(&data, either(self.files, file.files))?;
        let tenant = self.tenant.or(file.tenant);
        // Where nobody is told from anybody, or there is one tenant alone, shares would protect nobody.
        let are_told_apart = auth != [Auth::None] && tenant.is_none();
        let wholes = [
            (Limit::MaxWaitingCallsPerTenant, max_waiting_calls),
            (Limit::MaxSessionsPerTenant, max_sessions),
            (Limit::MaxListenersPerTenant, max_listeners),
            (Limit::MaxConnectionsPerAddress, max_connections),
        ];
        let shared = if are_told_apart { &wholes[..] } else { &[] };
        Ok(Config {
            listen,
            data,
            database: self.database.or(file.database),
            tenant,
            auth,
            public_url: self.public_url.or(file.public_url),
            oidc,
            tls,
            ca_cert,
            tools: path(self.tools.as_ref(), file.tools.as_ref()),
            upstreams: path(self.upstreams.as_ref(), file.upstreams.as_ref()),
            reach: Reach::new(either(self.outbound_allow, file.outbound_allow)),
            master_key_file,
            master_key,
            key: self.key.or(file.key),
            log_level: self
                .log_level
                .or(file.log_level)
                .unwrap_or_else(|| "info".into()),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            allowed_hosts: either(self.allowed_hosts, file.allowed_hosts),
            allowed_origins,
            cors_max_age: self.cors_max_age.or(file.cors_max_age).unwrap_or(600),
            trusted_proxies: either(self.trusted_proxies, file.trusted_proxies),
            program: program()?,
            caps: Caps::at_start(shared, &given),
            limits,
            max_sessions,
            max_listeners,
            max_connections,
        })
    }

    /// The rates that have flags of their own.
    fn rates(&self) -> impl Iterator<Item = Given> + use<> {
        let rates = [
            (Limit::RatePerAddress, self.rate_per_address),
            (Limit::RatePerCredential, self.rate_per_credential),
            (Limit::RatePerTenant, self.rate_per_tenant),
        ];
        rates.into_iter().filter_map(|(limit, most)| {
            let value = most?.get();
            Some(Given { limit, value })
        })
    }
}

/// How callers prove who they are to a server that listens on `listen` and that pages of `origins` may call.
fn auth(mut auth: Vec<Auth>, listen: SocketAddr, origins: &[String]) -> anyhow::Result<Vec<Auth>> {
    if auth.is_empty() {
        auth.push(Auth::None);
    }
    if !listen.ip().is_loopback() && auth.contains(&Auth::None) {
        bail!(
            "listening on {listen} would let everyone in; add --auth keys (and make keys with `baton key create`), \
             or listen on 127.0.0.1:{} only",
            listen.port()
        );
    }
    if auth.contains(&Auth::None) && origins.iter().any(|origin| origin == "*") {
        bail!(
            "--allowed-origin '*' would let every page that somebody opens on this machine do everything; name the origins \
             that may call, or add --auth keys"
        );
    }
    Ok(auth)
}

fn path(own: Option<&PathBuf>, file: Option<&PathBuf>) -> Option<PathBuf> {
    own.or(file).cloned().map(at_home)
}

fn either<T>(own: Vec<T>, file: Vec<T>) -> Vec<T> {
    if own.is_empty() { file } else { own }
}

/// The trace that this process was started in (`TRACEPARENT`, `TRACESTATE`, `BAGGAGE`).
#[expect(clippy::disallowed_methods, reason = "the environment is read here")]
pub fn trace() -> Option<Trace> {
    Trace::read(|name| Some(std::env::var(name.to_ascii_uppercase()).ok()?.into()))
}
