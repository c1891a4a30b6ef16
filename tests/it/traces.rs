//! Trace context: a call belongs to the trace that its caller names, and so does what it causes: events, tasks, what
//! their executors do, and what is logged.

use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton::events;
use reqwest::Method;
use serde_json::{Value, json};

use crate::program::{Home, complaint};
use crate::support::client::{Client, Way};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{initialize, modern, tool};

const CHIEF: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ADA: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A tool call whose `_meta` has these.
fn carrying(meta: Value, name: &str, arguments: Value) -> Value {
    let mut params = tool(name, arguments);
    params["_meta"] = meta;
    params
}

fn dispatch(id: &str) -> Value {
    json!({"description": "x", "task_id": id})
}

/// The events of the default tenant, short: kind, parent and state. Their chain must hold.
async fn events_of(server: &HttpServer) -> Vec<Value> {
    let ctx = server.app.system.ctx("default".parse().unwrap(), "test");
    let all = ctx.read(|_, tx| {
        events::verify(tx, 0, &[], 1_000)?;
        events::after(tx, 0, 1_000)
    });
    let all = all.await.unwrap();
    let short = |event: events::Event| {
        let kind = event.kind.trim_start_matches("dev.baton.task.").to_owned();
        let trace = event.trace.map(baton::trace::Trace::into_attributes);
        let (parent, state) = trace.unwrap_or_default();
        json!([kind, parent, state])
    };
    all.into_iter().map(short).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_remembers_its_trace_and_its_executor_may_bring_another() {
    for way in Way::ALL {
        eprintln!("over {way:?}");
        let server = HttpServer::start().await;
        let mut client = Client::open(&server, way).await;
        let meta =
            json!({"traceparent": CHIEF, "tracestate": "rojo=1,congo=2", "baggage": "user=chief"});
        let whole = meta.clone();
        let sent = carrying(meta, "task_dispatch", dispatch("t"));
        let sent = client.ask("tools/call", sent).await;
        assert_eq!(sent["result"]["isError"], false, "{sent}");
        let claimed = client.call("task_claim", json!({"agent_id": "ada"})).await;
        let task = &claimed["result"]["structuredContent"]["tasks"][0];
        assert_eq!(task["trace"], whole, "{claimed}");
        let hers = |mut fields: Value| {
            fields["task_id"] = "t".into();
            fields["agent_id"] = "ada".into();
            fields["lease_token"] = task["lease"]["token"].clone();
            fields
        };
        // One that wants progress does not go the short way.
        let meta = json!({"traceparent": ADA, "tracestate": "?", "progressToken": 7});
        let started = hers(json!({"notification_type": "started"}));
        client
            .ask("tools/call", carrying(meta, "task_notify", started))
            .await;
        let half = hers(json!({"notification_type": "progress", "data": {"progress": 50}}));
        client.call("task_notify", half).await;
        client
            .call("task_end", hers(json!({"reason": "success"})))
            .await;
        let state = "rojo=1,congo=2";
        assert_eq!(
            events_of(&server).await,
            [
                json!(["dispatched", CHIEF, state]),
                json!(["claimed", CHIEF, state]),
                json!(["report.started", ADA, null]),
                json!(["report.progress", CHIEF, state]),
                json!(["completed", CHIEF, state]),
            ]
        );
        let got = client.call("task_get", json!({"task_id": "t"})).await;
        let got = &got["result"]["structuredContent"];
        assert_eq!(got["trace"], whole);
        assert_eq!(got["notifications"][0]["traceparent"], ADA);
        assert_eq!(got["notifications"][1]["tracestate"], state);
        // What is malformed is nobody's mistake.
        for (number, meta) in [
            json!({"traceparent": "nonsense", "baggage": "a=b"}),
            json!({"traceparent": 7}),
            json!({"traceparent": null, "tracestate": "a=b"}),
            json!({"traceparent": CHIEF.to_uppercase()}),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("plain{number}");
            let sent = carrying(meta, "task_dispatch", dispatch(&id));
            let sent = client.ask("tools/call", sent).await;
            assert_eq!(sent["result"]["isError"], false, "{sent}");
            let got = client.call("task_get", json!({"task_id": id})).await;
            assert!(
                got["result"]["structuredContent"]["trace"].is_null(),
                "{got}"
            );
        }
        let last = events_of(&server).await.pop().unwrap();
        assert_eq!(last, json!(["dispatched", "", null]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_name_the_trace_where_meta_does_not() {
    let ways = Way::ALL.into_iter().filter(|way| !way.is_pipes());
    for way in ways {
        eprintln!("over {way:?}");
        let server = HttpServer::start().await;
        let mut client = Client::open(&server, way).await;
        server.carry(&[("traceparent", ADA), ("tracestate", "a=b")]);
        client.call("task_dispatch", dispatch("headers")).await;
        for (id, named) in [("meta", CHIEF), ("nonsense", "?")] {
            let meta = json!({"traceparent": named});
            let sent = carrying(meta, "task_dispatch", dispatch(id));
            client.ask("tools/call", sent).await;
        }
        let told = events_of(&server).await;
        let expected = [
            json!(["dispatched", ADA, "a=b"]),
            json!(["dispatched", CHIEF, null]),
            json!(["dispatched", ADA, "a=b"]),
        ];
        assert_eq!(told, expected);
    }
    let server = HttpServer::start().await;
    for headers in [&[("traceparent", CHIEF)][..], &[("traceparent", "?")], &[]] {
        server.carry(headers);
        let sent = server
            .post("/api/v1/tasks", &json!({"description": "x"}))
            .await;
        assert_eq!(sent.status, 200, "{}", sent.text);
    }
    let told = events_of(&server).await;
    let parents: Vec<_> = told.iter().map(|event| &event[1]).collect();
    assert_eq!(parents, [CHIEF, "", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_runs_out_is_told_in_the_trace_of_the_task() {
    let server = crate::support::Server::start();
    let trace = baton::trace::Trace::of_line(CHIEF);
    let ctx = server.ctx("default").traced(trace);
    let input = json!({"description": "x", "execution_context": {"max_retries": 0}});
    let input = input.as_object().unwrap().clone();
    let sent = server.app.catalog.call(ctx, "task_dispatch", input).await;
    assert!(sent.is_ok(), "{sent:?}");
    server.claim("ada", &[]).await.unwrap();
    server.advance(Duration::from_mins(2)).await;
    let ctx = server.ctx("default");
    let told = ctx.read(|_, tx| events::after(tx, 0, 10)).await.unwrap();
    assert_eq!(told.last().unwrap().kind, "dev.baton.task.failed");
    let is_of_chief = |event: &events::Event| {
        let trace = event.trace.as_ref().map(baton::trace::Trace::line);
        trace.as_deref() == Some(CHIEF)
    };
    assert!(told.iter().all(is_of_chief), "{told:?}");
}

/// The trace of a caller who is known by a number.
fn numbered(number: usize) -> String {
    format!("00-{number:032x}-{number:016x}-01")
}

fn get(number: usize, mut meta: Value) -> Value {
    meta["traceparent"] = numbered(number).into();
    carrying(meta, "task_get", json!({"task_id": "t"}))
}

/// Where a test keeps what is logged on its thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// On one thread, which is all that is listened to.
#[tokio::test]
async fn what_a_call_over_http_logs_names_its_trace() {
    let server = HttpServer::start().await;
    server.dispatch("/mcp", "t").await;
    server.home.execute("DROP TABLE tasks");
    let logged = Logged::default();
    let writer = logged.clone();
    let logs = tracing_subscriber::fmt().with_ansi(false);
    let logs = logs.with_max_level(tracing::Level::WARN);
    let logs = logs.with_writer(move || writer.clone()).finish();
    let _listening = tracing::subscriber::set_default(logs);
    let mut number = 1;
    for way in [Way::HttpModern, Way::HttpLegacy, Way::Sse] {
        let mut client = Client::open(&server, way).await;
        // The short way, and the long one.
        for meta in [json!({}), json!({"progressToken": 1})] {
            let answer = client.ask("tools/call", get(number, meta)).await;
            assert_eq!(answer["result"]["isError"], true, "{answer}");
            number += 1;
        }
    }
    let rest = server.request(Method::GET, "/api/v1/tasks/t");
    let rest = rest.header("traceparent", numbered(number));
    assert_eq!(Answer::of(rest).await.status, 500);
    let text = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    let failed: Vec<_> = text
        .lines()
        .filter(|line| line.contains("a call failed"))
        .collect();
    assert_eq!(failed.len(), number, "{text}");
    for (line, number) in failed.into_iter().zip(1..) {
        let ids = format!("call{{trace_id=\"{number:032x}\" span_id=\"{number:016x}\"}}");
        assert!(line.contains(&ids), "{line}");
    }
}

#[test]
fn what_a_call_over_pipes_logs_names_its_trace() {
    let home = Home::new();
    let data = home.path("").display().to_string();
    let dispatched = dispatch("t").to_string();
    home.print(&["call", "task_dispatch", &dispatched, "--data", &data]);
    home.place().execute("DROP TABLE tasks");
    let plain = |number| json!({"jsonrpc": "2.0", "id": number, "method": "tools/call"});
    let calls = [json!({}), json!({"progressToken": 1})]
        .into_iter()
        .zip(1..);
    let eras = [false, true].map(|is_modern| {
        let calls = calls.clone().map(|(meta, number)| {
            let params = get(number, meta);
            let mut message = plain(number);
            if is_modern {
                message = modern("tools/call", params);
                message["id"] = number.into();
            } else {
                message["params"] = params;
            }
            message
        });
        let greeting = (!is_modern).then(|| initialize("2025-11-25"));
        greeting.into_iter().chain(calls).collect::<Vec<_>>()
    });
    for messages in eras {
        let arguments = ["stdio", "--log-format", "json", "--data", &data];
        let mut program = home.command(&arguments);
        let program = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut program = program.spawn().unwrap();
        let mut input = program.stdin.take().unwrap();
        for message in messages {
            writeln!(input, "{message}").unwrap();
        }
        drop(input);
        let output = program.wait_with_output().unwrap();
        let said = complaint(&output);
        let lines = said.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines = lines.filter(|line: &Value| line["message"] == "a call failed");
        let mut spans: Vec<_> = lines.map(|line| line["span"].clone()).collect();
        spans.sort_by_key(|span| span["trace_id"].to_string());
        let expected = [1, 2].map(|number| {
            json!({"name": "call", "trace_id": format!("{number:032x}"), "span_id": format!("{number:016x}")})
        });
        assert_eq!(spans, expected, "{said}");
    }
}

#[test]
fn programs_pass_the_trace_on_from_environment_to_environment() {
    let home = Home::new();
    let (_server, url) = home.serve("127.0.0.1:0");
    let run = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command
            .env("TRACEPARENT", CHIEF)
            .env("TRACESTATE", "rojo=1")
            .env("BAGGAGE", "none of its own");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", complaint(&output));
    };
    let names = "echo \"$TRACEPARENT $TRACESTATE $BAGGAGE.\"";
    for to in [&[][..], &["--url", &url]] {
        let id = format!("t{}", to.len());
        let input = dispatch(&id).to_string();
        run(&[&["call", "task_dispatch", &input], to].concat());
        let work = [&["work", "--exec", names, "--once"], to].concat();
        let mut work = home.command(&work);
        // Its own trace is another one, and not the task's.
        let work = work
            .env("TRACEPARENT", ADA)
            .env("BAGGAGE", "whose=ada")
            .output()
            .unwrap();
        assert!(work.status.success(), "{}", complaint(&work));
        let done = home.call("task_get", &json!({"task_id": id}));
        assert_eq!(
            done["trace"],
            json!({"traceparent": CHIEF, "tracestate": "rojo=1"})
        );
        assert_eq!(done["result"], format!("{CHIEF} rojo=1 ."), "{done}");
        assert_eq!(done["notifications"][0]["traceparent"], CHIEF, "{done}");
        assert_eq!(done["notifications"][0]["tracestate"], "rojo=1", "{done}");
    }
}
