//! Tools of other MCP servers: reached over HTTP where tenants may reach, or by a process that the operator has listed.
//!
//! `servers` is the operator's list; `target` is what a manifest comes to for one tenant; `pool` keeps the sessions, each
//! tenant's own; `session` is one, spoken by rmcp over `http`, `sse` or the pipes of a `process`; `supervise` is the life of
//! the process that ends that one; `answer` makes of results what callers see. Which tools there are is nobody's here.

mod answer;
mod http;
mod pool;
mod process;
mod servers;
mod session;
mod sse;
mod supervise;
mod target;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::ctx::{Ctx, System};
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::op::{Output, below};
use crate::outbound::Auth;
use pool::{Failed, Pool};
use servers::Servers;

pub use answer::Definition;
pub use pool::Health;
pub use supervise::supervise;

/// What of the protocol library's log tells of other servers, as a filter that leaves it out: they decide how much that is.
pub const UNHEARD: &str = "rmcp::service::client=off,rmcp::transport::async_rw=off,rmcp::transport::common=off,\
    rmcp::transport::streamable_http_client=off,rmcp::transport::worker=off";

/// Bytes of a message of another server at most.
const MESSAGE: usize = 4 << 20;
/// How long a server may take until it can be called, if nobody is in more of a hurry.
const START: Duration = Duration::from_mins(1);
/// How long it may take until it is known how a process has ended.
const MOMENT: Duration = Duration::from_secs(5);
/// How long whoever makes a tool waits for what the server says of it.
const LOOK: Duration = Duration::from_secs(30);

/// A tool of another server, as a manifest gives it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    #[serde(rename = "type")]
    _type: String,
    /// A server of the operator's list, by name.
    server: Option<String>,
    /// Or where it is.
    url: Option<String>,
    #[serde(default)]
    transport: Transport,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    auth: Option<Auth>,
    /// What it calls the tool; as this one is called, if not said.
    tool: Option<String>,
    /// The hash of what it said of the tool when this one was made.
    pin: Option<String>,
}

/// How messages go over HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Streamable HTTP.
    #[default]
    Http,
    /// HTTP+SSE, as servers of 2024 have it.
    Sse,
}

/// What a call may take, and whether it may be made again when nobody knows what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the first word to the last.
    pub time: Duration,
    /// Whether repeating it changes nothing more.
    pub is_repeatable: bool,
}

/// Why something on the way to another server went wrong, for whoever waits at its end: rmcp passes on that it did.
#[derive(Debug, Clone, Default)]
struct Why(Arc<(Mutex<Option<Error>>, Notify)>);

impl Why {
    fn set(&self, error: Error) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.0.1.notify_one();
    }

    fn take(&self) -> Option<Error> {
        let mut why = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        why.take()
    }

    /// As [`Why::take`], when the other end has hung up: how a process has ended is known a moment later.
    async fn found(&self, is_process: bool) -> Option<Error> {
        let heard = async {
            loop {
                if let Some(error) = self.take() {
                    return error;
                }
                // It may tell of what was taken before: of the process of an earlier try.
                self.0.1.notified().await;
            }
        };
        let patience = if is_process { MOMENT } else { Duration::ZERO };
        tokio::time::timeout(patience, heard).await.ok()
    }
}

/// Something went wrong; [`Why`] knows what.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it went wrong")]
struct Wrong;

impl Upstream {
    /// Refuses what could never be called. The tool is called `name` here.
    ///
    /// # Errors
    /// `invalid_input` says what and where.
    pub fn ready(mut self, name: &str) -> Result<Self> {
        match (&self.server, &self.url) {
            (Some(_), None) => {
                if self.transport != Transport::Http
                    || self.auth.is_some()
                    || !self.headers.is_empty()
                {
                    let message = "a server of the operator's list is reached as that says: leave out transport, headers and auth";
                    return Err(Error::invalid_at("/server", message));
                }
            }
            (None, Some(url)) => check_url(url)?,
            _ => {
                let message = "either the name of a server that the operator has listed, or a url";
                return Err(Error::invalid_at("/server", message));
            }
        }
        check_headers(&self.headers)?;
        if let Some(auth) = &self.auth {
            auth.check().map_err(|error| below(error, "/auth"))?;
        }
        self.tool.get_or_insert_with(|| name.to_owned());
        Ok(self)
    }

    /// What the other server calls the tool.
    fn tool(&self) -> &str {
        self.tool.as_deref().unwrap_or_default()
    }

    /// Where it is, as people are shown it.
    fn label(&self) -> &str {
        let place = self.server.as_deref().or(self.url.as_deref());
        place.unwrap_or_default()
    }

    /// What a call would say, and to whom.
    pub fn shown(&self, arguments: &Map<String, Value>) -> Value {
        let mut shown =
            json!({"method": "tools/call", "tool": self.tool(), "arguments": arguments});
        let place = if self.server.is_some() {
            "server"
        } else {
            "url"
        };
        shown[place] = self.label().into();
        if let Some(auth) = &self.auth {
            shown["secret"] = json!(auth.secret());
        }
        shown
    }
}

