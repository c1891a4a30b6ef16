//! The executor that ships, on a data folder: what becomes of the task, and of the processes that it started.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::program::{Home, eventually, is_running};

/// A command whose processes' numbers are in the files `shell` and `grandchild`.
const LASTING: &str = "echo $$ > shell.new; mv shell.new shell; sleep 600 & echo $! > grandchild.new; mv grandchild.new grandchild; wait";

fn dispatched(task_id: &str, more: serde_json::Value) -> Home {
    let home = Home::new();
    dispatch(&home, task_id, more);
    home
}

fn dispatch(home: &Home, task_id: &str, mut input: serde_json::Value) {
    input["task_id"] = task_id.into();
    input["description"] = "as the test says".into();
    home.call("task_dispatch", &input);
}

fn gone(id: i32) {
    eventually("the end of a process", || (!is_running(id)).then_some(()));
}

#[test]
fn the_task_comes_on_standard_input_and_its_result_from_standard_output() {
    let home = dispatched("t", json!({"task_data": {"n": 7}, "task_type": "analysis"}));
    let script = r#"
cat > task.json
echo "$BATON_TASK_ID $BATON_TASK_TYPE $BATON_ATTEMPT $BATON_TENANT $BATON_AGENT_ID $BATON_TASK_DATA" > variables
echo "a line for people"
echo '{"progress": 40, "current_step": "half-way"}'
echo '{"result": {"sum": 7}, "summary": "added up", "next_steps": ["check it"]}'"#;
    let mut worker = home.work(&["--once", "--agent-id", "ada", "--exec", script]);
    assert_eq!(worker.end(), Some(0), "{}", home.log());
    let input: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(home.path("task.json")).unwrap()).unwrap();
    assert_eq!(
        (&input["task_id"], &input["task_data"]),
        (&json!("t"), &json!({"n": 7}))
    );
    let variables = fs::read_to_string(home.path("variables")).unwrap();
    assert_eq!(variables, "t analysis 1 default ada {\"n\":7}\n");
    let task = home.task("t");
    assert_eq!(task["state"], "completed");
    assert_eq!(task["result"], json!({"sum": 7}));
    assert_eq!(task["report"]["next_steps"], json!(["check it"]));
    assert_eq!(task["report"]["execution_summary"]["summary"], "added up");
    let kinds: Vec<_> = task["notifications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sent| {
            (
                sent["notification_type"].as_str().unwrap(),
                &sent["data"]["progress"],
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("task_started", &json!(null)),
            ("task_progress", &json!(40))
        ]
    );
}

#[test]
fn progress_is_throttled_and_the_last_one_arrives() {
    let home = dispatched("t", json!({}));
    let script = r#"for n in $(seq 1 300); do echo "{\"progress\": $((n / 3))}"; done; echo done"#;
    assert_eq!(
        home.work(&["--once", "--exec", script]).end(),
        Some(0),
        "{}",
        home.log()
    );
    let task = home.task("t");
    assert_eq!(
        (&task["progress"], &task["result"]),
        (&json!(100.0), &json!("done"))
    );
    let sent = task["notifications"].as_array().unwrap().len();
    assert!(sent <= 6, "{sent} notifications of 300 lines");
}

#[test]
fn a_failure_is_tried_again_with_what_went_wrong_in_the_report() {
    let home = dispatched("t", json!({"execution_context": {"max_retries": 2}}));
    let script = r#"echo "attempt $BATON_ATTEMPT went wrong" >&2; test "$BATON_ATTEMPT" = 2"#;
    home.work(&["--idle-exit", "2", "--exec", script]).end();
    let task = home.task("t");
    assert_eq!(
        (&task["state"], &task["attempt"]),
        (&json!("completed"), &json!(2))
    );
    let problem = &task["report"]["problems"][0]["problem"];
    assert_eq!(problem["exit_code"], 1);
    assert_eq!(problem["stderr"], "attempt 1 went wrong");
}

#[test]
fn a_command_may_say_that_trying_again_is_useless() {
    let home = dispatched("t", json!({}));
    let script = r#"echo '{"result": null, "retryable": false}'; exit 3"#;
    assert_eq!(home.work(&["--once", "--exec", script]).end(), Some(1));
    let task = home.task("t");
    assert_eq!(
        (&task["state"], &task["attempt"]),
        (&json!("failed"), &json!(1))
    );
}

