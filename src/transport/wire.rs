//! JSON text on one side, rmcp's messages on the other: what a line of stdio or the body of a POST holds, and the
//! JSON-RPC error for what is no message. Methods and their parameters are the handler's business.

use crate::mcp::keep_task_ids;
use rmcp::model::{CallToolRequest, ClientJsonRpcMessage, ClientRequest, ErrorData, RequestId};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The longest message that is read.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The most messages in one batch; without it, a megabyte of small requests asks for gigabytes of answers.
pub(super) const MAX_BATCH: usize = 100;
/// How deep `serde_json` follows arrays and objects.
const MAX_DEPTH: usize = 127;

/// What one line or body holds.
#[derive(Debug)]
pub(super) enum Frame {
    /// One message.
    One(Item),
    /// A batch of 2025-03-26: its answers go back together, in one array.
    Batch(Vec<Item>),
}

/// A message to forward, or the error to send in its stead.
pub(super) type Item = Result<Box<ClientJsonRpcMessage>, Box<Refusal>>;

/// The JSON-RPC error for text that does not reach the handler.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The request's id; null on the wire when it could not be read.
    pub(super) id: Option<RequestId>,
    /// What is wrong.
    pub(super) error: ErrorData,
}

impl Refusal {
    /// -32700: the text is not JSON.
    pub(super) fn parse(message: impl Into<String>) -> Self {
        Self {
            id: None,
            error: ErrorData::parse_error(message.into(), None),
        }
    }

    /// -32600: JSON, but no request that can be served.
    pub(super) fn invalid(id: Option<RequestId>, message: impl Into<String>) -> Self {
        Self {
            id,
            error: ErrorData::invalid_request(message.into(), None),
        }
    }

    /// -32600: the message is longer than [`MAX_BYTES`].
    pub(super) fn too_long() -> Self {
        Self::invalid(
            None,
            format!("the message is longer than the limit of {MAX_BYTES} bytes (1 MiB)"),
        )
    }

    /// -32600: the revision that was agreed on has no batches.
    pub(super) fn no_batch() -> Self {
        let message = "batches are for sessions of 2025-03-26; send one message at a time";
        Self::invalid(None, message)
    }

    /// As it goes over the wire. rmcp's own type leaves a missing id out; JSON-RPC wants it to be null.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"jsonrpc": "2.0", "id": self.id, "error": self.error})
    }
}

/// Reads one line or body. `None` for blank text, which is not worth an answer.
pub(super) fn read(text: &[u8]) -> Option<Frame> {
    if text.len() > MAX_BYTES {
        return Some(refused(Refusal::too_long()));
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.trim_matches([' ', '\t', '\r', '\n']),
        Err(error) => {
            return Some(refused(Refusal::parse(format!(
                "the message is not UTF-8: byte {} is not part of a character",
                error.valid_up_to()
            ))));
        }
    };
    match text.as_bytes().first()? {
        b'{' => Some(Frame::One(item(text))),
        b'[' => Some(batch(text)),
        _ => Some(refused(
            match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                Ok(_) => neither_object_nor_array(),
                Err(error) => not_json(&error),
            },
        )),
    }
}

fn refused(refusal: Refusal) -> Frame {
    Frame::One(Err(Box::new(refusal)))
}

fn neither_object_nor_array() -> Refusal {
    Refusal::invalid(None, "a message is a JSON object")
}

fn not_json(error: &serde_json::Error) -> Refusal {
    if error.to_string().starts_with("recursion limit") {
        return Refusal::parse(format!(
            "the message is nested deeper than the limit of {MAX_DEPTH} levels"
        ));
    }
    Refusal::parse(format!("the message is not JSON: {error}"))
}

fn batch(text: &str) -> Frame {
    match split(text) {
        Ok(items) => Frame::Batch(items.into_iter().map(one).collect()),
        Err(refusal) => refused(refusal),
    }
}

