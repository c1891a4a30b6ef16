//! Who was let in, and what he may do: roles, scopes, tenants, and the agents or the task that he is bound to. How
//! somebody proves who he is, is `access`'s.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::id::{AgentId, TaskId, TenantId};

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// See tasks and their outcome.
    Read,
    /// Hand out work and steer it.
    Orchestrate,
    /// Take work, report on it and end it.
    Execute,
    /// Say who may come in to a tenant.
    Admin,
    /// Say what holds for all tenants. It takes a credential for all of them.
    Operate,
    /// See what agents remember.
    Recall,
    /// Remember, and forget.
    Remember,
    /// Find and call the tools that a tenant has of its own.
    Use,
    /// Make and change them.
    Build,
    /// See, read and query resources.
    Consult,
    /// Change what is in resources.
    Supply,
    /// Register resources, and remove them.
    Register,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Read,
        Self::Orchestrate,
        Self::Execute,
        Self::Admin,
        Self::Operate,
        Self::Recall,
        Self::Remember,
        Self::Use,
        Self::Build,
        Self::Consult,
        Self::Supply,
        Self::Register,
    ];

    /// The OAuth scope that stands for it.
    pub const fn scope(self) -> &'static str {
        match self {
            Self::Read => "tasks:read",
            Self::Orchestrate => "tasks:orchestrate",
            Self::Execute => "tasks:execute",
            Self::Admin => "tenant:admin",
            Self::Operate => "server:admin",
            Self::Recall => "memory:read",
            Self::Remember => "memory:write",
            Self::Use => "tools:call",
            Self::Build => "tools:write",
            Self::Consult => "resources:read",
            Self::Supply => "resources:write",
            Self::Register => "resources:admin",
        }
    }
}

/// What somebody is to Baton. (Variants are told apart by comments alone: each doc comment would be a `oneOf` of its own in
/// the schema, which clients dislike.)
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    // May do everything in the tenant, and decides who may come in.
    Admin,
    // Hands out work, steers it and reads what came of it.
    Orchestrator,
    // Takes work, reports on it and ends it; may read tasks.
    Executor,
    // Reads.
    Observer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Admin,
        Self::Orchestrator,
        Self::Executor,
        Self::Observer,
    ];

    /// As credentials spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Orchestrator => "orchestrator",
            Self::Executor => "executor",
            Self::Observer => "observer",
        }
    }

    /// What it may do.
    pub const fn may(self, permission: Permission) -> bool {
        use Permission::{
            Build, Consult, Execute, Orchestrate, Read, Recall, Register, Remember, Supply, Use,
        };
        matches!(
            (self, permission),
            (Self::Admin, _)
                | (_, Read | Recall | Consult)
                | (
                    Self::Orchestrator,
                    Orchestrate | Remember | Supply | Register | Use | Build
                )
                | (Self::Executor, Execute | Remember | Supply | Use)
        )
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| "a role is admin, orchestrator, executor or observer".to_owned())
    }
}

/// What a credential allows. Kept as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What its holder is.
    pub roles: Vec<Role>,
    /// Narrows the roles down to these: scopes of permissions, or names of operations. Empty does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The agents for which its holder may speak; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentId>,
    /// The only task of which its holder may speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
}

impl Grant {
    /// Whether this allows everything that `other` does.
    pub fn covers(&self, other: &Self) -> bool {
        let may = |grant: &Self, permission| grant.roles.iter().any(|role| role.may(permission));
        let within = |own: &[String], others: &[String]| {
            own.is_empty() || (!others.is_empty() && others.iter().all(|it| own.contains(it)))
        };
        let agents = |grant: &Self| -> Vec<String> {
            grant.agents.iter().map(ToString::to_string).collect()
        };
        Permission::ALL
            .into_iter()
            .all(|permission| may(self, permission) || !may(other, permission))
            && within(&self.scopes, &other.scopes)
            && within(&agents(self), &agents(other))
            && (self.task.is_none() || self.task == other.task)
    }
}

/// The tenants that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// Every one.
    All,
    /// These.
    These(Vec<TenantId>),
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Principal {
    /// As the log shows him: `key:` and the id of the key, `user:` and issuer and subject of the token.
    pub name: Arc<str>,
    /// The tenants that he has.
    pub tenants: Tenants,
    /// What he may do there.
    pub grant: Grant,
    /// When he is to prove himself again (wall clock).
    pub expires_at: Option<Time>,
    /// What he showed.
    pub shown: Shown,
}

