//! The OpenAPI document: what tools that read it rely on.

use std::collections::BTreeSet;

use serde_json::{Value, json};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_what_the_document_says_and_nothing_else() {
    let server = HttpServer::start().await;
    let document = server.get("/openapi.json").await.body;
    let schema = |method: &str, path: &str| {
        document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
            .clone()
    };
    let claims = "/api/v1/claims";
    for (body, is_taken) in [
        // Null in place of what need not be there says nothing; an integer may be written with a point.
        (json!({"agent_id": "ada", "wait_seconds": null}), true),
        (json!({"agent_id": "ada", "lease_seconds": 60.0}), true),
        (json!({"agent_id": "ada", "lease_seconds": 60.5}), false),
        (json!({"agent_id": null}), false),
    ] {
        let documented = jsonschema::is_valid(&schema("post", claims), &body);
        let answer = server.post(claims, &body).await;
        assert_eq!(
            (documented, answer.status == 200),
            (is_taken, is_taken),
            "{body}"
        );
    }
    // Any JSON is an answer, except none.
    let answer = "/api/v1/tasks/{task_id}/answer";
    assert!(jsonschema::is_valid(
        &schema("post", answer),
        &json!({"answer": false})
    ));
    assert!(!jsonschema::is_valid(
        &schema("post", answer),
        &json!({"answer": null})
    ));
    // A rule says who may do what, and is refused where it stands.
    let rules = json!({"resource_id": "docs", "type": "file_storage", "uri": "file://tenant/docs",
        "access_permissions": ["agent:ada:write", "boss:read"]});
    assert!(!jsonschema::is_valid(
        &schema("post", "/api/v1/resources"),
        &rules
    ));
    let refused = server.post("/api/v1/resources", &rules).await;
    refused.is_problem(400, "invalid_input");
    assert_eq!(refused.body["details"][0]["path"], "/access_permissions/1");
    // What a strict path takes is what the payload promises and what the operation takes of it.
    let strict = schema("post", "/execute");
    assert_eq!(
        strict["allOf"][0]["$ref"],
        "#/components/schemas/task_execution"
    );
    let work = json!({"task_id": "t", "type": "analysis", "description": "x", "priority": "low", "task_data": {},
        "orchestrator_info": {"agent_id": "a", "timestamp": "2026-01-01T00:00:00Z"}, "execution_context": {}});
    assert!(jsonschema::is_valid(&strict["allOf"][1], &work), "{strict}");
    assert_eq!(server.post("/execute", &work).await.status, 200);
    let mut unknown = work;
    unknown["task_type"] = json!("knitting");
    assert!(!jsonschema::is_valid(&strict["allOf"][1], &unknown));
    // A report is held to the rules of its type.
    let report =
        json!({"agent_id": "a", "lease_token": "l", "notification_type": "progress", "data": {}});
    assert!(!jsonschema::is_valid(
        &schema("post", "/api/v1/tasks/{task_id}/notifications"),
        &report
    ));
    // A tenant that the path names is named by no header besides.
    let parameters = &document["paths"]["/api/v1/tenants/{tenant_id}"]["get"]["parameters"];
    assert_eq!(parameters.as_array().unwrap().len(), 1, "{parameters}");
}
