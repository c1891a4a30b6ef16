//! The command line and the executor over a server's REST interface, and what they do while it is away.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Home, complaint, eventually, is_running};

/// A command that goes on until there is a file `go`.
const UNTIL_GO: &str = r#"echo $$ > shell.new; mv shell.new shell; while ! test -e go; do sleep 0.05; done; echo "$BATON_ATTEMPT""#;

#[test]
fn a_task_is_dispatched_done_and_read_over_rest() {
    let home = Home::new();
    let (_server, url) = home.serve("127.0.0.1:0");
    let there = ["--url", &url, "--tenant", "acme"];
    let dispatch = [
        "call",
        "task_dispatch",
        r#"{"task_id": "t", "description": "x"}"#,
    ];
    home.print(&[&dispatch[..], &there].concat());
    // The command itself calls the same server, for the same tenant.
    let script = format!(
        "{} call task_get \"{{\\\"task_id\\\": \\\"$BATON_TASK_ID\\\"}}\"",
        env!("CARGO_BIN_EXE_baton")
    );
    let mut worker = home.work(&[&["--once", "--exec", &script][..], &there].concat());
    assert_eq!(worker.end(), Some(0), "{}", home.log());
    let get = ["call", "task_get", r#"{"task_id": "t"}"#];
    let task: Value = serde_json::from_str(&home.print(&[&get[..], &there].concat())).unwrap();
    assert_eq!(task["state"], "completed");
    assert_eq!(task["result"]["state"], "in_progress");
    let status = home.print(&["status", "--url", &url, "--tenant", "acme", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        status["tenants"]["acme"]["by_state"],
        json!({"completed": 1})
    );
    let list = [
        "call",
        "task_list",
        r#"{"state": "completed", "limit": 1}"#,
        "--url",
        &url,
    ];
    let others: Value = serde_json::from_str(&home.print(&list)).unwrap();
    assert_eq!(
        others["tasks"],
        json!([]),
        "another tenant sees nothing of it"
    );
}

#[test]
fn errors_of_a_server_are_those_of_the_folder() {
    let home = Home::new();
    let (_server, url) = home.serve("127.0.0.1:0");
    for (tool, input) in [
        ("task_get", r#"{"task_id": "nobody"}"#),
        ("task_get", "{}"),
        ("task_dispatch", r#"{"description": 7, "nonsense": 1}"#),
        ("task_list", r#"{"limit": 100000}"#),
    ] {
        let here = home.run(&["call", tool, input]);
        let there = home.run(&["call", tool, input, "--url", &url]);
        assert_eq!(
            here.status.code(),
            there.status.code(),
            "{tool}: {}",
            complaint(&there)
        );
        assert!(!there.status.success(), "{tool} {input}");
    }
}

#[test]
fn a_command_goes_on_while_the_server_restarts() {
    let home = Home::new();
    let (mut server, url) = home.serve("127.0.0.1:0");
    home.call(
        "task_dispatch",
        &json!({"task_id": "t", "description": "x"}),
    );
    let mut worker = home.work(&["--once", "--url", &url, "--exec", UNTIL_GO]);
    home.number_in("shell");
    server.signal(Signal::KILL);
    server.end();
    fs::write(home.path("go"), "").unwrap();
    eventually("a failed call", || {
        home.log().contains("trying again").then_some(())
    });
    let (_server, _) = home.serve(url.trim_start_matches("http://"));
    assert_eq!(worker.end(), Some(0), "{}", home.log());
    let task = home.task("t");
    assert_eq!(
        (&task["state"], &task["result"]),
        (&json!("completed"), &json!(1))
    );
}

#[test]
fn a_lease_that_ran_out_while_the_server_was_away_ends_the_command() {
    let home = Home::new();
    let (mut server, url) = home.serve("127.0.0.1:0");
    home.call(
        "task_dispatch",
        &json!({"task_id": "t", "description": "x"}),
    );
    let mut worker = home.work(&[
        "--once",
        "--lease-seconds",
        "5",
        "--url",
        &url,
        "--exec",
        UNTIL_GO,
    ]);
    let shell = home.number_in("shell");
    server.signal(Signal::KILL);
    server.end();
    assert_eq!(worker.end(), Some(1), "{}", home.log());
    assert!(!is_running(shell));
    assert!(home.log().contains("the lease ran out"), "{}", home.log());
}

#[test]
fn a_server_says_where_it_is_and_stops_when_asked() {
    let home = Home::new();
    let (mut server, url) = home.serve("127.0.0.1:0");
    let said = fs::read_to_string(home.path("serve.log")).unwrap();
    let data = home.data();
    let connect = format!("claude mcp add --transport http baton {url}/mcp");
    assert!(said.contains(&data) && said.contains(&connect), "{said}");
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
}
