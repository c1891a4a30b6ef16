//! What tenants keep secret: never shown again, opened for nobody else, and sealed by another master key when one is wanted.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use baton::error::Error;
use baton::{events, secrets, vault};
use serde_json::{Value, json};

use crate::program::{Home, complaint};
use crate::support::Server;

const VALUE: &str = "marked-value-7f3a";

/// A secret, as a call that names it gets it.
async fn resolve(server: &Server, tenant: &str, name: &str) -> Result<String, Error> {
    let name: baton::id::SecretName = name.parse().unwrap();
    let ctx = server.ctx(tenant);
    ctx.read(move |scope, tx| {
        let found = secrets::resolve(scope, tx, std::slice::from_ref(&name))?;
        Ok(found[&name].reveal().to_owned())
    })
    .await
}

async fn set(server: &Server, tenant: &str, name: &str, value: &str) -> Value {
    let input = json!({"name": name, "value": value});
    server.call_as(tenant, "secret_set", input).await
}

/// Whether a file below the folder has the text in it.
fn any_file_has(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    })
}

#[tokio::test]
async fn a_secret_is_named_and_replaced_and_never_shown_again() {
    let server = Server::start();
    let input = json!({"name": "token", "value": "marked-older", "description": "for issues"});
    let made = server.call("secret_set", input).await;
    assert_eq!(
        (&made["version"], &made["created"]),
        (&json!(1), &json!(true))
    );
    let again = set(&server, "default", "token", VALUE).await;
    assert_eq!(
        (&again["version"], &again["created"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(resolve(&server, "default", "token").await.unwrap(), VALUE);
    let listed = server.call("secret_list", json!({})).await;
    assert_eq!(listed["secrets"][0]["description"], "for issues");
    assert_eq!(listed["secrets"][0]["updated_by"], "test");
    let ctx = server.ctx("default");
    let told = ctx.read(|_, tx| events::after(tx, 0, 100)).await.unwrap();
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["dev.baton.secret.set"; 2]);
    for said in [
        made.to_string(),
        again.to_string(),
        listed.to_string(),
        format!("{told:?}"),
    ] {
        assert!(!said.contains("marked"), "{said}");
    }
    assert!(!any_file_has(server.home().path(), "marked"));
    server.call("secret_delete", json!({"name": "token"})).await;
    assert_eq!(
        server.code("secret_delete", json!({"name": "token"})).await,
        "unknown_secret"
    );
    let gone = resolve(&server, "default", "token").await.unwrap_err();
    assert_eq!(gone.code(), "unknown_secret");
}

#[tokio::test]
async fn lists_go_on_where_a_page_ended() {
    let server = Server::start();
    for name in ["c", "a", "b"] {
        set(&server, "default", name, VALUE).await;
    }
    let first = server.call("secret_list", json!({"limit": 2})).await;
    let rest = json!({"limit": 2, "cursor": first["next_cursor"]});
    let rest = server.call("secret_list", rest).await;
    let names = |page: &Value| -> Vec<String> {
        let page = page["secrets"].as_array().unwrap().iter();
        page.map(|secret| secret["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (names(&first), names(&rest)),
        (vec!["a".into(), "b".into()], vec!["c".into()])
    );
    assert!(rest.get("next_cursor").is_none());
}

#[tokio::test]
async fn no_refusal_repeats_what_was_to_be_kept_secret() {
    let server = Server::start();
    for value in [
        json!(VALUE.repeat(2_000)),
        json!([VALUE]),
        json!({VALUE: VALUE}),
        json!(format!("{VALUE}\0")),
    ] {
        let input = json!({"name": "token", "value": value});
        let refused = server.try_call("secret_set", input).await.unwrap_err();
        assert_eq!(refused.findings()[0].path.split('/').nth(1), Some("value"));
        let said = format!(
            "{refused:?} {}",
            serde_json::to_string(&refused.body()).unwrap()
        );
        assert!(!said.contains("marked"), "{said}");
    }
}

#[tokio::test]
async fn what_is_moved_to_another_name_or_tenant_opens_nothing() {
    let server = Server::start();
    for (tenant, name) in [("acme", "mine"), ("acme", "other"), ("globex", "mine")] {
        set(&server, tenant, name, VALUE).await;
    }
    let acmes = "(SELECT sealed FROM secrets WHERE tenant_id = 'acme' AND name = 'mine')";
    server
        .home()
        .execute(&format!("UPDATE secrets SET sealed = {acmes}"));
    assert_eq!(resolve(&server, "acme", "mine").await.unwrap(), VALUE);
    for (tenant, name) in [("acme", "other"), ("globex", "mine")] {
        let refused = resolve(&server, tenant, name).await.unwrap_err();
        assert_eq!(refused.code(), "secret_broken");
    }
    // Not with the other one's data key either, which is bound to its tenant too.
    let theirs = "(SELECT sealed FROM secret_keys WHERE tenant_id = 'acme')";
    server
        .home()
        .execute(&format!("UPDATE secret_keys SET sealed = {theirs}"));
    let refused = resolve(&server, "globex", "mine").await.unwrap_err();
    assert_eq!(refused.code(), "secret_broken");
}

/// A home in a folder of its own, with a secret of two tenants.
fn home_with_secrets() -> Home {
    let home = Home::folder();
    for tenant in ["acme", "globex"] {
        keep(&home, &["--tenant", tenant], VALUE);
    }
    home
}

/// Keeps the secret `token` by the program, which reads it from a pipe.
fn keep(home: &Home, arguments: &[&str], value: &str) {
    let arguments = [&["secret", "set", "token"], arguments].concat();
    let mut command = home.command(&arguments);
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{value}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
}

fn keys(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.path("data").join(vault::FILE)).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_rotation_seals_by_another_master_key_while_a_server_goes_on() {
    let home = home_with_secrets();
    let (_server, url) = home.serve("127.0.0.1:0");
    keep(&home, &["--tenant", "acme", "--url", &url], VALUE);
    let first = keys(&home);
    let said = home.print(&["secret", "rotate-key"]);
    assert!(
        said.contains("2 tenants are sealed by a new master key"),
        "{said}"
    );
    let second = keys(&home);
    assert_eq!((second.len(), &second[1]), (2, &first[0]));
    keep(&home, &["--tenant", "acme", "--url", &url], VALUE);
    keep(&home, &["--tenant", "new", "--url", &url], VALUE);
    home.print(&["secret", "rotate-key"]);
    let third = keys(&home);
    assert_eq!((third.len(), &third[1]), (2, &second[0]));
    let file = home.path("data").join(vault::FILE);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let said = home.print(&["doctor"]);
    assert!(said.contains("those of 3 tenants open with"), "{said}");
    assert!(!any_file_has(&home.path("data"), VALUE));
    // The newest key is all that it takes.
    fs::write(&file, &third[0]).unwrap();
    keep(&home, &["--tenant", "globex"], VALUE);
}

#[test]
fn a_rotation_that_was_interrupted_goes_on_with_its_key() {
    let home = home_with_secrets();
    let made = home.print(&["secret", "make-key"]);
    let file = home.path("data").join(vault::FILE);
    let old = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{made}{old}")).unwrap();
    let said = home.print(&["secret", "rotate-key"]);
    assert!(
        said.contains("2 tenants are sealed by the first master key"),
        "{said}"
    );
    fs::write(&file, made).unwrap();
    keep(&home, &["--tenant", "acme"], VALUE);
}

#[test]
fn a_master_key_that_is_gone_is_missed_by_name_and_none_is_made_up() {
    let home = home_with_secrets();
    let file = home.path("data").join(vault::FILE);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let refused = home.run(&[
        "call",
        "secret_set",
        r#"{"name": "token", "value": "x"}"#,
        "--tenant",
        "acme",
    ]);
    assert!(
        complaint(&refused).contains("master_key_missing"),
        "{}",
        complaint(&refused)
    );
    let doctor = home.run(&["doctor"]);
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        said.contains("FAIL  secrets") && !doctor.status.success(),
        "{said}"
    );
    let mut other = home.command(&[
        "call",
        "secret_set",
        r#"{"name": "token", "value": "x"}"#,
        "--tenant",
        "acme",
    ]);
    let made = home.print(&["secret", "make-key"]);
    let refused = other.env("BATON_MASTER_KEY", made.trim()).output().unwrap();
    assert!(
        complaint(&refused).contains("master_key_unknown"),
        "{}",
        complaint(&refused)
    );
    // A key of the environment opens what it has sealed, and can't be changed from here.
    fs::write(&file, kept).unwrap();
    let given = keys(&home).join(",");
    let mut rotate = home.command(&["secret", "rotate-key"]);
    let refused = rotate.env("BATON_MASTER_KEY", &given).output().unwrap();
    assert!(
        complaint(&refused).contains("master_key_fixed"),
        "{}",
        complaint(&refused)
    );
    let both = format!("{},{given}", made.trim());
    let mut rotate = home.command(&["secret", "rotate-key"]);
    let rotated = rotate.env("BATON_MASTER_KEY", both).output().unwrap();
    assert!(rotated.status.success(), "{}", complaint(&rotated));
}

#[test]
fn a_move_takes_the_master_key_along() {
    let home = home_with_secrets();
    let other = home.path("other").display().to_string();
    home.print(&["move", "--from", &home.data(), "--to", &other]);
    let mut doctor = home.command(&["doctor"]);
    let doctor = doctor.env("BATON_DATA", &other).output().unwrap();
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains("those of 2 tenants open with"), "{said}");
}
