//! Identifiers: one type per kind, each with its own parser, so that two kinds can't be mixed up.
//!
//! Minted ids are `prefix_` and 26 characters of Crockford base 32: 48 bits of milliseconds, then 80 random bits, so
//! they sort by time. Task and agent ids also take a client's own string.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::clock::Time;
use crate::random::Random;

/// Why a text is not an id of the kind asked for; the message says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(&'static str);

/// `26` characters that sort by `time` and can't be guessed.
fn mint(prefix: &str, time: Time, random: &Random) -> Arc<str> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let millis = u128::try_from(time.as_micros() / 1_000).unwrap_or(0) & ((1 << 48) - 1);
    let bits = (millis << 80) | (random.u128() & ((1 << 80) - 1));
    let mut text = String::with_capacity(prefix.len() + 26);
    text.push_str(prefix);
    for position in (0..26).rev() {
        text.push(char::from(
            ALPHABET[usize::try_from((bits >> (position * 5)) & 31).unwrap_or(0)],
        ));
    }
    text.into()
}

fn is_client_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

fn is_tenant_name(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().next().is_some_and(alphanumeric)
        && text
            .bytes()
            .all(|byte| alphanumeric(byte) || byte == b'_' || byte == b'-')
}

fn is_secret_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $check:ident, $pattern:literal, $rule:literal $(, mint $prefix:literal)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            $(
            /// A new one.
            pub fn mint(time: Time, random: &Random) -> Self {
                Self(mint($prefix, time, random))
            }
            )?
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if $check(text) { Ok(Self(text.into())) } else { Err(InvalidId($rule)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern})
            }

            fn inline_schema() -> bool {
                true
            }
        }
    };
}

id!(
    /// A tenant's name: lower-case letters, digits, `_` and `-`, at most 63 characters.
    TenantId, is_tenant_name, "^[a-z0-9][a-z0-9_-]{0,62}$",
    "a tenant is 1-63 of [a-z0-9_-], beginning with a letter or a digit"
);
id!(
    /// A task: the client's own string, or minted.
    TaskId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a task_id is 1-128 of [A-Za-z0-9._:-]", mint "tsk_"
);
id!(
    /// An agent: the client's own string, or minted.
    AgentId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "an agent_id is 1-128 of [A-Za-z0-9._:-]", mint "agt_"
);
id!(
    /// A notification of an executor: the executor's own string, or minted. Doubles as the event's id.
    NotificationId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a notification_id is 1-128 of [A-Za-z0-9._:-]",
    mint "evt_"
);
id!(
    /// The fencing token of a lease: who holds it may speak for the task, nobody else.
    LeaseToken, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a lease_token is what task_claim gave", mint "lse_"
);

id!(
    /// What a tenant calls something that it keeps secret.
    SecretName, is_secret_name, "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    "a secret's name is 1-64 of [A-Za-z0-9._-], beginning with a letter or a digit"
);

id!(
    /// A handle of a call that a client follows.
    HandleId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a handle is what the call was answered", mint "hdl_"
);

id!(
    /// What an agent remembers.
    MemoryId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a memory_id is what memory_write gave", mint "mem_"
);

id!(
    /// A tool that was made at run time: the client's own string, or minted.
    ToolId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a tool_id is 1-128 of [A-Za-z0-9._:-]", mint "tol_"
);

id!(
    /// A resource that a tenant registered.
    ResourceId, is_client_id, "^[A-Za-z0-9._:-]{1,128}$", "a resource_id is 1-128 of [A-Za-z0-9._:-]"
);

impl TenantId {
    /// The tenant of those who name none.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_parse_and_sort_by_time() {
        let random = Random::seeded(1);
        let early = TaskId::mint(Time::from_micros(1_000_000), &random);
        let late = TaskId::mint(Time::from_micros(1_001_000), &random);
        assert!(early < late);
        assert_eq!(early.as_str().len(), 30);
        assert_eq!(early.as_str().parse::<TaskId>().as_ref(), Ok(&early));
    }

    #[test]
    fn ids_refuse_what_their_kind_does_not_allow() {
        for bad in ["", "a b", "ä", "a/b", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
        for bad in ["", "Acme", "_a", "-a", "a.b", &"x".repeat(64)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
        for good in ["cliente_premium", "a", "0-9"] {
            assert!(good.parse::<TenantId>().is_ok(), "{good:?}");
        }
    }
}
