//! Resources, prompts and completion: the catalogue's declarations as MCP shows them.

use rmcp::model::{
    Annotations, CompleteRequestParams, CompleteResult, CompletionInfo, GetPromptRequestParams,
    GetPromptResponse, GetPromptResult, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, PaginatedRequestParams, Prompt, PromptArgument, PromptMessage,
    ReadResourceResponse, ReadResourceResult, Reference, Resource, ResourceTemplate, Role,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};

use super::protocol_error;
use super::session::icon;
use super::tools::{block, contents};
use crate::catalog::{self, Catalog, unknown_prompt};
use crate::ctx::Ctx;
use crate::error::Kind;
use crate::op::{Document, Speaker, Values};
use crate::page::Position;
use crate::rounds::{self, Request, Turn};

/// Resources on a page.
const PAGE: u32 = 100;
/// Tools, prompts or templates on a page.
pub(super) const FEW: usize = 100;

/// The page of `all` that a cursor leads to, and the cursor that leads on. Cursors of one list are none of another.
pub(super) async fn page<T: Clone>(
    ctx: &Ctx,
    list: &'static str,
    all: &[T],
    (request, size): (Option<PaginatedRequestParams>, usize),
) -> Result<(Vec<T>, Option<String>), ErrorData> {
    let cursor = request.and_then(|request| request.cursor);
    if cursor.is_none() && all.len() <= size {
        return Ok((all.to_vec(), None));
    }
    let seal = ctx.read(move |_, tx| tx.seal(list)).await;
    let seal = seal.map_err(|error| protocol_error(&error))?;
    let first = match cursor {
        None => 0,
        Some(cursor) => {
            let position = seal.open(&cursor).map_err(|error| protocol_error(&error))?;
            usize::try_from(position.key).unwrap_or(usize::MAX)
        }
    };
    // A list may have become shorter.
    let first = first.min(all.len());
    let end = all.len().min(first.saturating_add(size));
    let next = (end < all.len()).then(|| Position {
        key: i64::try_from(end).unwrap_or(i64::MAX),
        id: String::new(),
    });
    Ok((all[first..end].to_vec(), next.map(|next| seal.close(&next))))
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
                .with_icons(vec![icon()])
                .with_annotations(annotations())
        })
        .collect();
    let mut result = ListResourcesResult::with_all_items(resources);
    result.next_cursor = next;
    Ok(result)
}

/// Whom resources are for, as far as it is the same for all.
fn annotations() -> Annotations {
    Annotations::default().with_audience(vec![Role::User, Role::Assistant])
}

pub(super) async fn list_templates(
    catalog: &Catalog,
    ctx: &Ctx,
    request: Option<PaginatedRequestParams>,
) -> Result<ListResourceTemplatesResult, ErrorData> {
    let kinds = catalog.resources().iter();
    let templates: Vec<_> = kinds
        .filter(|kind| kind.template.contains('{') && catalog::is_open(ctx, kind))
        .map(|kind| {
            ResourceTemplate::new(kind.template, kind.name)
                .with_title(kind.title)
                .with_description(kind.description)
                .with_mime_type(kind.mime_type)
                .with_icons(vec![icon()])
                .with_annotations(annotations())
        })
        .collect();
    let (templates, next) =
        page(ctx, "resources/templates/list", &templates, (request, FEW)).await?;
    let mut result = ListResourceTemplatesResult::with_all_items(templates);
    result.next_cursor = next;
    Ok(result)
}

