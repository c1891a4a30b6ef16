//! SQLite files as resources of type database: written, asked and described, within what the caller may and what a query may
//! take.

use std::fs;
use std::pin::pin;
use std::sync::Arc;

use baton::principal::{Grant, Principal, Role, Shown, Tenants};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::HttpServer;

/// A database of the tenant's own that everybody may read and write.
pub(crate) fn shop() -> Value {
    json!({"resource_id": "shop", "type": "database", "uri": "file://tenant/data/shop.db",
        "access_permissions": ["read", "write"]})
}

pub(crate) fn asking(sql: &str) -> Value {
    json!({"resource_id": "shop", "sql": sql})
}

pub(crate) fn changing(sql: &str) -> Value {
    json!({"resource_id": "shop", "sql": sql, "write": true})
}

/// A server with a database that has things in it.
pub(crate) async fn with_shop() -> Server {
    let server = Server::start();
    server.call("resource_register", shop()).await;
    for sql in [
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, age REAL, photo BLOB)",
        "CREATE TABLE orders (number INTEGER PRIMARY KEY, buyer INTEGER REFERENCES people (id), what TEXT DEFAULT 'tea')",
        "CREATE VIEW names AS SELECT name FROM people",
        "INSERT INTO people (name, age) VALUES ('Ada', 36.5), ('Eve', NULL)",
    ] {
        server.call("resource_query", changing(sql)).await;
    }
    server
}

#[tokio::test]
async fn a_database_is_made_written_and_asked() {
    let server = Server::start();
    server.call("resource_register", shop()).await;
    let file = server.home().path().join("files/default/data/shop.db");
    assert_eq!(
        server.code("resource_query", asking("SELECT 1")).await,
        "unknown_file"
    );
    assert_eq!(
        server
            .code("resource_read", json!({"resource_id": "shop"}))
            .await,
        "unknown_file"
    );
    assert!(!file.exists(), "who reads makes nothing");
    let made = server
        .call(
            "resource_query",
            changing("CREATE TABLE people (name TEXT, data)"),
        )
        .await;
    assert_eq!(made, json!({"columns": [], "rows": [], "changed": 0}));
    assert!(file.exists());
}

