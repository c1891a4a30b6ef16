//! Tools of other MCP servers: taken over as those describe them, called over every transport in both eras, each tenant with
//! sessions, credentials and processes of its own.

use std::path::Path;
use std::time::Duration;

use baton::caller::{Caller, Progress, Reach, Said};
use baton::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::access::operate;
use crate::program::{Home, eventually, is_running};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{modern, tool};

pub(crate) const ACME: &str = "/t/acme/mcp";
pub(crate) const GLOBEX: &str = "/t/globex/mcp";

/// A server over pipes that speaks the revision of 2025 and does what its tools are called. `$LOG`, if it is set, hears what
/// it hears.
pub(crate) const SH: &str = r#"
tool() { printf '{"name":"%s","description":"Does %s","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}},"annotations":{"readOnlyHint":%s}}' "$1" "$1" "$2"; }
say() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
text() { say "\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"$1\"}]}"; }
while read -r line; do
  [ -n "$LOG" ] && printf '%s\n' "$line" >> "$LOG"
  id=${line#*\"id\":}; id=${id%%[,\}]*}
  token=${line#*\"progressToken\":}; token=${token%%[,\}]*}
  case $line in
    *'"method":"server/discover"'*) [ -n "$SHY" ] && exit 0; say '"error":{"code":-32601,"message":"unknown method"}';;
    *'"method":"initialize"'*) say '"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}';;
    *'"method":"tools/list"'*) say "\"result\":{\"tools\":[$(tool pid true),$(tool env true),$(tool die false),$(tool hang false),$(tool step true)]}";;
    *'"name":"pid"'*) text $$;;
    *'"name":"env"'*) text "$(env | sort | tr '\n' ' ' | tr -d '"\\')";;
    *'"name":"die"'*) exit 3;;
    *'"name":"step"'*) printf '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1,"total":2,"message":"half"}}\n' "$token"; until test -e "$0/go"; do sleep 0.05; done; text done;;
    *'"name":"hang"'*) sleep 1000 & echo $! >> "$0/pids"; setsid sh -c 'echo $$ >> "$1/pids"; exec sleep 1000' - "$0" & ;;
  esac
done
"#;

/// The operator's list with one server, `sh`, which is told so much.
pub(crate) fn list(folder: &Path, environment: Value) -> std::path::PathBuf {
    let file = folder.join("mcp.json");
    // What stands behind it tells the processes of one test from another's.
    let entry = json!({"command": "sh", "args": ["-c", SH, folder], "env": environment});
    std::fs::write(&file, json!({"mcpServers": {"sh": entry}}).to_string()).unwrap();
    file
}

/// The ids of processes whose command names `folder`.
pub(crate) fn processes(folder: &Path) -> Vec<u32> {
    let name = folder.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = ids.filter(|id: &u32| {
        let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(name)
    });
    named.collect()
}

/// Returns when `is_so`, which processes and their ends decide. It has to be soon.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}");
}

/// A server whose tenants may use the operator's `sh`.
pub(crate) async fn with_sh(environment: Value) -> (HttpServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path(), environment);
    let server = HttpServer::builder().settings(|settings| settings.upstreams = Some(file));
    (server.start().await, folder)
}

/// Makes the tool `name` of the server `sh`.
pub(crate) async fn take(server: &HttpServer, path: &str, name: &str) -> Value {
    let manifest = json!({"name": name, "implementation": {"type": "upstream", "server": "sh"}});
    server.use_tool(path, "tool_create", manifest).await
}

/// What a call of a tool is answered.
pub(crate) async fn call(server: &HttpServer, path: &str, name: &str, arguments: Value) -> Value {
    let message = modern("tools/call", tool(name, arguments));
    Answer::of(server.modern(path, &message)).await.body["result"].clone()
}

