//! What clients are shown, over every way: all of it is titled, completed, paged, and said by whom and for how long; and
//! what belongs to one era is promised in no other.

use serde_json::{Value, json};

use crate::access::{guarded, key_of, operate};
use crate::support::client::{Client, Way};
use crate::support::http::{Answer, HttpServer};
use crate::support::mcp::{following, modern, tool};

const LISTS: [(&str, &str); 4] = [
    ("tools/list", "tools"),
    ("resources/list", "resources"),
    ("resources/templates/list", "resourceTemplates"),
    ("prompts/list", "prompts"),
];

async fn everywhere(story: impl AsyncFn(&HttpServer, Way, &mut Client<'_>)) {
    for way in Way::ALL {
        eprintln!("over {way:?}");
        let server = HttpServer::start().await;
        let task = json!({
            "description": "x", "task_id": "t", "title": "Tidy up", "assigned_to": "ada",
            "required_capabilities": ["rust"],
        });
        server.use_tool("/mcp", "task_dispatch", task).await;
        let memory = json!({"agent_id": "ada", "content": "The wall is red."});
        server.use_tool("/mcp", "memory_write", memory).await;
        let folder =
            json!({"resource_id": "docs", "type": "file_storage", "uri": "file://tenant/docs"});
        server.use_tool("/mcp", "resource_register", folder).await;
        let mut client = Client::open(&server, way).await;
        story(&server, way, &mut client).await;
    }
}

fn completing(reference: Value, name: &str, value: &str) -> Value {
    json!({"ref": reference, "argument": {"name": name, "value": value}})
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_has_a_title_and_an_icon_and_says_how_long_it_may_be_kept() {
    everywhere(async |_, way, client| {
        for (method, member) in LISTS {
            let result = client.ask(method, json!({})).await["result"].take();
            if way.is_modern() {
                // `_meta` may choose another tenant with the next request.
                assert_eq!(
                    (&result["ttlMs"], &result["cacheScope"]),
                    (&json!(0), &json!("private"))
                );
                let name = &result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"];
                assert_eq!(name, "baton", "{method}");
            }
            let items = result[member].as_array().unwrap();
            assert!(!items.is_empty(), "{method}");
            for item in items {
                for field in ["name", "title", "description"] {
                    assert!(!item[field].as_str().unwrap().is_empty(), "{field}: {item}");
                }
                assert!(item["icons"][0]["src"].is_string(), "{item}");
                let annotated = item["annotations"].is_object();
                assert_eq!(annotated, member != "prompts", "{item}");
                for argument in item["arguments"].as_array().into_iter().flatten() {
                    assert!(argument["title"].is_string(), "{item}");
                    assert!(argument["description"].is_string(), "{item}");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variable_and_every_argument_is_completed() {
    everywhere(async |_, _, client| {
        let mut asked = Vec::new();
        let templates = client.ask("resources/templates/list", json!({})).await;
        for kind in templates["result"]["resourceTemplates"].as_array().unwrap() {
            let template = kind["uriTemplate"].as_str().unwrap();
            let reference = json!({"type": "ref/resource", "uri": template});
            let variables = template.split('{').skip(1);
            let variables = variables.map(|rest| rest.split('}').next().unwrap());
            // What is left of a URI lies on a disk, for which completion does not wait.
            for variable in variables.filter(|variable| !variable.starts_with('+')) {
                asked.push((reference.clone(), variable.to_owned()));
            }
        }
        let prompts = client.ask("prompts/list", json!({})).await;
        for prompt in prompts["result"]["prompts"].as_array().unwrap() {
            let reference = json!({"type": "ref/prompt", "name": prompt["name"]});
            for argument in prompt["arguments"].as_array().unwrap() {
                let name = argument["name"].as_str().unwrap();
                asked.push((reference.clone(), name.to_owned()));
            }
        }
        assert_eq!(asked.len(), 13, "{asked:?}");
        for (reference, name) in asked {
            let found = completing(reference.clone(), &name, "");
            let found = client.ask("completion/complete", found).await;
            let found = &found["result"]["completion"];
            assert!(
                found["values"][0].is_string(),
                "{reference} {name}: {found}"
            );
            assert_eq!(found["hasMore"], false, "{found}");
            let none = completing(reference.clone(), &name, "no such");
            let none = client.ask("completion/complete", none).await;
            assert_eq!(none["result"]["completion"]["values"], json!([]), "{none}");
            let unknown = completing(reference, "colour", "");
            let unknown = client.ask("completion/complete", unknown).await;
            assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
        }
        let number = json!({"name": "execute", "arguments": {"agent_id": 7}});
        let number = client.ask("prompts/get", number).await;
        let message = number["error"]["message"].as_str().unwrap();
        assert_eq!(message, "/arguments/agent_id: must be a string");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_more_where_a_hundred_do_not_tell_all() {
    let server = HttpServer::start().await;
    for number in 0..101 {
        server.dispatch("/mcp", &format!("t{number}")).await;
    }
    let reference = json!({"type": "ref/resource", "uri": "baton://tasks/{task_id}"});
    for (prefix, count, has_more) in [("t", 100, true), ("t1", 12, false)] {
        let params = completing(reference.clone(), "task_id", prefix);
        let found = server.ask("completion/complete", params).await;
        let found = &found.body["result"]["completion"];
        assert_eq!(found["values"].as_array().unwrap().len(), count, "{found}");
        assert_eq!(found["hasMore"], has_more, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_leads_on_in_its_own_list_and_tenant_alone() {
    let server = HttpServer::start().await;
    for tenant in ["acme", "globex"] {
        for number in 0..101 {
            let path = format!("/t/{tenant}/mcp");
            server.dispatch(&path, &format!("{tenant}{number}")).await;
        }
        operate(
            &server,
            tenant,
            "key_create",
            json!({"roles": ["observer"]}),
        )
        .await;
        operate(
            &server,
            tenant,
            "key_create",
            json!({"roles": ["observer"]}),
        )
        .await;
    }
    let one = json!({"limit": 1});
    let tasks = server
        .use_tool("/t/acme/mcp", "task_list", one.clone())
        .await;
    let keys = operate(&server, "acme", "key_list", one).await;
    let resources = modern("resources/list", json!({}));
    let resources = Answer::of(server.modern("/t/acme/mcp", &resources)).await;
    let cursors = [
        ("task_list", &tasks["next_cursor"]),
        ("key_list", &keys["next_cursor"]),
        ("resources/list", &resources.body["result"]["nextCursor"]),
    ];
    for (from, cursor) in cursors {
        assert!(cursor.is_string(), "{from}");
        for (tenant, is_home) in [("acme", true), ("globex", false)] {
            let ctx = server.app.system.ctx(tenant.parse().unwrap(), "test");
            for to in ["task_list", "key_list"] {
                let input = json!({"cursor": cursor, "limit": 1});
                let input = input.as_object().unwrap().clone();
                let page = server.app.catalog.call(ctx.clone(), to, input).await;
                assert_eq!(page.is_ok(), is_home && to == from, "{from} {to}: {page:?}");
                let code = page.err().map_or("invalid_cursor", |error| error.code());
                assert_eq!(code, "invalid_cursor");
            }
            for (method, _) in LISTS {
                let message = modern(method, json!({"cursor": cursor}));
                let path = format!("/t/{tenant}/mcp");
                let page = Answer::of(server.modern(&path, &message)).await;
                let is_page = page.body["result"].is_object();
                assert_eq!(is_page, is_home && method == from, "{}", page.text);
                assert!(
                    is_page || page.body["error"]["code"] == -32602,
                    "{}",
                    page.text
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_says_by_whom() {
    for way in [Way::HttpModern, Way::PipesModern] {
        let server = HttpServer::start().await;
        let mut client = Client::open(&server, way).await;
        let run = following("tools/call", tool("task_run", json!({"description": "x"})));
        let ask = async |client: &mut Client<'_>, mut message: Value, id: &str| {
            message["id"] = id.into();
            client.send(message).await;
            client.answer(&id.into()).await
        };
        let begun = ask(&mut client, run, "run").await;
        let id = &begun["result"]["taskId"];
        let update = json!({"taskId": id, "inputResponses": {}});
        for (method, params) in [
            ("tasks/update", update),
            ("tasks/cancel", json!({"taskId": id})),
        ] {
            let answer = ask(&mut client, following(method, params), method).await;
            let result = &answer["result"];
            assert_eq!(result["resultType"], "complete", "{answer}");
            let name = &result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"];
            assert_eq!(name, "baton", "{method} over {way:?}: {answer}");
            let unknown = following(method, json!({"taskId": "hdl_none", "inputResponses": {}}));
            let refused = ask(&mut client, unknown, "unknown").await;
            assert_eq!(refused["error"]["code"], -32602, "{refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_of_the_modern_era_are_promised_to_nobody_else() {
    everywhere(async |_, way, client| {
        let promised = &client.greeting["capabilities"]["extensions"];
        let is_promised = promised["io.modelcontextprotocol/tasks"].is_object();
        assert_eq!(is_promised, way.is_modern(), "{}", client.greeting);
        assert!(promised.is_null() || way.is_modern(), "{}", client.greeting);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_tell_of_tasks_only_whom_they_may_be_shown() {
    let server = guarded().await;
    let chief = key_of(&server, "acme", "orchestrator").await;
    server.show(&chief);
    let task = json!({"description": "x", "task_id": "mine", "title": "Known to ada"});
    server.use_tool("/mcp", "task_dispatch", task).await;
    let ada = key_of(&server, "acme", "executor").await;
    server.show(&ada);
    let claim = json!({"agent_id": "ada", "task_keys": true});
    let claimed = server.use_tool("/mcp", "task_claim", claim).await;
    let small = claimed["tasks"][0]["key"].as_str().unwrap().to_owned();
    let blind = json!({"roles": ["executor"], "scopes": ["tasks:execute"]});
    let blind = operate(&server, "acme", "key_create", blind).await;
    let blind = blind["key"].as_str().unwrap().to_owned();
    server.show(&chief);
    let task = json!({"description": "x", "task_id": "other", "title": "Not hers"});
    server.use_tool("/mcp", "task_dispatch", task).await;
    for (key, shown) in [(&chief, 2), (&small, 0), (&blind, 0)] {
        server.show(key);
        let goal = json!({"type": "ref/prompt", "name": "orchestrate"});
        let found = server
            .ask("completion/complete", completing(goal, "goal", ""))
            .await;
        let values = found.body["result"]["completion"]["values"]
            .as_array()
            .unwrap();
        assert_eq!(values.len(), shown, "{}", found.text);
        let id = json!({"type": "ref/resource", "uri": "baton://tasks/{task_id}"});
        let found = server
            .ask("completion/complete", completing(id, "task_id", ""))
            .await;
        let values = found.body["result"]["completion"]["values"]
            .as_array()
            .unwrap();
        assert_eq!(values.len(), shown, "{}", found.text);
    }
}
