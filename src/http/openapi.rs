//! The OpenAPI 3.1 document, made from the catalogue once, at start, and the page that shows it.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::error::{EDGE_CODES, PROBLEM, status};
use crate::catalog::{Catalog, schemas};
use crate::codes;
use crate::op::{Effect, Op, Route};

const ABOUT: &str = "Baton hands work from an orchestrator to executors and never loses track of it. Every operation \
here is also an MCP tool of the same name.\n\nThe tenant of a call is named by the header `X-Tenant-ID` or by the \
prefix `/t/{tenant}` before any path; without either it is `default`.";

/// `GET /openapi.json`.
pub(super) fn router(catalog: &Catalog) -> Router {
    let text = Bytes::from(document(catalog).to_string());
    Router::new().route(
        "/openapi.json",
        get(move || async move {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, text)
        }),
    )
}

fn document(catalog: &Catalog) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for op in catalog.ops() {
        for (number, route) in op.routes.iter().enumerate() {
            let path = paths.entry(route.path).or_insert_with(|| json!({}));
            path[route.method.to_ascii_lowercase()] = operation(op, route, number);
        }
    }
    for (path, name, title, about) in [
        (
            "/health",
            "health",
            "Health",
            "Says that the process lives, without asking the database.",
        ),
        (
            "/ready",
            "ready",
            "Readiness",
            "Says whether calls can be served: the database answers and the server does not stop.",
        ),
    ] {
        paths.insert(path.to_owned(), json!({ "get": watch(name, title, about) }));
    }
    let nouns: BTreeSet<&str> = catalog.ops().iter().map(noun).collect();
    let tags: Vec<Value> = nouns
        .into_iter()
        .chain(["server"])
        .map(|noun| json!({ "name": noun }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Baton",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Task dispatch, execution and reports for orchestrators and executors",
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [],
        "tags": tags,
        "paths": paths,
        "components": components(),
        "x-operation-order": catalog.ops().iter().map(|op| op.name).collect::<Vec<_>>(),
        "x-error-codes": error_codes(),
    })
}

/// The noun in `noun_verb`.
fn noun(op: &Op) -> &'static str {
    op.name.split('_').next().unwrap_or(op.name)
}

fn operation(op: &Op, route: &Route, number: usize) -> Value {
    let in_path = variables(route.path);
    // The names must be unique over the document, so only the canonical route has the operation's own.
    let id = match number {
        0 => op.name.to_owned(),
        _ => format!("{}_{}", op.name, number + 1),
    };
    let mut parameters = Vec::new();
    // Where the input itself names the tenant, there is nothing more to say.
    if !op.aims_at_tenants() {
        parameters.push(json!({ "$ref": "#/components/parameters/Tenant" }));
    }
    parameters.extend(in_path.iter().map(|name| parameter(op, name, "path")));
    let mut operation = json!({
        "operationId": id,
        "summary": op.title,
        "description": op.description,
        "tags": [noun(op)],
        "responses": responses(op),
        "x-mcp-tool": op.name,
        "x-permission": op.permission,
        "x-effect": match op.effect {
            Effect::ReadOnly => "read_only",
            Effect::Additive => "additive",
            Effect::Destructive => "destructive",
        },
        "x-idempotent": op.idempotent,
        "x-rate-classes": op.classes(),
        "x-canonical": number == 0,
    });
    if route.method == "GET" {
        let fields = op.input_schema.get("properties").and_then(Value::as_object);
        let others = fields
            .into_iter()
            .flat_map(Map::keys)
            .filter(|name| !in_path.contains(&name.as_str()));
        parameters.extend(others.map(|name| parameter(op, name, "query")));
    } else {
        operation["requestBody"] = request_body(op, route, &in_path);
    }
    operation["parameters"] = Value::Array(parameters);
    operation
}

/// The names in `/tasks/{task_id}/reports/{number}`.
fn variables(path: &str) -> Vec<&str> {
    path.split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .collect()
}

fn parameter(op: &Op, name: &str, place: &str) -> Value {
    let field = op
        .input_schema
        .get("properties")
        .and_then(|fields| fields.get(name));
    let mut schema = field
        .cloned()
        .unwrap_or_else(|| json!({ "type": "string" }));
    let description = schema
        .as_object_mut()
        .and_then(|schema| schema.remove("description"));
    let mut parameter = json!({
        "name": name,
        "in": place,
        "required": place == "path" || is_required(&op.input_schema, name),
    });
    if schema.get("type").is_some_and(|kind| kind == "array") {
        parameter["style"] = json!("form");
        parameter["explode"] = json!(false);
    }
    if let Some(description) = description {
        parameter["description"] = description;
    }
    if let Some(example) = (op.sample)().get(name) {
        parameter["example"] = example.clone();
    }
    parameter["schema"] = schema;
    parameter
}

fn is_required(schema: &Map<String, Value>, name: &str) -> bool {
    schema
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(|names| names.iter().any(|required| required == name))
}

