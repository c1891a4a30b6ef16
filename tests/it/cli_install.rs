//! `baton install` and what `baton doctor` makes of it, in a home folder of the test's own.

use std::fs;

use serde_json::{Value, json};

use crate::program::{Home, complaint};

const PROGRAM: &str = env!("CARGO_BIN_EXE_baton");

fn program() -> String {
    let path = fs::canonicalize(PROGRAM).expect("the program exists");
    path.to_str().expect("UTF-8").to_owned()
}

fn read(home: &Home, file: &str) -> Value {
    let text = fs::read_to_string(home.path(file)).expect(file);
    serde_json::from_str(&text).expect("JSON")
}

/// Without the variable that the other tests set, so that the entry says what is meant by default.
fn install(home: &Home, arguments: &[&str]) -> std::process::Output {
    home.command(&[&["install"], arguments].concat())
        .env_remove("BATON_DATA")
        .output()
        .expect("the program runs")
}

#[cfg(target_os = "linux")]
#[test]
fn each_client_gets_its_own_format_in_its_own_file() {
    let stdio = json!({"command": program(), "args": ["stdio"]});
    let typed = json!({"type": "stdio", "command": program(), "args": ["stdio"]});
    for (host, file, key, entry) in [
        (
            "claude-desktop",
            ".config/Claude/claude_desktop_config.json",
            "mcpServers",
            &stdio,
        ),
        ("claude-code", ".claude.json", "mcpServers", &typed),
        ("cursor", ".cursor/mcp.json", "mcpServers", &stdio),
        ("vscode", ".config/Code/User/mcp.json", "servers", &typed),
    ] {
        let home = Home::new();
        let output = install(&home, &[host]);
        assert!(output.status.success(), "{host}: {}", complaint(&output));
        assert_eq!(read(&home, file), json!({key: {"baton": entry}}), "{host}");
    }
}

#[test]
fn projects_have_files_of_their_own_and_an_address_may_be_called() {
    let home = Home::new();
    for (host, file) in [
        ("claude-code", ".mcp.json"),
        ("cursor", ".cursor/mcp.json"),
        ("vscode", ".vscode/mcp.json"),
    ] {
        let url = [
            "--url",
            "http://127.0.0.1:5050",
            "--tenant",
            "acme",
            "--name",
            "work",
        ];
        let output = install(
            &home,
            &[&[host, "--scope", "project"], url.as_slice()].concat(),
        );
        assert!(output.status.success(), "{host}: {}", complaint(&output));
        let all = read(&home, file);
        let servers = all.as_object().unwrap().values().next().unwrap();
        assert_eq!(
            servers["work"]["url"], "http://127.0.0.1:5050/t/acme/mcp",
            "{host}"
        );
    }
    install(&home, &["claude-code", "--scope", "local"]);
    let folder = fs::canonicalize(home.path("")).unwrap();
    let all = read(&home, ".claude.json");
    let local = &all["projects"][folder.to_str().unwrap()]["mcpServers"]["baton"];
    assert_eq!(local["command"], program());
    let refused = install(&home, &["claude-desktop", "--url", "http://127.0.0.1:5050"]);
    assert!(complaint(&refused).contains("Settings, Connectors"));
}

#[test]
fn the_data_folder_and_the_tenant_become_arguments() {
    let home = Home::new();
    let output = install(
        &home,
        &["cursor", "--data", "here", "--tenant", "acme", "--print"],
    );
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let folder = fs::canonicalize(home.path("")).unwrap().join("here");
    let expected = json!(["stdio", "--data", folder, "--tenant", "acme"]);
    assert_eq!(printed["mcpServers"]["baton"]["args"], expected);
    assert!(!home.path(".cursor").exists(), "--print writes nothing");
}

#[test]
fn other_servers_stay_and_the_file_as_it_was_is_kept() {
    let home = Home::new();
    let file = home.path(".claude.json");
    let before = "{\n\t\"numStartups\": 7,\n\t\"mcpServers\": {\n\t\t\"other\": {\"command\": \"x\", \"env\": {\"KEY\": \"s3cret\"}}\n\t},\n\t\"z\": 1.0\n}\n";
    fs::write(&file, before).unwrap();
    assert!(install(&home, &["claude-code"]).status.success());
    let after = fs::read_to_string(&file).unwrap();
    assert!(
        after.starts_with(before.split("\n\t},").next().unwrap()),
        "{after}"
    );
    assert!(after.ends_with("\n\t},\n\t\"z\": 1.0\n}\n"), "{after}");
    assert_eq!(
        fs::read_to_string(home.path(".claude.json.bak")).unwrap(),
        before
    );

    let again = install(&home, &["claude-code"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("already"));
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        after,
        "a second time changes nothing"
    );
    assert_eq!(
        fs::read_to_string(home.path(".claude.json.bak")).unwrap(),
        before
    );
    let left: Vec<_> = fs::read_dir(home.path("")).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "nothing else lies about: {left:?}");
}

