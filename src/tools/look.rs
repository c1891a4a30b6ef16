//! Showing tools and finding them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::meaning;
use super::manifest::{Annotations, Example, Implementation, Limits, Manifest};
use super::{Kept, State, Tool, Tools, Use, Version, find, may_call, store, unknown};
use crate::clock::Time;
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::id::ToolId;
use crate::language::{Vector, embed, words};
use crate::page::Position;
use crate::store::Tx;
use crate::upstream::Health;

/// Whose cursors these are.
const LIST: &str = "tool_list";
/// Below this, a tool has nothing to do with what is searched for.
const RELEVANT: f64 = 0.2;

/// Which tools to list.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct List {
    /// How many at most
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 200))]
    limit: u32,
    /// Where the page before ended
    #[schemars(length(max = 512))]
    cursor: Option<String>,
}

const fn fifty() -> u32 {
    50
}

/// A page of tools.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listed {
    /// By name
    tools: Vec<Brief>,
    /// Leads to the next page
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A tool in short.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Brief {
    /// The tool
    tool_id: ToolId,
    /// What it is called by
    name: String,
    /// For people
    title: String,
    /// When to use it
    description: String,
    /// The type of its implementation
    implementation: String,
    /// The version that is called, or waits to be
    version: i64,
    /// The hash of its manifest
    hash: String,
    /// Whether it can be called
    live: bool,
    /// The version that waits for an admin
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_version: Option<i64>,
    /// What was counted of its calls
    used: Used,
    /// When it was made
    created_at: Time,
    /// When another version was last called
    updated_at: Time,
}

/// What was counted of the calls of a tool.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Used {
    /// All
    calls: i64,
    /// Those that failed
    failures: i64,
    /// How long one took on average
    mean_ms: f64,
    /// When the last one ended
    #[serde(skip_serializing_if = "Option::is_none")]
    called_at: Option<Time>,
}

impl Used {
    fn of(used: Option<Use>) -> Self {
        let Some(used) = used.filter(|used| used.calls > 0) else {
            return Self::default();
        };
        #[expect(clippy::cast_precision_loss, reason = "a mean of microseconds")]
        let mean = used.micros as f64 / used.calls as f64 / 1_000.0;
        Self {
            calls: used.calls,
            failures: used.failures,
            mean_ms: (mean * 100.0).round() / 100.0,
            called_at: Some(used.called_at),
        }
    }
}

fn brief(tx: &mut Tx<'_>, tool: Kept) -> Result<Brief> {
    let shown = if tool.live > 0 {
        tool.live
    } else {
        tool.newest
    };
    let version = store::find_version(tx, &tool.id, shown)?;
    let version = version.ok_or_else(|| Error::internal("a tool without its version"))?;
    let manifest: Manifest = serde_json::from_str(&version.manifest).map_err(Error::internal)?;
    let pending = match tool.newest {
        newest if newest == version.number => Some(version.state),
        newest => store::find_version(tx, &tool.id, newest)?.map(|newest| newest.state),
    };
    let pending = pending == Some(State::Pending);
    Ok(Brief {
        title: manifest.title(),
        description: manifest.description,
        implementation: super::manifest::kind_of(&manifest.implementation.0),
        version: version.number,
        hash: version.hash,
        live: tool.live > 0,
        pending_version: pending.then_some(tool.newest),
        used: Used::of(store::uses(tx, &tool.name)?),
        tool_id: tool.id,
        name: tool.name,
        created_at: tool.created_at,
        updated_at: tool.updated_at,
    })
}

pub(super) fn list(_: &Scope, tx: &mut Tx<'_>, input: &List) -> Result<Listed> {
    let seal = tx.seal(LIST)?;
    let after = input.cursor.as_deref().map(|cursor| seal.open(cursor));
    let after = after.transpose()?.map_or(String::new(), |it| it.id);
    let mut tools = store::list(tx, &after, input.limit + 1)?;
    let most = usize::try_from(input.limit).unwrap_or(usize::MAX);
    let is_last = tools.len() <= most;
    tools.truncate(most);
    let last = tools.last().filter(|_| !is_last);
    let next_cursor = last.map(|last| {
        let id = last.name.clone();
        seal.close(&Position { key: 0, id })
    });
    let tools = tools.into_iter().map(|tool| brief(tx, tool));
    Ok(Listed {
        tools: tools.collect::<Result<_>>()?,
        next_cursor,
    })
}

/// Which tool.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct History {
    /// The tool: its id or name
    #[schemars(length(min = 1, max = 128))]
    tool_id: String,
    /// Only this version, with its manifest
    #[schemars(range(min = 1))]
    version: Option<i64>,
}

/// The versions of a tool.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Past {
    /// The tool
    tool_id: ToolId,
    /// What it is called by
    name: String,
    /// The version that is called
    #[serde(skip_serializing_if = "Option::is_none")]
    live_version: Option<i64>,
    /// Newest first
    versions: Vec<Made>,
}

/// A version.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Made {
    /// Its number
    version: i64,
    /// The hash of its manifest
    hash: String,
    /// Where it stands
    state: State,
    /// When it was made
    made_at: Time,
    /// Who made it, as the log shows him
    made_by: String,
    /// When an admin decided about it
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_at: Option<Time>,
    /// Who that was
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<String>,
    /// Why
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// What it is
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Map<String, Value>>,
}