#[test]
fn a_result_that_the_task_does_not_allow_is_a_failure_that_says_so() {
    let schema = json!({"type": "object", "required": ["lines"]});
    let home = dispatched(
        "t",
        json!({"result_schema": schema, "execution_context": {"max_retries": 0}}),
    );
    assert_eq!(
        home.work(&["--once", "--exec", "echo '{\"rows\": 1}'"])
            .end(),
        Some(1)
    );
    let task = home.task("t");
    assert_eq!(task["state"], "failed");
    let summary = task["report"]["execution_summary"]["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(summary.contains("lines"), "{summary}");
}

#[test]
fn a_cancel_ends_the_whole_process_group() {
    let home = dispatched("t", json!({}));
    let mut worker = home.work(&["--once", "--lease-seconds", "5", "--exec", LASTING]);
    let (shell, grandchild) = (home.number_in("shell"), home.number_in("grandchild"));
    home.call("task_cancel", &json!({"task_id": "t", "reason": "enough"}));
    assert_eq!(worker.end(), Some(1), "{}", home.log());
    assert!(!is_running(shell) && !is_running(grandchild));
    assert!(home.log().contains("enough"), "{}", home.log());
    assert_eq!(home.task("t")["state"], "cancelled");
}

#[test]
fn a_timeout_ends_the_whole_process_group() {
    let home = dispatched(
        "t",
        json!({"execution_context": {"timeout_seconds": 1, "max_retries": 0}}),
    );
    let mut worker = home.work(&["--once", "--exec", LASTING]);
    let (shell, grandchild) = (home.number_in("shell"), home.number_in("grandchild"));
    assert_eq!(worker.end(), Some(1), "{}", home.log());
    assert!(!is_running(shell) && !is_running(grandchild));
    let task = home.task("t");
    assert_eq!(
        (&task["state"], &task["outcome"]),
        (&json!("failed"), &json!("timeout"))
    );
}

#[test]
fn a_killed_executor_takes_its_command_along_and_another_one_takes_the_task() {
    let home = dispatched("t", json!({}));
    let mut worker = home.work(&["--lease-seconds", "5", "--exec", LASTING]);
    let (shell, grandchild) = (home.number_in("shell"), home.number_in("grandchild"));
    let old = home.task("t");
    worker.signal(Signal::KILL);
    worker.end();
    gone(shell);
    gone(grandchild);
    let script = r#"echo "{\"attempt\": $BATON_ATTEMPT}""#;
    let mut heir = home.work(&["--once", "--agent-id", "heir", "--exec", script]);
    assert_eq!(heir.end(), Some(0), "{}", home.log());
    let task = home.task("t");
    assert_eq!(
        (&task["state"], &task["result"]),
        (&json!("completed"), &json!({"attempt": 2}))
    );
    assert_ne!(old["agent_id"], task["agent_id"]);
}

#[test]
fn a_killed_supervisor_takes_its_command_along_and_the_task_fails() {
    let home = dispatched("t", json!({"execution_context": {"max_retries": 0}}));
    let script = format!("echo $PPID > supervisor.new; mv supervisor.new supervisor; {LASTING}");
    let mut worker = home.work(&["--once", "--exec", &script]);
    let supervisor = rustix::process::Pid::from_raw(home.number_in("supervisor")).unwrap();
    let (shell, grandchild) = (home.number_in("shell"), home.number_in("grandchild"));
    rustix::process::kill_process(supervisor, Signal::KILL).unwrap();
    assert_eq!(worker.end(), Some(1), "{}", home.log());
    gone(shell);
    gone(grandchild);
    assert_eq!(home.task("t")["state"], "failed");
}

#[test]
fn a_command_that_is_deaf_to_signals_is_killed() {
    let home = dispatched("t", json!({}));
    let script =
        "trap '' TERM; echo $$ > shell.new; mv shell.new shell; while :; do sleep 0.1; done";
    let mut worker = home.work(&["--once", "--lease-seconds", "5", "--exec", script]);
    let shell = home.number_in("shell");
    home.call("task_cancel", &json!({"task_id": "t"}));
    worker.end();
    assert!(!is_running(shell));
}

#[test]
fn a_stopped_executor_lets_a_command_finish_or_hands_the_task_back() {
    let home = dispatched("quick", json!({}));
    let script = r#"echo 1 > begun; if test "$BATON_TASK_ID" = quick; then while ! test -e go; do sleep 0.05; done; else sleep 600; fi"#;
    let mut worker = home.work(&["--exec", script]);
    home.number_in("begun");
    worker.signal(Signal::TERM);
    eventually("the notice", || {
        home.log().contains("stopping").then_some(())
    });
    fs::write(home.path("go"), "").unwrap();
    assert_eq!(worker.end(), Some(0), "{}", home.log());
    assert_eq!(home.task("quick")["state"], "completed");

    fs::remove_file(home.path("begun")).unwrap();
    dispatch(
        &home,
        "slow",
        json!({"execution_context": {"max_retries": 0}}),
    );
    let mut worker = home.work(&["--grace-seconds", "0", "--exec", script]);
    home.number_in("begun");
    worker.signal(Signal::TERM);
    assert_eq!(worker.end(), Some(0), "{}", home.log());
    let task = home.task("slow");
    assert_eq!(task["state"], "failed");
    assert_eq!(
        task["report"]["execution_summary"]["error"],
        "the executor was stopped"
    );
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let home = dispatched("t", json!({}));
    let script = "sleep 600 & echo $! > grandchild.new; mv grandchild.new grandchild; echo over";
    assert_eq!(
        home.work(&["--once", "--exec", script]).end(),
        Some(0),
        "{}",
        home.log()
    );
    gone(home.number_in("grandchild"));
    assert_eq!(home.task("t")["result"], "over");
}

#[test]
fn several_tasks_run_at_a_time_and_only_those_that_fit_the_capabilities() {
    let home = Home::new();
    for task_id in ["a", "b"] {
        dispatch(&home, task_id, json!({"required_capabilities": ["left"]}));
    }
    dispatch(&home, "c", json!({"required_capabilities": ["right"]}));
    // Each waits for the other to have begun, so one at a time would never end.
    let script = "touch begun.$BATON_TASK_ID; while ! test -e begun.a || ! test -e begun.b; do sleep 0.05; done";
    let mut worker = home.work(&[
        "--capabilities",
        "left",
        "--concurrency",
        "2",
        "--idle-exit",
        "1",
        "--exec",
        script,
    ]);
    assert_eq!(worker.end(), Some(0), "{}", home.log());
    let states = ["a", "b", "c"].map(|task_id| home.task(task_id)["state"].clone());
    assert_eq!(
        states,
        [json!("completed"), json!("completed"), json!("pending")]
    );
}
