//! Tools that come from elsewhere: files that give all tenants the same ones, documents that describe an API; and secrets
//! that calls are given.

use std::path::Path;

use baton::tools::Tools;
use serde_json::{Value, json};

use crate::access::operate;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{modern, tool};
use crate::tools_done::{Outside, open};

const PATH: &str = "/t/acme/mcp";
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tools");

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_a_folder_are_every_tenants_and_work() {
    let outside = Outside::start().await;
    let server = HttpServer::builder().settings(|settings| {
        settings.outbound_allow = vec!["127.0.0.1".parse().unwrap()];
        settings.tools = Some(FOLDER.into());
    });
    let server = server.start().await;
    for path in ["/t/acme/mcp", "/t/globex/mcp"] {
        let list = Answer::of(server.modern(path, &modern("tools/list", json!({})))).await;
        let tools = list.body["result"]["tools"].as_array().unwrap().iter();
        let names: Vec<&str> = tools.map(|tool| tool["name"].as_str().unwrap()).collect();
        assert!(
            names.ends_with(&["http_request", "web_page_text"]),
            "{names:?}"
        );
        let page = json!({"url": format!("{}/page", outside.url)});
        let page = server.use_tool(path, "web_page_text", page).await;
        assert_eq!(
            page,
            json!({"title": "Opening hours", "text": "Hours\n\n9 to 5 & later"})
        );
        let request = json!({"url": format!("{}/echo/a?b=c", outside.url), "method": "PATCH", "headers": {"x-token": "t"}, "body": "{\"n\": 1}"});
        let echoed = server.use_tool(path, "http_request", request).await;
        assert_eq!(
            (&echoed["status"], &echoed["content_type"]),
            (&json!(200), &json!("application/json"))
        );
        for (member, value) in [
            ("method", json!("PATCH")),
            ("uri", json!("/echo/a?b=c")),
            ("token", json!("t")),
            ("body", json!({"n": 1})),
        ] {
            assert_eq!(echoed["body"][member], value, "{echoed}");
        }
        let closed = json!({"url": format!("{}/as/418", outside.url)});
        assert_eq!(
            server.use_tool(path, "http_request", closed).await["status"],
            418
        );
        let found = server
            .use_tool(path, "tool_search", json!({"query": "read a web page"}))
            .await;
        assert_eq!(found["hits"][0]["name"], "web_page_text", "{found}");
        let taken = json!({"name": "http_request", "description": "Mine", "implementation": "https://e.example/"});
        let taken = modern("tools/call", tool("tool_create", taken));
        let taken = Answer::of(server.modern(path, &taken)).await;
        assert!(taken.text.contains("/name"), "{}", taken.text);
    }
}

#[test]
fn a_file_that_is_no_manifest_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || {
        Tools::load(Some(folder.path()))
            .map(drop)
            .map_err(|error| error.message().to_owned())
    };
    let good = "name = \"a\"\ndescription = \"Does a\"\nimplementation = \"https://e.example/\"\n";
    write("a.toml", good);
    write("notes.md", "not a manifest");
    assert_eq!(load(), Ok(()));
    write("b.toml", good);
    assert!(load().unwrap_err().contains("b.toml: another file"));
    write("b.toml", "name = ");
    assert!(load().unwrap_err().contains("b.toml"));
    write("b.toml", &good.replace("https", "ftp"));
    let refused = load().unwrap_err();
    assert!(
        refused.contains("b.toml") && refused.contains("/implementation/url"),
        "{refused}"
    );
    assert!(Tools::load(Some(Path::new("/no/such/folder"))).is_err());
}

const SECRET: &str = "s3cr3t-token-value";

/// A server on which acme has the secret TOKEN, and what it may call.
async fn with_a_secret() -> (HttpServer, Outside) {
    let (server, outside) = open().await;
    let input = json!({"name": "TOKEN", "value": SECRET});
    operate(&server, "acme", "secret_set", input).await;
    (server, outside)
}

