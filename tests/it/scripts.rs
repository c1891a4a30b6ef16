//! Scripts: what they can do, and what they can't.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::response::Redirect;
use axum::routing::{get, post};
use baton::caller::{Caller, Level, Reach, Said};
use baton::ctx::Ctx;
use baton::principal::{Grant, Principal, Role, Shown, Tenants};
use baton::script::{Job, Outcome, Scripts};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::Server;
use crate::support::http::HttpServer;

/// A script with two seconds to run, and without grants.
pub(crate) fn job(source: &str, arguments: Value) -> Job {
    Job {
        source: source.to_owned(),
        arguments,
        time: Duration::from_secs(2),
        most: 100_000,
        hosts: Vec::new(),
        secrets: Vec::new(),
    }
}

async fn run(scripts: &Scripts, ctx: &Ctx, source: &str, arguments: Value) -> Outcome {
    // What is not about time is not to fail for lack of it.
    let job = Job {
        time: Duration::from_secs(30),
        ..job(source, arguments)
    };
    scripts.run(ctx, &job).await.unwrap()
}

/// What a script answers that must.
pub(crate) async fn answer(scripts: &Scripts, ctx: &Ctx, source: &str, arguments: Value) -> Value {
    match run(scripts, ctx, source, arguments).await {
        Outcome::Value(value) => value,
        Outcome::Failed(message) => panic!("{source}: {message}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_answers_with_what_its_main_returns_and_logs_to_its_caller() {
    let (server, scripts) = (Server::start(), Scripts::default());
    let (said, mut heard) = mpsc::channel(10);
    let ctx = server.ctx("acme").with_caller(Caller {
        said,
        wants_progress: false,
        log_from: Some(Level::Info),
        abilities: Vec::new(),
        reach: Reach::Live,
        notes: Arc::default(),
    });
    let source = "async function main(args, baton) {
        console.log('adding', args); console.debug('unheard');
        return {sum: args.a + args.b, now: typeof new Date().getTime()};
    }";
    let input = json!({"a": 1, "b": 41});
    let answered = answer(&scripts, &ctx, source, input).await;
    assert_eq!(answered, json!({"sum": 42, "now": "number"}));
    let Some(Said::Log(level, text)) = heard.recv().await else {
        panic!("nothing was logged");
    };
    assert_eq!(
        (level, text),
        (Level::Info, json!(r#"adding {"a":1,"b":41}"#))
    );
    assert!(heard.try_recv().is_err());
    for (source, expected) in [
        (
            "const main = (args) => [args.x, undefined]",
            json!([1, null]),
        ),
        ("function main() {}", Value::Null),
        (
            "async function main() { return 'ä\\ud83d\\ude00' }",
            json!("ä😀"),
        ),
    ] {
        let answered = answer(&scripts, &ctx, source, json!({"x": 1})).await;
        assert_eq!(answered, expected, "{source}");
    }
    for (source, told) in [
        ("let x = 1", "the script has no function main"),
        ("function main( {", "SyntaxError"),
        (
            "function main() { throw new TypeError('no') }",
            "TypeError: no\n    at main",
        ),
        ("function main() { throw 'words' }", "it threw words"),
        (
            "async function main() { await new Promise(() => {}) }",
            "never comes",
        ),
        ("async function main() { return 10n }", "TypeError"),
        (
            "function main() { return 'x'.repeat(200000) }",
            "more than 100000 bytes",
        ),
    ] {
        let ran = run(&scripts, &ctx, source, json!({})).await;
        let Outcome::Failed(message) = ran else {
            panic!("{source}: {ran:?}")
        };
        assert!(message.contains(told), "{source}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_acts_in_its_tenant_with_the_rights_of_its_caller() {
    let (server, scripts) = (Server::start(), Scripts::default());
    let source = "async function main(args, baton) {
        const {memory_id} = await baton.memory.write({agent_id: 'ada', content: args.fact});
        const found = await baton.memory.search({query: args.fact});
        const {task_id} = await baton.task.dispatch({description: args.fact});
        const codes = [];
        for (const call of [() => baton.task.get({task_id: args.foreign}), () => baton.task.dispatch({})]) {
            await call().catch((error) => codes.push(error.code));
        }
        return {memory_id, hits: found.hits.length, state: (await baton.task.get({task_id})).state, codes};
    }";
    let foreign = json!({"description": "x", "task_id": "theirs"});
    server.call_as("globex", "task_dispatch", foreign).await;
    let (acme, input) = (
        server.ctx("acme"),
        json!({"fact": "The mill is red.", "foreign": "theirs"}),
    );
    let answered = answer(&scripts, &acme, source, input.clone()).await;
    assert_eq!(
        (&answered["hits"], &answered["state"]),
        (&json!(1), &json!("pending"))
    );
    assert_eq!(answered["codes"], json!(["unknown_task", "invalid_input"]));
    let theirs = server.call_as("globex", "memory_list", json!({})).await;
    assert_eq!(theirs["memories"], json!([]));
    let observer = Principal {
        name: "key:observer".into(),
        tenants: Tenants::All,
        grant: Grant {
            roles: vec![Role::Observer],
            ..Grant::default()
        },
        expires_at: None,
        shown: Shown([0; 32]),
    };
    let ctx = server.ctx("acme").of(Some(&Arc::new(observer)));
    let refused = run(&scripts, &ctx, source, input).await;
    let Outcome::Failed(message) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.contains("memory_write needs the role"), "{message}");
    let other = "async function main(args, baton) { return await baton.task.constructor.constructor('return this')() === globalThis }";
    assert_eq!(answer(&scripts, &acme, other, json!({})).await, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_run_is_left_for_the_next() {
    let (server, scripts) = (Server::start(), Scripts::default());
    let source = "function main() {
        const before = [globalThis.left, Object.prototype.left, typeof process, typeof require, typeof fetch, typeof setTimeout];
        globalThis.left = 1; Object.prototype.left = 1; Promise.prototype.then = null; JSON.stringify = null;
        return before.map(String).join();
    }";
    for _ in 0..3 {
        let found = answer(&scripts, &server.ctx("acme"), source, json!({})).await;
        assert_eq!(
            found,
            "undefined,undefined,undefined,undefined,undefined,undefined"
        );
    }
}

/// A server that may call itself: `/echo` says what it was told, `/away` leads elsewhere.
async fn with_echo() -> (HttpServer, String) {
    let echo = |headers: HeaderMap, body: String| async move {
        let told = headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        json!({"told": told, "body": body}).to_string()
    };
    let routes = Router::new()
        .route("/echo", post(echo))
        .route("/away", get(|| async { Redirect::temporary("/echo") }));
    let server = HttpServer::builder().extra(routes).settings(|settings| {
        settings.outbound_allow = vec!["127.0.0.1".parse().unwrap()];
    });
    let server = server.start().await;
    let origin = format!("127.0.0.1:{}", server.address.port());
    (server, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_calls_hosts_and_sends_secrets_that_it_was_granted_and_no_others() {
    let ((server, origin), scripts) = (with_echo().await, Scripts::default());
    let ctx = server.app.system.ctx("acme".parse().unwrap(), "test");
    for name in ["token", "other"] {
        let input = json!({"name": name, "value": format!("marked-{name}")});
        let Value::Object(input) = input else {
            unreachable!()
        };
        server
            .app
            .catalog
            .call(ctx.clone(), "secret_set", input)
            .await
            .unwrap();
    }
    let source = "async function main({url, options, secret}, baton) {
        try {
            if (secret) options.headers = {Authorization: `Bearer ${baton.secret(secret)}`};
            const answer = await baton.fetch(url, options);
            return {status: answer.status, ok: answer.ok, to: answer.headers.location ?? null, answer: answer.ok ? await answer.json() : null};
        } catch (error) {
            return error.code;
        }
    }";
    let ask = async |url: String, options: Value, secret: Value| {
        let mut job = job(
            source,
            json!({"url": url, "options": options, "secret": secret}),
        );
        job.time = Duration::from_secs(30);
        job.hosts = vec![origin.clone(), "10.0.0.1".into()];
        job.secrets = vec!["token".parse().unwrap()];
        match scripts.run(&ctx, &job).await.unwrap() {
            Outcome::Value(value) => value,
            Outcome::Failed(message) => panic!("{message}"),
        }
    };
    let echo = || format!("http://{origin}/echo");
    let post = json!({"method": "post", "body": {"a": 1}});
    let told = ask(echo(), post.clone(), Value::Null).await;
    assert_eq!(
        told,
        json!({"status": 200, "ok": true, "to": null, "answer": {"told": null, "body": "{\"a\":1}"}})
    );
    // It went there, and came back without.
    let told = ask(echo(), post.clone(), json!("token")).await;
    assert_eq!(told["answer"]["told"], "Bearer …");
    assert_eq!(ask(echo(), post.clone(), json!("other")).await, "forbidden");
    let led = ask(format!("http://{origin}/away"), json!({}), Value::Null).await;
    assert_eq!(
        led,
        json!({"status": 307, "ok": false, "to": "/echo", "answer": null})
    );
    for (url, code) in [
        (
            format!("http://127.0.0.1.nip.example:{}/", server.address.port()),
            "forbidden",
        ),
        (format!("http://{origin}@example.com/"), "invalid_input"),
        ("https://example.com/".into(), "forbidden"),
        ("file:///etc/passwd".into(), "invalid_input"),
        // Granted by the tool, and not by the operator.
        ("http://10.0.0.1/".into(), "address_refused"),
    ] {
        assert_eq!(
            ask(url.clone(), json!({}), Value::Null).await,
            code,
            "{url}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_a_script_and_one_that_can_t_be_read_is_refused() {
    let server = Server::start();
    let tool = |name: &str, implementation: Value| {
        let text = json!({"type": "string", "default": "you"});
        json!({"name": name, "description": "Greets", "parameters": {"type": "object", "properties": {"whom": text}},
            "implementation": implementation})
    };
    let script = |source: &str| json!({"type": "script", "source": source});
    let greet = "async function main({whom}) { if (whom === 'nobody') throw new Error('who?'); return {greeting: `Hello ${whom}`}; }";
    server
        .call_as("acme", "tool_create", tool("greet", script(greet)))
        .await;
    let call = async |name: &str, arguments: Value| {
        let input = json!({"name": name, "arguments": arguments});
        server.try_call_as("acme", "tool_call", input).await
    };
    let greeted = call("greet", json!({})).await.unwrap();
    assert_eq!(greeted["greeting"], "Hello you");
    let failed = call("greet", json!({"whom": "nobody"})).await.unwrap_err();
    assert!(failed.message().contains("Error: who?"), "{failed}");
    for (implementation, path, told) in [
        (
            script("function main( {"),
            "/implementation/source",
            "SyntaxError",
        ),
        (
            script("for (;;);"),
            "/implementation/source",
            "longer than 2000 ms",
        ),
        (
            json!({"type": "script", "source": greet, "hosts": ["https://a.example/"]}),
            "/implementation/hosts/0",
            "a host such as",
        ),
        (
            json!({"type": "script", "source": greet, "hosts": ["*"], "secrets": ["token"]}),
            "/implementation/hosts",
            "names the hosts",
        ),
        (
            json!({"type": "script", "source": greet, "secrets": ["no name"]}),
            "/implementation/secrets/0",
            "a secret's name",
        ),
        (
            json!({"type": "script", "source": greet, "network": true}),
            "/implementation/network",
            "unknown field",
        ),
    ] {
        let made = server
            .try_call_as("acme", "tool_create", tool("other", implementation))
            .await;
        let refused = made.unwrap_err();
        assert_eq!(
            (refused.code(), refused.findings()[0].path.as_str()),
            ("invalid_input", path),
            "{refused}"
        );
        assert!(refused.message().contains(told), "{refused}");
    }
    // What an operator allows the tenant is what holds.
    let configured = json!({"tenant_id": "acme", "script_limits": {"max_script_seconds": 1}});
    server.call_as("acme", "tenant_configure", configured).await;
    let endless = json!({"tool_id": "greet", "manifest": {"implementation": script("function main() { for (;;); }")}});
    server.call_as("acme", "tool_update", endless).await;
    let ended = call("greet", json!({})).await.unwrap_err();
    assert!(ended.message().contains("longer than 1000 ms"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calculator_that_ships_calculates() {
    let server = Server::start();
    let manifest = std::fs::read_to_string("tools/calculate.toml").unwrap();
    let manifest: Value = toml::from_str(&manifest).unwrap();
    server.call("tool_create", manifest).await;
    for (expression, value) in [
        ("1 + 2 * 3", Some(7.0)),
        ("(1 + 2) * 3", Some(9.0)),
        ("2 ^ 3 ^ 2", Some(512.0)),
        ("-2 ^ 2 + 2 ^ -1", Some(-3.5)),
        ("max(1, 2) / hypot(3, 4)", Some(0.4)),
        ("round(19.99 * 1.21 * 100) / 100", Some(24.19)),
        ("1 / 0", None),
        ("2 +", None),
        ("constructor", None),
        ("exit(1)", None),
        ("1 2", None),
    ] {
        let input = json!({"name": "calculate", "arguments": {"expression": expression}});
        let answered = server.try_call("tool_call", input).await;
        assert_eq!(
            answered.ok().and_then(|it| it["value"].as_f64()),
            value,
            "{expression}"
        );
    }
}
