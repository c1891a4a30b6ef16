//! A tenant that is deleted: everything that bears its name goes, whatever table it is in, nothing of anybody else's, also
//! when the server is stopped on the way; what goes on of it ends, and its name is free again.

use std::time::Duration;

use baton::events;
use baton::store::Value as Column;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::access::{guarded, key_of, operators_key};
use crate::asking::{round, said};
use crate::support::Server;
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{Events, in_time, modern, tool, until};

/// The tables of the migrations with their columns, each a name and a type, as far as a row needs them.
fn tables() -> Vec<(String, Vec<(String, String)>)> {
    let mut files: Vec<_> = std::fs::read_dir("migrations").unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().path());
    let texts = files
        .into_iter()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let text: String = texts.collect();
    let tables = text.split("CREATE TABLE ").skip(1).map(|statement| {
        let (name, rest) = statement.split_once(" (").unwrap();
        let columns = rest.split_once("\n);").unwrap().0;
        let columns = columns
            .lines()
            .map(str::split_whitespace)
            .filter_map(|mut words| {
                let (name, kind) = (words.next()?, words.next()?);
                (!matches!(name, "PRIMARY" | "--"))
                    .then(|| (name.to_owned(), kind.trim_end_matches(',').to_owned()))
            });
        (name.to_owned(), columns.collect())
    });
    tables.collect()
}

fn is_name(column: &str) -> bool {
    column == "tenant_id" || column.ends_with("_tenant")
}

/// Tables in which something may bear a tenant's name, with the columns that do.
fn bearing() -> Vec<(String, String)> {
    let tables = tables().into_iter().flat_map(|(table, columns)| {
        let names = columns.into_iter().map(|(name, _)| name);
        let names = names.filter(|name| is_name(name));
        names.map(|name| (table.clone(), name)).collect::<Vec<_>>()
    });
    tables.collect()
}

/// Tests know their statements when they run.
fn lasting(sql: String) -> &'static str {
    Box::leak(sql.into_boxed_str())
}

async fn execute(server: &Server, sql: String) {
    let sql = lasting(sql);
    let done = server.app.system.command(move |tx| tx.execute(sql, &[]));
    done.await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// How many rows of each table bear the name of `tenant`.
async fn rows(server: &Server, tenant: &str) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    for (table, column) in bearing() {
        let sql = lasting(format!("SELECT count(*) FROM {table} WHERE {column} = $1"));
        let name = Column::from(tenant);
        let count = server.app.system.survey(move |tx| {
            let mut rows = tx.query(sql, std::slice::from_ref(&name))?;
            rows[0].get::<i64>(0)
        });
        found.push((format!("{table}.{column}"), count.await.unwrap()));
    }
    found
}

/// Puts a row of `tenant` into every table that has any of tenants; what it says makes no sense.
async fn fill(server: &Server, tenant: &str) {
    for (table, columns) in tables() {
        let bears = columns.iter().any(|(name, _)| is_name(name));
        if !bears || table == "tenants" || table == "events" {
            continue;
        }
        let values = columns.iter().map(|(name, kind)| match kind.as_str() {
            _ if is_name(name) => format!("'{tenant}'"),
            "TEXT" => "'{}'".to_owned(),
            "BYTEA" if server.home().database().is_some() => "'\\x00'".into(),
            "BYTEA" => "x'00'".into(),
            _ => "0".to_owned(),
        });
        let values: Vec<String> = values.collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let (names, values) = (names.join(", "), values.join(", "));
        execute(
            server,
            format!("INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"),
        )
        .await;
    }
}

async fn delete(server: &Server, confirm: bool) -> Result<Value, baton::error::Error> {
    let input = json!({"tenant_id": "acme", "confirm": confirm});
    server.try_call("tenant_delete", input).await
}

/// Lets the worker do what it has to.
async fn settle(server: &Server) {
    while baton::tenants::tick(&server.app.system).await.unwrap() > 0 {}
}

async fn dispatch(server: &Server, tenant: &str, id: &str) {
    let input = json!({"task_id": id, "description": "x"});
    server.call_as(tenant, "task_dispatch", input).await;
}

