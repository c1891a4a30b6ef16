//! APIs that an OpenAPI document describes, as manifests of tools: one for each operation that is wanted. It reads and
//! writes JSON; what a manifest may be is `tools`'.

use std::cell::Cell;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Methods that become tools.
const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];
/// Characters of a tool's name, of its title and of its description.
const NAME: usize = 40;
const TITLE: usize = 100;
const DESCRIPTION: usize = 1_000;
/// Levels to which references are followed.
const DEPTH: usize = 12;
/// Schemas in an operation, with those within.
const VALUES: usize = 1_000;
/// What says nothing about values that JSON Schema 2020-12 knows, or what models need.
const SAYS_NOTHING: [&str; 9] = [
    "example",
    "examples",
    "xml",
    "externalDocs",
    "discriminator",
    "readOnly",
    "writeOnly",
    "deprecated",
    "$schema",
];

/// Which operations become tools, and how.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// By `operationId`, or as `GET /path`; all if there is none.
    pub(crate) operations: Vec<String>,
    /// What names begin with.
    pub(crate) prefix: String,
    /// Where the API is, instead of what the document says.
    pub(crate) server: Option<String>,
}

/// What a document comes to.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// The manifests.
    pub(crate) manifests: Vec<Map<String, Value>>,
    /// The operations that can't be tools, each with the reason.
    pub(crate) skipped: Vec<(String, String)>,
}

/// Reads an OpenAPI document.
///
/// # Errors
/// `invalid_input` for what is none, for one that says not where it is, and for operations that it has not.
pub(crate) fn read(document: &Value, wanted: &Wanted) -> Result<Read> {
    let version = document["openapi"].as_str().unwrap_or_default();
    if !version.starts_with("3.") {
        let message = "an OpenAPI document of version 3, as JSON";
        return Err(Error::invalid_at("/document/openapi", message));
    }
    let server = server(document, wanted)?;
    let (mut read, mut names) = (Read::default(), BTreeSet::new());
    let mut missing: BTreeSet<&str> = wanted.operations.iter().map(String::as_str).collect();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            let Some(operation) = item.get(method).filter(|it| it.is_object()) else {
                continue;
            };
            let place = format!("{} {path}", method.to_uppercase());
            let id = operation["operationId"].as_str();
            let is_asked = missing.remove(place.as_str()) | id.is_some_and(|id| missing.remove(id));
            if !(is_asked || wanted.operations.is_empty()) {
                continue;
            }
            let left = Cell::new(VALUES);
            let reader = Reader {
                document,
                item,
                left,
            };
            match reader.manifest((method, path), operation, &server) {
                Ok(mut manifest) => {
                    let name = name(&wanted.prefix, id.unwrap_or(&place), &mut names);
                    manifest.insert("name".into(), name.into());
                    read.manifests.push(manifest);
                }
                Err(why) => read.skipped.push((place, why)),
            }
        }
    }
    match missing.first() {
        None => Ok(read),
        Some(missing) => {
            let message = format!("the document has no operation {missing:?}");
            Err(Error::invalid_at("/operations", message))
        }
    }
}

/// Where the API is, without a slash at the end.
fn server(document: &Value, wanted: &Wanted) -> Result<String> {
    let said = &document["servers"][0];
    let mut url = match &wanted.server {
        Some(server) => server.clone(),
        None => said["url"].as_str().unwrap_or_default().to_owned(),
    };
    for (name, variable) in said["variables"].as_object().into_iter().flatten() {
        let value = variable["default"].as_str().unwrap_or_default();
        url = url.replace(&format!("{{{name}}}"), value);
    }
    if !(url.starts_with("https://") || url.starts_with("http://")) {
        let message = "the document does not say where its API is: give the URL of the server";
        return Err(Error::invalid_at("/server", message));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A name of its own for a tool.
fn name(prefix: &str, id: &str, taken: &mut BTreeSet<String>) -> String {
    let mut plain = prefix.to_owned();
    for c in id.chars() {
        if c.is_ascii_alphanumeric() || c == '-' {
            plain.push(c);
        } else if !plain.ends_with('_') {
            plain.push('_');
        }
    }
    let plain = plain.trim_matches('_');
    let of = |ending: &str| {
        let room = NAME - ending.len();
        let start = plain.get(..room.min(plain.len())).unwrap_or(plain);
        format!("{start}{ending}")
    };
    let mut name = of("");
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = of(&format!("_{number}"));
        number += 1;
    }
    name
}

/// What a path of a document says.
struct Reader<'a> {
    document: &'a Value,
    item: &'a Value,
    /// Values that schemas may still have: with every reference in its place, a small document can be without end.
    left: Cell<usize>,
}