#[tokio::test]
async fn what_is_written_is_what_is_found_again() {
    let server = Server::start();
    server.call("resource_register", shop()).await;
    let create = changing("CREATE TABLE people (name TEXT, data)");
    server.call("resource_query", create).await;
    let mut insert = changing("INSERT INTO people VALUES ($1, $2) RETURNING rowid AS id");
    for (number, data) in [
        json!(1),
        json!(2.5),
        json!("Grüße"),
        json!(null),
        json!(true),
        json!({"base64": "AAEC/w=="}),
        json!([1, "a"]),
        json!({"a": 1}),
        json!(9_007_199_254_740_993_i64),
    ]
    .into_iter()
    .enumerate()
    {
        insert["parameters"] = json!([format!("p{number}"), data]);
        let done = server.call("resource_query", insert.clone()).await;
        assert_eq!(
            (&done["rows"], &done["changed"]),
            (&json!([[number + 1]]), &json!(1))
        );
    }
    let found = server
        .call(
            "resource_query",
            asking("SELECT name, data, data IS NULL AS \"is nothing\" FROM people ORDER BY rowid"),
        )
        .await;
    assert_eq!(
        found["columns"],
        json!([{"name": "name", "type": "text"}, {"name": "data", "type": ""}, {"name": "is nothing", "type": ""}])
    );
    let data: Vec<&Value> = found["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row[1])
        .collect();
    assert_eq!(
        json!(data),
        json!([1, 2.5, "Grüße", null, 1, {"base64": "AAEC/w=="}, "[1,\"a\"]", "{\"a\":1}", "9007199254740993"])
    );
    assert_eq!(
        (
            &found["rows"][3][2],
            found.get("has_more"),
            found.get("changed")
        ),
        (&json!(1), None, None)
    );
    // What is written is there after a restart, and in the log, without what it is.
    let server = server.restart().await;
    let count = server
        .call("resource_query", asking("SELECT count(*) FROM people"))
        .await;
    assert_eq!(count["rows"], json!([[9]]));
    let events = server
        .ctx("default")
        .read(|_, tx| baton::events::after(tx, 0, 100))
        .await
        .unwrap();
    let last = events.last().unwrap();
    assert_eq!(
        (last.kind.as_str(), &last.data["changed"]),
        ("dev.baton.resource.written", &json!(1))
    );
    assert!(!format!("{events:?}").contains("Grüße"));
}

#[tokio::test]
async fn parameters_are_what_they_stand_for_and_as_many() {
    let server = with_shop().await;
    for (sql, parameters, rows) in [
        (
            "SELECT $2, $1, $2",
            json!(["a", "b"]),
            json!([["b", "a", "b"]]),
        ),
        ("SELECT ?, ?", json!([1, 2]), json!([[1, 2]])),
        ("SELECT ?2, ?1", json!([1, 2]), json!([[2, 1]])),
        (
            "SELECT name FROM people WHERE name = $1",
            json!(["Ada' OR '1' = '1"]),
            json!([]),
        ),
        (
            "SELECT name FROM people WHERE name = $1 -- it's",
            json!(["Ada"]),
            json!([["Ada"]]),
        ),
    ] {
        let mut input = asking(sql);
        input["parameters"] = parameters;
        assert_eq!(
            server.call("resource_query", input).await["rows"],
            rows,
            "{sql}"
        );
    }
    for (sql, parameters, code) in [
        ("SELECT $1", json!([]), "invalid_input"),
        ("SELECT 1", json!([1]), "invalid_input"),
        ("SELECT $1, $2", json!([1]), "invalid_input"),
        ("SELECT :name", json!([1]), "query_failed"),
        ("SELECT $1", json!([{"base64": "%"}]), "query_failed"),
        ("SELECT nothing", json!([]), "query_failed"),
        ("SELEC 1", json!([]), "query_refused"),
    ] {
        let mut input = asking(sql);
        input["parameters"] = parameters;
        assert_eq!(server.code("resource_query", input).await, code, "{sql}");
    }
}

#[tokio::test]
async fn what_is_in_a_database_can_be_read() {
    let server = with_shop().await;
    let root = server
        .call("resource_read", json!({"resource_id": "shop"}))
        .await;
    let paths: Vec<&Value> = root["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["path"])
        .collect();
    assert_eq!(json!(paths), json!(["names", "orders", "people"]));
    let all: Value = serde_json::from_str(root["text"].as_str().unwrap()).unwrap();
    assert_eq!(all["tables"][0]["type"], "view");
    assert_eq!(
        all["tables"][1],
        json!({"name": "orders", "type": "table",
        "columns": [{"name": "number", "type": "integer", "nullable": false},
            {"name": "buyer", "type": "integer", "nullable": true},
            {"name": "what", "type": "text", "nullable": true, "default": "'tea'"}],
        "keys": ["PRIMARY KEY (number)", "FOREIGN KEY (buyer) REFERENCES people(id)"]})
    );
    let one = server
        .call(
            "resource_read",
            json!({"resource_id": "shop", "path": "people"}),
        )
        .await;
    let one: Value = serde_json::from_str(one["text"].as_str().unwrap()).unwrap();
    assert_eq!(
        (
            one["tables"].as_array().unwrap().len(),
            &one["tables"][0]["keys"]
        ),
        (1, &json!(["PRIMARY KEY (id)", "UNIQUE (name)"]))
    );
    assert_eq!(
        server
            .code(
                "resource_read",
                json!({"resource_id": "shop", "path": "nothing"})
            )
            .await,
        "unknown_file"
    );
    assert_eq!(
        server
            .code(
                "resource_write",
                json!({"resource_id": "shop", "path": "people", "text": "x"})
            )
            .await,
        "invalid_input"
    );
    for (uri, is_there) in [
        ("baton://resources/shop", true),
        ("baton://resources/shop/people", true),
        ("baton://resources/shop/nothing", false),
    ] {
        let read = server.app.catalog.read(&server.ctx("default"), uri).await;
        assert_eq!(
            read.is_ok_and(|content| content.mime_type == "application/json"),
            is_there,
            "{uri}"
        );
    }
}

#[tokio::test]
async fn a_query_takes_no_more_than_it_may() {
    let server = with_shop().await;
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) SELECT i, $1 FROM n";
    let mut many = asking(numbers);
    (many["limit"], many["parameters"]) = (7.into(), json!(["x"]));
    let found = server.call("resource_query", many.clone()).await;
    assert_eq!(
        (found["rows"].as_array().unwrap().len(), &found["has_more"]),
        (7, &json!(true))
    );
    (many["limit"], many["parameters"]) = (5000.into(), json!(["x".repeat(1_000)]));
    let found = server.call("resource_query", many).await;
    let rows = found["rows"].as_array().unwrap().len();
    assert!(
        (400..600).contains(&rows) && found["has_more"] == true,
        "{rows} rows"
    );
    for (sql, code) in [
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
            "query_timeout",
        ),
        // One step, in which nobody looks at the clock.
        (
            "SELECT length(replace(hex(zeroblob(8000000)), '0', hex(zeroblob(1))))",
            "query_timeout query_too_large",
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT count(*) FROM (SELECT DISTINCT i || zeroblob(1000000) FROM n)",
            "query_too_large",
        ),
        ("SELECT hex(zeroblob(300000))", "query_too_large"),
        ("SELECT zeroblob(100000000)", "query_too_large"),
    ] {
        let mut input = asking(sql);
        input["timeout_seconds"] = if sql.contains("DISTINCT") { 30 } else { 2 }.into();
        let refused = server.try_call("resource_query", input).await;
        let found = refused
            .as_ref()
            .map_or_else(baton::error::Error::code, |_| "ok");
        assert!(code.contains(found), "{sql}: {refused:?}");
    }
    // A change that is broken off was never made.
    let mut endless = changing(
        "INSERT INTO people (name) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    );
    endless["timeout_seconds"] = 1.into();
    assert_eq!(
        server.code("resource_query", endless).await,
        "query_timeout"
    );
    let count = server
        .call("resource_query", asking("SELECT count(*) FROM people"))
        .await;
    assert_eq!(count["rows"], json!([[2]]));
    // More rows are changed than are shown.
    let mut all = changing(
        "INSERT INTO orders (what) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50) SELECT i FROM n RETURNING number",
    );
    all["limit"] = 3.into();
    let done = server.call("resource_query", all).await;
    assert_eq!(
        (
            done["rows"].as_array().unwrap().len(),
            &done["has_more"],
            &done["changed"]
        ),
        (3, &json!(true), &json!(50))
    );
}

#[tokio::test]
async fn a_database_counts_against_what_a_tenant_may_store() {
    let server = with_shop().await;
    let limits = json!({"tenant_id": "default", "storage_limits": {"max_storage_bytes": 65_536}});
    server.call("tenant_configure", limits).await;
    baton::tenants::tick(&server.app.system).await.unwrap();
    let large = "INSERT INTO people (name, photo) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) SELECT i, randomblob(1000) FROM n";
    assert_eq!(
        server.code("resource_query", changing(large)).await,
        "quota_exceeded"
    );
    let file = server.home().path().join("files/default/data/shop.db");
    assert!(fs::metadata(file).unwrap().len() <= 65_536);
    server
        .call("resource_query", changing("DELETE FROM people"))
        .await;
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    let server = with_shop().await;
    let who = |roles: &[Role]| {
        Arc::new(Principal {
            name: format!("key:{roles:?}").into(),
            tenants: Tenants::All,
            grant: Grant {
                roles: roles.to_vec(),
                ..Grant::default()
            },
            expires_at: None,
            shown: Shown([0; 32]),
        })
    };
    let mut mine = shop();
    mine["access_permissions"] = json!([
        "executor:read",
        "executor:write",
        "observer:read",
        "observer:write",
        "orchestrator:read"
    ]);
    server.call("resource_register", mine).await;
    for (roles, reads, writes) in [
        (&[Role::Executor][..], "ok", "ok"),
        // The rule is there, but not the role that may change anything.
        (&[Role::Observer], "ok", "forbidden"),
        // The role, but not the rule.
        (&[Role::Orchestrator], "ok", "forbidden"),
        (&[Role::Admin], "forbidden", "forbidden"),
    ] {
        let code = async |input: Value| {
            let ctx = server.ctx("default").of(Some(&who(roles)));
            let input = input.as_object().unwrap().clone();
            let done = server.app.catalog.call(ctx, "resource_query", input).await;
            done.err().map_or("ok", |error| error.code())
        };
        assert_eq!(
            code(asking("SELECT * FROM people")).await,
            reads,
            "{roles:?}"
        );
        assert_eq!(
            code(changing("UPDATE people SET age = 1")).await,
            writes,
            "{roles:?}"
        );
        assert_ne!(
            code(asking("UPDATE people SET age = 1")).await,
            "ok",
            "{roles:?}"
        );
    }
    let stranger = json!({"resource_id": "shop", "sql": "SELECT 1", "agent_id": "eve"});
    assert_eq!(
        server.code("resource_query", stranger).await,
        "unknown_resource"
    );
    let folder =
        json!({"resource_id": "notes", "type": "file_storage", "uri": "file://tenant/notes"});
    server.call("resource_register", folder).await;
    let folder = json!({"resource_id": "notes", "sql": "SELECT 1"});
    assert_eq!(server.code("resource_query", folder).await, "invalid_input");
}

#[tokio::test]
async fn a_change_is_noted_before_it_happens() {
    let server = with_shop().await;
    let notes = async || {
        tokio::task::yield_now().await;
        let count = server.app.system.store().survey(|tx| {
            let mut rows = tx.query("SELECT count(*) FROM resource_writes", &[])?;
            rows[0].get::<i64>(0)
        });
        count.await.unwrap()
    };
    let slow = "INSERT INTO orders (number) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
        SELECT max(i) FROM n";
    let mut answer = pin!(server.call("resource_query", changing(slow)));
    let mut seen = 0;
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            count = notes() => seen = seen.max(count),
        }
    };
    assert_eq!((seen, notes().await), (1, 0), "{answer}");
}