pub(crate) async fn text(server: &HttpServer, path: &str, name: &str) -> String {
    let answer = call(server, path, name, json!({})).await;
    let text = answer["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// A server that may call this machine.
pub(crate) async fn open() -> HttpServer {
    let server = HttpServer::builder().settings(|settings| {
        settings.outbound_allow = vec!["127.0.0.1".parse().unwrap()];
    });
    server.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_of_another_baton_is_taken_over_and_called_over_http_in_both_eras() {
    let (server, other) = (open().await, HttpServer::start().await);
    for (transport, path) in [("http", "/t/acme/mcp"), ("sse", "/t/acme/sse")] {
        let name = format!("their_tasks_{transport}");
        let upstream = json!({"type": "upstream", "url": other.url(path), "transport": transport, "tool": "task_dispatch"});
        let manifest = json!({"name": name, "implementation": upstream});
        let made = server.use_tool(ACME, "tool_create", manifest).await;
        assert_eq!(made["live"], true, "{made}");

        let described = server
            .use_tool(ACME, "tool_describe", json!({"name": name}))
            .await;
        let theirs = Answer::of(other.modern(ACME, &modern("tools/list", json!({})))).await;
        let theirs = theirs.body["result"]["tools"].as_array().unwrap().clone();
        let theirs = theirs
            .into_iter()
            .find(|tool| tool["name"] == "task_dispatch")
            .unwrap();
        assert_eq!(described["description"], theirs["description"]);
        assert_eq!(
            described["parameters"]["properties"],
            theirs["inputSchema"]["properties"]
        );
        assert_eq!(
            described["output_schema"]["properties"],
            theirs["outputSchema"]["properties"]
        );
        assert_eq!(described["upstream"]["state"], "connected");
        assert_eq!(described["upstream"]["changed"], false);
        let era = if transport == "http" {
            "2026-07-28"
        } else {
            "2025-11-25"
        };
        assert_eq!(described["upstream"]["protocol_version"], era);

        let id = format!("by-{transport}");
        let sent = server
            .use_tool(ACME, &name, json!({"task_id": id, "description": "Go"}))
            .await;
        assert_eq!(
            (&sent["task_id"], &sent["state"]),
            (&json!(id), &json!("pending"))
        );
        let found = other
            .use_tool(ACME, "task_get", json!({"task_id": id}))
            .await;
        assert_eq!(found["description"], "Go");
        // What the other end refuses is told, and is a failure here too.
        let again = call(
            &server,
            ACME,
            &name,
            json!({"task_id": id, "description": "Stay"}),
        )
        .await;
        assert_eq!(again["isError"], true, "{again}");
        assert!(again.to_string().contains("task_id_taken"), "{again}");
    }
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    let events = ctx
        .read(|_, tx| baton::events::after(tx, 0, 1_000))
        .await
        .unwrap();
    let called = events
        .iter()
        .filter(|event| event.kind == "dev.baton.tool.called");
    let outcomes: Vec<_> = called.map(|event| event.data["outcome"].clone()).collect();
    assert_eq!(outcomes, ["succeeded", "failed", "succeeded", "failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baton_behind_pipes_is_another_one_for_each_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.toml");
    let data = folder.path().join("{tenant}");
    let list = toml::toml! { [mcpServers.baton]
    command = "/proc/self/exe" };
    let mut list = list;
    let entry = list["mcpServers"]["baton"].as_table_mut().unwrap();
    entry.insert("command".into(), env!("CARGO_BIN_EXE_baton").into());
    let arguments = ["stdio", "--data", data.to_str().unwrap()];
    entry.insert(
        "args".into(),
        arguments.map(toml::Value::from).to_vec().into(),
    );
    std::fs::write(&file, toml::to_string(&list).unwrap()).unwrap();
    let server = HttpServer::builder().settings(|settings| settings.upstreams = Some(file));
    let server = server.start().await;
    let manifest = json!({"name": "hand_out", "implementation": {"type": "upstream", "server": "baton", "tool": "task_dispatch"}});
    for path in [ACME, GLOBEX] {
        server.use_tool(path, "tool_create", manifest.clone()).await;
        // The same id in both: what one has, the other has not.
        let sent = json!({"task_id": "the-one", "description": path});
        let sent = server.use_tool(path, "hand_out", sent).await;
        assert_eq!(sent["state"], "pending");
    }
    assert!(folder.path().join("acme").exists() && folder.path().join("globex").exists());
    assert_eq!(processes(folder.path()).len(), 4);
    server.stop().await;
    until("processes outlive their server", || {
        processes(folder.path()).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_its_tenants_own_and_knows_what_the_operator_wrote() {
    let (server, folder) =
        with_sh(json!({"WHO": "{tenant}", "KEY": "k-${secret:KEY}", "SHY": "1"})).await;
    let manifest = json!({"name": "env", "implementation": {"type": "upstream", "server": "sh"}});
    let refused = call(&server, ACME, "tool_create", manifest).await;
    assert!(refused.to_string().contains("unknown_secret"), "{refused}");
    for (path, tenant) in [(ACME, "acme"), (GLOBEX, "globex")] {
        let secret = json!({"name": "KEY", "value": format!("of-{tenant}")});
        operate(&server, tenant, "secret_set", secret).await;
        take(&server, path, "env").await;
        take(&server, path, "pid").await;
        let environment = text(&server, path, "env").await;
        let mut names: Vec<&str> = environment
            .split(' ')
            .filter_map(|pair| Some(pair.split_once('=')?.0))
            .collect();
        names.retain(|name| !["PWD", "_", "OLDPWD", "SHLVL"].contains(name));
        assert_eq!(
            names,
            ["HOME", "KEY", "PATH", "SHY", "WHO"],
            "{environment}"
        );
        assert!(
            environment.contains(&format!("WHO={tenant} ")),
            "{environment}"
        );
        // What the process was told, its answers don't tell on.
        assert!(environment.contains("KEY=k-[secret] "), "{environment}");
    }
    let (first, second) = (
        text(&server, ACME, "pid").await,
        text(&server, GLOBEX, "pid").await,
    );
    assert_ne!(first, second);
    assert_eq!(text(&server, ACME, "pid").await, first);
    // Another secret is another session.
    let secret = json!({"name": "KEY", "value": "another"});
    operate(&server, "acme", "secret_set", secret).await;
    assert_ne!(text(&server, ACME, "pid").await, first);
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_use_the_servers_that_the_operator_lists_for_them_and_give_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mcp.json");
    let servers = json!({"a": {"command": "sh", "args": ["-c", SH], "tenants": ["acme"]}, "b": {"command": "/no/such/program"}});
    std::fs::write(&file, json!({ "servers": servers }).to_string()).unwrap();
    let server = HttpServer::builder().settings(|settings| settings.upstreams = Some(file));
    let server = server.start().await;
    let make = |implementation: Value| json!({"name": "pid", "implementation": implementation});
    let by = |name: &str| make(json!({"type": "upstream", "server": name}));
    server.use_tool(ACME, "tool_create", by("a")).await;
    for (manifest, expected) in [
        (by("a"), "there are b"),
        (by("b"), "has ended"),
        (
            make(json!({"type": "upstream", "command": "sh"})),
            "unknown field",
        ),
        (make(json!({"type": "upstream"})), "/implementation/server"),
        (
            make(json!({"type": "upstream", "server": "a", "url": "https://a.example"})),
            "/implementation/server",
        ),
        (
            make(json!({"type": "upstream", "server": "b", "headers": {"a": "b"}})),
            "/implementation/server",
        ),
        (
            make(json!({"type": "upstream", "url": "file:///etc/passwd"})),
            "/implementation/url",
        ),
        (
            make(
                json!({"type": "upstream", "url": "https://a.example", "headers": {"mcp-session-id": "x"}}),
            ),
            "/implementation/headers",
        ),
        (
            make(json!({"type": "upstream", "url": "http://127.0.0.1:1/mcp"})),
            "address_refused",
        ),
    ] {
        let refused = call(&server, GLOBEX, "tool_create", manifest.clone()).await;
        assert_eq!(refused["isError"], true, "{manifest}");
        assert!(
            refused.to_string().contains(expected),
            "{manifest}: {refused}"
        );
    }
    // Who says what it takes asks nobody, and a dry call tells nobody.
    let mut own = by("b");
    (own["parameters"], own["description"]) = (json!({"type": "object"}), "Does it".into());
    let shown = json!({"manifest": own, "arguments": {"a": 1}});
    let shown = server.use_tool(GLOBEX, "tool_test", shown).await;
    assert_eq!(
        shown["request"],
        json!({"method": "tools/call", "server": "b", "tool": "pid", "arguments": {"a": 1}})
    );
    server.use_tool(GLOBEX, "tool_create", own).await;
    let failed = call(&server, GLOBEX, "pid", json!({})).await;
    assert!(
        failed.to_string().contains("remote_unreachable"),
        "{failed}"
    );
    let health = server
        .use_tool(GLOBEX, "tool_describe", json!({"name": "pid"}))
        .await;
    assert_eq!(health["upstream"]["state"], "failing", "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_reconnects_leave_nothing_behind() {
    let (server, folder) = with_sh(json!({})).await;
    let mut takers = tokio::task::JoinSet::new();
    let server = std::sync::Arc::new(server);
    for number in 0..10 {
        let server = server.clone();
        takers.spawn(async move {
            let path = format!("/t/tenant{number}/mcp");
            take(&server, &path, "die").await;
            for _ in 0..50 {
                let died = call(&server, &path, "die", json!({})).await;
                assert!(died.to_string().contains("remote_"), "{died}");
            }
        });
    }
    takers.join_all().await;
    until("processes are left of servers that died", || {
        processes(folder.path()).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_any_more_is_let_go_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = list(folder.path(), json!({}));
    let server = HttpServer::builder().foreseeable();
    let server = server
        .settings(|settings| settings.upstreams = Some(file))
        .start()
        .await;
    take(&server, ACME, "pid").await;
    let first = text(&server, ACME, "pid").await;
    let clock: &Clock = server.app.system.clock();
    clock.advance(Duration::from_mins(4));
    server.app.upstreams.tick(&server.app.system).unwrap();
    assert_eq!(text(&server, ACME, "pid").await, first);
    clock.advance(Duration::from_mins(6));
    server.app.upstreams.tick(&server.app.system).unwrap();
    until("an idle process goes on", || {
        processes(folder.path()).is_empty()
    })
    .await;
    let health = server
        .use_tool(ACME, "tool_describe", json!({"name": "pid"}))
        .await;
    assert_eq!(health["upstream"], json!({"state": "idle", "calls": 0}));
    assert_ne!(text(&server, ACME, "pid").await, first);
}

#[test]
fn a_server_that_is_killed_leaves_no_process_of_an_upstream() {
    let home = Home::new();
    let folder = home.path("upstream");
    std::fs::create_dir(&folder).unwrap();
    let file = list(&folder, json!({}));
    let (server, url) = home.serve_with(&[
        "--listen",
        "127.0.0.1:0",
        "--upstreams",
        file.to_str().unwrap(),
    ]);
    let there = ["--url", &url];
    let manifest = json!({"name": "hang", "implementation": {"type": "upstream", "server": "sh"}});
    let create = ["call", "tool_create", &manifest.to_string()];
    home.print(&[&create[..], &there].concat());
    let calling = ["call", "tool_call", r#"{"name": "hang"}"#];
    let mut caller = home.command(&[&calling[..], &there].concat());
    let mut caller = caller.stderr(std::process::Stdio::null()).spawn().unwrap();
    // What it started itself, one of them in a session of its own.
    let started = eventually("the processes of the call", || {
        let ids = std::fs::read_to_string(folder.join("pids")).ok()?;
        let ids: Vec<i32> = ids.lines().filter_map(|id| id.parse().ok()).collect();
        (ids.len() == 2).then_some(ids)
    });
    assert!(started.iter().all(|id| is_running(*id)));
    server.signal(Signal::KILL);
    eventually("the end of all processes", || {
        let is_over = !started.iter().any(|id| is_running(*id));
        (is_over && processes(&folder).is_empty()).then_some(())
    });
    let _ = caller.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_takes_its_command_along_and_the_next_call_begins_anew() {
    let (server, folder) = with_sh(json!({})).await;
    take(&server, ACME, "pid").await;
    let first = text(&server, ACME, "pid").await;
    for id in processes(folder.path()) {
        if id.to_string() != first {
            let id = Pid::from_raw(id.cast_signed()).unwrap();
            kill_process(id, Signal::KILL).unwrap();
        }
    }
    let id: i32 = first.parse().unwrap();
    until("the command outlives its supervisor", || !is_running(id)).await;
    assert_ne!(text(&server, ACME, "pid").await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_call_has_come_is_passed_on_and_so_is_that_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("heard");
    let file = list(folder.path(), json!({"LOG": log}));
    let server = HttpServer::builder().settings(|settings| settings.upstreams = Some(file));
    let server = server.start().await;
    take(&server, ACME, "step").await;
    let (said, mut heard) = mpsc::channel(10);
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    let ctx = ctx.with_caller(Caller {
        said,
        wants_progress: true,
        log_from: None,
        abilities: Vec::new(),
        reach: Reach::Live,
        notes: std::sync::Arc::default(),
    });
    let input = json!({"name": "step"}).as_object().cloned().unwrap();
    let catalog = server.app.catalog.clone();
    let mut calling = tokio::task::JoinSet::new();
    calling.spawn(async move { catalog.call(ctx, "tool_call", input).await });
    let Some(Said::Progress(step)) = heard.recv().await else {
        panic!("nothing was told");
    };
    std::fs::write(folder.path().join("go"), "").unwrap();
    let done = calling.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(done["content"][0]["text"], "done");
    let half = Progress {
        progress: 1.0,
        total: Some(2.0),
        message: Some("half".into()),
    };
    assert_eq!(step, half);

    let manifest = json!({"name": "hang", "limits": {"timeout_seconds": 1}, "implementation": {"type": "upstream", "server": "sh"}});
    server.use_tool(ACME, "tool_create", manifest).await;
    let late = call(&server, ACME, "hang", json!({})).await;
    assert!(
        late.to_string().contains("did not answer in time"),
        "{late}"
    );
    until("the other end is not told that nobody waits", || {
        let heard = std::fs::read_to_string(&log).unwrap_or_default();
        heard.contains("notifications/cancelled")
    })
    .await;
    // The session goes on.
    let health = server
        .use_tool(ACME, "tool_describe", json!({"name": "hang"}))
        .await;
    assert_eq!(health["upstream"]["state"], "connected");
}
