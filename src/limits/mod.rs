//! Limits as administrators see and set them while servers run. They stand in the database; every process that serves it
//! takes them over, the one that sets them at once, others within a second. What a limit counts and how it is kept is
//! `throttle`'s.

mod store;

use std::collections::{BTreeMap, HashMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock::Time;
use crate::ctx::{Ctx, Scope, System};
use crate::error::{Error, Result};
use crate::events;
use crate::op::{Op, Permission};
use crate::quota::{Limit, MOST, Whom};
use crate::store::Tx;
use crate::throttle::Key;
use store::Kept;
pub use store::{live_handles, note_change};

/// What administrators may do with limits.
pub fn operations() -> Vec<Op> {
    vec![
        Op::read("limits_get", Permission::Admin, get)
            .about("Show limits", "Show the limits of calls that hold for this tenant: their values, who set them, and how much of each is used at this process now.")
            .at("GET", "/api/v1/limits")
            .sample(|| json!({})),
        Op::waiting("limits_set", Permission::Operate, set_now)
            .at_once()
            .idempotent()
            .about("Set a limit", "Change a limit of calls while servers run: for this tenant, or for all that have no value of their own. Without a value it is again what it was at start. It takes a credential for all tenants.")
            .at("PATCH", "/api/v1/limits/{limit}")
            .sample(|| json!({"limit": "max_listeners_per_tenant", "value": 1000, "scope": "tenant"})),
    ]
}

/// For whom a limit is set. (Variants are told apart by comments alone: each doc comment would be a `oneOf` of its own in
/// the schema, which clients dislike.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum For {
    // For the tenant of the call, whatever holds for all.
    Tenant,
    // For all who have no value of their own.
    Server,
}

/// Which limits.
#[derive(Debug, Deserialize, JsonSchema)]
struct Get {
    /// Only this one
    limit: Option<Limit>,
}

/// What is to hold.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct SetLimit {
    /// The limit
    pub limit: Limit,
    /// Its value, 0 for no limit; what it was at start, if not said
    #[schemars(range(min = 0, max = 1_000_000))]
    pub value: Option<u32>,
    /// Whether for this tenant alone or for the whole server; only limits per tenant can be set for one
    pub scope: For,
}

/// The limits that a tenant has of its own; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Own(pub BTreeMap<Limit, u32>);

impl Own {
    /// Which limits a tenant may have of its own.
    fn all() -> impl Iterator<Item = Limit> {
        let all = Limit::ALL.into_iter();
        all.filter(|limit| limit.whom() == Whom::Tenant)
    }

    /// Those of the transaction's tenant.
    ///
    /// # Errors
    /// A failure of the database.
    pub fn read(tx: &mut Tx<'_>) -> Result<Self> {
        let set = store::of_tenant(tx)?.into_iter();
        Ok(Self(set.map(|kept| (kept.limit, kept.value)).collect()))
    }

    /// Makes these all that the transaction's tenant has. Processes take them over by [`tick`].
    ///
    /// # Errors
    /// As [`set`].
    pub fn keep(&self, scope: &Scope, tx: &mut Tx<'_>) -> Result<()> {
        for limit in Self::all() {
            let input = SetLimit {
                limit,
                value: self.0.get(&limit).copied(),
                scope: For::Tenant,
            };
            set(scope, tx, &input)?;
        }
        Ok(())
    }
}

impl JsonSchema for Own {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Own".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let field = |limit: Limit| {
            let counts = format!("How many {} at most; 0 is no limit", limit.counts());
            let value =
                json!({"type": "integer", "minimum": 0, "maximum": MOST, "description": counts});
            (limit.name().to_owned(), value)
        };
        let fields: Map<String, Value> = Self::all().map(field).collect();
        json_schema!({"type": "object", "properties": fields, "additionalProperties": false})
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Source {
    // The settings that this process was started with, or their defaults.
    Start,
    // Set for the whole server.
    Server,
    // Set for this tenant.
    Tenant,
}

/// A limit and what it holds.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct View {
    /// What it is called
    limit: Limit,
    /// What it counts
    counts: &'static str,
    /// How many there may be; any number, if not said
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u32>,
    /// Where the value comes from: start, server or tenant
    source: Source,
    /// What it was when this process started; any number, if not said
    #[serde(skip_serializing_if = "Option::is_none")]
    at_start: Option<u32>,
    /// How many there are now, at this process (handles: at all): of this tenant, of your credential, or of the busiest address
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<u32>,
    /// When it was set
    #[serde(skip_serializing_if = "Option::is_none")]
    set_at: Option<Time>,
    /// Who set it
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<String>,
}

/// Limits.
#[derive(Debug, Serialize, JsonSchema)]
struct Views {
    /// The limits
    limits: Vec<View>,
}

/// All that is set for a tenant and for all, by limit.
struct Known {
    tenant: HashMap<Limit, Kept>,
    server: HashMap<Limit, Kept>,
}

impl Known {
    fn read(tx: &mut Tx<'_>) -> Result<Self> {
        let by_limit = |all: Vec<Kept>| all.into_iter().map(|kept| (kept.limit, kept)).collect();
        Ok(Self {
            tenant: by_limit(store::of_tenant(tx)?),
            server: by_limit(store::of_server(tx)?),
        })
    }

