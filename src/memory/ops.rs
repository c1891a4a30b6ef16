//! What callers may do with memory, and what can be read of it: declarations.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::audit;
use super::read::{self, List, Listed, View};
use super::shelf::Shelf;
use super::{Eyes, find, store, unknown, write};
use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::id::{AgentId, MemoryId};
use crate::op::{Body, Completer, Content, Item, Items, Op, Params, Permission, Reader, Resource};
use crate::page::Position;
use crate::store::Tx;

/// Entries that are shown of an agent.
const OF_AGENT: u32 = 100;

/// What callers may do.
pub fn operations() -> Vec<Op> {
    use Permission::{Recall, Remember};
    let shelf = Arc::new(Shelf::default());
    let audited = shelf.clone();
    vec![
        Op::write_ordered("memory_write", Remember, write::draft, write::write)
            .about("Remember", "Remember one fact, decision or lesson in a sentence or two. Saying it again is harmless; name in supersedes what it replaces.")
            .idempotent()
            .at("POST", "/api/v1/memory")
            .at("POST", "/memory/register")
            .sample(|| json!({"agent_id": "agent-1", "content": "The staging database is reset every Monday."})),
        Op::waiting("memory_search", Recall, move |ctx, input| read::search(ctx, input, shelf.clone()))
            .about("Search memory", "Find what is remembered by words and by meaning, in English or Spanish. Search before you ask or work something out again.")
            .read_only()
            .at_once()
            .at("POST", "/api/v1/memory/search")
            .sample(|| json!({"query": "when is staging reset", "limit": 5})),
        Op::waiting("memory_get", Recall, read::get)
            .about("Get a memory", "Read one entry whole, also one that is superseded: who wrote it, when, and what replaced it.")
            .read_only()
            .at_once()
            .at("GET", "/api/v1/memory/{memory_id}")
            .sample(|| json!({"memory_id": "mem_sample"})),
        Op::read("memory_list", Recall, read::list)
            .about("List memory", "List what is remembered, newest first, narrowed down by agent, kind, scope, task or tag.")
            .at("GET", "/api/v1/memory")
            .at("GET", "/memory/all")
            .at("GET", "/memory/{agent_id}")
            .sample(|| json!({"agent_id": "agent-1", "limit": 10})),
        Op::write("memory_forget", Remember, write::forget)
            .about("Forget", "Remove one entry for good. To replace it, write the new one with supersedes instead.")
            .destructive()
            .at("DELETE", "/api/v1/memory/{memory_id}")
            .sample(|| json!({"memory_id": "mem_sample"})),
        Op::waiting("memory_audit", Remember, move |ctx, input| audit::audit(ctx, input, audited.clone()))
            .about("Audit memory", "Look for entries that are said twice, perhaps outdated, tagged at odds, stale or never read. Without dry_run, duplicates are merged and stale ones forgotten.")
            .at_once()
            .destructive()
            .at("POST", "/api/v1/memory/audit")
            .sample(|| json!({"limit": 10})),
    ]
}

/// What can be read of memory.
pub fn resources() -> Vec<Resource> {
    vec![
        Resource {
            template: "baton://memory/{agent_id}",
            name: "agent-memory",
            title: "Memory of an agent",
            description: "What an agent remembers, the newest hundred entries, as memory_list shows them",
            mime_type: "application/json",
            permission: Some(Permission::Recall),
            read: Reader::Stored(read_agent),
            list: Some(items),
            complete: Completer::Stored(complete),
            changed_by: |event| {
                let uri = |agent_id| format!("baton://memory/{agent_id}");
                changed(event).map(uri).into_iter().collect()
            },
        },
        Resource {
            template: "baton://memory/{agent_id}/{memory_id}",
            name: "memory",
            title: "Memory",
            description: "One entry whole, as memory_get shows it",
            mime_type: "application/json",
            permission: Some(Permission::Recall),
            read: Reader::Stored(read_one),
            list: None,
            complete: Completer::Stored(complete),
            changed_by: |event| {
                let uri = |agent_id| format!("baton://memory/{agent_id}/{}", event.subject);
                changed(event).map(uri).into_iter().collect()
            },
        },
    ]
}

/// Whether a caller whose credential speaks for some agents alone may hear of this one.
fn is_open(scope: &Scope, agent: &str) -> bool {
    let own = scope.principal().map(|principal| &principal.grant.agents);
    own.is_none_or(|own| own.is_empty() || own.iter().any(|own| own.as_str() == agent))
}

fn complete(
    scope: &Scope,
    tx: &mut Tx<'_>,
    variable: &str,
    prefix: &str,
    limit: u32,
) -> Result<Vec<String>> {
    if variable == "agent_id" {
        let agents = store::agents(tx, (prefix, ""), limit)?.into_iter();
        return Ok(agents.filter(|agent| is_open(scope, agent)).collect());
    }
    let ids = store::ids_with_prefix(tx, prefix, limit)?.into_iter();
    let ids = ids.filter(|(_, agent)| is_open(scope, agent));
    Ok(ids.map(|(id, _)| id).collect())
}

/// The agent whose memory an event changed.
fn changed(event: &Event) -> Option<&str> {
    let is_ours = event.kind.starts_with("dev.baton.memory.");
    event.data["agent_id"].as_str().filter(|_| is_ours)
}

fn param<T: std::str::FromStr>(params: &Params, name: &str) -> Result<T> {
    let value = params.get(name).and_then(|text| text.parse().ok());
    value.ok_or_else(|| Error::not_found("unknown_memory", "there is no such memory"))
}

fn content(value: &impl Serialize) -> Result<Content> {
    let text = serde_json::to_string(value).map_err(Error::internal)?;
    Ok(Content {
        mime_type: "application/json",
        body: Body::Text(text),
    })
}

fn read_agent(scope: &Scope, tx: &mut Tx<'_>, params: &Params) -> Result<Content> {
    let agent_id: AgentId = param(params, "agent_id")?;
    let input = List::of(Some(agent_id), OF_AGENT);
    let (entries, _) = read::page(scope, tx, &input, None)?;
    if entries.is_empty() {
        return Err(Error::not_found(
            "unknown_memory",
            "there is no such memory",
        ));
    }
    content(&Listed {
        memories: entries.into_iter().map(View::of).collect(),
        next_cursor: None,
    })
}

fn read_one(scope: &Scope, tx: &mut Tx<'_>, params: &Params) -> Result<Content> {
    let (agent_id, id): (AgentId, MemoryId) =
        (param(params, "agent_id")?, param(params, "memory_id")?);
    let entry = find(scope, tx, &id, &Eyes::of(scope, None, None))?;
    if entry.agent_id != agent_id {
        return Err(unknown(&id));
    }
    content(&View::of(entry))
}

fn items(scope: &Scope, tx: &mut Tx<'_>, position: Option<&Position>, limit: u32) -> Result<Items> {
    let after = position.map_or("", |position| position.id.as_str());
    let mut agents = store::agents(tx, ("", after), limit + 1)?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_last = agents.len() <= most;
    agents.truncate(most);
    let last = agents.last().filter(|_| !is_last);
    let next = last.map(|id| Position {
        key: 0,
        id: id.clone(),
    });
    let items = agents.into_iter();
    let items = items
        .filter(|agent| is_open(scope, agent))
        .map(|agent| Item {
            uri: format!("baton://memory/{agent}"),
            title: format!("Memory of {agent}"),
        });
    Ok((items.collect(), next))
}
