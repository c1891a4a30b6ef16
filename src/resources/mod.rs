//! What tenants register to be read, written and queried: folders, databases, services. A registration says who may do what.
//!
//! `access` decides that and is pure; `register` keeps registrations; `ops` declares what callers may do and what can be read
//! over MCP; `reading` leads a call to what the resource is: `files`, of folders or object stores, and where folders may lie, `places`; an
//! `endpoint`; a `database`.

mod access;
mod database;
mod endpoint;
mod files;
mod ops;
mod places;
mod reading;
mod register;
mod store;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use access::Right;
use access::{Rule, Who};
pub use files::{BELOW, Watches, watch};
pub use ops::parts;
pub use reading::tick;
pub use register::{DELETED, REGISTERED};

use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Kind as Fault, Result};
use crate::id::{AgentId, ResourceId};
use crate::store::Tx;

/// Registrations of a tenant at most.
const MOST: usize = 1_000;

/// What a resource is. (Variants are told apart by comments alone: each doc comment would be a `oneOf` of its own.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    // A folder of files.
    FileStorage,
    // A service over HTTP.
    ApiEndpoint,
    // PostgreSQL, or a file of SQLite.
    Database,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::FileStorage => "file_storage",
            Self::ApiEndpoint => "api_endpoint",
            Self::Database => "database",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        match name {
            "file_storage" => Ok(Self::FileStorage),
            "api_endpoint" => Ok(Self::ApiEndpoint),
            "database" => Ok(Self::Database),
            other => Err(Error::internal(format!("no kind of resource: {other}"))),
        }
    }
}

/// One registration.
#[derive(Debug, Clone)]
struct Entry {
    id: ResourceId,
    kind: Kind,
    /// Without what is secret.
    uri: String,
    /// What is secret of it, sealed.
    sealed: Option<Vec<u8>>,
    access: Vec<Rule>,
    metadata: Map<String, Value>,
    created_at: Time,
    created_by: String,
    updated_at: Time,
}

impl Entry {
    /// Whether `who` may do something with it, so that it may be known to be there.
    fn is_seen_by(&self, scope: &Scope, who: &Who) -> bool {
        self.is_run_by(scope, who) || self.access.iter().any(|rule| rule.is_for(who))
    }

    fn allows(&self, scope: &Scope, who: &Who, right: Right) -> bool {
        let is_granted = |rule: &Rule| rule.right == right && rule.is_for(who);
        (right == Right::Admin && self.is_run_by(scope, who)) || self.access.iter().any(is_granted)
    }

    /// Whether whatever does this in the caller's name may use it at all.
    fn is_deployed(&self, scope: &Scope, who: &Who) -> bool {
        !scope.is_by_tool() || self.allows(scope, who, Right::Deploy)
    }

    /// Administrators and who registered it may always change who may do what.
    fn is_run_by(&self, scope: &Scope, who: &Who) -> bool {
        who.is_admin || (who.is_all && *self.created_by == *scope.actor())
    }
}

/// The registration, if it is there and the caller may do this with it.
fn find(
    scope: &Scope,
    tx: &mut Tx<'_>,
    (id, agent): (&ResourceId, Option<&AgentId>),
    right: Right,
) -> Result<Entry> {
    let who = Who::of(scope, agent);
    let found = store::find(tx, id)?.filter(|entry| entry.is_seen_by(scope, &who));
    let entry = found.ok_or_else(|| unknown(id))?;
    let is_deployed = entry.is_deployed(scope, &who);
    if is_deployed && entry.allows(scope, &who, right) {
        return Ok(entry);
    }
    let right = if is_deployed { right } else { Right::Deploy }.name();
    let message = format!("the resource {id} does not allow you to {right} (access_permissions)");
    Err(Error::new(Fault::Forbidden, "forbidden", message))
}

fn unknown(id: &ResourceId) -> Error {
    Error::not_found("unknown_resource", format!("there is no resource {id}"))
}
