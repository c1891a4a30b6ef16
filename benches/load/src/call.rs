//! Tool calls as the protocol of 2026-07-28 wants them: complete in themselves, no handshake. Over HTTP one connection
//! makes one call at a time.

use serde_json::json;

use crate::http::{Connection, Target};
use crate::meter::{Fail, Kind};
use crate::rpc::{self, snippet};
use crate::sse::Events;
use crate::template::push_number;

const PROTOCOL: &str = "2026-07-28";

/// A tool with everything about its calls that never changes.
pub struct Tool {
    head: Vec<u8>,
    after_id: Vec<u8>,
}

impl Tool {
    /// `target` and `headers` matter over HTTP only.
    pub fn new(name: &str, target: Option<&Target>, headers: &[String]) -> Self {
        let head = target.map_or_else(String::new, |target| {
            let Target { authority, path } = target;
            let extra: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            format!(
                "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
                 Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {PROTOCOL}\r\n\
                 Mcp-Method: tools/call\r\nMcp-Name: {name}\r\n{extra}Content-Length: "
            )
        });
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": PROTOCOL,
            "io.modelcontextprotocol/clientInfo": {"name": "baton-load", "version": env!("CARGO_PKG_VERSION")},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let after_id = format!(
            r#","method":"tools/call","params":{{"_meta":{meta},"name":{},"arguments":"#,
            json!(name)
        );
        Self {
            head: head.into(),
            after_id: after_id.into(),
        }
    }

    /// Appends the JSON-RPC request.
    pub fn request(&self, id: u64, arguments: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
        push_number(out, id);
        out.extend_from_slice(&self.after_id);
        out.extend_from_slice(arguments);
        out.extend_from_slice(b"}}");
    }
}

/// One connection, opened again after it broke.
pub struct Caller {
    target: Target,
    connection: Option<Connection>,
    out: Vec<u8>,
    /// The request while it is sent, then the good answer.
    message: Vec<u8>,
    events: Events,
}

impl Caller {
    pub fn new(target: Target) -> Self {
        Self {
            target,
            connection: None,
            out: Vec::new(),
            message: Vec::new(),
            events: Events::default(),
        }
    }

    /// Calls the tool and returns the whole JSON-RPC answer, which has been found good.
    pub async fn call(&mut self, tool: &Tool, id: u64, arguments: &[u8]) -> Result<&[u8], Fail> {
        self.message.clear();
        tool.request(id, arguments, &mut self.message);
        self.out.clear();
        self.out.extend_from_slice(&tool.head);
        push_number(&mut self.out, self.message.len() as u64);
        self.out.extend_from_slice(b"\r\n\r\n");
        self.out.extend_from_slice(&self.message);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target).await?,
        };
        let close = self.exchange(&mut connection, id).await?;
        if !close {
            self.connection = Some(connection);
        }
        Ok(&self.message)
    }

    async fn exchange(&mut self, connection: &mut Connection, id: u64) -> Result<bool, Fail> {
        connection.write(&self.out).await?;
        let mut head = connection.head().await?;
        self.message.clear();
        let mut answered = None;
        if head.event_stream {
            self.events.clear();
            while !head.body_done() {
                connection.body(&mut head, &mut self.events.buffer).await?;
                while let Some(data) = self.events.next() {
                    // An empty event only says that the stream lives.
                    if !data.is_empty()
                        && let Some(answer) = rpc::judge(data)?
                    {
                        self.message.extend_from_slice(data);
                        answered = Some(answer);
                    }
                }
            }
        } else {
            while !head.body_done() {
                connection.body(&mut head, &mut self.message).await?;
            }
            if head.status != 200 {
                return Err(Fail::new(
                    Kind::Http,
                    format!("{} {}", head.status, snippet(&self.message)),
                ));
            }
            answered = rpc::judge(&self.message)?;
        }
        match answered {
            Some(answer) if answer.id == id => answer.verdict.map(|()| head.close),
            Some(answer) => Err(Fail::new(
                Kind::Protocol,
                format!("answers the id {}, not {id}", answer.id),
            )),
            None => Err(Fail::new(Kind::Protocol, "ended without an answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What one call to a server comes to that answers with exactly this and closes.
    async fn outcome(answer: &'static str) -> Result<(), Kind> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target: Target = format!("http://{}/mcp", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (tool, mut caller) = (Tool::new("echo", Some(&target), &[]), Caller::new(target));
        let (result, ()) = tokio::join!(caller.call(&tool, 1, b"{}"), server);
        result.map(|_| ()).map_err(|fail| fail.kind)
    }

    #[tokio::test]
    async fn a_server_that_misbehaves_is_found_out() {
        let cases = [
            (
                "HTTP/1.1 200 OK\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
                Ok(()),
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}",
                Err(Kind::Protocol),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"json",
                Err(Kind::Transport),
            ),
            (
                "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
                Err(Kind::Http),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: ping\n\ndata: \n\n\
                 data: {\"method\":\"notifications/progress\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n",
                Ok(()),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: ping\n\n",
                Err(Kind::Protocol),
            ),
        ];
        for (answer, wanted) in cases {
            assert_eq!(outcome(answer).await, wanted, "{answer}");
        }
    }
}
