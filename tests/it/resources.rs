//! Folders as resources: registered, read, written and heard of, within what the caller may and never outside of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use baton::error::Error;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Client, Way};
use crate::support::home::Home;
use crate::support::http::HttpServer;

/// A folder of the tenant's own that everybody may read and write.
pub(crate) fn notes() -> Value {
    json!({"resource_id": "notes", "type": "file_storage", "uri": "file://tenant/notes",
        "access_permissions": ["read", "write"], "metadata": {"title": "Notes"}})
}

async fn with_notes() -> Server {
    let server = Server::start();
    server.call("resource_register", notes()).await;
    server
}

pub(crate) fn at(path: &str) -> Value {
    json!({"resource_id": "notes", "path": path})
}

pub(crate) fn writing(path: &str, text: &str) -> Value {
    json!({"resource_id": "notes", "path": path, "text": text})
}

#[tokio::test]
async fn a_folder_is_registered_written_listed_and_read() {
    let server = with_notes().await;
    server
        .call("resource_write", writing("guides/a b.md", "Grüße"))
        .await;
    let blob = json!({"resource_id": "notes", "path": "logo.png", "blob": "AAEC/w=="});
    server.call("resource_write", blob).await;
    let root = server.call("resource_read", at("")).await;
    let paths: Vec<&str> = root["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["guides/", "logo.png"]);
    let below = server.call("resource_read", at("guides/")).await;
    assert_eq!(below["entries"][0]["path"], "guides/a b.md");
    assert_eq!(below["entries"][0]["bytes"], 7);
    let file = server.call("resource_read", at("guides/a b.md")).await;
    assert_eq!(
        (
            &file["text"],
            &file["mime_type"],
            &file["bytes"],
            &file["resource_uri"]
        ),
        (
            &json!("Grüße"),
            &json!("text/markdown"),
            &json!(7),
            &json!("baton://resources/notes/guides/a%20b.md")
        )
    );
    assert_eq!(
        server.call("resource_read", at("logo.png")).await["blob"],
        "AAEC/w=="
    );
}

#[tokio::test]
async fn a_file_is_read_part_by_part_written_anew_and_removed() {
    let server = with_notes().await;
    server
        .call("resource_write", writing("guides/a b.md", "Grüße"))
        .await;
    // No character is cut in two.
    let mut part = at("guides/a b.md");
    (part["offset"], part["length"]) = (0.into(), 3.into());
    let first = server.call("resource_read", part.clone()).await;
    assert_eq!(
        (&first["text"], &first["next_offset"]),
        (&json!("Gr"), &json!(2))
    );
    (part["offset"], part["length"]) = (2.into(), 100.into());
    let rest = server.call("resource_read", part).await;
    assert_eq!(
        (&rest["text"], rest.get("next_offset")),
        (&json!("üße"), None)
    );
    // Written anew, and removed.
    server
        .call("resource_write", writing("guides/a b.md", "Hi"))
        .await;
    assert_eq!(
        server.call("resource_read", at("guides/a b.md")).await["text"],
        "Hi"
    );
    let remove = |path: &str| json!({"resource_id": "notes", "path": path, "remove": true});
    assert_eq!(
        server.code("resource_write", remove("guides")).await,
        "path_conflict"
    );
    server.call("resource_write", remove("guides/a b.md")).await;
    server.call("resource_write", remove("guides")).await;
    for gone in ["guides", "guides/a b.md", "logo.png/x", "nothing"] {
        assert_eq!(
            server.code("resource_read", at(gone)).await,
            "unknown_file",
            "{gone}"
        );
    }
    // What is at the path must be said once, and be what it says.
    for bad in [
        json!({}),
        json!({"text": "a", "blob": "AA=="}),
        json!({"text": "a", "remove": true}),
        json!({"blob": "%"}),
    ] {
        let mut input = at("x");
        input
            .as_object_mut()
            .unwrap()
            .extend(bad.as_object().unwrap().clone());
        assert_eq!(
            server.code("resource_write", input).await,
            "invalid_input",
            "{bad}"
        );
    }
}

#[tokio::test]
async fn no_path_leads_out_of_its_folder() {
    let server = with_notes().await;
    server
        .call("resource_write", writing("inside.txt", "inside"))
        .await;
    for path in [
        "../secret.txt",
        "a/../../secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "..",
        ".",
        "./inside.txt",
        "up/../secret.txt",
        "inside.txt\0",
        "..\\secret.txt",
        "a//b",
        "\u{1}",
        ".baton-x",
    ] {
        assert_eq!(
            server.code("resource_read", at(path)).await,
            "invalid_input",
            "{path:?}"
        );
        assert_eq!(
            server.code("resource_write", writing(path, "x")).await,
            "invalid_input",
            "{path:?}"
        );
    }
}

#[tokio::test]
async fn no_link_leads_out_of_its_folder() {
    let server = with_notes().await;
    server
        .call("resource_write", writing("inside.txt", "inside"))
        .await;
    let folder = server.home().path().join("files/default/notes");
    let secret = server.home().path().join("secret.txt");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, folder.join("link.txt")).unwrap();
    symlink(server.home().path(), folder.join("up")).unwrap();
    symlink("inside.txt", folder.join("near.txt")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        folder.join("pipe"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    for path in [
        "link.txt",
        "up",
        "up/secret.txt",
        "near.txt",
        "pipe",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "inside.txt/..x",
        "\u{ff0e}\u{ff0e}/secret.txt",
    ] {
        assert_eq!(
            server.code("resource_read", at(path)).await,
            "unknown_file",
            "{path:?}"
        );
    }
    let listed = server.call("resource_read", at("")).await["entries"].to_string();
    assert!(
        listed.contains("inside.txt") && !listed.contains("link") && !listed.contains("pipe"),
        "{listed}"
    );
    // What is written in place of a link leaves alone what that led to; nothing is written through one.
    server
        .call("resource_write", writing("link.txt", "mine"))
        .await;
    assert_ne!(
        server
            .code("resource_write", writing("up/secret.txt", "mine"))
            .await,
        ""
    );
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    let uris = [
        "",
        "/up/secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2f..%2fsecret.txt",
        "/%2fetc%2fpasswd",
        "/a%00",
        "/%zz",
        "/../secret.txt",
    ];
    for uri in &uris[1..] {
        let uri = format!("baton://resources/notes{uri}");
        let refused = server
            .app
            .catalog
            .read(&server.ctx("default"), &uri)
            .await
            .unwrap_err();
        assert!(
            ["unknown_resource", "invalid_input"].contains(&refused.code()),
            "{uri}: {refused}"
        );
    }
}

/// A server that lets tenants have these folders.
fn with_files(home: Home, opened: &[&Path]) -> Server {
    let home = Arc::new(home);
    let mut config = crate::support::config(&home);
    config.limits.folders.opened = opened.iter().map(|&folder| folder.to_owned()).collect();
    Server::with(home, config)
}

#[tokio::test]
async fn only_what_the_operator_opened_can_be_a_resource() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(outside.path().join("open/docs")).unwrap();
    fs::create_dir_all(outside.path().join("of/acme")).unwrap();
    fs::create_dir_all(outside.path().join("of/globex")).unwrap();
    fs::write(outside.path().join("open/docs/a.txt"), "open").unwrap();
    fs::write(outside.path().join("of/globex/a.txt"), "theirs").unwrap();
    symlink(outside.path().join("of"), outside.path().join("open/way")).unwrap();
    let (open, of) = (
        outside.path().join("open"),
        outside.path().join("of/{tenant}"),
    );
    let server = with_files(Home::new(), &[&open, &of]);
    let root = outside.path().display();
    register(&server, &format!("{root}/open/docs"))
        .await
        .unwrap();
    let file = json!({"resource_id": "x", "path": "a.txt"});
    let read = server.call_as("acme", "resource_read", file).await;
    assert_eq!(read["text"], "open");
    let write = json!({"resource_id": "x", "path": "a.txt", "text": "mine"});
    let refused = server.try_call_as("acme", "resource_write", write).await;
    assert_eq!(
        refused.unwrap_err().code(),
        "forbidden",
        "nobody said that it may be written"
    );
    register(&server, &format!("{root}/of/acme")).await.unwrap();
    for path in [
        "",
        "/of",
        "/of/globex",
        "/open/way/globex",
        "/open/docs/a.txt",
        "/open/nothing",
        "/openly",
        "/open/../of/globex",
    ] {
        let refused = register(&server, &format!("{root}{path}")).await;
        assert_eq!(refused.unwrap_err().code(), "invalid_input", "{path}");
    }
    // Whatever the operator opens, Baton's own data is in no resource.
    let home = Home::new();
    let data = home.path().to_owned();
    let above = data.parent().unwrap().to_owned();
    let server = with_files(home, &[&above]);
    server.call("resource_register", notes()).await;
    for path in [
        &above,
        &data,
        &data.join("files"),
        &data.join("files/default"),
    ] {
        let refused = register(&server, &path.display().to_string()).await;
        assert_eq!(refused.unwrap_err().code(), "invalid_input", "{path:?}");
    }
}

async fn register(server: &Server, path: &str) -> Result<Value, Error> {
    let uri = format!("file://{path}");
    let input = json!({"resource_id": "x", "type": "file_storage", "uri": uri});
    server.try_call_as("acme", "resource_register", input).await
}

#[tokio::test]
async fn clients_of_rest_know_the_same_resources_by_both_names() {
    let server = HttpServer::start().await;
    let registered = server.post("/resources/register", &notes()).await;
    assert_eq!(registered.status, 200, "{}", registered.text);
    assert_eq!(registered.body["resource_uri"], "baton://resources/notes");
    let again = server.post("/api/v1/resources", &notes()).await;
    assert_eq!(again.body, registered.body, "it is the same");
    let text = json!({"path": "a b.txt", "text": "hello"});
    server.post("/api/v1/resources/notes/content", &text).await;
    let read = server
        .get("/api/v1/resources/notes/content?path=a%20b.txt")
        .await;
    assert_eq!(read.body["text"], "hello");
    for list in ["/resources", "/api/v1/resources"] {
        assert_eq!(
            server.get(list).await.body["resources"][0]["resource_id"],
            "notes"
        );
    }
    assert_eq!(server.get("/resources/notes").await.body, registered.body);
    let delete = |path: &str| server.request(reqwest::Method::DELETE, path).send();
    assert_eq!(delete("/resources/notes").await.unwrap().status(), 200);
    server
        .get("/resources/notes")
        .await
        .is_problem(404, "unknown_resource");
}

#[tokio::test]
async fn clients_hear_of_what_is_registered_and_written() {
    for way in Way::ALL {
        let server = HttpServer::start().await;
        let mut client = Client::open(&server, way).await;
        server.post("/resources/register", &notes()).await;
        let listed = client.ask("resources/list", json!({})).await;
        assert!(
            listed["result"]["resources"]
                .to_string()
                .contains("baton://resources/notes"),
            "{listed}"
        );
        let uri = "baton://resources/notes/a%20b.md";
        client.subscribe(uri).await;
        let text = json!({"path": "a b.md", "text": "# Hello"});
        server.post("/api/v1/resources/notes/content", &text).await;
        let told = client
            .hear(|message| message["method"] == "notifications/resources/updated")
            .await;
        assert_eq!(told["params"]["uri"], uri, "{way:?}");
        let read = client.ask("resources/read", json!({"uri": uri})).await;
        let content = &read["result"]["contents"][0];
        assert_eq!(
            (&content["text"], &content["mimeType"]),
            (&json!("# Hello"), &json!("text/markdown")),
            "{way:?}"
        );
    }
}

#[tokio::test]
async fn what_is_registered_and_written_is_kept_and_in_the_log() {
    let server = with_notes().await;
    server
        .call("resource_write", writing("a.txt", "hello"))
        .await;
    let mut other = notes();
    other["access_permissions"] = json!(["read"]);
    server.call("resource_register", other).await;
    let server = server.restart().await;
    assert_eq!(
        server.call("resource_read", at("a.txt")).await["text"],
        "hello"
    );
    assert_eq!(
        server.code("resource_write", writing("a.txt", "x")).await,
        "forbidden"
    );
    server
        .call("resource_delete", json!({"resource_id": "notes"}))
        .await;
    let ctx = server.ctx("default");
    let events = ctx
        .read(|_, tx| baton::events::after(tx, 0, 100))
        .await
        .unwrap();
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event.kind.trim_start_matches("dev.baton.resource."))
        .collect();
    assert_eq!(kinds, ["registered", "written", "changed", "deleted"]);
    assert!(
        !format!("{events:?}").contains("hello"),
        "what is written is nobody else's business"
    );
    // What it led to is still there.
    server.call("resource_register", notes()).await;
    assert_eq!(
        server.call("resource_read", at("a.txt")).await["text"],
        "hello"
    );
}
