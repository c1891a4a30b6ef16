//! PostgreSQL databases of tenants, when the tests have a server: asked, described, held to their bounds, and left as they were.

use std::time::Duration;

use baton::reach::Reach;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::home::Home;

/// Statements that neither read nor change what is in the database, or reach out of it.
const ALWAYS: [&str; 40] = [
    "SELECT 1; SELECT 2",
    "COMMIT; DROP TABLE people",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET statement_timeout = 0",
    "RESET ALL",
    "DISCARD ALL",
    "DO $$ BEGIN DELETE FROM people; END $$",
    "CALL something()",
    "PREPARE a AS SELECT 1",
    "EXECUTE a",
    "DECLARE a CURSOR FOR SELECT 1",
    "COPY people TO '/tmp/people'",
    "COPY people TO PROGRAM 'cat > /tmp/people'",
    "COPY people FROM PROGRAM 'id'",
    "COPY people TO STDOUT",
    "COPY people FROM STDIN",
    "LISTEN a",
    "NOTIFY a",
    "LOCK TABLE people",
    "VACUUM",
    "ANALYZE",
    "CHECKPOINT",
    "LOAD 'evil'",
    "CREATE EXTENSION dblink",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER SYSTEM SET fsync = off",
    "ALTER ROLE current_user SUPERUSER",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT \"pg_read_file\"('/etc/passwd')",
    "SELECT pg_catalog.lo_export(1, '/tmp/a')",
    "SELECT pg_advisory_lock(1)",
    "SELECT query_to_xml('DELETE FROM people', true, true, '')",
    "SELECT * FROM dblink('host=/tmp', 'SELECT 1') AS a(b int)",
    "SELECT E'\\', pg_read_file('/etc/passwd') --'",
];
/// Statements that change what is in the database.
const CHANGES: [&str; 14] = [
    "INSERT INTO people (name) VALUES ('Mallory')",
    "UPDATE people SET name = 'Mallory'",
    "DELETE FROM people",
    "TRUNCATE people",
    "WITH a AS (DELETE FROM people RETURNING name) SELECT * FROM a",
    "SELECT * FROM people FOR UPDATE",
    "SELECT * INTO copy FROM people",
    "SELECT nextval('people_id_seq')",
    "SELECT forget()",
    "EXPLAIN ANALYZE DELETE FROM people",
    "CREATE TABLE a (b int)",
    "ALTER TABLE people ADD COLUMN a int",
    "DROP TABLE people",
    "CREATE INDEX ON people (name)",
];

/// A server, a database of a tenant's, and how he registers it; nothing where the tests have no PostgreSQL.
fn with_database() -> Option<(Server, Home, Value)> {
    Home::server()?;
    let home = Home::new();
    let uri = home.database()?;
    let (scheme, rest) = uri.split_once("://")?;
    let (who, place) = rest.split_once('@')?;
    let user = who.split(':').next()?;
    let password = "not-needed";
    let reach = Reach::new(vec![
        "127.0.0.0/8".parse().unwrap(),
        "localhost".parse().unwrap(),
    ]);
    let registration = json!({"resource_id": "shop", "type": "database", "uri": format!("{scheme}://{user}:{password}@{place}?sslmode=disable"),
        "access_permissions": ["read", "write"], "metadata": {"connection_pool_size": 2}});
    Some((Server::within(reach), home, registration))
}

async fn with_shop() -> Option<(Server, Home, Value)> {
    let (server, home, registration) = with_database()?;
    server.call("resource_register", registration.clone()).await;
    for sql in [
        "CREATE TABLE people (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, age numeric(5, 1))",
        "CREATE TABLE orders (number int PRIMARY KEY, buyer bigint REFERENCES people (id), what text DEFAULT 'tea')",
        "CREATE VIEW names AS SELECT name FROM people",
        "INSERT INTO people (name, age) VALUES ('Ada', 36.5), ('Eve', NULL)",
    ] {
        change(&server, sql).await;
    }
    home.execute("CREATE FUNCTION forget() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM people; RETURN 1; END'");
    Some((server, home, registration))
}

async fn change(server: &Server, sql: &str) -> Value {
    server
        .call(
            "resource_query",
            json!({"resource_id": "shop", "sql": sql, "write": true}),
        )
        .await
}

