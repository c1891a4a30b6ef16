//! Tools: the catalogue's operations as MCP shows and calls them.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, EmbeddedResource,
    Resource, ResourceContents, Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::json;

use super::session::icon;
use super::{handles, log};
use crate::app::{App, shutting_down};
use crate::caller::Level;
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::Error;
use crate::handles::Started;
use crate::op::{Block, Body, Document, Effect, Op, Output};
use crate::rounds::{self, Request, Turn};

/// All operations as tools, in the catalogue's order.
pub(super) fn project(catalog: &Catalog) -> Vec<Tool> {
    catalog.ops().iter().map(tool).collect()
}

fn tool(op: &Op) -> Tool {
    let mut annotations = ToolAnnotations::new();
    annotations.title = Some(op.title.to_owned());
    annotations.read_only_hint = Some(op.effect == Effect::ReadOnly);
    annotations.destructive_hint = Some(op.effect == Effect::Destructive);
    annotations.idempotent_hint = Some(op.idempotent);
    annotations.open_world_hint = Some(false);
    let tool = Tool::new(op.name, op.description, Arc::new(op.input_schema.clone()))
        .with_title(op.title)
        .with_icons(vec![icon()])
        .with_annotations(annotations);
    if op.output_schema.is_empty() {
        return tool;
    }
    tool.with_raw_output_schema(Arc::new(op.output_schema.clone()))
}

/// Calls a tool. What it refuses is a result that the model can read and act on, not an error of the protocol.
pub(super) async fn call(
    app: &App,
    ctx: Ctx,
    request: CallToolRequestParams,
    (cx, log_from): (&RequestContext<RoleServer>, Option<Level>),
) -> Result<CallToolResponse, ErrorData> {
    let (catalog, name) = (&app.catalog, &*request.name);
    let Some(op) = catalog.op(name) else {
        return Err(ErrorData::invalid_params(
            format!("there is no tool {name:?}"),
            None,
        ));
    };
    let input = request.arguments.unwrap_or_default();
    let follows = handles::follows(op, cx);
    if op.is_long() && !follows {
        return Err(handles::too_long());
    }
    let round = Request {
        method: "tools/call",
        name,
        arguments: &input,
        responses: request.input_responses,
        state: request.request_state,
        log_from,
    };
    let work = async |ctx: Ctx| {
        if follows {
            return handles::begin(&ctx, op, input.clone(), cx).await;
        }
        let output = catalog.answer(ctx, name, input.clone()).await;
        output.map(Started::Done)
    };
    let called = Box::pin(rounds::take(ctx, cx, round, work));
    let turn = tokio::select! {
        biased;
        turn = called => turn?,
        () = cx.ct.cancelled() => Turn::Over(Err(cancelled(app))),
        error = app.last_call() => Turn::Over(Err(error)),
    };
    Ok(match turn {
        Turn::Over(Ok(started)) => handles::response(started)?,
        Turn::Over(Err(error)) => refusal(&error).into(),
        Turn::Asks(questions) => questions.into(),
    })
}

/// What a tool answered, as a result.
pub(super) fn result(output: Output) -> CallToolResult {
    let mut content: Vec<ContentBlock> = output.content.into_iter().map(block).collect();
    if let (true, Some(structured)) = (content.is_empty(), &output.structured) {
        content.push(ContentBlock::text(structured.to_string()));
    }
    let mut result = CallToolResult::success(content);
    result.is_error = Some(output.is_error);
    result.structured_content = output.structured;
    result
}

/// A piece of content in rmcp's words.
pub(super) fn block(block: Block) -> ContentBlock {
    match block {
        Block::Text { text } => ContentBlock::text(text),
        Block::Image { data, mime_type } => ContentBlock::image(data, mime_type),
        Block::Audio { data, mime_type } => ContentBlock::audio(data, mime_type),
        Block::Resource { resource } => {
            ContentBlock::Resource(EmbeddedResource::new(contents(resource)))
        }
        Block::ResourceLink {
            uri,
            name,
            mime_type,
        } => {
            let mut link = Resource::new(uri, name);
            link.mime_type = mime_type;
            ContentBlock::ResourceLink(link)
        }
    }
}

/// A document in rmcp's words.
pub(super) fn contents(document: Document) -> ResourceContents {
    match document.body {
        Body::Text(text) => ResourceContents::text(text, document.uri),
        Body::Blob(blob) => ResourceContents::blob(blob, document.uri),
    }
    .with_mime_type(document.mime_type)
}

/// Nobody reads this answer, since a cancelled request gets none, unless it is the server that stops.
fn cancelled(app: &App) -> Error {
    if app.stopping().is_cancelled() {
        return shutting_down();
    }
    Error::new(
        crate::error::Kind::Cancelled,
        "cancelled",
        "the call was cancelled",
    )
}

/// What was refused, as a result.
pub(super) fn refusal(error: &Error) -> CallToolResult {
    log(error);
    CallToolResult::error(vec![ContentBlock::text(
        json!({"error": error.body()}).to_string(),
    )])
}