fn request_body(op: &Op, route: &Route, in_path: &[&str]) -> Value {
    let schema = match route.payload {
        // What its version promises, and what the operation takes of it.
        Some(payload) => json!({ "allOf": [
            { "$ref": format!("#/components/schemas/{payload}") },
            op.body_schema(in_path, true),
        ] }),
        None => op.body_schema(in_path, false),
    };
    let required = route.payload.is_some() || schema.get("required").is_some();
    let mut content = json!({ "schema": schema });
    if let Value::Object(mut sample) = (op.sample)() {
        sample.retain(|name, _| !in_path.contains(&name.as_str()));
        // The sample of an operation need not be what a stricter payload asks for.
        if !sample.is_empty() && route.payload.is_none() {
            content["example"] = Value::Object(sample);
        }
    }
    json!({ "required": required, "content": { "application/json": content } })
}

fn responses(op: &Op) -> Value {
    json!({
        "200": {
            "description": "What the operation answers.",
            "content": { "application/json": { "schema": op.output_schema } },
        },
        "400": { "$ref": "#/components/responses/Invalid" },
        "401": { "$ref": "#/components/responses/Unauthenticated" },
        "403": { "$ref": "#/components/responses/Forbidden" },
        "404": { "$ref": "#/components/responses/NotFound" },
        "409": { "$ref": "#/components/responses/Conflict" },
        "413": { "$ref": "#/components/responses/TooLarge" },
        "415": { "$ref": "#/components/responses/NotJson" },
        "429": { "$ref": "#/components/responses/Limited" },
        "503": { "$ref": "#/components/responses/Unavailable" },
        "default": { "$ref": "#/components/responses/Problem" },
    })
}

fn watch(name: &str, title: &str, about: &str) -> Value {
    let answer = json!({
        "description": "The state.",
        "content": { "application/json": { "schema": {
            "type": "object",
            "required": ["status"],
            "properties": { "status": { "type": "string" } },
        } } },
    });
    json!({
        "operationId": name,
        "summary": title,
        "description": about,
        "tags": ["server"],
        "responses": { "200": answer, "503": answer },
    })
}

fn components() -> Value {
    let problem = |description: &str| {
        let mut content = Map::new();
        content.insert(
            PROBLEM.to_owned(),
            json!({ "schema": { "$ref": "#/components/schemas/Problem" } }),
        );
        json!({ "description": description, "content": content })
    };
    let mut named = Map::new();
    named.insert("Problem".to_owned(), problem_schema());
    for schema in schemas() {
        let text = serde_json::from_str(schema.text).expect("a published schema is JSON");
        named.insert(schema.name.to_owned(), text);
    }
    json!({
        "parameters": { "Tenant": {
            "name": "X-Tenant-ID",
            "in": "header",
            "description": "The tenant of the call; `default` without it.",
            "required": false,
            "schema": { "type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$" },
        } },
        "responses": {
            "Invalid": problem("The input is wrong; `details` says where."),
            "Unauthenticated": problem("The server wants a credential, as `WWW-Authenticate` says."),
            "Forbidden": problem("The credential, or what is called, does not allow this."),
            "TooLarge": problem("The body is larger than 1 MiB."),
            "NotJson": problem("The body is not announced as JSON."),
            "NotFound": problem("There is no such thing in this tenant."),
            "Conflict": problem("The call does not fit the state of things."),
            "Limited": problem("A limit of calls is reached, as `detail` names it; `Retry-After` says when to come back."),
            "Unavailable": problem("Not now; `Retry-After` says when."),
            "Problem": problem("Any other error."),
        },
        "schemas": named,
    })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": { "type": "string", "description": "Where the documentation speaks of this error" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What happened and what to do, for people and models" },
            "code": { "type": "string", "description": "Stable, for programs" },
            "details": {
                "type": "array",
                "description": "What is wrong with which place of the input",
                "items": {
                    "type": "object",
                    "required": ["path", "message"],
                    "properties": {
                        "path": { "type": "string", "description": "JSON Pointer; empty for the whole" },
                        "message": { "type": "string" },
                    },
                },
            },
            "retry_after_seconds": { "type": "integer" },
        },
    })
}

/// Every code that an error may have, with its status and meaning.
fn error_codes() -> Vec<Value> {
    let own = EDGE_CODES.iter().map(|(name, status, meaning)| {
        json!({ "code": name, "status": status.as_u16(), "meaning": meaning })
    });
    let others = codes::ALL
        .iter()
        .map(|code| json!({ "code": code.name, "status": status(code.kind).as_u16(), "meaning": code.meaning }));
    let mut all: Vec<Value> = own.chain(others).collect();
    all.sort_by_key(|code| code["code"].to_string());
    all
}

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n",
    "<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<title>Baton API</title>\n<style>\n",
    include_str!("../../web/docs.css"),
    "</style>\n</head>\n",
    include_str!("../../web/docs.html"),
    "<script>\n",
    include_str!("../../web/docs.js"),
    "</script>\n</body>\n</html>\n",
);

/// What stands between the tags of the page, to the byte.
const STYLE: &str = concat!("\n", include_str!("../../web/docs.css"));
const SCRIPT: &str = concat!("\n", include_str!("../../web/docs.js"));

/// `GET /docs`: one self-contained document that shows `/openapi.json`.
pub(super) fn docs() -> Router {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let page = move || async move { (headers, PAGE) };
    Router::new().route("/docs", get(page))
}

/// The page runs what is written in it and nothing else, and loads its data from this server and nothing from anywhere else.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}
