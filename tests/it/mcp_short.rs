//! The short way of plain tool calls answers with the same bytes as rmcp does, which answers everything else.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::thread;

use baton::app::App;
use baton::clock::Clock;
use baton::random::Random;
use baton::transport::serve_pipes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::http::HttpServer;
use crate::support::mcp::{MODERN, initialize, modern, tool};
use crate::support::wire::Wire;
use crate::support::{START, config};

const BOTH: &str = "application/json, text/event-stream";

/// What a client sends: path, headers, body.
#[derive(Clone)]
struct Sent {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Sent {
    /// A call as an ordinary modern client makes it.
    fn call(name: &str, arguments: Value) -> Self {
        Self::message(
            name,
            modern("tools/call", tool(name, arguments)).to_string(),
        )
    }

    fn message(name: &str, body: String) -> Self {
        let headers = [
            ("content-type", "application/json"),
            ("accept", BOTH),
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", name),
        ];
        Self {
            path: "/mcp",
            headers: headers
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec(),
            body,
        }
    }

    fn at(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| *header != name);
        self
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn instead(self, name: &'static str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// Status, headers but the date, body.
    async fn to(&self, server: &HttpServer) -> (u16, Vec<(String, String)>, String) {
        let mut request = server
            .request(Method::POST, self.path)
            .body(self.body.clone());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap().to_owned();
        let mut headers: Vec<_> = answer
            .headers()
            .iter()
            .filter(|(name, _)| *name != "date")
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        headers.sort();
        let text = answer.text().await.unwrap();
        // How many connections are open depends on how soon the client's pool closes one.
        let text = ["\"in_use\":2", "\\\"in_use\\\":2"]
            .into_iter()
            .fold(text, |text, two| text.replace(two, &two.replace('2', "1")));
        (status, headers, text)
    }
}

/// Every operation with its sample, and with what is wrong in many ways.
fn catalogue(app: &App) -> Vec<(&'static str, Value)> {
    let mut calls = Vec::new();
    for op in app.catalog.ops() {
        let sample = (op.sample)();
        let mut unknown = sample.clone();
        unknown["colour"] = "red".into();
        let mut deep = sample.clone();
        deep["task_data"] = (0..40).fold(json!(1), |inner, _| json!([inner]));
        let mut wrong = sample.clone();
        for value in wrong.as_object_mut().unwrap().values_mut() {
            *value = json!({"a": [null, 1.5e300, "\u{0}\u{1F600}\""]});
        }
        let mut nulls = sample.clone();
        nulls["title"] = Value::Null;
        calls
            .extend([sample, unknown, deep, wrong, nulls, json!({})].map(|input| (op.name, input)));
    }
    calls.push(("no_such_tool", json!({})));
    calls
}

/// A life of a task. The seeds are the same on both sides, so tokens and ids are too: `answers` are those so far.
fn life(answers: &[Value]) -> Option<(&'static str, Value)> {
    let held = |fields: Value| {
        let task = &answers[1]["tasks"][0];
        let mut input = json!({
            "task_id": task["task_id"], "agent_id": "a", "lease_token": task["lease"]["token"],
        });
        for (name, value) in fields.as_object().unwrap() {
            input[name] = value.clone();
        }
        input
    };
    Some(match answers.len() {
        0 => (
            "task_dispatch",
            json!({"description": "Zählen \"alles\"\n\u{2028}", "task_id": "life", "task_data": {"z": 1, "a": [1.0, -0.5, 12_345_678_901_234_567_890_u64]}}),
        ),
        1 => ("task_claim", json!({"agent_id": "a", "wait_seconds": 0})),
        2 => (
            "task_notify",
            held(json!({"notification_type": "task_started"})),
        ),
        3 => (
            "task_notify",
            held(
                json!({"notification_type": "progress", "data": {"progress": 50, "current_step": "x"}}),
            ),
        ),
        4 => (
            "task_heartbeat",
            json!({"agent_id": "a", "leases": [{"task_id": "life", "lease_token": "other"}]}),
        ),
        5 => ("task_get", json!({"task_id": "life"})),
        6 => (
            "task_end",
            held(json!({"reason": "success", "result": {"lines": [1, 2]}})),
        ),
        7 => ("task_get", json!({"task_id": "life"})),
        8 => ("task_list", json!({"state": "completed"})),
        9 => (
            "task_wait",
            json!({"task_ids": ["life"], "wait_seconds": 0}),
        ),
        _ => return None,
    })
}

/// Messages that are no plain calls, or hardly.
fn unusual() -> Vec<Sent> {
    let get = || Sent::call("task_get", json!({"task_id": "life"}));
    let edited = |edit: fn(&mut Value)| {
        let mut message = modern("tools/call", tool("task_get", json!({"task_id": "life"})));
        edit(&mut message);
        Sent::message("task_get", message.to_string())
    };
    let body = |body: &str| Sent::message("task_get", body.to_owned());
    let text = get().body;
    vec![
        get().at("/t/acme/mcp"),
        get().at("/t/Not-A-Tenant/mcp"),
        get().at("/t/acme%2F/mcp"),
        get().at("/t/acme/mcp").with("x-tenant-id", "other"),
        get().with("x-tenant-id", "acme"),
        get().with("x-tenant-id", ""),
        get().with("mcp-session-id", "from-long-ago"),
        get().with("origin", "https://evil.example"),
        get().with("origin", "http://localhost:6274"),
        get().instead("host", "evil.example"),
        get().instead("accept", "text/event-stream, application/json"),
        get().instead("accept", "application/json,text/event-stream;q=0.5"),
        get().instead("accept", "application/json"),
        get().instead("accept", "*/*"),
        get().without("accept"),
        get().instead("content-type", "application/json; charset=utf-8"),
        get().instead("content-type", "text/plain"),
        get().without("content-type"),
        get().without("mcp-name"),
        get().instead("mcp-name", "task_list"),
        get().instead("mcp-name", "=?base64?dGFza19nZXQ=?="),
        get().with("mcp-name", "task_get"),
        get().without("mcp-method"),
        get().instead("mcp-method", "tools/list"),
        get().with("mcp-method", "tools/call"),
        get().without("mcp-protocol-version"),
        get().instead("mcp-protocol-version", "2025-11-25"),
        get().instead("mcp-protocol-version", "2027-01-01"),
        get().with("mcp-param-task-id", "life"),
        edited(|message| message["id"] = "Ünï\"code".into()),
        edited(|message| message["id"] = json!(-9_007_199_254_740_993_i64)),
        edited(|message| message["id"] = json!(1.5)),
        edited(|message| message["id"] = Value::Null),
        edited(|message| message["jsonrpc"] = "1.0".into()),
        edited(|message| message["method"] = "tools/list".into()),
        edited(|message| message["more"] = json!(1)),
        edited(|message| message["result"] = json!({})),
        edited(|message| message["params"]["arguments"] = Value::Null),
        edited(|message| message["params"]["arguments"] = json!([1])),
        edited(|message| message["params"]["task"] = json!({"ttl": 1})),
        edited(|message| message["params"]["requestState"] = "x".into()),
        edited(|message| message["params"]["_meta"] = Value::Null),
        edited(|message| message["params"]["_meta"]["progressToken"] = json!(3)),
        edited(|message| message["params"]["_meta"]["progressToken"] = Value::Null),
        edited(|message| message["params"]["_meta"]["dev.baton/tenant"] = "acme".into()),
        edited(|message| message["params"]["_meta"]["dev.baton/tenant"] = json!(5)),
        edited(|message| message["params"]["_meta"]["dev.baton/tenant"] = Value::Null),
        edited(|message| message["params"]["_meta"]["dev.baton/tenant"] = "NO".into()),
        edited(|message| {
            message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({"name": 7});
        }),
        edited(|message| {
            message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = Value::Null;
        }),
        edited(|message| {
            message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!([]);
        }),
        edited(|message| {
            message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = Value::Null;
        }),
        edited(|message| {
            message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] =
                "2025-11-25".into();
        }),
        edited(|message| {
            message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(2026);
        }),
        body(&format!(" \r\n{text}\n")),
        body(&format!("[{text}]")),
        body(&text[..text.len() - 1]),
        body(&format!("{text}x")),
        body(""),
        body(&text.replace("task_get", "task\\u005fget")),
        body(&text.replacen('{', "{\"id\":2,", 1)),
        body(&text.replacen("\"task_id\":", "\"task_id\":\"a\",\"task_id\":", 1)),
        body(&text.replacen("life", &"x".repeat(1 << 20), 1)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_both_ways_answer_with_the_same_bytes() {
    let short = HttpServer::builder().foreseeable().start().await;
    let long = HttpServer::builder().foreseeable().long_way().start().await;
    let both = async |sent: &Sent| {
        let (one, other) = (sent.to(&short).await, sent.to(&long).await);
        assert_eq!(one, other, "{:?} {:.500}", sent.headers, sent.body);
        one
    };
    let mut answers = Vec::new();
    while let Some((name, input)) = life(&answers) {
        let (status, _, text) = both(&Sent::call(name, input)).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status, &answer["result"]["isError"]),
            (200, &json!(false)),
            "{name}: {text}"
        );
        answers.push(answer["result"]["structuredContent"].clone());
    }
    for sent in unusual() {
        both(&sent).await;
    }
    for (name, input) in catalogue(&short.app) {
        both(&Sent::call(name, input)).await;
    }
}

/// As `sent`, in a session of the era before.
fn in_session(sent: Sent, id: &str) -> Sent {
    let modern = format!("\"io.modelcontextprotocol/protocolVersion\":\"{MODERN}\"");
    let mut sent = ["mcp-protocol-version", "mcp-method", "mcp-name"]
        .into_iter()
        .fold(sent, Sent::without)
        .with("mcp-session-id", id);
    sent.body = sent.body.replace(&modern, "\"x\":0");
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sessions_over_http_both_ways_answer_with_the_same_bytes() {
    let short = HttpServer::builder().foreseeable().start().await;
    let long = HttpServer::builder().foreseeable().long_way().start().await;
    let id = short.session("/mcp", "2025-11-25").await.id;
    assert_eq!(id, long.session("/mcp", "2025-11-25").await.id);
    let both = async |sent: Sent| {
        let sent = in_session(sent, &id);
        let [mut one, mut other] = [sent.to(&short).await, sent.to(&long).await];
        // What is complete is sent with its length.
        for (_, headers, _) in [&mut one, &mut other] {
            headers.retain(|(name, _)| name != "content-length" && name != "transfer-encoding");
        }
        assert_eq!(one, other, "{:?} {:.500}", sent.headers, sent.body);
        one
    };
    let mut answers = Vec::new();
    while let Some((name, input)) = life(&answers) {
        let (status, _, text) = both(Sent::call(name, input)).await;
        let answer = text.rsplit("data: ").next().unwrap();
        let answer = answer.lines().next().unwrap();
        let answer: Value = serde_json::from_str(answer).unwrap();
        let result = &answer["result"];
        assert_eq!((status, &result["isError"]), (200, &json!(false)), "{text}");
        answers.push(result["structuredContent"].clone());
    }
    for version in ["2025-11-25", "2024-11-05", "1999-01-01", "x"] {
        let sent = Sent::call("task_get", json!({"task_id": "life"}));
        let sent = in_session(sent, &id).with("mcp-protocol-version", version);
        assert_eq!(sent.to(&short).await.0, sent.to(&long).await.0, "{version}");
    }
    for sent in unusual() {
        both(sent).await;
    }
    for (name, input) in catalogue(&short.app) {
        both(Sent::call(name, input)).await;
    }
}

/// A server over pipes: one side of the comparison.
pub(crate) struct Pipes {
    input: PipeWriter,
    output: BufReader<PipeReader>,
    wire: Wire,
    _home: Home,
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.wire.judge();
    }
}

impl Pipes {
    pub(crate) fn open(home: Home, short: bool) -> Self {
        let app = App::open(config(&home), Clock::manual(START), Random::seeded(7)).unwrap();
        let (server_input, input) = pipe().unwrap();
        let (output, server_output) = pipe().unwrap();
        let wire = Wire::default();
        let (server_input, server_output) = wire.pipes(server_input, server_output);
        thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let served = serve_pipes(&app, server_input, server_output, short);
            runtime.block_on(served).unwrap();
            runtime.shutdown_background();
        });
        Self {
            input,
            output: BufReader::new(output),
            wire,
            _home: home,
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        loop {
            let mut answer = String::new();
            self.output.read_line(&mut answer).unwrap();
            // What lists are said to have changed comes when it comes.
            if !answer.contains("/list_changed\"") {
                return answer;
            }
        }
    }
}

/// Two servers that answer alike, one of which has the short way.
fn two() -> [Pipes; 2] {
    [true, false].map(|short| Pipes::open(Home::new(), short))
}

fn compare([short, long]: &mut [Pipes; 2], line: &str) -> Value {
    let (one, other) = (short.ask(line), long.ask(line));
    assert_eq!(one, other, "{line:.500}");
    serde_json::from_str(&one).unwrap()
}

#[test]
fn over_pipes_both_ways_answer_with_the_same_bytes_in_both_eras() {
    for era in [Some("2025-11-25"), Some("2025-03-26"), None] {
        let mut both = two();
        let call = |id: usize, name: &str, input: Value| {
            let mut message = modern("tools/call", tool(name, input));
            message["id"] = id.into();
            if era.is_some() {
                message["params"].as_object_mut().unwrap().remove("_meta");
            }
            message
        };
        if let Some(version) = era {
            compare(&mut both, &initialize(version).to_string());
            let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            for side in &mut both {
                side.say(initialized);
            }
        }
        let mut answers = Vec::new();
        while let Some((name, input)) = life(&answers) {
            let answer = compare(&mut both, &call(answers.len(), name, input).to_string());
            assert_eq!(answer["result"]["isError"], false, "{answer}");
            answers.push(answer["result"]["structuredContent"].clone());
        }
        for sent in unusual() {
            let line = sent.body.replace(['\n', '\r'], " ");
            // rmcp answers progress tokens and batches as it sees fit, and a blank line not at all.
            if !line.trim().is_empty() {
                compare(&mut both, &line);
            }
        }
        let home = Home::new();
        let app = App::open(config(&home), Clock::system(), Random::system()).unwrap();
        for (number, (name, input)) in catalogue(&app).into_iter().enumerate() {
            compare(&mut both, &call(100 + number, name, input).to_string());
        }
        let mut named = call(99, "task_get", json!({"task_id": "life"}));
        named["params"]["_meta"]["dev.baton/tenant"] = "acme".into();
        compare(&mut both, &named.to_string());
    }
}
