//! One face of all the ways in which a client may speak MCP: what it sends, and one inbox of what it is told, whatever
//! carries that.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};

use baton::transport::serve_pipes;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::http::{Answer, HttpServer};
use super::mcp::{Events, in_time, initialize, modern, tool};
use super::sse;

/// A transport, and the era that is spoken over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    PipesModern,
    PipesLegacy,
    HttpModern,
    HttpLegacy,
    Sse,
}

impl Way {
    /// All there are.
    pub(crate) const ALL: [Self; 5] = [
        Self::PipesModern,
        Self::PipesLegacy,
        Self::HttpModern,
        Self::HttpLegacy,
        Self::Sse,
    ];

    /// Whether each request says everything about itself.
    pub(crate) fn is_modern(self) -> bool {
        matches!(self, Self::PipesModern | Self::HttpModern)
    }

    /// Whether the client has a connection of its own, which does not go through HTTP.
    pub(crate) fn is_pipes(self) -> bool {
        matches!(self, Self::PipesModern | Self::PipesLegacy)
    }
}

/// Where the client's messages go.
enum Link {
    Pipes(PipeWriter),
    /// The requests that are not answered yet: to leave one is to cancel it.
    Modern(HashMap<String, AbortHandle>),
    Session(String),
    Sse(String),
}

/// A client.
pub(crate) struct Client<'a> {
    server: &'a HttpServer,
    way: Way,
    link: Link,
    inbox: mpsc::UnboundedReceiver<Value>,
    told: mpsc::UnboundedSender<Value>,
    /// Heard while something else was waited for.
    aside: Vec<Value>,
    /// Whether it reads what it is sent.
    reads: watch::Sender<bool>,
    /// How many answers over HTTP have begun.
    begun: watch::Sender<usize>,
    readers: JoinSet<()>,
    next_id: u32,
    /// What it was told about the server when it came.
    pub(crate) greeting: Value,
}

impl<'a> Client<'a> {
    /// One that has been told who the server is.
    pub(crate) async fn open(server: &'a HttpServer, way: Way) -> Self {
        Self::speaking(server, way, "2025-11-25").await
    }

    /// As [`Client::open`], in this revision, unless it is modern.
    pub(crate) async fn speaking(server: &'a HttpServer, way: Way, version: &str) -> Self {
        Self::beginning(server, way, &initialize(version)).await
    }

    /// As [`Client::open`], with this first message, unless it is modern.
    pub(crate) async fn beginning(server: &'a HttpServer, way: Way, first: &Value) -> Self {
        let (told, inbox) = mpsc::unbounded_channel();
        let mut client = Self {
            server,
            way,
            link: Link::Modern(HashMap::new()),
            inbox,
            told,
            aside: Vec::new(),
            reads: watch::Sender::new(true),
            begun: watch::Sender::new(0),
            readers: JoinSet::new(),
            next_id: 0,
            greeting: Value::Null,
        };
        match way {
            Way::PipesModern | Way::PipesLegacy => client.open_pipes(),
            Way::HttpModern => {}
            Way::HttpLegacy => {
                let session = server.begin("/mcp", first).await;
                client.link = Link::Session(session.id.clone());
                client.greeting = session.answer["result"].clone();
                let stream = session.request(Method::GET).send();
                client.read(in_time(stream).await.unwrap());
                return client;
            }
            Way::Sse => {
                let opened = sse::Client::open(server, "/sse").await;
                client.link = Link::Sse(opened.endpoint);
                client.read_events(opened.events);
            }
        }
        client.greeting = if way.is_modern() {
            client.ask("server/discover", json!({})).await["result"].take()
        } else {
            client.send(first.clone()).await;
            let answer = client.hear(|message| message["id"] == 0).await;
            client.notify("notifications/initialized", json!({})).await;
            answer["result"].clone()
        };
        client
    }

    fn open_pipes(&mut self) {
        let (server_input, input) = pipe().unwrap();
        let (output, server_output) = pipe().unwrap();
        let (server_input, server_output) = self.server.wire.pipes(server_input, server_output);
        let app = self.server.app.clone();
        self.readers.spawn(async move {
            serve_pipes(&app, server_input, server_output, true)
                .await
                .unwrap();
        });
        self.link = Link::Pipes(input);
        let (told, mut reads) = (self.told.clone(), self.reads.subscribe());
        let runtime = Handle::current();
        std::thread::spawn(move || {
            let lines = BufReader::<PipeReader>::new(output).lines();
            for line in lines.map_while(Result::ok) {
                let message = serde_json::from_str(&line).expect("a line is JSON");
                if told.send(message).is_err() {
                    break;
                }
                let _ = runtime.block_on(reads.wait_for(|reads| *reads));
            }
            let _ = told.send(Value::Null);
        });
    }

    /// Whether it reads what it is sent, from the next message on.
    pub(crate) fn reads(&self, reads: bool) {
        self.reads.send_replace(reads);
    }

    /// Sends a request; its id.
    pub(crate) async fn begin(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = format!("r{}", self.next_id);
        let mut message = if self.way.is_modern() {
            modern(method, params)
        } else {
            json!({"jsonrpc": "2.0", "method": method, "params": params})
        };
        message["id"] = id.into();
        let id = message["id"].clone();
        self.send(message).await;
        id
    }

