//! What clients rely on: every operation's fields, routes and effects. A change here is a change for them.

use baton::catalog::Catalog;
use serde_json::{Map, Value, json};

#[test]
fn operations_are_what_clients_know() {
    let mut operations = Map::new();
    for op in Catalog::new().ops() {
        let routes: Vec<String> = op
            .routes
            .iter()
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        let known = json!({
            "effect": format!("{:?}", op.effect), "idempotent": op.idempotent, "permission": op.permission,
            "routes": routes, "input": op.input_schema, "output": op.output_schema,
        });
        operations.insert(op.name.to_owned(), known);
    }
    insta::assert_json_snapshot!(Value::Object(operations));
}
