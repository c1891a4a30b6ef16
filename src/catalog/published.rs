//! What ships in `resources/`: payload schemas (which strict endpoints validate against), guides and prompts.

use std::collections::HashMap;

use jsonschema::Validator;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::op::{Argument, Body, Completer, Content, Item, Prompt, Reader, Resource, Wording};
use crate::tasks::recent;

/// A document that ships with the server.
pub struct Published {
    /// Its name, as in its URI.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// The text.
    pub text: &'static str,
}

/// The published payload schemas.
pub fn schemas() -> &'static [Published] {
    &[
        Published {
            name: "task_execution",
            title: "Payload of POST /execute",
            text: include_str!("../../resources/schemas/task_execution.json"),
        },
        Published {
            name: "notification",
            title: "Notification of an executor",
            text: include_str!("../../resources/schemas/notification.json"),
        },
        Published {
            name: "agent_end_task",
            title: "Payload of POST /agent/end-task",
            text: include_str!("../../resources/schemas/agent_end_task.json"),
        },
    ]
}

const GUIDES: &[Published] = &[
    Published {
        name: "orchestrator",
        title: "How to hand out work",
        text: include_str!("../../resources/guides/orchestrator.md"),
    },
    Published {
        name: "executor",
        title: "How to do the work",
        text: include_str!("../../resources/guides/executor.md"),
    },
];

pub(super) fn prompts() -> Vec<Prompt> {
    vec![
        Prompt {
            name: "orchestrate",
            title: "Orchestrate a goal",
            description: "Break a goal down into tasks, dispatch them, wait for them and collect the results.",
            arguments: &[
                Argument {
                    name: "goal",
                    title: "Goal",
                    description: "What is to be achieved",
                    required: true,
                    complete: recent::titles,
                },
                Argument {
                    name: "capabilities",
                    title: "Capabilities",
                    description: "Capabilities that the executors have, comma-separated",
                    required: false,
                    complete: recent::capabilities,
                },
            ],
            wording: Wording::Template(include_str!("../../resources/prompts/orchestrate.md")),
        },
        Prompt {
            name: "execute",
            title: "Work as an executor",
            description: "Claim tasks, do them, report on them and end them.",
            arguments: &[
                Argument {
                    name: "agent_id",
                    title: "Your id",
                    description: "Who you are; keep it from call to call",
                    required: true,
                    complete: recent::agents,
                },
                Argument {
                    name: "capabilities",
                    title: "Capabilities",
                    description: "What you can do, comma-separated",
                    required: false,
                    complete: recent::capabilities,
                },
            ],
            wording: Wording::Template(include_str!("../../resources/prompts/execute.md")),
        },
    ]
}

/// The compiled payload schemas, by name.
pub(super) fn validators() -> HashMap<&'static str, Validator> {
    schemas()
        .iter()
        .map(|schema| {
            let value: Value =
                serde_json::from_str(schema.text).expect("a published schema is JSON");
            let validator =
                jsonschema::draft202012::new(&value).expect("a published schema is a JSON Schema");
            (schema.name, validator)
        })
        .collect()
}

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            template: "baton://schemas/{name}",
            name: "schema",
            title: "Payload schema",
            description: "JSON Schema of a payload that this server accepts",
            mime_type: "application/schema+json",
            permission: None,
            read: Reader::Stored(|_, _, params| {
                find(schemas(), params).map(|text| Content {
                    mime_type: "application/schema+json",
                    body: Body::Text(text),
                })
            }),
            list: Some(|_, _, _, _| Ok((items("schemas", schemas()), None))),
            complete: Completer::Stored(|_, _, _, prefix, _| Ok(names(schemas(), prefix))),
            changed_by: |_| Vec::new(),
        },
        Resource {
            template: "baton://guides/{name}",
            name: "guide",
            title: "Guide",
            description: "How to work with this server as an orchestrator or as an executor",
            mime_type: "text/markdown",
            permission: None,
            read: Reader::Stored(|_, _, params| {
                find(GUIDES, params).map(|text| Content {
                    mime_type: "text/markdown",
                    body: Body::Text(text),
                })
            }),
            list: Some(|_, _, _, _| Ok((items("guides", GUIDES), None))),
            complete: Completer::Stored(|_, _, _, prefix, _| Ok(names(GUIDES, prefix))),
            changed_by: |_| Vec::new(),
        },
    ]
}

fn find(documents: &[Published], params: &crate::op::Params) -> Result<String> {
    let name = params.get("name").map(String::as_str);
    documents
        .iter()
        .find(|document| Some(document.name) == name)
        .map(|document| document.text.to_owned())
        .ok_or_else(|| Error::not_found("unknown_resource", "there is no such document"))
}

fn items(folder: &str, documents: &[Published]) -> Vec<Item> {
    documents
        .iter()
        .map(|document| Item {
            uri: format!("baton://{folder}/{}", document.name),
            title: document.title.to_owned(),
        })
        .collect()
}

fn names(documents: &[Published], prefix: &str) -> Vec<String> {
    documents
        .iter()
        .map(|document| document.name.to_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}