    /// What a request is answered.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params).await;
        self.answer(&id).await
    }

    /// What a tool is answered.
    pub(crate) async fn call(&mut self, name: &str, arguments: Value) -> Value {
        self.ask("tools/call", tool(name, arguments)).await
    }

    /// The answer to the request of this id.
    pub(crate) async fn answer(&mut self, id: &Value) -> Value {
        self.hear(|message| &message["id"] == id).await
    }

    /// The first message of this kind that comes or has come; null is the end of a connection over pipes.
    pub(crate) async fn hear(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.aside.iter().position(&is_it) {
            return self.aside.remove(at);
        }
        in_time(async {
            loop {
                let message = self.inbox.recv().await.expect("a client holds its inbox");
                if is_it(&message) {
                    return message;
                }
                self.aside.push(message);
            }
        })
        .await
    }

    /// Sends a notification.
    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "method": method, "params": params}))
            .await;
    }

    /// Calls a request off, as its transport has it.
    pub(crate) async fn cancel(&mut self, id: &Value) {
        if let Link::Modern(running) = &mut self.link {
            running.remove(&id.to_string()).expect("it runs").abort();
            return;
        }
        self.notify("notifications/cancelled", json!({"requestId": id}))
            .await;
    }

    /// Listens for changes of a resource, and returns once it is certain to be told of them.
    pub(crate) async fn subscribe(&mut self, uri: &str) {
        if self.way.is_modern() {
            let filter = json!({"notifications": {"resourceSubscriptions": [uri]}});
            self.begin("subscriptions/listen", filter).await;
            let acknowledged = "notifications/subscriptions/acknowledged";
            self.hear(|message| message["method"] == acknowledged).await;
        } else {
            let answer = self.ask("resources/subscribe", json!({"uri": uri})).await;
            assert!(answer["result"].is_object(), "{answer}");
        }
    }

    /// Returns once the answer to the latest request over HTTP has begun, though it may be long to its end.
    pub(crate) async fn until_begun(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        in_time(begun.wait_for(|begun| *begun >= count))
            .await
            .unwrap();
    }

    /// How many answers over HTTP have begun.
    pub(crate) fn begun(&self) -> usize {
        *self.begun.borrow()
    }

    /// Sends a message as it is.
    pub(crate) async fn send(&mut self, message: Value) {
        if let Link::Modern(_) = self.link {
            let request = match message["method"].as_str() {
                Some(_) => self.server.modern("/mcp", &message),
                None => self.server.message("/mcp", &message),
            };
            let id = message["id"].to_string();
            let reader = self.post(request);
            if let Link::Modern(running) = &mut self.link {
                running.insert(id, reader);
            }
            return;
        }
        self.send_text(&message.to_string()).await;
    }

    /// Sends a text that may be no message.
    pub(crate) async fn send_text(&mut self, text: &str) {
        let base = |path: &str| {
            self.server
                .request(Method::POST, path)
                .header("accept", "application/json, text/event-stream")
                .header("content-type", "application/json")
                .body(text.to_owned())
        };
        let request = match &mut self.link {
            Link::Pipes(input) => return input.write_all(format!("{text}\n").as_bytes()).unwrap(),
            Link::Modern(_) => base("/mcp"),
            Link::Session(id) => base("/mcp").header("mcp-session-id", id.as_str()),
            Link::Sse(endpoint) => {
                // Messages are taken in the order of their posts.
                let answer = Answer::of(base(endpoint)).await;
                if answer.status == 202 {
                    self.begun.send_modify(|begun| *begun += 1);
                } else {
                    self.told.send(answer.body).unwrap();
                }
                return;
            }
        };
        self.post(request);
    }

    /// Posts, and reads what comes back into the inbox.
    fn post(&mut self, request: RequestBuilder) -> AbortHandle {
        let (told, begun) = (self.told.clone(), self.begun.clone());
        let reads = self.reads.subscribe();
        self.readers.spawn(async move {
            let response = request.send().await.unwrap();
            begun.send_modify(|begun| *begun += 1);
            read(response, reads, told).await;
        })
    }

    fn read(&mut self, response: Response) {
        let (told, reads) = (self.told.clone(), self.reads.subscribe());
        self.readers.spawn(read(response, reads, told));
    }

    fn read_events(&mut self, events: Events) {
        let (told, reads) = (self.told.clone(), self.reads.subscribe());
        self.readers.spawn(hear_events(events, reads, told));
    }
}

/// Reads an answer, when the client reads.
async fn read(
    response: Response,
    mut reads: watch::Receiver<bool>,
    told: mpsc::UnboundedSender<Value>,
) {
    let kind = response.headers().get("content-type").cloned();
    if kind.is_some_and(|kind| kind == "text/event-stream") {
        return hear_events(Events::in_answer(response), reads, told).await;
    }
    let _ = reads.wait_for(|reads| *reads).await;
    if let Ok(message) = response.json().await {
        let _ = told.send(message);
    }
}

async fn hear_events(
    mut events: Events,
    mut reads: watch::Receiver<bool>,
    told: mpsc::UnboundedSender<Value>,
) {
    loop {
        let _ = reads.wait_for(|reads| *reads).await;
        let Some(event) = events.next().await else {
            return;
        };
        let message = serde_json::from_str(&event.data).expect("an event is JSON");
        if told.send(message).is_err() {
            return;
        }
    }
}
