//! Resources, prompts and completion: the catalogue's declarations as MCP shows them.

use rmcp::ErrorData;
use rmcp::model::{
    CompleteRequestParams, CompleteResult, CompletionInfo, GetPromptRequestParams,
    GetPromptResponse, GetPromptResult, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, PaginatedRequestParams, Prompt, PromptArgument, PromptMessage,
    ReadResourceResponse, ReadResourceResult, Reference, Resource, ResourceContents,
    ResourceTemplate, Role,
};
use serde_json::{Value, json};

use super::protocol_error;
use crate::catalog::{self, Catalog};
use crate::ctx::Ctx;
use crate::error::Kind;

/// Resources on a page.
const PAGE: u32 = 100;

/// Lists that fit one page know no cursor.
pub(super) fn no_cursor(request: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor) {
        None => Ok(()),
        Some(_) => Err(ErrorData::invalid_params(
            "cursor: this list has one page; ask without a cursor",
            None,
        )),
    }
}

pub(super) async fn list_resources(
    catalog: &Catalog,
    ctx: &Ctx,
    request: Option<PaginatedRequestParams>,
) -> Result<ListResourcesResult, ErrorData> {
    let cursor = request.and_then(|request| request.cursor);
    let (items, next) = catalog
        .list(ctx, cursor.as_deref(), PAGE)
        .await
        .map_err(|error| protocol_error(&error))?;
    let resources = items
        .into_iter()
        .map(|(kind, item)| {
            let name = item.uri.rsplit('/').next().unwrap_or(kind.name).to_owned();
            Resource::new(item.uri, name)
                .with_title(item.title)
                .with_description(kind.description)
                .with_mime_type(kind.mime_type)
        })
        .collect();
    let mut result = ListResourcesResult::with_all_items(resources);
    result.next_cursor = next;
    Ok(result)
}

pub(super) fn list_templates(catalog: &Catalog, ctx: &Ctx) -> ListResourceTemplatesResult {
    let templates = catalog
        .resources()
        .iter()
        .filter(|kind| catalog::is_open(ctx, kind))
        .map(|kind| {
            ResourceTemplate::new(kind.template, kind.name)
                .with_title(kind.title)
                .with_description(kind.description)
                .with_mime_type(kind.mime_type)
        })
        .collect();
    ListResourceTemplatesResult::with_all_items(templates)
}

pub(super) async fn read(
    catalog: &Catalog,
    ctx: &Ctx,
    uri: &str,
    legacy: bool,
) -> Result<ReadResourceResponse, ErrorData> {
    match catalog.read(ctx, uri).await {
        Ok(content) => {
            let contents =
                ResourceContents::text(content.text, uri).with_mime_type(content.mime_type);
            Ok(ReadResourceResult::new(vec![contents]).into())
        }
        Err(error) if error.kind() == Kind::NotFound => Err(unknown(uri, legacy)),
        Err(error) => Err(protocol_error(&error)),
    }
}

/// The code moved from -32002 to -32602 with 2026-07-28.
fn unknown(uri: &str, legacy: bool) -> ErrorData {
    let (message, data) = (
        format!("there is no resource {uri:?}"),
        Some(json!({"uri": uri})),
    );
    if legacy {
        ErrorData::resource_not_found(message, data)
    } else {
        ErrorData::invalid_params(message, data)
    }
}

/// A subscription to what can never exist is a mistake; one to what does not exist yet is not.
pub(super) fn check_uri(catalog: &Catalog, ctx: &Ctx, uri: &str) -> Result<(), ErrorData> {
    catalog
        .check_uri(ctx, uri)
        .map_err(|error| match error.kind() {
            Kind::NotFound => unknown(uri, true),
            _ => protocol_error(&error),
        })
}

pub(super) fn list_prompts(catalog: &Catalog) -> ListPromptsResult {
    let prompts = catalog
        .prompts()
        .iter()
        .map(|prompt| {
            let arguments = prompt
                .arguments
                .iter()
                .map(|argument| {
                    PromptArgument::new(argument.name)
                        .with_description(argument.description)
                        .with_required(argument.required)
                })
                .collect();
            Prompt::new(prompt.name, Some(prompt.description), Some(arguments))
                .with_title(prompt.title)
        })
        .collect();
    ListPromptsResult::with_all_items(prompts)
}

pub(super) fn get_prompt(
    catalog: &Catalog,
    request: &GetPromptRequestParams,
) -> Result<GetPromptResponse, ErrorData> {
    let prompt = catalog.prompt(&request.name).ok_or_else(|| {
        ErrorData::invalid_params(format!("there is no prompt {:?}", request.name), None)
    })?;
    let value_of = |name: &str| {
        let value = request.arguments.as_ref()?.get(name)?;
        value.as_str().map(str::to_owned)
    };
    if let Some(missing) = prompt
        .arguments
        .iter()
        .find(|argument| argument.required && value_of(argument.name).is_none())
    {
        let message = format!(
            "/arguments/{}: missing; {}",
            missing.name, missing.description
        );
        return Err(ErrorData::invalid_params(message, None));
    }
    let mut result = GetPromptResult::new(vec![PromptMessage::new_text(
        Role::User,
        prompt.render(value_of),
    )]);
    result.description = Some(prompt.description.to_owned());
    Ok(result.into())
}

pub(super) async fn complete(
    catalog: &Catalog,
    ctx: &Ctx,
    request: &CompleteRequestParams,
) -> Result<CompleteResult, ErrorData> {
    let argument = &request.argument;
    let values = match &request.r#ref {
        Reference::Resource(template) => catalog
            .complete(ctx, &template.uri, &argument.name, &argument.value)
            .await
            .map_err(|error| protocol_error(&error))?,
        Reference::Prompt(prompt) => {
            catalog.prompt(&prompt.name).ok_or_else(|| {
                ErrorData::invalid_params(format!("there is no prompt {:?}", prompt.name), None)
            })?;
            // The arguments of our prompts are free text, of which nothing is known.
            Vec::new()
        }
        _ => Vec::new(),
    };
    let info = CompletionInfo::new(values)
        .map_err(|error| ErrorData::internal_error(error, None::<Value>))?;
    Ok(CompleteResult::new(info))
}