#[tokio::test]
async fn whatever_bears_a_tenants_name_goes_and_nothing_else() {
    let server = Server::start();
    for tenant in ["acme", "globex"] {
        dispatch(&server, tenant, "t").await;
        let memory = json!({"agent_id": "ada", "content": "Backups run at four."});
        server.call_as(tenant, "memory_write", memory).await;
        fill(&server, tenant).await;
        let own = server.app.system.folders().own.join(tenant);
        std::fs::create_dir_all(own.join("deep")).unwrap();
        std::fs::write(own.join("deep/file"), "seven b").unwrap();
    }
    let files = |tenant: &str| server.app.system.folders().own.join(tenant).exists();
    let stats = json!({"tenant_id": "acme"});
    let stats = server.call("tenant_stats", stats).await;
    assert_eq!(stats["quotas"][4]["limit"], "max_storage_bytes");
    assert_eq!(stats["quotas"][4]["used"], 7);
    // A session that another tenant's address began, and that serves this one.
    execute(
        &server,
        "UPDATE sessions SET serves_tenant = 'acme' WHERE tenant_id = 'globex'".into(),
    )
    .await;
    let others = rows(&server, "globex").await;
    let before = rows(&server, "acme").await;
    assert!(before.iter().all(|(_, count)| *count > 0), "{before:?}");
    let refused = delete(&server, false).await.unwrap_err();
    assert_eq!(refused.code(), "confirmation_needed");
    let message = refused.message();
    assert!(
        message.contains("2 tasks, 1 entries of memory and 1 keys"),
        "{message}"
    );
    let begun = delete(&server, true).await.unwrap();
    assert_eq!(begun["state"], "deleting");
    // Nothing is taken for it from here on, and whoever asks again is told where it stands.
    let input = json!({"task_id": "t"});
    let refused = server.try_call_as("acme", "task_get", input).await;
    assert_eq!(refused.unwrap_err().code(), "tenant_deleting");
    assert_eq!(delete(&server, false).await.unwrap()["state"], "deleting");
    let listed = server.call("tenant_list", json!({})).await;
    assert_eq!(listed["tenants"][0]["deleting"], true, "{listed}");
    settle(&server).await;
    let seen = server
        .call("tenant_get", json!({"tenant_id": "acme"}))
        .await;
    assert_eq!(
        seen["deletion"]["state"], "deleting",
        "others may not have looked yet"
    );
    server.clock.advance(Duration::from_secs(3));
    settle(&server).await;
    assert!(!files("acme") && files("globex"));
    let mut left = rows(&server, "acme").await;
    left.retain(|(_, count)| *count > 0);
    // Whose yes was acted on is remembered for as long as the yes is good, and then this goes too.
    assert_eq!(left, [("request_rounds.tenant_id".to_owned(), 1)]);
    server.clock.advance(Duration::from_hours(2));
    settle(&server).await;
    let left = rows(&server, "acme").await;
    assert!(left.iter().all(|(_, count)| *count == 0), "{left:?}");
    let mut expected = others;
    for (column, count) in &mut expected {
        // The session that served the other tenant.
        *count -= i64::from(column == "sessions.tenant_id");
        *count *= i64::from(column != "sessions.serves_tenant");
    }
    assert_eq!(rows(&server, "globex").await, expected);
}

#[tokio::test]
async fn what_is_gone_is_seen_by_its_operator_and_its_name_is_free() {
    let server = Server::start();
    let unknown = delete(&server, true).await.unwrap_err();
    assert_eq!(unknown.code(), "unknown_tenant");
    let limits = json!({"tenant_id": "acme", "rate_limits": {"max_handles_per_tenant": 1}, "tool_limits": {"max_tools": 1}});
    server.call("tenant_configure", limits).await;
    for number in 0..5 {
        dispatch(&server, "acme", &format!("t{number}")).await;
    }
    let remember = async |content: &str| {
        let memory = json!({"agent_id": "ada", "content": content, "scope": "shared"});
        server.call_as("acme", "memory_write", memory).await;
    };
    remember("Backups run at four.").await;
    let search = async || {
        let input = json!({"query": "backups"});
        let found = server.call_as("acme", "memory_search", input).await;
        found["hits"].as_array().unwrap().len()
    };
    assert_eq!(search().await, 1);
    delete(&server, true).await.unwrap();
    server.clock.advance(Duration::from_secs(3));
    settle(&server).await;
    baton::limits::tick(&server.app.system).await.unwrap();
    let listed = server.call("tenant_list", json!({})).await;
    assert_eq!(listed["tenants"], json!([]), "{listed}");
    let gone = server.call("tenant_list", json!({"deleted": true})).await;
    let gone = &gone["tenants"][0];
    assert_eq!(gone["deletion"]["state"], "deleted", "{gone}");
    assert_eq!(gone["deletion"]["requested_by"], "test");
    assert!(gone["deletion"]["rows"].as_u64().unwrap() > 10, "{gone}");
    // Asking again has no question, and changes nothing.
    assert_eq!(delete(&server, false).await.unwrap()["state"], "deleted");
    // The name is free: a tenant that begins now has nothing of the one before, and a log of its own.
    assert_eq!(search().await, 0);
    let seen = server
        .call("tenant_get", json!({"tenant_id": "acme"}))
        .await;
    assert_eq!(seen["tool_limits"]["max_tools"], 1_000);
    assert_eq!(seen["rate_limits"], json!({}));
    remember("Backups run at five now.").await;
    assert_eq!(search().await, 1, "the index began anew with the log");
    let ctx = server.ctx("acme");
    let log = ctx.read(|_, tx| events::after(tx, 0, 10)).await.unwrap();
    let told: Vec<_> = log
        .iter()
        .map(|event| (event.sequence, event.kind.as_str()))
        .collect();
    assert_eq!(told, [(1, "dev.baton.memory.written")]);
    let chain = ctx.read(|_, tx| events::verify(tx, 0, &[], 10)).await;
    assert_eq!(chain.unwrap().0, 1);
    let again = delete(&server, false).await.unwrap_err();
    assert_eq!(again.code(), "confirmation_needed");
}

