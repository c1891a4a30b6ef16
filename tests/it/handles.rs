//! The Tasks extension as its clients use it: a long call is answered by a handle, which tells where the call stands,
//! takes answers, and is told of; on any process, and nobody else's.

use std::io::{BufRead, BufReader, PipeWriter, Write, pipe};
use std::thread;

use baton::transport::serve_pipes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, follower, following, in_time, initialize, modern, tool};

const ACME: &str = "/t/acme/mcp";

/// What a client that follows handles is answered.
async fn ask(server: &HttpServer, path: &str, method: &str, params: Value) -> Value {
    let answer = Answer::of(server.modern(path, &following(method, params))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["result"].clone()
}

/// The handle that a call is answered by.
async fn handle(server: &HttpServer, name: &str, input: Value) -> String {
    let result = ask(server, ACME, "tools/call", tool(name, input)).await;
    assert_eq!(result["resultType"], "task", "{result}");
    assert_eq!(result["ttlMs"], 604_800_000, "{result}");
    assert_eq!(result["pollIntervalMs"], 1_000, "{result}");
    result["taskId"].as_str().unwrap().to_owned()
}

async fn get(server: &HttpServer, id: &str) -> Value {
    let result = ask(server, ACME, "tasks/get", json!({"taskId": id})).await;
    assert_eq!(
        (&result["resultType"], &result["taskId"]),
        (&json!("complete"), &json!(id)),
        "{result}"
    );
    result
}

async fn acknowledged(server: &HttpServer, method: &str, params: Value) {
    let result = ask(server, ACME, method, params).await;
    let mut rest = result.as_object().unwrap().clone();
    rest.remove("_meta");
    assert_eq!(json!(rest), json!({"resultType": "complete"}));
}

async fn answers(server: &HttpServer, id: &str, key: &str, response: Value) {
    let params = json!({"taskId": id, "inputResponses": {key: response}});
    acknowledged(server, "tasks/update", params).await;
}

fn accept(answer: &str) -> Value {
    json!({"action": "accept", "content": {"answer": answer}})
}

/// The only open question: its key and its form.
fn question(task: &Value) -> (String, Value) {
    assert_eq!(task["status"], "input_required", "{task}");
    let requests = task["inputRequests"].as_object().unwrap();
    assert_eq!(requests.len(), 1, "{task}");
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!(request["method"], "elicitation/create", "{task}");
    (key.clone(), request["params"].clone())
}

fn told(kind: &str, data: Value) -> Value {
    json!({"notification_type": kind, "data": data})
}

fn asks(question: &str) -> Value {
    told(
        "escalated",
        json!({"question": question, "reason": "two ways", "options": ["left", {"label": "right", "id": 2}]}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_followed_to_its_end_over_a_restart() {
    let server = HttpServer::start().await;
    let input = json!({"description": "go", "title": "Walk", "task_id": "mine"});
    let id = handle(&server, "task_run", input).await;
    assert!(id.starts_with("hdl_"), "{id}");
    let task = get(&server, &id).await;
    assert_eq!(
        (&task["status"], &task["statusMessage"]),
        (&json!("working"), &json!("pending"))
    );
    let hers = server.claim(ACME).await;
    let progress = told(
        "progress",
        json!({"progress": 40, "current_step": "at the fork"}),
    );
    server.use_tool(ACME, "task_notify", hers(progress)).await;
    let task = get(&server, &id).await;
    assert_eq!(task["statusMessage"], "in_progress, 40 %: at the fork");
    server
        .use_tool(ACME, "task_notify", hers(asks("Which way?")))
        .await;

    let builder = HttpServer::builder().beside(&server);
    in_time(server.stop()).await;
    let server = builder.start().await;
    let (first, form) = question(&get(&server, &id).await);
    assert_eq!(form["mode"], "form");
    assert_eq!(
        form["message"],
        "Walk: Which way?\n\nWhy it is asked: two ways"
    );
    let field = json!({"type": "string", "title": "Answer", "enum": ["left", "right"]});
    let schema = json!({"type": "object", "properties": {"answer": field}, "required": ["answer"]});
    assert_eq!(form["requestedSchema"], schema);
    answers(&server, &id, "no-such-key", accept("left")).await;
    question(&get(&server, &id).await);
    let wrong = json!({"taskId": id, "inputResponses": {&first: accept("up")}});
    let refused = Answer::of(server.modern(ACME, &following("tasks/update", wrong))).await;
    assert_eq!(refused.body["error"]["code"], -32602, "{}", refused.text);
    answers(&server, &id, &first, accept("right")).await;
    assert_eq!(get(&server, &id).await["status"], "working");
    let known = server
        .use_tool(ACME, "task_get", json!({"task_id": "mine"}))
        .await;
    // The option itself, not what the form called it.
    assert_eq!(
        known["answers"][0]["answer"],
        json!({"label": "right", "id": 2})
    );

    server
        .use_tool(ACME, "task_notify", hers(asks("And now?")))
        .await;
    let (second, _) = question(&get(&server, &id).await);
    assert_ne!(first, second);
    // The first question was answered already.
    answers(&server, &id, &first, accept("left")).await;
    question(&get(&server, &id).await);
    answers(&server, &id, &second, json!({"action": "decline"})).await;
    let known = server
        .use_tool(ACME, "task_get", json!({"task_id": "mine"}))
        .await;
    assert_eq!(known["answers"][1]["answer"], json!({"declined": true}));
    let end =
        json!({"reason": "failure", "result": {"steps": 3}, "execution_summary": {"text": "lost"}});
    server.use_tool(ACME, "task_end", hers(end)).await;
    let retried = server
        .use_tool(ACME, "task_get", json!({"task_id": "mine"}))
        .await;
    assert_eq!(retried["state"], "pending", "{retried}");
    assert_eq!(get(&server, &id).await["status"], "working");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_answered_as_the_plain_call_and_stays_so() {
    let server = HttpServer::start().await;
    let limits = json!({"max_retries": 0});
    for (task, reason) in [("good", "success"), ("bad", "failure")] {
        let input = json!({"description": "x", "task_id": task, "execution_context": limits});
        let id = handle(&server, "task_run", input.clone()).await;
        let hers = server.claim(ACME).await;
        let end = json!({"reason": reason, "result": {"n": 1}});
        server.use_tool(ACME, "task_end", hers(end)).await;
        // Dispatched already, so this is the outcome alone.
        let plain = modern("tools/call", tool("task_run", input));
        let plain = Answer::of(server.modern(ACME, &plain)).await;
        let ended = get(&server, &id).await;
        assert_eq!(ended["status"], "completed");
        assert_eq!(ended["result"], plain.body["result"]);
        assert_eq!(ended["result"]["structuredContent"]["done"], true);
        acknowledged(&server, "tasks/cancel", json!({"taskId": id})).await;
        answers(&server, &id, "any", accept("late")).await;
        if task == "bad" {
            let retry = json!({"task_id": task});
            server.use_tool(ACME, "task_retry", retry).await;
        }
        assert_eq!(get(&server, &id).await, ended);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_a_run_cancels_its_task_and_who_cancels_a_wait_only_that() {
    let server = HttpServer::start().await;
    let run = handle(
        &server,
        "task_run",
        json!({"description": "x", "task_id": "t"}),
    )
    .await;
    let wait = json!({"task_ids": ["t"]});
    let [first, second] = [
        handle(&server, "task_wait", wait.clone()).await,
        handle(&server, "task_wait", wait.clone()).await,
    ];
    acknowledged(&server, "tasks/cancel", json!({"taskId": first})).await;
    assert_eq!(get(&server, &first).await["status"], "cancelled");
    assert_eq!(get(&server, &run).await["status"], "working");
    acknowledged(&server, "tasks/cancel", json!({"taskId": run})).await;
    let cancelled = get(&server, &run).await;
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(
        cancelled["statusMessage"],
        "cancelled: its caller called it off"
    );
    let known = server
        .use_tool(ACME, "task_get", json!({"task_id": "t"}))
        .await;
    assert_eq!(known["state"], "cancelled");
    let waited = get(&server, &second).await;
    let outcome = &waited["result"]["structuredContent"]["tasks"][0];
    assert_eq!(
        (&waited["status"], &outcome["state"]),
        (&json!("completed"), &json!("cancelled"))
    );
    acknowledged(&server, "tasks/cancel", json!({"taskId": first})).await;
    assert_eq!(get(&server, &first).await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_asks_for_each_of_its_tasks() {
    let server = HttpServer::start().await;
    let mut held = Vec::new();
    for id in ["a", "b"] {
        server.dispatch(ACME, id).await;
        held.push(server.claim(ACME).await);
    }
    let wait = json!({"task_ids": ["a", "b"], "until": "all"});
    let id = handle(&server, "task_wait", wait).await;
    for hers in &held {
        server
            .use_tool(ACME, "task_notify", hers(asks("Which?")))
            .await;
    }
    let task = get(&server, &id).await;
    let keys: Vec<_> = task["inputRequests"].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 2, "{task}");
    answers(&server, &id, keys[0], accept("left")).await;
    let (open, _) = question(&get(&server, &id).await);
    assert_eq!(&open, keys[1]);
    answers(&server, &id, &open, accept("left")).await;
    assert_eq!(
        get(&server, &id).await["statusMessage"],
        "0 of 2 tasks ended"
    );
    for hers in &held {
        server
            .use_tool(ACME, "task_end", hers(json!({"reason": "success"})))
            .await;
    }
    let task = get(&server, &id).await;
    assert_eq!(task["result"]["structuredContent"]["done"], true, "{task}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_declare_it_or_need_not_wait_gets_the_plain_result() {
    let server = HttpServer::start().await;
    let plain = |result: Value| {
        assert_eq!(result["resultType"], "complete", "{result}");
        result["structuredContent"].clone()
    };
    let now = json!({"description": "x", "task_id": "t", "wait_seconds": 0});
    let undeclared = modern("tools/call", tool("task_run", now.clone()));
    let answer = Answer::of(server.modern(ACME, &undeclared)).await;
    assert_eq!(plain(answer.body["result"].clone())["done"], false);
    let dispatch = json!({"description": "x", "task_id": "d"});
    for (name, input) in [
        ("task_run", now),
        ("task_dispatch", dispatch),
        ("task_wait", json!({"task_ids": ["t"], "wait_seconds": 0})),
        ("task_get", json!({"task_id": "t"})),
    ] {
        plain(ask(&server, ACME, "tools/call", tool(name, input)).await);
    }
    let refused = tool("task_run", json!({"description": "x", "task_id": "t"}));
    let refused = ask(&server, ACME, "tools/call", refused).await;
    assert_eq!(refused["resultType"], "task", "it goes on: {refused}");
    let other = tool("task_run", json!({"description": "y", "task_id": "t"}));
    let other = ask(&server, ACME, "tools/call", other).await;
    assert_eq!(other["isError"], true, "{other}");
    assert!(
        other["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("task_id_taken")
    );
    let bad = ask(&server, ACME, "tools/call", tool("task_run", json!({}))).await;
    assert_eq!(bad["isError"], true, "{bad}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_shows_no_forms_is_told_the_question_in_its_result() {
    let server = HttpServer::start().await;
    let input = json!({"description": "x", "task_id": "t"});
    let mut message = following("tools/call", tool("task_run", input));
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    message["params"]["_meta"][capabilities]["elicitation"] = json!({"url": {}});
    let answer = Answer::of(server.modern(ACME, &message)).await;
    let id = answer.body["result"]["taskId"].as_str().unwrap().to_owned();
    let hers = server.claim(ACME).await;
    server
        .use_tool(ACME, "task_notify", hers(asks("Which way?")))
        .await;
    let ended = get(&server, &id).await;
    let output = &ended["result"]["structuredContent"];
    assert_eq!(ended["status"], "completed", "{ended}");
    assert_eq!(
        (&output["done"], &output["question"]["question"]),
        (&json!(true), &json!("Which way?"))
    );
    server
        .use_tool(
            ACME,
            "task_answer",
            json!({"task_id": "t", "answer": "left"}),
        )
        .await;
    assert_eq!(get(&server, &id).await, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_handle_is_an_unknown_one_and_mistakes_have_their_codes() {
    let server = HttpServer::start().await;
    let id = handle(&server, "task_run", json!({"description": "x"})).await;
    let responses = json!({"taskId": id, "inputResponses": {}});
    for (method, mut params) in [
        ("tasks/get", json!({"taskId": id})),
        ("tasks/update", responses),
        ("tasks/cancel", json!({"taskId": id})),
    ] {
        let foreign =
            Answer::of(server.modern("/t/globex/mcp", &following(method, params.clone()))).await;
        let undeclared = Answer::of(server.modern(ACME, &modern(method, params.clone()))).await;
        let mismatched = server.modern(ACME, &following(method, params.clone()));
        let mismatched = Answer::of(mismatched.header("mcp-name", "hdl_other")).await;
        params["taskId"] = "hdl_none".into();
        let unknown = Answer::of(server.modern(ACME, &following(method, params.clone()))).await;
        assert_eq!(foreign.text, unknown.text);
        assert_eq!(unknown.body["error"]["code"], -32602, "{}", unknown.text);
        assert_eq!(
            (undeclared.status, &undeclared.body["error"]["code"]),
            (400, &json!(-32021))
        );
        let required = &undeclared.body["error"]["data"]["requiredCapabilities"];
        assert_eq!(
            *required,
            json!({"extensions": {"io.modelcontextprotocol/tasks": {}}})
        );
        assert_eq!(
            (mismatched.status, &mismatched.body["error"]["code"]),
            (400, &json!(-32020))
        );
        params["taskId"] = json!(7);
        let wrong = Answer::of(server.modern(ACME, &following(method, params))).await;
        assert_eq!(wrong.body["error"]["code"], -32602, "{}", wrong.text);
        assert_eq!(wrong.body["error"]["data"]["path"], "/params/taskId");
    }
    assert_eq!(get(&server, &id).await["status"], "working");
    for method in ["tasks/list", "tasks/result"] {
        let answer =
            Answer::of(server.modern(ACME, &following(method, json!({"taskId": id})))).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (404, &json!(-32601))
        );
    }
    let discovered = server.ask("server/discover", json!({})).await;
    let extensions = &discovered.body["result"]["capabilities"]["extensions"];
    assert_eq!(*extensions, json!({"io.modelcontextprotocol/tasks": {}}));
}

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
async fn a_legacy_session_that_declares_it_follows_handles_too() {
    let server = HttpServer::start().await;
    let mut begin = initialize("2025-11-25");
    begin["params"]["capabilities"] = follower();
    let session = server.begin(ACME, &begin).await;
    let input = json!({"description": "x", "task_id": "t"});
    let answer = session.ask("tools/call", tool("task_run", input)).await;
    let id = answer["result"]["taskId"].clone();
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    let hers = server.claim(ACME).await;
    server
        .use_tool(ACME, "task_notify", hers(asks("Which way?")))
        .await;
    let (key, _) = question(&session.ask("tasks/get", json!({"taskId": id})).await["result"]);
    let responses = json!({"taskId": id, "inputResponses": {key: accept("left")}});
    let answer = session.ask("tasks/update", responses).await;
    assert!(answer["result"].is_object(), "{answer}");
    server
        .use_tool(ACME, "task_end", hers(json!({"reason": "success"})))
        .await;
    let answer = session.ask("tasks/get", json!({"taskId": id})).await;
    assert_eq!(answer["result"]["status"], "completed", "{answer}");
    let plain = server.session(ACME, "2025-11-25").await;
    let answer = plain.ask("tasks/get", json!({"taskId": id})).await;
    assert_eq!(answer["error"]["code"], -32021, "{answer}");
}
