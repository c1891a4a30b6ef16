//! Resources and prompts.

use baton::error::Error;
use baton::op::{
    Argument, Block, Body, Completer, Content, Item, Message, Prompt, Reader, Resource, Speaker,
    Values, Wording,
};
use serde_json::json;

use super::ask::form;
use super::tools::{PNG, document};

/// A resource of one URI.
macro_rules! fixed {
    ($uri:literal, $title:literal, $mime_type:literal, $body:expr) => {
        Resource {
            template: $uri,
            name: $title,
            title: $title,
            permission: None,
            description: "A fixture of the suite",
            mime_type: $mime_type,
            read: Reader::Stored(|_, _, _| {
                Ok(Content {
                    mime_type: $mime_type,
                    body: $body,
                })
            }),
            list: Some(|_, _, _, _| {
                let item = Item {
                    uri: $uri.into(),
                    title: $title.into(),
                };
                Ok((vec![item], None))
            }),
            complete: Completer::Stored(|_, _, _, _, _| Ok(Vec::new())),
            changed_by: |_| Vec::new(),
        }
    };
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        fixed!("test://static-text", "Static text", "text/plain", {
            Body::Text("This is the content of the static text resource.".into())
        }),
        fixed!("test://static-binary", "Static picture", "image/png", {
            Body::Blob(PNG.into())
        }),
        fixed!("test://watched-resource", "Watched text", "text/plain", {
            Body::Text("This is watched.".into())
        }),
        Resource {
            template: "test://template/{id}/data",
            name: "template",
            title: "Data by id",
            permission: None,
            description: "A fixture of the suite",
            mime_type: "application/json",
            read: Reader::Stored(|_, _, params| {
                let id = params.get("id");
                let id = id.ok_or_else(|| Error::not_found("unknown_resource", "no id"))?;
                let data = format!("Data for ID: {id}");
                let text = json!({"id": id, "templateTest": true, "data": data});
                Ok(Content {
                    mime_type: "application/json",
                    body: Body::Text(text.to_string()),
                })
            }),
            list: None,
            complete: Completer::Stored(|_, _, _, prefix, _| Ok(vec![format!("{prefix}1")])),
            changed_by: |_| Vec::new(),
        },
    ]
}

const fn argument(name: &'static str, description: &'static str) -> Argument {
    Argument {
        name,
        title: name,
        description,
        required: true,
        complete: |_, _, prefix, _| {
            let words = ["paris", "park", "party"].map(str::to_owned);
            let fitting = words.into_iter().filter(|word| word.starts_with(prefix));
            Ok(fitting.collect())
        },
    }
}

fn user(block: Block) -> Message {
    Message {
        from: Speaker::User,
        block,
    }
}

pub(crate) fn prompts() -> Vec<Prompt> {
    vec![
        Prompt {
            name: "test_simple_prompt",
            title: "Simple",
            description: "Says one thing",
            arguments: &[],
            wording: Wording::Template("This is a simple prompt for testing."),
        },
        Prompt {
            name: "test_prompt_with_arguments",
            title: "With arguments",
            description: "Says what it is given",
            arguments: const {
                &[
                    argument("arg1", "The first"),
                    argument("arg2", "The second"),
                ]
            },
            wording: Wording::Template("Prompt with arguments: arg1='{{arg1}}', arg2='{{arg2}}'"),
        },
        Prompt {
            name: "test_prompt_with_embedded_resource",
            title: "With a document",
            description: "Shows a document",
            arguments: const { &[argument("resourceUri", "Where the document is")] },
            wording: Wording::Made(|_, values: Values| {
                Box::pin(async move {
                    let uri = values.get("resourceUri").map_or("", String::as_str);
                    let text = "Embedded resource content for testing.";
                    Ok(vec![
                        user(document(uri, "text/plain", text)),
                        user(Block::text("Please process the embedded resource above.")),
                    ])
                })
            }),
        },
        Prompt {
            name: "test_prompt_with_image",
            title: "With a picture",
            description: "Shows a picture",
            arguments: &[],
            wording: Wording::Made(|_, _| {
                let image = Block::Image {
                    data: PNG.into(),
                    mime_type: "image/png".into(),
                };
                let text = Block::text("Please analyze the image above.");
                Box::pin(async { Ok(vec![user(image), user(text)]) })
            }),
        },
        Prompt {
            name: "test_input_required_result_prompt",
            title: "With a question",
            description: "Asks before it says anything",
            arguments: &[],
            wording: Wording::Made(|ctx, _| {
                Box::pin(async move {
                    let fields = json!({"context": {"type": "string"}});
                    let message = "What context should the prompt use?";
                    let question = form("user_context", message, fields, &["context"]);
                    let answers = ctx.ask(vec![question]).await?;
                    let context = &answers["user_context"]["content"]["context"];
                    Ok(vec![user(Block::text(format!("Mind this: {context}")))])
                })
            }),
        },
    ]
}
