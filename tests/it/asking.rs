//! Calls that ask before they do what may not be meant, in every era and over every transport; and what a call says to
//! its client while it runs.

use reqwest::Method;
use serde_json::{Value, json};

use crate::mcp_short::Pipes;
use crate::support::home::Home;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, Session, initialize, modern, tool};
use crate::support::sse::Client;

/// A task `top` with a subtask `sub` that ada works on, in the tenant of `path`.
pub(crate) async fn project(server: &HttpServer, path: &str) {
    for (id, parent) in [("top", None), ("sub", Some("top"))] {
        let mut task = json!({"description": "x", "task_id": id});
        if let Some(parent) = parent {
            task["parent_task_id"] = parent.into();
            task["assigned_to"] = "ada".into();
        } else {
            task["assigned_to"] = "nobody".into();
        }
        server.use_tool(path, "task_dispatch", task).await;
    }
    let _ = server.claim(path).await;
}

pub(crate) fn cancel(reason: &str) -> Value {
    tool("task_cancel", json!({"task_id": "top", "reason": reason}))
}

pub(crate) async fn state(server: &HttpServer, path: &str, id: &str) -> Value {
    let task = server.use_tool(path, "task_get", json!({"task_id": id}));
    task.await["state"].clone()
}

/// A modern call of a client that can show forms.
pub(crate) fn round(mut params: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        params[name] = value.clone();
    }
    let mut message = modern("tools/call", params);
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] =
        json!({"elicitation": {}});
    message
}

pub(crate) fn said(action: &str, confirm: bool) -> Value {
    json!({"confirm": {"action": action, "content": {"confirm": confirm}}})
}

