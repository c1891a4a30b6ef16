//! JSON Schemas of inputs and outputs: made from the types, kept portable, compiled once, checked with all findings.

use std::fmt::Write;

use jsonschema::error::{ValidationError, ValidationErrorKind};
use jsonschema::{Draft, PatternOptions, Validator};
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use crate::error::{Error, Finding, Kind, Result};

/// Levels of arrays and objects in an input; more is an attack or a mistake.
const DEPTH: usize = 32;
/// Findings shown at once; the rest is counted.
const FINDINGS: usize = 20;

/// The schema of what an operation answers: a field that may be left out is not required.
pub(super) fn of_output<T: JsonSchema>() -> Map<String, Value> {
    of::<T>(Contract::Serialize)
}

/// The schema of a type: inlined, an object at the root, without `null` types, which several hosts refuse.
fn of<T: JsonSchema>(contract: Contract) -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
        settings.contract = contract;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut value = Schema::to_value(schema);
    make_portable(&mut value);
    match value {
        Value::Object(mut schema) => {
            schema.remove("title");
            schema
        }
        _ => Map::new(),
    }
}

/// The fields of a schema whose values are secrets.
pub(super) fn hidden(schema: &Map<String, Value>) -> Vec<String> {
    let fields = schema.get("properties").and_then(Value::as_object);
    let fields = fields.into_iter().flatten();
    let hidden = fields.filter(|(_, field)| field["writeOnly"] == true);
    hidden.map(|(name, _)| name.clone()).collect()
}

/// The schema of what an operation takes, or of a file, refusing fields that it does not name.
pub(crate) fn of_input<T: JsonSchema>() -> Map<String, Value> {
    let mut schema = Value::Object(of::<T>(Contract::Deserialize));
    refuse_unknown(&mut schema);
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn refuse_unknown(value: &mut Value) {
    match value {
        Value::Object(schema) => {
            if schema.get("properties").is_some_and(Value::is_object) {
                schema.entry("additionalProperties").or_insert(false.into());
            }
            schema.values_mut().for_each(refuse_unknown);
        }
        Value::Array(values) => values.iter_mut().for_each(refuse_unknown),
        _ => {}
    }
}

/// The fields of an input that are objects with fields of their own.
pub(super) fn nested(schema: &Map<String, Value>) -> Vec<String> {
    let fields = schema.get("properties").and_then(Value::as_object);
    let fields = fields.into_iter().flatten();
    let nested = fields.filter(|(_, field)| field.get("properties").is_some_and(Value::is_object));
    nested.map(|(name, _)| name.clone()).collect()
}

/// An optional field is one that may be absent, so `null` says nothing more; number formats are Rust's, not JSON's.
fn make_portable(value: &mut Value) {
    drop_nulls(value);
    drop_formats(value);
}

/// Takes `null` out of what values may be.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(schema) => {
            if let Some(Value::Array(types)) = schema.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    schema.insert("type".into(), only);
                }
            }
            for choice in ["anyOf", "oneOf"] {
                if let Some(Value::Array(choices)) = schema.get_mut(choice) {
                    choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
                    if let [Value::Object(only)] = choices.as_slice() {
                        let only = only.clone();
                        schema.remove(choice);
                        for (key, value) in only {
                            schema.entry(key).or_insert(value);
                        }
                    }
                }
            }
            if let Some(Value::Array(choices)) = schema.get_mut("enum") {
                choices.retain(|choice| !choice.is_null());
            }
            if schema.get("default").is_some_and(Value::is_null) {
                schema.remove("default");
            }
            if schema.get("nullable").is_some_and(Value::is_boolean) {
                schema.remove("nullable");
            }
            schema.values_mut().for_each(drop_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn drop_formats(value: &mut Value) {
    match value {
        Value::Object(schema) => {
            if schema
                .get("format")
                .is_some_and(|format| format != "date-time")
            {
                schema.remove("format");
            }
            schema.values_mut().for_each(drop_formats);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_formats),
        _ => {}
    }
}

/// Compiles a schema without network or files, and with patterns that run in linear time.
///
/// # Errors
/// What is wrong with the schema.
pub fn compile(schema: &Value) -> std::result::Result<Validator, String> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .offline()
        .should_validate_formats(false)
        .with_pattern_options(
            PatternOptions::regex()
                .size_limit(1 << 20)
                .dfa_size_limit(1 << 20),
        )
        .build(schema)
        .map_err(|error| error.to_string())
}