/// Makes a tool of acme's that calls `url`.
async fn create(server: &HttpServer, name: &str, url: String, auth: Value) {
    let tool = json!({"name": name, "description": "Calls", "implementation":
        {"type": "http", "method": "GET", "url": url, "auth": auth}});
    server.use_tool(PATH, "tool_create", tool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_told_to_the_server_and_taken_out_of_what_it_says() {
    let (server, outside) = with_a_secret().await;
    let header = json!({"type": "header", "name": "x-token", "secret": "TOKEN"});
    create(
        &server,
        "by_header",
        format!("{}/echo/h", outside.url),
        header,
    )
    .await;
    let echoed = server.use_tool(PATH, "by_header", json!({})).await;
    assert_eq!(echoed["token"], "[secret]");
    let query = json!({"type": "query", "name": "key", "secret": "TOKEN"});
    create(
        &server,
        "by_query",
        format!("{}/echo/q", outside.url),
        query,
    )
    .await;
    let echoed = server.use_tool(PATH, "by_query", json!({})).await;
    assert_eq!(echoed["uri"], "/echo/q?key=[secret]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_by_no_failure_no_dry_call_and_no_event() {
    let (server, outside) = with_a_secret().await;
    let mut said = String::new();
    // Behind the last one nobody listens.
    let nowhere = "http://127.0.0.1:1".to_owned();
    for (name, url, auth) in [
        (
            "by_bearer",
            format!("{}/as/401", outside.url),
            json!({"type": "bearer", "secret": "TOKEN"}),
        ),
        (
            "by_basic",
            format!("{}/as/500", outside.url),
            json!({"type": "basic", "username": "ada", "secret": "TOKEN"}),
        ),
        (
            "by_query",
            nowhere,
            json!({"type": "query", "name": "key", "secret": "TOKEN"}),
        ),
        (
            "unknown",
            format!("{}/as/200", outside.url),
            json!({"type": "bearer", "secret": "NONE"}),
        ),
    ] {
        create(&server, name, url, auth).await;
        let call = modern("tools/call", tool(name, json!({})));
        let answer = Answer::of(server.modern(PATH, &call)).await;
        assert_eq!(answer.body["result"]["isError"], true, "{}", answer.text);
        said.push_str(&answer.text);
    }
    assert!(said.contains("unknown_secret"), "{said}");
    let dry = json!({"tool_id": "by_bearer"});
    let dry = server.use_tool(PATH, "tool_test", dry).await;
    assert_eq!(dry["request"]["headers"]["authorization"], "Bearer [TOKEN]");
    for (op, input) in [
        ("tool_history", json!({"tool_id": "by_query", "version": 1})),
        ("tool_describe", json!({"name": "by_query"})),
        ("tool_list", json!({})),
    ] {
        said.push_str(&server.use_tool(PATH, op, input).await.to_string());
    }
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    let events = ctx.read(|_, tx| baton::events::after(tx, 0, 1_000)).await;
    said.extend(events.unwrap().iter().map(|event| event.data.to_string()));
    assert!(!said.contains(SECRET), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_calls_does_not_choose_who_is_told_a_secret() {
    let server = HttpServer::start().await;
    let thief = json!({"name": "thief", "description": "Calls", "parameters": {"properties": {"url": {"type": "string"}}, "required": ["url"]},
        "implementation": {"type": "http", "url": "{+url}", "auth": {"type": "bearer", "secret": "TOKEN"}}});
    let thief = modern("tools/call", tool("tool_create", thief));
    let thief = Answer::of(server.modern(PATH, &thief)).await;
    assert!(
        thief.text.contains("/implementation/auth"),
        "{}",
        thief.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_described_becomes_tools() {
    let (server, outside) = open().await;
    let document = json!({
        "openapi": "3.0.3", "info": {"title": "Pets", "version": "1"}, "servers": [{"url": format!("{}/echo", outside.url)}],
        "paths": {
            "/pets/{id}": {"get": {"operationId": "getPet", "summary": "One pet", "parameters": [
                {"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}},
                {"name": "deep", "in": "query", "schema": {"type": "boolean", "nullable": true}}]}},
            "/pets": {"post": {"summary": "A new pet", "requestBody": {"required": true, "content": {"application/json": {"schema":
                {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "mother": {"$ref": "#/components/schemas/Pet"}}}}}}}},
            "/photo": {"put": {"requestBody": {"required": true, "content": {"image/png": {}}}}}
        },
        "components": {"schemas": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}, "mother": {"$ref": "#/components/schemas/Pet"}}}}}
    });
    let import = json!({"document": document, "prefix": "pets_", "dry_run": true});
    let dry = server
        .use_tool("/mcp", "tool_import_openapi", import.clone())
        .await;
    assert_eq!(dry["skipped"][0]["operation"], "PUT /photo");
    assert_eq!(
        server.use_tool("/mcp", "tool_list", json!({})).await["tools"],
        json!([])
    );
    let mut import = import;
    import["dry_run"] = false.into();
    let made = server.use_tool("/mcp", "tool_import_openapi", import).await;
    let names: Vec<&str> = made["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["pets_POST_pets", "pets_getPet"]);
    let got = server
        .use_tool("/mcp", "pets_getPet", json!({"id": 7, "deep": true}))
        .await;
    assert_eq!(
        (&got["method"], &got["uri"]),
        (&json!("GET"), &json!("/echo/pets/7?deep=true"))
    );
    let posted = server
        .use_tool("/mcp", "pets_POST_pets", json!({"name": "Rex"}))
        .await;
    assert_eq!(
        (&posted["method"], &posted["body"]),
        (&json!("POST"), &json!({"name": "Rex"}))
    );
    // A document that is elsewhere, of which one operation is wanted that is not there.
    let elsewhere = json!({"url": format!("{}/list", outside.url)});
    let elsewhere = modern("tools/call", tool("tool_import_openapi", elsewhere));
    let refused = Answer::of(server.modern("/mcp", &elsewhere)).await;
    assert!(
        refused.text.contains("/document/openapi"),
        "{}",
        refused.text
    );
}
