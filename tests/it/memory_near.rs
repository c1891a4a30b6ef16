//! Memories whose meaning a PostgreSQL with pgvector looks up, when the tests have one, beside those of a server that compares
//! all of them.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::home::Home;
use crate::support::{Server, config};

/// Looks nothing up, and says that it was asked.
const BLIND: &str = "CREATE OR REPLACE FUNCTION memories_near(
        tenant text, wanted bytea, at bigint, kind_wanted text, tags_wanted text, agents text, at_work text, among text, most bigint
    ) RETURNS TABLE (id text, cosine double precision) LANGUAGE sql AS $$ SELECT '', 1.0 WHERE false $$";
/// What `DROP EXTENSION vector CASCADE` leaves behind.
const WITHOUT: &str = "ALTER TABLE memories DROP COLUMN direction; DROP FUNCTION memory_direction";

/// A server that compares with all of a tenant's memories while these are no more than `threshold`.
fn server(home: &Arc<Home>, threshold: u32) -> Server {
    let mut config = config(home);
    config.limits.full_scan_threshold = threshold;
    Server::with(home.clone(), config)
}

/// What agents wrote, of the judged set: a third is for all to know, others have tags, or live until a task ends.
async fn remember(server: &Server) -> usize {
    let text = fs::read_to_string("benches/memory/memories.jsonl").unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut count = 0;
    for (number, line) in lines.enumerate() {
        let mut input = json!({
            "agent_id": format!("agent-{}", number % 5), "content": line["content"], "tags": line["tags"],
        });
        match number % 3 {
            0 => input["scope"] = json!("shared"),
            1 => input["tags"] = json!(["rare", format!("of-{}", number % 2)]),
            _ => {}
        }
        server.call("memory_write", input).await;
        count += 1;
    }
    count
}

/// The entries that a search finds, how near each is, and why.
async fn hits(server: &Server, input: &Value) -> Vec<(String, Option<f64>)> {
    let found = server.call("memory_search", input.clone()).await;
    let hits = found["hits"].as_array().unwrap().iter();
    hits.map(|hit| {
        let id = hit["memory_id"].as_str().unwrap().to_owned();
        (id, hit["why"]["similarity"].as_f64())
    })
    .collect()
}

#[tokio::test]
async fn what_the_database_looks_up_is_what_comparing_all_finds() {
    if !Home::has_pgvector() {
        return;
    }
    let home = Arc::new(Home::new());
    let (comparing, looking, between) =
        (server(&home, 100_000), server(&home, 0), server(&home, 80));
    assert!(remember(&looking).await > 300);
    let mut asked = 0;
    for query in [
        "when is the database reset",
        "¿quién paga las facturas?",
        "how do we deploy",
        "retries of webhooks",
    ] {
        for narrow in [
            json!({}),
            json!({"agent_id": "agent-1"}),
            json!({"tags": ["rare", "of-1"]}),
            json!({"kind": "long_term"}),
            json!({"agent_id": "agent-2", "tags": ["rare"], "kind": "long_term"}),
            json!({"agent_id": "nobody"}),
        ] {
            let mut input = json!({"query": query, "limit": 20});
            input
                .as_object_mut()
                .unwrap()
                .extend(narrow.as_object().unwrap().clone());
            let expected = hits(&comparing, &input).await;
            for server in [&looking, &between] {
                let found = hits(server, &input).await;
                let same = expected.iter().filter(|(id, near)| {
                    found.iter().any(|(other, cosine)| {
                        let off = near
                            .zip(*cosine)
                            .map(|(near, cosine)| (near - cosine).abs());
                        id == other && off.is_none_or(|off| off < 0.01)
                    })
                });
                // Where two are as near, rounding decides.
                let same = same.count();
                assert_eq!(expected.len(), found.len(), "{input}");
                assert!(
                    same * 10 >= expected.len() * 9,
                    "{input}: {expected:?}, {found:?}"
                );
                assert_eq!(
                    expected.first().map(|hit| &hit.0),
                    found.first().map(|hit| &hit.0),
                    "{input}"
                );
                asked += found.len();
            }
        }
    }
    assert!(asked > 400, "{asked} found");
    // Nobody else's are near.
    let input = json!({"query": "when is the database reset"});
    let beside = looking
        .call_as("zeta", "memory_search", input.clone())
        .await;
    assert_eq!(beside["hits"], json!([]));
    home.execute(BLIND);
    let nearness =
        |hits: Vec<(String, Option<f64>)>| hits.iter().filter(|hit| hit.1.is_some()).count();
    assert_eq!(nearness(hits(&looking, &input).await), 0, "compared");
    assert_eq!(nearness(hits(&between, &input).await), 0, "compared");
    assert!(nearness(hits(&comparing, &input).await) > 5, "looked up");
}

#[tokio::test]
async fn a_database_that_gets_pgvector_later_looks_up_what_it_had() {
    if !Home::has_pgvector() {
        return;
    }
    let home = Arc::new(Home::new());
    let before = server(&home, 10);
    home.execute(WITHOUT);
    let input = json!({"query": "when is the database reset", "limit": 50});
    // The index grows beyond what is compared, and there is nobody who could look up.
    assert!(hits(&before, &input).await.is_empty());
    remember(&before).await;
    let expected = hits(&before, &input).await;
    before.app.stop().await;
    let after = server(&home, 10);
    let found = hits(&after, &input).await;
    assert_eq!(found.len(), expected.len());
    assert_eq!(found[0].0, expected[0].0);
    home.execute(BLIND);
    let blind = hits(&after, &input).await;
    assert!(blind.iter().all(|hit| hit.1.is_none()), "compared");
}
