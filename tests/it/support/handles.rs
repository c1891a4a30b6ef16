//! A client that follows handles, as the Tasks extension has it.

use serde_json::{Value, json};

use super::http::{Answer, HttpServer};
use super::mcp::{following, tool};

/// Where the stories happen.
pub(crate) const ACME: &str = "/t/acme/mcp";

/// What a client that follows handles is answered.
pub(crate) async fn ask(server: &HttpServer, path: &str, method: &str, params: Value) -> Value {
    let answer = Answer::of(server.modern(path, &following(method, params))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["result"].clone()
}

/// The handle that a call is answered by.
pub(crate) async fn handle(server: &HttpServer, name: &str, input: Value) -> String {
    let result = ask(server, ACME, "tools/call", tool(name, input)).await;
    assert_eq!(result["resultType"], "task", "{result}");
    assert_eq!(result["ttlMs"], 604_800_000, "{result}");
    assert_eq!(result["pollIntervalMs"], 1_000, "{result}");
    result["taskId"].as_str().unwrap().to_owned()
}

/// Where the handle `id` stands.
pub(crate) async fn get(server: &HttpServer, id: &str) -> Value {
    let result = ask(server, ACME, "tasks/get", json!({"taskId": id})).await;
    assert_eq!(
        (&result["resultType"], &result["taskId"]),
        (&json!("complete"), &json!(id)),
        "{result}"
    );
    result
}

/// Sends what is answered by an empty result.
pub(crate) async fn acknowledged(server: &HttpServer, method: &str, params: Value) {
    let result = ask(server, ACME, method, params).await;
    let mut rest = result.as_object().unwrap().clone();
    rest.remove("_meta");
    assert_eq!(json!(rest), json!({"resultType": "complete"}));
}

/// Sends a response to a question.
pub(crate) async fn answers(server: &HttpServer, id: &str, key: &str, response: Value) {
    let params = json!({"taskId": id, "inputResponses": {key: response}});
    acknowledged(server, "tasks/update", params).await;
}

/// A form that was filled in.
pub(crate) fn accept(answer: &str) -> Value {
    json!({"action": "accept", "content": {"answer": answer}})
}

/// The only open question: its key and its form.
pub(crate) fn question(task: &Value) -> (String, Value) {
    assert_eq!(task["status"], "input_required", "{task}");
    let requests = task["inputRequests"].as_object().unwrap();
    assert_eq!(requests.len(), 1, "{task}");
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!(request["method"], "elicitation/create", "{task}");
    (key.clone(), request["params"].clone())
}

/// What an executor tells.
pub(crate) fn told(kind: &str, data: Value) -> Value {
    json!({"notification_type": kind, "data": data})
}

/// What an executor asks.
pub(crate) fn asks(question: &str) -> Value {
    told(
        "escalated",
        json!({"question": question, "reason": "two ways", "options": ["left", {"label": "right", "id": 2}]}),
    )
}