/// What somebody showed, as its hash: it tells one credential from another and opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shown(pub [u8; 32]);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl Principal {
    /// The only tenant that he has.
    pub fn sole_tenant(&self) -> Option<&TenantId> {
        match &self.tenants {
            Tenants::These(tenants) if tenants.len() == 1 => tenants.first(),
            _ => None,
        }
    }

    /// Whether he showed a token, of which he can get another one with more scopes.
    pub fn has_token(&self) -> bool {
        self.name.starts_with("user:")
    }

    /// The first of the tenants that he has, where they are counted.
    pub fn first_tenant(&self) -> Option<&TenantId> {
        match &self.tenants {
            Tenants::These(tenants) => tenants.first(),
            Tenants::All => None,
        }
    }

    /// Whether `tenant` is his.
    pub fn has(&self, tenant: &TenantId) -> bool {
        match &self.tenants {
            Tenants::All => true,
            Tenants::These(tenants) => tenants.contains(tenant),
        }
    }

    /// Whether he may call the operation `name`, which needs `permission`.
    pub fn may(&self, permission: Permission, name: &str) -> bool {
        self.has_role(permission)
            && self.is_in_scope(permission, name)
            && (self.grant.task.is_none()
                || permission == Permission::Execute
                || name == "task_get")
    }

    /// Whether he may read what needs `permission` and belongs to no operation.
    pub fn may_see(&self, permission: Permission) -> bool {
        self.may(permission, "task_get")
    }

    fn has_role(&self, permission: Permission) -> bool {
        self.grant.roles.iter().any(|role| role.may(permission))
            && (permission != Permission::Operate || self.tenants == Tenants::All)
    }

    fn is_in_scope(&self, permission: Permission, name: &str) -> bool {
        let scopes = &self.grant.scopes;
        let is_it = |scope: &String| scope == permission.scope() || scope == name;
        scopes.is_empty() || scopes.iter().any(is_it)
    }

    /// Lets him call the operation `name`.
    ///
    /// # Errors
    /// `forbidden` says which role or scope it takes.
    pub fn admit(&self, permission: Permission, name: &str) -> Result<()> {
        if self.may(permission, name) {
            return Ok(());
        }
        if !self.is_in_scope(permission, name) {
            let scope = permission.scope();
            let message = format!("{name} needs the scope {scope}, which this credential lacks");
            return Err(Error::new(Kind::Forbidden, "insufficient_scope", message));
        }
        if let Some(task) = &self.grant.task {
            let message = format!("this credential may speak only of the task {task}, not {name}");
            return Err(forbidden(message));
        }
        if permission == Permission::Operate {
            let message = format!("{name} needs the role admin, for all tenants");
            return Err(forbidden(message));
        }
        let roles = Role::ALL.into_iter().filter(|role| role.may(permission));
        let roles: Vec<&str> = roles.map(Role::name).collect();
        let message = format!("{name} needs the role {}", roles.join(" or "));
        Err(forbidden(message))
    }

    /// Holds what he says to the agents and the task that he is bound to.
    ///
    /// # Errors
    /// `forbidden` says for whom or of what he may speak.
    pub fn admit_input(&self, permission: Permission, input: &Map<String, Value>) -> Result<()> {
        if let Some(task) = &self.grant.task {
            let leases = input.get("leases").and_then(Value::as_array);
            let leases = leases.into_iter().flatten();
            let mut named = input
                .get("task_id")
                .into_iter()
                .chain(leases.map(|lease| &lease["task_id"]))
                .peekable();
            if named.peek().is_none() || named.any(|named| named.as_str() != Some(task.as_str())) {
                let message = format!("/task_id: this credential may speak only of {task}");
                return Err(forbidden(message));
            }
        }
        if self.grant.agents.is_empty() || permission == Permission::Read {
            return Ok(());
        }
        let (path, agent) = match (permission, input.get("orchestrator_info")) {
            (Permission::Orchestrate, Some(info)) => {
                ("/orchestrator_info/agent_id", info.get("agent_id"))
            }
            _ => ("/agent_id", input.get("agent_id")),
        };
        let is_his = |agent: &str| self.grant.agents.iter().any(|own| own.as_str() == agent);
        match agent {
            Some(agent) if !agent.as_str().is_some_and(is_his) => {
                let own: Vec<&str> = self.grant.agents.iter().map(AgentId::as_str).collect();
                let own = own.join(", ");
                let message = format!("{path}: this credential may speak only for {own}");
                Err(forbidden(message))
            }
            _ => Ok(()),
        }
    }
}

fn forbidden(message: String) -> Error {
    Error::new(Kind::Forbidden, "forbidden", message)
}
