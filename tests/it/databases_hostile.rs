//! What statements and files may try against whoever makes them: each is refused, and nothing has changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::databases::{asking, changing, shop, with_shop};
use crate::support::Server;
use crate::support::home::Home;

/// Statements that neither read nor change what is in the file.
const ALWAYS: [&str; 33] = [
    "SELECT 1; DROP TABLE people",
    "SELECT 1; SELECT 2",
    "COMMIT; DELETE FROM people",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "RELEASE a",
    "ATTACH 'other.db' AS other",
    "ATTACH DATABASE '/etc/passwd' AS other",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '/tmp/copy.db'",
    "SELECT load_extension('/tmp/evil.so')",
    "SELECT \"load_extension\"('/tmp/evil.so')",
    "SELECT fts3_tokenizer('simple')",
    "PRAGMA journal_mode = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA hard_heap_limit = 0",
    "PRAGMA temp_store_directory = '/tmp'",
    "PRAGMA database_list",
    "PRAGMA user_version = 7",
    "PRAGMA wal_checkpoint",
    "PRAGMA max_page_count = 1000000",
    "SELECT * FROM pragma_database_list",
    "CREATE TEMP TABLE a (b)",
    "CREATE VIRTUAL TABLE a USING dbstat",
    "REINDEX",
    "ANALYZE",
    "EXPLAIN ATTACH 'other.db' AS other",
    "SELECT writefile('/tmp/a', 'b')",
    "SELECT * FROM readfile('/etc/passwd')",
    ".open other.db",
];
/// Statements that change what is in the file.
const CHANGES: [&str; 12] = [
    "INSERT INTO people (name) VALUES ('Mallory')",
    "UPDATE people SET name = 'Mallory'",
    "DELETE FROM people",
    "REPLACE INTO people (id, name) VALUES (1, 'Mallory')",
    "WITH a AS (SELECT 1) DELETE FROM people",
    "WITH a AS (SELECT 1) INSERT INTO people (name) SELECT * FROM a",
    "DROP TABLE people",
    "CREATE TABLE a (b)",
    "CREATE INDEX a ON people (name)",
    "ALTER TABLE people ADD COLUMN a",
    "CREATE TRIGGER a AFTER INSERT ON people BEGIN SELECT 1; END",
    "EXPLAIN DELETE FROM people",
];

#[tokio::test]
async fn no_statement_does_more_than_it_may() {
    let server = with_shop().await;
    let folder = server.home().path().join("files/default/data");
    let before = fs::read(folder.join("shop.db")).unwrap();
    for sql in ALWAYS {
        for input in [asking(sql), changing(sql)] {
            let refused = server.try_call("resource_query", input).await;
            let code = refused.as_ref().err().map(baton::error::Error::code);
            assert!(
                matches!(code, Some("query_refused" | "query_failed")),
                "{sql}: {refused:?}"
            );
        }
    }
    for sql in CHANGES {
        assert_eq!(
            server.code("resource_query", asking(sql)).await,
            "query_refused",
            "{sql}"
        );
    }
    assert!(
        fs::read(folder.join("shop.db")).unwrap() == before,
        "nothing has changed"
    );
    let names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["shop.db"], "and nothing is new");
    // What the file's own schema says is not trusted either.
    let direct = changing("UPDATE sqlite_schema SET sql = 'CREATE TABLE a (b)'");
    assert_ne!(server.code("resource_query", direct).await, "");
}

#[tokio::test]
async fn what_is_no_database_is_told_so() {
    let server = with_shop().await;
    let folder = server.home().path().join("files/default/data");
    for (bytes, code) in [
        (
            &b"not a database, but long enough to be looked at as if it were one; ".repeat(20)[..],
            "database_unusable",
        ),
        (&[0xff; 4096], "database_unusable"),
    ] {
        fs::write(folder.join("shop.db"), bytes).unwrap();
        assert_eq!(
            server
                .code("resource_query", asking("SELECT * FROM people"))
                .await,
            code
        );
        assert_eq!(
            server
                .code("resource_query", changing("CREATE TABLE a (b)"))
                .await,
            code
        );
    }
    // What SQLite keeps beside a file is not for others to write: a journal may name a file that is to go.
    let notes = json!({"resource_id": "notes", "type": "file_storage", "uri": "file://tenant/data", "access_permissions": ["read", "write"]});
    server.call("resource_register", notes).await;
    for name in ["shop.db-journal", "shop.db-wal", "shop.db-shm"] {
        let write = json!({"resource_id": "notes", "path": name, "text": "x"});
        assert_eq!(
            server.code("resource_write", write).await,
            "invalid_input",
            "{name}"
        );
    }
    let victim = server.home().path().join("victim");
    fs::write(&victim, "x").unwrap();
    fs::remove_file(folder.join("shop.db")).unwrap();
    server
        .call("resource_query", changing("CREATE TABLE a (b)"))
        .await;
    let mut journal = vec![0; 512];
    journal.extend(victim.display().to_string().bytes());
    journal.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(folder.join("shop.db-journal"), journal).unwrap();
    assert_eq!(
        server
            .code("resource_query", changing("INSERT INTO a VALUES (1)"))
            .await,
        "database_unusable"
    );
    assert!(victim.exists());
}

