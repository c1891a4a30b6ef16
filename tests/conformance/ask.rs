//! Tools that have questions for their caller.

use baton::caller::{Ability, Ask, Question};
use baton::ctx::Ctx;
use baton::error::Result;
use baton::op::{Op, Output};
use serde_json::{Value, json};

use super::tools::tool;

/// A form with these fields, of which these are required.
pub(crate) fn form(key: &str, message: &str, properties: Value, required: &[&str]) -> Question {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let message = message.to_owned();
    Question {
        key: key.into(),
        ask: Ask::Form { message, schema },
    }
}

fn name(key: &str, message: &str) -> Question {
    form(key, message, json!({"name": {"type": "string"}}), &["name"])
}

fn sampling(key: &str, text: &str, most: u32) -> Question {
    let message = json!({"role": "user", "content": {"type": "text", "text": text}});
    Question {
        key: key.into(),
        ask: Ask::Sampling(json!({"messages": [message], "maxTokens": most})),
    }
}

fn roots(key: &str) -> Question {
    Question {
        key: key.into(),
        ask: Ask::Roots,
    }
}

/// Asks, and shows the answers.
async fn show(ctx: Ctx, questions: Vec<Question>, before: &str) -> Result<Output> {
    let answers = ctx.ask(questions).await?;
    let shown: Vec<_> = answers.values().map(show_one).collect();
    Ok(Output::text(format!("{before}{}", shown.join("; "))))
}

fn show_one(answer: &Value) -> String {
    match answer["action"].as_str() {
        Some(action) => format!("action={action}, content={}", answer["content"]),
        None => answer.to_string(),
    }
}

/// A tool that asks these questions and no more.
fn asking(name: &'static str, about: &'static str, questions: fn() -> Vec<Question>) -> Op {
    tool(name, about, json!({}), move |ctx, _| {
        show(ctx, questions(), "")
    })
}

pub(crate) fn operations() -> Vec<Op> {
    let mut operations = of_both_eras();
    operations.extend(in_rounds());
    operations
}

fn of_both_eras() -> Vec<Op> {
    vec![
        tool(
            "test_sampling",
            "Asks the client's model",
            json!({"prompt": {"type": "string"}}),
            |ctx, input| async move {
                let prompt = input["prompt"].as_str().unwrap_or_default().to_owned();
                show(
                    ctx,
                    vec![sampling("answer", &prompt, 100)],
                    "LLM response: ",
                )
                .await
            },
        ),
        tool(
            "test_elicitation",
            "Asks the client's user",
            json!({"message": {"type": "string"}}),
            |ctx, input| async move {
                let message = input["message"].as_str().unwrap_or_default().to_owned();
                let fields = json!({
                    "username": {"type": "string", "description": "User's response"},
                    "email": {"type": "string", "description": "User's email address"},
                });
                let form = form("user", &message, fields, &["username", "email"]);
                show(ctx, vec![form], "User response: ").await
            },
        ),
        asking("test_missing_capability", "Needs a model", || {
            vec![sampling("answer", "Hello", 10)]
        }),
        asking("test_streaming_elicitation", "Asks within a stream", || {
            vec![name("user_name", "What is your name?")]
        }),
        asking(
            "test_elicitation_sep1034_defaults",
            "Asks with defaults",
            || {
                let fields = json!({
                    "name": {"type": "string", "default": "John Doe"},
                    "age": {"type": "integer", "default": 30},
                    "score": {"type": "number", "default": 95.5},
                    "status": {
                        "type": "string", "enum": ["active", "inactive", "pending"], "default": "active"
                    },
                    "verified": {"type": "boolean", "default": true},
                });
                vec![form("user", "Please review the defaults", fields, &[])]
            },
        ),
        asking("test_elicitation_sep1330_enums", "Asks for choices", || {
            let options = ["option1", "option2", "option3"];
            let titled = |word: &str| {
                let numbers = [(1, "First"), (2, "Second"), (3, "Third")];
                let value = |(number, nth): (u32, &str)| json!({"const": format!("value{number}"), "title": format!("{nth} {word}")});
                Value::from_iter(numbers.map(value))
            };
            let fields = json!({
                "untitledSingle": {"type": "string", "enum": options},
                "titledSingle": {"type": "string", "oneOf": titled("Option")},
                "legacyEnum": {
                    "type": "string",
                    "enum": ["opt1", "opt2", "opt3"],
                    "enumNames": ["Option One", "Option Two", "Option Three"],
                },
                "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
                "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
            });
            vec![form("choices", "Please choose", fields, &[])]
        }),
    ]
}

fn in_rounds() -> Vec<Op> {
    let confirm = || {
        let fields = json!({"ok": {"type": "boolean"}});
        vec![form("confirm", "Please confirm", fields, &["ok"])]
    };
    vec![
        asking(
            "test_input_required_result_elicitation",
            "Asks for a name",
            || vec![name("user_name", "What is your name?")],
        ),
        asking(
            "test_input_required_result_sampling",
            "Asks a model",
            || {
                vec![sampling(
                    "capital_question",
                    "What is the capital of France?",
                    100,
                )]
            },
        ),
        asking(
            "test_input_required_result_list_roots",
            "Asks for roots",
            || vec![roots("client_roots")],
        ),
        tool(
            "test_input_required_result_request_state",
            "Keeps state from round to round",
            json!({}),
            move |ctx, _| show(ctx, confirm(), "state-ok: "),
        ),
        tool(
            "test_input_required_result_tampered_state",
            "Refuses state that is not its own",
            json!({}),
            move |ctx, _| show(ctx, confirm(), ""),
        ),
        asking(
            "test_input_required_result_multiple_inputs",
            "Asks three questions",
            || {
                vec![
                    name("user_name", "What is your name?"),
                    sampling("greeting", "Generate a greeting", 50),
                    roots("client_roots"),
                ]
            },
        ),
        tool(
            "test_input_required_result_multi_round",
            "Asks twice",
            json!({}),
            |ctx, _| async move {
                let first = vec![name("step1", "Step 1: What is your name?")];
                let name = ctx.ask(first).await?["step1"]["content"]["name"].to_string();
                let color = json!({"color": {"type": "string"}});
                let message = "Step 2: What is your favorite color?";
                let second = form("step2", message, color, &["color"]);
                show(ctx, vec![second], &format!("{name} likes ")).await
            },
        ),
        tool(
            "test_input_required_result_capabilities",
            "Asks only what can be answered",
            json!({}),
            |ctx, _| async move {
                let mut questions = Vec::new();
                if ctx.can_ask(Ability::Form) {
                    questions.push(name("user_name", "What is your name?"));
                }
                if ctx.can_ask(Ability::Sampling) {
                    questions.push(sampling("greeting", "Generate a greeting", 50));
                }
                show(ctx, questions, "").await
            },
        ),
    ]
}