impl Made {
    fn of(version: Version, is_whole: bool) -> Result<Self> {
        let manifest = is_whole.then(|| serde_json::from_str(&version.manifest));
        Ok(Self {
            version: version.number,
            hash: version.hash,
            state: version.state,
            made_at: version.made_at,
            made_by: version.made_by,
            decided_at: version.decided_at,
            decided_by: version.decided_by,
            note: version.note,
            manifest: manifest.transpose().map_err(Error::internal)?,
        })
    }
}

pub(super) fn history(_: &Scope, tx: &mut Tx<'_>, input: &History) -> Result<Past> {
    let tool = find(tx, &input.tool_id)?;
    let mut versions = store::versions(tx, &tool.id)?;
    if let Some(number) = input.version {
        versions.retain(|version| version.number == number);
    }
    let is_whole = input.version.is_some();
    let versions = versions.into_iter().map(|it| Made::of(it, is_whole));
    Ok(Past {
        versions: versions.collect::<Result<_>>()?,
        live_version: (tool.live > 0).then_some(tool.live),
        tool_id: tool.id,
        name: tool.name,
    })
}

/// Which tool.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Describe {
    /// The tool
    #[schemars(length(min = 1, max = 40))]
    name: String,
}

/// All that callers need to know of a tool.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Described {
    /// The tool
    tool_id: ToolId,
    /// What it is called by
    name: String,
    /// For people
    title: String,
    /// When to use it
    description: String,
    /// JSON Schema of its arguments
    parameters: Map<String, Value>,
    /// JSON Schema of what it answers
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<Map<String, Value>>,
    /// What a call does to the world
    annotations: Annotations,
    /// Calls that show how it is used
    #[serde(skip_serializing_if = "Vec::is_empty")]
    examples: Vec<Example>,
    /// Whatever else is to be known of it
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
    /// Bounds of a call
    limits: Limits,
    /// The version that is called
    version: i64,
    /// The hash of its manifest: `tool_call` can insist on it
    hash: String,
    /// How this process gets on with the server whose tool it is
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Health>,
}

pub(super) async fn describe(ctx: Ctx, input: Describe, tools: Tools) -> Result<Described> {
    let found = tools.find(&ctx, &input.name).await?;
    let found = found.filter(|_| may_call(&ctx, &input.name));
    let Tool {
        id,
        version,
        hash,
        made,
    } = found.ok_or_else(|| unknown(&input.name))?;
    let annotations = made.annotations();
    let manifest = made.manifest.clone();
    let upstream = match &made.implementation {
        Implementation::Upstream(upstream) => {
            Some(tools.upstreams().health(ctx.tenant(), upstream))
        }
        _ => None,
    };
    Ok(Described {
        tool_id: id,
        title: manifest.title(),
        name: manifest.name,
        description: manifest.description,
        parameters: manifest.parameters,
        output_schema: manifest.output_schema,
        annotations,
        examples: manifest.examples,
        metadata: manifest.metadata,
        limits: manifest.limits,
        version,
        hash,
        upstream,
    })
}

/// What to search for.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Search {
    /// What the tool should do, in a few words
    #[schemars(length(min = 1, max = 1000))]
    query: String,
    /// How many at most
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 50))]
    limit: u32,
}

const fn ten() -> u32 {
    10
}

/// What was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Hits {
    /// Best first
    hits: Vec<Hit>,
}

/// A tool that was found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Hit {
    /// What it is called by
    name: String,
    /// For people
    title: String,
    /// When to use it
    description: String,
    /// How well it fits, at most 1
    score: f64,
}

pub(super) async fn search(ctx: Ctx, input: Search, tools: Tools) -> Result<Hits> {
    let asked = words::of(&input.query);
    let vector = embed(&asked);
    let stems: Vec<String> = words::asked(&asked)
        .into_iter()
        .map(|word| words::stem(&word.text))
        .collect();
    let mut all = ctx.read(|_, tx| store::meanings(tx)).await?;
    let common = tools.common(&ctx).map(|tool| &tool.made.manifest);
    all.extend(common.map(|manifest| (manifest.name.clone(), meaning(manifest))));
    let all = all.into_iter().filter(|(name, _)| may_call(&ctx, name));
    let scored = all.map(|(name, meaning)| (score(&stems, vector.as_ref(), meaning), name));
    let mut scored: Vec<(f64, String)> = scored.filter(|(score, _)| *score >= RELEVANT).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.truncate(usize::try_from(input.limit).unwrap_or(usize::MAX));
    let mut hits = Vec::new();
    for (score, name) in scored {
        if let Some(tool) = tools.find(&ctx, &name).await? {
            hits.push(Hit {
                title: tool.made.manifest.title(),
                description: tool.made.manifest.description.clone(),
                name,
                score: (score * 1_000.0).round() / 1_000.0,
            });
        }
    }
    Ok(Hits { hits })
}

/// How well a tool fits: the share of the words that it has, or how near its meaning is.
fn score(stems: &[String], vector: Option<&Vector>, meaning: store::Meaning) -> f64 {
    let own: Vec<&str> = meaning.0.split(' ').collect();
    let found = stems
        .iter()
        .filter(|stem| own.contains(&stem.as_str()))
        .count();
    #[expect(clippy::cast_precision_loss, reason = "a few words")]
    let share = found as f64 / stems.len().max(1) as f64;
    let own = meaning.1.and_then(|bytes| Vector::from_bytes(&bytes));
    let near = match (vector, &own) {
        (Some(asked), Some(own)) => asked.cosine(own).into(),
        _ => 0.0,
    };
    0.5_f64.mul_add(share, 0.5 * near).max(share * 0.9)
}
