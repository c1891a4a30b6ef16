//! What another server says, in our words: results of calls as outputs, and what it says of a tool. A tenant's secrets that
//! it repeats are taken out.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rmcp::model::{CallToolResult, Tool};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result};
use crate::op::{Block, Output};
use crate::secret::Secret;

/// What stands in the place of a secret.
const HIDDEN: &str = "[secret]";

/// What a server says of a tool.
#[derive(Debug, Clone)]
pub struct Definition {
    /// For people.
    pub title: Option<String>,
    /// When to use it.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Map<String, Value>,
    /// JSON Schema of what it answers.
    pub output_schema: Option<Map<String, Value>>,
    /// What a call does to the world.
    pub annotations: Value,
    /// The hash of all of it.
    pub hash: String,
}

impl Definition {
    pub(super) fn of(tool: &Tool) -> Self {
        let annotations = tool.annotations.as_ref();
        let titled = annotations.and_then(|annotations| annotations.title.clone());
        let output = tool.output_schema.as_ref();
        Self {
            title: tool.title.clone().or(titled),
            description: tool.description.clone().unwrap_or_default().into_owned(),
            parameters: plain(&tool.input_schema),
            output_schema: output.map(|schema| plain(schema)),
            annotations: json!(annotations),
            hash: hash_of(tool),
        }
    }
}

/// A schema without what says which language it is in: ours is one alone.
fn plain(schema: &Map<String, Value>) -> Map<String, Value> {
    let mut schema = schema.clone();
    schema.remove("$schema");
    schema
}

/// The hash of what models and callers go by. Members come in the order of their names.
pub(super) fn hash_of(tool: &Tool) -> String {
    let text = json!([
        tool.name,
        tool.title,
        tool.description,
        tool.input_schema,
        tool.output_schema,
        tool.annotations
    ]);
    URL_SAFE_NO_PAD.encode(Sha256::digest(text.to_string().as_bytes()))
}

/// The result of a call.
///
/// # Errors
/// `remote_error` for one that is none.
pub(super) fn output(result: CallToolResult, secrets: &[Secret]) -> Result<Output> {
    let is_error = result.is_error == Some(true);
    let said = json!({"content": result.content, "structured": result.structured_content});
    let said = without(said.to_string(), secrets);
    let mut said: Value = serde_json::from_str(&said).map_err(|error| {
        let message = "what it answered can't be read without the secret in it";
        Error::new(Kind::Unavailable, "remote_error", message).with_source(error)
    })?;
    let blocks = said["content"].take();
    let blocks = blocks.as_array().cloned().unwrap_or_default();
    let structured = said["structured"].take();
    let is_there = result.structured_content.is_some();
    Ok(Output {
        content: blocks.into_iter().map(block).collect(),
        structured: is_there.then(|| structured.into()),
        is_error,
    })
}

/// A block as ours. Documents whose type is not said are what they look like.
fn block(mut given: Value) -> Block {
    if let Some(resource) = given.get_mut("resource").and_then(Value::as_object_mut) {
        let usual = if resource.contains_key("text") {
            "text/plain"
        } else {
            "application/octet-stream"
        };
        resource.entry("mimeType").or_insert(usual.into());
    }
    let kind = given["type"].as_str().unwrap_or("nothing").to_owned();
    serde_json::from_value(given).unwrap_or_else(|_| Block::text(format!("[{kind}]")))
}

/// The text, perhaps JSON, without the secrets that its server was told.
pub(super) fn without(text: String, secrets: &[Secret]) -> String {
    let told = secrets.iter().map(Secret::reveal);
    told.filter(|secret| !secret.is_empty())
        .fold(text, |text, secret| {
            let quoted = Value::from(secret).to_string();
            let within = quoted.trim_matches('"');
            if text.contains(secret) || text.contains(within) {
                text.replace(within, HIDDEN).replace(secret, HIDDEN)
            } else {
                text
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(given: Value) -> CallToolResult {
        serde_json::from_value(given).unwrap()
    }

    #[test]
    fn results_pass_through() {
        let output = output(
            result(json!({
                "content": [
                    {"type": "text", "text": "hello", "annotations": {"priority": 1.0}},
                    {"type": "image", "data": "aGk=", "mimeType": "image/png"},
                    {"type": "resource", "resource": {"uri": "a://b", "text": "x"}},
                    {"type": "resource_link", "uri": "a://c", "name": "c"},
                ],
                "structuredContent": {"a": 1}, "isError": true,
            })),
            &[],
        );
        let output = output.unwrap();
        assert_eq!((output.content.len(), output.is_error), (4, true));
        assert_eq!(output.structured, Some(json!({"a": 1}).into()));
        assert_eq!(output.content[0], Block::text("hello"));
        let shown = json!(output.content[2]);
        assert_eq!(shown["resource"]["mimeType"], "text/plain");
    }

    #[test]
    fn what_was_told_is_not_told_on() {
        let secrets = [
            Secret::from("k\"ey\\1".to_owned()),
            Secret::from(String::new()),
        ];
        let told = result(json!({
            "content": [{"type": "text", "text": "your key is k\"ey\\1, really"}],
            "structuredContent": {"key": "k\"ey\\1"},
        }));
        let output = output(told, &secrets).unwrap();
        assert_eq!(
            output.content[0],
            Block::text("your key is [secret], really")
        );
        assert_eq!(output.structured, Some(json!({"key": "[secret]"}).into()));
    }
}
