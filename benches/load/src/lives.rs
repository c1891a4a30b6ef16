//! Whole lives of tasks: every worker dispatches one, claims one, reports start and progress on it, and ends it. The
//! workers of a tenant share one queue, as executors do, so a worker may well claim another's task. One life counts as
//! one.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::call::{Caller, Tool};
use crate::http::Target;
use crate::meter::{Fail, Kind, Meter};
use crate::rpc::snippet;

struct Tools {
    dispatch: Tool,
    claim: Tool,
    notify: Tool,
    end: Tool,
}

pub struct Lives {
    /// Of each tenant.
    tools: Vec<Tools>,
    callers: Vec<Caller>,
    timeout: Duration,
}

#[derive(Deserialize)]
struct Answer<T> {
    result: Structured<T>,
}

#[derive(Deserialize)]
struct Structured<T> {
    #[serde(rename = "structuredContent")]
    content: T,
}

#[derive(Deserialize)]
struct Claimed {
    tasks: Vec<Claim>,
}

#[derive(Deserialize)]
struct Claim {
    task_id: String,
    lease: Lease,
}

#[derive(Deserialize)]
struct Lease {
    token: Value,
}

#[derive(Deserialize)]
struct Ended {
    state: String,
}

impl Lives {
    /// Lives in `tenants` tenants in turn; in the default one when that is 1.
    pub fn new(
        target: &Target,
        headers: &[String],
        (connections, tenants): (usize, usize),
        timeout: Duration,
    ) -> Self {
        let of_tenant = |number: usize| {
            let mut target = target.clone();
            if tenants > 1 {
                target.path = format!("/t/load-{number}{}", target.path);
            }
            let tool = |name| Tool::new(name, Some(&target), headers);
            Tools {
                dispatch: tool("task_dispatch"),
                claim: tool("task_claim"),
                notify: tool("task_notify"),
                end: tool("task_end"),
            }
        };
        Self {
            tools: (0..tenants.max(1)).map(of_tenant).collect(),
            callers: (0..connections)
                .map(|_| Caller::new(target.clone()))
                .collect(),
            timeout,
        }
    }

    pub async fn phase(&mut self, meter: &Meter) {
        let (tools, timeout) = (&self.tools, self.timeout);
        join_all(
            self.callers
                .iter_mut()
                .enumerate()
                .map(async |(worker, caller)| {
                    while let Some(number) = meter.take() {
                        let started = Instant::now();
                        let turn = usize::try_from(number).unwrap_or(0) % tools.len();
                        let life = tools[turn].live(caller, number, worker);
                        match tokio::time::timeout(timeout, life).await {
                            Ok(Ok(())) => meter.good(started),
                            Ok(Err(fail)) => meter.failed(fail),
                            Err(_) => meter
                                .failed(Fail::new(Kind::Transport, "a life did not end in time")),
                        }
                    }
                }),
        )
        .await;
    }
}

impl Tools {
    async fn live(&self, caller: &mut Caller, number: u64, worker: usize) -> Result<(), Fail> {
        let agent_id = format!("load-{worker}");
        let task = json!({
            "description": format!("load {number}"), "task_type": "analysis", "task_data": {"number": number},
            "required_capabilities": ["load"],
        });
        let mut id = number * 8;
        let mut send = async |tool: &Tool, arguments: Value| -> Result<Vec<u8>, Fail> {
            id += 1;
            let answer = caller
                .call(tool, id, arguments.to_string().as_bytes())
                .await?;
            Ok(answer.to_vec())
        };
        send(&self.dispatch, task).await?;
        let claim = json!({"agent_id": agent_id, "capabilities": ["load"]});
        let answer = send(&self.claim, claim).await?;
        let Some(claim) = content::<Claimed>(&answer)?.tasks.pop() else {
            return Err(Fail::new(
                Kind::Expect,
                "there was nothing to claim, though as many tasks as claims were sent",
            ));
        };
        let mine = json!({"task_id": claim.task_id, "agent_id": agent_id, "lease_token": claim.lease.token});
        let started = json!({"notification_type": "started", "data": {}});
        send(&self.notify, merged(&mine, started)).await?;
        let progress = json!({"notification_type": "progress", "data": {"progress": 50, "current_step": "half of it"}});
        send(&self.notify, merged(&mine, progress)).await?;
        let end = json!({
            "reason": "success", "result": {"number": number}, "execution_summary": {"text": "done"},
        });
        let answer = send(&self.end, merged(&mine, end)).await?;
        match content::<Ended>(&answer)?.state.as_str() {
            "completed" => Ok(()),
            state => Err(Fail::new(
                Kind::Expect,
                format!("ended in the state {state}"),
            )),
        }
    }
}

fn content<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Fail> {
    let parsed: Result<Answer<T>, _> = serde_json::from_slice(answer);
    parsed
        .map(|answer| answer.result.content)
        .map_err(|error| Fail::new(Kind::Expect, format!("{error}: {}", snippet(answer))))
}

fn merged(base: &Value, more: Value) -> Value {
    let mut all = base.as_object().cloned().unwrap_or_default();
    if let Value::Object(more) = more {
        all.extend(more);
    }
    Value::Object(all)
}
