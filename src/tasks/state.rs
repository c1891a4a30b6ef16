//! The state machine of a task: a pure function of a state and a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Blocked,
    Pending,
    Assigned,
    InProgress,
    Escalated,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    /// All states, in the order of a task's life.
    pub const ALL: [Self; 8] = [
        Self::Blocked,
        Self::Pending,
        Self::Assigned,
        Self::InProgress,
        Self::Escalated,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Its name, as everywhere outside.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::InProgress => "in_progress",
            Self::Escalated => "escalated",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// What indexes know of it: an executor that begins with its task moves nothing in them.
    pub(crate) const fn stage(self) -> &'static str {
        match self {
            Self::Assigned | Self::InProgress => "running",
            _ => self.name(),
        }
    }

    /// Whether the task has ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Why an executor ends a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Success,
    Partial,
    Failure,
    Timeout,
    Cancelled,
    Escalated,
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// Everything that it depended on is settled.
    Unblock,
    /// Something that it depended on ended otherwise than completed.
    DependencyFailed,
    /// An executor takes it.
    Claim,
    /// Its executor reports that it works on it.
    Report,
    /// Its executor asks a question.
    Escalate,
    /// The orchestrator answers; `held` says whether an executor waits for it.
    Answer { held: bool },
    /// Its executor ends it; `retry` says whether a failure gets another attempt.
    End { reason: Reason, retry: bool },
    /// Its executor's lease ran out; `retry` says whether it gets another attempt.
    LeaseLost { retry: bool },
    /// The attempt, or the rest in `escalated`, took too long.
    TimedOut,
    /// The orchestrator calls it off.
    Cancel,
    /// The orchestrator wants it tried again; `blocked` says whether something is still in its way.
    Retry { blocked: bool },
}

/// Why a message does not fit a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// It has ended, once and for all.
    #[error("the task has ended: it is {}", .0.name())]
    Ended(State),
    /// It may fit later, or would have fitted earlier.
    #[error("the task is {}", .0.name())]
    NotNow(State),
}

impl From<TransitionError> for Error {
    fn from(error: TransitionError) -> Self {
        let code = match error {
            TransitionError::Ended(_) => "task_already_ended",
            TransitionError::NotNow(_) => "task_not_in_state",
        };
        Self::conflict(code, error.to_string())
    }
}

