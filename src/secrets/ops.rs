//! `secret_set`, `secret_list` and `secret_delete`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store::{self, Kept};
use super::{SECRET, seal, unknown};
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::events;
use crate::id::SecretName;
use crate::op::{Op, Permission};
use crate::page::Position;
use crate::secret::Secret;
use crate::store::Tx;

/// Secrets of one tenant at most.
const MOST: i64 = 1_000;
/// Whose cursors these are.
const LIST: &str = "secret_list";

/// What a tenant's admins may do with secrets.
pub fn operations() -> Vec<Op> {
    use Permission::Admin;
    vec![
        Op::write("secret_set", Admin, set)
            .about("Set a secret", "Keep a password, token or key under a name, sealed, or replace it. Tools and resources name it; nobody reads it again. `baton secret set NAME` keeps the value out of conversations.")
            .destructive()
            .at("POST", "/api/v1/secrets")
            .sample(|| json!({"name": "github_token", "value": "ghp_example", "description": "for the issue tool"})),
        Op::read("secret_list", Admin, list)
            .about("List secrets", "List the names of this tenant's secrets, and when each was last set. Values are never shown.")
            .at("GET", "/api/v1/secrets")
            .sample(|| json!({"limit": 10})),
        Op::write("secret_delete", Admin, delete)
            .about("Delete a secret", "Forget a secret. Calls that name it fail from now on.")
            .destructive()
            .at("DELETE", "/api/v1/secrets/{name}")
            .sample(|| json!({"name": "github_token"})),
    ]
}

/// What to keep.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Set {
    /// What tools and resources call it
    name: SecretName,
    /// The secret; it is never shown again
    #[schemars(with = "String", length(min = 1, max = 16_384), extend("writeOnly" = true))]
    value: Secret,
    /// What it is for, in a few words; what was said before stays, if nothing is said
    #[schemars(length(max = 200))]
    description: Option<String>,
}

/// What was kept.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {
    /// Its name
    name: SecretName,
    /// How often it has been set
    version: i64,
    /// Whether there was none of that name
    created: bool,
}

fn set(scope: &Scope, tx: &mut Tx<'_>, input: &Set) -> Result<Done> {
    let old = store::find(tx, &input.name)?;
    if old.is_none() && store::count(tx)? >= MOST {
        let message = format!("a tenant keeps {MOST} secrets at most; delete some");
        return Err(Error::conflict("too_many_secrets", message));
    }
    let sealed = seal(scope, tx, (SECRET, input.name.as_str()), &input.value)?;
    let said = old.as_ref().map(|old| old.description.clone());
    let kept = Kept {
        name: input.name.clone(),
        description: input.description.clone().or(said).unwrap_or_default(),
        version: old.as_ref().map_or(1, |old| old.version + 1),
        created_at: old.as_ref().map_or(scope.now(), |old| old.created_at),
        updated_at: scope.now(),
        updated_by: scope.actor().to_owned(),
    };
    store::save(tx, &kept, sealed)?;
    let told = json!({"version": kept.version});
    events::append(scope, tx, "dev.baton.secret.set", kept.name.as_str(), &told)?;
    Ok(Done {
        name: kept.name,
        version: kept.version,
        created: old.is_none(),
    })
}

/// Which secrets.
#[derive(Debug, Deserialize, JsonSchema)]
struct List {
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the last page ended: its `next_cursor`
    cursor: Option<String>,
}

const fn fifty() -> u32 {
    50
}

/// A page of secrets.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// The secrets, by name
    secrets: Vec<View>,
    /// Where the next page begins
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A secret without its value.
#[derive(Debug, Serialize, JsonSchema)]
struct View {
    /// What tools and resources call it
    name: SecretName,
    /// What it is for
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    /// How often it has been set
    version: i64,
    /// When it was first set
    created_at: Time,
    /// When it was last set
    updated_at: Time,
    /// Who set it last
    updated_by: String,
}

fn list(_: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let cursor = input.cursor.as_deref();
    let behind = cursor
        .map(|cursor| tx.seal(LIST)?.open(cursor))
        .transpose()?;
    let mut kept = store::list(tx, behind.as_ref(), input.limit + 1)?;
    let limit = usize::try_from(input.limit).unwrap_or(usize::MAX);
    let is_more = kept.len() > limit;
    kept.truncate(limit);
    let last = kept.last().filter(|_| is_more);
    let last = last.map(|kept| Position {
        key: 0,
        id: kept.name.to_string(),
    });
    Ok(Listed {
        next_cursor: last
            .map(|last| tx.seal(LIST).map(|seal| seal.close(&last)))
            .transpose()?,
        secrets: kept.into_iter().map(View::of).collect(),
    })
}

impl View {
    fn of(kept: Kept) -> Self {
        Self {
            name: kept.name,
            description: kept.description,
            version: kept.version,
            created_at: kept.created_at,
            updated_at: kept.updated_at,
            updated_by: kept.updated_by,
        }
    }
}

/// Which secret.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Delete {
    /// Its name
    name: SecretName,
}

/// What became of a secret.
#[derive(Debug, Serialize, JsonSchema)]
struct Deleted {
    /// Its name
    name: SecretName,
    /// Always true
    deleted: bool,
}

fn delete(scope: &Scope, tx: &mut Tx<'_>, input: &Delete) -> Result<Deleted> {
    if !store::delete(tx, &input.name)? {
        return Err(unknown(&input.name));
    }
    let name = input.name.as_str();
    events::append(scope, tx, "dev.baton.secret.deleted", name, &json!({}))?;
    Ok(Deleted {
        name: input.name.clone(),
        deleted: true,
    })
}
