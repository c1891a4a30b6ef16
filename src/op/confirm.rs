//! Operations that do nothing without a yes.

use serde_json::{Map, Value};

use super::{Op, Output};
use crate::ctx::Ctx;
use crate::error::{Error, Result};

/// The code of an operation's refusal to go on without a yes. Its message is the question.
pub const UNCONFIRMED: &str = "confirmation_needed";
/// The code of the refusal to act on answers that were acted on before.
pub const ANSWERS_USED: &str = "answers_used";
/// The input that is a yes from the beginning.
const CONFIRM: &str = "confirm";

impl Op {
    /// Says that some calls need a yes. The operation refuses those with [`UNCONFIRMED`], unless its input says `confirm`;
    /// callers who can be asked are.
    #[must_use]
    pub fn confirms(mut self) -> Self {
        self.confirms = true;
        self
    }

    /// Whether a call with this input may have a question.
    pub fn may_ask(&self, input: &Map<String, Value>) -> bool {
        self.confirms && input.get(CONFIRM) != Some(&Value::Bool(true))
    }

    /// Asks for a yes where the operation wants one.
    pub(super) async fn call_confirmed(&self, ctx: Ctx, input: Value) -> Result<Output> {
        match (self.handler)(ctx.clone(), input.clone()).await {
            Err(error) if error.code() == UNCONFIRMED => {
                if !ctx.confirm(error.message()).await? {
                    let message = "nothing was done: the answer was no";
                    return Err(Error::conflict("not_confirmed", message));
                }
                let mut confirmed = input.clone();
                confirmed[CONFIRM] = Value::Bool(true);
                match (self.handler)(ctx.clone(), confirmed).await {
                    // What another call did with the same yes may be all that is wanted: then there is no question any more.
                    Err(used) if used.code() == ANSWERS_USED => {
                        let again = (self.handler)(ctx.guarded(None), input).await;
                        again.map_err(|error| match error.code() {
                            UNCONFIRMED => used,
                            _ => error,
                        })
                    }
                    outcome => outcome,
                }
            }
            outcome => outcome,
        }
    }
}
