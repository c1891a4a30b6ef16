//! The one error type: a closed kind for machines, a stable code, a sentence for the caller and a source for the log.
//!
//! Edges translate a [`Kind`] into their own terms (`http/error.rs`, `mcp/error.rs`, `cli`); nothing else does.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What went wrong, as far as a caller's next step depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The input is wrong; the same call can't succeed.
    Invalid,
    /// No valid credential was given.
    Unauthenticated,
    /// The credential is valid and not enough.
    Forbidden,
    /// There is no such thing, or it is another tenant's.
    NotFound,
    /// The call does not fit the state of things.
    Conflict,
    /// A limit was hit; `retry_after` says when to come back where that helps.
    Limited,
    /// The server can't do it now; the same call may succeed later.
    Unavailable,
    /// The caller went away or withdrew the call.
    Cancelled,
    /// A fault of ours; the log has the source.
    Internal,
}

/// One finding about one place of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// JSON Pointer (RFC 6901) into the input; empty for the whole.
    pub path: String,
    /// What is wrong there and what would be right.
    pub message: String,
}

/// An error on its way to a caller.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    code: &'static str,
    message: String,
    findings: Vec<Finding>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything that can fail towards a caller.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with a stable `code` and a sentence that says what to do.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            message: message.into(),
            findings: Vec::new(),
            retry_after: None,
            source: None,
        }
    }

    /// The input is wrong.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, code, message)
    }

    /// The input is wrong at one place; `path` is a JSON Pointer.
    pub fn invalid_at(path: impl Into<String>, message: impl Into<String>) -> Self {
        let (path, message) = (path.into(), message.into());
        Self::new(Kind::Invalid, "invalid_input", format!("{path}: {message}"))
            .with_findings(vec![Finding { path, message }])
    }

    /// There is no such thing in this tenant.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, code, message)
    }

    /// The call does not fit the state of things.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, code, message)
    }

    /// The server can't do it now; try again after `retry_after`.
    pub fn unavailable(
        code: &'static str,
        message: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        let mut error = Self::new(Kind::Unavailable, code, message);
        error.retry_after = Some(retry_after);
        error
    }

    /// A limit was hit; try again after `retry_after`.
    pub fn limited(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(Kind::Limited, code, message);
        error.retry_after = Some(retry_after);
        error
    }

    /// A fault of ours: callers read "internal error", the log reads `source`.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Kind::Internal, "internal", "internal error").with_source(source)
    }

    /// Attaches what the log should know and the caller should not.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Attaches findings about places of the input.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<Finding>) -> Self {
        self.findings = findings;
        self
    }

    /// What went wrong, as far as a caller's next step depends on it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stable code, listed in the documentation.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What is wrong with which place of the input.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// When trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same error for another caller of the same group; the source stays with the first.
    #[must_use]
    pub(crate) fn again(&self) -> Self {
        Self {
            kind: self.kind,
            code: self.code,
            message: self.message.clone(),
            findings: self.findings.clone(),
            retry_after: self.retry_after,
            source: None,
        }
    }

    /// What a caller may see, as every edge shows it.
    pub fn body(&self) -> Body<'_> {
        Body {
            code: self.code,
            message: &self.message,
            details: &self.findings,
            retry_after_seconds: self
                .retry_after
                .map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0)),
        }
    }
}

/// The caller's view of an [`Error`].
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    /// Stable code.
    pub code: &'a str,
    /// Sentence for people and models.
    pub message: &'a str,
    /// Findings about places of the input.
    #[serde(skip_serializing_if = "<[Finding]>::is_empty")]
    pub details: &'a [Finding],
    /// Seconds after which the same call may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
