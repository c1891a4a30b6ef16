//! How well search finds what is meant: the judged set of `benches/memory`, through the real server. The figures are those
//! of `docs/MEMORY.md`; what falls below them by more than chance is refused.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::support::Server;

fn lines(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("benches/memory/{name}.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// Sums of recall among ten, of reciprocal ranks, and how many queries that is.
type Sums = BTreeMap<String, (f64, f64, f64)>;

#[tokio::test]
async fn search_finds_what_is_meant() {
    let server = Server::start();
    let mut names = BTreeMap::new();
    for memory in lines("memories") {
        // What one agent said twice on purpose must stay two entries: each is its own agent's.
        let input = json!({
            "agent_id": memory["id"], "content": memory["content"], "tags": memory["tags"],
            "importance": memory["importance"],
        });
        let written = server.call("memory_write", input).await;
        names.insert(written["memory_id"].to_string(), memory["id"].clone());
    }
    let mut sums = Sums::new();
    for query in lines("queries") {
        let found = json!({"query": query["query"], "limit": 10});
        let found = server.call("memory_search", found).await;
        let hits = found["hits"].as_array().unwrap().iter();
        let hits: Vec<&Value> = hits
            .map(|hit| &names[&hit["memory_id"].to_string()])
            .collect();
        let meant = query["relevant"].as_array().unwrap();
        let recalled = meant.iter().filter(|id| hits.contains(id)).count();
        let rank = hits.iter().position(|id| meant.contains(id));
        let recall = f64::from(u32::try_from(recalled).unwrap())
            / f64::from(u32::try_from(meant.len()).unwrap());
        let reciprocal = rank.map_or(0.0, |rank| {
            1.0 / f64::from(u32::try_from(rank + 1).unwrap())
        });
        for group in [
            "all",
            query["lang"].as_str().unwrap(),
            query["kind"].as_str().unwrap(),
        ] {
            let sum = sums.entry(group.to_owned()).or_default();
            *sum = (sum.0 + recall, sum.1 + reciprocal, sum.2 + 1.0);
        }
    }
    let mut low = Vec::new();
    for (group, recall, rank) in [
        ("all", 0.83, 0.77),
        ("en", 0.81, 0.74),
        ("es", 0.84, 0.78),
        ("paraphrase", 0.80, 0.77),
        ("synonym", 0.66, 0.56),
        ("typo", 0.90, 0.92),
        ("negation", 0.86, 0.82),
        ("cross", 0.78, 0.55),
        ("exact", 0.98, 0.98),
    ] {
        let (recalls, ranks, count) = sums[group];
        let (found, ranked) = (recalls / count, ranks / count);
        println!("{group}: recall@10 {found:.3}, MRR {ranked:.3} of {count}");
        if found < recall || ranked < rank {
            low.push(format!(
                "{group}: {found:.3} / {ranked:.3}, at least {recall} / {rank}"
            ));
        }
    }
    assert!(low.is_empty(), "{low:#?}");
}
