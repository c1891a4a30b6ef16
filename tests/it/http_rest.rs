//! The REST projection: every route of the catalogue, tenants, bodies that are refused, and the client that calls it.

use std::collections::BTreeSet;

use baton::error::Kind;
use baton::id::TenantId;
use baton::op::{Op, Route};
use baton::outbound::Client;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::support::http::{Answer, HttpServer};

const TASKS: &str = "/api/v1/tasks";

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// What a shape is made of: an error's code, or the names of an answer's fields.
fn shape(answer: &Value) -> BTreeSet<String> {
    match answer["code"].as_str() {
        Some(code) => BTreeSet::from([code.to_owned()]),
        None => answer.as_object().unwrap().keys().cloned().collect(),
    }
}

/// Calls a route of an operation with its sample.
async fn call(server: &HttpServer, op: &Op, route: &Route, tenant: &str) -> Answer {
    let mut input = (op.sample)();
    let fields = input.as_object_mut().unwrap();
    let mut path = route.path.to_owned();
    for name in route.path.split('/').filter_map(|segment| {
        segment
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
    }) {
        let value = fields
            .remove(name)
            .unwrap_or_else(|| panic!("the sample of {} has no {name}", op.name));
        path = path.replace(&format!("{{{name}}}"), value.as_str().unwrap());
    }
    let method = Method::from_bytes(route.method.as_bytes()).unwrap();
    if method == Method::GET && !fields.is_empty() {
        let texts = fields.iter().map(|(name, value)| match value {
            Value::String(text) => (name.clone(), text.clone()),
            other => (name.clone(), other.to_string()),
        });
        let url = reqwest::Url::parse_with_params("http://any", texts).unwrap();
        path = format!("{path}?{}", url.query().unwrap());
    }
    let request = server
        .request(method.clone(), &path)
        .header("x-tenant-id", tenant);
    Answer::of(match method {
        Method::GET => request,
        _ => request.json(&input),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_its_sample_as_the_catalogue_does() {
    let server = HttpServer::start().await;
    let catalog = server.app.catalog.clone();
    assert!(!catalog.ops().is_empty());
    for (number, op) in catalog.ops().iter().enumerate() {
        let input: Map<String, Value> = (op.sample)().as_object().cloned().unwrap();
        let ctx = server
            .app
            .system
            .ctx(tenant(&format!("direct{number}")), "test");
        let direct = match catalog.call(ctx, op.name, input).await {
            Ok(output) => output,
            Err(error) => json!({"code": error.code()}),
        };
        assert_ne!(direct["code"], "invalid_input", "the sample of {}", op.name);
        for (place, route) in op.routes.iter().enumerate() {
            let name = format!("rest{number}-{place}");
            let answer = call(&server, op, route, &name).await;
            let what = format!("{} {}: {}", route.method, route.path, answer.text);
            assert!(answer.status < 500, "{what}");
            if route.payload.is_some() && answer.body["code"] == "invalid_input" {
                continue;
            }
            assert_eq!(shape(&answer.body), shape(&direct), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_named_by_header_or_path_and_see_only_their_own() {
    let server = HttpServer::start().await;
    let task = json!({"task_id": "job", "description": "of acme"});
    let created = server.post(&format!("/t/acme{TASKS}"), &task).await;
    assert_eq!(created.status, 200, "{}", created.text);

    let read = |path: &str, header: Option<&str>| {
        let mut request = server.request(Method::GET, path);
        if let Some(header) = header {
            request = request.header("x-tenant-id", header);
        }
        Answer::of(request)
    };
    for (path, header) in [
        ("/api/v1/tasks/job", Some("acme")),
        ("/t/acme/api/v1/tasks/job", None),
        ("/t/acme/api/v1/tasks/job", Some("acme")),
    ] {
        let answer = read(path, header).await;
        assert_eq!(answer.body["description"], "of acme", "{}", answer.text);
    }
    let foreign = read("/api/v1/tasks/job", Some("globex")).await;
    foreign.is_problem(404, "unknown_task");
    let unknown = read("/api/v1/tasks/job", None).await;
    unknown.is_problem(404, "unknown_task");
    assert_eq!(foreign.text, unknown.text);

    let conflict = read("/t/acme/api/v1/tasks/job", Some("globex")).await;
    conflict.is_problem(400, "tenant_conflict");
    for bad in ["Acme", "", "a b"] {
        let answer = read("/api/v1/tasks/job", Some(bad)).await;
        answer.is_problem(400, "invalid_tenant");
    }
    read("/t/ACME/api/v1/tasks/job", None)
        .await
        .is_problem(400, "invalid_tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_server_serves_one_tenant() {
    let server = HttpServer::builder()
        .settings(|settings| settings.tenant = Some(tenant("acme")))
        .start()
        .await;
    server
        .post(TASKS, &json!({"task_id": "job", "description": "x"}))
        .await;
    let own = server.get("/t/acme/api/v1/tasks/job").await;
    assert_eq!(own.body["task_id"], "job", "{}", own.text);
    let other = server.get("/t/globex/api/v1/tasks/job").await;
    other.is_problem(400, "tenant_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_is_taken_are_refused_with_what_would_be() {
    let server = HttpServer::start().await;
    let send = |kind: &'static str, body: Vec<u8>| {
        let request = server.request(Method::POST, TASKS).body(body);
        Answer::of(request.header("content-type", kind))
    };
    let json = "application/json";
    let broken = send(json, b"{\n  \"description\": x}".to_vec()).await;
    broken.is_problem(400, "invalid_json");
    let detail = broken.body["detail"].as_str().unwrap();
    assert!(detail.ends_with("at line 2 column 18"), "{detail}");
    for body in [
        &b"\xff{}"[..],
        b"{\"description\": \"\xc3\"}",
        b"{}{}",
        &[b'['; 5000],
    ] {
        send(json, body.to_vec())
            .await
            .is_problem(400, "invalid_json");
    }
    for body in ["[]", "1", "null", "\"text\""] {
        let answer = send(json, body.into()).await;
        answer.is_problem(400, "invalid_input");
    }
    let deep = format!("{{\"task_data\": {}1{}}}", "[".repeat(60), "]".repeat(60));
    let answer = send(json, deep.into()).await;
    answer.is_problem(400, "invalid_input");
    assert!(answer.text.contains("32 levels"), "{}", answer.text);

    let body = br#"{"description": "x"}"#;
    send("text/plain", body.to_vec())
        .await
        .is_problem(415, "unsupported_media_type");
    let answer = send("application/json; charset=utf-8", body.to_vec()).await;
    assert_eq!(answer.status, 200);

    let answer = server
        .post(TASKS, &json!({"priority": "now", "colour": 1}))
        .await;
    answer.is_problem(400, "invalid_input");
    let paths: Vec<&str> = answer.body["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["path"].as_str().unwrap())
        .collect();
    assert!(
        paths.contains(&"/priority") && paths.len() == 3,
        "{}",
        answer.text
    );
    assert!(answer.text.contains("colour") && answer.text.contains("description"));
    let listed = server.get(TASKS).await;
    assert_eq!(listed.body["tasks"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_refused_with_the_limit() {
    const LIMIT: usize = 1024 * 1024;
    let server = HttpServer::start().await;
    let frame = r#"{"description": ""}"#.len();
    for (size, expected) in [(LIMIT, "invalid_input"), (LIMIT + 1, "body_too_large")] {
        let body = json!({"description": "x".repeat(size - frame)})
            .to_string()
            .replace(":\"", ": \"");
        assert_eq!(body.len(), size);
        let answer = Answer::of(
            server
                .request(Method::POST, TASKS)
                .header("content-type", "application/json")
                .body(body),
        )
        .await;
        let status = if expected == "invalid_input" {
            400
        } else {
            413
        };
        answer.is_problem(status, expected);
        if status == 413 {
            assert!(answer.text.contains("1048576 bytes"));
        }
    }
    // Without an announced length, and with one that is announced and never sent.
    let chunk = format!("{:x}\r\n{}\r\n", 300_000, "x".repeat(300_000));
    let head =
        "POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(4)
    );
    let answer = server.raw(&chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let expecting = format!("{head}Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n");
    let answer = server.raw(&expecting).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_named_in_two_places_must_agree() {
    let server = HttpServer::start().await;
    server
        .post(TASKS, &json!({"task_id": "job", "description": "x"}))
        .await;
    let cancel = "/api/v1/tasks/job/cancel";
    let answer = server.post(cancel, &json!({"task_id": "other"})).await;
    answer.is_problem(400, "invalid_input");
    assert_eq!(answer.body["details"][0]["path"], "/task_id");
    let answer = server.post(cancel, &json!({"task_id": "job"})).await;
    assert_eq!(answer.body["state"], "cancelled", "{}", answer.text);
    let answer = server.get("/api/v1/tasks?limit=1&limit=2").await;
    assert_eq!(
        answer.body["details"][0]["path"], "/limit",
        "{}",
        answer.text
    );
    let answer = server.get("/api/v1/tasks?limit=many&colour=1").await;
    answer.is_problem(400, "invalid_input");
    assert!(answer.text.contains("/limit") && answer.text.contains("colour"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_historic_path_takes_the_strict_payload() {
    let server = HttpServer::start().await;
    let answer = server.post("/execute", &json!({"description": "x"})).await;
    answer.is_problem(400, "invalid_input");
    assert!(answer.text.contains("orchestrator_info"), "{}", answer.text);
    let payload = json!({
        "task_id": "job-1",
        "task_type": "analysis",
        "description": "Count the lines",
        "priority": "normal",
        "orchestrator_info": {"agent_id": "boss", "timestamp": "2026-11-21T09:30:00Z"},
        "execution_context": {"timeout_seconds": 60},
        "task_data": {"folder": "src"},
    });
    let answer = server.post("/t/acme/execute", &payload).await;
    assert_eq!(answer.body["task_id"], "job-1", "{}", answer.text);
    let again = server.post("/t/acme/execute", &payload).await;
    assert_eq!(
        (again.status, &again.body["task_id"]),
        (200, &"job-1".into())
    );
    let mut other_name = payload;
    let kind = other_name.as_object_mut().unwrap().remove("task_type");
    other_name["type"] = kind.unwrap();
    let same = server.post("/t/acme/execute", &other_name).await;
    assert_eq!(same.body["created"], false, "{}", same.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_calls_routes_and_gets_errors_back_as_they_were() {
    let server = HttpServer::start().await;
    let client = Client::new(&server.url(""), Some(tenant("acme")), None, None).unwrap();
    let input = |value: Value| value.as_object().cloned().unwrap();
    let catalog = server.app.catalog.clone();
    let dispatch = &catalog.op("task_dispatch").unwrap().routes[0];
    let get = &catalog.op("task_get").unwrap().routes[0];

    let body = input(json!({"task_id": "a.b:c", "description": "x"}));
    let task = client
        .call(dispatch.method, dispatch.path, body)
        .await
        .unwrap();
    assert_eq!(task["task_id"], "a.b:c");
    let named = input(json!({"task_id": "a.b:c", "notifications": 1}));
    let task = client.call(get.method, get.path, named).await.unwrap();
    assert_eq!(task["state"], "pending");

    let unknown = input(json!({"task_id": "nothing"}));
    let error = client
        .call(get.method, get.path, unknown)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::NotFound, "unknown_task")
    );
    let bad = client
        .post(TASKS, &json!({"priority": 1}))
        .await
        .unwrap_err();
    assert_eq!((bad.kind(), bad.code()), (Kind::Invalid, "invalid_input"));
    assert!(
        bad.findings()
            .iter()
            .any(|finding| finding.path == "/priority")
    );

    let gone = server.url("");
    server.stop().await;
    let error = Client::new(&gone, None, None, None)
        .unwrap()
        .get("/health")
        .await
        .unwrap_err();
    assert_eq!(error.code(), "remote_unreachable");
}

/// Calls an operation by its canonical route, and holds what it answers to the schema that it publishes.
async fn checked(server: &HttpServer, name: &str, input: Value) -> Value {
    let op = server.app.catalog.op(name).unwrap();
    let client = Client::new(&server.url(""), None, None, None).unwrap();
    let fields = input.as_object().cloned().unwrap();
    let route = &op.routes[0];
    let output = client.call(route.method, route.path, fields).await.unwrap();
    let schema = Value::Object(op.output_schema.clone());
    let findings: Vec<String> = jsonschema::draft202012::new(&schema)
        .unwrap()
        .iter_errors(&output)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(findings.is_empty(), "{name} {output}: {findings:?}");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_over_rest_answers_what_the_schemas_say() {
    let server = HttpServer::start().await;
    let created = checked(&server, "task_dispatch", json!({"description": "x"})).await;
    let id = &created["task_id"];
    checked(
        &server,
        "task_dispatch",
        json!({"task_id": "next", "description": "y", "depends_on": [id]}),
    )
    .await;
    checked(&server, "task_list", json!({})).await;
    checked(&server, "task_get", json!({"task_id": id})).await;
    checked(
        &server,
        "task_update",
        json!({"task_id": id, "priority": "high"}),
    )
    .await;
    let claimed = checked(&server, "task_claim", json!({"agent_id": "ada"})).await;
    let token = &claimed["tasks"][0]["lease"]["token"];
    let leases =
        json!([{"task_id": id, "lease_token": token}, {"task_id": "no", "lease_token": "no"}]);
    checked(
        &server,
        "task_heartbeat",
        json!({"agent_id": "ada", "leases": leases}),
    )
    .await;
    let report = |kind: &str, data: Value| json!({"task_id": id, "agent_id": "ada", "lease_token": token, "notification_type": kind, "data": data});
    checked(&server, "task_notify", report("started", json!({}))).await;
    checked(
        &server,
        "task_notify",
        report(
            "escalated",
            json!({"reason": "unsure", "question": "which?"}),
        ),
    )
    .await;
    checked(
        &server,
        "task_wait",
        json!({"task_ids": [id], "wait_seconds": 0}),
    )
    .await;
    checked(
        &server,
        "task_answer",
        json!({"task_id": id, "answer": "this"}),
    )
    .await;
    checked(&server, "task_get", json!({"task_id": id})).await;
    let end = json!({"task_id": id, "agent_id": "ada", "lease_token": token, "reason": "success", "result": [1]});
    checked(&server, "task_end", end).await;
    let done = checked(&server, "task_get", json!({"task_id": id})).await;
    assert_eq!(
        (&done["state"], &done["result"]),
        (&json!("completed"), &json!([1]))
    );
    checked(
        &server,
        "task_cancel",
        json!({"task_id": "next", "reason": "enough"}),
    )
    .await;
    checked(&server, "task_retry", json!({"task_id": "next"})).await;
    checked(
        &server,
        "task_run",
        json!({"description": "z", "wait_seconds": 0}),
    )
    .await;
    let all = json!({"task_ids": [id, "next"], "until": "all", "wait_seconds": 0});
    checked(&server, "task_wait", all).await;
}
