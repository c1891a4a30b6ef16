//! What callers may do with resources, and how they are read over MCP: declarations.

use std::sync::Arc;

use serde_json::json;

use super::access::{Right, Who};
use super::reading::{self, Held, Read};
use super::register::{self, uri_of};
use super::{database, store};
use crate::ctx::{Ctx, Scope};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::op::{
    Body, Completer, Completing, Content, Item, Items, Op, Params, Permission, Reader, Reading,
    Resource, Typed,
};
use crate::page::Position;
use crate::store::Tx;

/// What callers may do with resources, and what can be read of them.
pub fn parts() -> (Vec<Op>, Vec<Resource>) {
    let held = Arc::new(Held::default());
    (operations(held.clone()), resources(&held))
}

fn operations(held: Arc<Held>) -> Vec<Op> {
    use Permission::{Consult, Register, Supply};
    let (to_write, to_query) = (held.clone(), held.clone());
    vec![
        Op::waiting("resource_register", Register, register::register)
            .about("Register a resource", "Give the tenant a folder, a bucket of an object store, a service over HTTP or a database to read and write. Registering the same id again changes it.")
            .at_once()
            .idempotent()
            .destructive()
            .at("POST", "/api/v1/resources")
            .at("POST", "/resources/register")
            .sample(|| json!({"resource_id": "docs", "type": "file_storage", "uri": "file://tenant/docs",
                "access_permissions": ["read", "executor:write"], "metadata": {"title": "Notes"}})),
        Op::read("resource_list", Consult, register::list)
            .about("List resources", "List what you may read or write: folders, buckets, services and databases of the tenant.")
            .at("GET", "/api/v1/resources")
            .at("GET", "/resources")
            .sample(|| json!({"limit": 10})),
        Op::read("resource_get", Consult, register::get)
            .about("Get a resource", "Read one registration: what it is, where, and who may do what with it.")
            .at("GET", "/api/v1/resources/{resource_id}")
            .at("GET", "/resources/{resource_id}")
            .sample(|| json!({"resource_id": "docs"})),
        Op::waiting("resource_delete", Register, register::delete)
            .about("Delete a resource", "Remove a registration. What it led to stays as it is.")
            .at_once()
            .destructive()
            .at("DELETE", "/api/v1/resources/{resource_id}")
            .at("DELETE", "/resources/{resource_id}")
            .sample(|| json!({"resource_id": "docs"})),
        Op::waiting("resource_read", Consult, move |ctx, input| reading::read(ctx, input, held.clone()))
            .about("Read a resource", "Read a file, list a folder, GET from a service, or see the tables of a database. A long file comes in parts: go on at next_offset.")
            .read_only()
            .at_once()
            .at("GET", "/api/v1/resources/{resource_id}/content")
            .sample(|| json!({"resource_id": "docs", "path": "intro.md"})),
        Op::waiting("resource_write", Supply, move |ctx, input| reading::write(ctx, input, to_write.clone()))
            .about("Write to a resource", "Write a file whole, as text or as blob (base64), or remove it. A service is sent PUT or DELETE.")
            .destructive()
            .idempotent()
            .at_once()
            .at("POST", "/api/v1/resources/{resource_id}/content")
            .sample(|| json!({"resource_id": "docs", "path": "intro.md", "text": "Hello"})),
        Op::waiting("resource_query", Consult, move |ctx, input| database::query(ctx, input, to_query.clone()))
            .about("Query a database", "Ask a database one SQL statement; parameters go as $1, $2 … It only reads, unless write is true. resource_read shows its tables.")
            .destructive()
            .at_once()
            .at("POST", "/api/v1/resources/{resource_id}/query")
            .sample(|| json!({"resource_id": "docs", "sql": "select name from people where age > $1", "parameters": [30]})),
    ]
}

