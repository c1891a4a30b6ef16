//! The OpenAPI document: what tools that read it rely on.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::http::HttpServer;

/// Every `$ref` below `value`.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route_and_is_whole() {
    let server = HttpServer::start().await;
    let answer = server.get("/openapi.json").await;
    let document = &answer.body;
    assert_eq!(document["openapi"], "3.1.0");
    for member in ["title", "version"] {
        assert!(document["info"][member].is_string(), "{member}");
    }
    let mut found = Vec::new();
    references(document, &mut found);
    for reference in found {
        // References within a published schema are resolved against that schema's own $id.
        if reference.starts_with("#/components/") {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }

    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with('/'));
        for operation in methods.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} twice");
            assert!(!operation["responses"].as_object().unwrap().is_empty());
            let mut variables = BTreeSet::new();
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for parameter in parameters.map(|parameter| resolved(document, parameter)) {
                assert!(parameter["schema"].is_object(), "{parameter}");
                if parameter["in"] == "path" {
                    assert_eq!(parameter["required"], true);
                    variables.insert(format!("{{{}}}", parameter["name"].as_str().unwrap()));
                }
            }
            let in_path = path.split('/').filter(|segment| segment.starts_with('{'));
            assert_eq!(variables, in_path.map(str::to_owned).collect(), "{path}");
        }
    }

    for op in server.app.catalog.ops() {
        assert!(!op.routes.is_empty(), "{} has no route", op.name);
        for route in &op.routes {
            let method = route.method.to_ascii_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert_eq!(operation["x-mcp-tool"], op.name, "{method} {}", route.path);
            assert_eq!(operation["requestBody"].is_object(), method != "get");
        }
        assert!(ids.contains(op.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_codes_are_listed_with_status_and_meaning() {
    let server = HttpServer::start().await;
    let document = server.get("/openapi.json").await.body;
    let codes = document["x-error-codes"].as_array().unwrap();
    let of = |name: &str| codes.iter().find(|code| code["code"] == name).unwrap();
    assert_eq!(of("invalid_input")["status"], 400);
    assert_eq!(of("body_too_large")["status"], 413);
    assert_eq!(of("store_busy")["status"], 503);
    for code in codes {
        assert!(!code["meaning"].as_str().unwrap().is_empty(), "{code}");
    }
}
