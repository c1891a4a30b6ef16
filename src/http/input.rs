//! One input object from path, query string and body. Texts become what the input's schema says that they are; whether
//! they fit is the operation's own check.

use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Fields that a place of the request names, as texts.
pub(super) type Texts = Vec<(String, String)>;

/// Adds what `place` says to `input`. A field that is named in two places must have one value.
///
/// # Errors
/// `invalid_input` with the field's path when two places disagree.
pub(super) fn add(
    input: &mut Map<String, Value>,
    schema: &Map<String, Value>,
    place: &str,
    texts: Texts,
) -> Result<()> {
    for (name, values) in by_name(texts) {
        let field = schema
            .get("properties")
            .and_then(|fields| fields.get(&name));
        let value = parse(field, &name, &values)?;
        match input.get(&name) {
            Some(other) if *other != value => {
                return Err(disagreement(
                    &name,
                    &format!("the {place} says {value}, another place of the request {other}"),
                ));
            }
            Some(_) => {}
            None => {
                input.insert(name, value);
            }
        }
    }
    Ok(())
}

fn disagreement(name: &str, what: &str) -> Error {
    let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
    Error::invalid_at(pointer, format!("{what}; give it once"))
}

/// Values of the same name together, in the order in which names first appear.
fn by_name(texts: Texts) -> Vec<(String, Vec<String>)> {
    let mut names: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in texts {
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => names.push((name, vec![value])),
        }
    }
    names
}

fn parse(field: Option<&Value>, name: &str, values: &[String]) -> Result<Value> {
    if takes(field, "array") && !takes(field, "string") {
        let items = field.and_then(|field| field.get("items"));
        let mut list = Vec::new();
        for text in values {
            match serde_json::from_str(text) {
                Ok(Value::Array(whole)) => list.extend(whole),
                _ => list.extend(
                    text.split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty())
                        .map(|item| single(items, item)),
                ),
            }
        }
        return Ok(Value::Array(list));
    }
    let (first, others) = values
        .split_first()
        .ok_or_else(|| Error::internal("a field without a value"))?;
    if others.iter().any(|other| other != first) {
        return Err(disagreement(name, "it has two values and takes one"));
    }
    Ok(single(field, first))
}

/// A text that is not what the field takes stays a text, so that the schema's finding shows it.
fn single(field: Option<&Value>, text: &str) -> Value {
    if takes(field, "string") {
        return Value::from(text);
    }
    let boolean = || match text {
        "true" if takes(field, "boolean") => Some(Value::Bool(true)),
        "false" if takes(field, "boolean") => Some(Value::Bool(false)),
        _ => None,
    };
    let integer = || {
        let numeric = takes(field, "integer") || takes(field, "number");
        let signed = text.parse::<i64>().ok().map(Number::from);
        signed
            .or_else(|| text.parse::<u64>().ok().map(Number::from))
            .filter(|_| numeric)
            .map(Value::Number)
    };
    let number = || {
        let number = text.parse::<f64>().ok().and_then(Number::from_f64);
        number.filter(|_| takes(field, "number")).map(Value::Number)
    };
    let object = || {
        serde_json::from_str(text)
            .ok()
            .filter(|value: &Value| value.is_object() && takes(field, "object"))
    };
    boolean()
        .or_else(integer)
        .or_else(number)
        .or_else(object)
        .unwrap_or_else(|| Value::from(text))
}

/// Whether a field's schema says that it takes `kind`, at the top or in a choice.
fn takes(field: Option<&Value>, kind: &str) -> bool {
    let Some(field) = field else { return false };
    let typed = match field.get("type") {
        Some(Value::String(only)) => only == kind,
        Some(Value::Array(kinds)) => kinds.iter().any(|one| one == kind),
        _ => false,
    };
    typed
        || ["anyOf", "oneOf"].iter().any(|choice| {
            field
                .get(choice)
                .and_then(Value::as_array)
                .is_some_and(|choices| choices.iter().any(|choice| takes(Some(choice), kind)))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Map<String, Value> {
        let schema = json!({"type": "object", "properties": {
            "task_id": {"type": "string"},
            "limit": {"type": "integer"},
            "share": {"type": "number"},
            "deep": {"type": "boolean"},
            "states": {"type": "array", "items": {"type": "string"}},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "filter": {"type": "object"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        }});
        schema.as_object().cloned().unwrap()
    }

    fn merged(body: Value, place: &str, texts: &[(&str, &str)]) -> Result<Value> {
        let mut input = body.as_object().cloned().unwrap();
        let texts = texts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        add(&mut input, &schema(), place, texts)?;
        Ok(Value::Object(input))
    }

    #[test]
    fn texts_become_what_the_schema_says() {
        let cases: [(&[(&str, &str)], Value); 12] = [
            (&[("task_id", "007")], json!({"task_id": "007"})),
            (&[("limit", "7")], json!({"limit": 7})),
            (&[("limit", "seven")], json!({"limit": "seven"})),
            (&[("limit", "")], json!({"limit": ""})),
            (&[("share", "0.5")], json!({"share": 0.5})),
            (&[("deep", "true")], json!({"deep": true})),
            (
                &[("states", "a, b"), ("states", "c")],
                json!({"states": ["a", "b", "c"]}),
            ),
            (&[("sizes", "[1, 2]")], json!({"sizes": [1, 2]})),
            (&[("sizes", "1,x")], json!({"sizes": [1, "x"]})),
            (&[("filter", r#"{"a": 1}"#)], json!({"filter": {"a": 1}})),
            (&[("either", "false")], json!({"either": false})),
            (&[("unknown", "5")], json!({"unknown": "5"})),
        ];
        for (texts, expected) in cases {
            assert_eq!(merged(json!({}), "query", texts).unwrap(), expected);
        }
    }

    #[test]
    fn two_places_must_agree() {
        let same = merged(json!({"task_id": "a"}), "path", &[("task_id", "a")]);
        assert_eq!(same.unwrap(), json!({"task_id": "a"}));
        let error = merged(json!({"task_id": "b"}), "path", &[("task_id", "a")]).unwrap_err();
        assert_eq!(error.code(), "invalid_input");
        assert_eq!(error.findings()[0].path, "/task_id");
        let error = merged(json!({}), "query", &[("limit", "1"), ("limit", "2")]).unwrap_err();
        assert_eq!(error.findings()[0].path, "/limit");
    }
}