fn asking(sql: &str) -> Value {
    json!({"resource_id": "shop", "sql": sql})
}

async fn rows(server: &Server, sql: &str) -> Value {
    server.call("resource_query", asking(sql)).await["rows"].take()
}

#[tokio::test]
async fn a_database_of_postgresql_is_asked_changed_and_described() {
    let Some((server, _home, _)) = with_shop().await else {
        return;
    };
    let insert = json!({"resource_id": "shop", "sql": "INSERT INTO people (name, age) VALUES ($1, $2) RETURNING id", "parameters": ["Bob'; --", 7.25], "write": true});
    let done = server.call("resource_query", insert).await;
    assert_eq!(
        (&done["rows"], &done["changed"]),
        (&json!([[3]]), &json!(1))
    );
    let found = server
        .call(
            "resource_query",
            asking("SELECT name, age FROM people ORDER BY id"),
        )
        .await;
    assert_eq!(
        found["columns"],
        json!([{"name": "name", "type": "text"}, {"name": "age", "type": "numeric"}])
    );
    assert_eq!(
        found["rows"],
        json!([["Ada", "36.5"], ["Eve", null], ["Bob'; --", "7.3"]])
    );
    let read = server
        .call(
            "resource_read",
            json!({"resource_id": "shop", "path": "orders"}),
        )
        .await;
    let read: Value = serde_json::from_str(read["text"].as_str().unwrap()).unwrap();
    assert_eq!(
        read["tables"],
        json!([{"name": "orders", "type": "table",
        "columns": [{"name": "number", "type": "integer", "nullable": false},
            {"name": "buyer", "type": "bigint", "nullable": true},
            {"name": "what", "type": "text", "nullable": true, "default": "'tea'::text"}],
        "keys": ["PRIMARY KEY (number)", "FOREIGN KEY (buyer) REFERENCES people(id)"]}])
    );
    let read = server
        .app
        .catalog
        .read(&server.ctx("default"), "baton://resources/shop")
        .await
        .unwrap();
    assert!(format!("{read:?}").contains("names"));
    assert_eq!(
        server.app.system.queries().idle(),
        1,
        "one connection did it all"
    );
}

#[tokio::test]
async fn values_go_both_ways_as_what_they_are() {
    let Some((server, home, _)) = with_shop().await else {
        return;
    };
    home.execute("CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN small AS int CHECK (VALUE < 10)");
    for (cast, given, found) in [
        ("bool", json!(true), json!(true)),
        ("int2", json!(-7), json!(-7)),
        ("int4", json!("42"), json!(42)),
        (
            "int8",
            json!(9_007_199_254_740_993_i64),
            json!("9007199254740993"),
        ),
        ("float4", json!(0.1), json!(0.1)),
        ("float8", json!(-1.5e300), json!(-1.5e300)),
        ("float8", json!("NaN"), json!("NaN")),
        (
            "numeric",
            json!("-12345678901234567890.000100"),
            json!("-12345678901234567890.000100"),
        ),
        ("numeric", json!(0.00012), json!("0.00012")),
        ("numeric", json!(100_000), json!("100000")),
        ("text", json!("Grüße"), json!("Grüße")),
        ("varchar(3)", json!("abcdef"), json!("abc")),
        (
            "bytea",
            json!({"base64": "AAEC/w=="}),
            json!({"base64": "AAEC/w=="}),
        ),
        ("json", json!({"a": [1, null]}), json!({"a": [1, null]})),
        ("jsonb", json!("text"), json!("text")),
        (
            "uuid",
            json!("0B7E9D4A-51E4-4C0A-9F0E-6A3F1C2B4D5E"),
            json!("0b7e9d4a-51e4-4c0a-9f0e-6a3f1c2b4d5e"),
        ),
        (
            "timestamptz",
            json!("2026-11-21T10:00:00.25+02:00"),
            json!("2026-11-21T08:00:00.25Z"),
        ),
        (
            "timestamp",
            json!("1999-12-31 23:59:59"),
            json!("1999-12-31T23:59:59"),
        ),
        ("timestamptz", json!("infinity"), json!("infinity")),
        ("date", json!("1582-10-15"), json!("1582-10-15")),
        ("time", json!("24:00"), json!("24:00:00")),
        (
            "interval",
            json!("1 year 2 months 3 days -04:05:06.7"),
            json!("P1Y2M3DT-4H-5M-6.7S"),
        ),
        ("inet", json!("10.1.2.3"), json!("10.1.2.3")),
        ("cidr", json!("fd00::/8"), json!("fd00::/8")),
        (
            "int4[]",
            json!([[1, 2], [3, null]]),
            json!([[1, 2], [3, null]]),
        ),
        (
            "text[]",
            json!(["a \"b\"", "c\\d", "NULL", "{}"]),
            json!(["a \"b\"", "c\\d", "NULL", "{}"]),
        ),
        ("mood", json!("glad"), json!("glad")),
        ("small", json!(9), json!(9)),
        ("pair", json!("(1,\"x y\")"), json!({"a": 1, "b": "x y"})),
        ("point::text", json!("(1,2)"), json!("(1,2)")),
        ("int4", json!(null), json!(null)),
    ] {
        let mut input = asking(&format!("SELECT $1::{cast}"));
        input["parameters"] = json!([given]);
        let answer = server.call("resource_query", input).await;
        assert_eq!(answer["rows"], json!([[found]]), "{cast} {given}");
    }
}

