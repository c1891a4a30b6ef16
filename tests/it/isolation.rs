//! Two tenants side by side: nothing of one is ever visible to the other, by whatever operation, resource or error.

use std::collections::BTreeMap;

use baton::op::Op;
use serde_json::{Value, json};

use crate::support::Server;

/// What only acme knows. Each stands somewhere in acme's data.
const MARKS: [&str; 21] = [
    "acme-task-1",
    "acme-secret-description",
    "acme-secret-data",
    "acme-agent",
    "acme-secret-step",
    "acme-secret-result",
    "acme-secret-reason",
    "acme-capability",
    "acme-secret-memory",
    "acme-secret-tag",
    "acme-secret-name",
    "acme-secret-value",
    "acme-secret-tool",
    "acme-secret-host",
    "acme-resource",
    "acme-secret-file",
    "acme-secret-text",
    "acme-secret-provider",
    "acme-database",
    "acme-secret-table",
    "acme-secret-row",
];

/// A server on which acme has a task in every state, full of marks.
async fn with_acmes_data() -> Server {
    let server = Server::start();
    for number in 1..=4 {
        let input = json!({
            "task_id": format!("acme-task-{number}"), "description": "acme-secret-description",
            "title": "acme-secret-description", "task_data": {"key": "acme-secret-data"},
            "required_capabilities": ["acme-capability"], "project_id": "acme-secret-data",
            "orchestrator_info": {"agent_id": "acme-agent"},
        });
        server.call_as("acme", "task_dispatch", input).await;
    }
    let claim =
        json!({"agent_id": "acme-agent", "capabilities": ["acme-capability"], "max_tasks": 3});
    let claimed = server.call_as("acme", "task_claim", claim).await;
    for (index, task) in claimed["tasks"].as_array().unwrap().iter().enumerate() {
        let held = |fields: Value| {
            let mut input = json!({
                "task_id": task["task_id"], "agent_id": "acme-agent", "lease_token": task["lease"]["token"],
            });
            input
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            input
        };
        let progress = json!({"notification_type": "progress", "notification_id": format!("acme-note-{index}"),
            "data": {"progress": 10, "current_step": "acme-secret-step"}});
        server.call_as("acme", "task_notify", held(progress)).await;
        match index {
            0 => {
                let end = json!({"reason": "success", "result": "acme-secret-result"});
                server.call_as("acme", "task_end", held(end)).await;
            }
            1 => {
                let ask = json!({"notification_type": "escalated", "data": {"question": "acme-secret-reason"}});
                server.call_as("acme", "task_notify", held(ask)).await;
            }
            _ => {}
        }
    }
    let cancel = json!({"task_id": "acme-task-4", "reason": "acme-secret-reason"});
    server.call_as("acme", "task_cancel", cancel).await;
    let memory = json!({"agent_id": "acme-agent", "content": "acme-secret-memory", "tags": ["acme-secret-tag"],
        "scope": "shared"});
    server.call_as("acme", "memory_write", memory).await;
    let secret = json!({"name": "acme-secret-name", "value": "acme-secret-value"});
    server.call_as("acme", "secret_set", secret).await;
    let tool = json!({"tool_id": "acme-secret-tool", "name": "acme-secret-tool", "description": "acme-secret-tool",
        "implementation": "https://acme-secret-host.example/"});
    server.call_as("acme", "tool_create", tool).await;
    let folder = json!({"resource_id": "acme-resource", "type": "file_storage", "uri": "file://tenant/acme-secret-file",
        "access_permissions": ["read", "write"]});
    server.call_as("acme", "resource_register", folder).await;
    let file = json!({"resource_id": "acme-resource", "path": "acme-secret-file.md", "text": "acme-secret-text"});
    server.call_as("acme", "resource_write", file).await;
    let database = json!({"resource_id": "acme-database", "type": "database", "uri": "file://tenant/acme-secret-file/acme.db",
        "access_permissions": ["read", "write"]});
    server.call_as("acme", "resource_register", database).await;
    let table = json!({"resource_id": "acme-database", "sql": "CREATE TABLE \"acme-secret-table\" AS SELECT 'acme-secret-row' AS a", "write": true});
    server.call_as("acme", "resource_query", table).await;
    let configuration = json!({"tenant_id": "acme", "ai_providers": ["acme-secret-provider"]});
    server.call("tenant_configure", configuration).await;
    server
}

