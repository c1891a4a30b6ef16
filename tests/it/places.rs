//! Where the data lies: moved from one place to another, brought up from an older version, walled off by tenant.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use baton::app::App;
use baton::clock::Clock;
use baton::random::Random;
use baton::store::{self, Hub, Store};
use baton::tasks::reap;
use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::{START, Server, config};

/// A server on `home` where two tenants have work in several states.
async fn busy(home: &Arc<Home>) -> Server {
    let server = Server::on(home.clone(), Clock::manual(START));
    for tenant in ["acme", "globex"] {
        for number in 0..5 {
            let task = json!({"task_id": format!("t{number}"), "description": format!("für {tenant}"),
                "depends_on": if number == 4 { vec!["t3"] } else { vec![] }});
            server.call_as(tenant, "task_dispatch", task).await;
        }
        let claim = json!({"agent_id": "ada", "max_tasks": 2});
        let claimed = server.call_as(tenant, "task_claim", claim).await;
        let end = json!({"task_id": "t0", "agent_id": "ada", "lease_token": claimed["tasks"][0]["lease"]["token"],
            "reason": "success", "result": {"n": 1.5}});
        server.call_as(tenant, "task_end", end).await;
    }
    server
}

/// Everything that a caller can see.
async fn seen(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for tenant in ["acme", "globex"] {
        for number in 0..5 {
            let get = json!({"task_id": format!("t{number}")});
            all.push(server.call_as(tenant, "task_get", get).await);
        }
        let events = server
            .ctx(tenant)
            .read(|_, tx| baton::events::verify(tx, 0, &[], 1_000))
            .await
            .expect("numbered and chained");
        all.push(json!([events.0, events.1]));
    }
    all
}

fn moved(from: &Home, to: &Home) -> baton::error::Result<u64> {
    let (from, to) = (from.place(), to.place());
    // A database that is asked drives its own connection, which a thread of the test's runtime must not.
    let transfer = move || store::transfer(&from, &to, &mut |_| {});
    std::thread::spawn(transfer).join().expect("no panic")
}

#[tokio::test]
async fn a_store_moves_there_and_back_and_goes_on_where_it_was() {
    let (one, other, back) = (
        Arc::new(Home::folder()),
        Arc::new(Home::new()),
        Arc::new(Home::folder()),
    );
    let server = busy(&one).await;
    let before = seen(&server).await;
    server.app.stop().await;
    let rows = moved(&one, &other).expect("moves");
    assert_eq!(moved(&other, &back).expect("moves back"), rows);
    for home in [other, back.clone()] {
        let later = START + Duration::from_secs(1);
        let server = Server::on(home.clone(), Clock::manual(later));
        assert_eq!(seen(&server).await, before);
        let next = json!({"description": "x"});
        server.call_as("acme", "task_dispatch", next).await;
        let claimed = server
            .call_as("globex", "task_claim", json!({"agent_id": "bob"}))
            .await;
        assert_eq!(claimed["tasks"][0]["task_id"], "t2");
        server.app.stop().await;
        // What has data already is no place to move to.
        let error = moved(&one, &home).unwrap_err();
        assert_eq!(error.code(), "store_not_empty");
    }
}

#[tokio::test]
async fn a_move_that_was_interrupted_serves_nobody_and_goes_on() {
    let (one, other) = (Arc::new(Home::new()), Arc::new(Home::new()));
    let server = busy(&one).await;
    let before = seen(&server).await;
    server.app.stop().await;
    let (from, to) = (one.place(), other.place());
    let interrupted = move || {
        let mut tables = 0;
        let mut tell = |_: &str| {
            tables += 1;
            assert!(tables < 2, "the machine is switched off");
        };
        catch_unwind(AssertUnwindSafe(|| store::transfer(&from, &to, &mut tell))).is_err()
    };
    assert!(std::thread::spawn(interrupted).join().unwrap());
    let error = Store::open(&other.place(), Hub::default(), &Clock::system())
        .err()
        .expect("refused");
    assert_eq!(error.code(), "store_moving");
    moved(&one, &other).expect("goes on");
    let server = Server::on(other, Clock::manual(START));
    assert_eq!(seen(&server).await, before);
}

