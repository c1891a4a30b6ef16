//! The plain load: one tool, many connections, each sending its next call when the last is answered.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::call::{Caller, Tool};
use crate::http::Target;
use crate::meter::{Fail, Kind, Meter};
use crate::rpc::snippet;
use crate::template::Template;

/// What is sent, and what a good answer must hold.
pub struct Call {
    pub tool: Tool,
    pub arguments: Template,
    pub expect: Option<Template>,
}

impl Call {
    /// Every answer must belong to its own request, which its id alone does not show.
    pub fn check(&self, answer: &[u8], number: u64, worker: usize) -> Result<(), Fail> {
        let Some(expect) = &self.expect else {
            return Ok(());
        };
        let mut wanted = Vec::new();
        expect.render(number, worker, &mut wanted);
        if memchr::memmem::find(answer, &wanted).is_some() {
            return Ok(());
        }
        let text = format!(
            "no {:?} in {}",
            String::from_utf8_lossy(&wanted),
            snippet(answer)
        );
        Err(Fail::new(Kind::Expect, text))
    }
}

pub struct Calls {
    call: Call,
    callers: Vec<Caller>,
    timeout: Duration,
}

impl Calls {
    pub fn new(call: Call, target: &Target, connections: usize, timeout: Duration) -> Self {
        Self {
            call,
            callers: (0..connections)
                .map(|_| Caller::new(target.clone()))
                .collect(),
            timeout,
        }
    }

    pub async fn phase(&mut self, meter: &Meter) {
        let (call, timeout) = (&self.call, self.timeout);
        join_all(
            self.callers
                .iter_mut()
                .enumerate()
                .map(async |(worker, caller)| {
                    let mut arguments = Vec::new();
                    while let Some(number) = meter.take() {
                        arguments.clear();
                        call.arguments.render(number, worker, &mut arguments);
                        let started = Instant::now();
                        let answer = caller.call(&call.tool, number + 1, &arguments);
                        let outcome = match tokio::time::timeout(timeout, answer).await {
                            Ok(answer) => {
                                answer.and_then(|answer| call.check(answer, number, worker))
                            }
                            Err(_) => Err(Fail::new(Kind::Transport, "no answer in time")),
                        };
                        match outcome {
                            Ok(()) => meter.good(started),
                            Err(fail) => meter.failed(fail),
                        }
                    }
                }),
        )
        .await;
    }
}
