//! No secret leaves: keys, tokens, passwords, and what lets somebody go on with something are planted wherever they may
//! be, and everything that comes out elsewhere is searched for them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::time::Duration;

use baton::events;
use serde_json::{Value, json};

use crate::access::{call, code, guarded, key_of, operate};
use crate::program::{Home, complaint};
use crate::support::handles::asks;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{initialize, modern, tool};

/// What was said where, and what must not be in it.
#[derive(Default)]
struct Search {
    secrets: Vec<String>,
    /// How many of them are nowhere at all.
    keys: usize,
    said: Vec<(String, String)>,
}

impl Search {
    /// What a key begins with may be shown; the rest of it may not.
    fn key(&mut self, key: &str) {
        self.secret(&key[20..]);
    }

    fn secret(&mut self, secret: &str) {
        assert!(secret.len() >= 8, "{secret:?} may be anywhere");
        self.secrets.push(secret.to_owned());
    }

    fn hear(&mut self, place: &str, text: impl Into<String>) {
        self.said.push((place.to_owned(), text.into()));
    }

    /// All that a program said.
    fn hear_all(&mut self, place: &str, output: &Output) {
        self.hear(place, complaint(output));
        self.hear(place, String::from_utf8_lossy(&output.stdout));
    }

    fn finds_nothing(&self) {
        let lines = self.said.iter().flat_map(|(place, text)| {
            let lines = text.lines();
            lines.map(move |line| (place, line))
        });
        let has_secret = |line: &str| self.secrets.iter().any(|secret| line.contains(secret));
        let leaks: Vec<_> = lines.filter(|(_, line)| has_secret(line)).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
}

/// What a server answers, with its head; of a stream, as much as comes at once.
fn http(url: &str, request: &str, headers: &str, body: &Value) -> String {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let length = body.len();
    let accept = "Accept: application/json, text/event-stream\r\nContent-Type: application/json";
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\n{accept}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let (mut answer, mut chunk) = (Vec::new(), [0; 4_096]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..count]);
        if String::from_utf8_lossy(&answer).contains("endpoint") && request.contains("/sse") {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("{before}: {text}"));
    rest.split(after).next().unwrap()
}

/// Uses sessions and credentials of every kind at a server, and plants what they are.
fn visit(url: &str, admin: &str, search: &mut Search) {
    let bearer = format!("Authorization: Bearer {admin}\r\n");
    let begun = http(url, "POST /mcp", &bearer, &initialize("2025-11-25"));
    let session = between(&begun, "mcp-session-id: ", "\r\n").to_owned();
    search.secret(&session);
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool("key_list", json!({}))});
    let inside = format!("{bearer}Mcp-Session-Id: {session}\r\n");
    let listed = http(url, "POST /mcp", &inside, &list);
    assert!(listed.contains("key_id"), "{listed}");
    search.hear("key_list", listed);
    let opened = http(url, "GET /sse", &bearer, &Value::Null);
    let endpoint = between(&opened, "data: ", "\n").trim().to_owned();
    search.secret(endpoint.split_once('=').unwrap().1);
    // Its stream is gone already, so nobody is there any more.
    search.hear(
        "/messages",
        http(url, &format!("POST {endpoint}"), &bearer, &list),
    );
    for (headers, planted) in [
        ("X-API-Key: ", "marked-api-key"),
        ("Authorization: Bearer ", "bt_0123456789abcdef_marked-key"),
        (
            "Authorization: Bearer ",
            "eyJhbGciOiJSUzI1NiJ9.eyJtYXJrZWQiOjF9.bWFya2Vk",
        ),
        ("Authorization: Basic ", "bWFya2VkOm1hcmtlZC1iYXNpYw"),
        ("Cookie: session=", "marked-cookie"),
    ] {
        search.secret(planted);
        let shown = format!("{headers}{planted}\r\n");
        for request in [
            "GET /api/v1/tasks",
            "POST /mcp",
            "GET /sse",
            "GET /no/such/path",
        ] {
            let answer = http(url, request, &shown, &Value::Null);
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
            search.hear(request, answer);
        }
    }
    for page in ["/health", "/ready", "/openapi.json", "/docs"] {
        search.hear(
            page,
            http(url, &format!("GET {page}"), &inside, &Value::Null),
        );
    }
}