#[tokio::test]
async fn a_deletion_goes_on_where_another_process_was_stopped() {
    let server = Server::start();
    dispatch(&server, "acme", "t").await;
    // More than one round takes.
    execute(
        &server,
        "INSERT INTO memory_marks (tenant_id, mark, memory_id) WITH RECURSIVE n(i) AS
        (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) SELECT 'acme', i, 'x' FROM n"
            .into(),
    )
    .await;
    delete(&server, true).await.unwrap();
    server.clock.advance(Duration::from_secs(3));
    let round = baton::tenants::tick(&server.app.system).await.unwrap();
    assert_eq!(round, 20_000);
    let server = server.restart().await;
    // What the other process held for itself is free after a while; nothing was taken for the tenant meanwhile.
    server.clock.advance(Duration::from_secs(4));
    let seen = async || {
        let seen = server
            .call("tenant_get", json!({"tenant_id": "acme"}))
            .await;
        seen["deletion"].clone()
    };
    assert_eq!(
        (&seen().await["state"], &seen().await["rows"]),
        (&json!("deleting"), &json!(20_000))
    );
    settle(&server).await;
    assert_eq!(seen().await["state"], "deleted");
    assert!(seen().await["rows"].as_u64().unwrap() > 25_000);
    let left = rows(&server, "acme").await;
    assert!(left.iter().all(|(_, count)| *count == 0), "{left:?}");
}