#[test]
fn a_file_that_is_not_plain_json_is_left_alone() {
    let home = Home::new();
    fs::create_dir_all(home.path(".vscode")).unwrap();
    let file = home.path(".vscode/mcp.json");
    let text = "{\n  // mine\n  \"servers\": {},\n}\n";
    fs::write(&file, text).unwrap();
    let refused = install(&home, &["vscode", "--scope", "project"]);
    assert_eq!(refused.status.code(), Some(1));
    let complaint = complaint(&refused);
    assert!(
        complaint.contains("is left as it is") && complaint.contains("--print"),
        "{complaint}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[cfg(unix)]
#[test]
fn a_linked_file_stays_a_link_and_private_files_stay_private() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    fs::create_dir_all(home.path("dotfiles")).unwrap();
    let real = home.path("dotfiles/claude.json");
    fs::write(&real, "{}").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&real, home.path(".claude.json")).unwrap();
    assert!(install(&home, &["claude-code"]).status.success());
    assert!(home.path(".claude.json").is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("baton"));
    assert_eq!(
        fs::metadata(&real).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn the_doctor_finds_an_entry_that_leads_nowhere_and_a_log_that_was_changed() {
    let home = Home::folder();
    let fine = home.run(&["doctor", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&fine.stdout).into_owned();
    assert_eq!(fine.status.code(), Some(0), "{text}{}", complaint(&fine));
    assert!(text.contains("no client knows of Baton"), "{text}");

    fs::write(
        home.path(".claude.json"),
        json!({"mcpServers": {"baton": {"command": "/gone/baton", "args": ["stdio"]}}}).to_string(),
    )
    .unwrap();
    let broken = home.run(&["doctor", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&broken.stdout).into_owned();
    assert_eq!(broken.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAIL  clients") && text.contains("baton install claude-code"),
        "{text}"
    );

    install(&home, &["claude-code"]);
    home.call("task_dispatch", &json!({"description": "x"}));
    tamper(&home);
    let changed = home.run(&["doctor", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&changed.stdout).into_owned();
    assert_eq!(changed.status.code(), Some(1), "{text}");
    assert!(text.contains("FAIL  event log"), "{text}");
}

#[test]
fn the_doctor_says_whether_the_database_keeps_tenants_apart() {
    let home = Home::new();
    let doctor = ["doctor", "--listen", "127.0.0.1:0"];
    let text = home.print(&doctor);
    let Some(superuser) = home.database_of_superuser() else {
        assert!(!text.contains("row-level"), "SQLite has none: {text}");
        return;
    };
    let bound = "ok    database     row-level security binds its role";
    assert!(text.contains(bound), "{text}");
    let mut above = home.command(&doctor);
    let above = above.env("BATON_DATABASE", superuser).output().unwrap();
    let text = String::from_utf8(above.stdout).unwrap();
    assert_eq!(above.status.code(), Some(0), "a warning: {text}");
    for part in ["warn  database ", "above row-level security", "NOBYPASSRLS"] {
        assert!(text.contains(part), "{text}");
    }
}

/// As somebody would who has the file and no scruples.
#[expect(
    clippy::disallowed_methods,
    reason = "the store would not let it happen"
)]
fn tamper(home: &Home) {
    let database = rusqlite::Connection::open(home.path("data/baton.db")).unwrap();
    let statement = "UPDATE events SET data = '{}' WHERE sequence = 1";
    database.execute(statement, []).unwrap();
}

#[test]
fn the_doctor_says_why_a_data_folder_can_not_be_used() {
    let home = Home::folder();
    fs::write(home.path("data"), "a file in its place").unwrap();
    let broken = home.run(&["doctor", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8_lossy(&broken.stdout).into_owned();
    assert_eq!(broken.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAIL  data folder") && text.contains("--data"),
        "{text}"
    );
}