/// The texts of a batch's messages.
pub(super) fn split(text: &str) -> Result<Vec<&str>, Refusal> {
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    if items.is_empty() {
        return Err(Refusal::invalid(None, "a batch has at least one message"));
    }
    if items.len() > MAX_BATCH {
        let message = format!(
            "the batch has {} messages, the limit is {MAX_BATCH}",
            items.len()
        );
        return Err(Refusal::invalid(None, message));
    }
    Ok(items.into_iter().map(RawValue::get).collect())
}

/// Reads one message of a batch.
pub(super) fn one(text: &str) -> Item {
    if text.starts_with('{') {
        item(text)
    } else {
        Err(Box::new(neither_object_nor_array()))
    }
}

/// The id of the request in `text`, if there is one.
pub(super) fn id(text: &[u8]) -> Option<RequestId> {
    let envelope: Envelope<'_> = serde_json::from_slice(text).ok()?;
    serde_json::from_str(envelope.id?.get()).ok()
}

/// What has to be known before rmcp's types are tried: they fail without saying at what.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Keeps a null apart from a missing member.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

fn item(text: &str) -> Item {
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
        Box::new(if error.is_data() {
            Refusal::invalid(None, format!("not a JSON-RPC message: {error}"))
        } else {
            not_json(&error)
        })
    })?;
    let id = envelope.id.map(|raw| serde_json::from_str(raw.get()));
    let known = id.as_ref().and_then(|id| id.as_ref().ok());
    let invalid = |message: &str| Err(Box::new(Refusal::invalid(known.cloned(), message)));
    if envelope.jsonrpc.map(RawValue::get) != Some("\"2.0\"") {
        return invalid("`jsonrpc` must be \"2.0\"");
    }
    let answers = envelope.result.is_some() || envelope.error.is_some();
    match (envelope.method.map(RawValue::get), &id) {
        (Some(_), Some(Err(_))) => invalid("`id` must be a string or an integer, and not null"),
        (Some(method), _) if !method.starts_with('"') => invalid("`method` must be a string"),
        // rmcp refuses these as -32600 without a word on what is wrong.
        _ if !params_fit(envelope.params) => Err(Box::new(Refusal {
            id: known.cloned(),
            error: ErrorData::invalid_params("`params` must be an object", None),
        })),
        (Some("\"tools/call\""), Some(Ok(id))) => call(text, id),
        (Some(method), Some(Ok(id))) if !cursor_fits(envelope.params) => {
            Err(Box::new(bad_cursor(method, id.clone())))
        }
        (Some(_), id) => message(text, id.as_ref().and_then(|id| id.as_ref().ok())),
        (None, _) if answers => message(text, known),
        (None, _) => invalid("`method` is missing"),
    }
}

fn params_fit(params: Option<&RawValue>) -> bool {
    params.is_none_or(|raw| raw.get() == "null" || raw.get().starts_with('{'))
}

/// rmcp takes params of a list that it can't read for none at all, and answers with the first page.
fn cursor_fits(params: Option<&RawValue>) -> bool {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        cursor: Option<&'a RawValue>,
    }
    let page = params.and_then(|raw| serde_json::from_str::<Page<'_>>(raw.get()).ok());
    let cursor = page.and_then(|page| page.cursor);
    cursor.is_none_or(|cursor| cursor.get().starts_with('"'))
}

fn bad_cursor(method: &str, id: RequestId) -> Refusal {
    let message = format!(
        "{}: /params/cursor: must be a string",
        method.trim_matches('"')
    );
    let data = serde_json::json!({"path": "/params/cursor"});
    Refusal {
        id: Some(id),
        error: ErrorData::invalid_params(message, Some(data)),
    }
}

/// What is wrong with a message that rmcp would read all the same.
pub(super) fn misread(text: &[u8]) -> Option<Refusal> {
    // Only a cursor is, and few messages have one.
    if !text.windows(8).any(|word| word == b"\"cursor\"") {
        return None;
    }
    let envelope: Envelope<'_> = serde_json::from_slice(text).ok()?;
    let (method, id) = (envelope.method?.get(), envelope.id?.get());
    if method == "\"tools/call\"" || cursor_fits(envelope.params) {
        return None;
    }
    Some(bad_cursor(method, serde_json::from_str(id).ok()?))
}

