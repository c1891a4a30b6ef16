//! A client of HTTP+SSE: it posts to where it was told to, and reads the answers from its stream.

use reqwest::Method;
use serde_json::{Value, json};

use super::http::{Answer, HttpServer};
use super::mcp::{Events, initialize, tool};

/// A client of HTTP+SSE.
pub(crate) struct Client<'a> {
    server: &'a HttpServer,
    /// What it is told.
    pub(crate) events: Events,
    /// Where it posts.
    pub(crate) endpoint: String,
}

impl<'a> Client<'a> {
    /// One that has been told where to post.
    pub(crate) async fn open(server: &'a HttpServer, path: &str) -> Self {
        let mut events = Events::of(server.request(Method::GET, path)).await;
        let first = events.next().await.unwrap();
        assert_eq!(first.name, "endpoint");
        Self {
            server,
            events,
            endpoint: first.data,
        }
    }

    /// One that has been through the handshake.
    pub(crate) async fn initialized(server: &'a HttpServer, path: &str) -> Self {
        let mut client = Self::open(server, path).await;
        client.accepted(&initialize("2024-11-05")).await;
        let answer = client.events.data().await;
        assert_eq!(
            answer["result"]["protocolVersion"], "2024-11-05",
            "{answer}"
        );
        client
            .accepted(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        client
    }

    /// What a POST of `message` is answered at once.
    pub(crate) async fn post(&self, message: &Value) -> Answer {
        self.server.post(&self.endpoint, message).await
    }

    /// Posts `message`, which must be taken.
    pub(crate) async fn accepted(&self, message: &Value) {
        let answer = self.post(message).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }

    /// What `method` is answered on the stream, past what lists are said to have changed.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.accepted(&json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params}))
            .await;
        let mut answer = self.events.data().await;
        let is_of_a_list = |answer: &Value| {
            let method = answer["method"].as_str();
            method.is_some_and(|method| method.ends_with("/list_changed"))
        };
        while is_of_a_list(&answer) {
            answer = self.events.data().await;
        }
        assert_eq!(answer["id"], "a", "{answer}");
        answer
    }

    /// The structured content of a tool call that must succeed.
    pub(crate) async fn use_tool(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", tool(name, arguments)).await;
        let output = &answer["result"]["structuredContent"];
        assert!(output.is_object(), "{answer}");
        output.clone()
    }
}
