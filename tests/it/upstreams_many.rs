//! As many sessions with other servers as a tenant may have at a time: one that nobody uses makes room, one in use stays.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{modern, tool};
use crate::upstreams::{ACME, GLOBEX, SH, until};

/// Sessions of one tenant.
const MOST: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_uses_all_its_sessions_waits_for_none_and_takes_none_of_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let (file, heard) = (folder.path().join("mcp.json"), folder.path().join("heard"));
    let entry = json!({"command": "sh", "args": ["-c", SH, folder.path()], "env": {"LOG": heard}});
    let servers = (0..=MOST).map(|number| (format!("sh{number}"), entry.clone()));
    let servers = servers.collect::<serde_json::Map<_, _>>();
    std::fs::write(&file, json!({ "mcpServers": servers }).to_string()).unwrap();
    let server = HttpServer::builder().settings(|settings| settings.upstreams = Some(file));
    let server = server.start().await;
    let make = |name: &str, number: usize| {
        let implementation =
            json!({"type": "upstream", "server": format!("sh{number}"), "tool": name});
        json!({"name": format!("{name}{number}"), "implementation": implementation})
    };
    // Each of them asks another server what it offers, so that the last finds room where a session is idle.
    for number in 0..=MOST {
        server
            .use_tool(ACME, "tool_create", make("step", number))
            .await;
    }
    server
        .use_tool(ACME, "tool_create", make("pid", MOST))
        .await;
    server.use_tool(GLOBEX, "tool_create", make("pid", 0)).await;

    let mut calls = JoinSet::new();
    for number in 0..MOST {
        let name = format!("step{number}");
        let call = server.modern(ACME, &modern("tools/call", tool(&name, json!({}))));
        calls.spawn(async move { Answer::of(call).await.body["result"].clone() });
    }
    until("not all are called at a time", || {
        let heard = std::fs::read_to_string(&heard).unwrap_or_default();
        heard.matches(r#""name":"step""#).count() == MOST
    })
    .await;
    let last = format!("pid{MOST}");
    let say = |path: &'static str, name: &str| {
        let call = server.modern(path, &modern("tools/call", tool(name, json!({}))));
        async move { Answer::of(call).await.body["result"].clone() }
    };
    let refused: Value = say(ACME, &last).await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(refused.to_string().contains("upstreams_busy"), "{refused}");
    assert!(refused.to_string().contains("retry_after"), "{refused}");
    let other = say(GLOBEX, "pid0").await;
    assert_eq!(other["isError"], false, "{other}");

    std::fs::write(folder.path().join("go"), "").unwrap();
    while let Some(done) = calls.join_next().await {
        assert_eq!(done.unwrap()["content"][0]["text"], "done");
    }
    let answered = say(ACME, &last).await;
    assert_eq!(answered["isError"], false, "{answered}");
}
