//! Tells a good JSON-RPC answer from every other message, reading only the head of it.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::meter::{Fail, Kind};

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Id<'a>>,
    #[serde(default)]
    result: Option<ToolResult>,
    #[serde(borrow, default)]
    error: Option<RpcError<'a>>,
    #[serde(default)]
    method: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(u64),
    Other(#[serde(borrow)] Cow<'a, str>),
}

#[derive(Deserialize)]
struct ToolResult {
    #[serde(rename = "isError", default)]
    is_error: bool,
}

#[derive(Deserialize)]
struct RpcError<'a> {
    code: i64,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// What an answer says of the request with this id.
pub struct Answer {
    pub id: u64,
    pub verdict: Result<(), Fail>,
}

/// Reads one message; None for a notification or a request of the server.
pub fn judge(data: &[u8]) -> Result<Option<Answer>, Fail> {
    let message: Message<'_> = serde_json::from_slice(data)
        .map_err(|error| protocol(format!("{error}: {}", snippet(data))))?;
    if message.method.is_some() {
        return Ok(None);
    }
    let whole = message.jsonrpc.as_deref() == Some("2.0");
    let verdict = match (message.error, message.result) {
        (Some(error), _) => Err(Fail::new(
            Kind::JsonRpc,
            format!("{} {}", error.code, error.message),
        )),
        (None, Some(result)) if result.is_error => Err(Fail::new(Kind::Tool, snippet(data))),
        (None, Some(_)) if whole => Ok(()),
        _ => {
            return Err(protocol(format!(
                "neither a result nor an error: {}",
                snippet(data)
            )));
        }
    };
    match (message.id, verdict) {
        (Some(Id::Number(id)), verdict) => Ok(Some(Answer { id, verdict })),
        (_, Err(fail)) => Err(fail),
        (Some(Id::Other(id)), Ok(())) => Err(protocol(format!(
            "answers the id {id:?}, which was not sent"
        ))),
        (None, Ok(())) => Err(protocol(format!("an answer without id: {}", snippet(data)))),
    }
}

fn protocol(text: String) -> Fail {
    Fail::new(Kind::Protocol, text)
}

pub fn snippet(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[..data.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> String {
        match judge(text.as_bytes()) {
            Ok(None) => "other".into(),
            Ok(Some(Answer {
                id,
                verdict: Ok(()),
            })) => format!("{id} ok"),
            Ok(Some(Answer {
                id,
                verdict: Err(fail),
            })) => format!("{id} {:?}", fail.kind),
            Err(fail) => format!("{:?}", fail.kind),
        }
    }

    #[test]
    fn only_a_result_with_a_known_kind_of_id_is_good() {
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":5,"result":{"content":[]}}"#),
            "5 ok"
        );
        assert_eq!(
            kind(r#"{"result":{"isError":false,"x":[{"isError":true}]},"id":5,"jsonrpc":"2.0"}"#),
            "5 ok"
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":5,"result":{"isError":true}}"#),
            "5 Tool"
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32601,"message":"a\"b"}}"#),
            "5 JsonRpc"
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}"#),
            "JsonRpc"
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#),
            "other"
        );
        for bad in [
            r#"{"jsonrpc":"2.0","id":5}"#,
            r#"{"jsonrpc":"2.0","id":5,"result":null}"#,
            r#"{"id":5,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"5","result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            "<html>",
        ] {
            assert_eq!(kind(bad), "Protocol", "{bad}");
        }
    }
}
