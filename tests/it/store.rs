//! The store: groups, refusals in them, several processes on one folder, files that are none of ours.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use baton::app::App;
use baton::clock::Clock;
use baton::error::{Error, Kind, Result};
use baton::id::TenantId;
use baton::random::Random;
use baton::store::{Hub, Store, Tx};
use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::{START, Server, config};

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn insert(tx: &mut Tx<'_>, id: &str) -> Result<u64> {
    tx.execute(
        "INSERT INTO task_dependencies (tenant_id, task_id, depends_on) VALUES ($1, $2, 'x')",
        &[tx.tenant().into(), id.into()],
    )
}

/// As [`insert`], with whatever statement comes next.
fn leave(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    tx.put(
        "INSERT INTO task_dependencies (tenant_id, task_id, depends_on) VALUES ($1, $2, 'x')",
        [tx.tenant().into(), id.into()],
    )
}

async fn count(store: &Store) -> i64 {
    store
        .read(&tenant(), |tx| {
            let mut rows = tx.query(
                "SELECT count(*) FROM task_dependencies WHERE tenant_id = $1",
                &[tx.tenant().into()],
            )?;
            rows[0].get(0)
        })
        .await
        .unwrap()
}

#[test]
fn a_store_ends_though_its_database_is_gone() {
    let home = Home::new();
    let store = home.open();
    home.ruin();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        store.close();
        ended.send(()).unwrap();
    });
    end.recv_timeout(Duration::from_secs(20)).unwrap();
}

/// Without statistics PostgreSQL answers many a question about an empty table by a plan that reads all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_of_postgresql_does_not_grow_with_its_tables() {
    const TASKS: i64 = 2_000;
    let server = Server::start();
    if server.home().database().is_none() {
        return;
    }
    let (first, held) = server.held(json!({"description": "first"})).await;
    for _ in 0..TASKS / 100 {
        let next = json!({"description": "next", "depends_on": [first]});
        join_all((0..100).map(|_| server.dispatch(next.clone()))).await;
    }
    // All that wait for it are changed.
    server.call("task_end", held.end("success")).await;
    server.app.stop().await;
    let store = server.home().open();
    let read = async || {
        let sql = "SELECT t.idx_tup_fetch, i.idx_scan
             FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i ON i.relid = t.relid
             WHERE i.indexrelname = 'tasks_by_stage'";
        let rows = store.survey(move |tx| tx.query(sql, &[])).await;
        let row = &mut rows.unwrap()[0];
        (row.get::<i64>(0).unwrap(), row.get::<i64>(1).unwrap())
    };
    // A connection tells what it read when it ends.
    let (mut rows, mut scans) = read().await;
    while rows < TASKS {
        (rows, scans) = read().await;
    }
    assert!(rows < TASKS * 200, "{rows} rows were read");
    assert_eq!(scans, 0, "nobody asked for tasks by their stage");
    store.close();
}

#[tokio::test]
async fn one_operations_failure_is_not_its_groups() {
    let home = Home::new();
    let store = home.open();
    let name = tenant();
    let calls = (0..40).map(|number| {
        store.write(&name, move |tx| {
            insert(tx, &number.to_string())?;
            match number % 4 {
                1 => Err(Error::conflict("refused", "after a write")),
                2 => panic!("on purpose"),
                // The same key twice.
                3 => insert(tx, &number.to_string()),
                _ => Ok(1),
            }
        })
    });
    for (number, outcome) in join_all(calls).await.into_iter().enumerate() {
        let kind = outcome.as_ref().map_err(Error::kind).map(|_| ());
        let expected = [
            Ok(()),
            Err(Kind::Conflict),
            Err(Kind::Internal),
            Err(Kind::Conflict),
        ][number % 4];
        assert_eq!(kind, expected, "{number}");
    }
    assert_eq!(count(&store).await, 10);
    store
        .write(&name, |tx| insert(tx, "afterwards"))
        .await
        .unwrap();
    store.close();
    let error = store
        .write(&name, |tx| insert(tx, "too late"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::Unavailable, "store_closed")
    );
}