/// The sample of `op`, speaking of `task_id`.
fn about(op: &Op, task_id: &str) -> Value {
    let mut input = (op.sample)();
    let fields = input.as_object_mut().unwrap();
    for name in ["task_id", "parent_task_id"] {
        if fields.contains_key(name) {
            fields.insert(name.into(), task_id.into());
        }
    }
    if fields.contains_key("task_ids") {
        fields.insert("task_ids".into(), json!([task_id]));
    }
    if fields.contains_key("leases") {
        fields["leases"][0]["task_id"] = task_id.into();
    }
    input
}

/// What a call answers, as one text.
async fn answer(server: &Server, op: &str, input: Value) -> String {
    match server.try_call_as("globex", op, input).await {
        Ok(output) => output.to_string(),
        Err(error) => serde_json::to_string(&error.body()).unwrap(),
    }
}

#[tokio::test]
async fn a_foreign_id_answers_exactly_as_an_unknown_one() {
    let server = with_acmes_data().await;
    for op in server.app.catalog.ops() {
        for number in 1..=4 {
            let foreign = format!("acme-task-{number}");
            let found = answer(&server, op.name, about(op, &foreign)).await;
            let unknown = answer(&server, op.name, about(op, "never-was-one")).await;
            if op.name.starts_with("task_dispatch")
                || op.name == "task_run"
                || op.name == "task_claim"
                || op.name == "key_create"
                || op.name == "memory_write"
                || op.name == "secret_set"
                || op.name == "secret_delete"
                || op.name == "tool_create"
                || op.name.starts_with("resource_")
            {
                continue;
            }
            assert_eq!(
                found.replace(&foreign, "never-was-one"),
                unknown,
                "{}",
                op.name
            );
        }
    }
}

#[tokio::test]
async fn a_foreign_memory_answers_exactly_as_an_unknown_one() {
    let server = with_acmes_data().await;
    let listed = server.call_as("acme", "memory_list", json!({})).await;
    let foreign = listed["memories"][0]["memory_id"].as_str().unwrap();
    for op in server.app.catalog.ops() {
        let fields = op.input_schema["properties"].as_object().unwrap();
        for (field, many) in [("memory_id", false), ("supersedes", true)] {
            if !fields.contains_key(field) {
                continue;
            }
            let naming = |id: &str| {
                let mut input = (op.sample)();
                input[field] = if many { json!([id]) } else { json!(id) };
                input
            };
            let found = answer(&server, op.name, naming(foreign)).await;
            let unknown = answer(&server, op.name, naming("never-was-one")).await;
            assert!(unknown.contains("unknown_memory"), "{}: {unknown}", op.name);
            assert_eq!(
                found.replace(foreign, "never-was-one"),
                unknown,
                "{}",
                op.name
            );
        }
    }
    let kept = server.call_as("acme", "memory_get", json!({"memory_id": foreign}));
    assert_eq!(kept.await["content"], "acme-secret-memory");
}

#[tokio::test]
async fn a_foreign_secret_is_an_unknown_one_and_a_name_of_ones_own() {
    let server = with_acmes_data().await;
    let delete = |name: &str| answer(&server, "secret_delete", json!({"name": name}));
    let (foreign, unknown) = (delete("acme-secret-name").await, delete("nothing").await);
    assert_eq!(foreign.replace("acme-secret-name", "nothing"), unknown);
    let ours = json!({"name": "acme-secret-name", "value": "ours"});
    let ours = server.call_as("globex", "secret_set", ours).await;
    assert_eq!(
        (&ours["version"], &ours["created"]),
        (&json!(1), &json!(true))
    );
    let theirs = server.call_as("acme", "secret_list", json!({})).await;
    assert_eq!(theirs["secrets"][0]["version"], 1);
}

