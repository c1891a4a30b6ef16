//! Who called, as an operation that runs may talk to them: progress, log messages and questions. How that goes over the
//! wire, in which era, is the edges'.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};

/// How far a call has come; edges show it to callers that asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Grows from call to call.
    pub progress: f64,
    /// What `progress` grows to, where that is known.
    pub total: Option<f64>,
    /// A sentence for people.
    pub message: Option<String>,
}

/// How much a log message matters, as in RFC 5424.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}

/// What only some callers can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Show a form to their user.
    Form,
    /// Ask a language model.
    Sampling,
    /// Name the folders that they work in.
    Roots,
}

/// What a caller is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// To show a form to their user.
    Form {
        /// What it is about.
        message: String,
        /// A flat JSON Schema of what may be filled in.
        schema: Value,
    },
    /// To ask a language model: the params of `sampling/createMessage`.
    Sampling(Value),
    /// Which folders they work in.
    Roots,
}

impl Ask {
    fn needs(&self) -> Ability {
        match self {
            Self::Form { .. } => Ability::Form,
            Self::Sampling(_) => Ability::Sampling,
            Self::Roots => Ability::Roots,
        }
    }

    /// Whether a value has the form of an answer to this.
    fn fits(&self, answer: &Value) -> bool {
        match self {
            Self::Form { .. } => match answer["action"].as_str() {
                Some("accept") => answer["content"].is_object(),
                Some("decline" | "cancel") => true,
                _ => false,
            },
            Self::Sampling(_) => answer["role"].is_string() && !answer["content"].is_null(),
            Self::Roots => answer["roots"].is_array(),
        }
    }
}

/// A question with the name under which its answer comes. A name means one question in all of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The name.
    pub key: String,
    /// What is asked.
    pub ask: Ask,
}

/// Answers by the names of their questions, as the protocol has them.
pub type Answers = BTreeMap<String, Value>;

/// What a running call says, for the edge to pass on.
#[derive(Debug)]
pub enum Said {
    /// How far it has come.
    Progress(Progress),
    /// A log message.
    Log(Level, Value),
    /// A question, and where the answer is to go. No answer means that there will be none.
    Ask(Question, oneshot::Sender<Value>),
}

/// How questions reach a caller.
#[derive(Debug)]
pub enum Reach {
    /// While the call runs.
    Live,
    /// By ending the call: it is made again with the answers. These are the ones so far.
    Rounds(Answers),
}

/// What was asked in vain, for the edge to see when the call has ended.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    asked: Vec<Question>,
    used: Answers,
    lacks: Option<Ability>,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The questions without which the call did not go on.
    pub fn asked(&self) -> Vec<Question> {
        std::mem::take(&mut self.lock().asked)
    }

    /// The answers that were asked for and are known.
    pub fn used(&self) -> Answers {
        std::mem::take(&mut self.lock().used)
    }

    /// Whether any was.
    pub fn has_used(&self) -> bool {
        !self.lock().used.is_empty()
    }

    /// What the caller would have to be able to do.
    pub fn lacks(&self) -> Option<Ability> {
        self.lock().lacks
    }
}

/// A caller who can be talked to.
#[derive(Debug)]
pub struct Caller {
    /// Where it goes. Dropping the caller closes it.
    pub said: mpsc::Sender<Said>,
    /// Whether progress is wanted.
    pub wants_progress: bool,
    /// From where on log messages are wanted.
    pub log_from: Option<Level>,
    /// What the caller can do.
    pub abilities: Vec<Ability>,
    /// How questions get there.
    pub reach: Reach,
    /// What the edge wants to know afterwards.
    pub notes: Arc<Notes>,
}

impl Caller {
    /// Tells how far the call has come. A caller that does not keep up misses intermediate steps.
    pub fn report_progress(&self, progress: Progress) {
        if self.wants_progress {
            // Full means that the caller reads slowly, closed that it stopped listening: neither may hold the call up.
            let _ = self.said.try_send(Said::Progress(progress));
        }
    }

    /// Writes to the caller's log, if that much is wanted.
    pub fn log(&self, level: Level, data: Value) {
        if self.log_from.is_some_and(|from| level >= from) {
            let _ = self.said.try_send(Said::Log(level, data));
        }
    }

    /// Whether the caller can do that.
    pub fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&ability)
    }

    /// Asks, and returns the answers to all of `questions`. A call whose caller is asked in rounds ends here and is made
    /// again, so that nothing may have been written before.
    ///
    /// # Errors
    /// `caller_cant_answer`; `cancelled` when the call is to end here.
    pub async fn ask(&self, questions: Vec<Question>) -> Result<Answers> {
        let needed = questions.iter().map(|question| question.ask.needs());
        if let Some(lacking) = needed.into_iter().find(|ability| !self.can(*ability)) {
            self.notes.lock().lacks = Some(lacking);
            return Err(cant_answer());
        }
        match &self.reach {
            Reach::Live => self.ask_now(questions).await,
            Reach::Rounds(known) => {
                let mut answers = Answers::new();
                let mut open = Vec::new();
                for question in questions {
                    match known.get(&question.key) {
                        Some(answer) if question.ask.fits(answer) => {
                            answers.insert(question.key, answer.clone());
                        }
                        _ => open.push(question),
                    }
                }
                let mut noted = self.notes.lock();
                noted.used.extend(answers.clone());
                if open.is_empty() {
                    return Ok(answers);
                }
                noted.asked = open;
                Err(Error::new(
                    crate::error::Kind::Cancelled,
                    "cancelled",
                    "the call is made again with the answers to its questions",
                ))
            }
        }
    }

    async fn ask_now(&self, questions: Vec<Question>) -> Result<Answers> {
        let mut answers = Answers::new();
        for question in questions {
            let (key, ask) = (question.key.clone(), question.ask.clone());
            let (sender, answer) = oneshot::channel();
            let sent = self.said.send(Said::Ask(question, sender)).await;
            sent.map_err(|_| cant_answer())?;
            let answer = answer.await.ok().filter(|answer| ask.fits(answer));
            answers.insert(key, answer.ok_or_else(cant_answer)?);
        }
        Ok(answers)
    }
}

/// What a call that needs an answer says when there is none to be had.
pub fn cant_answer() -> Error {
    Error::conflict(
        "caller_cant_answer",
        "the call has a question that its caller can't answer, or did not",
    )
}
