//! Questions that a call of a legacy session asks while it runs on one process, and whose answers may come to another: an
//! answer is handed on through the database. What is asked, and what an answer means, is `rounds`'s.

use std::collections::BTreeSet;
use std::time::Duration;

use rmcp::model::{ClientJsonRpcMessage, RequestId};

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::sessions::{self, Question};
use crate::store::Wake;

/// How often answers are looked for, in case a wake-up was lost.
const LOOK: Duration = Duration::from_secs(1);

/// The questions of one call.
pub(crate) struct Asked {
    owner: Ctx,
    session: String,
    call: u64,
    /// Since its first question.
    wake: Option<Wake>,
    open: BTreeSet<i64>,
}

impl Asked {
    /// Those of the call `call`, of a session that `owner` reaches.
    pub(crate) fn new(owner: Ctx, session: &str, call: u64) -> Self {
        Self {
            owner,
            session: session.to_owned(),
            call,
            wake: None,
            open: BTreeSet::new(),
        }
    }

    /// Lets every process know of a question before it is asked, and gives it a name of its own in the session: rmcp
    /// numbers the questions of each call from 0.
    pub(crate) async fn note(&mut self, id: &mut RequestId) {
        let RequestId::Number(number) = *id else {
            return;
        };
        *id = RequestId::String(format!("{:x}/{number}", self.call).into());
        self.wake.get_or_insert_with(|| self.owner.wake());
        self.open.insert(number);
        let question = Question {
            session: self.session.clone(),
            call: self.call,
            number,
        };
        if let Err(error) = sessions::ask(&self.owner, &question).await {
            tracing::warn!(error = ?error, "the answer to a question is heard by this process alone");
        }
    }

    /// Returns when there may be answers that came to other processes.
    pub(crate) async fn news(&mut self) {
        match &mut self.wake {
            Some(wake) if !self.open.is_empty() => {
                // Either way it is time to look.
                let _ = tokio::time::timeout(LOOK, wake.changed()).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// The answers that came to other processes, each once.
    pub(crate) async fn answers(&mut self) -> Vec<ClientJsonRpcMessage> {
        let found = sessions::answers(&self.owner, &self.session, self.call).await;
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(error = ?error, "answers of other processes can't be read");
            Vec::new()
        });
        let mut new = Vec::new();
        for (number, answer) in found {
            if self.open.remove(&number) {
                new.extend(serde_json::from_str(&answer).ok());
            }
        }
        new
    }

    /// Takes back what other processes know, since the call has ended.
    pub(crate) async fn forget(&mut self) {
        if self.wake.take().is_none() {
            return;
        }
        let forgotten = sessions::forget_questions(&self.owner, &self.session, self.call).await;
        if let Err(error) = forgotten {
            tracing::warn!(error = ?error, "the questions of a call stay until its session ends");
        }
    }
}

/// The call whose question it is that a client answers, and the question's number there.
pub(crate) fn read_id(id: &RequestId) -> Option<(u64, i64)> {
    let RequestId::String(id) = id else {
        return None;
    };
    let (call, number) = id.split_once('/')?;
    Some((u64::from_str_radix(call, 16).ok()?, number.parse().ok()?))
}

/// Hands an answer on to the process whose call waits for it, and says whether one does. `answer` bears the question's
/// number.
///
/// # Errors
/// A failure of the database.
pub(crate) async fn hand_on(
    owner: &Ctx,
    question: Question,
    answer: &ClientJsonRpcMessage,
) -> Result<bool> {
    let answer = serde_json::to_string(answer).map_err(Error::internal)?;
    sessions::answer(owner, question, answer).await
}
