//! Object stores as resources, against a store of the test's own that writes down what it is asked. `tests/stores` plays the
//! same with those of others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use baton::config::Settings;
use baton::reach::{Names, Reach};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::databases::shop;
use crate::support::Server;
use crate::support::client::{Client, Way};
use crate::support::http::HttpServer;

const SECRET: &str = "s3cret-of-the-store";
/// What was written last, as all of it says.
const DATE: &str = "Sat, 21 Nov 2026 00:00:00 GMT";

/// A store: what lies in it, and what it was asked by whom.
#[derive(Default)]
struct Store {
    objects: Mutex<BTreeMap<String, Bytes>>,
    asked: Mutex<Vec<(String, String)>>,
}

async fn answer(State(store): State<Arc<Store>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let by = head.headers.get(header::AUTHORIZATION);
    let by = by.map_or("", |by| by.to_str().unwrap()).to_owned();
    let line = format!("{} {}", head.method, head.uri);
    store.asked.lock().unwrap().push((line, by));
    let path = percent_decoded(head.uri.path());
    let (_, key) = path[1..].split_once('/').unwrap_or((&path, ""));
    if key.starts_with("away") {
        return (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, "/acme/elsewhere")],
        )
            .into_response();
    }
    let mut objects = store.objects.lock().unwrap();
    match head.method {
        Method::GET if key.is_empty() => list(&objects, &head.uri).into_response(),
        Method::PUT => {
            objects.insert(key.to_owned(), body);
            [(header::ETAG, "\"1\"")].into_response()
        }
        Method::DELETE => {
            objects.remove(key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => match objects.get(key) {
            Some(object) => part(object, &head.headers),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

fn part(object: &Bytes, headers: &HeaderMap) -> Response {
    let said = [(header::LAST_MODIFIED, DATE), (header::ETAG, "\"1\"")];
    let range = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else {
        return (said, object.clone()).into_response();
    };
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let whole = format!("bytes {from}-{to}/{}", object.len());
    let range = [(header::CONTENT_RANGE, whole)];
    (
        StatusCode::PARTIAL_CONTENT,
        said,
        range,
        object.slice(from..=to),
    )
        .into_response()
}

fn list(objects: &BTreeMap<String, Bytes>, uri: &Uri) -> String {
    let asked: Query<BTreeMap<String, String>> = Query::try_from_uri(uri).unwrap();
    let prefix = asked.get("prefix").map_or("", String::as_str);
    let mut said = String::from("<ListBucketResult>");
    match prefix {
        // A list that never ends, and one that is too long to read.
        "endless/" => {
            for number in 0..1_000 {
                said += &entry(&format!("endless/{number:04}"), 1);
            }
            said += "<NextContinuationToken>more</NextContinuationToken>";
        }
        "huge/" => said += &"<x/>".repeat(2 << 20),
        _ => {
            let mut folders = Vec::new();
            for (key, object) in objects.range(prefix.to_owned()..) {
                let Some(rest) = key.strip_prefix(prefix) else {
                    break;
                };
                match rest.split_once('/') {
                    Some((folder, _)) => folders.push(format!("{prefix}{folder}/")),
                    None => said += &entry(key, object.len()),
                }
            }
            folders.dedup();
            for folder in folders {
                write!(
                    said,
                    "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
                )
                .unwrap();
            }
        }
    }
    said + "</ListBucketResult>"
}

fn entry(key: &str, bytes: usize) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2026-11-21T00:00:00Z</LastModified><ETag>1</ETag><Size>{bytes}</Size></Contents>"
    )
}

fn percent_decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

/// A store at a name that the operator opened, and how metadata names it.
async fn a_store(running: &mut JoinSet<()>) -> (Arc<Store>, Reach, String) {
    let store = Arc::new(Store::default());
    let router = Router::new().fallback(answer).with_state(store.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    running.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let names = Names::Told(Arc::new(|_: &str| vec![IpAddr::from([127, 0, 0, 1])]));
    let reach = Reach::new(vec!["store.test".parse().unwrap()]).named_by(names);
    (store, reach, format!("http://store.test:{port}"))
}

fn files(uri: &str, metadata: Value) -> Value {
    json!({"resource_id": "box", "type": "file_storage", "uri": uri, "access_permissions": ["read", "write"],
        "metadata": metadata})
}

fn at(path: &str) -> Value {
    json!({"resource_id": "box", "path": path})
}

fn writing(path: &str, text: &str) -> Value {
    json!({"resource_id": "box", "path": path, "text": text})
}

async fn is_a_folder(server: &Server, scheme: &str) {
    server
        .call("resource_write", writing("docs/a b.md", "Grüße"))
        .await;
    server.call("resource_write", writing("empty", "")).await;
    let listed = server.call("resource_read", at("")).await;
    let names: Vec<&Value> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["path"])
        .collect();
    assert_eq!(names, ["docs/", "empty"], "{scheme}");
    let mut part = at("docs/a b.md");
    (part["offset"], part["length"]) = (0.into(), 3.into());
    let part = server.call("resource_read", part).await;
    assert_eq!(
        (
            &part["text"],
            &part["next_offset"],
            &part["bytes"],
            &part["mime_type"]
        ),
        (&json!("Gr"), &json!(2), &json!(7), &json!("text/markdown")),
        "{scheme}"
    );
    assert_eq!(part["modified_at"], "2026-11-21T00:00:00.000000Z");
    assert_eq!(server.call("resource_read", at("empty")).await["text"], "");
    for path in ["docs/a b.md", "empty"] {
        server
            .call(
                "resource_write",
                json!({"resource_id": "box", "path": path, "remove": true}),
            )
            .await;
        assert_eq!(server.code("resource_read", at(path)).await, "unknown_file");
    }
}

#[tokio::test]
async fn a_bucket_is_a_folder_to_whom_its_secret_lets_in() {
    let mut running = JoinSet::new();
    let (store, reach, endpoint) = a_store(&mut running).await;
    let server = Server::within(reach);
    let key = json!({"access_key_id": "AKIA", "secret_access_key": SECRET}).to_string();
    server
        .call("secret_set", json!({"name": "s3", "value": key}))
        .await;
    let token = json!({"access_token": SECRET}).to_string();
    server
        .call("secret_set", json!({"name": "gs", "value": token}))
        .await;
    for (scheme, secret, by) in [
        ("s3", Some("s3"), "AWS4-HMAC-SHA256 Credential=AKIA/"),
        ("gs", Some("gs"), "Bearer s3cret"),
        ("s3", None, ""),
        ("gs", None, ""),
    ] {
        let mut metadata = json!({"endpoint": endpoint});
        if let Some(secret) = secret {
            metadata["auth"] = json!({"secret": secret});
        }
        let uri = format!("{scheme}://acme/in/here");
        server
            .call("resource_register", files(&uri, metadata))
            .await;
        store
            .objects
            .lock()
            .unwrap()
            .insert("in/hereafter".to_owned(), Bytes::new());
        store.asked.lock().unwrap().clear();
        is_a_folder(&server, scheme).await;
        let asked = store.asked.lock().unwrap();
        for (line, shown) in asked.iter() {
            assert!(
                shown.starts_with(by) && shown.is_empty() == by.is_empty(),
                "{line}: {shown}"
            );
        }
        let keys = asked.iter().filter(|(line, _)| line.starts_with("PUT"));
        assert!(
            keys.clone()
                .all(|(line, _)| percent_decoded(line).starts_with("PUT /acme/in/here/")),
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn a_store_leads_nowhere_else_and_says_no_more_than_fits() {
    let mut running = JoinSet::new();
    let (store, reach, endpoint) = a_store(&mut running).await;
    let server = Server::within(reach);
    server
        .call(
            "resource_register",
            files("s3://acme", json!({"endpoint": endpoint})),
        )
        .await;
    assert_eq!(
        server.code("resource_read", at("away/x")).await,
        "remote_error"
    );
    let asked = store.asked.lock().unwrap().clone();
    assert!(!format!("{asked:?}").contains("elsewhere"), "{asked:?}");
    let listed = server.call("resource_read", at("endless")).await;
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1_000);
    assert_eq!(listed["has_more"], true);
    let lists = store
        .asked
        .lock()
        .unwrap()
        .iter()
        .filter(|(line, _)| line.contains("endless%2F"))
        .count();
    assert_eq!(lists, 1, "no more is asked for than is shown");
    assert_eq!(
        server.code("resource_read", at("huge")).await,
        "remote_error"
    );
    let port = endpoint.rsplit(':').next().unwrap();
    for closed in [
        "http://169.254.169.254",
        "http://127.0.0.1",
        "http://[::1]",
        "http://[::ffff:127.0.0.1]",
        "http://0x7f000001",
        "http://10.0.0.1",
        "http://metadata.google.internal",
        "http://inside.test",
    ] {
        for uri in ["s3://acme/x", "gs://acme/x", "az://acme/box/x"] {
            let metadata = json!({"endpoint": format!("{closed}:{port}")});
            server.call("resource_register", files(uri, metadata)).await;
            assert_eq!(
                server.code("resource_read", at("a")).await,
                "address_refused",
                "{uri} at {closed}"
            );
            assert_eq!(
                server.code("resource_write", writing("a", "x")).await,
                "address_refused",
                "{uri} at {closed}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_store_or_no_secret_of_one_is_said_without_it() {
    let mut running = JoinSet::new();
    let (_, reach, endpoint) = a_store(&mut running).await;
    let server = Server::within(reach);
    for (uri, metadata) in [
        ("s3://", json!({})),
        ("s3://a/../b", json!({})),
        ("s3://user:password@acme/x", json!({})),
        ("az://acme", json!({})),
        ("s3://acme", json!({"endpoint": "http://user:password@x"})),
        ("s3://acme", json!({"endpoint": "file:///etc"})),
        ("s3://acme", json!({"region": "evil.com/"})),
        ("s3://acme", json!({"auth": {"secret": "x", "key": "y"}})),
        ("s3://acme", json!({"auth": "password"})),
    ] {
        let refused = server
            .code("resource_register", files(uri, metadata.clone()))
            .await;
        assert_eq!(refused, "invalid_input", "{uri} {metadata}");
    }
    let metadata = json!({"endpoint": endpoint, "auth": {"secret": "key"}});
    server
        .call("resource_register", files("s3://acme", metadata))
        .await;
    assert_eq!(
        server.code("resource_read", at("a")).await,
        "unknown_secret"
    );
    server
        .call("secret_set", json!({"name": "key", "value": SECRET}))
        .await;
    let refused = server.try_call("resource_read", at("a")).await.unwrap_err();
    assert_eq!(refused.code(), "secret_broken");
    assert!(
        refused.message().contains("access_key_id") && !format!("{refused:?}").contains(SECRET),
        "{refused:?}"
    );
}

/// A database with tables, and one that is not there yet.
async fn add_databases(server: &HttpServer) {
    server.post("/api/v1/resources", &shop()).await;
    for sql in [
        "CREATE TABLE orders (a)",
        "CREATE VIEW offers AS SELECT a FROM orders",
        "CREATE TABLE people (b)",
    ] {
        let made = json!({"sql": sql, "write": true});
        let made = server.post("/api/v1/resources/shop/query", &made).await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
    let missing = json!({"resource_id": "missing", "type": "database", "uri": "file://tenant/missing.db",
        "access_permissions": ["read"]});
    server.post("/api/v1/resources", &missing).await;
}

#[tokio::test]
async fn paths_are_completed_as_they_are_typed() {
    let mut running = JoinSet::new();
    let (store, _, endpoint) = a_store(&mut running).await;
    let endpoint = endpoint.replace("store.test", "127.0.0.1");
    for way in Way::ALL {
        let opened = |settings: &mut Settings| {
            settings.outbound_allow = vec!["127.0.0.1".parse().unwrap()];
        };
        let server = HttpServer::builder().settings(opened).start().await;
        let folder = json!({"resource_id": "notes", "type": "file_storage", "uri": "file://tenant/notes",
            "access_permissions": ["read", "write"]});
        server.post("/api/v1/resources", &folder).await;
        let bucket = files("s3://acme/in", json!({"endpoint": endpoint}));
        server.post("/api/v1/resources", &bucket).await;
        let hidden = json!({"resource_id": "hidden", "type": "file_storage", "uri": "file://tenant/notes",
            "access_permissions": ["write"]});
        server.post("/api/v1/resources", &hidden).await;
        for id in ["notes", "box"] {
            for path in [
                "guides/start.md",
                "guides/stop.md",
                "guides/deep/x",
                "go.md",
            ] {
                let content = json!({"path": path, "text": "x"});
                let written = server
                    .post(&format!("/api/v1/resources/{id}/content"), &content)
                    .await;
                assert_eq!(written.status, 200, "{}", written.text);
            }
        }
        add_databases(&server).await;
        let mut client = Client::open(&server, way).await;
        let reference =
            json!({"type": "ref/resource", "uri": "baton://resources/{resource_id}/{+path}"});
        for (id, typed, found) in [
            ("", "", json!([])),
            ("nothing", "", json!([])),
            ("hidden", "", json!([])),
            ("notes", "", json!(["go.md", "guides/"])),
            ("notes", "g", json!(["go.md", "guides/"])),
            ("notes", "gu", json!(["guides/"])),
            (
                "notes",
                "guides/",
                json!(["guides/deep/", "guides/start.md", "guides/stop.md"]),
            ),
            (
                "notes",
                "guides/st",
                json!(["guides/start.md", "guides/stop.md"]),
            ),
            ("notes", "guides/x", json!([])),
            ("notes", "nothing/x", json!([])),
            ("notes", "../", json!([])),
            ("box", "g", json!(["go.md", "guides/"])),
            (
                "box",
                "guides/st",
                json!(["guides/start.md", "guides/stop.md"]),
            ),
            ("box", "../i", json!([])),
            ("shop", "", json!(["offers", "orders", "people"])),
            ("shop", "o", json!(["offers", "orders"])),
            ("shop", "o/", json!([])),
            ("missing", "", json!([])),
        ] {
            let asked = json!({"ref": reference, "argument": {"name": "path", "value": typed},
                "context": {"arguments": {"resource_id": id}}});
            let answer = client.ask("completion/complete", asked).await;
            let values = &answer["result"]["completion"]["values"];
            assert_eq!(*values, found, "{way:?} {id} {typed}: {answer}");
        }
        store.objects.lock().unwrap().clear();
    }
}
