//! What callers may do with tools: declarations.

use serde_json::{Map, Value, json};

use super::{CALL, Tools, call, change, import, look};
use crate::op::{self, Op, Permission};

/// What callers may do.
pub fn operations(tools: &Tools) -> Vec<Op> {
    let mut all = finding(tools);
    all.extend(making(tools));
    all.extend(deciding());
    all
}

/// The three by which hosts reach tools that they were not shown, and the list.
fn finding(tools: &Tools) -> Vec<Op> {
    let [searched, described, called] = [tools.clone(), tools.clone(), tools.clone()];
    vec![
        Op::waiting("tool_search", Permission::Use, move |ctx, input| look::search(ctx, input, searched.clone()))
            .about("Search tools", "Find tools that were made for this tenant by what they do, in a few words. Then read one with tool_describe and call it.")
            .read_only()
            .at_once()
            .at("POST", "/api/v1/tools/search")
            .sample(|| json!({"query": "weather in a city"})),
        Op::waiting("tool_describe", Permission::Use, move |ctx, input| look::describe(ctx, input, described.clone()))
            .about("Describe a tool", "Read what a tenant's tool takes and answers, with examples, before you call it.")
            .read_only()
            .at_once()
            .at("POST", "/api/v1/tools/describe")
            .sample(|| json!({"name": "weather"})),
        Op::tool(CALL, Permission::Use, form(), move |ctx, input| call::call(ctx, input, called.clone()))
            .about("Call a tool", "Call a tool of this tenant by name: also one that your client does not list yet.")
            .destructive()
            .naming("name")
            .followed(call::FOLLOW)
            .at("POST", "/api/v1/tools/call")
            .sample(|| json!({"name": "weather", "arguments": {"city": "Lima"}})),
        Op::read("tool_list", Permission::Use, look::list)
            .about("List tools", "List the tools that were made for this tenant, by name, with their versions and how often they were called.")
            .at("GET", "/api/v1/tools")
            .at("GET", "/tools")
            .sample(|| json!({"limit": 10})),
    ]
}

fn form() -> Map<String, Value> {
    op::of_input::<call::Call>()
}

fn making(tools: &Tools) -> Vec<Op> {
    let [created, updated, tested, imported] = std::array::from_fn(|_| tools.clone());
    vec![
        Op::waiting("tool_create", Permission::Build, move |ctx, input| change::create(ctx, input, created.clone()))
            .about("Create a tool", "Make a tool for this tenant: its clients see and call it at once. Try it with tool_test first.")
            .idempotent()
            .waits_if(asks_elsewhere)
            .at("POST", "/api/v1/tools")
            .at("POST", "/tools/register")
            .at("POST", "/tools/dynamic/create")
            .sample(|| json!({
                "tool_id": "weather-1", "name": "weather", "description": "The weather in a city now",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
                "implementation": {"type": "http", "method": "GET", "url": "https://weather.example.com/{city}"},
            })),
        Op::waiting("tool_update", Permission::Build, move |ctx, input| change::update(ctx, input, updated.clone()))
            .about("Change a tool", "Make a new version of a tool from the fields that change. The versions before stay and can be called again.")
            .waits_if(|input| input.get("manifest").and_then(Value::as_object).is_some_and(asks_elsewhere))
            .at("PATCH", "/api/v1/tools/{tool_id}")
            .sample(|| json!({"tool_id": "tol_sample", "manifest": {"title": "Weather"}})),
        Op::write("tool_delete", Permission::Build, change::delete)
            .about("Delete a tool", "Remove a tool of this tenant with all its versions.")
            .destructive()
            .at("DELETE", "/api/v1/tools/{tool_id}")
            .at("DELETE", "/tools/{tool_id}")
            .sample(|| json!({"tool_id": "tol_sample"})),
        Op::waiting("tool_test", Permission::Build, move |ctx, input| import::test(ctx, input, tested.clone()))
            .about("Test a tool", "Show what a call of a tool, or of a manifest that is not kept yet, would do. Nothing is sent.")
            .read_only()
            .at_once()
            .at("POST", "/api/v1/tools/test")
            .sample(|| json!({"tool_id": "tol_sample", "arguments": {"city": "Lima"}})),
        Op::waiting("tool_import_openapi", Permission::Build, move |ctx, input| import::import(ctx, input, imported.clone()))
            .about("Import an API", "Make tools of the operations of an API that an OpenAPI document describes. Pick those that you need; see them first with dry_run.")
            .waits_if(|input| input.contains_key("url"))
            .at("POST", "/api/v1/tools/import/openapi")
            .sample(|| json!({"document": {
                "openapi": "3.1.0", "servers": [{"url": "https://pets.example.com"}],
                "paths": {"/pets/{id}": {"get": {"operationId": "get_pet", "summary": "One pet",
                    "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]}}},
            }, "dry_run": true})),
        Op::read("tool_history", Permission::Build, look::history)
            .about("History of a tool", "List the versions of a tool, who made and approved them; with version, its whole manifest.")
            .at("GET", "/api/v1/tools/{tool_id}/versions")
            .sample(|| json!({"tool_id": "tol_sample"})),
        Op::write("tool_rollback", Permission::Build, change::roll_back)
            .about("Roll a tool back", "Call an earlier version of a tool from now on, one that was approved.")
            .destructive()
            .idempotent()
            .at("POST", "/api/v1/tools/{tool_id}/rollback")
            .sample(|| json!({"tool_id": "tol_sample", "version": 1})),
    ]
}

/// Whether another server may have to say what a tool takes.
fn asks_elsewhere(manifest: &Map<String, Value>) -> bool {
    let parameters = manifest.get("parameters").and_then(Value::as_object);
    let kind = manifest.get("implementation").map(|given| &given["type"]);
    parameters.is_none_or(Map::is_empty)
        && kind.is_none_or(|kind| kind == "upstream")
        && (kind.is_some() || manifest.contains_key("parameters"))
}

fn deciding() -> Vec<Op> {
    vec![
        Op::write("tool_approve", Permission::Admin, change::approve)
            .about("Approve a tool", "Let a version of a tool be called that waits for it, or reject it. Look at it with tool_history, and name its hash.")
            .destructive()
            .idempotent()
            .at("POST", "/api/v1/tools/{tool_id}/approve")
            .sample(|| json!({"tool_id": "tol_sample"})),
    ]
}
