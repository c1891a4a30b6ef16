//! Every operation, given what it should not be given: refused with the place and what would be right, nothing written.

use baton::error::{Error, Kind};
use baton::op::Op;
use serde_json::{Map, Value, json};

use crate::support::Server;

/// Calls `op` with `input`, which must be refused, and returns the refusal.
async fn refused(server: &Server, op: &Op, input: Value) -> Error {
    let shown = input.to_string().chars().take(300).collect::<String>();
    match server.try_call(op.name, input).await {
        Ok(output) => panic!("{} took {shown}: {output}", op.name),
        Err(error) => error,
    }
}

fn assert_names(error: &Error, op: &Op, field: &str) {
    assert_eq!(error.kind(), Kind::Invalid, "{}: {error}", op.name);
    let named = error
        .findings()
        .iter()
        .any(|finding| finding.path.contains(field) || finding.message.contains(field));
    assert!(named, "{} does not name {field}: {error}", op.name);
}

/// The number of the newest event and of all tasks.
async fn written(server: &Server) -> (i64, usize) {
    let ctx = server.ctx("default");
    ctx.read(|_, tx| {
        Ok((
            baton::events::head(tx)?,
            tx.query(
                "SELECT task_id FROM tasks WHERE tenant_id = $1",
                &[tx.tenant().into()],
            )?
            .len(),
        ))
    })
    .await
    .unwrap()
}

fn properties(op: &Op) -> &Map<String, Value> {
    op.input_schema["properties"].as_object().unwrap()
}

#[tokio::test]
async fn missing_fields_are_named() {
    let server = Server::start();
    for op in server.app.catalog.ops() {
        let required = op
            .input_schema
            .get("required")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for field in required {
            let field = field.as_str().unwrap();
            let mut input = (op.sample)();
            input.as_object_mut().unwrap().remove(field);
            let error = refused(&server, op, input).await;
            assert_eq!(error.findings()[0].path, format!("/{field}"), "{}", op.name);
        }
    }
    assert_eq!(written(&server).await, (0, 0));
}

#[tokio::test]
async fn mistyped_fields_are_named() {
    let server = Server::start();
    for op in server.app.catalog.ops() {
        for (field, schema) in properties(op) {
            let wrong = match schema.get("type").and_then(Value::as_str) {
                Some("string") => json!({"not": "text"}),
                Some("integer" | "number" | "boolean" | "array" | "object") => {
                    json!("neither number nor list")
                }
                // Any JSON will do for the others.
                _ => continue,
            };
            let mut input = (op.sample)();
            input[field] = wrong;
            assert_names(&refused(&server, op, input).await, op, field);
        }
    }
    assert_eq!(written(&server).await, (0, 0));
}

#[tokio::test]
async fn unknown_fields_are_named() {
    let server = Server::start();
    for op in server.app.catalog.ops() {
        let mut input = (op.sample)();
        input["no_such_field"] = json!(1);
        let error = refused(&server, op, input).await;
        assert_eq!(error.findings()[0].path, "/no_such_field", "{}", op.name);
    }
    assert_eq!(written(&server).await, (0, 0));
}

#[tokio::test]
async fn nul_depth_and_length_are_refused_where_they_stand() {
    let server = Server::start();
    for op in server.app.catalog.ops() {
        for (field, schema) in properties(op) {
            let mut input = (op.sample)();
            let bad = match schema.get("type").and_then(Value::as_str) {
                Some("string") => vec![json!("a\0b"), json!("x".repeat(1 << 20))],
                Some("array") => vec![json!(["a\0b"]), Value::Array(vec![json!("x"); 10_000])],
                Some("object") => {
                    let deep = (0..60).fold(json!(1), |inner, _| json!({"deeper": inner}));
                    vec![json!({"a\0b": 1}), json!({"a": "b\0"}), deep]
                }
                _ => continue,
            };
            for value in bad {
                // A cursor and a few texts have no bound of their own below the message's.
                if matches!(field.as_str(), "cursor") && !value.to_string().contains("u0000") {
                    continue;
                }
                input[field] = value;
                assert_names(&refused(&server, op, input.clone()).await, op, field);
            }
        }
    }
    assert_eq!(written(&server).await, (0, 0));
}

#[tokio::test]
async fn notifications_are_held_to_the_rules_of_their_type() {
    let server = Server::start();
    server.dispatch(json!({"description": "x"})).await;
    let held = server.claim("ada", &[]).await.unwrap();
    let before = written(&server).await;
    for (kind, data, place) in [
        ("progress", json!({}), "progress"),
        ("progress", json!({"progress": 101}), "/data/progress"),
        ("progress", json!({"progress": -1}), "/data/progress"),
        ("task_progress", json!({"progress": "40"}), "/data/progress"),
        (
            "completed",
            json!({"quality_score": 1.5}),
            "/data/quality_score",
        ),
        ("failed", json!({"retryable": true}), "error"),
        ("escalated", json!({"severity": "high"}), "/data"),
        ("started", json!({"progres": 1}), "progres"),
    ] {
        let error = server
            .try_call("task_notify", held.notification(kind, data))
            .await
            .unwrap_err();
        let op = server.app.catalog.op("task_notify").unwrap();
        assert_names(&error, op, place);
    }
    assert_eq!(written(&server).await, before);
}

#[test]
fn every_operation_is_portable_and_says_what_it_is_for() {
    let catalog = baton::catalog::Catalog::new();
    for op in catalog.ops() {
        assert!(
            op.name.len() <= 40
                && op
                    .name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{}",
            op.name
        );
        assert!(
            !op.title.is_empty() && (20..=200).contains(&op.description.len()),
            "{}",
            op.name
        );
        assert!(!op.routes.is_empty(), "{} has no REST route", op.name);
        // What a tenant's tool answers is its own to promise.
        let output = Some(&op.output_schema).filter(|_| op.name != "tool_call");
        for schema in output.into_iter().chain([&op.input_schema]) {
            assert_eq!(schema["type"], "object", "{}", op.name);
            for keyword in ["oneOf", "anyOf", "allOf", "if", "$schema"] {
                assert!(
                    !schema.contains_key(keyword),
                    "{} has {keyword} at the root",
                    op.name
                );
            }
            let text = serde_json::to_string(schema).unwrap();
            for keyword in [
                "\"$ref\"",
                "\"nullable\"",
                "\"null\"",
                "\"oneOf\"",
                "\"type\":[",
            ] {
                assert!(!text.contains(keyword), "{} has {keyword}", op.name);
            }
        }
    }
}
