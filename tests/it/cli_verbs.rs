//! What the verbs print, how they fail, and that the documents in the repository say the same.

use std::fs;
use std::path::Path;

use baton::catalog::Catalog;
use baton::config::Settings;
use serde_json::json;

use crate::program::{Home, complaint};

#[test]
fn a_call_prints_its_result_and_maps_errors_to_exit_codes() {
    let home = Home::new();
    let task = home.call(
        "task_dispatch",
        &json!({"description": "x", "task_id": "t"}),
    );
    assert_eq!(task["state"], "pending");
    for (arguments, code, said) in [
        (
            &["call", "task_get", r#"{"task_id": "nobody"}"#][..],
            5,
            "unknown_task",
        ),
        (&["call", "task_get", "{}"], 2, "task_id"),
        (&["call", "task_get", "[1]"], 2, "not a JSON object"),
        (&["call", "task_gone"], 5, "`baton call` lists them all"),
        (
            &[
                "call",
                "task_dispatch",
                r#"{"description": "y", "task_id": "t"}"#,
            ],
            6,
            "task_id",
        ),
        (
            &["call", "task_list", "--url", "http://127.0.0.1:9"],
            8,
            "remote_unreachable",
        ),
        (&["call", "task_list", "--tenant", "No Tenant"], 2, "tenant"),
    ] {
        let output = home.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            complaint(&output)
        );
        assert!(
            complaint(&output).contains(said),
            "{arguments:?}: {}",
            complaint(&output)
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn all_findings_of_a_bad_input_are_shown_with_their_paths() {
    let home = Home::new();
    let input = r#"{"priority": "soon", "nonsense": 1}"#;
    let output = home.run(&["call", "task_dispatch", input]);
    let said = complaint(&output);
    for part in ["description", "/priority", "nonsense"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn status_counts_by_tenant_and_state() {
    let home = Home::new();
    assert!(home.print(&["status"]).contains("No tasks yet."));
    for tenant in ["acme", "acme", "zeta"] {
        home.print(&[
            "call",
            "task_dispatch",
            r#"{"description": "x"}"#,
            "--tenant",
            tenant,
        ]);
    }
    let all: serde_json::Value = serde_json::from_str(&home.print(&["status", "--json"])).unwrap();
    assert_eq!(all["tenants"]["acme"]["by_state"]["pending"], 2);
    assert_eq!(all["tenants"]["zeta"]["by_state"]["pending"], 1);
    let table = home.print(&["status", "--tenant", "zeta"]);
    assert!(table.contains("zeta") && !table.contains("acme"), "{table}");
}

#[test]
fn a_taken_port_and_an_open_address_are_refused_with_the_cure() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = home.run(&["serve", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("choose another port with --listen"),
        "{}",
        complaint(&output)
    );
    let output = home.run(&["serve", "--listen", "0.0.0.0:5050"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("--auth keys"),
        "{}",
        complaint(&output)
    );
}

#[test]
fn a_settings_file_is_read_and_refused_by_name() {
    let home = Home::new();
    fs::write(home.path("baton.toml"), "tenant = \"acme\"\n").unwrap();
    home.print(&[
        "call",
        "task_dispatch",
        r#"{"description": "x"}"#,
        "--config",
        "baton.toml",
    ]);
    assert!(home.print(&["status"]).contains("acme"));
    fs::write(home.path("baton.toml"), "tennant = \"acme\"\n").unwrap();
    let output = home.run(&["status", "--config", "baton.toml"]);
    assert!(
        complaint(&output).contains("tennant"),
        "{}",
        complaint(&output)
    );
}

/// With `BATON_WRITE_DOCS=1` in the environment, the test writes what it would otherwise compare.
#[expect(clippy::disallowed_methods, reason = "a wish of who runs the test")]
fn compare(file: &str, written: &str, made: &str) {
    if std::env::var_os("BATON_WRITE_DOCS").is_some() {
        fs::write(file, made).unwrap();
    } else {
        assert!(
            written == made,
            "{file} is out of date; run this test with BATON_WRITE_DOCS=1"
        );
    }
}

#[test]
fn the_example_file_is_what_the_settings_say() {
    let written = fs::read_to_string("baton.example.toml").unwrap_or_default();
    compare("baton.example.toml", &written, &baton::cli::example());
    let home = Home::new();
    let example = baton::cli::example();
    let uncommented: Vec<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")))
        .collect();
    let uncommented = uncommented.join("\n");
    fs::write(home.path("all.toml"), &uncommented).unwrap();
    let settings = Settings::from_file(&home.path("all.toml")).expect(&uncommented);
    assert!(settings.complete(Settings::default()).is_ok());
}

#[test]
fn the_tables_in_the_readme_are_what_the_program_says() {
    let written = fs::read_to_string("README.md").unwrap_or_default();
    let tools = Catalog::new().ops().iter().fold(
        "| tool | REST | |\n| --- | --- | --- |\n".to_owned(),
        |text, op| {
            let route = op.routes.first().expect("every operation has a route");
            text + &format!(
                "| `{}` | `{} {}` | {} |\n",
                op.name, route.method, route.path, op.description
            )
        },
    );
    let made = filled(&written, "settings", &baton::cli::settings_table());
    let made = filled(&made, "tools", &tools);
    compare("README.md", &written, &made);
}

#[test]
fn files_that_the_readme_names_exist() {
    let text = fs::read_to_string("README.md").unwrap();
    for name in text.split(['(', ')', '`', '\'', ' ', '\n']) {
        let is_file = ["examples/", "resources/", "docs/"]
            .iter()
            .any(|start| name.starts_with(start));
        assert!(!is_file || Path::new(name).exists(), "{name}");
    }
}

/// The text with `table` between the two comments of that name.
fn filled(text: &str, name: &str, table: &str) -> String {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&start).expect(&start);
    let (_, after) = rest.split_once(&end).expect(&end);
    format!("{before}{start}{table}{end}{after}")
}
