//! What a command prints on its way and at its end: progress lines, a last JSON value, or text. Pure.
//!
//! A line `{"progress": 40, "current_step": "…"}` is progress. What remains is the result: the last JSON value, else
//! the text, both bounded.

use serde_json::{Map, Value};

/// Bytes of standard output kept for the result; a server takes an input of at most 1 MiB.
const KEPT: usize = 768 * 1024;
/// Bytes of a text that becomes the result.
const TEXT: usize = 64 * 1024;
/// Fields of a progress line; an object with others is no progress line.
const PROGRESS_FIELDS: [&str; 5] = [
    "progress",
    "current_step",
    "intermediate_results",
    "challenges",
    "opportunities",
];
/// Fields of a last value that speaks of more than the result; an object with others is the result itself.
const OUTCOME_FIELDS: [&str; 4] = ["result", "summary", "next_steps", "retryable"];

/// Standard output as it comes.
#[derive(Debug, Default)]
pub(super) struct Output {
    line: Vec<u8>,
    kept: Vec<u8>,
    cut: bool,
}

/// What a command had to say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    /// Its result; `None` when it printed nothing.
    pub(super) result: Option<Value>,
    /// Its own words about what it did.
    pub(super) summary: Option<Value>,
    /// What it thinks should come next.
    pub(super) next_steps: Vec<String>,
    /// Whether a failure is worth another attempt.
    pub(super) retryable: Option<bool>,
    /// Whether the result is only the end of what it printed.
    pub(super) cut: bool,
}

impl Output {
    /// Takes what was printed; returns the newest progress in it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Map<String, Value>> {
        let mut newest = None;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() > KEPT {
                newest = self.end_line().or(newest);
            }
        }
        newest
    }

    /// Ends the line that is being printed; returns it if it is progress, else keeps it.
    pub(super) fn end_line(&mut self) -> Option<Map<String, Value>> {
        let line = std::mem::take(&mut self.line);
        let progress = progress(&line);
        if progress.is_none() {
            self.kept.extend_from_slice(&line);
            // Cutting only at double the bound keeps this from being quadratic.
            if self.kept.len() > 2 * KEPT {
                self.keep_end();
            }
        }
        progress
    }

    fn keep_end(&mut self) {
        if self.kept.len() > KEPT {
            self.kept.drain(..self.kept.len() - KEPT);
            self.cut = true;
        }
    }

    /// What the command had to say, after its last line.
    pub(super) fn finish(mut self) -> Said {
        self.end_line();
        self.keep_end();
        let text = String::from_utf8_lossy(&self.kept);
        let text = text.trim();
        if text.is_empty() {
            return Said::default();
        }
        match last_json(text) {
            Some(value) => Said::of_json(value),
            None => Said {
                result: Some(tail(text, TEXT).into()),
                cut: self.cut || text.len() > TEXT,
                ..Said::default()
            },
        }
    }
}

impl Said {
    fn of_json(value: Value) -> Self {
        match value {
            Value::Object(mut fields)
                if fields.contains_key("result")
                    && fields.keys().all(|key| OUTCOME_FIELDS.contains(&&**key)) =>
            {
                Self {
                    result: fields.remove("result").filter(|result| !result.is_null()),
                    summary: fields.remove("summary"),
                    next_steps: match fields.remove("next_steps") {
                        Some(Value::String(step)) => vec![step],
                        Some(Value::Array(steps)) => steps
                            .iter()
                            .filter_map(|step| step.as_str().map(str::to_owned))
                            .collect(),
                        _ => Vec::new(),
                    },
                    retryable: fields.get("retryable").and_then(Value::as_bool),
                    cut: false,
                }
            }
            value => Self {
                result: Some(value),
                ..Self::default()
            },
        }
    }
}

/// The line as a progress report, if it is one.
fn progress(line: &[u8]) -> Option<Map<String, Value>> {
    let line = line.trim_ascii();
    if !line.starts_with(b"{") {
        return None;
    }
    let fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let is_progress = fields.get("progress").is_some_and(Value::is_number)
        && fields.keys().all(|key| PROGRESS_FIELDS.contains(&&**key));
    is_progress.then_some(fields)
}

/// The JSON value that `text` is, or the object or array that it ends with. A number at the end of a text is not meant
/// as its result, so other values count only when they are all there is.
fn last_json(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    if !text.ends_with(['}', ']']) {
        return None;
    }
    // The value begins at the start of some line: the last one from which all that follows is one value.
    let starts = text.match_indices('\n').map(|(at, _)| at + 1).rev();
    for start in starts.take(20_000) {
        let rest = &text[start..];
        if rest.trim_start().starts_with(['{', '['])
            && let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(rest)
        {
            return Some(value);
        }
    }
    None
}

/// The last `bytes` bytes of `text`, from the start of a character on.
pub(super) fn tail(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(text: &str) -> Said {
        let mut output = Output::default();
        output.push(text.as_bytes());
        output.finish()
    }

    #[test]
    fn the_last_json_value_is_the_result() {
        for (text, result) in [
            ("{\"a\":1}", json!({"a": 1})),
            ("log line\n{\"a\":1}\n", json!({"a": 1})),
            ("{\"a\":1}\n{\"a\":2}\n", json!({"a": 2})),
            ("x\n{\n  \"a\": [\n    1\n  ]\n}\n", json!({"a": [1]})),
            ("x\n[\n  {\n    \"a\": 1\n  }\n]\n", json!([{"a": 1}])),
            ("42\n", json!(42)),
            ("3 files\n17\n", json!("3 files\n17")),
            ("{\"a\":1}\ndone\n", json!("{\"a\":1}\ndone")),
            ("{\"progress\":5}\nhello\n", json!("hello")),
            (
                "{\"progress\":5,\"other\":1}\n",
                json!({"progress": 5, "other": 1}),
            ),
        ] {
            assert_eq!(said(text).result, Some(result), "{text:?}");
        }
        assert_eq!(said("\n \n{\"progress\": 3}"), Said::default());
    }

    #[test]
    fn a_last_value_may_carry_more_than_the_result() {
        let all = said(
            r#"{"result":{"n":1},"summary":"did it","next_steps":["rest"],"retryable":false}"#,
        );
        assert_eq!(all.result, Some(json!({"n": 1})));
        assert_eq!(all.summary, Some(json!("did it")));
        assert_eq!(all.next_steps, ["rest"]);
        assert_eq!(all.retryable, Some(false));
        let own = json!({"result": 1, "mine": 2});
        assert_eq!(said(&own.to_string()).result, Some(own));
    }

    #[test]
    fn progress_is_found_over_any_split_of_the_bytes() {
        let text = b"a\n{\"progress\": 40, \"current_step\": \"x\"}\nb\n{\"progress\": 50}\n";
        for size in 1..text.len() {
            let mut output = Output::default();
            let found: Vec<_> = text
                .chunks(size)
                .filter_map(|part| output.push(part))
                .collect();
            assert_eq!(found.last().unwrap()["progress"], 50, "{size}");
            assert_eq!(output.finish().result, Some(json!("a\nb")), "{size}");
        }
    }

    #[test]
    fn endless_output_is_bounded_and_says_so() {
        let mut output = Output::default();
        for _ in 0..400 {
            output.push(&[b'x'; 10_000]);
        }
        output.push(b"\nthe end");
        let said = output.finish();
        assert!(said.cut);
        let text = said.result.unwrap();
        let text = text.as_str().unwrap();
        assert!(text.len() <= TEXT && text.ends_with("the end"));
    }
}
