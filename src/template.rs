//! Texts with `{name}` where an argument goes, and JSON whose texts are such. What is not the name of an argument stays as
//! it stands, so that braces mean nothing else.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The parts of `text`: what stands before a name, the name, and what stands behind the last one.
fn parts(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut from = 0;
        while let Some(open) = text[from..].find('{').map(|at| from + at) {
            let inside = &text[open + 1..];
            let end = inside.find(|c: char| !is_of_a_name(c));
            match end.filter(|end| *end > 0 && inside[*end..].starts_with('}')) {
                Some(end) => {
                    rest = Some(&inside[end + 1..]);
                    return Some((&text[..open], Some(&inside[..end])));
                }
                None => from = open + 1,
            }
        }
        rest = None;
        Some((text, None))
    })
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || "_-.$/+~".contains(c)
}

/// The names in `text`.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    parts(text).filter_map(|(_, name)| name.map(|name| name.trim_start_matches('+')))
}

/// The name, where `text` is nothing but one.
pub(crate) fn whole(text: &str) -> Option<&str> {
    let mut parts = parts(text);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(("", Some(name))), Some(("", None)), None) => Some(name.trim_start_matches('+')),
        _ => None,
    }
}

/// `text` with what `known` says of its names; what is not known stays.
pub(crate) fn fill(text: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    for (before, name) in parts(text) {
        filled.push_str(before);
        if let Some(name) = name {
            match known(name) {
                Some(value) => filled.push_str(&value),
                None => filled.extend(["{", name, "}"]),
            }
        }
    }
    filled
}

/// A URL with arguments in the place of their names: each stays one segment of the path, or one value of the query.
///
/// # Errors
/// `invalid_input` for an argument that would be no segment of its own.
pub(crate) fn url(template: &str, arguments: &Map<String, Value>) -> Result<String> {
    let is_bad = |name: &&str| {
        let value = arguments.get(*name).map(text);
        value.is_some_and(|it| matches!(it.as_str(), "." | ".." | ""))
    };
    if let Some(name) = names(template).find(is_bad) {
        let message = "must not be empty, . or ..: it is a part of a path";
        return Err(Error::invalid_at(format!("/{name}"), message));
    }
    let filled = |name: &str| arguments.get(name).map(|value| percent(&text(value)));
    Ok(fill(template, &filled))
}

/// A value as people write it.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What `text` comes to: the argument itself where it is nothing but its name, none where there is no such argument.
pub(crate) fn value(text: &str, arguments: &Map<String, Value>) -> Option<Value> {
    if let Some(name) = whole(text) {
        return arguments.get(name).cloned();
    }
    let filled = fill(text, &|name| arguments.get(name).map(self::text));
    Some(filled.into())
}

/// JSON with arguments in the place of their names. Members and items without a value are left out.
pub(crate) fn json(value: &Value, arguments: &Map<String, Value>) -> Option<Value> {
    match value {
        Value::String(text) => self::value(text, arguments),
        Value::Array(items) => {
            let items = items.iter().filter_map(|item| json(item, arguments));
            Some(Value::Array(items.collect()))
        }
        Value::Object(fields) => Some(Value::Object(object(fields, arguments))),
        other => Some(other.clone()),
    }
}

/// As [`json`], of an object.
pub(crate) fn object(
    fields: &Map<String, Value>,
    arguments: &Map<String, Value>,
) -> Map<String, Value> {
    let fields = fields.iter();
    let fields = fields.filter_map(|(name, value)| Some((name.clone(), json(value, arguments)?)));
    fields.collect()
}

/// Adds names and values to a URL; a list is its values one by one.
pub(crate) fn add_query(url: &mut String, query: &Map<String, Value>) {
    for (name, value) in query {
        let one = std::slice::from_ref(value);
        let values = value.as_array().map_or(one, Vec::as_slice);
        for value in values.iter().filter(|value| !value.is_null()) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.extend([&*percent(name), "=", &*percent(&text(value))]);
        }
    }
}

/// With everything but unreserved characters (RFC 3986) as `%41`.
fn percent(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            let [high, low] = [byte >> 4, byte & 15].map(|four| DIGITS[usize::from(four)]);
            escaped.extend(['%', high.into(), low.into()]);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments() -> Map<String, Value> {
        let all = json!({"city": "São Paulo/x", "n": 3, "list": ["a b", 2], "deep": {"a": null}, "dots": ".."});
        all.as_object().cloned().unwrap()
    }

    #[test]
    fn arguments_stand_where_their_names_did() {
        let all = arguments();
        assert_eq!(
            super::url("https://e.x/{city}/{n}?q={city}", &all).unwrap(),
            "https://e.x/S%C3%A3o%20Paulo%2Fx/3?q=S%C3%A3o%20Paulo%2Fx"
        );
        assert!(super::url("https://e.x/{dots}", &all).is_err());
        let template = json!({"whole": "{deep}", "n": "{n}", "text": "{n} in {city}", "none": "{none}", "items": ["{none}", "{n}"], "query": "query { user(id: 1) { name } }"});
        let expected = json!({"whole": {"a": null}, "n": 3, "text": "3 in São Paulo/x", "items": [3], "query": "query { user(id: 1) { name } }"});
        assert_eq!(super::json(&template, &all), Some(expected));
        assert_eq!(
            (whole("{+url}"), whole("{a}b"), whole("")),
            (Some("url"), None, None)
        );
        assert_eq!(
            names("{a}{b-c} { d } {+e}").collect::<Vec<_>>(),
            ["a", "b-c", "e"]
        );
        let mut url = "https://e.x/?a=1".to_owned();
        let query = json!({"list": ["a b", 2], "none": null});
        add_query(&mut url, query.as_object().unwrap());
        assert_eq!(url, "https://e.x/?a=1&list=a%20b&list=2");
    }
}