pub(crate) fn code(answer: &Value) -> String {
    let text = answer["result"]["content"][0]["text"].as_str();
    let error: Value = serde_json::from_str(text.unwrap_or_else(|| panic!("{answer}"))).unwrap();
    error["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked_says_it_from_the_beginning() {
    let server = HttpServer::start().await;
    project(&server, "/mcp").await;
    let refused = server.ask("tools/call", cancel("enough")).await;
    assert_eq!(code(&refused.body), "confirmation_needed");
    assert_eq!(refused.body["result"]["isError"], true);
    let over_rest = server
        .post("/api/v1/tasks/top/cancel", &json!({"reason": "enough"}))
        .await;
    assert_eq!(
        (over_rest.status, &over_rest.body["code"]),
        (409, &json!("confirmation_needed"))
    );
    assert_eq!(state(&server, "/mcp", "sub").await, "assigned");
    let mut meant = cancel("enough");
    meant["arguments"]["confirm"] = true.into();
    server
        .use_tool("/mcp", "task_cancel", meant["arguments"].clone())
        .await;
    assert_eq!(state(&server, "/mcp", "sub").await, "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_is_asked_in_rounds_and_its_state_is_good_for_nothing_else() {
    let server = HttpServer::start().await;
    project(&server, "/mcp").await;
    project(&server, "/t/acme/mcp").await;
    let send =
        async |path: &str, message: &Value| Answer::of(server.modern(path, message)).await.body;
    let asked = send("/mcp", &round(cancel("enough"), json!({}))).await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    assert_eq!(
        result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"],
        "baton"
    );
    let question = &result["inputRequests"]["confirm"];
    assert_eq!(question["method"], "elicitation/create");
    let message = question["params"]["message"].as_str().unwrap();
    assert!(message.contains("1 of its subtasks"), "{message}");
    let sealed = result["requestState"].as_str().unwrap();
    let with =
        |state: &str, responses: Value| json!({"requestState": state, "inputResponses": responses});
    // Another call, another tenant, another seal.
    let (head, last) = sealed.split_at(sealed.len() - 1);
    let changed = format!("{head}{}", if last == "A" { "E" } else { "A" });
    for (path, message) in [
        (
            "/mcp",
            round(cancel("other"), with(sealed, said("accept", true))),
        ),
        (
            "/t/acme/mcp",
            round(cancel("enough"), with(sealed, said("accept", true))),
        ),
        (
            "/mcp",
            round(cancel("enough"), with(&changed, said("accept", true))),
        ),
        (
            "/mcp",
            round(cancel("enough"), with("", said("accept", true))),
        ),
    ] {
        let refused = send(path, &message).await;
        assert_eq!(
            refused["error"]["code"], -32602,
            "{path} {message}: {refused}"
        );
    }
    // What is no answer is asked again; a no is an answer.
    for nothing in [
        json!({}),
        json!({"confirm": 5}),
        json!({"other": {"action": "accept"}}),
    ] {
        let again = send("/mcp", &round(cancel("enough"), with(sealed, nothing))).await;
        assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    }
    for no in [
        said("decline", true),
        said("cancel", true),
        said("accept", false),
    ] {
        let answer = send("/mcp", &round(cancel("enough"), with(sealed, no))).await;
        assert_eq!(code(&answer), "not_confirmed", "{answer}");
    }
    assert_eq!(state(&server, "/mcp", "sub").await, "assigned");
    let other = HttpServer::builder().beside(&server).start().await;
    let yes = round(cancel("enough"), with(sealed, said("accept", true)));
    let done = Answer::of(other.modern("/mcp", &yes)).await.body;
    assert_eq!(
        done["result"]["structuredContent"]["state"], "cancelled",
        "{done}"
    );
    assert_eq!(state(&server, "/mcp", "sub").await, "cancelled");
    assert_eq!(state(&server, "/t/acme/mcp", "sub").await, "assigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_question_are_answered_at_once_also_where_one_could_be_asked() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "top").await;
    let message = round(cancel("enough"), json!({}));
    let answer = Answer::of(server.modern("/mcp", &message)).await.body;
    assert_eq!(
        answer["result"]["structuredContent"]["state"], "cancelled",
        "{answer}"
    );
}

/// The first message of a legacy client that can show forms.
fn begin() -> Value {
    let mut message = initialize("2025-11-25");
    message["params"]["capabilities"] = json!({"elicitation": {}});
    message
}

fn call(params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "call", "method": "tools/call", "params": params})
}

fn answer_to(question: &Value, confirm: bool) -> Value {
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let result = &said("accept", confirm)["confirm"];
    json!({"jsonrpc": "2.0", "id": question["id"], "result": result})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_session_is_asked_on_the_stream_of_its_call() {
    let server = HttpServer::start().await;
    let other = HttpServer::builder().beside(&server).start().await;
    project(&server, "/mcp").await;
    let session = server.begin("/mcp", &begin()).await;
    let post = |session: &Session<'_>, message: &Value| {
        Answer::of(session.request(Method::POST).json(message))
    };
    let ask = async || {
        let request = session.request(Method::POST).json(&call(cancel("enough")));
        let mut events = Events::of(request).await;
        let question = events.data().await;
        (events, question)
    };
    // Two calls at once have two questions, and each gets its own answer.
    let (mut one, first) = ask().await;
    let (mut two, second) = ask().await;
    assert_ne!(first["id"], second["id"]);
    let taken = post(&session, &answer_to(&second, false)).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    assert_eq!(code(&two.data().await), "not_confirmed");
    assert_eq!(state(&server, "/mcp", "sub").await, "assigned");
    // The call runs here, and the answer comes to another process.
    let there = session.on(&other);
    let mut strange = answer_to(&first, true);
    strange["id"] = "0/0".into();
    let refused = post(&there, &strange).await;
    assert!(refused.status >= 400, "{}", refused.text);
    let taken = post(&there, &answer_to(&first, true)).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let done = one.data().await;
    assert_eq!(done["id"], "call");
    assert_eq!(
        done["result"]["structuredContent"]["state"], "cancelled",
        "{done}"
    );
    assert!(one.next().await.is_none());
    for session in [&session, &there] {
        let late = post(session, &answer_to(&first, true)).await;
        assert!(late.status >= 400, "{}", late.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_oldest_transport_too() {
    let server = HttpServer::start().await;
    project(&server, "/mcp").await;
    let mut client = Client::open(&server, "/sse").await;
    client.accepted(&begin()).await;
    client.events.data().await;
    client
        .accepted(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        .await;
    client.accepted(&call(cancel("enough"))).await;
    let question = client.events.data().await;
    client.accepted(&answer_to(&question, true)).await;
    let done = client.events.data().await;
    assert_eq!(
        done["result"]["structuredContent"]["state"], "cancelled",
        "{done}"
    );
}

#[test]
fn over_pipes_in_both_eras() {
    for is_legacy in [false, true] {
        let mut pipes = Pipes::open(Home::new(), true);
        if is_legacy {
            pipes.ask(&begin().to_string());
            pipes.say(r#"{"jsonrpc": "2.0", "method": "notifications/initialized"}"#);
        }
        let mut ask = |message: &Value| -> Value {
            serde_json::from_str(&pipes.ask(&message.to_string())).unwrap()
        };
        let top = json!({"description": "x", "task_id": "top", "assigned_to": "nobody"});
        let sub = json!({"description": "x", "task_id": "sub", "parent_task_id": "top"});
        ask(&modern("tools/call", tool("task_dispatch", top)));
        ask(&modern("tools/call", tool("task_dispatch", sub)));
        let ada = tool("task_claim", json!({"agent_id": "ada"}));
        let claimed = ask(&modern("tools/call", ada));
        let tasks = &claimed["result"]["structuredContent"]["tasks"];
        assert_eq!(tasks[0]["task_id"], "sub", "{claimed}");
        let done = if is_legacy {
            let question = ask(&call(cancel("enough")));
            ask(&answer_to(&question, true))
        } else {
            let asked = ask(&round(cancel("enough"), json!({})));
            let state = &asked["result"]["requestState"];
            let more = json!({"requestState": state, "inputResponses": said("accept", true)});
            ask(&round(cancel("enough"), more))
        };
        let state = &done["result"]["structuredContent"]["state"];
        assert_eq!(state, "cancelled", "{done}");
    }
}

/// What a stream says until the answer comes, and the answer.
async fn all(mut events: Events) -> (Vec<Value>, Value) {
    let mut said = Vec::new();
    loop {
        let message = events.data().await;
        if message.get("id").is_some() {
            return (said, message);
        }
        said.push(message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_messages_come_to_those_who_ask_for_them() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    let wait = || tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 0}));
    let mut message = modern("tools/call", wait());
    let level = |message: &mut Value, level: Value| {
        message["params"]["_meta"]["io.modelcontextprotocol/logLevel"] = level;
    };
    let silent = Answer::of(server.modern("/mcp", &message)).await;
    assert_eq!(silent.body["result"]["isError"], false, "{}", silent.text);
    level(&mut message, "warning".into());
    let silent = Answer::of(server.modern("/mcp", &message)).await;
    assert_eq!(silent.body["result"]["isError"], false, "{}", silent.text);
    level(&mut message, "info".into());
    let (said, _) = all(Events::of(server.modern("/mcp", &message)).await).await;
    let params = json!({"level": "info", "logger": "baton", "data": "pending"});
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(
        (&said[0]["method"], &said[0]["params"]),
        (&json!("notifications/message"), &params)
    );
    for nonsense in [json!("loud"), json!(3)] {
        level(&mut message, nonsense);
        let refused = Answer::of(server.modern("/mcp", &message)).await;
        assert_eq!(refused.body["error"]["code"], -32602, "{}", refused.text);
    }
    // A session says it once, and every process knows.
    let other = HttpServer::builder().beside(&server).start().await;
    let session = server.session("/mcp", "2025-11-25").await;
    let spoken = async |session: &Session<'_>| {
        let request = session.request(Method::POST).json(&call(wait()));
        all(Events::of(request).await).await.0.len()
    };
    assert_eq!(spoken(&session).await, 0);
    let set = session
        .ask("logging/setLevel", json!({"level": "debug"}))
        .await;
    assert_eq!(set["result"], json!({}), "{set}");
    assert_eq!(spoken(&session).await, 1);
    assert_eq!(spoken(&session.on(&other)).await, 1);
    session
        .ask("logging/setLevel", json!({"level": "error"}))
        .await;
    assert_eq!(spoken(&session.on(&other)).await, 0);
    let refused = session
        .ask("logging/setLevel", json!({"level": "loud"}))
        .await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_modern_result_says_who_answers_and_no_older_one_does() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    let session = server.session("/mcp", "2025-11-25").await;
    let prompt = json!({"type": "ref/prompt", "name": "execute"});
    let requests = [
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({"uri": "baton://tasks/t"})),
        (
            "prompts/get",
            json!({"name": "execute", "arguments": {"agent_id": "ada"}}),
        ),
        (
            "completion/complete",
            json!({"ref": prompt, "argument": {"name": "agent_id", "value": ""}}),
        ),
        ("tools/call", tool("task_get", json!({"task_id": "t"}))),
        ("tools/call", tool("task_get", json!({"task_id": "none"}))),
        (
            "tools/call",
            tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 0})),
        ),
    ];
    for (method, params) in requests {
        let modern = server.ask(method, params.clone()).await.body;
        let server_info = &modern["result"]["_meta"]["io.modelcontextprotocol/serverInfo"];
        assert_eq!(server_info["name"], "baton", "{method}: {modern}");
        assert_eq!(server_info["version"], env!("CARGO_PKG_VERSION"));
        let legacy = session.ask(method, params).await;
        assert_eq!(legacy["result"].get("_meta"), None, "{method}: {legacy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_prompts_take_is_completed_from_the_tenants_own_tasks() {
    let server = HttpServer::start().await;
    let dispatch = async |path: &str, input: Value| {
        server.use_tool(path, "task_dispatch", input).await;
    };
    let task = json!({
        "description": "x", "title": "Ship it", "required_capabilities": ["shell", "rust"],
        "assigned_to": "ada",
    });
    dispatch("/mcp", task).await;
    let foreign = json!({"description": "x", "title": "Sink it", "required_capabilities": ["sea"]});
    dispatch("/t/acme/mcp", foreign).await;
    let complete = async |prompt: &str, argument: &str, value: &str| {
        let reference = json!({"type": "ref/prompt", "name": prompt});
        let argument = json!({"name": argument, "value": value});
        let params = json!({"ref": reference, "argument": argument});
        server.ask("completion/complete", params).await.body
    };
    for (prompt, argument, value, expected) in [
        ("orchestrate", "goal", "S", json!(["Ship it"])),
        ("orchestrate", "capabilities", "", json!(["rust", "shell"])),
        ("execute", "capabilities", "rust, s", json!(["rust,shell"])),
        ("execute", "agent_id", "a", json!(["ada"])),
        ("execute", "agent_id", "b", json!([])),
    ] {
        let answer = complete(prompt, argument, value).await;
        assert_eq!(
            answer["result"]["completion"]["values"], expected,
            "{prompt} {argument}"
        );
    }
    for (prompt, argument) in [("none", "goal"), ("execute", "goal")] {
        let answer = complete(prompt, argument, "").await;
        assert_eq!(answer["error"]["code"], -32602, "{prompt} {argument}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_listed_has_a_title_an_icon_and_hints() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    for (method, list) in [
        ("tools/list", "tools"),
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ] {
        let answer = server.ask(method, json!({})).await.body;
        let result = &answer["result"];
        assert_eq!(
            (&result["cacheScope"], &result["ttlMs"]),
            (&json!("private"), &json!(0))
        );
        let items = result[list].as_array().unwrap();
        assert!(!items.is_empty(), "{answer}");
        for item in items {
            assert!(
                item["title"].is_string() && item["description"].is_string(),
                "{item}"
            );
            let icon = item["icons"][0]["src"].as_str().unwrap();
            assert!(icon.starts_with("data:image/svg+xml"), "{item}");
            assert_eq!(item["annotations"].is_object(), list != "prompts", "{item}");
        }
        for cursor in ["", "x", "00"] {
            let refused = server.ask(method, json!({"cursor": cursor})).await.body;
            assert_eq!(
                refused["error"]["code"], -32602,
                "{method} {cursor:?}: {refused}"
            );
        }
    }
}