#[tokio::test]
async fn databases_of_two_tenants_are_two() {
    let server = with_shop().await;
    let theirs = server
        .try_call_as("globex", "resource_query", asking("SELECT 1"))
        .await;
    assert_eq!(theirs.unwrap_err().code(), "unknown_resource");
    server.call_as("globex", "resource_register", shop()).await;
    let theirs = server
        .try_call_as("globex", "resource_query", asking("SELECT * FROM people"))
        .await;
    assert_eq!(theirs.unwrap_err().code(), "unknown_file");
    server
        .call_as(
            "globex",
            "resource_query",
            changing("CREATE TABLE people (name)"),
        )
        .await;
    let theirs = server
        .call_as("globex", "resource_query", asking("SELECT * FROM people"))
        .await;
    assert_eq!(theirs["rows"], json!([]));
}

#[tokio::test]
async fn clients_of_rest_ask_databases_too() {
    let server = HttpServer::start().await;
    server.post("/resources/register", &shop()).await;
    let path = "/api/v1/resources/shop/query";
    let made = json!({"sql": "CREATE TABLE a (b)", "write": true});
    assert_eq!(server.post(path, &made).await.status, 200);
    let asked = server
        .post(
            path,
            &json!({"sql": "SELECT $1 + 1 AS sum", "parameters": [41]}),
        )
        .await;
    assert_eq!(asked.body["rows"], json!([[42]]), "{}", asked.text);
    server
        .post(path, &json!({"sql": "DROP TABLE a"}))
        .await
        .is_problem(400, "query_refused");
    server
        .post(path, &json!({"sql": "SELECT b FROM c"}))
        .await
        .is_problem(400, "query_failed");
    let slow = json!({"sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n", "timeout_seconds": 1});
    server
        .post(path, &slow)
        .await
        .is_problem(429, "query_timeout");
}