#[tokio::test]
async fn a_foreign_tool_answers_exactly_as_an_unknown_one() {
    let server = with_acmes_data().await;
    let foreign = "acme-secret-tool";
    for op in server.app.catalog.ops() {
        let fields = op.input_schema["properties"].as_object().unwrap();
        let is_about_tools = op.name.starts_with("tool_") && op.name != "tool_create";
        for field in ["tool_id", "name"] {
            if !is_about_tools || !fields.contains_key(field) {
                continue;
            }
            let naming = |id: &str| {
                let mut input = (op.sample)();
                input[field] = json!(id);
                input
            };
            let found = answer(&server, op.name, naming(foreign)).await;
            let unknown = answer(&server, op.name, naming("never-was-one")).await;
            assert!(unknown.contains("unknown_tool"), "{}: {unknown}", op.name);
            let same = found.replace(foreign, "never-was-one");
            assert_eq!(same, unknown, "{}", op.name);
        }
    }
    let ours =
        json!({"name": foreign, "description": "ours", "implementation": "https://e.example/"});
    let ours = server.call_as("globex", "tool_create", ours).await;
    assert_ne!(ours["tool_id"], foreign);
    let theirs = server.call_as("acme", "tool_describe", json!({"name": foreign}));
    assert_eq!(theirs.await["description"], foreign);
}

#[tokio::test]
async fn a_foreign_resource_answers_exactly_as_an_unknown_one() {
    let server = with_acmes_data().await;
    for op in server.app.catalog.ops() {
        let fields = op.input_schema["properties"].as_object().unwrap();
        if !fields.contains_key("resource_id") || op.name == "resource_register" {
            continue;
        }
        let naming = |id: &str| {
            let mut input = (op.sample)();
            input["resource_id"] = id.into();
            input
        };
        let found = answer(&server, op.name, naming("acme-resource")).await;
        let unknown = answer(&server, op.name, naming("never-was-one")).await;
        assert!(
            unknown.contains("unknown_resource"),
            "{}: {unknown}",
            op.name
        );
        assert_eq!(
            found.replace("acme-resource", "never-was-one"),
            unknown,
            "{}",
            op.name
        );
    }
    // The same name, and the same folder of the tenant's own: another resource, and another folder.
    let ours = json!({"resource_id": "acme-resource", "type": "file_storage", "uri": "file://tenant/acme-secret-file"});
    server.call_as("globex", "resource_register", ours).await;
    let listed = server
        .call_as(
            "globex",
            "resource_read",
            json!({"resource_id": "acme-resource"}),
        )
        .await;
    assert_eq!(listed["entries"], json!([]));
    let outside =
        json!({"resource_id": "x", "type": "file_storage", "uri": "file://tenant/../acme"});
    let refused = server
        .try_call_as("globex", "resource_register", outside)
        .await;
    assert_eq!(refused.unwrap_err().code(), "invalid_input");
}

#[tokio::test]
async fn no_answer_shows_anything_of_another_tenant() {
    let server = with_acmes_data().await;
    for op in server.app.catalog.ops() {
        let mut inputs = vec![(op.sample)(), about(op, "globex-task")];
        if op.name == "task_claim" {
            inputs.push(json!({"agent_id": "acme-agent", "capabilities": ["acme-capability"], "max_tasks": 5}));
        }
        if op.name.starts_with("tenant_") {
            inputs.push(json!({"tenant_id": "globex", "confirm": false}));
            inputs.push(json!({}));
        }
        if op.name == "memory_search" {
            inputs.push(json!({"query": "acme secret memory"}));
        }
        if op.name == "tool_search" {
            inputs.push(json!({"query": "acme secret tool"}));
        }
        if op.name == "memory_list" {
            inputs.push(json!({"limit": 200}));
            inputs.push(json!({"agent_id": "acme-agent", "tags": ["acme-secret-tag"]}));
        }
        if op.name == "task_list" {
            inputs.push(json!({"limit": 200}));
            inputs.push(json!({"agent_id": "acme-agent"}));
        }
        for input in inputs {
            let told = input.to_string();
            let output = answer(&server, op.name, input).await;
            for mark in MARKS {
                // What a caller said itself is no secret.
                assert!(
                    told.contains(mark) || !output.contains(mark),
                    "{}: {output}",
                    op.name
                );
            }
        }
    }
    let claimed =
        json!({"agent_id": "x", "capabilities": ["acme-capability", "shell"], "max_tasks": 5});
    let claimed = server.call_as("globex", "task_claim", claimed).await;
    assert!(!claimed.to_string().contains("acme"), "{claimed}");
}

