//! MCP messages as clients of both eras send them over HTTP, and the event streams that come back.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::http::{Answer, HttpServer};

/// The revision without sessions.
pub(crate) const MODERN: &str = "2026-07-28";
/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request of the modern era.
pub(crate) fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = MODERN.into();
    params["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({"name": "test", "version": "1"});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

/// A request of a client of the modern era that knows the Tasks extension and shows forms to its user.
pub(crate) fn following(method: &str, params: Value) -> Value {
    let mut message = modern(method, params);
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = follower();
    message
}

/// What such a client declares.
pub(crate) fn follower() -> Value {
    json!({"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}})
}

/// A tool call's parameters.
pub(crate) fn tool(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

impl HttpServer {
    /// A POST of `message` with the headers that a modern client derives from it.
    pub(crate) fn modern(&self, path: &str, message: &Value) -> RequestBuilder {
        let method = message["method"].as_str().unwrap();
        let request = self
            .message(path, message)
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", method);
        let params = &message["params"];
        let names = ["name", "uri", "taskId"];
        match names.iter().find_map(|name| params[*name].as_str()) {
            Some(name) => request.header("mcp-name", name),
            None => request,
        }
    }

    /// A POST of `message` without the headers of an era.
    pub(crate) fn message(&self, path: &str, message: &Value) -> RequestBuilder {
        self.request(Method::POST, path)
            .header("accept", "application/json, text/event-stream")
            .json(message)
    }

    /// What a modern request is answered.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Answer {
        Answer::of(self.modern("/mcp", &modern(method, params))).await
    }

    /// The structured content of a modern tool call that must succeed.
    pub(crate) async fn use_tool(&self, path: &str, name: &str, arguments: Value) -> Value {
        let message = modern("tools/call", tool(name, arguments));
        let answer = Answer::of(self.modern(path, &message)).await;
        let result = &answer.body["result"];
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_ne!(result["isError"], true, "{}", answer.text);
        assert!(result["structuredContent"].is_object(), "{}", answer.text);
        result["structuredContent"].clone()
    }

    /// Dispatches a task called `id` for the tenant that `path` names.
    pub(crate) async fn dispatch(&self, path: &str, id: &str) {
        let input = json!({"description": "x", "task_id": id});
        self.use_tool(path, "task_dispatch", input).await;
    }

    /// Claims the one task that waits, as `ada`; what makes a call hers.
    pub(crate) async fn claim(&self, path: &str) -> impl Fn(Value) -> Value + use<> {
        let ada = json!({"agent_id": "ada"});
        let claimed = self.use_tool(path, "task_claim", ada).await;
        let task = &claimed["tasks"][0];
        let (id, token) = (task["task_id"].clone(), task["lease"]["token"].clone());
        move |mut fields| {
            fields["task_id"] = id.clone();
            fields["agent_id"] = "ada".into();
            fields["lease_token"] = token.clone();
            fields
        }
    }

    /// Returns once `count` calls wait for something to happen.
    pub(crate) async fn until_waiting(&self, count: usize) {
        until(async || self.app.system.waiting_calls() == count).await;
    }

    /// Begins a legacy session.
    pub(crate) async fn session(&self, path: &str, version: &str) -> Session<'_> {
        self.begin(path, &initialize(version)).await
    }

    /// Begins a legacy session with this first message.
    pub(crate) async fn begin(&self, path: &str, initialize: &Value) -> Session<'_> {
        let mut events = Events::of(self.message(path, initialize)).await;
        let id = events.header("mcp-session-id");
        let answer = events.data().await;
        let session = Session {
            server: self,
            path: path.to_owned(),
            id,
            answer,
        };
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let answer = Answer::of(session.request(Method::POST).json(&initialized)).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        session
    }
}

/// The first message of a legacy client.
pub(crate) fn initialize(version: &str) -> Value {
    let client = json!({"name": "test", "version": "1"});
    let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client});
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
}

/// A legacy session over Streamable HTTP.
pub(crate) struct Session<'a> {
    server: &'a HttpServer,
    path: String,
    pub(crate) id: String,
    /// What `initialize` was answered.
    pub(crate) answer: Value,
}

impl Session<'_> {
    /// The same session, used on another server.
    pub(crate) fn on<'a>(&self, server: &'a HttpServer) -> Session<'a> {
        Session {
            server,
            path: self.path.clone(),
            id: self.id.clone(),
            answer: self.answer.clone(),
        }
    }

    /// A request in this session.
    pub(crate) fn request(&self, method: Method) -> RequestBuilder {
        self.server
            .request(method, &self.path)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", &self.id)
    }

    /// What `method` is answered.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": params});
        Events::of(self.request(Method::POST).json(&message))
            .await
            .data()
            .await
    }
}

/// One event of a stream.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

/// An event stream, read as it comes.
pub(crate) struct Events {
    response: Response,
    unread: String,
}

impl Events {
    /// Sends `request`, whose answer must be a stream.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = in_time(request.send()).await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap();
        if (response.status().as_u16(), kind) != (200, "text/event-stream") {
            let status = response.status();
            panic!("no stream: {status} {}", response.text().await.unwrap());
        }
        Self::in_answer(response)
    }

    /// What comes in an answer that is known to be a stream.
    pub(crate) fn in_answer(response: Response) -> Self {
        Self {
            response,
            unread: String::new(),
        }
    }

    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> String {
        self.response.headers()[name].to_str().unwrap().to_owned()
    }

    /// The next piece of the stream as it is; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let chunk = in_time(self.response.chunk()).await.unwrap()?;
        Some(String::from_utf8(chunk.to_vec()).unwrap())
    }

    /// The next event with data; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.any().await?;
            if !event.data.is_empty() {
                return Some(event);
            }
        }
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn any(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(':') {
                        Some(("event", name)) => name.trim().clone_into(&mut event.name),
                        Some(("id", id)) => id.trim().clone_into(&mut event.id),
                        Some(("data", data)) => event.data.push_str(data.trim_start()),
                        _ => {}
                    }
                }
                let is_comment = block.starts_with(':');
                self.unread = rest.into();
                if !is_comment {
                    return Some(event);
                }
            }
            let chunk = self.chunk().await?;
            self.unread.push_str(&chunk);
        }
    }

    /// The next message.
    pub(crate) async fn data(&mut self) -> Value {
        let event = self.next().await.expect("the stream goes on");
        serde_json::from_str(&event.data).unwrap_or_else(|_| panic!("not JSON: {event:?}"))
    }

    /// Asserts that the next message tells of a change of `uri`.
    pub(crate) async fn hears_of(&mut self, uri: &str) {
        let heard = self.data().await;
        assert_eq!(
            (&heard["method"], &heard["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(uri)),
            "{heard}"
        );
    }
}

/// Asks until it is so, which it must be soon: for what the server does on its own and tells nobody.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    in_time(async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// `future`, which must end soon.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it comes in time")
}
