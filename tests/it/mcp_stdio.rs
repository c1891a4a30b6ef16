//! MCP over pipes: every way a client opens, misuses and leaves the connection. The handler is a stub, since only the
//! transport is under test.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use baton::transport::stdio::serve;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData,
    SubscriptionFilter,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::wire::Wire;

/// Ten answers of this size do not fit into a pipe.
const LARGE: usize = 8000;
const A_SECOND: Duration = Duration::from_secs(1);

struct Stub {
    /// Until then a call of `soon` waits.
    finish: CancellationToken,
}

impl rmcp::ServerHandler for Stub {
    fn accepted_subscription_filter(
        &self,
        asked: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(asked.clone())
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match &*call.name {
            "soon" => self.finish.cancelled().await,
            "poll" => context.ct.cancelled().await,
            "deaf" => std::future::pending().await,
            _ => {}
        }
        let text = match &*call.name {
            "large" => "x".repeat(LARGE),
            name => name.to_owned(),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

/// The server's input, which lets calls of `soon` finish once the client has left.
struct Input {
    pipe: PipeReader,
    finish: CancellationToken,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.pipe.read(buffer)?;
        if count == 0 {
            self.finish.cancel();
        }
        Ok(count)
    }
}

struct Client {
    input: Option<PipeWriter>,
    output: BufReader<PipeReader>,
    stop: CancellationToken,
    finish: CancellationToken,
    ended: mpsc::Receiver<anyhow::Result<()>>,
    wire: Wire,
}

/// Hand-made text may end a client early, but never with a wrong message.
impl Drop for Client {
    fn drop(&mut self) {
        self.wire.judge();
    }
}

impl Client {
    fn start() -> Self {
        let (server_input, input) = pipe().unwrap();
        let (output, server_output) = pipe().unwrap();
        let (stop, finish) = (CancellationToken::new(), CancellationToken::new());
        let stub = Stub {
            finish: finish.clone(),
        };
        let server_input = Input {
            pipe: server_input,
            finish: finish.clone(),
        };
        let wire = Wire::default();
        let (server_input, server_output) = wire.pipes(server_input, server_output);
        let (sender, ended) = mpsc::channel();
        let token = stop.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let result = runtime.block_on(serve(stub, server_input, server_output, token));
            runtime.shutdown_background();
            let _ = sender.send(result);
        });
        Self {
            input: Some(input),
            output: BufReader::new(output),
            stop,
            finish,
            ended,
            wire,
        }
    }

    fn legacy() -> Self {
        Self::speaking("2025-11-25")
    }

    fn speaking(version: &str) -> Self {
        let mut client = Self::start();
        client.say(&initialize(version));
        assert_eq!(client.hear()["result"]["protocolVersion"], version);
        client.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn write(&mut self, text: &[u8]) {
        self.input.as_mut().unwrap().write_all(text).unwrap();
    }

    fn say(&mut self, message: &Value) {
        self.write(format!("{message}\n").as_bytes());
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, message: &Value) -> Value {
        self.say(message);
        self.hear()
    }

    /// The error to a line, as code, id and message.
    fn error(&mut self, line: &[u8]) -> (i64, Value, String) {
        self.write(line);
        let answer = self.hear();
        (
            answer["error"]["code"].as_i64().unwrap(),
            answer.get("id").expect("an id, if only null").clone(),
            answer["error"]["message"].as_str().unwrap().to_owned(),
        )
    }

    /// Closes the input; what was still written before the server ended, which it must within a second.
    fn leave(mut self) -> Vec<Value> {
        self.input = None;
        self.ends();
        let lines = (&mut self.output).lines();
        lines
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect()
    }

    fn ends(&self) {
        self.ended
            .recv_timeout(A_SECOND)
            .expect("the server ends within a second")
            .expect("and without an error");
    }
}

fn initialize(version: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"},
    }})
}

fn modern(id: impl Into<Value>, method: &str, params: Value) -> Value {
    versioned(id, method, params, "2026-07-28")
}

fn versioned(id: impl Into<Value>, method: &str, mut params: Value, version: &str) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    });
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

fn call(id: impl Into<Value>, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": tool}})
}

