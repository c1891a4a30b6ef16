//! Random histories: what the server says must be what the model of a task's life says.

use std::collections::BTreeMap;
use std::time::Duration;

use baton::events;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::home::Home;
use crate::support::model::{Known, LEASE, Model, TIMEOUT};

const AGENTS: [&str; 3] = ["ada", "bob", "eve"];

/// One step of a history. Numbers pick tasks and agents.
#[derive(Debug, Clone)]
enum Step {
    Dispatch {
        depends_on: Vec<usize>,
    },
    Claim {
        agent: usize,
    },
    Report {
        task: usize,
        stale: bool,
    },
    Ask {
        task: usize,
    },
    Answer {
        task: usize,
    },
    Beat {
        task: usize,
    },
    End {
        task: usize,
        reason: &'static str,
        stale: bool,
    },
    Cancel {
        task: usize,
    },
    Retry {
        task: usize,
    },
    Pass {
        seconds: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let task = 0..6_usize;
    let reason = prop::sample::select(vec![
        "success",
        "partial",
        "failure",
        "timeout",
        "cancelled",
        "escalated",
    ]);
    let step = prop_oneof![
        3 => prop::collection::vec(task.clone(), 0..3).prop_map(|depends_on| Step::Dispatch { depends_on }),
        4 => (0..3_usize).prop_map(|agent| Step::Claim { agent }),
        2 => (task.clone(), any::<bool>()).prop_map(|(task, stale)| Step::Report { task, stale }),
        1 => task.clone().prop_map(|task| Step::Ask { task }),
        1 => task.clone().prop_map(|task| Step::Answer { task }),
        1 => task.clone().prop_map(|task| Step::Beat { task }),
        4 => (task.clone(), reason, prop::bool::weighted(0.2)).prop_map(|(task, reason, stale)| Step::End { task, reason, stale }),
        1 => task.clone().prop_map(|task| Step::Cancel { task }),
        1 => task.prop_map(|task| Step::Retry { task }),
        2 => prop::sample::select(vec![1, 10, 61, 501]).prop_map(|seconds| Step::Pass { seconds }),
    ];
    prop::collection::vec(step, 1..40)
}

/// Plays one history and compares after every step.
async fn play(history: Vec<Step>) -> Result<(), TestCaseError> {
    let server = Server::start();
    let mut model = Model::default();
    for step in history {
        take(&server, &mut model, &step).await?;
        for (index, known) in model.tasks.iter().enumerate() {
            prop_assert_eq!(
                server.state(&format!("t{index}")).await,
                known.state,
                "t{} after {:?}",
                index,
                step
            );
        }
    }
    let events = server
        .ctx("default")
        .read(|_, tx| events::after(tx, 0, 1_000))
        .await
        .unwrap();
    prop_assert!(
        events
            .iter()
            .enumerate()
            .all(|(index, event)| event.sequence == i64::try_from(index).unwrap() + 1)
    );
    let mut ends: BTreeMap<&str, i32> = BTreeMap::new();
    for event in &events {
        let change = match event.kind.as_str() {
            "dev.baton.task.completed" | "dev.baton.task.failed" | "dev.baton.task.cancelled" => 1,
            "dev.baton.task.retried" => -1,
            _ => 0,
        };
        let ended = ends.entry(event.subject.as_str()).or_default();
        *ended += change;
        prop_assert!((0..=1).contains(ended), "{} ended twice", event.subject);
    }
    let (last, _) = server
        .ctx("default")
        .read(|_, tx| events::verify(tx, 0, &[], 1_000))
        .await
        .unwrap();
    prop_assert_eq!(last, i64::try_from(events.len()).unwrap());
    Ok(())
}

async fn take(server: &Server, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    match step {
        Step::Dispatch { depends_on } => dispatch(server, model, depends_on).await,
        Step::Claim { agent } => claim(server, model, *agent).await?,
        Step::Report { task, stale } => report(server, model, *task, *stale).await?,
        Step::Ask { task } => ask(server, model, *task).await?,
        Step::Answer { task } if *task < model.tasks.len() => answer(server, model, *task).await?,
        Step::Beat { task } if *task < model.tasks.len() => beat(server, model, *task).await?,
        Step::End {
            task,
            reason,
            stale,
        } => {
            let ended = speak(
                server,
                model,
                (*task, *stale),
                "task_end",
                json!({"reason": reason}),
            )
            .await?;
            match *reason {
                _ if !ended => {}
                "success" | "partial" => model.let_go(*task, "completed"),
                "failure" => model.lose_or_retry(*task),
                "timeout" => model.let_go(*task, "failed"),
                "cancelled" => model.let_go(*task, "cancelled"),
                _ => model.rest_in_escalated(*task),
            }
        }
        Step::Cancel { task } if *task < model.tasks.len() => cancel(server, model, *task).await?,
        Step::Retry { task } if *task < model.tasks.len() => retry(server, model, *task).await?,
        Step::Pass { seconds } => {
            server.advance(Duration::from_secs(*seconds)).await;
            model.pass(*seconds);
            // A retry that the reaper has just granted may be due within the same second. One that it grants now rests on.
            let rested: Vec<bool> = model.tasks.iter().map(|known| known.resting).collect();
            server.advance(Duration::from_secs(3)).await;
            model.pass(3);
            for (known, has_rested) in model.tasks.iter_mut().zip(rested) {
                known.resting &= !has_rested;
            }
        }
        _ => {}
    }
    Ok(())
}

async fn dispatch(server: &Server, model: &mut Model, depends_on: &[usize]) {
    let known = model.tasks.len();
    if known == 6 {
        return;
    }
    let mut depends_on: Vec<usize> = depends_on
        .iter()
        .copied()
        .filter(|other| *other < known)
        .collect();
    depends_on.sort_unstable();
    depends_on.dedup();
    let names: Vec<String> = depends_on.iter().map(|other| format!("t{other}")).collect();
    let context = json!({"timeout_seconds": TIMEOUT, "max_retries": 2});
    let input = json!({"task_id": format!("t{known}"), "description": "x", "depends_on": names, "execution_context": context});
    server.call("task_dispatch", input).await;
    let state = if depends_on.is_empty() {
        "pending"
    } else {
        "blocked"
    };
    model.tasks.push(Known {
        state,
        depends_on,
        ..Known::default()
    });
    model.settle_dependents();
}

async fn report(
    server: &Server,
    model: &mut Model,
    task: usize,
    stale: bool,
) -> Result<(), TestCaseError> {
    let started = json!({"notification_type": "started"});
    if speak(server, model, (task, stale), "task_notify", started).await? {
        let known = &mut model.tasks[task];
        known.state = if known.state == "escalated" {
            "escalated"
        } else {
            "in_progress"
        };
    }
    Ok(())
}

async fn ask(server: &Server, model: &mut Model, task: usize) -> Result<(), TestCaseError> {
    let question = json!({"notification_type": "escalated", "data": {"question": "?"}});
    if speak(server, model, (task, false), "task_notify", question).await? {
        let now = model.now;
        let known = &mut model.tasks[task];
        known.state = "escalated";
        if let Some(at) = known.times_out_at.take() {
            known.time_left = at - now;
        }
    }
    Ok(())
}

async fn answer(server: &Server, model: &mut Model, task: usize) -> Result<(), TestCaseError> {
    let answered = server
        .try_call(
            "task_answer",
            json!({"task_id": format!("t{task}"), "answer": 1}),
        )
        .await;
    let now = model.now;
    let known = &mut model.tasks[task];
    prop_assert_eq!(answered.is_ok(), known.state == "escalated");
    if answered.is_ok() {
        let is_held = known.held.is_some();
        known.state = if is_held { "in_progress" } else { "pending" };
        known.times_out_at = is_held.then_some(now + known.time_left);
    }
    Ok(())
}

async fn beat(server: &Server, model: &mut Model, task: usize) -> Result<(), TestCaseError> {
    let now = model.now;
    if let Some((agent, token, until)) = model.tasks[task].held.as_mut() {
        let lease = json!({"task_id": format!("t{task}"), "lease_token": token});
        let beat = json!({"agent_id": AGENTS[*agent], "leases": [lease]});
        prop_assert_eq!(
            &server.call("task_heartbeat", beat).await["leases"][0]["held"],
            true
        );
        *until = now + LEASE;
    }
    Ok(())
}

async fn cancel(server: &Server, model: &mut Model, task: usize) -> Result<(), TestCaseError> {
    let cancelled = server
        .try_call("task_cancel", json!({"task_id": format!("t{task}")}))
        .await;
    prop_assert_eq!(
        cancelled.is_err(),
        matches!(model.tasks[task].state, "completed" | "failed")
    );
    if cancelled.is_ok() {
        model.tasks[task].resting = false;
        model.let_go(task, "cancelled");
    }
    Ok(())
}

async fn claim(server: &Server, model: &mut Model, agent: usize) -> Result<(), TestCaseError> {
    let held = model
        .tasks
        .iter()
        .filter(|known| {
            known
                .held
                .as_ref()
                .is_some_and(|(holder, ..)| *holder == agent)
        })
        .count();
    let free: Vec<usize> = (0..model.tasks.len())
        .filter(|task| model.tasks[*task].state == "pending" && !model.tasks[*task].resting)
        .collect();
    match server.claim(AGENTS[agent], &[]).await {
        None => prop_assert!(held >= 3 || free.is_empty(), "{:?} is free", free),
        Some(lease) => {
            let task: usize = lease.task_id[1..].parse().unwrap();
            prop_assert!(
                held < 3 && free.contains(&task),
                "t{} was not to be had",
                task
            );
            let known = &mut model.tasks[task];
            known.state = "assigned";
            known.held = Some((agent, lease.lease_token, model.now + LEASE));
            known.times_out_at = Some(model.now + TIMEOUT);
        }
    }
    Ok(())
}

async fn retry(server: &Server, model: &mut Model, task: usize) -> Result<(), TestCaseError> {
    let retried = server
        .try_call("task_retry", json!({"task_id": format!("t{task}")}))
        .await;
    let states: Vec<_> = model.tasks[task]
        .depends_on
        .iter()
        .map(|other| model.tasks[*other].state)
        .collect();
    let is_in_the_way = states
        .iter()
        .any(|state| matches!(*state, "failed" | "cancelled"));
    let may = matches!(model.tasks[task].state, "failed" | "cancelled") && !is_in_the_way;
    prop_assert_eq!(retried.is_ok(), may);
    if may {
        let is_free = states.iter().all(|state| *state == "completed");
        model.tasks[task].state = if is_free { "pending" } else { "blocked" };
        model.tasks[task].retries = 0;
    }
    Ok(())
}

/// A call of whoever holds the task, or of somebody whose token is stale; says whether it was to be accepted, and was.
async fn speak(
    server: &Server,
    model: &Model,
    (task, stale): (usize, bool),
    op: &str,
    fields: Value,
) -> Result<bool, TestCaseError> {
    let Some(known) = model.tasks.get(task) else {
        return Ok(false);
    };
    let (agent, token) = match (&known.held, stale) {
        (Some((agent, token, _)), false) => (AGENTS[*agent], token.clone()),
        _ => (
            "ada",
            known
                .old_token
                .clone()
                .unwrap_or_else(|| "lse_never".into()),
        ),
    };
    let is_holder = known
        .held
        .as_ref()
        .is_some_and(|(_, current, _)| *current == token);
    let mut input = json!({"task_id": format!("t{task}"), "agent_id": agent, "lease_token": token});
    input
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let before = model.tasks[task].state;
    let outcome = server.try_call(op, input).await;
    let may = is_holder;
    if may || op == "task_notify" {
        prop_assert_eq!(outcome.is_ok(), may, "{} {:?}", op, outcome);
    } else if outcome.is_ok() {
        // The end that was accepted last may be repeated, and changes nothing.
        prop_assert_eq!(server.state(&format!("t{task}")).await, before);
    }
    Ok(may)
}

/// The lease runs out in the seconds that let granted retries come due.
#[tokio::test]
async fn a_retry_that_is_granted_last_rests_on() {
    let mut history = vec![
        Step::Dispatch {
            depends_on: Vec::new(),
        },
        Step::Claim { agent: 0 },
    ];
    history.extend([10, 10, 10, 1, 10, 1].map(|seconds| Step::Pass { seconds }));
    history.extend([
        Step::Claim { agent: 0 },
        Step::Pass { seconds: 1 },
        Step::Claim { agent: 0 },
    ]);
    play(history).await.unwrap();
}

#[test]
fn random_histories_go_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        // A database of its own for each takes its time.
        cases: if Home::server().is_some() { 24 } else { 96 },
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&steps(), |history| runtime.block_on(play(history)));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
