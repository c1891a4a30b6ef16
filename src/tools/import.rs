//! Tools before they are there: dry calls, and operations of other APIs that become tools.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{Changed, Draft, add, the_version};
use super::manifest::{Compiled, Manifest};
use super::{Tools, find};
use crate::apis::{self, Wanted};
use crate::ctx::Ctx;
use crate::error::{Error, Kind, Result};
use crate::op::{self, below};
use crate::outbound::{Bounds, Request};

/// Tools that one document becomes at most.
const TOOLS: usize = 100;
/// Time and bytes to read a document in.
const DOCUMENT: Bounds = Bounds {
    time: Duration::from_secs(20),
    bytes: 4 << 20,
    redirects: 5,
};

/// A dry call.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Test {
    /// The tool: its id or name
    #[schemars(length(min = 1, max = 128))]
    tool_id: Option<String>,
    /// Which version of it; the newest if not said
    #[schemars(range(min = 1))]
    version: Option<i64>,
    /// A manifest that is not kept yet, instead of a tool
    manifest: Option<Map<String, Value>>,
    /// The arguments
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// What a call would do.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Tested {
    /// What it is called by
    name: String,
    /// The type of its implementation
    implementation: String,
    /// The arguments, with defaults
    arguments: Map<String, Value>,
    /// What would be done with them
    request: Map<String, Value>,
}

pub(super) async fn test(ctx: Ctx, input: Test, tools: Tools) -> Result<Tested> {
    let (text, place) = match (input.manifest, input.tool_id) {
        (Some(manifest), None) => (Value::Object(manifest), "/manifest"),
        (None, Some(id)) => {
            let number = input.version;
            let read = ctx.read(move |_, tx| {
                let tool = find(tx, &id)?;
                the_version(tx, &tool, number.unwrap_or(tool.newest))
            });
            let text = read.await?.manifest;
            (serde_json::from_str(&text).map_err(Error::internal)?, "")
        }
        _ => {
            let message = "name a tool, or give a manifest";
            return Err(Error::invalid_at("/tool_id", message));
        }
    };
    let made = Manifest::read(&text).and_then(|manifest| {
        tools.check_name(&manifest.name)?;
        Compiled::of(manifest)
    });
    let made = made.map_err(|error| below(error, place))?;
    let at = |error| below(error, "/arguments");
    let arguments = made.input(input.arguments).map_err(at)?;
    let request = made.shown(&arguments).map_err(at)?;
    Ok(Tested {
        name: made.manifest.name.clone(),
        implementation: made.implementation.kind().to_owned(),
        arguments,
        request: op::parse(&request)?,
    })
}

/// What to import.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Import {
    /// Where the document is: OpenAPI 3.0 or 3.1, as JSON
    #[schemars(length(max = 2000))]
    url: Option<String>,
    /// The document itself, instead
    document: Option<Map<String, Value>>,
    /// The operations that become tools: an `operationId`, or such as `GET /pets`; all of them if not said
    #[serde(default)]
    #[schemars(length(max = 100), inner(length(min = 1, max = 200)))]
    operations: Vec<String>,
    /// What the tools' names begin with
    #[serde(default)]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]{0,20}$"))]
    prefix: String,
    /// The URL of the API, instead of what the document says
    #[schemars(length(max = 2000))]
    server: Option<String>,
    /// How calls prove who they are: the auth of an http implementation
    auth: Option<Map<String, Value>>,
    /// True to see what would be made, and make nothing
    #[serde(default)]
    dry_run: bool,
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Imported {
    /// The tools that were made, or would be
    tools: Vec<Made>,
    /// The operations that can't be tools
    skipped: Vec<Skipped>,
}

/// A tool that was made of an operation.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Made {
    /// What it is called by
    name: String,
    /// When to use it
    description: String,
    /// The tool, if it was made
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<Changed>,
}

/// An operation that can't be a tool.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Skipped {
    /// The operation
    operation: String,
    /// Why
    reason: String,
}

pub(super) async fn import(ctx: Ctx, input: Import, tools: Tools) -> Result<Imported> {
    let document = match (input.document, input.url) {
        (Some(document), None) => Value::Object(document),
        (None, Some(url)) => fetch(&ctx, url).await?,
        _ => {
            let message = "give the url of a document, or the document";
            return Err(Error::invalid_at("/url", message));
        }
    };
    let wanted = Wanted {
        operations: input.operations,
        prefix: input.prefix,
        server: input.server,
    };
    let read = apis::read(&document, &wanted)?;
    if read.manifests.len() > TOOLS {
        let message = format!(
            "the document has {} operations, and {TOOLS} at most become tools at once: say which",
            read.manifests.len()
        );
        return Err(Error::invalid_at("/operations", message));
    }
    let skipped = read.skipped.into_iter();
    let mut skipped: Vec<Skipped> = skipped
        .map(|(operation, reason)| Skipped { operation, reason })
        .collect();
    let (mut drafts, mut made) = (Vec::new(), Vec::new());
    for mut manifest in read.manifests {
        if let Some(auth) = &input.auth {
            manifest["implementation"]["auth"] = auth.clone().into();
        }
        let operation = manifest["metadata"]["openapi"].clone();
        let draft = Manifest::read(&manifest.into()).and_then(|manifest| {
            let shown = (manifest.name.clone(), manifest.description.clone());
            Ok((shown, Draft::of(&tools, manifest)?))
        });
        match draft {
            Ok(((name, description), draft)) => {
                drafts.push(draft);
                made.push(Made {
                    name,
                    description,
                    made: None,
                });
            }
            Err(error) => skipped.push(Skipped {
                operation: operation.as_str().unwrap_or_default().to_owned(),
                reason: error.message().to_owned(),
            }),
        }
    }
    if !input.dry_run {
        let changed = ctx.write(move |scope, tx| {
            let all = drafts.iter().map(|draft| add(scope, tx, None, draft));
            all.collect::<Result<Vec<Changed>>>()
        });
        for (made, changed) in made.iter_mut().zip(changed.await?) {
            made.made = Some(changed);
        }
    }
    Ok(Imported {
        tools: made,
        skipped,
    })
}

/// The document at `url`.
async fn fetch(ctx: &Ctx, url: String) -> Result<Value> {
    let answer = ctx.outside().fetch(Request::get(url), &DOCUMENT).await?;
    if !answer.status.is_success() || answer.is_cut {
        let why = if answer.is_cut {
            format!("more than {} bytes", DOCUMENT.bytes)
        } else {
            answer.status.to_string()
        };
        let message = format!("/url: it answered {why}");
        return Err(Error::new(Kind::Unavailable, "remote_error", message));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| Error::invalid_at("/url", format!("there is no JSON: {error}")))
}
