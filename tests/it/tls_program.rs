//! The program with a certificate: what it prints, who calls it, how it reads another one, and what it refuses.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::program::{Home, complaint, eventually};
use crate::support::tls::{Authority, Shown};

/// A home with a pair and the authority that signed it, as arguments of `serve`.
fn settled(home: &Home, shown: &Shown, authority: &Authority) -> [String; 4] {
    let folder = home.path("tls");
    fs::create_dir_all(&folder).unwrap();
    fs::write(home.path("ca.pem"), authority.pem()).unwrap();
    let pair = shown.write(&folder);
    let [cert, key] = [pair.cert, pair.key].map(|file| file.display().to_string());
    ["--tls-cert".into(), cert, "--tls-key".into(), key]
}

#[test]
fn every_verb_reaches_a_server_over_tls() {
    let (home, authority) = (Home::new(), Authority::new());
    let pair = settled(&home, &authority.sign(), &authority);
    let [cert_flag, cert, key_flag, key] = pair.each_ref().map(String::as_str);
    let serving = [cert_flag, cert, key_flag, key, "--listen", "127.0.0.1:0"];
    let (_server, url) = home.serve_with(&serving);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let greeting = fs::read_to_string(home.path("serve.log")).unwrap();
    let connect = format!("claude mcp add --transport http baton {url}/mcp");
    assert!(greeting.contains(&connect), "{greeting}");

    let there = ["--url", &url, "--ca-cert", "ca.pem"];
    let input = json!({"task_id": "t", "description": "x"}).to_string();
    home.print(&[&["call", "task_dispatch", &input][..], &there].concat());
    let work = r#""$BATON" call task_get "{\"task_id\": \"$BATON_TASK_ID\"}""#;
    let mut worker = home.command(&[&["work", "--once", "--exec", work][..], &there].concat());
    worker
        .env("BATON", env!("CARGO_BIN_EXE_baton"))
        .env_remove("BATON_DATA");
    let output = worker.output().unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
    let status = home.print(&[&["status"][..], &there].concat());
    assert!(status.contains("default"), "{status}");
    let task = home.print(&[&["call", "task_get", r#"{"task_id": "t"}"#][..], &there].concat());
    assert!(task.contains(r#""state": "completed""#), "{task}");

    let untrusting = home.run(&["status", "--url", &url]);
    assert_eq!(untrusting.status.code(), Some(8));
    assert!(
        complaint(&untrusting).contains("--ca-cert"),
        "{}",
        complaint(&untrusting)
    );
}

#[test]
fn a_server_says_how_it_is_reached_from_elsewhere() {
    let home = Home::new();
    let public = ["--public-url", "https://baton.example.com/"];
    let (_server, url) = home.serve_with(&[&public[..], &["--listen", "127.0.0.1:0"]].concat());
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let greeting = fs::read_to_string(home.path("serve.log")).unwrap();
    let connect = "claude mcp add --transport http baton https://baton.example.com/mcp\n";
    assert!(greeting.contains(connect), "{greeting}");
}

#[test]
fn the_doctor_looks_at_the_certificate_and_at_the_server_that_shows_it() {
    let (home, authority) = (Home::new(), Authority::new());
    for (shown, found, is_well) in [
        (authority.sign(), "is valid until 2999-12-31", true),
        (
            authority.sign_until(2020),
            "has expired at 2020-12-31",
            false,
        ),
    ] {
        let pair = settled(&home, &shown, &authority);
        let pair: Vec<&str> = pair.iter().map(String::as_str).collect();
        let (_server, url) = home.serve_with(&[&pair[..], &["--listen", "127.0.0.1:0"]].concat());
        let address = url.strip_prefix("https://").unwrap();
        let output = home.run(&[&["doctor", "--listen", address][..], &pair].concat());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(found), "{said}");
        assert!(said.contains(&format!("serves on {address}")), "{said}");
        assert_eq!(output.status.success(), is_well, "{said}");
    }
    let log = fs::read_to_string(home.path("serve.log")).unwrap();
    assert!(log.contains("it is valid until 2020-12-31"), "{log}");
}

#[test]
fn hanging_up_makes_a_server_read_its_certificate_again() {
    let (home, authority) = (Home::new(), Authority::new());
    let pair = settled(&home, &authority.sign(), &authority);
    let pair: Vec<&str> = pair.iter().map(String::as_str).collect();
    let (mut server, url) = home.serve_with(&[&pair[..], &["--listen", "127.0.0.1:0"]].concat());
    let said = |what: &str| {
        eventually(what, || {
            let log = fs::read_to_string(home.path("serve.log")).unwrap();
            log.contains(what).then_some(())
        });
    };
    // Another authority signs, so that whoever trusts it sees which pair is shown.
    let another = Authority::new();
    settled(&home, &another.sign(), &another);
    server.signal(Signal::HUP);
    said("the certificate was read again");
    let there = ["status", "--url", &url, "--ca-cert", "ca.pem"];
    home.print(&there);
    fs::write(home.path("tls/cert.pem"), "nonsense").unwrap();
    server.signal(Signal::HUP);
    said("there is no certificate in");
    home.print(&there);
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_pair_or_origin_that_cant_be_is_refused_with_the_file_and_the_fault() {
    let (home, authority) = (Home::new(), Authority::new());
    let pair = settled(&home, &authority.sign(), &authority);
    let [_, cert, _, key] = pair.each_ref().map(String::as_str);
    let file = |name: &str, text: &str| {
        fs::write(home.path(name), text).unwrap();
        name.to_owned()
    };
    let other = file("other.pem", &authority.sign().key);
    let nonsense = file("nonsense.pem", "nonsense");
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let no_key = file("no_key.pem", no_key);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = file("locked.pem", locked);
    for (arguments, said) in [
        (&["--tls-cert", cert][..], "--tls-cert needs --tls-key"),
        (&["--tls-key", key], "--tls-key needs --tls-cert"),
        (
            &["--tls-cert", "gone.pem", "--tls-key", key],
            "can't read the certificate gone.pem",
        ),
        (
            &["--tls-cert", cert, "--tls-key", "gone.pem"],
            "can't read the key gone.pem",
        ),
        (
            &["--tls-cert", &nonsense, "--tls-key", key],
            "no certificate in nonsense.pem",
        ),
        (
            &["--tls-cert", cert, "--tls-key", cert],
            "no private key in",
        ),
        (
            &["--tls-cert", cert, "--tls-key", &no_key],
            "no_key.pem can't be used",
        ),
        (
            &["--tls-cert", cert, "--tls-key", &locked],
            "the key in locked.pem is encrypted",
        ),
        (
            &["--tls-cert", cert, "--tls-key", &other],
            "the private key in other.pem is not that of the certificate",
        ),
        (
            &[
                "--tls-cert",
                cert,
                "--tls-key",
                key,
                "--listen",
                "0.0.0.0:0",
            ],
            "would let everyone in",
        ),
        (&["--allowed-origin", "*"], "add --auth keys"),
    ] {
        let output = home.run(&[&["serve"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            complaint(&output).contains(said),
            "{arguments:?}: {}",
            complaint(&output)
        );
    }
}
