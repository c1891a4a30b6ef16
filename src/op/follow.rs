//! Operations that take long, for callers who do not wait for them: how one is begun at once, where it stands later,
//! what it asks meanwhile. Nothing runs for it here; what a handle remembers is looked at when somebody asks.

use serde_json::Value;

use super::output::Output;
use crate::clock::Time;
use crate::ctx::Scope;
use crate::error::Result;
use crate::store::Tx;

/// What begins a call, in its transaction.
pub type Beginning = Box<dyn Fn(&Scope, &mut Tx<'_>) -> Result<Begun> + Send>;

/// What a call came to when it was begun.
pub enum Begun {
    /// There was nothing to wait for: its output.
    Done(Output),
    /// What must be remembered to look at it later.
    Going(Value),
}

/// How calls of an operation are followed.
#[derive(Clone, Copy)]
pub struct Follow {
    /// Makes a valid input ready to begin.
    pub begin: fn(&Scope, &Value) -> Result<Beginning>,
    /// Where what was remembered stands.
    pub look: fn(&Scope, &mut Tx<'_>, &Value) -> Result<Standing>,
    /// Gives an answer to one of its questions.
    pub answer: fn(&Scope, &mut Tx<'_>, &Ask, &Reply) -> Result<()>,
    /// The operation that answering amounts to: who may not call it may not answer either.
    pub answers_by: &'static str,
    /// Calls off what was begun, where that is more than not to care any longer.
    pub cancel: Option<Cancel>,
}

/// How what was begun is called off.
#[derive(Clone, Copy)]
pub struct Cancel {
    /// Does so.
    pub run: fn(&Scope, &mut Tx<'_>, &Value) -> Result<()>,
    /// The operation that it amounts to, as [`Follow::answers_by`].
    pub by: &'static str,
}

/// Where a call that was begun stands.
pub struct Standing {
    /// How far it has come.
    pub stage: Stage,
    /// A sentence about it for people.
    pub message: String,
    /// When it last changed.
    pub updated_at: Time,
    /// The resources whose changes may change it.
    pub watched: Vec<String>,
}

/// How far a call that was begun has come.
pub enum Stage {
    /// It goes on by itself.
    Working,
    /// It needs answers.
    Asking {
        /// Its open questions.
        asks: Vec<Ask>,
        /// What a caller who can't be asked is answered now, if there is nothing to wait for but answers.
        output: Option<Output>,
    },
    /// Its output.
    Done(Output),
    /// It came to no output: the sentence says why. What ran and did not succeed has an output that says so.
    Failed(String),
    /// It was called off.
    Cancelled,
}

/// A question to whoever made the call.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Means this question and no other, ever.
    pub key: String,
    /// What has the question; only its own operation reads it.
    pub about: String,
    /// The question.
    pub message: String,
    /// The form of an answer: a JSON Schema of an object of plain fields.
    pub form: Value,
}

/// What somebody who was asked replied.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The form, filled in.
    Accepted(Value),
    /// He does not want to answer.
    Declined,
    /// He went away without a choice.
    Dismissed,
}