    fn view(&self, scope: &Scope, tx: &mut Tx<'_>, limit: Limit) -> Result<View> {
        let own = self.tenant.get(&limit).map(|kept| (Source::Tenant, kept));
        let server = self.server.get(&limit).map(|kept| (Source::Server, kept));
        let set = own.or(server);
        let at_start = scope.throttle().at_start(limit);
        Ok(View {
            limit,
            counts: limit.counts(),
            value: match set {
                Some((_, kept)) => (kept.value > 0).then_some(kept.value),
                None => at_start,
            },
            source: set.map_or(Source::Start, |(source, _)| source),
            at_start,
            in_use: in_use(scope, tx, limit)?,
            set_at: set.map(|(_, kept)| kept.set_at),
            set_by: set.map(|(_, kept)| kept.set_by.clone()),
        })
    }
}

/// How much of a limit is used here. Who is of one tenant hears nothing of addresses, which may be others'.
fn in_use(scope: &Scope, tx: &mut Tx<'_>, limit: Limit) -> Result<Option<u32>> {
    if limit == Limit::MaxHandlesPerTenant {
        return live_handles(tx, scope.steady()).map(Some);
    }
    let throttle = scope.throttle();
    let principal = scope.principal();
    Ok(match limit.whom() {
        Whom::Tenant => throttle.used(limit, &Key::Tenant(tx.tenant().clone())),
        Whom::Credential => principal.and_then(|who| {
            let key = Key::Credential(who.name.clone());
            throttle.used(limit, &key)
        }),
        Whom::Address => {
            let is_operator = principal.is_none_or(|who| who.sole_tenant().is_none());
            is_operator.then(|| throttle.busiest(limit)).flatten()
        }
    })
}

/// The limits per tenant, as they hold for the transaction's.
///
/// # Errors
/// A failure of the database.
pub fn views_of_tenant(scope: &Scope, tx: &mut Tx<'_>) -> Result<Vec<View>> {
    let known = Known::read(tx)?;
    let views = Own::all().map(|limit| known.view(scope, tx, limit));
    views.collect()
}

fn get(scope: &Scope, tx: &mut Tx<'_>, input: &Get) -> Result<Views> {
    let known = Known::read(tx)?;
    let limits = Limit::ALL.into_iter();
    let limits = limits.filter(|limit| input.limit.is_none_or(|only| only == *limit));
    let views = limits.map(|limit| known.view(scope, tx, limit));
    Ok(Views {
        limits: views.collect::<Result<_>>()?,
    })
}

/// Sets a limit. It holds in this process before this is answered.
async fn set_now(ctx: Ctx, input: SetLimit) -> Result<View> {
    let limit = input.limit;
    ctx.write(move |scope, tx| set(scope, tx, &input)).await?;
    take_over(ctx.system()).await?;
    ctx.read(move |scope, tx| Known::read(tx)?.view(scope, tx, limit))
        .await
}

/// Sets a limit in a transaction of the tenant that it is for, or by whose log all are told. Processes take it over by
/// [`tick`].
///
/// # Errors
/// `invalid_input` for a value that can't be, or a limit that no tenant has for itself.
pub fn set(scope: &Scope, tx: &mut Tx<'_>, input: &SetLimit) -> Result<()> {
    let limit = input.limit;
    if input.scope == For::Tenant && limit.whom() != Whom::Tenant {
        let message = format!("{limit} holds for the server; set it with scope server");
        return Err(Error::invalid_at("/scope", message));
    }
    if input.value.is_some_and(|value| value > MOST) {
        let message = format!("0 (no limit) to {MOST} would be right");
        return Err(Error::invalid_at("/value", message));
    }
    let known = Known::read(tx)?;
    let before = match input.scope {
        For::Tenant => known.tenant.get(&limit),
        For::Server => known.server.get(&limit),
    };
    let before = before.map(|kept| kept.value);
    if before == input.value {
        return Ok(());
    }
    let kept = input.value.map(|value| Kept {
        limit,
        value,
        set_at: scope.now(),
        set_by: scope.actor().to_owned(),
    });
    match (input.scope, &kept) {
        (For::Tenant, Some(kept)) => store::save(tx, kept)?,
        (For::Tenant, None) => store::delete(tx, limit)?,
        (For::Server, Some(kept)) => store::save_for_server(tx, kept)?,
        (For::Server, None) => store::delete_for_server(tx, limit)?,
    }
    store::note_change(tx)?;
    let told = json!({"scope": input.scope, "value": input.value, "before": before});
    events::append(scope, tx, "dev.baton.limit.set", limit.name(), &told).map(drop)
}

/// Takes over what was set on whatever process, if anything was. There is never more to do at once.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    let changes = system.survey(store::changes).await?;
    if !system.throttle().is_of(changes) {
        take_over(system).await?;
    }
    Ok(0)
}

/// Takes over what was set, at once.
///
/// # Errors
/// A failure of the database.
pub async fn take_over(system: &System) -> Result<()> {
    let both = |tx: &mut crate::store::SystemTx<'_>| Ok((store::changes(tx)?, store::all(tx)?));
    let (changes, set) = system.survey(both).await?;
    system.throttle().apply(set, changes);
    Ok(())
}
