//! What happens to files and when: told by whoever sees it, once, also when the process that wrote is killed on its way; and
//! gone with their tenant on every disk.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton::app::App;
use baton::clock::Clock;
use baton::events::{self, Event};
use baton::id::TenantId;
use baton::random::Random;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::program;
use crate::resources::notes;
use crate::support::client::{Client, Way};
use crate::support::http::HttpServer;
use crate::support::mcp::until;
use crate::support::{self, Server};

async fn told(ctx: &baton::ctx::Ctx) -> Vec<Event> {
    ctx.read(|_, tx| events::after(tx, 0, 1_000)).await.unwrap()
}

/// What the log says of a path: which event, by whom.
fn about<'a>(told: &'a [Event], path: &str) -> Vec<(&'a str, &'a str)> {
    let of = told.iter().filter(|event| event.data["path"] == path);
    let of = of.map(|event| (event.kind.as_str(), event.actor.as_str()));
    of.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_in_a_folder_is_told_to_who_listens() {
    for way in Way::ALL {
        let server = HttpServer::start().await;
        server.post("/api/v1/resources", &notes()).await;
        let ctx = server.app.system.ctx(TenantId::default_tenant(), "test");
        let folder = ctx.limits().folders.own.join("default/notes");
        fs::create_dir(folder.join("a")).unwrap();
        let mut client = Client::open(&server, way).await;
        let uris = [
            "baton://resources/notes/a/b%20c.md",
            "baton://resources/notes/a",
            "baton://resources/notes",
        ];
        for (number, uri) in uris.into_iter().enumerate() {
            client.subscribe(uri).await;
            // Of another length each time: a file system's clock may be slow.
            fs::write(folder.join("a/b c.md"), "x".repeat(number + 1)).unwrap();
            let heard = |message: &Value| {
                message["method"] == "notifications/resources/updated"
                    && message["params"]["uri"] == uri
            };
            client.hear(heard).await;
        }
        // What is written through Baton is told by who writes, and by nobody else.
        let text = json!({"path": "own.md", "text": "hello"});
        server.post("/api/v1/resources/notes/content", &text).await;
        fs::remove_file(folder.join("a/b c.md")).unwrap();
        fs::write(folder.join("last"), "").unwrap();
        until(async || about(&told(&ctx).await, "last").len() == 1).await;
        let told = told(&ctx).await;
        assert_eq!(
            about(&told, "own.md"),
            [("dev.baton.resource.written", "rest")],
            "{way:?}"
        );
        let last = told
            .iter()
            .rfind(|event| event.data["path"] == "a/b c.md")
            .unwrap();
        assert_eq!(
            (&last.data["removed"], &*last.kind),
            (&json!(true), "dev.baton.resource.file_changed")
        );
    }
}

#[tokio::test]
async fn a_write_whose_process_is_gone_is_told_if_it_happened() {
    let server = Server::start();
    server.call("resource_register", notes()).await;
    let there = json!({"resource_id": "notes", "path": "there.md", "text": "x"});
    server.call("resource_write", there).await;
    let all = server.ctx("default").limits().folders.own.clone();
    let place = fs::read_to_string(all.join(".baton-place")).unwrap();
    let folder = all.join("default/notes");
    fs::write(folder.join(".baton-f1"), "x").unwrap();
    for (id, uri, path, bytes, fresh, place) in [
        (
            "w1",
            "file://tenant/notes",
            "never.md",
            "1",
            "'f1'",
            place.as_str(),
        ),
        ("w2", "file://tenant/notes", "there.md", "1", "'f2'", &place),
        (
            "w3",
            "file://tenant/notes",
            "gone.md",
            "NULL",
            "NULL",
            &place,
        ),
        (
            "w4",
            "file://tenant/notes",
            "there.md",
            "NULL",
            "NULL",
            &place,
        ),
        (
            "w5",
            "file://tenant/notes",
            "elsewhere.md",
            "1",
            "'f5'",
            "another",
        ),
        ("w6", "s3://acme/notes", "perhaps.md", "1", "NULL", &place),
        ("w7", "file:///closed", "closed.md", "1", "'f7'", &place),
        ("w8", "file://tenant/shop.db", "", "NULL", "NULL", &place),
    ] {
        server.home().execute(&format!(
            "INSERT INTO resource_writes (tenant_id, write_id, resource_id, uri, path, bytes, fresh, place, actor, due_at)
             VALUES ('default', '{id}', 'notes', '{uri}', '{path}', {bytes}, {fresh}, '{place}', 'ada', {})",
            server.clock.steady().as_micros()
        ));
    }
    baton::resources::tick(&server.app.system).await.unwrap();
    assert!(!folder.join(".baton-f1").exists());
    let log = told(&server.ctx("default")).await;
    let written = "dev.baton.resource.written";
    for (path, found) in [
        ("never.md", &[][..]),
        ("there.md", &[(written, "test"), (written, "ada")]),
        ("gone.md", &[(written, "ada")]),
        ("elsewhere.md", &[]),
        ("perhaps.md", &[(written, "ada")]),
        ("closed.md", &[]),
    ] {
        assert_eq!(about(&log, path), found, "{path}");
    }
    let perhaps = log.iter().find(|event| event.data["path"] == "perhaps.md");
    assert_eq!(perhaps.unwrap().data["uncertain"], true);
    // Nor does what happened in a database show in its file.
    let perhaps = log.iter().find(|event| event.data["path"] == "");
    assert_eq!(
        perhaps.unwrap().data,
        json!({"path": "", "uncertain": true})
    );
    // Nobody comes back for what another machine began: after a day it is told as what perhaps happened.
    assert_eq!(baton::resources::tick(&server.app.system).await.unwrap(), 0);
    server.clock.advance(Duration::from_hours(25));
    assert_eq!(baton::resources::tick(&server.app.system).await.unwrap(), 1);
    let log = told(&server.ctx("default")).await;
    assert_eq!(about(&log, "elsewhere.md"), [(written, "ada")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_file_is_without_its_event() {
    let home = program::Home::new();
    let written = Arc::new(AtomicUsize::new(0));
    for round in 0..5 {
        let (mut server, url) = home.serve("127.0.0.1:0");
        let http = reqwest_client();
        let registered = http
            .post(format!("{url}/api/v1/resources"))
            .json(&notes())
            .send();
        assert_eq!(registered.await.unwrap().status(), 200);
        let until_killed = written.load(Ordering::Relaxed) + 12;
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let (http, written) = (http.clone(), written.clone());
            let url = format!("{url}/api/v1/resources/notes/content");
            writers.spawn(async move {
                for number in 0.. {
                    let path = format!("{round}/{writer}/{number}");
                    let write = http
                        .post(&url)
                        .json(&json!({"path": path, "text": "x"}))
                        .send()
                        .await;
                    match write {
                        Ok(answer) => assert_eq!(answer.status(), 200),
                        Err(_) => return,
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until(async || written.load(Ordering::Relaxed) >= until_killed).await;
        server.signal(Signal::KILL);
        server.end();
        writers.join_all().await;
    }
    let (_server, _) = home.serve("127.0.0.1:0");
    let folder = home.path("data/files/default/notes");
    let store = home.store();
    let tenant = TenantId::default_tenant();
    let mut last = Vec::new();
    let is_settled = async || {
        let log = store
            .read(&tenant, |tx| events::after(tx, 0, 1_000))
            .await
            .unwrap();
        let told: BTreeSet<String> = log
            .iter()
            .filter_map(|event| Some(event.data["path"].as_str()?.to_owned()))
            .collect();
        let there = files_below(&folder);
        last = there.symmetric_difference(&told).cloned().collect();
        last.is_empty()
    };
    until(is_settled).await;
    assert!(files_below(&folder).len() >= 60);
}

/// The paths of the files that anybody sees.
fn files_below(folder: &std::path::Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(".baton-")
            {
                found.insert(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "a client of the test's own")]
fn reqwest_client() -> reqwest::Client {
    // It fails only when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

#[tokio::test]
async fn files_go_with_their_tenant_on_every_disk() {
    let now = Clock::system().now() + Duration::from_hours(1);
    let home = Arc::new(support::home::Home::new());
    let server = Server::on(home.clone(), Clock::manual(now));
    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = support::config(&home);
    config.limits.folders.own = elsewhere.path().to_owned();
    let other = App::open(config, server.clock.clone(), Random::seeded(8)).unwrap();
    for app in [&server.app, &other] {
        for tenant in ["acme", "globex"] {
            let write = json!({"resource_id": "notes", "path": "a.md", "text": "x"});
            for (op, input) in [("resource_register", notes()), ("resource_write", write)] {
                let Value::Object(input) = input else {
                    unreachable!()
                };
                let ctx = app.system.ctx(tenant.parse().unwrap(), "test");
                app.catalog.call(ctx, op, input).await.unwrap();
            }
        }
    }
    let own = server.ctx("acme").limits().folders.own.clone();
    let folders = [own, elsewhere.path().to_owned()];
    assert!(
        folders
            .iter()
            .all(|folder| folder.join("acme/notes/a.md").exists())
    );
    server
        .call_as(
            "acme",
            "tenant_delete",
            json!({"tenant_id": "acme", "confirm": true}),
        )
        .await;
    server.clock.advance(Duration::from_secs(4));
    while baton::tenants::tick(&server.app.system).await.unwrap() > 0 {}
    baton::tenants::tick(&other.system).await.unwrap();
    for folder in &folders {
        assert!(!folder.join("acme").exists(), "{folder:?}");
        assert!(folder.join("globex/notes/a.md").exists(), "{folder:?}");
    }
    other.stop().await;
}
