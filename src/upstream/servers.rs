//! The operator's list of MCP servers: what commands and addresses stand behind the names that tenants' tools use. It is
//! read once, in the form in which MCP hosts keep theirs (`mcpServers`). No command comes from anywhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Transport;
use crate::error::{Error, Result};
use crate::id::{SecretName, TenantId};
use crate::outbound::Outside;
use crate::reach::Opening;

/// What hosts write into such a list for themselves.
const THEIRS: [&str; 9] = [
    "alwaysAllow",
    "autoApprove",
    "description",
    "disabledTools",
    "enabledTools",
    "icon",
    "name",
    "timeout",
    "trust",
];
/// What begins the name of a secret within a text, and ends it.
const SECRET: (&str, char) = ("${secret:", '}');
/// Where the tenant's name goes.
const TENANT: &str = "{tenant}";

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) way: Way,
    /// Whose tools may use it; everybody's, if none is named.
    tenants: Vec<TenantId>,
}

/// How a server is reached.
#[derive(Debug)]
pub(super) enum Way {
    /// A process of each tenant's own.
    Command(Command),
    /// A service.
    Url(Service),
}

/// What is started.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
}

/// Where a service is.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) url: String,
    pub(super) transport: Transport,
    pub(super) headers: BTreeMap<String, String>,
    /// The operator named this host, so calls to it alone may lead there.
    opening: Option<Opening>,
    outside: OnceLock<Outside>,
}

impl Service {
    /// Who calls it.
    pub(super) fn outside(&self, usual: &Outside) -> Outside {
        let own = || usual.opening(self.opening.iter().cloned());
        self.outside.get_or_init(own).clone()
    }
}

/// An entry of the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    tenants: Vec<TenantId>,
    #[serde(default)]
    disabled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Stdio,
    #[serde(alias = "streamable-http", alias = "streamableHttp")]
    Http,
    Sse,
}

/// All servers of the list, by name.
#[derive(Debug, Default)]
pub(super) struct Servers(BTreeMap<String, std::sync::Arc<Server>>);

