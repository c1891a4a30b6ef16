//! How HTTP says that something went wrong: status by kind, body as problem JSON (RFC 9457). The one place of this edge
//! that logs faults of ours.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::{Error, Finding, Kind};

/// The media type of problems.
pub(super) const PROBLEM: &str = "application/problem+json";

/// Codes that only this edge answers, with their status and meaning; the others are in [`crate::codes`].
pub(super) const EDGE_CODES: &[(&str, StatusCode, &str)] = &[
    (
        "body_timeout",
        StatusCode::REQUEST_TIMEOUT,
        "The body did not arrive in time.",
    ),
    (
        "body_too_large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is larger than the limit that the message names.",
    ),
    (
        "host_not_allowed",
        StatusCode::FORBIDDEN,
        "The request is addressed to a host that this server does not answer for; see --allowed-host.",
    ),
    (
        "invalid_json",
        StatusCode::BAD_REQUEST,
        "The body is not JSON; the message says where.",
    ),
    (
        "method_not_allowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "The path takes other methods; the Allow header names them.",
    ),
    (
        "origin_not_allowed",
        StatusCode::FORBIDDEN,
        "A browser page of another origin calls; see --allowed-origin.",
    ),
    (
        "tls_needed",
        StatusCode::BAD_REQUEST,
        "The server speaks https:// on this port, and nothing else.",
    ),
    (
        "unknown_path",
        StatusCode::NOT_FOUND,
        "There is nothing at this path; /openapi.json has all paths.",
    ),
    (
        "unsupported_media_type",
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body is not announced as application/json.",
    ),
];

/// The status of an error of `kind`.
pub(super) fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Limited => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // Nobody is left to read it; proxies log it under this number.
        Kind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error as HTTP shows it.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    findings: Vec<Finding>,
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "<[Finding]>::is_empty")]
    details: &'a [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl Problem {
    /// A problem of this edge's own; `code` is one of [`EDGE_CODES`].
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = EDGE_CODES
            .iter()
            .find(|(name, ..)| *name == code)
            .map_or(StatusCode::BAD_REQUEST, |(_, status, _)| *status);
        Self {
            status,
            code,
            detail: detail.into(),
            findings: Vec::new(),
            retry_after: None,
        }
    }

    /// The last answer of a connection of HTTP/1 on which nothing else can be said.
    pub(super) fn into_text(self) -> String {
        let body = String::from_utf8_lossy(&self.body()).into_owned();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: {PROBLEM}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.status,
            body.len()
        )
    }

    fn body(&self) -> Vec<u8> {
        let body = Body {
            r#type: format!("/docs#error-{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Cancelled"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            details: &self.findings,
            retry_after_seconds: self.retry_after,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if error.kind() == Kind::Internal {
            tracing::error!(error.source = ?std::error::Error::source(&error), "a call failed by a fault of ours");
        }
        Self {
            status: status(error.kind()),
            code: error.code(),
            detail: error.message().to_owned(),
            findings: error.findings().to_vec(),
            retry_after: error.body().retry_after_seconds,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.body();
        let mut response = (self.status, [(header::CONTENT_TYPE, PROBLEM)], body).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_this_edge_are_sorted_and_no_others_codes() {
        assert!(EDGE_CODES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (name, ..) in EDGE_CODES {
            assert_eq!(crate::codes::find(name), None, "{name}");
        }
    }
}