/// What becomes of the parameters of an operation.
#[derive(Default)]
struct Taken {
    properties: Map<String, Value>,
    required: Vec<Value>,
    query: Map<String, Value>,
    headers: Map<String, Value>,
    /// The names of parameters in the path, and what they are called here.
    path: Vec<(String, String)>,
}

impl Taken {
    /// Takes a property, and returns what it is called.
    fn add(
        &mut self,
        name: &str,
        schema: Value,
        is_required: bool,
    ) -> std::result::Result<String, String> {
        let plain: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "_-.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let plain = plain.trim_matches('_').to_owned();
        if plain.is_empty() || self.properties.contains_key(&plain) {
            return Err(format!("two of its parameters would be called {plain:?}"));
        }
        if is_required {
            self.required.push(plain.clone().into());
        }
        self.properties.insert(plain.clone(), schema);
        Ok(plain)
    }
}

impl Reader<'_> {
    fn manifest(
        &self,
        (method, path): (&str, &str),
        operation: &Value,
        server: &str,
    ) -> std::result::Result<Map<String, Value>, String> {
        let mut taken = Taken::default();
        let own = operation["parameters"].as_array().into_iter().flatten();
        let own: Vec<&Value> = own.map(|it| self.resolved(it)).collect();
        let shared = self.item["parameters"].as_array().into_iter().flatten();
        let shared = shared.map(|it| self.resolved(it)).filter(|shared| {
            let is_it = |own: &&Value| own["name"] == shared["name"] && own["in"] == shared["in"];
            !own.iter().any(is_it)
        });
        for parameter in own.iter().copied().chain(shared) {
            self.take(parameter, &mut taken)?;
        }
        let body = self.body(&operation["requestBody"], &mut taken)?;
        let mut url = format!("{server}{path}");
        for (name, called) in &taken.path {
            url = url.replace(&format!("{{{name}}}"), &format!("{{{called}}}"));
        }
        let mut implementation =
            json!({"type": "http", "method": method.to_uppercase(), "url": url});
        if !taken.query.is_empty() {
            implementation["query"] = taken.query.into();
        }
        if !taken.headers.is_empty() {
            implementation["headers"] = taken.headers.into();
        }
        if let Some(body) = body {
            implementation["body"] = body;
        }
        let text = |name: &str| operation[name].as_str().unwrap_or_default().trim();
        let place = format!("{} {path}", method.to_uppercase());
        let (summary, about) = (text("summary"), text("description"));
        let description = match (summary, about) {
            ("", "") => place.clone(),
            (one, "") | ("", one) => one.to_owned(),
            (summary, about) => format!("{}. {about}", summary.trim_end_matches('.')),
        };
        let manifest = json!({
            "description": short(&description, DESCRIPTION),
            "parameters": {"type": "object", "properties": taken.properties, "required": taken.required,
                "additionalProperties": false},
            "metadata": {"openapi": place},
            "implementation": implementation,
        });
        let Value::Object(mut manifest) = manifest else {
            return Err("it is no manifest".into());
        };
        if !summary.is_empty() {
            manifest.insert("title".into(), short(summary, TITLE).into());
        }
        Ok(manifest)
    }

    fn take(&self, parameter: &Value, taken: &mut Taken) -> std::result::Result<(), String> {
        let name = parameter["name"].as_str().unwrap_or_default();
        let place = parameter["in"].as_str().unwrap_or_default();
        let is_required = parameter["required"] == true || place == "path";
        if place == "cookie" || (place == "header" && is_ours(name)) {
            if is_required && place == "cookie" {
                return Err(format!("it needs the cookie {name}"));
            }
            return Ok(());
        }
        let schema = parameter.get("schema").or_else(|| {
            let content = parameter["content"].as_object()?;
            content.values().next()?.get("schema")
        });
        let mut schema = self.schema(schema.unwrap_or(&json!({})), DEPTH);
        if let (Some(about), Some(schema)) =
            (parameter["description"].as_str(), schema.as_object_mut())
        {
            schema.insert("description".into(), short(about, DESCRIPTION).into());
        }
        let called = taken.add(name, schema, is_required)?;
        let template = format!("{{{called}}}");
        match place {
            "path" => taken.path.push((name.to_owned(), called)),
            "query" => drop(taken.query.insert(name.to_owned(), template.into())),
            "header" => drop(taken.headers.insert(name.to_owned(), template.into())),
            other => return Err(format!("its parameter {name} is in {other:?}")),
        }
        Ok(())
    }

    /// The body of an operation: its members become parameters, where it is an object.
    fn body(&self, body: &Value, taken: &mut Taken) -> std::result::Result<Option<Value>, String> {
        let body = self.resolved(body);
        if body.is_null() {
            return Ok(None);
        }
        let is_required = body["required"] == true;
        let content = body["content"].as_object().into_iter().flatten();
        let mut content = content.filter(|(kind, _)| kind.contains("json"));
        let Some((_, content)) = content.next() else {
            if is_required {
                return Err("its body is not JSON".into());
            }
            return Ok(None);
        };
        let schema = self.schema(&content["schema"], DEPTH);
        let members = schema["properties"].as_object();
        let is_flat = members.is_some_and(|members| {
            let is_free = |name: &String| !taken.properties.contains_key(name) && is_plain(name);
            !members.is_empty() && members.keys().all(is_free)
        });
        let Some(members) = members.filter(|_| is_flat) else {
            let called = taken.add("body", schema, is_required)?;
            return Ok(Some(format!("{{{called}}}").into()));
        };
        let required = schema["required"].as_array();
        let mut template = Map::new();
        for (name, member) in members {
            let is_required = is_required
                && required.is_some_and(|all| all.iter().any(|one| one == name.as_str()));
            let called = taken.add(name, member.clone(), is_required)?;
            template.insert(name.clone(), format!("{{{called}}}").into());
        }
        Ok(Some(template.into()))
    }

    /// What `value` refers to, or itself.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let mut value = value;
        for _ in 0..DEPTH {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                break;
            };
            let found = reference.strip_prefix('#');
            let found = found.and_then(|pointer| self.document.pointer(pointer));
            value = found.unwrap_or(&Value::Null);
        }
        value
    }

    /// A schema with everything in its place; what leads too deep, or back to itself, is any value.
    fn schema(&self, value: &Value, depth: usize) -> Value {
        let left = self.left.get();
        if depth == 0 || left == 0 {
            return json!({});
        }
        self.left.set(left - 1);
        let value = self.resolved(value);
        let Value::Object(fields) = value else {
            return match value {
                Value::Bool(_) => value.clone(),
                _ => json!({}),
            };
        };
        let mut schema = Map::new();
        for (name, value) in fields {
            let part = match (name.as_str(), value) {
                (name, _) if SAYS_NOTHING.contains(&name) || name.starts_with("x-") => continue,
                // Of version 3.0, where these were about the bound beside them.
                ("exclusiveMinimum" | "exclusiveMaximum", Value::Bool(_)) => continue,
                ("properties" | "patternProperties", Value::Object(members)) => {
                    let members = members.iter();
                    let members =
                        members.map(|(name, it)| (name.clone(), self.schema(it, depth - 1)));
                    Value::Object(members.collect())
                }
                ("items" | "additionalProperties" | "not", it @ Value::Object(_)) => {
                    self.schema(it, depth - 1)
                }
                ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(all)) => {
                    all.iter().map(|it| self.schema(it, depth - 1)).collect()
                }
                (_, other) => other.clone(),
            };
            schema.insert(name.clone(), part);
        }
        Value::Object(schema)
    }
}

