//! Whatever a script tries ends, and harms nobody else.

use std::time::Duration;

use baton::script::{Outcome, Scripts};
use futures::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::scripts::{answer, job};
use crate::support::Server;

/// What a script may try, and what is told of how it ended.
const ESCAPES: [(&str, &str); 22] = [
    ("for (;;);", "longer than 2000 ms"),
    ("function main() { for (;;); }", "longer than 2000 ms"),
    (
        "function main() { for (;;) { try { for (;;); } catch {} finally { main() } } }",
        "",
    ),
    (
        // Its time or its memory is over, whichever comes first.
        "async function main() { const f = () => Promise.resolve().then(f); return f(); }",
        "",
    ),
    (
        "async function main() { const f = async () => { f(); f(); await 0; f(); }; await f(); }",
        "",
    ),
    (
        "function main() { return /^(a+)+$/.test('a'.repeat(40) + 'b'); }",
        "longer than 2000 ms",
    ),
    (
        "function main() { return Array.prototype.indexOf.call({length: 2 ** 53 - 1}, 1); }",
        "longer than 2000 ms",
    ),
    // One that the engine does not notice: its process goes.
    (
        "function main() { return 'a'.repeat(2e7).indexOf('a'.repeat(1e7) + 'b'); }",
        "longer than 2000 ms",
    ),
    (
        "function main() { const all = []; for (;;) all.push(new Uint8Array(1e6)); }",
        "64 MiB of memory",
    ),
    (
        "function main() { return new ArrayBuffer(1e9).byteLength; }",
        "64 MiB of memory",
    ),
    (
        "function main() { const f = () => f() + 1; return f(); }",
        "RangeError",
    ),
    (
        "function main() { return JSON.parse('['.repeat(1e6)); }",
        "RangeError",
    ),
    (
        "function main() { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a; }",
        "",
    ),
    (
        "function main() { let a = []; for (let i = 0; i < 500; i++) a = [a]; return a; }",
        "nested too deep",
    ),
    (
        "function main() { for (;;) console.log('x'.repeat(10000)); }",
        "",
    ),
    (
        "async function main(args, baton) { for (;;) baton.memory.list({}); }",
        "",
    ),
    (
        "async function main(args, baton) { for (;;) await baton.task.list({}); }",
        "a run may ask for 100 things",
    ),
    (
        "async function main() { return await import('fs'); }",
        "ReferenceError",
    ),
    (
        "function main() { return Atomics.wait(new Int32Array(new SharedArrayBuffer(8)), 0, 0); }",
        "TypeError",
    ),
    (
        "Object.defineProperty(globalThis, 'main', {get() { for (;;); }});",
        "longer than 2000 ms",
    ),
    (
        "function main() { return {toJSON() { for (;;); }}; }",
        "longer than 2000 ms",
    ),
    (
        "function main() { return new Proxy({}, {ownKeys() { for (;;); }}); }",
        "longer than 2000 ms",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_script_tries_ends_and_the_next_one_runs() {
    let (server, scripts) = (Server::start(), Scripts::default());
    // As many tenants, so that nobody waits for a place of his own.
    for (number, some) in ESCAPES.chunks(2).enumerate() {
        let runs = some.iter().enumerate().map(|(index, (source, _))| {
            let ctx = server.ctx(&format!("t{number}-{index}"));
            let (scripts, job) = (scripts.clone(), job(source, json!({})));
            async move { scripts.run(&ctx, &job).await.unwrap() }
        });
        for ((source, told), ran) in some.iter().zip(join_all(runs).await) {
            let Outcome::Failed(message) = ran else {
                panic!("{source}: {ran:?}")
            };
            assert!(message.contains(told), "{source}: {message}");
        }
        let ctx = server.ctx(&format!("t{number}-0"));
        let next = answer(&scripts, &ctx, "function main() { return 1; }", json!({})).await;
        assert_eq!(next, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_scripts_never_end_holds_up_nobody_else() {
    let (server, scripts) = (Server::start(), Scripts::default());
    let mut endless = JoinSet::new();
    for _ in 0..100 {
        let (ctx, scripts) = (server.ctx("acme"), scripts.clone());
        endless.spawn(async move {
            let mut job = job("function main() { for (;;); }", json!({}));
            job.time = Duration::from_mins(5);
            scripts.run(&ctx, &job).await
        });
    }
    // All of them but those that have a place are told to come back, while those go on.
    let places = loop {
        match endless.join_next().await.unwrap().unwrap() {
            Err(error) => assert_eq!(error.code(), "scripts_busy"),
            ran => panic!("{ran:?}"),
        }
        let globex = server.ctx("globex");
        let count = answer(
            &scripts,
            &globex,
            "function main() { return 1; }",
            json!({}),
        )
        .await;
        assert_eq!(count, 1);
        server.call_as("globex", "task_list", json!({})).await;
        if endless.len() <= 32 {
            break endless.len();
        }
    };
    assert!(places > 0, "none of them ran");
    endless.shutdown().await;
    // Their places are free again, their processes gone.
    let acme = server.ctx("acme");
    let next = answer(&scripts, &acme, "function main() { return 1; }", json!({})).await;
    assert_eq!(next, 1);
}
