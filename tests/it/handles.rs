//! The Tasks extension as its clients use it: a long call is answered by a handle, which tells where the call stands and
//! takes answers; on any process, and nobody else's.

use serde_json::{Value, json};

use crate::support::handles::{
    ACME, accept, acknowledged, answers, ask, asks, get, handle, question, told,
};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{following, in_time, modern, tool};

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
        let mut plain = Answer::of(server.modern(ACME, &plain)).await.body["result"].take();
        // Who answers stands around it already.
        plain.as_object_mut().unwrap().remove("_meta");
        let ended = get(&server, &id).await;
        assert_eq!(ended["status"], "completed");
        assert_eq!(ended["result"], plain);
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
