//! Who may do what with a resource: rules such as `read`, `executor:write` and `agent:ada:admin`, and whom they are for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ctx::Scope;
use crate::id::AgentId;
use crate::principal::Role;

/// What may be done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// List, read and query.
    Read,
    /// Change contents.
    Write,
    /// Change the registration, and remove it.
    Admin,
    /// Use it from the tenant's tools, scripts and cleanup handlers.
    Deploy,
}

impl Right {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Admin, Self::Deploy];

    /// As everywhere outside.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Deploy => "deploy",
        }
    }
}

/// A rule as text.
pub(super) const RULE: &str = r"^((\*|admin|orchestrator|executor|observer|agent:[A-Za-z0-9._:-]{1,128}):)?(read|write|admin|deploy)$";

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whom {
    All,
    Role(Role),
    Agent(AgentId),
}

/// One thing that somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    whom: Whom,
    pub(super) right: Right,
}

impl Rule {
    pub(super) fn is_for(&self, who: &Who) -> bool {
        match &self.whom {
            Whom::All => true,
            Whom::Role(role) => who.roles.contains(role),
            Whom::Agent(agent) => who.agents.contains(agent),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("{text:?} is none of read, write, admin, deploy, ROLE:read …, agent:ID:read …")
        };
        // An agent's id may have colons.
        let (whom, right) = match text.rsplit_once(':') {
            Some((whom, right)) => (Some(whom), right),
            None => (None, text),
        };
        let mut rights = Right::ALL.into_iter();
        let right = rights
            .find(|known| known.name() == right)
            .ok_or_else(wanted)?;
        let whom = match whom {
            None | Some("*") => Whom::All,
            Some(whom) => match whom.strip_prefix("agent:") {
                Some(agent) => Whom::Agent(agent.parse().map_err(|_| wanted())?),
                None => Whom::Role(whom.parse().map_err(|_| wanted())?),
            },
        };
        Ok(Self { whom, right })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.whom {
            Whom::All => {}
            Whom::Role(role) => write!(f, "{}:", role.name())?,
            Whom::Agent(agent) => write!(f, "agent:{agent}:")?,
        }
        f.write_str(self.right.name())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Who calls, as far as rules go.
#[derive(Debug)]
pub(super) struct Who {
    roles: Vec<Role>,
    agents: Vec<AgentId>,
    pub(super) is_admin: bool,
    /// Whether he speaks for himself, and not for one agent alone.
    pub(super) is_all: bool,
}

impl Who {
    /// The caller, as the agent that he names, if he names one.
    pub(super) fn of(scope: &Scope, agent: Option<&AgentId>) -> Self {
        let grant = scope.principal().map(|principal| &principal.grant);
        let roles = match (grant, agent) {
            (Some(grant), _) => grant.roles.clone(),
            (None, None) => Role::ALL.to_vec(),
            // Where nobody is asked who he is, an agent is what he says that he is, and no more.
            (None, Some(_)) => Vec::new(),
        };
        let agents = match (agent, grant) {
            (Some(agent), _) => vec![agent.clone()],
            (None, Some(grant)) => grant.agents.clone(),
            (None, None) => Vec::new(),
        };
        let is_bound = agent.is_some() || grant.is_some_and(|grant| !grant.agents.is_empty());
        Self {
            is_admin: roles.contains(&Role::Admin) && !is_bound,
            is_all: !is_bound,
            roles,
            agents,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_for_whom_they_name() {
        let who = |roles: &[Role], agents: &[&str]| Who {
            roles: roles.to_vec(),
            agents: agents.iter().map(|agent| agent.parse().unwrap()).collect(),
            is_admin: false,
            is_all: false,
        };
        for (rule, roles, agents, is_for) in [
            ("read", &[][..], &[][..], true),
            ("*:read", &[], &[], true),
            ("executor:write", &[Role::Executor], &[], true),
            ("executor:write", &[Role::Observer], &["executor"], false),
            ("agent:a:b:admin", &[], &["a:b"], true),
            ("agent:ada:deploy", &[Role::Admin], &["eve"], false),
        ] {
            let rule: Rule = rule.parse().unwrap();
            assert_eq!(rule.is_for(&who(roles, agents)), is_for, "{rule}");
            assert_eq!(rule.to_string().parse().as_ref(), Ok(&rule));
        }
        for bad in [
            "",
            "reads",
            "read:executor",
            "boss:read",
            "agent::read",
            "agent:ada",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