impl Servers {
    /// Those of a file: JSON, or TOML with the same members.
    ///
    /// # Errors
    /// What is wrong, and with which server.
    pub(super) fn load(file: &Path) -> Result<Self> {
        let wrong = |what: &dyn std::fmt::Display| {
            Error::invalid("invalid_input", format!("{}: {what}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
        let is_json = file.extension().is_some_and(|ending| ending == "json");
        let given: Map<String, Value> = if is_json {
            serde_json::from_str(&text).map_err(|error| wrong(&error))?
        } else {
            // The line itself may hold a password.
            toml::from_str(&text).map_err(|error: toml::de::Error| wrong(&error.message()))?
        };
        Self::of(given).map_err(|what| wrong(&what))
    }

    fn of(mut given: Map<String, Value>) -> std::result::Result<Self, String> {
        let list = ["mcpServers", "servers"];
        let list = list.into_iter().find_map(|name| given.remove(name));
        let Value::Object(list) = list.unwrap_or(Value::Object(given)) else {
            return Err("the servers are no object".into());
        };
        let mut servers = BTreeMap::new();
        for (name, mut entry) in list {
            if let Value::Object(members) = &mut entry {
                members.retain(|member, _| !THEIRS.contains(&member.as_str()));
            }
            let entry: Entry =
                serde_json::from_value(entry).map_err(|error| format!("{name}: {error}"))?;
            if !entry.disabled {
                let server = entry.read().map_err(|what| format!("{name}: {what}"))?;
                servers.insert(name, std::sync::Arc::new(server));
            }
        }
        Ok(Self(servers))
    }

    /// The server that `tenant` means by `name`.
    ///
    /// # Errors
    /// `unknown_upstream`, which names those that there are for it.
    pub(super) fn find(&self, tenant: &TenantId, name: &str) -> Result<std::sync::Arc<Server>> {
        let found = self.0.get(name).filter(|server| server.is_for(tenant));
        found.cloned().ok_or_else(|| {
            let there = self.0.iter().filter(|(_, server)| server.is_for(tenant));
            let there: Vec<&str> = there.map(|(name, _)| name.as_str()).collect();
            let message = match there.as_slice() {
                [] => format!("there is no server {name:?}: the operator has listed none (--upstreams); name a url"),
                names => format!("there is no server {name:?}; there are {}", names.join(", ")),
            };
            Error::not_found("unknown_upstream", message)
        })
    }
}

impl Server {
    fn is_for(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.contains(tenant)
    }
}

impl Entry {
    fn read(self) -> std::result::Result<Server, String> {
        let way = match (self.command, self.url) {
            (Some(program), None) if matches!(self.kind, None | Some(Kind::Stdio)) => {
                if !self.headers.is_empty() {
                    return Err("a command has env, no headers".into());
                }
                Way::Command(Command {
                    program,
                    arguments: self.args,
                    environment: self.env,
                    folder: self.cwd.unwrap_or_else(|| "/".into()),
                })
            }
            (None, Some(url)) if self.kind != Some(Kind::Stdio) => {
                super::check_url(&url).map_err(|error| error.message().to_owned())?;
                super::check_headers(&self.headers).map_err(|error| error.message().to_owned())?;
                Way::Url(Service {
                    transport: match self.kind {
                        Some(Kind::Sse) => Transport::Sse,
                        _ => Transport::Http,
                    },
                    opening: host(&url).and_then(|host| host.parse().ok()),
                    url,
                    headers: self.headers,
                    outside: OnceLock::new(),
                })
            }
            _ => return Err("either a command (stdio) or a url (http, sse)".into()),
        };
        Ok(Server {
            way,
            tenants: self.tenants,
        })
    }
}

/// The host of a URL, as openings name it.
fn host(url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    let host = url.host()?;
    Some(
        host.trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
    )
}

/// The secrets that a text names: `${secret:NAME}`.
pub(super) fn secrets_in(text: &str) -> impl Iterator<Item = SecretName> {
    let parts = text.split(SECRET.0).skip(1);
    let names = parts.filter_map(|part| part.split_once(SECRET.1));
    names.filter_map(|(name, _)| name.parse().ok())
}

/// The text for `tenant`, with the values that `secret` has for names.
pub(super) fn filled(
    text: &str,
    tenant: &TenantId,
    secret: impl Fn(&str) -> Option<String>,
) -> String {
    let mut parts = text.split(SECRET.0);
    let own = |part: &str| part.replace(TENANT, tenant.as_str());
    let mut whole = own(parts.next().unwrap_or_default());
    for part in parts {
        let named = part.split_once(SECRET.1);
        match named.and_then(|(name, rest)| Some((secret(name)?, rest))) {
            // What is secret is not read for the tenant's name.
            Some((value, rest)) => whole.extend([value, own(rest)]),
            None => whole.extend([SECRET.0.to_owned(), own(part)]),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: &Value) -> std::result::Result<Servers, String> {
        Servers::of(given.as_object().cloned().unwrap())
    }

    #[test]
    fn the_lists_of_hosts_are_read_as_they_are() {
        let npx = json!({"command": "npx", "args": ["-y", "x"], "env": {"A": "b"}, "timeout": 60, "autoApprove": []});
        for given in [
            json!({"mcpServers": {"x": npx}}),
            json!({"inputs": [], "servers": {"x": npx}}),
            json!({"x": npx}),
        ] {
            let servers = read(&given).unwrap();
            let Way::Command(command) = &servers.0["x"].way else {
                panic!("{given}")
            };
            assert_eq!(
                (command.program.as_str(), command.arguments.len()),
                ("npx", 2)
            );
        }
        for (entry, transport) in [
            (json!({"url": "https://a.example/mcp"}), Transport::Http),
            (
                json!({"type": "http", "url": "https://a.example/mcp"}),
                Transport::Http,
            ),
            (
                json!({"type": "streamable-http", "url": "https://a.example/mcp"}),
                Transport::Http,
            ),
            (
                json!({"type": "sse", "url": "https://a.example/sse"}),
                Transport::Sse,
            ),
        ] {
            let servers = read(&json!({"mcpServers": {"x": entry}})).unwrap();
            let Way::Url(service) = &servers.0["x"].way else {
                panic!("{entry}")
            };
            assert_eq!(service.transport, transport);
        }
        let off = json!({"x": {"command": "npx", "disabled": true}});
        assert!(read(&off).unwrap().0.is_empty());
    }

    #[test]
    fn what_is_no_server_is_refused_by_name() {
        for entry in [
            json!({}),
            json!("npx"),
            json!({"command": "npx", "url": "https://a.example"}),
            json!({"command": "npx", "tenant": ["acme"]}),
            json!({"command": "npx", "tenants": ["No Tenant"]}),
            json!({"type": "sse", "command": "npx"}),
            json!({"url": "ftp://a.example"}),
            json!({"url": "https://a.example", "headers": {"a b": "c"}}),
        ] {
            let refused = read(&json!({"mcpServers": {"odd": entry}})).unwrap_err();
            assert!(refused.starts_with("odd: "), "{refused}");
        }
    }

    #[test]
    fn a_server_is_for_the_tenants_that_are_named() {
        let servers =
            read(&json!({"a": {"command": "a", "tenants": ["acme"]}, "b": {"command": "b"}}))
                .unwrap();
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        assert!(servers.find(&acme, "a").is_ok() && servers.find(&globex, "b").is_ok());
        let unknown = servers.find(&globex, "a").unwrap_err();
        assert_eq!(unknown.code(), "unknown_upstream");
        assert!(unknown.message().ends_with("there are b"), "{unknown}");
    }

    #[test]
    fn texts_are_filled_for_a_tenant() {
        let acme = "acme".parse().unwrap();
        let known = |name: &str| (name == "KEY").then(|| "k{tenant}".to_owned());
        for (text, expected) in [
            ("/srv/{tenant}/x", "/srv/acme/x"),
            ("Bearer ${secret:KEY}!", "Bearer k{tenant}!"),
            ("${secret:NONE}", "${secret:NONE}"),
            ("${secret:KEY", "${secret:KEY"),
            ("", ""),
        ] {
            assert_eq!(filled(text, &acme, known), expected);
        }
        let names: Vec<_> = secrets_in("${secret:A}${secret:b.c} ${secret:}").collect();
        assert_eq!(names.len(), 2);
    }
}
