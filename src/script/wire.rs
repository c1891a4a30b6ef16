//! What a server and a process that runs scripts say to each other: JSON, one message a line.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Run this. Nothing else is running.
    Run(Run),
    /// Here is what was asked for.
    Reply(Reply),
}

/// A script and what it may take.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) source: String,
    /// What `main` gets; without it, the script is only looked at.
    pub(super) arguments: Option<Value>,
    pub(super) millis: u64,
    /// Bytes of memory.
    pub(super) memory: usize,
    /// Bytes of its answer.
    pub(super) most: usize,
}

/// What came of something that a script asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) is_good: bool,
    pub(super) value: Value,
}

/// What the process says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The script asks for something.
    Ask(Ask),
    /// The script logs something.
    Log(Line),
    /// The script has ended, and this is its answer.
    Done(Box<RawValue>),
    /// The script has ended without one.
    Failed(String),
}

/// Something that a script asks for.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    pub(super) id: u64,
    pub(super) what: String,
    pub(super) input: Value,
}

/// A line of a script's log.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    pub(super) level: String,
    pub(super) text: String,
}