/// Reads a checked input as its type, which knows more than its schema (that a date exists, say).
pub(crate) fn parse<T: DeserializeOwned>(input: &Value) -> Result<T> {
    T::deserialize(input).or_else(|_| parse_slowly(input.clone()))
}

/// The slower way also knows where. To a schema 60.0 is an integer: where the type wants one, it becomes one.
fn parse_slowly<T: DeserializeOwned>(mut input: Value) -> Result<T> {
    loop {
        let error = match serde_path_to_error::deserialize(&input) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => error,
        };
        let at = pointer(error.path());
        if input.pointer_mut(&at).map_or(0, make_whole) == 0 {
            return Err(Error::invalid_at(at, error.inner().to_string()));
        }
    }
}

/// Writes numbers with a fraction of nothing as integers, and says how many there were.
fn make_whole(value: &mut Value) -> usize {
    // Every integer up to here has a float of its own.
    const MOST: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Array(values) => values.iter_mut().map(make_whole).sum(),
        Value::Object(fields) => fields.values_mut().map(make_whole).sum(),
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole = float.filter(|float| float.fract() == 0.0 && float.abs() <= MOST);
            let Some(whole) = whole else { return 0 };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "it is whole and small enough"
            )]
            let integer = whole as i64;
            *value = integer.into();
            1
        }
        _ => 0,
    }
}

/// A path as JSON Pointer (RFC 6901).
pub fn pointer(path: &Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| {
        let name = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => escape(key),
            Segment::Enum { .. } | Segment::Unknown => return pointer,
        };
        pointer + "/" + &name
    })
}

/// Checks an input against limits that hold for every operation, then against its schema.
///
/// # Errors
/// `invalid_input` with all findings, each with its JSON Pointer.
pub fn check(validator: &Validator, input: &Value) -> Result<()> {
    check_hiding(validator, input, &[])
}

/// As [`check`], but what stands in the fields `hidden` is not repeated in any finding.
///
/// # Errors
/// As [`check`].
pub(super) fn check_hiding(validator: &Validator, input: &Value, hidden: &[String]) -> Result<()> {
    let mut findings = Vec::new();
    if !is_within_bounds(input, 0) {
        bounds(input, &mut String::new(), 0, &mut findings);
    }
    if findings.is_empty() && validator.is_valid(input) {
        return Ok(());
    }
    if findings.is_empty() {
        findings = validator
            .iter_errors(input)
            .flat_map(|error| findings_of(&error, hidden))
            .collect();
    }
    Err(refusal(findings))
}

/// The refusal of an input in which `findings` are wrong.
fn refusal(mut findings: Vec<Finding>) -> Error {
    let more = findings.len().saturating_sub(FINDINGS);
    findings.truncate(FINDINGS);
    let mut message = String::from("the input is not valid: ");
    for (number, finding) in findings.iter().enumerate() {
        let separator = if number == 0 { "" } else { "; " };
        let path = if finding.path.is_empty() {
            "(the whole)"
        } else {
            &finding.path
        };
        let _ = write!(message, "{separator}{path}: {}", finding.message);
    }
    if more > 0 {
        let _ = write!(message, "; and {more} more");
    }
    Error::new(Kind::Invalid, "invalid_input", message).with_findings(findings)
}

/// The same refusal of what stands at `place` in the input.
pub(crate) fn below(error: Error, place: &str) -> Error {
    if error.findings().is_empty() {
        return error;
    }
    let findings = error.findings().iter().map(|finding| Finding {
        path: format!("{place}{}", finding.path),
        message: finding.message.clone(),
    });
    refusal(findings.collect())
}

/// A finding stands where the caller has to look: what is missing or unknown, at its own place.
fn findings_of(error: &ValidationError<'_>, hidden: &[String]) -> Vec<Finding> {
    let here = error.instance_path().to_string();
    let field = here.split('/').nth(1);
    let is_hidden = field.is_some_and(|field| hidden.iter().any(|name| name == field));
    let at = |name: &str, message: &str| Finding {
        path: format!("{here}/{}", escape(name)),
        message: message.to_owned(),
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            vec![at(
                property.as_str().unwrap_or_default(),
                "missing, and required",
            )]
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| at(name, "there is no such field"))
            .collect(),
        _ if is_hidden => vec![Finding {
            message: error.masked().to_string(),
            path: here,
        }],
        _ => vec![Finding {
            message: shorten(&error.to_string()),
            path: here,
        }],
    }
}