/// Makes a database of today one of the first version.
fn undo() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut undo = String::new();
    for entry in std::fs::read_dir(folder).expect("the migrations") {
        let path = entry.expect("an entry").path();
        if path.ends_with("0001_tasks.sql") {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("a migration");
        let tables = text
            .lines()
            .filter_map(|line| line.strip_prefix("CREATE TABLE "));
        for table in tables {
            undo.extend(["DROP TABLE IF EXISTS ", table.trim_end_matches(" ("), ";"]);
        }
    }
    undo + "
        ALTER TABLE events DROP COLUMN trace; DROP INDEX events_of_memory;
        DROP INDEX tasks_by_stage; DROP INDEX tasks_by_project; DROP INDEX tasks_by_agent;
        DROP INDEX tasks_by_parent; ALTER TABLE tasks DROP COLUMN stage;
        CREATE INDEX tasks_by_age ON tasks (tenant_id, created_at, task_id);
        CREATE INDEX tasks_by_parent ON tasks (tenant_id, parent_task_id, created_at) WHERE parent_task_id IS NOT NULL;
        CREATE INDEX tasks_leased ON tasks (tenant_id, agent_id) WHERE leased = 1;
        DELETE FROM migrations WHERE version > 1;"
}

/// The tasks of a tenant that lists of these states have.
async fn by_state(server: &Server) -> Vec<(&'static str, Vec<String>)> {
    let mut lists = Vec::new();
    for state in ["completed", "in_progress", "assigned", "pending", "blocked"] {
        let list = server.call_as("acme", "task_list", json!({"state": state}));
        let list = list.await;
        let tasks = list["tasks"].as_array().expect("tasks").iter();
        let ids = tasks.map(|task| task["task_id"].as_str().expect("an id").to_owned());
        lists.push((state, ids.collect()));
    }
    lists
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_with_what_is_in_it() {
    let home = Arc::new(Home::new());
    let server = busy(&home).await;
    let before = seen(&server).await;
    let states = by_state(&server).await;
    server.app.stop().await;
    home.execute(&undo());
    let steps = store::migrate(&home.place(), None).expect("migrates");
    assert!(steps > 0);
    assert_eq!(store::migrate(&home.place(), None).expect("again"), 0);
    let server = Server::on(home, Clock::manual(START));
    assert_eq!(seen(&server).await, before);
    assert_eq!(by_state(&server).await, states);
    assert_eq!(states[0].1, ["t0"]);
}

#[tokio::test]
async fn a_statement_that_forgets_its_tenant_meets_the_second_wall() {
    let home = Arc::new(Home::new());
    let server = busy(&home).await;
    if home.database().is_none() {
        // SQLite has one wall: the tenant that every statement binds, which `tests/tidy.rs` looks for.
        return;
    }
    let all = |tx: &mut baton::store::Tx<'_>| tx.query("SELECT task_id FROM tasks", &[]);
    let acme = server.ctx("acme");
    let counted = acme.read(move |_, tx| all(tx).map(|rows| rows.len()));
    assert_eq!(counted.await.unwrap(), 5);
    let change: fn(&mut baton::store::Tx<'_>) -> baton::error::Result<u64> =
        |tx| tx.execute("UPDATE tasks SET fingerprint = 'x'", &[]);
    let changed = acme.write(move |_, tx| change(tx));
    assert_eq!(changed.await.unwrap(), 5);
    let foreign: fn(&mut baton::store::Tx<'_>) -> baton::error::Result<u64> = |tx| {
        tx.execute(
            "INSERT INTO task_dependencies (tenant_id, task_id, depends_on) VALUES ('globex', 'a', 'b')",
            &[],
        )
    };
    let inserted = acme.write(move |_, tx| foreign(tx)).await;
    assert!(inserted.is_err());
}

#[tokio::test]
async fn one_process_reaps_and_another_takes_over() {
    let home = Arc::new(Home::new());
    let clock = Clock::manual(START);
    let [one, other] = [1, 2]
        .map(|seed| App::open(config(&home), clock.clone(), Random::seeded(seed)).expect("opens"));
    let server = Server::on(home.clone(), clock.clone());
    for number in 0..3 {
        let task = json!({"task_id": format!("t{number}"), "description": "x"});
        server.dispatch(task).await;
        server
            .call(
                "task_claim",
                json!({"agent_id": "ada", "lease_seconds": 5 + number * 2}),
            )
            .await;
    }
    clock.advance(Duration::from_secs(6));
    assert_eq!(reap::tick(&one.system).await.unwrap(), 1);
    clock.advance(Duration::from_secs(2));
    // The first one has said lately that it does this, and it does.
    assert_eq!(reap::tick(&other.system).await.unwrap(), 0);
    assert!(reap::tick(&one.system).await.unwrap() >= 1);
    assert_eq!(server.state("t1").await, "pending");
    one.stop().await;
    clock.advance(Duration::from_secs(4));
    assert!(reap::tick(&other.system).await.unwrap() >= 1);
    assert_eq!(server.state("t2").await, "pending");
    other.stop().await;
}