fn modern_call(id: impl Into<Value>, tool: &str) -> Value {
    modern(id, "tools/call", json!({"name": tool}))
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn a_modern_client_just_calls() {
    let mut client = Client::start();
    assert_eq!(text(&client.ask(&modern_call(1, "echo"))), "echo");
    assert!(client.leave().is_empty());
}

#[test]
fn discovery_leaves_both_eras_open() {
    let discover = modern(1, "server/discover", json!({}));
    let mut client = Client::start();
    assert!(client.ask(&discover)["result"]["supportedVersions"].is_array());
    client.say(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}),
    );
    assert_eq!(client.ask(&call(2, "echo"))["error"]["code"], -32602);
    assert_eq!(
        client.ask(&initialize("2025-06-18"))["result"]["protocolVersion"],
        "2025-06-18"
    );
    assert_eq!(text(&client.ask(&call(3, "echo"))), "echo");

    let mut client = Client::start();
    client.ask(&discover);
    assert_eq!(text(&client.ask(&modern_call(2, "echo"))), "echo");

    let mut client = Client::start();
    client.ask(&discover);
    assert!(client.leave().is_empty(), "a client may only ask and leave");
    assert!(Client::start().leave().is_empty(), "or not even ask");
}

#[test]
fn both_eras_share_one_pipe() {
    let mut client = Client::legacy();
    assert_eq!(text(&client.ask(&call(1, "echo"))), "echo");
    assert_eq!(text(&client.ask(&modern_call(2, "echo"))), "echo");
    assert_eq!(text(&client.ask(&call(3, "echo"))), "echo");
}

#[test]
fn whatever_comes_first_initialize_still_works() {
    let firsts = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "no/such"}),
        call(1, "echo"),
        versioned(1, "tools/call", json!({"name": "echo"}), "1999-01-01"),
    ];
    for first in firsts {
        let mut client = Client::start();
        let code = client.ask(&first)["error"]["code"].as_i64().unwrap();
        assert!(
            [-32601, -32602, -32022].contains(&code),
            "{code} for {first}"
        );
        assert!(client.ask(&initialize("2025-11-25"))["result"].is_object());
    }
    for silent in [
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n",
        "\n \r\n",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n",
    ] {
        let mut client = Client::start();
        client.write(silent.as_bytes());
        assert!(client.ask(&initialize("2025-11-25"))["result"].is_object());
    }
}

#[test]
fn unknown_versions_get_one_that_is_served() {
    let mut client = Client::start();
    assert_eq!(
        client.ask(&initialize("1999-01-01"))["result"]["protocolVersion"],
        "2025-11-25"
    );
    let mut client = Client::start();
    assert_eq!(
        client.ask(&initialize("2026-07-28"))["result"]["protocolVersion"],
        "2025-11-25"
    );
}

#[test]
fn what_is_no_message_is_answered_and_survived() {
    let mut client = Client::legacy();
    assert_eq!(client.error(b"garbage\n").0, -32700);
    assert_eq!(
        client.error(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"meth\n").0,
        -32700
    );
    let (code, id, message) = client.error(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}\n");
    assert_eq!((code, id), (-32700, Value::Null));
    assert!(message.contains("UTF-8"), "{message}");
    assert_eq!(client.error(b"\"text\"\n").0, -32600);
    assert_eq!(client.error(b"[]\n").0, -32600);
    let (code, id, _) = client.error(b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}\n");
    assert_eq!((code, id), (-32600, Value::Null));
    client.write(b"\n\r\n   \n");
    for id in [json!(0), json!("0"), json!(""), json!(-1)] {
        assert_eq!(client.ask(&call(id.clone(), "echo"))["id"], id);
    }
}

#[test]
fn a_line_beyond_the_limit_is_skipped_to_its_end() {
    let mut client = Client::legacy();
    let mut long = vec![b'x'; 3 << 20];
    long.push(b'\n');
    let (code, id, message) = client.error(&long);
    assert_eq!((code, id), (-32600, Value::Null));
    assert!(message.contains("1048576"), "{message}");
    assert_eq!(text(&client.ask(&call(1, "echo"))), "echo");
}

#[test]
fn the_last_line_needs_no_newline() {
    let mut client = Client::legacy();
    client.write(call(1, "echo").to_string().as_bytes());
    assert_eq!(text(&client.leave()[0]), "echo");
    let mut client = Client::legacy();
    client.write(b"{\"jsonrpc\":");
    assert_eq!(client.leave()[0]["error"]["code"], -32700);
}

