//! Keys: how they are made, shown once, rotated, revoked and used by processes, and what they allow to make.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::access::{guarded, operate, operators_key, told};
use crate::program::{Home, complaint};
use crate::support::http::Answer;
use crate::support::mcp::{modern, tool};

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_revoked_and_expire() {
    let server = guarded().await;
    let clock = server.app.system.clock().clone();
    let input = json!({"roles": ["observer"], "name": "screen", "expires_in_seconds": 86_400});
    let made = operate(&server, "acme", "key_create", input).await;
    let (id, first) = (made["key_id"].clone(), made["key"].as_str().unwrap());
    let works = async |key: &str| {
        server.show(key);
        let answer = server.get("/api/v1/tasks").await;
        if answer.status != 200 {
            answer.is_problem(401, "invalid_credential");
        }
        answer.status == 200
    };
    assert!(works(first).await);
    let rotate = json!({"key_id": id, "keep_old_seconds": 600});
    let rotated = operate(&server, "acme", "key_rotate", rotate).await;
    let second = rotated["key"].as_str().unwrap();
    assert_eq!(rotated["key_id"], id);
    clock.advance(Duration::from_secs(590));
    assert!(works(first).await && works(second).await);
    clock.advance(Duration::from_secs(20));
    assert!(!works(first).await && works(second).await);
    let listed = operate(&server, "acme", "key_list", json!({})).await;
    let listed = &listed["keys"][0];
    assert_eq!(
        (&listed["name"], &listed["key_id"]),
        (&json!("screen"), &id)
    );
    assert!(listed["last_used_at"].is_string(), "{listed}");
    assert!(!listed.to_string().contains(&second[20..]), "{listed}");
    clock.advance(Duration::from_hours(24));
    assert!(!works(second).await);
    let third = operate(
        &server,
        "acme",
        "key_create",
        json!({"roles": ["observer"]}),
    )
    .await;
    let third_key = third["key"].as_str().unwrap();
    assert!(works(third_key).await);
    operate(
        &server,
        "acme",
        "key_revoke",
        json!({"key_id": third["key_id"]}),
    )
    .await;
    clock.advance(Duration::from_secs(1));
    assert!(!works(third_key).await);
    let kinds = ["created", "rotated", "revoked"];
    for (kind, count) in kinds.into_iter().zip([2, 1, 1]) {
        let events = told(&server, "acme", &format!("dev.baton.key.{kind}")).await;
        assert_eq!(events.len(), count, "{kind}");
        let text = json!(events).to_string();
        for key in [first, second, third_key] {
            assert!(!text.contains(&key[20..]), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_key_that_allows_more_than_his_own() {
    let server = guarded().await;
    let input = json!({"roles": ["admin"], "scopes": ["tenant:admin", "tasks:read"]});
    let narrow = operate(&server, "acme", "key_create", input).await;
    let wide = operate(&server, "acme", "key_create", json!({"roles": ["admin"]})).await;
    server.show(narrow["key"].as_str().unwrap());
    for input in [
        json!({"roles": ["admin"]}),
        json!({"roles": ["orchestrator"]}),
        json!({"roles": ["admin"], "scopes": ["tasks:orchestrate"]}),
    ] {
        let answer = server.post("/api/v1/keys", &input).await;
        answer.is_problem(403, "forbidden");
    }
    let path = format!("/api/v1/keys/{}/rotate", wide["key_id"].as_str().unwrap());
    server
        .post(&path, &json!({}))
        .await
        .is_problem(403, "forbidden");
    let input = json!({"roles": ["observer"], "scopes": ["tasks:read"]});
    assert_eq!(server.post("/api/v1/keys", &input).await.status, 200);
    let theirs = operate(
        &server,
        "globex",
        "key_create",
        json!({"roles": ["observer"]}),
    )
    .await;
    let path = format!("/api/v1/keys/{}", theirs["key_id"].as_str().unwrap());
    let foreign = Answer::of(server.request(Method::DELETE, &path)).await;
    foreign.is_problem(404, "unknown_key");
    let unknown =
        Answer::of(server.request(Method::DELETE, "/api/v1/keys/bt_0000000000000000")).await;
    unknown.is_problem(404, "unknown_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_key_is_for_all_tenants() {
    let server = guarded().await;
    server.show(&operators_key(&server).await);
    for path in ["/mcp", "/t/acme/mcp", "/t/globex/mcp"] {
        server.dispatch(path, "t").await;
    }
    let made = server
        .post("/t/acme/api/v1/keys", &json!({"roles": ["observer"]}))
        .await;
    server.show(made.body["key"].as_str().unwrap());
    let listed = server.get("/api/v1/tasks").await;
    assert_eq!(
        listed.body["tasks"].as_array().unwrap().len(),
        1,
        "{}",
        listed.text
    );
    server
        .get("/t/globex/api/v1/tasks")
        .await
        .is_problem(400, "tenant_conflict");
}

#[test]
fn a_process_shows_its_key_from_the_environment() {
    let home = Home::new();
    let make = |arguments: &[&str]| {
        let arguments = [&["key", "create", "--tenant", "acme"], arguments].concat();
        home.print(&arguments).trim().to_owned()
    };
    let admin = make(&["--role", "admin", "--name", "chief"]);
    let worker = make(&["--role", "executor", "--agent", "ada", "--expires", "30d"]);
    let listed: Value =
        serde_json::from_str(&home.print(&["key", "list", "--tenant", "acme"])).unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    let (_server, url) = home.serve_with(&["--listen", "127.0.0.1:0", "--auth", "keys"]);
    let run = |key: &str, arguments: &[&str]| {
        let mut command = home.command(&[arguments, &["--url", &url]].concat());
        command.env("BATON_KEY", key).output().unwrap()
    };
    let dispatch = &[
        "call",
        "task_dispatch",
        r#"{"description": "x", "task_id": "t"}"#,
    ];
    let refused = run("bt_none", dispatch);
    assert!(
        complaint(&refused).contains("invalid_credential"),
        "{}",
        complaint(&refused)
    );
    assert_eq!(refused.status.code(), Some(3), "{}", complaint(&refused));
    let refused = run(&worker, dispatch);
    assert!(
        complaint(&refused).contains("orchestrator"),
        "{}",
        complaint(&refused)
    );
    assert_eq!(refused.status.code(), Some(4), "{}", complaint(&refused));
    let done = run(&admin, dispatch);
    assert!(done.status.success(), "{}", complaint(&done));
    let claim = run(&worker, &["call", "task_claim", r#"{"agent_id": "ada"}"#]);
    let claim: Value = serde_json::from_slice(&claim.stdout).unwrap();
    assert_eq!(claim["tasks"][0]["task_id"], "t");
    let observer = run(&admin, &["key", "create", "--role", "observer"]);
    assert!(observer.status.success(), "{}", complaint(&observer));
    let bare = home.command(&["stdio", "--auth", "keys"]).output().unwrap();
    assert!(
        complaint(&bare).contains("credential_required"),
        "{}",
        complaint(&bare)
    );
    let mut pipe = home.command(&["stdio", "--auth", "keys"]);
    let mut pipe = pipe
        .env(
            "BATON_KEY",
            String::from_utf8(observer.stdout).unwrap().trim(),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let list = modern("tools/call", tool("task_list", json!({})));
    let mut dispatch = modern(
        "tools/call",
        tool("task_dispatch", json!({"description": "x"})),
    );
    dispatch["id"] = 2.into();
    let mut input = pipe.stdin.take().unwrap();
    writeln!(input, "{list}\n{dispatch}").unwrap();
    drop(input);
    let output = pipe.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r#""task_id":"t""#), "{text}");
    assert!(text.contains("forbidden"), "{text}");
}

#[test]
fn programs_at_a_server_are_of_the_tenant_of_their_key() {
    let home = Home::new();
    let key = ["key", "create", "--tenant", "acme", "--role"];
    let key = [&key[..], &["orchestrator", "--role", "executor"]].concat();
    let key = home.print(&key);
    let (_server, url) = home.serve_with(&["--listen", "127.0.0.1:0", "--auth", "keys"]);
    let run = |arguments: &[&str]| {
        let mut command = home.command(&[arguments, &["--url", &url]].concat());
        let output = command.env("BATON_KEY", key.trim()).output().unwrap();
        assert!(output.status.success(), "{}", complaint(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    let task = r#"{"description": "x", "task_id": "t"}"#;
    run(&["call", "task_dispatch", task]);
    let status = run(&["status", "--json"]);
    let counts = json!({"by_state": {"pending": 1}, "leased": 0});
    assert_eq!(status["tenants"], json!({"acme": counts}), "{status}");
    run(&["work", "--once", "--exec", "echo \"$BATON_TENANT\""]);
    let done = run(&["call", "task_get", r#"{"task_id": "t"}"#]);
    assert_eq!(done["result"], "acme", "{done}");
}