#[tokio::test]
async fn no_link_and_no_path_leads_out() {
    let server = with_shop().await;
    let home = server.home().path();
    let folder = home.join("files/default/data");
    symlink(folder.join("shop.db"), folder.join("link.db")).unwrap();
    symlink(home, folder.join("up")).unwrap();
    fs::write(
        home.join("baton.db.copy"),
        fs::read(folder.join("shop.db")).unwrap(),
    )
    .unwrap();
    fs::create_dir(folder.join("folder.db")).unwrap();
    for (uri, code) in [
        ("file://tenant/data/link.db", "unknown_file"),
        ("file://tenant/data/folder.db", "unknown_file"),
        ("file://tenant/data/up/baton.db", "invalid_input"),
        ("file://tenant/data/up/baton.db.copy", "invalid_input"),
        ("file://tenant/", "invalid_input"),
        ("file://tenant/../default/data/shop.db", "invalid_input"),
        ("file://tenant/data/shop.db%00", "invalid_input"),
        ("file:///etc/passwd", "invalid_input"),
        ("file://otherhost/data/shop.db", "invalid_input"),
        ("file:shop.db?mode=rwc", "invalid_input"),
        ("sqlite:///etc/passwd", "invalid_input"),
        (":memory:", "invalid_input"),
    ] {
        let mut database = shop();
        database["uri"] = uri.into();
        let found = match server.try_call("resource_register", database).await {
            Ok(_) => {
                server
                    .try_call("resource_query", asking("SELECT * FROM people"))
                    .await
            }
            refused => refused,
        };
        assert_eq!(found.expect_err(uri).code(), code, "{uri}");
        let write = server
            .try_call("resource_query", changing("CREATE TABLE mine (a)"))
            .await;
        assert!(write.is_err() || uri.contains("shop.db"), "{uri}");
    }
}

#[tokio::test]
async fn databases_lie_where_the_operator_opened_and_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("open/docs")).unwrap();
    fs::create_dir_all(root.join("closed")).unwrap();
    symlink(root.join("closed"), root.join("open/way")).unwrap();
    let home = Arc::new(Home::new());
    let data = home.path().canonicalize().unwrap();
    let mut config = crate::support::config(&home);
    config.limits.folders.opened = vec![root.join("open"), data.clone()];
    let server = Server::with(home, config);
    let at = |path: &str| -> Value {
        let mut database = shop();
        database["uri"] = format!("file://{path}").into();
        database
    };
    let within = |path: &str| at(&root.join(path).display().to_string());
    for path in [
        "closed/shop.db",
        "open/way/shop.db",
        "open",
        "open/../closed/shop.db",
    ] {
        let refused = server.code("resource_register", within(path)).await;
        assert_eq!(refused, "invalid_input", "{path}");
    }
    // Baton's own data is in no resource, whatever is opened.
    let own = at(&data.join("baton.db").display().to_string());
    assert_eq!(server.code("resource_register", own).await, "invalid_input");
    server
        .call("resource_register", within("open/docs/shop.db"))
        .await;
    server
        .call("resource_query", changing("CREATE TABLE a (b)"))
        .await;
    assert!(root.join("open/docs/shop.db").exists());
    // What was a folder when it was registered is looked at again whenever it is asked.
    fs::copy(root.join("open/docs/shop.db"), root.join("closed/shop.db")).unwrap();
    fs::rename(root.join("open/docs"), root.join("moved")).unwrap();
    symlink(root.join("closed"), root.join("open/docs")).unwrap();
    let refused = server
        .code("resource_query", asking("SELECT * FROM a"))
        .await;
    assert_eq!(refused, "unknown_file");
}
