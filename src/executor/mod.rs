//! What an executor may do: claim tasks, keep its leases and report. Ending a task is `end_task`'s.

mod claim;
mod report;

use serde_json::json;

use crate::op::{Op, Permission};

/// What an executor may do.
pub fn operations() -> Vec<Op> {
    use Permission::Execute;
    vec![
        Op::waiting("task_claim", Execute, claim::claim)
            .about("Claim tasks", "As an executor: take the best tasks that you can do, each with a lease. Waits for one if asked to.")
            .waits_if(|input| input.get("wait_seconds").is_some_and(|seconds| !seconds.is_null() && *seconds != 0))
            .at("POST", "/api/v1/claims")
            .sample(|| json!({"agent_id": "agent-1", "capabilities": ["shell"]})),
        Op::write("task_heartbeat", Execute, report::heartbeat)
            .about("Keep leases", "As an executor: keep your leases while you work, at least every third of lease_seconds; tells what changed.")
            .idempotent()
            .at("POST", "/api/v1/heartbeats")
            .sample(|| json!({"agent_id": "agent-1", "leases": [{"task_id": "tsk_sample", "lease_token": "lse_sample"}]})),
        Op::write("task_notify", Execute, report::notify)
            .about("Report on a task", "As an executor: report started, progress, completed, failed or escalated. Only task_end ends the task.")
            .rules(include_str!("../../resources/schemas/notification.json"))
            .alias(&[("type", "notification_type")])
            .at("POST", "/api/v1/tasks/{task_id}/notifications")
            .sample(|| json!({
                "task_id": "tsk_sample", "agent_id": "agent-1", "lease_token": "lse_sample",
                "notification_type": "task_progress", "data": {"progress": 40, "current_step": "counting"},
            })),
    ]
}