pub(super) async fn read(
    catalog: &Catalog,
    ctx: &Ctx,
    uri: &str,
    legacy: bool,
) -> Result<ReadResourceResponse, ErrorData> {
    match catalog.read(ctx, uri).await {
        Ok(content) => {
            let document = Document {
                uri: uri.to_owned(),
                mime_type: content.mime_type.to_owned(),
                body: content.body,
            };
            Ok(ReadResourceResult::new(vec![contents(document)]).into())
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

pub(super) async fn list_prompts(
    catalog: &Catalog,
    ctx: &Ctx,
    request: Option<PaginatedRequestParams>,
) -> Result<ListPromptsResult, ErrorData> {
    let prompts: Vec<_> = catalog
        .prompts()
        .iter()
        .map(|prompt| {
            let arguments = prompt
                .arguments
                .iter()
                .map(|argument| {
                    PromptArgument::new(argument.name)
                        .with_title(argument.title)
                        .with_description(argument.description)
                        .with_required(argument.required)
                })
                .collect();
            Prompt::new(prompt.name, Some(prompt.description), Some(arguments))
                .with_title(prompt.title)
                .with_icons(vec![icon()])
        })
        .collect();
    let (prompts, next) = page(ctx, "prompts/list", &prompts, (request, FEW)).await?;
    let mut result = ListPromptsResult::with_all_items(prompts);
    result.next_cursor = next;
    Ok(result)
}

pub(super) async fn get_prompt(
    catalog: &Catalog,
    ctx: Ctx,
    request: GetPromptRequestParams,
    cx: &RequestContext<RoleServer>,
) -> Result<GetPromptResponse, ErrorData> {
    let prompt = catalog
        .prompt(&request.name)
        .ok_or_else(|| protocol_error(&unknown_prompt(&request.name)))?;
    let arguments = request.arguments.unwrap_or_default();
    if let Some((name, _)) = arguments.iter().find(|(_, value)| !value.is_string()) {
        let message = format!("/arguments/{name}: must be a string");
        return Err(ErrorData::invalid_params(message, None));
    }
    let values = arguments.iter().filter_map(|(name, value)| {
        let value = value.as_str()?;
        Some((name.clone(), value.to_owned()))
    });
    let values: Values = values.collect();
    if let Some(missing) = prompt
        .arguments
        .iter()
        .find(|argument| argument.required && !values.contains_key(argument.name))
    {
        let message = format!(
            "/arguments/{}: missing; {}",
            missing.name, missing.description
        );
        return Err(ErrorData::invalid_params(message, None));
    }
    let round = Request {
        method: "prompts/get",
        name: prompt.name,
        arguments: &arguments,
        responses: request.input_responses,
        state: request.request_state,
        log_from: None,
    };
    let turn = rounds::take(ctx, cx, round, async |ctx| {
        prompt.messages(ctx, values).await
    });
    let messages = match turn.await? {
        Turn::Over(messages) => messages.map_err(|error| protocol_error(&error))?,
        Turn::Asks(questions) => return Ok(questions.into()),
    };
    let messages = messages.into_iter().map(|message| {
        let role = match message.from {
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
        };
        PromptMessage::new(role, block(message.block))
    });
    let mut result = GetPromptResult::new(messages.collect());
    result.description = Some(prompt.description.to_owned());
    Ok(result.into())
}

pub(super) async fn complete(
    catalog: &Catalog,
    ctx: &Ctx,
    request: &CompleteRequestParams,
) -> Result<CompleteResult, ErrorData> {
    let argument = &request.argument;
    let found = match &request.r#ref {
        Reference::Resource(template) => {
            let settled = request.context.as_ref();
            let settled = settled.and_then(|context| context.arguments.clone());
            let settled = settled.unwrap_or_default().into_iter().collect();
            let typed = (argument.name.as_str(), argument.value.as_str());
            let found = catalog.complete(ctx, &template.uri, typed, settled).await;
            found.map_err(|error| protocol_error(&error))?
        }
        Reference::Prompt(prompt) => catalog
            .complete_argument(ctx, &prompt.name, &argument.name, &argument.value)
            .await
            .map_err(|error| protocol_error(&error))?,
        _ => return Ok(CompleteResult::default()),
    };
    let info = CompletionInfo::with_pagination(found.values, None, found.has_more)
        .map_err(|error| ErrorData::internal_error(error, None::<Value>))?;
    Ok(CompleteResult::new(info))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::App;

    #[tokio::test]
    async fn pages_follow_each_other_and_foreign_cursors_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::on(folder.path());
        let ctx = |tenant: &str| app.system.ctx(tenant.parse().unwrap(), "test");
        let (acme, globex) = (ctx("acme"), ctx("globex"));
        let all = [1, 2, 3, 4, 5];
        let at = async |ctx: &Ctx, list, cursor: Option<&str>| {
            let cursor = cursor.map(str::to_owned);
            let request = PaginatedRequestParams::default().with_cursor(cursor);
            page(ctx, list, &all, (Some(request), 2)).await
        };
        let (first, next) = at(&acme, "tools/list", None).await.unwrap();
        let (second, last) = at(&acme, "tools/list", next.as_deref()).await.unwrap();
        let (third, end) = at(&acme, "tools/list", last.as_deref()).await.unwrap();
        assert_eq!(
            (first, second, third, end),
            (vec![1, 2], vec![3, 4], vec![5], None)
        );
        for (ctx, list, cursor) in [
            (&acme, "prompts/list", next.as_deref()),
            (&globex, "tools/list", next.as_deref()),
            (&acme, "tools/list", Some("")),
            (&acme, "tools/list", Some("x")),
        ] {
            let refused = at(ctx, list, cursor).await.unwrap_err();
            assert_eq!(refused.code.0, -32602, "{list} {cursor:?}");
        }
    }
}
