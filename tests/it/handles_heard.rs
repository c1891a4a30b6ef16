//! Handles that are listened to (`notifications/tasks`), and handles on pipes and in legacy sessions.

use std::io::{BufRead, BufReader, PipeWriter, Write, pipe};
use std::thread;

use baton::transport::serve_pipes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::client::{Client, Way};
use crate::support::handles::{ACME, accept, acknowledged, answers, asks, get, handle, question};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, follower, following, in_time, initialize, tool};

fn listen(ids: &Value) -> Value {
    following(
        "subscriptions/listen",
        json!({"notifications": {"taskIds": ids, "resourceSubscriptions": ["baton://tasks/t"]}}),
    )
}

/// Asserts that `message` tells the listener `subscription` what `tasks/get` says.
async fn is_told(message: &Value, server: &HttpServer, id: &str, status: &str) {
    assert_eq!(message["method"], "notifications/tasks", "{message}");
    let mut params = message["params"].clone();
    let meta = params.as_object_mut().unwrap().remove("_meta").unwrap();
    assert_eq!(meta, json!({"io.modelcontextprotocol/subscriptionId": 1}));
    assert_eq!(params["status"], status, "{params}");
    let mut known = get(server, id).await;
    for member in ["resultType", "_meta"] {
        known.as_object_mut().unwrap().remove(member);
    }
    assert_eq!(params, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_on_another_process_is_told_of_its_own_handles() {
    let server = HttpServer::start().await;
    let other = HttpServer::builder().beside(&server).start().await;
    let run = handle(
        &server,
        "task_run",
        json!({"description": "x", "task_id": "t"}),
    )
    .await;
    let wait = handle(&server, "task_wait", json!({"task_ids": ["t"]})).await;
    let mut foreign = Events::of(other.modern("/t/globex/mcp", &listen(&json!([run])))).await;
    let ack = foreign.data().await;
    assert_eq!(
        ack["params"]["notifications"],
        json!({"resourceSubscriptions": ["baton://tasks/t"], "taskIds": []})
    );
    let mut stream =
        Events::of(other.modern(ACME, &listen(&json!([run, "hdl_none", wait, run])))).await;
    let ack = stream.data().await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        ack["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        1
    );
    assert_eq!(
        ack["params"]["notifications"]["taskIds"],
        json!([run, wait]),
        "{ack}"
    );

    acknowledged(&server, "tasks/cancel", json!({"taskId": wait})).await;
    is_told(&stream.data().await, &server, &wait, "cancelled").await;
    let hers = server.claim(ACME).await;
    stream.hears_of("baton://tasks/t").await;
    is_told(&stream.data().await, &server, &run, "working").await;
    server
        .use_tool(ACME, "task_notify", hers(asks("Which way?")))
        .await;
    stream.hears_of("baton://tasks/t").await;
    let asked = stream.data().await;
    is_told(&asked, &server, &run, "input_required").await;
    // Who comes later is told at once what there is to do.
    let mut late = Events::of(other.modern(ACME, &listen(&json!([run])))).await;
    assert_eq!(
        late.data().await["params"]["notifications"]["taskIds"],
        json!([run])
    );
    is_told(&late.data().await, &server, &run, "input_required").await;
    let (key, _) = question(&asked["params"]);
    answers(&server, &run, &key, accept("left")).await;
    stream.hears_of("baton://tasks/t").await;
    is_told(&stream.data().await, &server, &run, "working").await;
    server
        .use_tool(ACME, "task_end", hers(json!({"reason": "success"})))
        .await;
    stream.hears_of("baton://tasks/t").await;
    is_told(&stream.data().await, &server, &run, "completed").await;

    server.dispatch("/t/globex/mcp", "t").await;
    foreign.hears_of("baton://tasks/t").await;
    let mut undeclared = listen(&json!([run]));
    undeclared["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let answer = Answer::of(server.modern(ACME, &undeclared)).await;
    assert_eq!(
        (answer.status, &answer.body["error"]["code"]),
        (400, &json!(-32021)),
        "{}",
        answer.text
    );
    let answer = Answer::of(server.modern(ACME, &listen(&json!("all")))).await;
    assert_eq!(answer.body["error"]["code"], -32602, "{}", answer.text);
    assert!(
        answer.text.contains("/params/notifications/taskIds"),
        "{}",
        answer.text
    );
}

/// A client on pipes, of the process that `server` is.
struct Pipes {
    input: PipeWriter,
    output: mpsc::UnboundedReceiver<Value>,
    _serving: JoinSet<anyhow::Result<()>>,
}

impl Pipes {
    fn open(server: &HttpServer) -> Self {
        let (server_input, input) = pipe().unwrap();
        let (output, server_output) = pipe().unwrap();
        let (app, mut serving) = (server.app.clone(), JoinSet::new());
        serving.spawn(async move { serve_pipes(&app, server_input, server_output, true).await });
        let (sender, receiver) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self {
            input,
            output: receiver,
            _serving: serving,
        }
    }

    async fn next(&mut self) -> Value {
        in_time(self.output.recv()).await.unwrap()
    }

    async fn ask(&mut self, message: &Value) -> Value {
        writeln!(self.input, "{message}").unwrap();
        self.next().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_know_handles_and_listeners_in_their_tenant() {
    let server = HttpServer::start().await;
    let mut pipes = Pipes::open(&server);
    let input = json!({"description": "x", "task_id": "t"});
    let answer = pipes
        .ask(&following("tools/call", tool("task_run", input)))
        .await;
    let id = answer["result"]["taskId"].clone();
    assert!(id.is_string(), "{answer}");
    let mut message = listen(&json!([id]));
    message["id"] = "l".into();
    let ack = pipes.ask(&message).await;
    assert_eq!(
        ack["params"]["notifications"]["taskIds"],
        json!([id]),
        "{ack}"
    );
    assert_eq!(
        ack["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "l"
    );
    server
        .use_tool("/mcp", "task_cancel", json!({"task_id": "t"}))
        .await;
    let told = [pipes.next().await, pipes.next().await];
    let told = told
        .iter()
        .find(|it| it["method"] == "notifications/tasks")
        .unwrap();
    assert_eq!(
        (&told["params"]["taskId"], &told["params"]["status"]),
        (&id, &json!("cancelled"))
    );
    let answer = pipes
        .ask(&following("tasks/get", json!({"taskId": id})))
        .await;
    assert_eq!(answer["result"]["status"], "cancelled", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_that_declares_it_gets_the_plain_result() {
    for way in [Way::HttpLegacy, Way::Sse, Way::PipesLegacy] {
        eprintln!("over {way:?}");
        let server = HttpServer::start().await;
        let mut begin = initialize("2025-11-25");
        begin["params"]["capabilities"] = follower();
        let mut client = Client::beginning(&server, way, &begin).await;
        let input = json!({"description": "x", "task_id": "t", "wait_seconds": 0});
        let answer = client.call("task_run", input).await;
        let run = &answer["result"]["structuredContent"];
        assert_eq!(
            (&run["task_id"], &run["done"]),
            (&json!("t"), &json!(false)),
            "{answer}"
        );
        let wait = tool("task_wait", json!({"task_ids": ["t"]}));
        let wait = client.begin("tools/call", wait).await;
        server.until_waiting(1).await;
        let cancel = json!({"task_id": "t"});
        server.use_tool("/mcp", "task_cancel", cancel).await;
        let answer = client.answer(&wait).await;
        let wait = &answer["result"]["structuredContent"];
        assert_eq!(wait["done"], true, "{answer}");
        assert!(answer["result"]["taskId"].is_null(), "{answer}");
    }
}
