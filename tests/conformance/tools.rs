//! Tools that answer by themselves: content of every kind, progress, log messages, changed lists.

use std::time::Duration;

use baton::caller::{Level, Progress};
use baton::ctx::Ctx;
use baton::error::Result;
use baton::events;
use baton::op::{Block, Body, Document, Op, Output, Permission};
use serde_json::{Map, Value, json};

use super::{PROMPTS_CHANGED, TOOLS_CHANGED};

/// A red pixel.
pub(crate) const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
/// Silence.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=";
/// Between two steps of a tool that takes its time.
const STEP: Duration = Duration::from_millis(50);

/// A tool of the suite.
pub(crate) fn tool<F>(
    name: &'static str,
    about: &'static str,
    properties: Value,
    run: impl Fn(Ctx, Value) -> F + Send + Sync + 'static,
) -> Op
where
    F: Future<Output = Result<Output>> + Send + 'static,
{
    let mut schema = json!({"type": "object", "properties": properties});
    if let Some(properties) = properties.as_object().filter(|fields| !fields.is_empty()) {
        schema["required"] = properties.keys().cloned().collect();
    }
    let Value::Object(schema) = schema else {
        unreachable!("made as an object")
    };
    Op::tool(name, Permission::Read, schema, run).about(name, about)
}

fn fixed(name: &'static str, about: &'static str, reply: fn() -> Output) -> Op {
    tool(
        name,
        about,
        json!({}),
        move |_, _| async move { Ok(reply()) },
    )
}

pub(crate) fn operations() -> Vec<Op> {
    let mut operations = content();
    operations.extend(talking());
    operations.extend([
        tool(
            "test_custom_header",
            "Takes a value that a header repeats",
            json!({"value": {"type": "string", "x-mcp-header": "Value"}}),
            |_, input| async move { Ok(Output::text(format!("value: {}", input["value"]))) },
        ),
        Op::tool(
            "json_schema_2020_12_tool",
            Permission::Read,
            schema_2020_12(),
            |_, input| async move { Ok(Output::text(input.to_string())) },
        )
        .about("JSON Schema", "Tool with JSON Schema 2020-12 features"),
    ]);
    operations
}

fn content() -> Vec<Op> {
    vec![
        fixed("test_simple_text", "Returns a text", || {
            Output::text("This is a simple text response for testing.")
        }),
        fixed("test_image_content", "Returns a picture", || {
            Output::of([image()])
        }),
        fixed("test_audio_content", "Returns a sound", || {
            Output::of([Block::Audio {
                data: WAV.into(),
                mime_type: "audio/wav".into(),
            }])
        }),
        fixed("test_embedded_resource", "Returns a document", || {
            let text = "This is an embedded resource content.";
            Output::of([document("test://embedded-resource", "text/plain", text)])
        }),
        fixed(
            "test_multiple_content_types",
            "Returns blocks of several kinds",
            || {
                let text = r#"{"test":"data","value":123}"#;
                let uri = "test://mixed-content-resource";
                Output::of([
                    Block::text("Multiple content types test:"),
                    image(),
                    document(uri, "application/json", text),
                ])
            },
        ),
        fixed("test_error_handling", "Fails", || {
            Output::error("This tool intentionally returns an error for testing")
        }),
    ]
}

fn image() -> Block {
    Block::Image {
        data: PNG.into(),
        mime_type: "image/png".into(),
    }
}

/// A document as a block.
pub(crate) fn document(uri: &str, mime_type: &str, text: &str) -> Block {
    Block::Resource {
        resource: Document {
            uri: uri.into(),
            mime_type: mime_type.into(),
            body: Body::Text(text.into()),
        },
    }
}

fn talking() -> Vec<Op> {
    vec![
        tool(
            "test_tool_with_progress",
            "Tells how far it is",
            json!({}),
            |ctx, _| async move {
                for progress in [0.0, 50.0, 100.0] {
                    ctx.report_progress(Progress {
                        progress,
                        total: Some(100.0),
                        message: None,
                    });
                    tokio::time::sleep(STEP).await;
                }
                Ok(Output::text("Three steps were taken."))
            },
        ),
        tool(
            "test_tool_with_logging",
            "Writes to the log",
            json!({}),
            log_three,
        ),
        tool(
            "test_logging_tool",
            "Writes to the log of whoever wants one",
            json!({}),
            log_three,
        ),
        tool(
            "test_reconnection",
            "Takes its time",
            json!({}),
            |_, _| async move {
                tokio::time::sleep(STEP).await;
                Ok(Output::text("Reconnected, if need be."))
            },
        ),
        tool(
            "test_trigger_tool_change",
            "Changes the list of tools",
            json!({}),
            |ctx, _| change(ctx, TOOLS_CHANGED),
        ),
        tool(
            "test_trigger_prompt_change",
            "Changes the list of prompts",
            json!({}),
            |ctx, _| change(ctx, PROMPTS_CHANGED),
        ),
    ]
}

async fn log_three(ctx: Ctx, _: Value) -> Result<Output> {
    let steps = [
        "Tool execution started",
        "Tool processing data",
        "Tool execution completed",
    ];
    for step in steps {
        ctx.log(Level::Info, step);
        tokio::time::sleep(STEP).await;
    }
    Ok(Output::text("Three messages were written."))
}

async fn change(ctx: Ctx, kind: &'static str) -> Result<Output> {
    ctx.write(move |scope, tx| events::append(scope, tx, kind, "list", &json!({})))
        .await?;
    Ok(Output::text("The list has changed."))
}

fn schema_2020_12() -> Map<String, Value> {
    let address = json!({
        "$anchor": "addressDef",
        "type": "object",
        "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
    });
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": address},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    });
    match schema {
        Value::Object(schema) => schema,
        _ => unreachable!("made as an object"),
    }
}