#[tokio::test]
async fn values_that_can_be_neither_sent_nor_shown_are_told() {
    let Some((server, home, _)) = with_shop().await else {
        return;
    };
    home.execute("CREATE DOMAIN small AS int CHECK (VALUE < 10)");
    for (cast, given, why) in [
        ("int4", json!("many"), "22P02"),
        ("small", json!(10), "23514"),
        ("bytea", json!("AAEC"), "base64"),
        ("point", json!("(1,2)"), "cast it to text"),
    ] {
        let mut input = asking(&format!("SELECT $1::{cast}"));
        input["parameters"] = json!([given]);
        let refused = server.try_call("resource_query", input).await.unwrap_err();
        assert_eq!(refused.code(), "query_failed");
        assert!(refused.message().contains(why), "{cast}: {refused}");
    }
    let mut input = asking("SELECT $1::int");
    input["parameters"] = json!([1, 2]);
    assert_eq!(server.code("resource_query", input).await, "invalid_input");
}

#[tokio::test]
async fn no_statement_does_more_than_it_may_to_postgresql() {
    let Some((server, _home, _)) = with_shop().await else {
        return;
    };
    for sql in ALWAYS {
        for write in [false, true] {
            let input = json!({"resource_id": "shop", "sql": sql, "write": write});
            let refused = server.try_call("resource_query", input).await;
            let code = refused.as_ref().err().map(baton::error::Error::code);
            assert!(matches!(code, Some("query_refused")), "{sql}: {refused:?}");
        }
    }
    for sql in CHANGES {
        assert_eq!(
            server.code("resource_query", asking(sql)).await,
            "query_refused",
            "{sql}"
        );
    }
    assert_eq!(
        rows(&server, "SELECT count(*) FROM people").await,
        json!([[2]])
    );
    assert_eq!(
        rows(&server, "SELECT last_value FROM people_id_seq").await,
        json!([[2]])
    );
}

#[tokio::test]
async fn a_query_of_postgresql_takes_no_more_than_it_may() {
    let Some((server, _home, _)) = with_shop().await else {
        return;
    };
    let mut many = asking("SELECT i, repeat('x', 1000) FROM generate_series(1, 1000000) i");
    many["limit"] = 3.into();
    let found = server.call("resource_query", many.clone()).await;
    assert_eq!(
        (found["rows"].as_array().unwrap().len(), &found["has_more"]),
        (3, &json!(true))
    );
    many["limit"] = 5000.into();
    let found = server.call("resource_query", many).await;
    let rows_found = found["rows"].as_array().unwrap().len();
    assert!(
        (400..600).contains(&rows_found) && found["has_more"] == true,
        "{rows_found} rows"
    );
    for (sql, code) in [
        ("SELECT pg_sleep(20)", "query_timeout"),
        (
            "SELECT count(*) FROM generate_series(1, 100000000000) a",
            "query_timeout",
        ),
        ("SELECT repeat('x', 600000)", "query_too_large"),
        ("SELECT repeat('x', 200000000)", "query_too_large"),
    ] {
        let mut input = asking(sql);
        input["timeout_seconds"] = if code == "query_timeout" { 1 } else { 30 }.into();
        assert_eq!(server.code("resource_query", input).await, code, "{sql}");
    }
    // What was broken off has left nothing behind, and the next query finds its way.
    assert_eq!(
        rows(
            &server,
            "SELECT current_setting('statement_timeout'), current_setting('transaction_read_only')"
        )
        .await,
        json!([["10s", "on"]])
    );
    let refused = server
        .try_call("resource_query", asking("SELECT * FROM secrets_of_nobody"))
        .await
        .unwrap_err();
    assert!(refused.message().contains("42P01"), "{refused}");
}

