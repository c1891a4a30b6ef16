//! What a body over REST may be: the input, where null means absent, and what else holds for it. Hosts of MCP want schemas that
//! say less.

use serde_json::{Map, Value, json};

use super::Op;

impl Op {
    /// The schema of a body, without the fields that the path has; on request with those under their other names.
    pub fn body_schema(&self, in_path: &[&str], with_aliases: bool) -> Value {
        let mut schema = self.input_schema.clone();
        if let Some(Value::Object(fields)) = schema.get_mut("properties") {
            fields.retain(|name, _| !in_path.contains(&name.as_str()));
        }
        if let Some(Value::Array(required)) = schema.get_mut("required") {
            required.retain(|name| name.as_str().is_none_or(|name| !in_path.contains(&name)));
        }
        let mut schema = Value::Object(schema);
        tell_of_null(&mut schema, 1);
        if with_aliases {
            for (alias, name) in self.aliases {
                schema["properties"][*alias] = schema["properties"][*name].clone();
                schema["not"] = json!({ "required": [alias, name] });
            }
        }
        if let Some((rules, _)) = &self.rules {
            schema["allOf"] = json!([conditions(rules)]);
        }
        schema
    }
}

/// A published schema as a part of another.
fn conditions(rules: &Value) -> Value {
    const OWN: [&str; 4] = ["$schema", "$id", "title", "description"];
    let fields = rules.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, _)| !OWN.contains(&name.as_str()));
    let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
    Value::Object(fields.collect())
}

/// Says of the fields of an object what null is: in place of what need not be there, nothing, and otherwise wrong. So it is
/// with the fields of a field too (`levels` more), where a schema names them.
fn tell_of_null(schema: &mut Value, levels: usize) {
    let Value::Object(schema) = schema else {
        return;
    };
    let required = match schema.remove("required") {
        Some(Value::Array(required)) => required,
        _ => Vec::new(),
    };
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        for (name, field) in fields {
            if levels > 0 {
                tell_of_null(field, levels - 1);
            }
            let is_required = required.iter().any(|required| required == name);
            if let Value::Object(field) = field {
                say_of_null(field, is_required);
            }
        }
    }
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
}

fn say_of_null(field: &mut Map<String, Value>, is_required: bool) {
    let is_any = !["type", "enum", "anyOf"]
        .iter()
        .any(|keyword| field.contains_key(*keyword));
    if is_any && is_required {
        field.insert("not".to_owned(), json!({ "type": "null" }));
    }
    if is_any || is_required {
        return;
    }
    match field.get_mut("type") {
        Some(Value::Array(kinds)) => kinds.push("null".into()),
        Some(kind) => *kind = json!([kind, "null"]),
        None => {}
    }
    if let Some(Value::Array(choices)) = field.get_mut("enum") {
        choices.push(Value::Null);
    }
    if let Some(Value::Array(choices)) = field.get_mut("anyOf") {
        choices.push(json!({ "type": "null" }));
    }
}