impl State {
    /// The state after `message`.
    ///
    /// # Errors
    /// The message does not fit this state.
    pub const fn after(self, message: Message) -> Result<Self, TransitionError> {
        use Message as M;
        Ok(match (self, message) {
            (Self::Blocked, M::Unblock) => Self::Pending,
            (Self::Blocked, M::DependencyFailed) => Self::Cancelled,
            (Self::Pending, M::Claim) => Self::Assigned,
            (Self::Assigned | Self::InProgress, M::Report) => Self::InProgress,
            // A report while a question is open does not answer it.
            (Self::Escalated, M::Report) => Self::Escalated,
            (Self::Assigned | Self::InProgress | Self::Escalated, M::Escalate) => Self::Escalated,
            (Self::Escalated, M::Answer { held: true }) => Self::InProgress,
            (Self::Escalated, M::Answer { held: false }) => Self::Pending,
            (Self::Assigned | Self::InProgress | Self::Escalated, M::End { reason, retry }) => {
                match (reason, retry) {
                    (Reason::Success | Reason::Partial, _) => Self::Completed,
                    (Reason::Failure, true) => Self::Pending,
                    (Reason::Failure, false) | (Reason::Timeout, _) => Self::Failed,
                    (Reason::Cancelled, _) => Self::Cancelled,
                    (Reason::Escalated, _) => Self::Escalated,
                }
            }
            (Self::Assigned | Self::InProgress, M::LeaseLost { retry: true }) => Self::Pending,
            (Self::Assigned | Self::InProgress, M::LeaseLost { retry: false }) => Self::Failed,
            // The question stands, whoever asked it.
            (Self::Escalated, M::LeaseLost { .. }) => Self::Escalated,
            (Self::Assigned | Self::InProgress | Self::Escalated, M::TimedOut) => Self::Failed,
            (
                Self::Blocked | Self::Pending | Self::Assigned | Self::InProgress | Self::Escalated,
                M::Cancel,
            ) => Self::Cancelled,
            (Self::Failed | Self::Cancelled, M::Retry { blocked: false }) => Self::Pending,
            (Self::Failed | Self::Cancelled, M::Retry { blocked: true }) => Self::Blocked,
            (Self::Completed | Self::Failed | Self::Cancelled, _) => {
                return Err(TransitionError::Ended(self));
            }
            _ => return Err(TransitionError::NotNow(self)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every message in every state, in the order of [`State::ALL`]; `-` is refused, `!` refused because it ended.
    const TABLE: &[(Message, [&str; 8])] = {
        use Message as M;
        use Reason as R;
        const fn end(reason: R, retry: bool) -> M {
            M::End { reason, retry }
        }
        &[
            //                                 blocked      pending      assigned       in_progress    escalated      completed
            (M::Unblock, ["pending", "-", "-", "-", "-", "!", "!", "!"]),
            (
                M::DependencyFailed,
                ["cancelled", "-", "-", "-", "-", "!", "!", "!"],
            ),
            (M::Claim, ["-", "assigned", "-", "-", "-", "!", "!", "!"]),
            (
                M::Report,
                [
                    "-",
                    "-",
                    "in_progress",
                    "in_progress",
                    "escalated",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                M::Escalate,
                [
                    "-",
                    "-",
                    "escalated",
                    "escalated",
                    "escalated",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                M::Answer { held: true },
                ["-", "-", "-", "-", "in_progress", "!", "!", "!"],
            ),
            (
                M::Answer { held: false },
                ["-", "-", "-", "-", "pending", "!", "!", "!"],
            ),
            (
                end(R::Success, true),
                [
                    "-",
                    "-",
                    "completed",
                    "completed",
                    "completed",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Success, false),
                [
                    "-",
                    "-",
                    "completed",
                    "completed",
                    "completed",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Partial, true),
                [
                    "-",
                    "-",
                    "completed",
                    "completed",
                    "completed",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Partial, false),
                [
                    "-",
                    "-",
                    "completed",
                    "completed",
                    "completed",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Failure, true),
                ["-", "-", "pending", "pending", "pending", "!", "!", "!"],
            ),
            (
                end(R::Failure, false),
                ["-", "-", "failed", "failed", "failed", "!", "!", "!"],
            ),
            (
                end(R::Timeout, true),
                ["-", "-", "failed", "failed", "failed", "!", "!", "!"],
            ),
            (
                end(R::Timeout, false),
                ["-", "-", "failed", "failed", "failed", "!", "!", "!"],
            ),
            (
                end(R::Cancelled, true),
                [
                    "-",
                    "-",
                    "cancelled",
                    "cancelled",
                    "cancelled",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Cancelled, false),
                [
                    "-",
                    "-",
                    "cancelled",
                    "cancelled",
                    "cancelled",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Escalated, true),
                [
                    "-",
                    "-",
                    "escalated",
                    "escalated",
                    "escalated",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                end(R::Escalated, false),
                [
                    "-",
                    "-",
                    "escalated",
                    "escalated",
                    "escalated",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                M::LeaseLost { retry: true },
                ["-", "-", "pending", "pending", "escalated", "!", "!", "!"],
            ),
            (
                M::LeaseLost { retry: false },
                ["-", "-", "failed", "failed", "escalated", "!", "!", "!"],
            ),
            (
                M::TimedOut,
                ["-", "-", "failed", "failed", "failed", "!", "!", "!"],
            ),
            (
                M::Cancel,
                [
                    "cancelled",
                    "cancelled",
                    "cancelled",
                    "cancelled",
                    "cancelled",
                    "!",
                    "!",
                    "!",
                ],
            ),
            (
                M::Retry { blocked: false },
                ["-", "-", "-", "-", "-", "!", "pending", "pending"],
            ),
            (
                M::Retry { blocked: true },
                ["-", "-", "-", "-", "-", "!", "blocked", "blocked"],
            ),
        ]
    };

    #[test]
    fn every_message_in_every_state_leads_where_the_table_says() {
        for (message, row) in TABLE {
            for (state, expected) in State::ALL.into_iter().zip(row) {
                let found = match state.after(*message) {
                    Ok(next) => next.name(),
                    Err(TransitionError::NotNow(_)) => "-",
                    Err(TransitionError::Ended(_)) => "!",
                };
                assert_eq!(found, *expected, "{message:?} in {}", state.name());
            }
        }
    }

    #[test]
    fn the_table_has_every_message() {
        let flags = [true, false];
        let reasons = [
            Reason::Success,
            Reason::Partial,
            Reason::Failure,
            Reason::Timeout,
            Reason::Cancelled,
            Reason::Escalated,
        ];
        let mut all = vec![
            Message::Unblock,
            Message::DependencyFailed,
            Message::Claim,
            Message::Report,
            Message::Escalate,
            Message::TimedOut,
            Message::Cancel,
        ];
        for flag in flags {
            all.push(Message::Answer { held: flag });
            all.push(Message::LeaseLost { retry: flag });
            all.push(Message::Retry { blocked: flag });
            all.extend(reasons.map(|reason| Message::End {
                reason,
                retry: flag,
            }));
        }
        assert_eq!(all.len(), TABLE.len());
        for message in all {
            assert!(
                TABLE.iter().any(|(listed, _)| *listed == message),
                "{message:?}"
            );
        }
    }
}