/// Headers that a parameter never is (OpenAPI 3, "Parameter Object").
fn is_ours(header: &str) -> bool {
    ["accept", "content-type", "authorization"].contains(&header.to_ascii_lowercase().as_str())
}

/// Whether a name can stand in a template as it is.
fn is_plain(name: &str) -> bool {
    let mut chars = name.chars();
    chars.all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) && !name.starts_with('_')
}

fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most - 1) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({
            "openapi": "3.0.3", "servers": [{"url": "https://{region}.pets.example/v1/", "variables": {"region": {"default": "eu"}}}],
            "paths": {
                "/pets/{pet id}": {
                    "parameters": [{"name": "pet id", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 0, "exclusiveMinimum": true}}],
                    "get": {"operationId": "pets.get", "summary": "One pet.", "description": "Whole.", "parameters": [
                        {"name": "filter[name]", "in": "query", "schema": {"type": "string", "nullable": true, "example": "x"}},
                        {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                        {"name": "X-Trace", "in": "header", "description": "Which trace", "schema": {"type": "string"}}]},
                    "put": {"requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}},
                    "patch": {"requestBody": {"required": true, "content": {"text/csv": {}}}}
                },
                "/pets": {"post": {"operationId": "pets.get", "requestBody": {"$ref": "#/components/requestBodies/Names"}}}
            },
            "components": {
                "schemas": {"Pet": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "mother": {"$ref": "#/components/schemas/Pet"}}}},
                "requestBodies": {"Names": {"content": {"application/json": {"schema": {"type": "array", "items": {"type": "string"}}}}}}
            }
        })
    }

    #[test]
    fn operations_become_manifests_and_what_can_be_none_is_told() {
        let read = read(&document(), &Wanted::default()).unwrap();
        let why = (
            "PATCH /pets/{pet id}".to_owned(),
            "its body is not JSON".to_owned(),
        );
        assert_eq!(read.skipped, [why]);
        let by_name = |name: &str| {
            let found = read.manifests.iter().find(|it| it["name"] == name);
            Value::Object(
                found
                    .unwrap_or_else(|| panic!("{:?}", read.manifests))
                    .clone(),
            )
        };
        let get = by_name("pets_get_2");
        assert_eq!(get["description"], "One pet. Whole.");
        assert_eq!(
            get["implementation"]["url"],
            "https://eu.pets.example/v1/pets/{pet_id}"
        );
        assert_eq!(
            get["implementation"]["query"],
            json!({"filter[name]": "{filter_name}"})
        );
        assert_eq!(
            get["implementation"]["headers"],
            json!({"X-Trace": "{X-Trace}"})
        );
        assert_eq!(get["parameters"]["required"], json!(["pet_id"]));
        let put = by_name("PUT_pets_pet_id");
        assert_eq!(
            put["implementation"]["body"],
            json!({"name": "{name}", "mother": "{mother}"})
        );
        assert_eq!(put["parameters"]["required"], json!(["pet_id", "name"]));
        assert_eq!(by_name("pets_get")["implementation"]["body"], "{body}");
    }

    #[test]
    fn wanted_operations_are_found_or_refused() {
        let wanted = |operation: &str| Wanted {
            operations: vec![operation.into()],
            prefix: "zoo_".into(),
            server: Some("http://zoo.example".into()),
        };
        let one = read(&document(), &wanted("PUT /pets/{pet id}")).unwrap();
        assert_eq!(one.manifests.len(), 1);
        assert_eq!(one.manifests[0]["name"], "zoo_PUT_pets_pet_id");
        assert_eq!(
            one.manifests[0]["implementation"]["url"],
            "http://zoo.example/pets/{pet_id}"
        );
        assert!(read(&document(), &wanted("pets.sell")).is_err());
        assert!(read(&json!({"swagger": "2.0"}), &Wanted::default()).is_err());
        assert!(read(&json!({"openapi": "3.1.0"}), &Wanted::default()).is_err());
    }
}
