//! What holds whatever carries MCP: the same stories over pipes and Streamable HTTP in both eras, and over HTTP+SSE.

use serde_json::{Value, json};

use crate::support::client::{Client, Way};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{initialize, modern, tool};

/// Tells a story over every way, each with a server of its own.
async fn everywhere(story: impl AsyncFn(&HttpServer, Way)) {
    for way in Way::ALL {
        // Shown when the story fails.
        eprintln!("over {way:?}");
        let server = HttpServer::start().await;
        story(&server, way).await;
    }
}

/// A wait for the task `t`, which nobody works on.
fn wait() -> Value {
    tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}))
}

#[track_caller]
fn code(answer: &Value) -> i64 {
    let code = answer["error"]["code"].as_i64();
    code.unwrap_or_else(|| panic!("no error: {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_who_the_server_is_and_what_it_can_do() {
    everywhere(async |server, way| {
        let mut client = Client::open(server, way).await;
        let greeting = &client.greeting;
        assert!(greeting["instructions"].is_string(), "{greeting}");
        for capability in ["tools", "prompts", "resources", "completions"] {
            assert!(
                greeting["capabilities"][capability].is_object(),
                "{greeting}"
            );
        }
        let server_info = if way.is_modern() {
            let versions = greeting["supportedVersions"].as_array().unwrap();
            assert!(versions.contains(&"2026-07-28".into()), "{greeting}");
            &greeting["_meta"]["io.modelcontextprotocol/serverInfo"]
        } else {
            assert_eq!(greeting["protocolVersion"], "2025-11-25", "{greeting}");
            &greeting["serverInfo"]
        };
        assert_eq!(server_info["name"], "baton", "{greeting}");
        let listed = client.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().unwrap();
        let is_known = |tool: &Value| {
            server
                .app
                .catalog
                .op(tool["name"].as_str().unwrap())
                .is_some()
        };
        assert!(tools.len() > 10 && tools.iter().all(is_known), "{listed}");
        assert_eq!(listed["result"]["ttlMs"].is_number(), way.is_modern());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_and_mistakes_are_whose_they_are() {
    everywhere(async |server, way| {
        let mut client = Client::open(server, way).await;
        let input = json!({"description": "x", "task_id": "t"});
        let sent = client.call("task_dispatch", input).await;
        assert_eq!(
            sent["result"]["structuredContent"]["state"], "pending",
            "{sent}"
        );
        let got = client.call("task_get", json!({"task_id": "t"})).await;
        let result = &got["result"];
        assert_eq!(result["structuredContent"]["task_id"], "t", "{got}");
        assert_eq!(result["resultType"] == "complete", way.is_modern(), "{got}");
        // The tool's: a result that a model can read.
        for input in [json!({"task_id": "none"}), json!({"colour": 7})] {
            let answer = client.call("task_get", input).await;
            assert_eq!(answer["result"]["isError"], true, "{answer}");
            assert!(
                answer["result"]["content"][0]["text"].is_string(),
                "{answer}"
            );
        }
        // The protocol's: errors.
        assert_eq!(code(&client.call("task_fly", json!({})).await), -32602);
        assert_eq!(code(&client.ask("no/such", json!({})).await), -32601);
        let absent = client
            .ask("resources/read", json!({"uri": "baton://tasks/none"}))
            .await;
        assert_eq!(code(&absent), if way.is_modern() { -32602 } else { -32002 });
        for (method, params) in [
            ("completion/complete", json!({"ref": 1})),
            ("resources/list", json!({"cursor": 7})),
            ("tools/call", tool("task_get", json!([1]))),
        ] {
            let answer = client.ask(method, params).await;
            assert_eq!(code(&answer), -32602, "{method}");
            assert!(
                answer["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains(method)
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_an_error_and_the_client_goes_on() {
    everywhere(async |server, way| {
        let mut client = Client::open(server, way).await;
        for (text, expected) in [
            ("garbage", -32700),
            (r#"{"jsonrpc":"2.0","id":1,"meth"#, -32700),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
            ("7", -32600),
        ] {
            client.send_text(text).await;
            let answer = client.hear(|message| message["id"].is_null()).await;
            assert_eq!(code(&answer), expected, "{text}");
        }
        let listed = client.ask("prompts/list", json!({})).await;
        assert!(listed["result"]["prompts"].is_array(), "{listed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_of_progress_and_of_the_end() {
    everywhere(async |server, way| {
        server.dispatch("/mcp", "t").await;
        let mine = server.claim("/mcp").await;
        let mut client = Client::open(server, way).await;
        let mut params = wait();
        params["_meta"]["progressToken"] = "p".into();
        let id = client.begin("tools/call", params).await;
        let is_progress = |message: &Value| message["method"] == "notifications/progress";
        client.hear(is_progress).await;
        let step = json!({"notification_type": "task_progress", "data": {"progress": 40}});
        server.use_tool("/mcp", "task_notify", mine(step)).await;
        let told = client.hear(is_progress).await;
        let params = &told["params"];
        assert_eq!(
            (&params["progressToken"], &params["progress"]),
            (&json!("p"), &json!(40.0))
        );
        let end = mine(json!({"reason": "success"}));
        server.use_tool("/mcp", "task_end", end).await;
        let answer = client.answer(&id).await;
        assert_eq!(
            answer["result"]["structuredContent"]["done"], true,
            "{answer}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_called_off_runs_no_longer() {
    everywhere(async |server, way| {
        server.dispatch("/mcp", "t").await;
        let mut client = Client::open(server, way).await;
        let (one, other) = (
            client.begin("tools/call", wait()).await,
            client.begin("tools/call", wait()).await,
        );
        server.until_waiting(2).await;
        client.cancel(&one).await;
        server.until_waiting(1).await;
        server
            .use_tool("/mcp", "task_cancel", json!({"task_id": "t"}))
            .await;
        let answer = client.answer(&other).await;
        assert_eq!(
            answer["result"]["structuredContent"]["done"], true,
            "{answer}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_hears_of_what_changed() {
    everywhere(async |server, way| {
        let mut client = Client::open(server, way).await;
        client.subscribe("baton://tasks/t").await;
        server.dispatch("/t/other/mcp", "t").await;
        server.dispatch("/mcp", "unheard").await;
        server.dispatch("/mcp", "t").await;
        let updated = "notifications/resources/updated";
        let heard = client.hear(|message| message["method"] == updated).await;
        assert_eq!(heard["params"]["uri"], "baton://tasks/t", "{heard}");
        let input = json!({"task_id": "t"});
        server.use_tool("/mcp", "task_cancel", input).await;
        let heard = client.hear(|message| message["method"] == updated).await;
        assert_eq!(heard["params"]["uri"], "baton://tasks/t", "{heard}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_calls_answer_has_begun_before_its_end() {
    everywhere(async |server, way| {
        if way.is_pipes() {
            return;
        }
        server.dispatch("/mcp", "t").await;
        let mut client = Client::open(server, way).await;
        let before = client.begun();
        let id = client.begin("tools/call", wait()).await;
        server.until_waiting(1).await;
        client.until_begun(before + 1).await;
        assert_eq!(server.app.system.waiting_calls(), 1);
        server
            .use_tool("/mcp", "task_cancel", json!({"task_id": "t"}))
            .await;
        let answer = client.answer(&id).await;
        assert_eq!(
            answer["result"]["structuredContent"]["done"], true,
            "{answer}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    everywhere(async |server, way| {
        let mut stalled = Client::open(server, way).await;
        stalled.reads(false);
        let mut asked = Vec::new();
        for _ in 0..60 {
            asked.push(stalled.begin("tools/list", json!({})).await);
        }
        for other in Way::ALL {
            let mut client = Client::open(server, other).await;
            let listed = client.call("task_list", json!({})).await;
            assert_eq!(listed["result"]["isError"], false, "{listed}");
        }
        stalled.reads(true);
        for id in asked {
            let answer = stalled.answer(&id).await;
            assert!(answer["result"]["tools"].is_array(), "{answer}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_the_calls_that_wait() {
    everywhere(async |server, way| {
        server.dispatch("/mcp", "t").await;
        let mut client = Client::open(server, way).await;
        let id = client.begin("tools/call", wait()).await;
        server.until_waiting(1).await;
        server.app.stopping().cancel();
        let answer = client
            .hear(|message| message["id"] == id || message.is_null())
            .await;
        // Who serves pipes has a second to end in, and on a busy machine may not come to say why.
        if !(way.is_pipes() && answer.is_null()) {
            assert_eq!(answer["result"]["isError"], true, "{answer}");
            let text = answer["result"]["content"][0]["text"].as_str().unwrap();
            assert!(text.contains("shutting_down"), "{text}");
        }
        server.until_waiting(0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_have_a_limit_where_there_are_sessions() {
    for way in Way::ALL {
        let settings = |settings: &mut baton::config::Settings| settings.max_sessions = Some(1);
        let server = HttpServer::builder().settings(settings).start().await;
        let _first = Client::open(&server, way).await;
        let refused = match way {
            Way::HttpLegacy => server.message("/mcp", &initialize("2025-11-25")),
            Way::Sse => server.request(reqwest::Method::GET, "/sse"),
            _ => {
                let mut second = Client::open(&server, way).await;
                let listed = second.ask("tools/list", json!({})).await;
                assert!(listed["result"].is_object(), "{way:?}: {listed}");
                continue;
            }
        };
        let refused = Answer::of(refused).await;
        let error = &refused.body["error"]["data"]["error"];
        assert_eq!(
            (refused.status, &error["code"]),
            (503, &json!("too_many_sessions"))
        );
        assert_eq!(refused.header("retry-after"), "30");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_for_those_who_have_them() {
    everywhere(async |server, way| {
        let ask = |id: &str, method: &str| {
            let mut message = if way.is_modern() {
                modern(method, json!({}))
            } else {
                json!({"jsonrpc": "2.0", "method": method, "params": {}})
            };
            message["id"] = id.into();
            message
        };
        let batch = json!([ask("a", "tools/list"), ask("b", "prompts/list")]).to_string();
        let mut client = Client::speaking(server, way, "2025-03-26").await;
        client.send_text(&batch).await;
        match way {
            Way::PipesModern | Way::HttpModern => {
                let answer = client.hear(|message| message["id"].is_null()).await;
                assert_eq!(code(&answer), -32600, "{answer}");
            }
            // One array, as the client has no other way to tell what belongs together.
            Way::PipesLegacy => {
                let answer = client.hear(Value::is_array).await;
                assert_eq!(answer.as_array().unwrap().len(), 2, "{answer}");
            }
            Way::HttpLegacy | Way::Sse => {
                for id in ["a", "b"] {
                    let answer = client.answer(&id.into()).await;
                    assert!(answer["result"].is_object(), "{answer}");
                }
            }
        }
        let alive = client.ask("resources/list", json!({})).await;
        assert!(alive["result"].is_object(), "{alive}");
    })
    .await;
}