#[tokio::test]
async fn changes_that_are_made_together_are_each_operations_own() {
    let home = Home::new();
    let store = home.open();
    let name = tenant();
    let calls = (0..100).map(|number| {
        store.write(&name, move |tx| {
            leave(tx, &number.to_string())?;
            match number % 20 {
                5 => Err(Error::conflict("refused", "after a change")),
                // Sees what those before it left.
                9 => {
                    let of = "SELECT task_id FROM task_dependencies WHERE tenant_id = $1";
                    let rows = tx.query(of, &[tx.tenant().into()])?;
                    assert!(rows.len() > number / 2, "{}", rows.len());
                    Ok(())
                }
                13 => panic!("on purpose"),
                // The same key twice.
                17 => leave(tx, &number.to_string()),
                _ => Ok(()),
            }
        })
    });
    for (number, outcome) in join_all(calls).await.into_iter().enumerate() {
        let kind = outcome.map_err(|error| error.kind());
        let expected = match number % 20 {
            5 | 17 => Err(Kind::Conflict),
            13 => Err(Kind::Internal),
            _ => Ok(()),
        };
        assert_eq!(kind, expected, "{number}");
    }
    assert_eq!(count(&store).await, 85);
    store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_left_before_its_turn_leaves_nothing() {
    let home = Home::new();
    let store = home.open();
    let name = tenant();
    let (entered, gate) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (inside, open) = (entered.clone(), gate.clone());
    let slow = store.write(&name, move |tx| {
        inside.wait();
        open.wait();
        insert(tx, "slow")
    });
    let leaving = async {
        tokio::task::block_in_place(|| entered.wait());
        // Polled once, so that it is queued behind the slow one, then dropped.
        let gone = store.write(&name, |tx| insert(tx, "gone"));
        assert!(gone.now_or_never().is_none());
        tokio::task::block_in_place(|| gate.wait());
    };
    let (slow, ()) = tokio::join!(slow, leaving);
    slow.unwrap();
    store.write(&name, |tx| insert(tx, "later")).await.unwrap();
    assert_eq!(count(&store).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_takes_long_answers_those_who_were_first() {
    let home = Home::new();
    if home.database().is_some() {
        // There a group is small, since its tenants are locked meanwhile.
        return;
    }
    let clock = Clock::manual(START);
    let store = Store::open(&home.place(), Hub::default(), &clock).unwrap();
    let name = tenant();
    let [entered, gathered, answered] = std::array::from_fn(|_| Arc::new(Barrier::new(2)));
    let (inside, open, last) = (entered.clone(), gathered.clone(), answered.clone());
    let before = store.write(&name, move |tx| {
        inside.wait();
        open.wait();
        insert(tx, "before")
    });
    let group = async {
        tokio::task::block_in_place(|| entered.wait());
        let mut first = Box::pin(store.write(&name, move |tx| {
            clock.advance(Duration::from_mins(1));
            insert(tx, "first")
        }));
        let mut second = Box::pin(store.write(&name, move |tx| {
            last.wait();
            insert(tx, "second")
        }));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        tokio::task::block_in_place(|| gathered.wait());
        let first = tokio::time::timeout(Duration::from_secs(20), first).await;
        tokio::task::block_in_place(|| answered.wait());
        second.await.unwrap();
        first
    };
    let (before, first) = tokio::join!(before, group);
    before.unwrap();
    first.expect("before the second has run").unwrap();
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn a_claim_in_one_process_sees_a_dispatch_in_another() {
    let folder = Arc::new(Home::new());
    let (one, other) = (
        Server::on(folder.clone(), Clock::system()),
        Server::on(folder, Clock::system()),
    );
    let claiming = one.call("task_claim", json!({"agent_id": "ada", "wait_seconds": 20}));
    let dispatching = other.dispatch(json!({"task_id": "t", "description": "x"}));
    let both = async { tokio::join!(claiming, dispatching) };
    let (claimed, _) = tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .expect("in time");
    assert_eq!(claimed["tasks"][0]["task_id"], "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_write_for_one_tenant_number_one_log() {
    let home = Arc::new(Home::new());
    let servers = [1, 2].map(|seed| {
        App::open(config(&home), Clock::system(), Random::seeded(seed)).expect("opens")
    });
    let dispatches = (0..60).map(|number| {
        let app = &servers[number % 2];
        let ctx = app.system.ctx(tenant(), "test");
        let task = json!({"task_id": format!("t{number}"), "description": "x"});
        async move {
            let Value::Object(task) = task else {
                panic!("an object")
            };
            app.catalog.call(ctx, "task_dispatch", task).await
        }
    });
    for dispatched in join_all(dispatches).await {
        dispatched.expect("dispatched");
    }
    let ctx = servers[0].system.ctx(tenant(), "test");
    let log = ctx.read(|_, tx| baton::events::verify(tx, 0, &[], 1_000));
    assert_eq!(log.await.expect("numbered and chained").0, 60);
    for app in servers {
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_has_read_no_other_changes_before_it_has_written() {
    const EACH: usize = 40;
    let home = Home::new();
    let stores = [home.open(), home.open()];
    let names = ["ada", "ben", "cleo", "dan", "eve"].map(|name| name.parse::<TenantId>().unwrap());
    let turns = (0..EACH * names.len()).map(|number| {
        stores[number % 2].write(&names[number % names.len()], move |tx| {
            let look = |tx: &mut Tx<'_>| {
                let sql = "SELECT count(*) FROM task_dependencies WHERE tenant_id = $1";
                tx.query(sql, &[tx.tenant().into()])?[0].get::<i64>(0)
            };
            // Some look first, some look at what they have changed.
            if number % 3 > 0 {
                let before = look(tx)?;
                leave(tx, &number.to_string())?;
                return Ok(before);
            }
            leave(tx, &number.to_string())?;
            Ok(look(tx)? - 1)
        })
    });
    let counts = join_all(turns).await;
    for index in 0..names.len() {
        let counts = counts.iter().skip(index).step_by(names.len());
        let mut counts: Vec<i64> = counts.map(|count| *count.as_ref().unwrap()).collect();
        counts.sort_unstable();
        let expected: Vec<i64> = (0..).take(EACH).collect();
        assert_eq!(counts, expected, "{}", names[index]);
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("baton.db");
    let text = "this is not a database, but somebody's notes. ".repeat(200);
    std::fs::write(&path, &text).unwrap();
    let error = Store::open(&folder.path().into(), Hub::default(), &Clock::system())
        .err()
        .expect("refused");
    assert_eq!(error.code(), "store_corrupt");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let server = Server::start();
    let add: fn(&mut Tx<'_>) -> Result<u64> =
        |tx| tx.execute("INSERT INTO migrations (version) VALUES (999)", &[]);
    server
        .ctx("default")
        .write(move |_, tx| add(tx))
        .await
        .unwrap();
    server.app.stop().await;
    let error = Store::open(&server.home().place(), Hub::default(), &Clock::system())
        .err()
        .expect("refused");
    assert_eq!(error.code(), "store_newer");
}