/// The most frequent message without the detour through rmcp's untagged union, which costs three times as much.
fn call(text: &str, id: &RequestId) -> Item {
    match serde_json::from_str::<CallToolRequest>(text) {
        Ok(request) => Ok(Box::new(ClientJsonRpcMessage::request(
            ClientRequest::CallToolRequest(request),
            id.clone(),
        ))),
        Err(_) => message(text, Some(id)),
    }
}

fn message(text: &str, id: Option<&RequestId>) -> Item {
    let mut message = serde_json::from_str(text).map_err(|error| {
        Box::new(if error.is_data() {
            Refusal::invalid(id.cloned(), format!("not a JSON-RPC message: {error}"))
        } else {
            not_json(&error)
        })
    })?;
    keep_task_ids(&mut message, text.as_bytes());
    Ok(Box::new(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ok`, or the error as `code id message`, for each message in the text.
    fn outcome(text: &str) -> String {
        let show = |item: &Item| match item {
            Ok(_) => "ok".to_owned(),
            Err(refusal) => format!(
                "{} {} {}",
                refusal.error.code.0,
                serde_json::json!(refusal.id),
                refusal.error.message
            ),
        };
        match read(text.as_bytes()) {
            None => "nothing".to_owned(),
            Some(Frame::One(item)) => show(&item),
            Some(Frame::Batch(items)) => {
                let items: Vec<_> = items.iter().map(show).collect();
                format!("[{}]", items.join(" | "))
            }
        }
    }

    #[test]
    fn every_kind_of_text_has_its_outcome() {
        let cases = [
            ("", "nothing"),
            (" \r", "nothing"),
            (r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#, "ok"),
            (
                r#"{"jsonrpc":"2.0","id":"a","method":"no/such","params":{"a":[1]}}"#,
                "ok",
            ),
            (
                r#"{"jsonrpc":"2.0","id":"a","method":"no/such","params":[1]}"#,
                "-32602 \"a\" `params` must be an object",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5}}"#,
                "ok",
            ),
            (r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, "ok"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "ok"),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
                "-32600 null `id` must be a string or an integer, and not null",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
                "-32600 null `id` must be a string or an integer, and not null",
            ),
            (
                r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
                "-32600 7 `jsonrpc` must be \"2.0\"",
            ),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":3}"#,
                "-32600 \"x\" `method` must be a string",
            ),
            (
                r#"{"jsonrpc":"2.0","id":7}"#,
                "-32600 7 `method` is missing",
            ),
            ("7", "-32600 null a message is a JSON object"),
            (
                "garbage",
                "-32700 null the message is not JSON: expected value at line 1 column 1",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"met"#,
                "-32700 null the message is not JSON: EOF while parsing a string at line 1 column 28",
            ),
            ("[]", "-32600 null a batch has at least one message"),
            (
                r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},3]"#,
                "[ok | -32600 null a message is a JSON object]",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(outcome(text), expected, "for {text}");
        }
    }

    #[test]
    fn limits_are_named_with_their_value() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a","arguments":{{"x":{}{}}}}}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        assert_eq!(
            outcome(&deep),
            "-32700 null the message is nested deeper than the limit of 127 levels"
        );
        let many = format!("[{}1]", "1,".repeat(MAX_BATCH));
        assert_eq!(
            outcome(&many),
            "-32600 null the batch has 101 messages, the limit is 100"
        );
        assert_eq!(
            outcome(&" ".repeat(MAX_BYTES + 1)),
            "-32600 null the message is longer than the limit of 1048576 bytes (1 MiB)"
        );
    }

    #[test]
    fn an_id_keeps_its_type() {
        for id in ["0", "-3", "\"0\"", "\"\"", "9007199254740993"] {
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a"}}}}"#
            );
            let Some(Frame::One(Ok(message))) = read(text.as_bytes()) else {
                panic!("{text} is a request")
            };
            let ClientJsonRpcMessage::Request(request) = *message else {
                panic!("{text} is a request")
            };
            assert_eq!(serde_json::to_string(&request.id).unwrap(), id);
        }
    }
}
