//! Tools: the catalogue's operations as MCP shows and calls them.

use std::borrow::Cow;
use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, EmbeddedResource,
    JsonObject, ListToolsResult, MetaObject, PaginatedRequestParams, Resource, ResourceContents,
    Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::json;

use super::content::FEW;
use super::session::{Shared, icon};
use super::{handles, log, protocol_error};
use crate::app::{App, shutting_down};
use crate::caller::Level;
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::Error;
use crate::handles::Started;
use crate::op::{Block, Body, Document, Effect, Op, Output};
use crate::page::Position;
use crate::rounds::{self, Request, Turn};
use crate::tools::{called, may_call};

/// Whose cursors those of tools are.
const LIST: &str = "tools/list";
/// Where a tool says which manifest it is made of: `tool_call` can insist on it.
const HASH: &str = "dev.baton/hash";

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

/// What a tenant made, as a tool.
fn own(own: crate::tools::Tool) -> Tool {
    let manifest = &own.made.manifest;
    let said = own.made.annotations();
    let mut annotations = ToolAnnotations::new();
    annotations.title = Some(manifest.title());
    annotations.read_only_hint = said.read_only_hint;
    annotations.destructive_hint = said.destructive_hint;
    annotations.idempotent_hint = said.idempotent_hint;
    annotations.open_world_hint = said.open_world_hint;
    let parameters = Arc::new(manifest.parameters.clone());
    let mut tool = Tool::new(
        manifest.name.clone(),
        manifest.description.clone(),
        parameters,
    )
    .with_title(manifest.title())
    .with_icons(vec![icon()])
    .with_annotations(annotations);
    let mut meta = MetaObject::new();
    meta.insert(HASH.into(), own.hash.into());
    tool.meta = Some(meta);
    match &manifest.output_schema {
        None => tool,
        Some(schema) => tool.with_raw_output_schema(Arc::new(schema.clone())),
    }
}

/// A page of what the caller may call: the operations, the tools of all tenants, then what his tenant made, by name.
pub(super) async fn list(
    shared: &Shared,
    ctx: &Ctx,
    request: Option<PaginatedRequestParams>,
) -> Result<ListToolsResult, ErrorData> {
    let catalog = &shared.app.catalog;
    let failed = |error| protocol_error(&error);
    let ops = catalog.ops_for(ctx);
    let ops = ops.map(|(index, _)| Cow::Borrowed(&shared.tools[index]));
    let common = catalog.tools().common(ctx);
    let common = common.map(|tool| Cow::Owned(own(tool.clone())));
    let fixed: Vec<Cow<'_, Tool>> = ops.chain(common).collect();
    // A cursor's key counts those that were shown, its id is the last of what is the tenant's.
    let cursor = request.and_then(|request| request.cursor);
    let (first, after) = match cursor {
        None => (0, String::new()),
        Some(cursor) => {
            let seal = ctx.read(|_, tx| tx.seal(LIST)).await.map_err(failed)?;
            let position = seal.open(&cursor).map_err(failed)?;
            (
                usize::try_from(position.key).unwrap_or(usize::MAX),
                position.id,
            )
        }
    };
    let first = first.min(fixed.len());
    let end = fixed.len().min(first.saturating_add(FEW));
    let shown = fixed[first..end].iter().cloned();
    let mut shown: Vec<Tool> = shown.map(Cow::into_owned).collect();
    let mut next = (end < fixed.len()).then(String::new);
    if next.is_none() {
        let room = FEW - shown.len();
        let (own_ones, last) = catalog
            .tools()
            .page(ctx, &after, room)
            .await
            .map_err(failed)?;
        shown.extend(own_ones.into_iter().map(own));
        next = last.map(|last| if room == 0 { after } else { last });
    }
    let mut result = ListToolsResult::with_all_items(shown);
    if let Some(id) = next {
        let key = i64::try_from(end).unwrap_or(i64::MAX);
        let seal = ctx.read(|_, tx| tx.seal(LIST)).await.map_err(failed)?;
        result.next_cursor = Some(seal.close(&Position { key, id }));
    }
    Ok(result)
}

/// Calls a tool. What it refuses is a result that the model can read and act on, not an error of the protocol.
pub(super) async fn call(
    app: &App,
    ctx: Ctx,
    request: CallToolRequestParams,
    (cx, log_from): (&RequestContext<RoleServer>, Option<Level>),
) -> Result<CallToolResponse, ErrorData> {
    let catalog = &app.catalog;
    let (op, input) = meant(app, &ctx, &request.name, request.arguments).await?;
    let name = op.name;
    let follows = handles::knows(cx) && {
        let follows = catalog.follows(&ctx, op, &input).await;
        follows.map_err(|error| protocol_error(&error))?
    };
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

/// The operation that a call means, and its input: what a tenant made is called by one of them.
async fn meant<'a>(
    app: &'a App,
    ctx: &Ctx,
    name: &str,
    arguments: Option<JsonObject>,
) -> Result<(&'a Op, JsonObject), ErrorData> {
    let arguments = arguments.unwrap_or_default();
    if let Some(op) = app.catalog.op(name) {
        return Ok((op, arguments));
    }
    let found = app.catalog.tool(ctx, name).await;
    match found.map_err(|error| protocol_error(&error))? {
        Some((op, _)) if may_call(ctx, name) => Ok((op, called(name, arguments))),
        _ => {
            let message = format!("there is no tool {name:?}");
            Err(ErrorData::invalid_params(message, None))
        }
    }
}

/// What a tool answered, as a result.
pub(super) fn result(output: Output) -> CallToolResult {
    let mut content: Vec<ContentBlock> = output.content.into_iter().map(block).collect();
    if let (true, Some(structured)) = (content.is_empty(), &output.structured) {
        content.push(ContentBlock::text(structured.as_str()));
    }
    let mut result = CallToolResult::success(content);
    result.is_error = Some(output.is_error);
    match output.structured.map(|data| data.value()).transpose() {
        Ok(data) => result.structured_content = data,
        Err(error) => return refusal(&error),
    }
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