#[tokio::test]
async fn connections_are_few_and_go_when_nobody_needs_them() {
    let Some((server, home, registration)) = with_shop().await else {
        return;
    };
    let queries = server.app.system.queries();
    let here = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'";
    let slow = || server.call("resource_query", asking("SELECT 1 FROM pg_sleep(0.05)"));
    join_all((0..6).map(|_| slow())).await;
    assert_eq!(queries.idle(), 2, "as many as its registration says");
    assert_eq!(rows(&server, here).await, json!([[2]]));
    // Another registration leads elsewhere, or to the same with other connections.
    let mut other = registration.clone();
    other["metadata"]["connection_pool_size"] = 1.into();
    server.call("resource_register", other).await;
    assert_eq!(queries.idle(), 0);
    join_all((0..4).map(|_| slow())).await;
    assert_eq!(queries.idle(), 1);
    // Nobody needs them.
    server.clock.advance(Duration::from_secs(61));
    queries.sweep(|_| true);
    assert_eq!(queries.idle(), 0);
    slow().await;
    queries.sweep(|_| false);
    assert_eq!(queries.idle(), 0, "its tenant is on his way out");
    slow().await;
    server
        .call("resource_delete", json!({"resource_id": "shop"}))
        .await;
    assert_eq!(queries.idle(), 0);
    assert_eq!(
        server.code("resource_query", asking("SELECT 1")).await,
        "unknown_resource"
    );
    // A database that goes takes its connections with it, and is told of as it is.
    server.call("resource_register", registration).await;
    slow().await;
    home.ruin();
    let refused = server
        .try_call("resource_query", asking("SELECT 1"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "database_unusable", "{refused}");
}

/// Ends the connections to the database that do `what`, as its administrator would, once one of them does.
async fn end(home: Home, what: &str) -> Home {
    let ended = format!(
        "DO $$ DECLARE ended int := 0; BEGIN
           WHILE ended = 0 LOOP
             PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
             SELECT count(*) INTO ended FROM pg_stat_activity, pg_terminate_backend(pid, 5000)
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND {what};
           END LOOP;
         END $$"
    );
    let ending = tokio::task::spawn_blocking(move || {
        home.execute(&ended);
        home
    });
    ending.await.unwrap()
}

#[tokio::test]
async fn a_connection_that_its_database_ends_is_told_of_as_what_it_is() {
    let Some((server, home, _)) = with_shop().await else {
        return;
    };
    // A query that was being answered.
    let (code, home) = tokio::join!(
        server.code("resource_query", asking("SELECT pg_sleep(20)")),
        end(home, "state = 'active' AND query LIKE '%sleep(20)%'")
    );
    assert_eq!(code, "database_unusable");
    // A change that was being kept: nobody knows.
    home.execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON people DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slowly()",
    );
    let insert = json!({"resource_id": "shop", "sql": "INSERT INTO people (name) VALUES ('Bob')", "write": true});
    let (code, _home) = tokio::join!(
        server.code("resource_query", insert),
        end(home, "state = 'active' AND query = 'COMMIT'")
    );
    assert_eq!(code, "outcome_unknown");
    assert_eq!(
        rows(&server, "SELECT name FROM people ORDER BY name").await,
        json!([["Ada"], ["Eve"]])
    );
}