/// A listener of a tenant, and a call that waits there.
async fn begin(server: &HttpServer, tenant: &str) -> (Events, JoinSet<Answer>) {
    let path = format!("/t/{tenant}/mcp");
    server.dispatch(&path, "t").await;
    let filter = json!({"resourceSubscriptions": ["baton://tasks/t"]});
    let listen = modern("subscriptions/listen", json!({"notifications": filter}));
    let mut listener = Events::of(server.modern(&path, &listen)).await;
    listener.data().await;
    let wait = tool("task_wait", json!({"task_ids": ["t"], "wait_seconds": 50}));
    let mut call = JoinSet::new();
    call.spawn(Answer::of(
        server.modern(&path, &modern("tools/call", wait)),
    ));
    (listener, call)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_of_a_tenant_ends_with_it_on_every_process() {
    let one = HttpServer::start().await;
    let other = HttpServer::builder().beside(&one).start().await;
    let (mut there, mut waits) = begin(&other, "acme").await;
    let (mut others, mut goes_on) = begin(&other, "globex").await;
    other.until_waiting(2).await;
    let sure = json!({"confirm": true});
    let path = "/api/v1/tenants/acme";
    Answer::of(one.request(Method::DELETE, path))
        .await
        .is_problem(409, "confirmation_needed");
    let begun = Answer::of(one.request(Method::DELETE, path).json(&sure)).await;
    assert_eq!(begun.body["state"], "deleting", "{}", begun.text);
    assert_eq!(begun.header("x-tenant-id"), "acme");
    let last = there.data().await;
    assert!(last["result"].is_object(), "{last}");
    assert!(there.next().await.is_none());
    let answer = in_time(waits.join_next()).await.unwrap().unwrap();
    let text = &answer.text;
    assert!(text.contains("tenant_deleting"), "{text}");
    let state = async || {
        let seen = one.get("/tenants/acme").await;
        seen.body["deletion"]["state"].clone()
    };
    until(async || state().await == "deleted").await;
    until(async || other.get("/t/acme/api/v1/tasks").await.status == 200).await;
    // The other tenant's listener and call know nothing of it.
    other.dispatch("/t/globex/mcp", "u").await;
    let cancel = json!({"task_id": "t"});
    other.use_tool("/t/globex/mcp", "task_cancel", cancel).await;
    others.hears_of("baton://tasks/t").await;
    let answer = in_time(goes_on.join_next()).await.unwrap().unwrap();
    // It is a stream by now.
    assert!(answer.text.contains("\"done\":true"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_deletes_one_tenant_once() {
    let server = HttpServer::start().await;
    server.dispatch("/t/acme/mcp", "t").await;
    let ask = || tool("tenant_delete", json!({"tenant_id": "acme"}));
    let send = async |message: Value| Answer::of(server.modern("/mcp", &message)).await.body;
    let asked = send(round(ask(), json!({}))).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let sealed = asked["result"]["requestState"].clone();
    let yes = json!({"requestState": sealed, "inputResponses": said("accept", true)});
    let done = send(round(ask(), yes.clone())).await;
    assert_eq!(
        done["result"]["structuredContent"]["state"], "deleting",
        "{done}"
    );
    let gone = async || {
        let seen = server.get("/tenants/acme").await;
        seen.body["deletion"]["state"] == "deleted"
    };
    until(gone).await;
    // Somebody takes the name; the yes was about another tenant.
    until(async || server.get("/t/acme/api/v1/tasks").await.status == 200).await;
    server.dispatch("/t/acme/mcp", "t").await;
    let again = send(round(ask(), yes)).await;
    let text = again["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("answers_used"), "{again}");
    assert_eq!(server.get("/t/acme/api/v1/tasks/t").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_one_tenant_hears_of_no_other() {
    let server = guarded().await;
    let operator = operators_key(&server).await;
    let admin = key_of(&server, "acme", "admin").await;
    let globex = key_of(&server, "globex", "admin").await;
    server.show(&admin);
    let named = async || {
        let listed = server.get("/tenants").await;
        let listed = listed.body["tenants"].as_array().unwrap().clone();
        let names = listed.into_iter().map(|it| it["tenant_id"].clone());
        Value::Array(names.collect())
    };
    assert_eq!(named().await, json!(["acme"]));
    assert_eq!(server.get("/tenants/acme").await.status, 200);
    for path in ["/tenants/NAME", "/tenants/NAME/stats"] {
        let [there, nowhere] = ["globex", "nobody"].map(|name| path.replace("NAME", name));
        let (there, nowhere) = (server.get(&there).await, server.get(&nowhere).await);
        there.is_problem(400, "tenant_conflict");
        assert_eq!(there.text, nowhere.text);
    }
    let configure = json!({"tenant_id": "acme", "tool_limits": {"max_tools": 9}});
    let refused = server.post("/tenants/configure", &configure).await;
    refused.is_problem(403, "forbidden");
    server.show(&operator);
    assert_eq!(named().await, json!(["acme", "globex"]));
    let page = server.get("/tenants?limit=1").await;
    let cursor = page.body["next_cursor"].as_str().unwrap();
    let next = server
        .get(&format!("/tenants?limit=1&cursor={cursor}"))
        .await;
    assert_eq!(
        next.body["tenants"][0]["tenant_id"], "globex",
        "{}",
        next.text
    );
    assert!(next.body.get("next_cursor").is_none(), "{}", next.text);
    let done = server.post("/tenants/configure", &configure).await;
    assert_eq!(done.body["tool_limits"]["max_tools"], 9, "{}", done.text);
    // Keys of a tenant go with it.
    let sure = json!({"confirm": true});
    let path = "/api/v1/tenants/globex";
    let begun = Answer::of(server.request(Method::DELETE, path).json(&sure)).await;
    assert_eq!(begun.status, 200, "{}", begun.text);
    server.app.system.clock().advance(Duration::from_secs(4));
    let state = async || server.get("/tenants/globex").await.body["deletion"]["state"].clone();
    until(async || state().await == "deleted").await;
    server.show(&globex);
    let stranger = server.get("/api/v1/tasks").await;
    stranger.is_problem(401, "invalid_credential");
}