#[test]
fn a_batch_is_answered_by_one_array() {
    let mut client = Client::speaking("2025-03-26");
    let note = json!({"jsonrpc": "2.0", "method": "notifications/x"});
    client.say(&json!([note, note]));
    client.say(&json!([call(1, "soon"), note, 7, call("b", "echo")]));
    client.finish.cancel();
    let answer = client.hear();
    let mut ids: Vec<_> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["\"b\"", "1", "null"]);

    // A cancelled call is not waited for, and an abandoned one does not take the others' answers along.
    client.say(&json!([call(1, "deaf"), call(2, "echo")]));
    let answer = client.ask(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    );
    assert_eq!(answer.as_array().unwrap().len(), 1);
    client.say(&json!([call(3, "deaf"), call(4, "echo")]));
    assert_eq!(client.leave()[0][0]["id"], 4);

    // No other revision has answers to a batch.
    for mut client in [
        Client::legacy(),
        Client::speaking("2024-11-05"),
        Client::start(),
    ] {
        let batch = json!([call(1, "echo")]).to_string() + "\n";
        let (code, id, message) = client.error(batch.as_bytes());
        assert_eq!((code, id), (-32600, Value::Null));
        assert!(message.contains("2025-03-26"), "{message}");
    }
}

#[test]
fn an_id_serves_one_request_at_a_time() {
    let mut client = Client::legacy();
    client.say(&call(1, "soon"));
    assert_eq!(client.ask(&call(1, "echo"))["error"]["code"], -32600);
    client.finish.cancel();
    assert_eq!(text(&client.hear()), "soon");
    assert_eq!(text(&client.ask(&call(1, "echo"))), "echo");
}

#[test]
fn answers_on_their_way_outlive_the_input_and_long_polls_do_not() {
    let mut client = Client::legacy();
    client.say(&call(1, "soon"));
    client.say(&call(2, "deaf"));
    client.say(&call(3, "echo"));
    let mut heard = client.leave();
    heard.sort_by_key(|answer| answer["id"].as_i64());
    let heard: Vec<_> = heard.iter().map(text).collect();
    assert_eq!(heard, ["soon", "echo"]);
}

#[test]
fn a_subscription_is_acknowledged_and_cancelled() {
    let mut client = Client::start();
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let heard = client.ask(&modern(1, "subscriptions/listen", listen.clone()));
    assert_eq!(heard["method"], "notifications/subscriptions/acknowledged");
    client.say(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    );
    assert_eq!(text(&client.ask(&modern_call(2, "echo"))), "echo");
    client.ask(&modern(3, "subscriptions/listen", listen));
    client.leave();
}

#[test]
fn the_stop_token_ends_it_with_the_input_still_open() {
    let mut client = Client::legacy();
    client.say(&call(1, "deaf"));
    client.say(&call(2, "soon"));
    assert_eq!(text(&client.ask(&call(3, "echo"))), "echo");
    client.stop.cancel();
    client.finish.cancel();
    assert_eq!(text(&client.hear()), "soon");
    client.ends();
    Client::start().stop.cancel();
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    const CALLS: i64 = 6000;
    let mut client = Client::legacy();
    let mut input = client.input.take().unwrap();
    let (sender, sent) = mpsc::channel();
    let writer = thread::spawn(move || {
        for id in 0..CALLS {
            writeln!(input, "{}", call(id, "large")).unwrap();
            let _ = sender.send(id);
        }
        input
    });
    let mut last = 0;
    while let Ok(id) = sent.recv_timeout(A_SECOND * 3) {
        last = id;
    }
    assert!(
        last < CALLS * 3 / 4,
        "{last} requests were taken from a client that reads nothing"
    );
    for _ in 0..CALLS {
        assert_eq!(text(&client.hear()).len(), LARGE);
    }
    client.input = Some(writer.join().unwrap());
    client.leave();
}

#[test]
fn a_client_that_reads_no_answer_does_not_hold_the_process() {
    let mut client = Client::legacy();
    for id in 0..10 {
        client.say(&call(id, "large"));
    }
    client.input = None;
    client.ends();
}

#[test]
fn waiting_calls_do_not_lock_out_what_ends_them() {
    let mut client = Client::legacy();
    for id in 0..1024 {
        client.say(&call(id, "poll"));
    }
    let refused = client.ask(&call("one too many", "echo"));
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("1024"),
        "{refused}"
    );
    client.say(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}),
    );
    assert_eq!(text(&client.ask(&call("now", "echo"))), "echo");
}
