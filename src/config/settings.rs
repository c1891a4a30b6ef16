//! What users may set: one declaration each. The doc comments are the help texts and the example file.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::Deserialize;

use super::{Auth, LogFormat};
use crate::id::TenantId;
use crate::quota::Given;
use crate::reach::Opening;
use crate::secret::Secret;

/// What a user may set. Every field is a flag, a `BATON_…` variable and a line of `baton.toml`.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:5050]
    #[arg(long, env = "BATON_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Folder that holds the data [default: the platform's data folder, such as ~/.local/share/baton]
    #[arg(long, env = "BATON_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// PostgreSQL database that holds the data instead: `postgres://user:password@host:5432/name`
    #[arg(
        long,
        env = "BATON_DATABASE",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database: Option<Secret>,

    /// Folders that tenants may register as resources, besides their own below the data folder; `{tenant}` there stands for the tenant's name, and without it every tenant may
    #[arg(
        long = "files",
        env = "BATON_FILES",
        value_name = "DIR",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub files: Vec<PathBuf>,

    /// Bind this process to one tenant; without it, callers choose and "default" is who chooses none
    #[arg(long, env = "BATON_TENANT", value_name = "TENANT")]
    pub tenant: Option<TenantId>,

    /// Who may come in: none (everybody; loopback and pipes only), keys (`baton key create`), oidc (tokens of --oidc-issuer) [default: none]
    #[arg(long, env = "BATON_AUTH", value_name = "WAYS", value_delimiter = ',')]
    #[serde(default)]
    pub auth: Vec<Auth>,

    /// Where clients reach this server, if not where it listens: `https://baton.example.com`
    #[arg(long, env = "BATON_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,

    /// PEM file of the certificate to show, the server's own first: serves https://; read again when it changes
    #[arg(long, env = "BATON_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of that certificate's private key
    #[arg(long, env = "BATON_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file of authorities whose certificates this process trusts, besides the machine's, when it calls a server
    #[arg(long, env = "BATON_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,

    /// Hosts and networks besides the public internet that tenants' tools, scripts and resources may call: `wiki.example.com`, `*.corp.example.com`, `10.1.0.0/16`
    #[arg(
        long = "outbound-allow",
        env = "BATON_OUTBOUND_ALLOW",
        value_name = "HOST",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub outbound_allow: Vec<Opening>,

    /// File of the master key that seals tenants' secrets; the same for all servers of a database [default: in the data folder, made when needed: master.key]
    #[arg(long, env = "BATON_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,

    /// The master key itself, in the place of a file; after a comma, older ones that still open
    #[arg(
        long,
        env = "BATON_MASTER_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub master_key: Option<Secret>,

    /// Folder of manifests (.toml, .json) of tools that every tenant has, read at start; `tools` of the source has some
    #[arg(long, env = "BATON_TOOLS", value_name = "DIR")]
    pub tools: Option<PathBuf>,

    /// File (.json, .toml) of the MCP servers whose tools tenants may use: commands and URLs by name, as MCP hosts keep them in `mcpServers`; `{tenant}` and `${secret:NAME}` there are the tenant's
    #[arg(long, env = "BATON_UPSTREAMS", value_name = "FILE")]
    pub upstreams: Option<PathBuf>,

    /// The authorization server whose tokens (JWT) are honoured, as its tokens name it
    #[arg(long, env = "BATON_OIDC_ISSUER", value_name = "URL")]
    pub oidc_issuer: Option<String>,

    /// For whom tokens must be (`aud`) [default: the public URL with /mcp]
    #[arg(
        long,
        env = "BATON_OIDC_AUDIENCE",
        value_name = "AUDIENCE",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub oidc_audience: Vec<String>,

    /// The claim that names the tenants of who shows a token; `*` there stands for all [default: tenant]
    #[arg(long, env = "BATON_OIDC_TENANT_CLAIM", value_name = "CLAIM")]
    pub oidc_tenant_claim: Option<String>,

    /// The claim that names the roles of who shows a token [default: roles]
    #[arg(long, env = "BATON_OIDC_ROLE_CLAIM", value_name = "CLAIM")]
    pub oidc_role_claim: Option<String>,

    /// The key that this process shows: to the server that it calls (`call`, `work`), or for its client (`stdio`)
    #[arg(long, env = "BATON_KEY", value_name = "KEY", hide_env_values = true)]
    pub key: Option<Secret>,

    /// What to log: error, warn, info, debug, trace, or per module as in `info,baton::store=debug` [default: info]
    #[arg(long, env = "BATON_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// How to log: text or json [default: text]
    #[arg(long, env = "BATON_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Host names (with port if not the default) that requests may be addressed to, besides loopback
    #[arg(
        long = "allowed-host",
        env = "BATON_ALLOWED_HOSTS",
        value_name = "HOST",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub allowed_hosts: Vec<String>,

    /// Origins of browser pages that may call, besides loopback; `*` stands for all, where callers must prove who they are
    #[arg(
        long = "allowed-origin",
        env = "BATON_ALLOWED_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub allowed_origins: Vec<String>,

    /// Seconds that browsers may remember that an origin may call [default: 600]
    #[arg(long, env = "BATON_CORS_MAX_AGE", value_name = "SECONDS")]
    pub cors_max_age: Option<u32>,

    /// Reverse proxies whose word is taken for whom they forward (Forwarded, X-Forwarded-For)
    #[arg(
        long = "trusted-proxy",
        env = "BATON_TRUSTED_PROXIES",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub trusted_proxies: Vec<IpAddr>,

    /// Requests a second from one address, over HTTP, at this process; without it, any number
    #[arg(long, env = "BATON_RATE_PER_ADDRESS", value_name = "N")]
    pub rate_per_address: Option<NonZeroU32>,

    /// Calls a second with one credential, at this process; without it, any number
    #[arg(long, env = "BATON_RATE_PER_CREDENTIAL", value_name = "N")]
    pub rate_per_credential: Option<NonZeroU32>,

    /// Calls a second for one tenant, at this process; without it, any number
    #[arg(long, env = "BATON_RATE_PER_TENANT", value_name = "N")]
    pub rate_per_tenant: Option<NonZeroU32>,

    /// Other limits of calls, as `limits_get` names them; 0 is none [default: see Limits in README.md, for example `max_calls_per_tenant=50`]
    #[arg(
        long = "limit",
        env = "BATON_LIMITS",
        value_name = "NAME=N",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub limits: Vec<Given>,

    /// Tasks that one executor may hold at a time at most [default: 5]
    #[arg(long, env = "BATON_MAX_CONCURRENT_TASKS", value_name = "N")]
    pub max_concurrent_tasks: Option<u32>,

    /// Milliseconds before the first retry of a failed task; doubles with each further one [default: 1000]
    #[arg(long, env = "BATON_RETRY_BACKOFF_MS", value_name = "MS")]
    pub retry_backoff_ms: Option<u64>,

    /// Calls of this process that may wait for something to happen (long polls) at a time [default: 10000]
    #[arg(long, env = "BATON_MAX_WAITING_CALLS", value_name = "N")]
    pub max_waiting_calls: Option<u32>,

    /// Memories of a tenant up to which a search compares its meaning with every one; beyond, PostgreSQL with pgvector looks the nearest up [default: 100000]
    #[arg(long, env = "BATON_FULL_SCAN_THRESHOLD", value_name = "N")]
    pub full_scan_threshold: Option<u32>,

    /// Sessions of older MCP clients in use at a time, on /mcp (with a stream, or a request in the last minute) and on /sse each [default: 4096]
    #[arg(long, env = "BATON_MAX_SESSIONS", value_name = "N")]
    pub max_sessions: Option<u32>,

    /// Streams of `subscriptions/listen` at a time [default: 10000]
    #[arg(long, env = "BATON_MAX_LISTENERS", value_name = "N")]
    pub max_listeners: Option<u32>,

    /// Connections over HTTP at a time; each needs a file descriptor [default: 16384]
    #[arg(long, env = "BATON_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<u32>,
}

impl Settings {
    /// The settings in the file at `path`.
    ///
    /// # Errors
    /// The file can't be read, is not TOML, or has a key that is no setting.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read {}", path.display()))?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            // The line itself may hold a key or a password.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.unwrap_or_default().matches('\n').count() + 1;
            anyhow!("{}, line {line}: {}", path.display(), error.message())
        })
    }
}