/// Calls a program's operation, whose answer it returns; what else the program says is searched.
fn run(home: &Home, search: &mut Search, key: &str, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--log-level", "trace"]].concat();
    let output = home
        .command(&arguments)
        .env("BATON_KEY", key)
        .output()
        .unwrap();
    search.hear(&arguments.join(" "), complaint(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        search.hear_all(&arguments.join(" "), &output);
        Value::Null
    })
}

/// Makes and uses keys of every kind by programs; how many of the secrets then are keys.
fn use_keys(search: &mut Search, admin: &str, at: impl Fn(&mut Search, &str, &[&str]) -> Value) {
    let observer = r#"{"roles": ["observer"]}"#;
    let made = at(search, admin, &["call", "key_create", observer]);
    let id = &made["key_id"];
    let rotate = format!(r#"{{"key_id": {id}, "keep_old_seconds": 60}}"#);
    let rotated = at(search, admin, &["call", "key_rotate", &rotate]);
    for key in [&made["key"], &rotated["key"]] {
        search.key(key.as_str().unwrap());
    }
    let task = r#"{"description": "x", "task_id": "t"}"#;
    at(search, admin, &["call", "task_dispatch", task]);
    let claim = r#"{"agent_id": "ada", "task_keys": true}"#;
    let claimed = at(search, admin, &["call", "task_claim", claim]);
    let task = &claimed["tasks"][0];
    let (small, lease) = (task["key"].as_str().unwrap(), &task["lease"]["token"]);
    search.key(small);
    let refused = at(search, small, &["call", "task_list"]);
    assert!(refused.is_null(), "{refused}");
    let mut end = json!({"task_id": "t", "agent_id": "ada", "reason": "success"});
    end["lease_token"] = lease.clone();
    let ended = at(search, small, &["call", "task_end", &end.to_string()]);
    assert_eq!(ended["state"], "completed", "{ended}");
    let wrong = format!("{}{}", &admin[..20], "0".repeat(64));
    at(search, &wrong, &["call", "task_list"]);
    search.key(&wrong);
    at(search, "marked-nonsense", &["call", "task_list"]);
    search.secret("marked-nonsense");
    for value in ["\"marked-kept\"", "[\"marked-kept\"]"] {
        let kept = format!(r#"{{"name": "kept", "value": {value}}}"#);
        let made = at(search, admin, &["call", "secret_set", &kept]);
        search.hear("secret_set", made.to_string());
    }
    search.secret("marked-kept");
    // What follows is in the database, as it must be.
    search.keys = search.secrets.len();
    search.secret(lease.as_str().unwrap());
    for show in [
        &["call", "task_get", r#"{"task_id": "t"}"#][..],
        &["call", "key_list"],
        &["call", "secret_list"],
        &["status"],
        &["doctor"],
    ] {
        let shown = at(search, admin, show);
        search.hear(&show.join(" "), shown.to_string());
    }
}

/// Makes a key over pipes.
fn use_pipes(home: &Home, search: &mut Search, admin: &str, logs: &[&str]) {
    let mut pipes = home.command(&[&["stdio", "--auth", "keys"], logs].concat());
    let pipes = pipes.env("BATON_KEY", admin).stdin(Stdio::piped());
    let pipes = pipes.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut pipes = pipes.spawn().unwrap();
    let input = json!({"roles": ["observer"]});
    let create = modern("tools/call", tool("key_create", input));
    writeln!(pipes.stdin.take().unwrap(), "{create}").unwrap();
    let output = pipes.wait_with_output().unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    search.key(made["result"]["structuredContent"]["key"].as_str().unwrap());
    search.hear("stdio", complaint(&output));
}

#[test]
fn programs_say_no_secret_however_much_they_say() {
    for format in ["text", "json"] {
        let home = Home::folder();
        let mut search = Search::default();
        let admin = home.print(&["key", "create", "--role", "admin"]);
        let admin = admin.trim();
        search.key(admin);
        let logs = ["--log-level", "trace,rmcp=trace", "--log-format", format];
        let serve = [&["--listen", "127.0.0.1:0", "--auth", "keys"], &logs[..]].concat();
        let (server, url) = home.serve_with(&serve);
        use_keys(&mut search, admin, |search, key, arguments| {
            run(&home, search, key, &[arguments, &["--url", &url]].concat())
        });
        visit(&url, admin, &mut search);
        drop(server);
        let log = std::fs::read_to_string(home.path("serve.log")).unwrap();
        search.hear("serve", log);
        use_pipes(&home, &mut search, admin, &logs);
        let other = home.path("other").display().to_string();
        let moved = ["move", "--from", &home.data(), "--to", &other];
        search.hear_all("move", &home.run(&moved));
        search.hear_all("doctor", &home.run(&["doctor"]));
        search.finds_nothing();
        // Nor does the database know a key.
        search.secrets.truncate(search.keys);
        for folder in ["data", "other"] {
            for file in ["baton.db", "baton.db-wal"] {
                let bytes = std::fs::read(home.path(folder).join(file)).unwrap_or_default();
                search.hear(file, String::from_utf8_lossy(&bytes));
            }
        }
        search.finds_nothing();
    }
}

#[test]
fn a_password_in_an_address_is_shown_by_nobody() {
    let home = Home::folder();
    let mut search = Search::default();
    search.secret("marked-password");
    let verbs: [&[&str]; 7] = [
        &["serve", "--listen", "127.0.0.1:0"],
        &["stdio"],
        &["call", "task_list"],
        &["status"],
        &["doctor"],
        &["migrate"],
        &["key", "list"],
    ];
    let databases = [
        "postgres://baton:marked-password@127.0.0.1:1/baton",
        "postgres://baton:marked-password@127.0.0.1:none/baton",
        "postgres://baton:marked-password@127.0.0.1:1/baton?password=marked-password&bad=marked-password",
        "postgres:///baton?host=127.0.0.1&port=1&password=marked-password",
        "mysql://baton:marked-password@127.0.0.1/baton",
        "host=127.0.0.1 port=1 password=marked-password",
    ];
    for database in databases {
        for verb in verbs {
            let arguments = [verb, &["--log-level", "trace"]].concat();
            let mut command = home.command(&arguments);
            let output = command.env("BATON_DATABASE", database).output().unwrap();
            assert!(
                !output.status.success(),
                "{database}: {}",
                complaint(&output)
            );
            search.hear_all(&arguments.join(" "), &output);
        }
        let to = ["move", "--from", &home.data(), "--to", database];
        search.hear_all("move", &home.run(&to));
        let from = ["move", "--to", &home.data(), "--from", database];
        search.hear_all("move", &home.run(&from));
    }
    for url in [
        "http://baton:marked-password@127.0.0.1:1",
        "http://baton:marked-password@127.0.0.1:none",
        "ftp://baton:marked-password@127.0.0.1:1",
        "http://127.0.0.1:1/?key=marked-password",
    ] {
        let work = ["work", "--once", "--exec", "true", "--idle-exit", "1"];
        for verb in [&["call", "task_list"][..], &["status"], &["doctor"], &work] {
            let arguments = [verb, &["--url", url, "--log-level", "trace"]].concat();
            let output = home.run(&arguments);
            search.hear_all(verb[0], &output);
        }
    }
    for line in [
        "key = \"marked-password",
        "key = 'marked-password' 'b'",
        "key = [\"marked-password\"]",
        "database = { url = \"marked-password\" }",
        "key = \"marked-password\"\nkey = \"marked-password\"",
        "nothing = \"known\"\nkey = \"marked-password\"",
    ] {
        std::fs::write(home.path("baton.toml"), line).unwrap();
        let output = home.run(&["status", "--config", "baton.toml"]);
        assert!(!output.status.success(), "{line}");
        search.hear_all(line.split('=').next().unwrap(), &output);
    }
    search.finds_nothing();
}

/// What an observer finds out: everything that can be read.
async fn read_all(server: &HttpServer, ids: &[&str]) -> String {
    let mut read = String::new();
    for path in ["/api/v1/tasks", "/health", "/ready"] {
        read += &server.get(path).await.text;
    }
    for id in ids {
        read += &server.get(&format!("/api/v1/tasks/{id}")).await.text;
        for uri in [
            format!("baton://tasks/{id}"),
            format!("baton://tasks/{id}/report"),
        ] {
            read += &server.ask("resources/read", json!({"uri": uri})).await.text;
        }
    }
    for list in [
        "resources/list",
        "tools/list",
        "prompts/list",
        "resources/templates/list",
    ] {
        read += &server.ask(list, json!({})).await.text;
    }
    read
}

/// Lets ada take tasks and do with each what it is called.
async fn work(server: &HttpServer, search: &mut Search) {
    let project = json!({"description": "x", "task_id": "project", "assigned_to": "nobody"});
    server.use_tool("/mcp", "task_dispatch", project).await;
    for task in ["success", "failure", "asks", "part"] {
        let mut input = json!({"description": "x", "task_id": task});
        if task == "part" {
            input["parent_task_id"] = "project".into();
        }
        server.use_tool("/mcp", "task_dispatch", input).await;
        let claim = json!({"agent_id": "ada", "task_keys": true, "max_concurrent_tasks": 5});
        let claimed = server.use_tool("/mcp", "task_claim", claim).await;
        let held = &claimed["tasks"][0];
        assert_eq!(held["task_id"], task, "{claimed}");
        let lease = &held["lease"]["token"];
        search.secret(lease.as_str().unwrap());
        search.key(held["key"].as_str().unwrap());
        let hers = |mut fields: Value| {
            fields["task_id"] = task.into();
            fields["agent_id"] = "ada".into();
            fields["lease_token"] = lease.clone();
            fields
        };
        let started = hers(json!({"notification_type": "started"}));
        server.use_tool("/mcp", "task_notify", started).await;
        let beat = json!({"agent_id": "ada", "leases": [{"task_id": task, "lease_token": lease}]});
        server.use_tool("/mcp", "task_heartbeat", beat).await;
        let (operation, input) = match task {
            "asks" => ("task_notify", hers(asks("Which?"))),
            "part" => continue,
            reason => ("task_end", hers(json!({"reason": reason}))),
        };
        server.use_tool("/mcp", operation, input).await;
        // Refused, with what another one holds.
        let stale =
            json!({"task_id": task, "agent_id": "bob", "lease_token": lease, "reason": "success"});
        let refused = call(server, "/mcp", "task_end", stale).await.body["result"].take();
        assert!(!code(&refused).is_empty(), "{refused}");
        search.hear("a refusal", refused.to_string());
    }
    let answer = json!({"task_id": "asks", "answer": "left"});
    server.use_tool("/mcp", "task_answer", answer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_what_others_may_read_or_in_the_log_of_events() {
    let server = guarded().await;
    let mut search = Search::default();
    let role = json!({"roles": ["observer"]});
    let made = operate(&server, "acme", "key_create", role).await;
    let id = json!({"key_id": made["key_id"]});
    let rotated = operate(&server, "acme", "key_rotate", id.clone()).await;
    operate(&server, "acme", "key_revoke", id).await;
    let both = json!({"roles": ["orchestrator", "executor"]});
    let both = operate(&server, "acme", "key_create", both).await;
    for key in [&made, &rotated, &both] {
        search.key(key["key"].as_str().unwrap());
    }
    server.show(both["key"].as_str().unwrap());
    let session = server.session("/mcp", "2025-11-25").await.id;
    search.secret(&session);
    work(&server, &mut search).await;
    let cancel = tool("task_cancel", json!({"task_id": "project"}));
    let mut cancel = modern("tools/call", cancel);
    cancel["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] =
        json!({"elicitation": {}});
    let asked = Answer::of(server.modern("/mcp", &cancel)).await;
    let state = asked.body["result"]["requestState"].as_str();
    search.secret(state.unwrap_or_else(|| panic!("{}", asked.text)));
    let forced = json!({"task_id": "project", "confirm": true});
    server.use_tool("/mcp", "task_cancel", forced).await;
    let observer = key_of(&server, "acme", "observer").await;
    search.key(&observer);
    server.show(&observer);
    let refused = call(&server, "/mcp", "task_claim", json!({"agent_id": "eve"})).await;
    assert_eq!(code(&refused.body["result"]), "forbidden");
    search.hear("a refusal", refused.text);
    let read = read_all(&server, &["success", "failure", "asks", "part"]).await;
    search.hear("what an observer reads", read);
    let listed = operate(&server, "acme", "key_list", json!({})).await;
    search.hear("key_list", listed.to_string());
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    let told = ctx.read(|_, tx| events::after(tx, 0, 1_000)).await.unwrap();
    let kinds: BTreeSet<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.len() >= 12, "{kinds:?}");
    for event in &told {
        search.hear(&event.kind, format!("{event:?}"));
    }
    search.finds_nothing();
}