/// A name as a segment of a JSON Pointer (RFC 6901).
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Depth, and NUL, which no text may hold.
fn is_within_bounds(value: &Value, depth: usize) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(values) => {
            depth < DEPTH
                && values
                    .iter()
                    .all(|value| is_within_bounds(value, depth + 1))
        }
        Value::Object(fields) => {
            depth < DEPTH
                && fields
                    .iter()
                    .all(|(name, value)| !name.contains('\0') && is_within_bounds(value, depth + 1))
        }
        _ => true,
    }
}

/// Where it is not [`is_within_bounds`], and why. The first finding is enough: these are no mistakes of a model.
fn bounds(value: &Value, path: &mut String, depth: usize, findings: &mut Vec<Finding>) {
    let mut find = |message: String| {
        findings.push(Finding {
            path: path.clone(),
            message,
        });
    };
    match value {
        Value::String(text) if text.contains('\0') => {
            find("text must not hold NUL (U+0000)".into());
        }
        Value::Array(_) | Value::Object(_) if depth >= DEPTH => {
            find(format!("nested deeper than {DEPTH} levels"));
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                descend(&index.to_string(), value, path, depth, findings);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.contains('\0') {
                    let message = "a field's name must not hold NUL (U+0000)".into();
                    findings.push(Finding {
                        path: path.clone(),
                        message,
                    });
                    return;
                }
                descend(&escape(name), value, path, depth, findings);
            }
        }
        _ => {}
    }
}

fn descend(
    segment: &str,
    value: &Value,
    path: &mut String,
    depth: usize,
    findings: &mut Vec<Finding>,
) {
    if !findings.is_empty() {
        return;
    }
    let length = path.len();
    path.push('/');
    path.push_str(segment);
    bounds(value, path, depth + 1, findings);
    path.truncate(length);
}

/// A finding repeats the offending value, which may be a megabyte.
fn shorten(message: &str) -> String {
    const LONGEST: usize = 300;
    match message.char_indices().nth(LONGEST) {
        None => message.to_owned(),
        Some((end, _)) => {
            let tail: String = message
                .chars()
                .rev()
                .take(100)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            format!("{} … {tail}", &message[..end])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_findings_come_at_once_with_their_paths() {
        let validator = compile(&json!({
            "type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}
        }))
        .unwrap();
        let error = check(&validator, &json!({"b": "x", "c": 1})).unwrap_err();
        let paths: Vec<_> = error
            .findings()
            .iter()
            .map(|finding| finding.path.as_str())
            .collect();
        assert_eq!(error.findings().len(), 3, "{error}");
        for path in ["/a", "/b", "/c"] {
            assert!(paths.contains(&path), "{paths:?}");
        }
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        #[derive(serde::Deserialize, PartialEq, Debug)]
        struct Input {
            seconds: u32,
            each: Vec<Option<i64>>,
            any: Value,
        }
        let read = |seconds: Value| {
            parse::<Input>(&json!({"seconds": seconds, "each": [1, 2.0, null], "any": 3.0}))
        };
        let expected = Input {
            seconds: 60,
            each: vec![Some(1), Some(2), None],
            any: json!(3.0),
        };
        assert_eq!(read(json!(60.0)).unwrap(), expected);
        for bad in [json!(60.5), json!(-1.0), json!(1e300), json!("60")] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.findings()[0].path, "/seconds", "{error}");
        }
    }

    #[test]
    fn nul_and_depth_are_refused_wherever_they_stand() {
        let validator = compile(&json!({"type": "object"})).unwrap();
        let error = check(&validator, &json!({"a": [{"b/c": "x\0y"}]})).unwrap_err();
        assert_eq!(error.findings()[0].path, "/a/0/b~1c");
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert!(
            check(&validator, &json!({"a": deep}))
                .unwrap_err()
                .message()
                .contains("32 levels")
        );
    }
}
