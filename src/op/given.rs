//! JSON Schemas that callers give: held to what hosts understand, and bounded before they are compiled, since a few
//! hundred bytes can stand for a schema that takes seconds to check.

use std::collections::HashMap;

use jsonschema::Validator;
use serde_json::{Map, Value};

use super::schema::{compile, drop_nulls};
use crate::error::{Error, Result};

/// Bytes of a schema.
const BYTES: usize = 32 << 10;
/// Levels of arrays and objects in it.
const DEPTH: usize = 32;
/// Values in it once every reference is followed.
const WEIGHT: usize = 10_000;
/// At the root of a tool's schema they make hosts drop the tool.
const NOT_AT_ROOT: [&str; 7] = ["oneOf", "anyOf", "allOf", "not", "if", "enum", "$ref"];
/// Other ways to refer to schemas, which could lead out of the document or around in it, and what would make clients send
/// arguments as headers.
const NOWHERE: [&str; 7] = [
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "x-mcp-header",
];

/// Makes the schema of an object that a caller gave at `path` portable, and compiles it. `null` is no value of its own in
/// what is `taken`, where it means that a field is absent.
///
/// # Errors
/// `invalid_input` says what hosts, or this server, would not bear.
pub fn given(schema: &mut Map<String, Value>, path: &str, taken: bool) -> Result<Validator> {
    let refuse = |at: &str, message: String| Error::invalid_at(format!("{path}{at}"), message);
    schema.entry("type").or_insert("object".into());
    if schema["type"] != "object" {
        let message = "the root of a tool's schema is of type object";
        return Err(refuse("/type", message.into()));
    }
    if let Some(word) = NOT_AT_ROOT.iter().find(|word| schema.contains_key(**word)) {
        let message = format!("many hosts refuse {word} at the root; put it into a property");
        return Err(refuse(&format!("/{word}"), message));
    }
    if let Some(dialect) = schema.remove("$schema") {
        let is_ours = dialect.as_str().is_some_and(|it| it.contains("2020-12"));
        if !is_ours {
            let message = "JSON Schema 2020-12 is the dialect of MCP; leave $schema out";
            return Err(refuse("/$schema", message.into()));
        }
    }
    let mut whole = Value::Object(std::mem::take(schema));
    if taken {
        drop_nulls(&mut whole);
    }
    if whole.to_string().len() > BYTES {
        let message = format!("a schema has at most {BYTES} bytes");
        return Err(refuse("", message));
    }
    let mut scale = Scale {
        root: &whole,
        known: HashMap::new(),
        within: Vec::new(),
    };
    scale
        .weigh(&whole, 0)
        .map_err(|message| refuse("", message))?;
    let validator = compile(&whole).map_err(|message| refuse("", message))?;
    if let Value::Object(fields) = whole {
        *schema = fields;
    }
    Ok(validator)
}

/// How many values a schema stands for.
struct Scale<'a> {
    root: &'a Value,
    /// Of the references that were followed.
    known: HashMap<&'a str, usize>,
    /// The references that are being followed.
    within: Vec<&'a str>,
}

impl<'a> Scale<'a> {
    fn weigh(&mut self, value: &'a Value, depth: usize) -> std::result::Result<usize, String> {
        if depth > DEPTH {
            return Err(format!("a schema is at most {DEPTH} levels deep"));
        }
        let mut weight = 1_usize;
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    // What is no text is a property of that name.
                    if let (true, Value::String(_) | Value::Bool(_)) =
                        (NOWHERE.contains(&name.as_str()), value)
                    {
                        return Err(format!("{name} is not taken here"));
                    }
                    let part = match (name.as_str(), value) {
                        ("$ref", Value::String(reference)) => self.follow(reference, depth)?,
                        _ => self.weigh(value, depth + 1)?,
                    };
                    weight = weight.saturating_add(part);
                }
            }
            Value::Array(values) => {
                for value in values {
                    weight = weight.saturating_add(self.weigh(value, depth + 1)?);
                }
            }
            _ => {}
        }
        if weight > WEIGHT {
            let message =
                format!("the schema stands for more than {WEIGHT} values once $ref is followed");
            return Err(message);
        }
        Ok(weight)
    }

    fn follow(&mut self, reference: &'a str, depth: usize) -> std::result::Result<usize, String> {
        if let Some(weight) = self.known.get(reference) {
            return Ok(*weight);
        }
        if self.within.contains(&reference) {
            return Err(format!("{reference} leads back to itself"));
        }
        let pointer = reference.strip_prefix('#').unwrap_or("nowhere");
        let target = self.root.pointer(pointer).filter(|_| !pointer.is_empty());
        let target = target.ok_or_else(|| {
            format!("$ref leads to #/$defs/… of the same schema, which {reference:?} does not")
        })?;
        self.within.push(reference);
        let weight = self.weigh(target, depth + 1)?;
        self.within.pop();
        self.known.insert(reference, weight);
        Ok(weight)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(schema: Value) -> std::result::Result<Value, String> {
        let mut schema = schema.as_object().cloned().unwrap();
        let made = given(&mut schema, "/parameters", true);
        made.map(|_| Value::Object(schema))
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_hosts_do_not_bear_is_made_portable_or_refused() {
        let portable = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}});
        let nullable = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {
            "a": {"type": ["string", "null"]}, "b": {"anyOf": [{"type": "integer"}, {"type": "null"}], "nullable": true}}});
        assert_eq!(taken(nullable), Ok(portable));
        let doubling = |levels: usize| {
            let mut defs = json!({"d0": {"type": "string"}});
            for level in 1..=levels {
                let below = json!({"$ref": format!("#/$defs/d{}", level - 1)});
                defs[format!("d{level}")] = json!({"allOf": [below, below]});
            }
            json!({"type": "object", "properties": {"a": {"$ref": format!("#/$defs/d{levels}")}}, "$defs": defs})
        };
        assert!(taken(doubling(5)).is_ok());
        for (schema, why) in [
            (json!({"type": "string"}), "/parameters/type"),
            (json!({"oneOf": []}), "/parameters/oneOf"),
            (
                json!({"$schema": "http://json-schema.org/draft-07/schema#"}),
                "2020-12",
            ),
            (
                json!({"properties": {"a": {"$ref": "https://example.com/a"}}}),
                "same schema",
            ),
            (json!({"properties": {"a": {"$ref": "#"}}}), "same schema"),
            (
                json!({"properties": {"a": {"$ref": "#/properties/a"}}}),
                "leads back",
            ),
            (
                json!({"properties": {"a": {"type": "strin"}}}),
                "/parameters",
            ),
            (
                json!({"properties": {"a": {"pattern": "(?=a)"}}}),
                "/parameters",
            ),
            (
                json!({"properties": {"a": {"x-mcp-header": "Region"}}}),
                "x-mcp-header",
            ),
            (json!({"description": "x".repeat(BYTES)}), "bytes"),
            (doubling(25), "10000 values"),
        ] {
            let refused = taken(schema.clone()).expect_err(&schema.to_string());
            assert!(refused.contains(why), "{refused}");
        }
    }
}