#[tokio::test]
async fn resources_lists_and_completions_show_nothing_of_another_tenant() {
    let server = with_acmes_data().await;
    let (acme, globex) = (server.ctx("acme"), server.ctx("globex"));
    let catalog = &server.app.catalog;
    let listed = server.call_as("acme", "memory_list", json!({})).await;
    let memory = listed["memories"][0]["memory_id"].as_str().unwrap();
    let memory = format!("baton://memory/acme-agent/{memory}");
    for (uri, id) in [
        ("baton://tasks/acme-task-1", "acme-task-1"),
        ("baton://tasks/acme-task-1/report", "acme-task-1"),
        ("baton://memory/acme-agent", "acme-agent"),
        (memory.as_str(), "acme-agent"),
        ("baton://resources/acme-resource", "acme-resource"),
        (
            "baton://resources/acme-resource/acme-secret-file.md",
            "acme-resource",
        ),
        ("baton://resources/acme-database", "acme-database"),
        (
            "baton://resources/acme-database/acme-secret-table",
            "acme-database",
        ),
    ] {
        assert!(catalog.read(&acme, uri).await.is_ok(), "{uri}");
        let foreign = catalog.read(&globex, uri).await.unwrap_err();
        let unknown = catalog.read(&globex, &uri.replace(id, "nothing")).await;
        let unknown = unknown.unwrap_err();
        assert_eq!(foreign.code(), unknown.code());
        assert_eq!(foreign.message().replace(id, "nothing"), unknown.message());
    }
    let (items, _) = catalog.list(&globex, None, 100).await.unwrap();
    assert!(items.iter().all(|(_, item)| !item.uri.contains("acme")));
    let (items, _) = catalog.list(&acme, None, 100).await.unwrap();
    assert_eq!(
        items
            .iter()
            .filter(|(_, item)| item.uri.contains("acme"))
            .count(),
        7
    );
    for kind in catalog.resources() {
        let variables = kind.template.split('{').skip(1);
        let variables = variables.map(|rest| rest.split('}').next().unwrap());
        let variables = variables.map(|name| name.trim_start_matches('+'));
        for variable in variables {
            for prefix in ["", "acme", "acme-task", "mem_"] {
                let settled =
                    BTreeMap::from([("resource_id".to_owned(), "acme-resource".to_owned())]);
                let values = catalog.complete(&globex, kind.template, (variable, prefix), settled);
                let values = values.await.unwrap().values;
                let is_theirs =
                    |value: &String| value.contains("acme") || value.starts_with("mem_");
                assert!(!values.iter().any(is_theirs), "{values:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_same_ids_in_two_tenants_are_two_tasks() {
    let server = with_acmes_data().await;
    let input = json!({"task_id": "acme-task-1", "description": "ours"});
    let ours = server.call_as("globex", "task_dispatch", input).await;
    assert_eq!(
        (&ours["created"], &ours["state"]),
        (&json!(true), &json!("pending"))
    );
    let theirs = server
        .call_as("acme", "task_get", json!({"task_id": "acme-task-1"}))
        .await;
    assert_eq!(theirs["state"], "completed");
    server
        .call_as("globex", "task_cancel", json!({"task_id": "acme-task-1"}))
        .await;
    let theirs = server
        .call_as("acme", "task_get", json!({"task_id": "acme-task-1"}))
        .await;
    assert_eq!(theirs["state"], "completed");
}
