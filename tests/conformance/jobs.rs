//! Tools that take long, for clients that follow them by handles. A job is over when its time has come and its questions
//! are answered; what was answered stands in the log.

use std::time::Duration;

use baton::clock::Time;
use baton::ctx::Scope;
use baton::error::{Error, Result};
use baton::events;
use baton::id::NotificationId;
use baton::op::{Ask, Beginning, Begun, Follow, Op, Output, Permission, Reply, Stage, Standing};
use baton::store::Tx;
use serde_json::{Map, Value, json};

use super::ask::form;
use super::tools::tool;

/// Somebody answered a question of a job.
const ANSWERED: &str = "dev.baton.test.answered";

pub(crate) fn operations() -> Vec<Op> {
    let greet = |name: &Value| format!("Hello, {}!", name.as_str().unwrap_or_default());
    let seconds = json!({"seconds": {"type": "integer"}, "label": {"type": "string"}});
    vec![
        tool(
            "greet",
            "Greets at once",
            json!({"name": {"type": "string"}}),
            move |_, input| async move { Ok(Output::text(greet(&input["name"]))) },
        ),
        tool(
            "slow_compute",
            "Takes so many seconds",
            seconds,
            |_, input| async move {
                let seconds = input["seconds"].as_u64().unwrap_or_default();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(Output::text("Computed."))
            },
        )
        .followed(job(|scope, input| {
            let seconds = input["seconds"].as_i64().unwrap_or_default();
            Ok(start(scope, seconds, &[], &json!({"text": "Computed."})))
        })),
        tool("failing_job", "Fails after a second", json!({}), never)
            .long()
            .followed(job(|scope, _| {
                Ok(start(
                    scope,
                    1,
                    &[],
                    &json!({"error": "The job has failed."}),
                ))
            })),
        tool(
            "protocol_error_job",
            "Comes to no result",
            json!({}),
            |_, _| async { Err(Error::internal("the job broke")) },
        )
        .followed(job(|scope, _| {
            Ok(start(scope, 1, &[], &json!({"failed": "the job broke"})))
        })),
        tool(
            "confirm_delete",
            "Deletes what it is told to, if that is confirmed",
            json!({"filename": {"type": "string"}}),
            never,
        )
        .long()
        .followed(job(|scope, _| {
            Ok(start(scope, 0, &["confirm"], &json!({"text": "Deleted."})))
        })),
        tool("multi_input", "Has two questions at once", json!({}), never)
            .long()
            .followed(job(|scope, _| {
                let end = json!({"text": "Both answered."});
                Ok(start(scope, 0, &["first", "second"], &end))
            })),
        with_a_question_before(),
    ]
}

/// Asks in rounds, and then goes on as a job.
fn with_a_question_before() -> Op {
    let schema = Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("properties".to_owned(), json!({})),
    ]);
    Op::tool("test_tool_with_task", Permission::Read, schema, never)
        .about("Asks, then works", "Asks for a name and greets it later")
        .long()
        .prepare(|ctx, _| {
            Box::pin(async move {
                let fields = json!({"name": {"type": "string"}});
                let question = form("user_name", "What is your name?", fields, &["name"]);
                let answers = ctx.ask(vec![question]).await?;
                Ok(answers["user_name"]["content"].clone())
            })
        })
        .followed(job(|scope, input| {
            let text = format!("Hello, {}!", input["name"].as_str().unwrap_or_default());
            Ok(start(scope, 1, &[], &json!({ "text": text })))
        }))
}

/// What calls of long tools come to that nobody follows: the edge has refused them.
async fn never(_: baton::ctx::Ctx, _: Value) -> Result<Output> {
    Err(Error::internal("a long tool was called like a short one"))
}

fn job(begin: fn(&Scope, &Value) -> Result<Beginning>) -> Follow {
    Follow {
        begin,
        look,
        answer,
        answers_by: "greet",
        cancel: None,
    }
}

/// Begins a job of so many seconds with these questions.
fn start(scope: &Scope, seconds: i64, asks: &[&str], end: &Value) -> Beginning {
    let now = scope.now().as_micros();
    let kept = json!({
        "job": format!("{:x}", scope.random().u128()),
        "began_at": now,
        "due_at": now + seconds * 1_000_000,
        "asks": asks,
        "end": end,
    });
    Box::new(move |_, _| Ok(Begun::Going(kept.clone())))
}

fn look(scope: &Scope, tx: &mut Tx<'_>, kept: &Value) -> Result<Standing> {
    let job = kept["job"].as_str().unwrap_or_default();
    let number = |name: &str| kept[name].as_i64().unwrap_or_default();
    let past = format!("{ANSWERED}~");
    let answered = events::latest_of(tx, job, (ANSWERED, &past), 10)?;
    let is_open = |key: &&str| !answered.iter().any(|event| event.data["key"] == *key);
    let keys = kept["asks"].as_array().into_iter().flatten();
    let open = keys.filter_map(Value::as_str).filter(is_open);
    let asks: Vec<Ask> = open.map(|key| question(job, key)).collect();
    let last = answered
        .last()
        .map_or(number("began_at"), |event| event.time.as_micros());
    let is_due = scope.now().as_micros() >= number("due_at");
    let end = &kept["end"];
    let text = |name: &str| end[name].as_str().map(str::to_owned);
    let (stage, message) = if !asks.is_empty() {
        let output = None;
        (Stage::Asking { asks, output }, "waits for answers")
    } else if !is_due {
        (Stage::Working, "works")
    } else if let Some(why) = text("failed") {
        (Stage::Failed(why), "broke")
    } else if let Some(why) = text("error") {
        (Stage::Done(Output::error(why)), "failed")
    } else {
        let done = text("text").unwrap_or_default();
        (Stage::Done(Output::text(done)), "done")
    };
    Ok(Standing {
        stage,
        message: message.into(),
        updated_at: Time::from_micros(if is_due {
            last.max(number("due_at"))
        } else {
            last
        }),
        watched: Vec::new(),
    })
}

fn question(job: &str, key: &str) -> Ask {
    let field = json!({"type": "boolean", "title": "Yes"});
    Ask {
        key: format!("{job}-{key}"),
        about: format!("{job} {key}"),
        message: format!("Is this right: {key}?"),
        form: json!({"type": "object", "properties": {"yes": field}}),
    }
}

fn answer(scope: &Scope, tx: &mut Tx<'_>, ask: &Ask, reply: &Reply) -> Result<()> {
    let (job, key) = ask.about.split_once(' ').unwrap_or_default();
    let id = NotificationId::mint(scope.now(), scope.random());
    let is_yes = matches!(reply, Reply::Accepted(_));
    let data = json!({"key": key, "accepted": is_yes});
    events::append_as(scope, tx, &id, (ANSWERED, job), &data).map(drop)
}