fn resources(held: &Arc<Held>) -> Vec<Resource> {
    let content = || {
        let held = held.clone();
        Box::new(move |ctx, params| content(ctx, params, held.clone()))
    };
    let completer = || {
        let held = held.clone();
        let complete =
            move |ctx, typed| -> Completing { Box::pin(complete(ctx, typed, held.clone())) };
        Completer::Live(Box::new(complete))
    };
    vec![
        Resource {
            template: "baton://resources/{resource_id}",
            name: "resource",
            title: "Resource",
            description: "A resource of the tenant: what is in a folder, or the tables of a database",
            mime_type: "application/json",
            permission: Some(Permission::Consult),
            read: Reader::Live(content()),
            list: Some(items),
            complete: completer(),
            changed_by: |event| {
                let uri = is_ours(event).then(|| uri_of(&event.subject, ""));
                uri.into_iter().collect()
            },
        },
        Resource {
            template: "baton://resources/{resource_id}/{+path}",
            name: "resource-content",
            title: "Content of a resource",
            description: "A file or folder of a resource, or a table of a database",
            mime_type: "application/octet-stream",
            permission: Some(Permission::Consult),
            read: Reader::Live(content()),
            list: None,
            complete: completer(),
            changed_by: |event| {
                let path = event.data["path"].as_str().unwrap_or_default();
                if !is_ours(event) || path.is_empty() {
                    return Vec::new();
                }
                // The file, and the folders that it is in.
                let ends = path.match_indices('/').map(|(end, _)| end);
                let all = ends.chain([path.len()]);
                all.map(|end| uri_of(&event.subject, &path[..end]))
                    .collect()
            },
        },
    ]
}

fn is_ours(event: &Event) -> bool {
    event.kind.starts_with("dev.baton.resource.")
}

fn content(ctx: Ctx, params: Params, held: Arc<Held>) -> Reading {
    Box::pin(async move {
        let unknown = || Error::not_found("unknown_resource", "there is no such resource");
        let part = |name: &str| {
            let text = params.get(name).map_or("", String::as_str);
            super::places::decoded(text).ok_or_else(unknown)
        };
        let id = part("resource_id")?.parse().map_err(|_| unknown())?;
        let found = reading::read(ctx, Read::all(id, part("path")?), held).await?;
        let is_whole = found.next_offset.is_none() && found.has_more.is_none();
        let (text, blob) = (found.text.clone(), found.blob.clone());
        let (mime_type, body) = match (found.mime_type, text, blob) {
            (Some(mime_type), Some(text), _) if is_whole => {
                // What the name does not tell, the content does.
                let is_told = mime_type != "application/octet-stream";
                (
                    if is_told { mime_type } else { "text/plain" },
                    Body::Text(text),
                )
            }
            (Some(mime_type), _, Some(blob)) if is_whole => (mime_type, Body::Blob(blob)),
            // A folder; or a part of a file, which says where it goes on.
            _ => {
                let text = serde_json::to_string(&found).map_err(Error::internal)?;
                ("application/json", Body::Text(text))
            }
        };
        Ok(Content { mime_type, body })
    })
}

fn items(scope: &Scope, tx: &mut Tx<'_>, position: Option<&Position>, limit: u32) -> Result<Items> {
    let after = position.map_or("", |position| position.id.as_str());
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let who = Who::of(scope, None);
    let (found, next) = register::page(scope, tx, &who, (after, limit))?;
    let items = found.into_iter().map(|entry| Item {
        uri: uri_of(entry.id.as_str(), ""),
        title: entry.id.to_string(),
    });
    Ok((items.collect(), next))
}

/// Ids of resources, and names of what is in them.
async fn complete(ctx: Ctx, typed: Typed, held: Arc<Held>) -> Result<Vec<String>> {
    if typed.variable == "path" {
        let id = typed.settled.get("resource_id");
        return match id.and_then(|id| id.parse().ok()) {
            Some(id) => reading::names(&ctx, id, &typed, &held).await,
            None => Ok(Vec::new()),
        };
    }
    let find = ctx.read(move |scope, tx| {
        let who = Who::of(scope, None);
        let found = store::list(tx, "", super::MOST)?.into_iter();
        let found = found.filter(|entry| {
            entry.id.as_str().starts_with(&typed.begin) && entry.allows(scope, &who, Right::Read)
        });
        let found = found.map(|entry| entry.id.to_string());
        let most = usize::try_from(typed.most).unwrap_or(usize::MAX);
        Ok(found.take(most).collect())
    });
    find.await
}
