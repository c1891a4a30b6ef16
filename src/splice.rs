//! Sets one value in a JSON text and leaves every other byte as it is: order, indentation, numbers. Pure.

use std::fmt;

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The text with `value` at the keys of `path`, or `None` when it is there already. An empty text is an empty object.
///
/// # Errors
/// The text is not a JSON object, or what lies on the way is none.
pub(super) fn set(text: &str, path: &[&str], value: &Value) -> anyhow::Result<Option<String>> {
    let body = text.trim_start_matches('\u{feff}').trim();
    if body.is_empty() {
        return set("{}\n", path, value);
    }
    let Some(new) = set_in(body, path, value, &Indent::of(body))? else {
        return Ok(None);
    };
    let start = body.as_ptr().addr() - text.as_ptr().addr();
    let (before, after) = (&text[..start], &text[start + body.len()..]);
    Ok(Some(format!("{before}{new}{after}")))
}

/// How a text is indented, and how deep we are in it.
struct Indent {
    unit: String,
    level: usize,
}

impl Indent {
    fn of(text: &str) -> Self {
        let first = text.lines().skip(1).find_map(|line| {
            let space = &line[..line.len() - line.trim_start().len()];
            (!space.is_empty() && line.trim_start().starts_with('"')).then_some(space)
        });
        Self {
            unit: first.unwrap_or("  ").to_owned(),
            level: 0,
        }
    }

    fn deeper(&self) -> Self {
        Self {
            unit: self.unit.clone(),
            level: self.level + 1,
        }
    }

    fn line(&self) -> String {
        format!("\n{}", self.unit.repeat(self.level))
    }

    /// The value over several lines, its later ones indented for this level.
    fn render(&self, value: &Value) -> anyhow::Result<String> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(self.unit.as_bytes());
        value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut text, formatter,
        ))?;
        Ok(String::from_utf8(text)?.replace('\n', &self.line()))
    }
}

fn set_in(
    text: &str,
    path: &[&str],
    value: &Value,
    indent: &Indent,
) -> anyhow::Result<Option<String>> {
    let Some((name, rest)) = path.split_first() else {
        bail!("no key to set");
    };
    let members: Members = serde_json::from_str(text)?;
    let inner = indent.deeper();
    let found = members.0.iter().rev().find(|(key, _)| key == name);
    if let Some((_, raw)) = found {
        let old = raw.get();
        let new = if rest.is_empty() {
            let same = serde_json::from_str::<Value>(old)? == *value;
            if same {
                None
            } else {
                Some(inner.render(value)?)
            }
        } else {
            set_in(old, rest, value, &inner).with_context(|| format!("in {name:?}"))?
        };
        let start = old.as_ptr().addr() - text.as_ptr().addr();
        return Ok(new.map(|new| format!("{}{new}{}", &text[..start], &text[start + old.len()..])));
    }
    let nested = rest
        .iter()
        .rev()
        .fold(value.clone(), |value, key| json!({*key: value}));
    let member = format!(
        "{}{}: {}",
        inner.line(),
        json!(name),
        inner.render(&nested)?
    );
    Ok(Some(match members.0.last() {
        Some((_, last)) => {
            let end = last.get().as_ptr().addr() - text.as_ptr().addr() + last.get().len();
            let rest = &text[end..];
            let rest = if rest.contains('\n') {
                rest.to_owned()
            } else {
                indent.line() + rest.trim_start()
            };
            format!("{},{member}{rest}", &text[..end])
        }
        None => format!("{{{member}{}}}", indent.line()),
    }))
}

/// The members of an object, in their order, with the text of each value.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_stay_as_they_are() {
        let entry = json!({"command": "baton", "args": ["stdio"]});
        for (before, after) in [
            (
                "",
                "{\n  \"mcpServers\": {\n    \"baton\": {\n      \"args\": [\n        \"stdio\"\n      ],\n      \"command\": \"baton\"\n    }\n  }\n}\n",
            ),
            (
                "{\"z\": 1.50, \"mcpServers\": {\"other\": {\"command\":\"x\"}}, \"a\": 2}",
                "{\"z\": 1.50, \"mcpServers\": {\"other\": {\"command\":\"x\"},\n    \"baton\": {\n      \"args\": [\n        \"stdio\"\n      ],\n      \"command\": \"baton\"\n    }\n  }, \"a\": 2}",
            ),
            (
                "{\n\t\"mcpServers\": {\n\t\t\"baton\": {\"command\": \"old\"},\n\t\t\"x\": {}\n\t}\n}\n",
                "{\n\t\"mcpServers\": {\n\t\t\"baton\": {\n\t\t\t\"args\": [\n\t\t\t\t\"stdio\"\n\t\t\t],\n\t\t\t\"command\": \"baton\"\n\t\t},\n\t\t\"x\": {}\n\t}\n}\n",
            ),
            (
                "\u{feff}{\n  \"b\": 1e2\n}\n",
                "\u{feff}{\n  \"b\": 1e2,\n  \"mcpServers\": {\n    \"baton\": {\n      \"args\": [\n        \"stdio\"\n      ],\n      \"command\": \"baton\"\n    }\n  }\n}\n",
            ),
        ] {
            let path = ["mcpServers", "baton"];
            let once = set(before, &path, &entry).unwrap().unwrap();
            assert_eq!(once, after);
            let value: Value = serde_json::from_str(once.trim_start_matches('\u{feff}')).unwrap();
            assert_eq!(value["mcpServers"]["baton"], entry);
            assert_eq!(set(&once, &path, &entry).unwrap(), None, "again");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in [
            "{ // a comment\n}",
            "{\"mcpServers\": {},}",
            "[]",
            "{\"mcpServers\": []}",
            "{\"mcpServers\": null}",
            "{",
        ] {
            assert!(
                set(bad, &["mcpServers", "baton"], &json!({})).is_err(),
                "{bad}"
            );
        }
    }
}