/// Refuses what is no URL of HTTP.
fn check_url(url: &str) -> Result<()> {
    let read: Option<Uri> = url.parse().ok();
    let scheme = read.as_ref().and_then(Uri::scheme_str);
    if !matches!(scheme, Some("http" | "https")) {
        return Err(Error::invalid_at("/url", "no http:// or https:// URL"));
    }
    Ok(())
}

/// Refuses what is no header, or the protocol's.
fn check_headers(headers: &BTreeMap<String, String>) -> Result<()> {
    const PROTOCOL: [&str; 3] = ["accept", "content-type", "last-event-id"];
    for (name, value) in headers {
        let found = name.parse::<HeaderName>().ok();
        let found = found.zip(value.parse::<HeaderValue>().ok());
        let Some((header, _)) = found else {
            return Err(Error::invalid_at(
                format!("/headers/{name}"),
                "is no header of HTTP",
            ));
        };
        if PROTOCOL.contains(&header.as_str()) || header.as_str().starts_with("mcp-") {
            return Err(Error::invalid_at(
                format!("/headers/{name}"),
                "the protocol says that itself",
            ));
        }
    }
    Ok(())
}

/// The other servers, and the sessions there. Cheap to clone.
#[derive(Clone, Default)]
pub struct Upstreams(Arc<Pool>);

impl Upstreams {
    /// With the servers that the operator lists in `file`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let servers = file.map(Servers::load).transpose()?;
        Ok(Self(Arc::new(Pool::new(servers.unwrap_or_default()))))
    }

    /// Refuses a server that the tenant has not.
    ///
    /// # Errors
    /// `unknown_upstream` names those that it has.
    pub fn check(&self, tenant: &TenantId, upstream: &Upstream) -> Result<()> {
        match &upstream.server {
            Some(name) => self.0.servers().find(tenant, name).map(drop),
            None => Ok(()),
        }
    }

    /// What the other server says of the tool now.
    ///
    /// # Errors
    /// `unknown_upstream`, also for a server that has no such tool; as [`Upstreams::call`].
    pub async fn look(&self, ctx: &Ctx, upstream: &Upstream) -> Result<Definition> {
        let target = self.0.target(ctx, upstream).await?;
        let until = ctx.clock().steady() + LOOK;
        let tools = match self.0.list(ctx, &target, until).await {
            Ok(tools) => tools,
            Err(failed) => return Err(failed.into_error(&target)),
        };
        let mut names: Vec<&str> = Vec::new();
        for tool in &tools {
            if tool.name == upstream.tool() {
                return Ok(Definition::of(tool));
            }
            names.push(&tool.name);
        }
        names.truncate(50);
        let message = format!(
            "{} has no tool {:?}; it has {}",
            target.label,
            upstream.tool(),
            names.join(", ")
        );
        Err(Error::not_found("unknown_upstream", message))
    }

    /// Calls the tool with the tenant's session, which is begun where there is none.
    ///
    /// # Errors
    /// `address_refused`, `remote_unreachable`, `remote_error`; `upstreams_busy`; `unknown_secret`.
    pub async fn call(
        &self,
        ctx: &Ctx,
        upstream: &Upstream,
        arguments: &Map<String, Value>,
        bounds: &Bounds,
    ) -> Result<Output> {
        let target = self.0.target(ctx, upstream).await?;
        let until = ctx.clock().steady() + bounds.time;
        let tool = upstream.tool();
        let mut result = self.0.call(ctx, &target, (tool, arguments), until).await;
        let again = match &result {
            Err(Failed::Unsent(_)) => true,
            Err(Failed::Broken(_)) => bounds.is_repeatable,
            _ => false,
        };
        if again {
            result = self.0.call(ctx, &target, (tool, arguments), until).await;
        }
        match result {
            Ok(result) => answer::output(result, &target.secrets),
            Err(Failed::Refused(message)) => {
                Ok(Output::error(answer::without(message, &target.secrets)))
            }
            Err(failed) => Err(failed.into_error(&target)),
        }
    }

    /// How the tenant's sessions with that server are.
    pub fn health(&self, tenant: &TenantId, upstream: &Upstream) -> Health {
        self.0.health(
            tenant,
            (upstream.label(), upstream.tool(), upstream.pin.as_deref()),
        )
    }

    /// Lets go of sessions that nobody needed for a while, that ended, or whose tenant is on its way out.
    ///
    /// # Errors
    /// None; it is a round of a worker.
    pub fn tick(&self, system: &System) -> Result<usize> {
        self.0.sweep(system);
        Ok(0)
    }

    /// Lets go of all sessions.
    pub fn close(&self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_an_earlier_try_left_is_not_taken_for_the_end_of_this_one() {
        let why = Why::default();
        why.set(Error::internal("the first"));
        why.take();
        let later = async {
            tokio::task::yield_now().await;
            why.set(Error::conflict("second", "the second"));
        };
        let (found, ()) = tokio::join!(why.found(true), later);
        assert_eq!(found.map(|error| error.code()), Some("second"));
        why.set(Error::internal("known"));
        assert!(why.found(false).await.is_some());
        assert!(why.found(false).await.is_none());
    }
}
