//! How fast search is among many: 100,000 entries of one tenant beside 1,000 others. Takes minutes and a quiet machine, so
//! it runs only when it is asked to: `cargo test --release --test it memory_speed -- --ignored --nocapture`.

use std::fs;
use std::time::Duration;

use baton::clock::Clock;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::Server;

const ENTRIES: usize = 100_000;
const TENANTS: usize = 1_000;
const TOGETHER: usize = 256;

fn texts(name: &str, field: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("benches/memory/{name}.jsonl")).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let lines = text
        .lines()
        .map(|text| line(text)[field].as_str().unwrap().to_owned());
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and a quiet machine"]
async fn a_search_among_a_hundred_thousand_takes_less_than_twenty_milliseconds() {
    let server = Server::start();
    let (contents, queries) = (texts("memories", "content"), texts("queries", "query"));
    let entry = |number: usize| {
        let (one, other) = (number % contents.len(), number * 7 % contents.len());
        let content = format!("Case {number}: {} {}", contents[one], contents[other]);
        json!({"agent_id": format!("agent-{}", number % 50), "content": content})
    };
    let mut numbers: Vec<usize> = (0..ENTRIES + TENANTS).collect();
    for group in numbers.chunks_mut(TOGETHER) {
        let writes = group.iter().map(|number| {
            let tenant = number.checked_sub(ENTRIES);
            let tenant = tenant.map_or("large".to_owned(), |other| format!("other-{other}"));
            let (server, input) = (server.clone(), entry(*number));
            async move { server.call_as(&tenant, "memory_write", input).await }
        });
        join_all(writes).await;
    }
    let clock = Clock::system();
    let search = async |query: &String| {
        let begun = clock.steady();
        let input = json!({"query": query});
        let found = server.call_as("large", "memory_search", input).await;
        assert!(!found["hits"].as_array().unwrap().is_empty());
        clock.steady().since(begun)
    };
    println!(
        "the first, which reads everything: {:?}",
        search(&queries[0]).await
    );
    let mut times = Vec::new();
    for query in &queries {
        times.push(search(query).await);
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    println!(
        "median {:?}, 95 % within {:?}, 99 % within {:?}",
        at(50),
        at(95),
        at(99)
    );
    assert!(at(50) < Duration::from_millis(20));
}
