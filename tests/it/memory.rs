//! What agents remember: written, found again, merged, replaced, forgotten; on any process, and after a restart.

use std::sync::Arc;
use std::time::Duration;

use baton::clock::Clock;
use serde_json::{Value, json};

use crate::access::{call, code, guarded, key};
use crate::support::home::Home;
use crate::support::{START, Server};

const DAY: Duration = Duration::from_hours(24);

/// Remembers `content` as `agent`, with further fields, and returns the entry's id.
async fn remember(server: &Server, agent: &str, content: &str, fields: Value) -> String {
    let mut input = json!({"agent_id": agent, "content": content});
    for (name, value) in fields.as_object().unwrap() {
        input[name] = value.clone();
    }
    let written = server.call("memory_write", input).await;
    written["memory_id"].as_str().unwrap().to_owned()
}

/// What a search finds, best first.
async fn search(server: &Server, input: Value) -> Vec<String> {
    let found = server.call("memory_search", input).await;
    let hits = found["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["content"].as_str().unwrap().to_owned())
        .collect()
}

async fn found(server: &Server, query: &str) -> Vec<String> {
    search(server, json!({"query": query})).await
}

/// The kinds and data of the events about an entry.
async fn told(server: &Server, id: &str) -> Vec<(String, Value)> {
    let events = server.ctx("default");
    let events = events
        .read(|_, tx| baton::events::after(tx, 0, 1_000))
        .await;
    let events = events.unwrap().into_iter();
    let events = events.filter(|event| event.subject == id);
    events.map(|event| (event.kind, event.data)).collect()
}

const RESET: &str = "The staging database is reset every Monday at six.";
const DEPLOY: &str = "Releases are deployed by tagging the main branch.";
const LUNCH: &str = "Ana does not eat nuts.";

async fn with_three() -> Server {
    let server = Server::start();
    for content in [RESET, DEPLOY, LUNCH] {
        remember(&server, "ada", content, json!({"tags": ["ops"]})).await;
    }
    server
}

#[tokio::test]
async fn what_was_remembered_is_found_by_words_by_meaning_and_across_languages() {
    let server = with_three().await;
    for query in [
        "when is the staging database reset",
        "stagign database",
        "¿cuándo se reinicia la base de datos?",
    ] {
        assert_eq!(found(&server, query).await[0], RESET, "{query}");
    }
    let answer = server.call("memory_search", json!({"query": "stagign reset"}));
    let hit = answer.await["hits"][0].clone();
    assert_eq!(hit["why"]["words"], json!(["staging for stagign", "reset"]));
    assert_eq!(
        (&hit["why"]["by_words"], &hit["agent_id"]),
        (&json!(1), &json!("ada"))
    );
    assert!(hit["score"].as_f64() > Some(0.0) && hit["why"]["coverage"] == json!(1.0));
}

#[tokio::test]
async fn another_process_and_a_restarted_one_find_the_same() {
    let home = Arc::new(Home::new());
    let server = Server::on(home.clone(), Clock::manual(START));
    for content in [RESET, DEPLOY, LUNCH] {
        remember(&server, "ada", content, json!({})).await;
    }
    assert_eq!(found(&server, "staging").await[0], RESET);
    let other = Server::on(home, Clock::manual(START + DAY));
    assert_eq!(found(&other, "staging").await[0], RESET);
    let id = remember(
        &other,
        "bob",
        "The staging URL is stage.example.",
        json!({}),
    )
    .await;
    let both = found(&server, "staging").await;
    assert!(
        both.contains(&"The staging URL is stage.example.".to_owned()),
        "{both:?}"
    );
    server.call("memory_forget", json!({"memory_id": id})).await;
    assert_eq!(found(&other, "staging url").await[0], RESET);
    other.app.stop().await;
    let server = server.restart().await;
    let again = found(&server, "staging").await;
    assert!(again[0] == RESET && again.len() <= 3, "{again:?}");
}

#[tokio::test]
async fn saying_it_again_merges_and_numbers_tell_apart() {
    let server = Server::start();
    let first = json!({"agent_id": "ada", "content": "CI runners have 4 cores and 8 GB of RAM.", "tags": ["ci"], "importance": 0.2});
    let created = server.call("memory_write", first.clone()).await;
    assert_eq!(created["created"], true);
    let again = server.call("memory_write", first).await;
    assert_eq!(
        (&again["created"], &again["memory_id"]),
        (&json!(false), &created["memory_id"])
    );
    let reworded = json!({"agent_id": "ada", "content": "The CI runners have 8 GB of RAM and 4 cores.", "tags": ["infra"], "importance": 0.9});
    let reworded = server.call("memory_write", reworded).await;
    assert_eq!(reworded["memory_id"], created["memory_id"]);
    assert_eq!(
        reworded["content"],
        "CI runners have 4 cores and 8 GB of RAM."
    );
    let entry = server
        .call("memory_get", json!({"memory_id": created["memory_id"]}))
        .await;
    assert_eq!(
        (&entry["tags"], &entry["importance"]),
        (&json!(["ci", "infra"]), &json!(0.9))
    );
    let other = json!({"agent_id": "ada", "content": "CI runners have 4 cores and 16 GB of RAM."});
    assert_eq!(server.call("memory_write", other).await["created"], true);
    let elsewhere =
        json!({"agent_id": "bob", "content": "CI runners have 4 cores and 8 GB of RAM."});
    assert_eq!(
        server.call("memory_write", elsewhere).await["created"],
        true
    );
    let kinds: Vec<String> = told(&server, created["memory_id"].as_str().unwrap())
        .await
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    let merged = "dev.baton.memory.merged";
    assert_eq!(kinds, ["dev.baton.memory.written", merged, merged]);
}

#[tokio::test]
async fn what_is_superseded_is_kept_and_found_no_more() {
    let server = with_three().await;
    let old = remember(&server, "ada", "The API limit is 100 calls.", json!({})).await;
    let write =
        json!({"agent_id": "ada", "content": "The API limit is 500 calls.", "supersedes": [old]});
    let new = server.call("memory_write", write.clone()).await;
    assert_eq!(new["superseded"], json!([old]));
    assert_eq!(
        server.call("memory_write", write).await["memory_id"],
        new["memory_id"]
    );
    let hits = found(&server, "API limit calls").await;
    assert_eq!(hits[0], "The API limit is 500 calls.");
    assert!(!hits.contains(&"The API limit is 100 calls.".to_owned()));
    let kept = server.call("memory_get", json!({"memory_id": old})).await;
    assert_eq!(kept["superseded_by"], new["memory_id"]);
    let late =
        json!({"agent_id": "ada", "content": "The API limit is 900 calls.", "supersedes": [old]});
    assert_eq!(server.code("memory_write", late).await, "memory_superseded");
    let listed = server
        .call("memory_list", json!({"include_superseded": true}))
        .await;
    assert_eq!(listed["memories"].as_array().unwrap().len(), 5);
    let listed = server.call("memory_list", json!({})).await;
    assert_eq!(listed["memories"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn short_term_memory_dies_with_its_task_unless_it_is_kept() {
    let server = Server::start();
    let (task, held) = server.held(json!({"description": "x"})).await;
    let short = json!({"kind": "short_term", "task_id": task, "scope": "task"});
    let dies = remember(&server, "ada", "The lock file was stale.", short.clone()).await;
    let stays = remember(
        &server,
        "ada",
        "Port 5432 is taken on the runner.",
        short.clone(),
    )
    .await;
    let long = json!({"kind": "long_term", "task_id": task, "scope": "task"});
    let kept = remember(&server, "ada", "Port 5432 is taken on the runner.", long).await;
    assert_eq!(kept, stays);
    assert_eq!(
        found(&server, "stale lock file").await[0],
        "The lock file was stale."
    );
    server.call("task_end", held.end("success")).await;
    let rest = found(&server, "stale lock file, port taken").await;
    assert_eq!(rest, ["Port 5432 is taken on the runner."], "gone at once");
    assert_eq!(
        server.code("memory_get", json!({"memory_id": dies})).await,
        "unknown_memory"
    );
    assert_eq!(baton::memory::tick(&server.app.system).await.unwrap(), 1);
    assert_eq!(baton::memory::tick(&server.app.system).await.unwrap(), 0);
    let (kind, data) = told(&server, &dies).await.pop().unwrap();
    assert_eq!(
        (kind.as_str(), &data["cause"]),
        ("dev.baton.memory.forgotten", &json!("task_ended"))
    );
    let mut late = short;
    late["agent_id"] = "ada".into();
    late["content"] = "Too late.".into();
    assert_eq!(
        server.code("memory_write", late).await,
        "task_already_ended"
    );
    let homeless = json!({"agent_id": "ada", "content": "x", "kind": "short_term"});
    assert_eq!(server.code("memory_write", homeless).await, "invalid_input");
    let nowhere = json!({"agent_id": "ada", "content": "x", "task_id": "no-such-task"});
    assert_eq!(server.code("memory_write", nowhere).await, "unknown_task");
}

#[tokio::test]
async fn what_expires_is_gone_at_once_and_the_log_says_so() {
    let server = with_three().await;
    let soon = json!({"expires_at": "2026-11-22T00:00:00Z"});
    let id = remember(&server, "ada", "The demo is tomorrow.", soon).await;
    assert_eq!(found(&server, "demo").await[0], "The demo is tomorrow.");
    server.advance(DAY).await;
    assert!(
        !found(&server, "demo")
            .await
            .contains(&"The demo is tomorrow.".to_owned())
    );
    assert_eq!(
        server.code("memory_get", json!({"memory_id": id})).await,
        "unknown_memory"
    );
    assert_eq!(baton::memory::tick(&server.app.system).await.unwrap(), 1);
    let (kind, data) = told(&server, &id).await.pop().unwrap();
    assert_eq!(
        (kind.as_str(), &data["cause"]),
        ("dev.baton.memory.forgotten", &json!("expired"))
    );
    let past = json!({"agent_id": "ada", "content": "x", "expires_at": "2026-11-22T00:00:00Z"});
    assert_eq!(server.code("memory_write", past).await, "invalid_input");
}

#[tokio::test]
async fn who_asks_sees_its_own_what_is_shared_and_what_belongs_to_its_task() {
    let server = Server::start();
    let task = server.dispatch(json!({"description": "x"})).await;
    let of_task = json!({"scope": "task", "task_id": task});
    remember(
        &server,
        "ada",
        "Ada alone: the password hint is blue.",
        json!({}),
    )
    .await;
    remember(
        &server,
        "ada",
        "Shared: the hint page moved.",
        json!({"scope": "shared"}),
    )
    .await;
    remember(&server, "ada", "Task: the hint table is empty.", of_task).await;
    let sees = async |input: Value| {
        let mut contents = search(&server, input).await;
        contents.sort();
        let first = |text: String| text.split([' ', ':']).next().unwrap().to_owned();
        contents.into_iter().map(first).collect::<Vec<_>>()
    };
    assert_eq!(
        sees(json!({"query": "hint"})).await,
        ["Ada", "Shared", "Task"]
    );
    assert_eq!(
        sees(json!({"query": "hint", "agent_id": "ada"})).await,
        ["Ada", "Shared", "Task"]
    );
    assert_eq!(
        sees(json!({"query": "hint", "agent_id": "bob"})).await,
        ["Shared"]
    );
    let at_work = json!({"query": "hint", "agent_id": "bob", "task_id": task});
    assert_eq!(sees(at_work).await, ["Shared", "Task"]);
    let tagged = json!({"query": "hint", "tags": ["nothing"]});
    assert_eq!(sees(tagged).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_one_agent_knows_what_that_agent_may_and_changes_only_its_own() {
    let server = guarded().await;
    let everybody = key(&server, "acme", json!({"roles": ["orchestrator"]})).await;
    let bobs = json!({"roles": ["executor"], "agents": ["bob"]});
    let bobs = key(&server, "acme", bobs).await;
    server.show(&everybody);
    let write = async |agent: &str, content: &str, scope: &str| {
        let input = json!({"agent_id": agent, "content": content, "scope": scope});
        call(&server, "/mcp", "memory_write", input).await.body["result"].clone()
    };
    let secret = write("ada", "Ada keeps the hint blue.", "agent").await;
    let shared = write("ada", "The hint page moved.", "shared").await;
    let id = |written: &Value| json!({"memory_id": written["structuredContent"]["memory_id"]});
    server.show(&bobs);
    let tool = async |name: &str, input: Value| {
        let answer = call(&server, "/mcp", name, input).await;
        answer.body["result"]["structuredContent"].clone()
    };
    let hits = tool("memory_search", json!({"query": "hint"})).await;
    assert_eq!(hits["hits"].as_array().unwrap().len(), 1, "{hits}");
    assert_eq!(hits["hits"][0]["content"], "The hint page moved.");
    let listed = tool("memory_list", json!({})).await;
    assert_eq!(listed["memories"].as_array().unwrap().len(), 1, "{listed}");
    for (name, input, expected) in [
        ("memory_get", id(&secret), "unknown_memory"),
        ("memory_forget", id(&secret), "unknown_memory"),
        ("memory_forget", id(&shared), "forbidden"),
        ("memory_list", json!({"agent_id": "ada"}), "forbidden"),
        (
            "memory_search",
            json!({"query": "hint", "agent_id": "ada"}),
            "forbidden",
        ),
        (
            "memory_write",
            json!({"agent_id": "ada", "content": "x"}),
            "forbidden",
        ),
    ] {
        let refused = call(&server, "/mcp", name, input).await;
        assert_eq!(code(&refused.body["result"]), expected, "{name}");
    }
    assert_eq!(tool("memory_get", id(&shared)).await["agent_id"], "ada");
}

#[tokio::test]
async fn what_is_forgotten_is_gone_and_lists_are_read_page_by_page() {
    let server = with_three().await;
    let page = server
        .call("memory_list", json!({"agent_id": "ada", "limit": 2}))
        .await;
    let rest = json!({"agent_id": "ada", "limit": 2, "cursor": page["next_cursor"]});
    let rest = server.call("memory_list", rest).await;
    let lists = [&page, &rest].map(|page| page["memories"].as_array().unwrap().len());
    assert_eq!((lists, rest.get("next_cursor")), ([2, 1], None));
    let id = page["memories"][0]["memory_id"].clone();
    server.call("memory_forget", json!({"memory_id": id})).await;
    assert_eq!(
        server.code("memory_forget", json!({"memory_id": id})).await,
        "unknown_memory"
    );
    let listed = server.call("memory_list", json!({"agent_id": "ada"})).await;
    assert_eq!(listed["memories"].as_array().unwrap().len(), 2);
    let nobody = server
        .call("memory_list", json!({"agent_id": "nobody"}))
        .await;
    assert_eq!(nobody, json!({"memories": []}));
}

#[tokio::test]
async fn an_agents_memory_and_each_entry_can_be_read_as_resources() {
    let server = with_three().await;
    let (ctx, catalog) = (server.ctx("default"), &server.app.catalog);
    let text = async |uri: &str| match catalog.read(&ctx, uri).await.unwrap().body {
        baton::op::Body::Text(text) => serde_json::from_str::<Value>(&text).unwrap(),
        blob @ baton::op::Body::Blob(_) => panic!("{blob:?}"),
    };
    let all = text("baton://memory/ada").await;
    assert_eq!(all["memories"].as_array().unwrap().len(), 3);
    let mut all = all["memories"].as_array().unwrap().iter();
    let reset = all.find(|entry| entry["content"] == RESET).unwrap();
    let id = reset["memory_id"].as_str().unwrap();
    let one = text(&format!("baton://memory/ada/{id}")).await;
    assert_eq!(one["content"], RESET);
    for unknown in [
        format!("baton://memory/bob/{id}"),
        "baton://memory/bob".into(),
    ] {
        let error = catalog.read(&ctx, &unknown).await.unwrap_err();
        assert_eq!(error.code(), "unknown_resource", "{unknown}");
    }
    let events = ctx
        .read(|_, tx| baton::events::after(tx, 0, 1))
        .await
        .unwrap();
    let changed = catalog.changed_by(&events[0]);
    assert_eq!(events[0].subject, id);
    assert_eq!(
        changed,
        [
            "baton://memory/ada".to_owned(),
            format!("baton://memory/ada/{id}")
        ]
    );
}

#[tokio::test]
async fn that_an_entry_was_read_is_noted_once_a_day() {
    let server = with_three().await;
    let listed = server.call("memory_list", json!({})).await;
    let id = json!({"memory_id": listed["memories"][0]["memory_id"]});
    assert_eq!(listed["memories"][0].get("seen_at"), None);
    server.call("memory_get", id.clone()).await;
    let first = server.call("memory_get", id.clone()).await["seen_at"].clone();
    server.advance(DAY / 2).await;
    assert_eq!(
        server.call("memory_get", id.clone()).await["seen_at"],
        first
    );
    server.advance(DAY).await;
    server.call("memory_get", id.clone()).await;
    assert_ne!(server.call("memory_get", id).await["seen_at"], first);
}

#[tokio::test]
async fn an_audit_shows_what_is_wrong_and_mends_only_when_it_is_told_to() {
    let server = Server::start();
    let elder = "Integration tests take 14 minutes on CI.";
    let elder = remember(&server, "ada", elder, json!({"tags": ["ci"]})).await;
    server.advance(Duration::from_secs(1)).await;
    let newer = "Integration tests take 22 minutes on CI.";
    let newer = remember(&server, "ada", newer, json!({"tags": ["speed"]})).await;
    let dull = remember(
        &server,
        "ada",
        "Bob likes the old logo.",
        json!({"importance": 0.1}),
    )
    .await;
    remember(
        &server,
        "bob",
        "Integration tests take 14 minutes on CI.",
        json!({}),
    )
    .await;
    let audit = async |fields: Value| server.call("memory_audit", fields).await;
    let found = |problem: &str, ids: &[&String]| json!({"problem": problem, "memory_ids": ids});
    let pair = [
        found("perhaps_outdated", &[&elder, &newer]),
        found("tags_disagree", &[&elder, &newer]),
    ];
    let first = audit(json!({})).await;
    assert_eq!(
        (&first["looked_at"], &first["findings"]),
        (&json!(4), &json!(pair))
    );
    let page = audit(json!({"limit": 3})).await;
    let rest = audit(json!({"limit": 3, "cursor": page["next_cursor"]})).await;
    assert_eq!(
        (&page["looked_at"], &rest["looked_at"]),
        (&json!(3), &json!(1))
    );

    server.advance(DAY * 100).await;
    let stale = found("stale", &[&dull]);
    let dry = audit(json!({"agent_id": "ada"})).await;
    assert!(
        dry["findings"].as_array().unwrap().contains(&stale),
        "{dry}"
    );
    assert!(
        dry["findings"]
            .as_array()
            .unwrap()
            .contains(&found("never_read", &[&newer]))
    );
    assert_eq!(dry["removed"], json!([]));
    let done = audit(json!({"agent_id": "ada", "dry_run": false})).await;
    assert_eq!(done["removed"], json!([dull]));
    let (kind, data) = told(&server, &dull).await.pop().unwrap();
    assert_eq!(
        (kind.as_str(), &data["cause"]),
        ("dev.baton.memory.forgotten", &json!("stale"))
    );
    assert_eq!(
        server.code("memory_get", json!({"memory_id": dull})).await,
        "unknown_memory"
    );
}
