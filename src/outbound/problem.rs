//! What another Baton's refusal says, as the error that it was there.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::codes;
use crate::error::{Error, Finding, Kind};

#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
    #[serde(default)]
    details: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    path: String,
    message: String,
}

pub(super) fn remote_error(
    status: StatusCode,
    body: &[u8],
    retry_after: Option<Duration>,
) -> Error {
    let kind = kind(status);
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let message = format!("the server answered {status} without saying why; is it a Baton?");
        return Error::new(kind, "remote_error", message);
    };
    let (code, message) = match codes::find(&problem.code) {
        Some(code) => (code, problem.detail),
        None => (
            "remote_error",
            format!("{} ({})", problem.detail, problem.code),
        ),
    };
    let findings = problem
        .details
        .into_iter()
        .map(|place| Finding {
            path: place.path,
            message: place.message,
        })
        .collect();
    let error = match retry_after {
        Some(after) if kind == Kind::Unavailable => Error::unavailable(code, message, after),
        _ => Error::new(kind, code, message),
    };
    error.with_findings(findings)
}

fn kind(status: StatusCode) -> Kind {
    match status {
        StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
        StatusCode::FORBIDDEN => Kind::Forbidden,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::CONFLICT => Kind::Conflict,
        StatusCode::TOO_MANY_REQUESTS => Kind::Limited,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Kind::Unavailable
        }
        status if status.is_client_error() => Kind::Invalid,
        StatusCode::INTERNAL_SERVER_ERROR => Kind::Internal,
        _ => Kind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_become_the_errors_that_they_were() {
        let body = json!({
            "code": "invalid_input", "detail": "wrong",
            "details": [{"path": "/a", "message": "is missing"}],
        });
        let error = remote_error(StatusCode::BAD_REQUEST, body.to_string().as_bytes(), None);
        assert_eq!(
            (error.kind(), error.code(), error.message()),
            (Kind::Invalid, "invalid_input", "wrong")
        );
        assert_eq!(error.findings()[0].path, "/a");

        let body = json!({"code": "from_the_future", "detail": "no"}).to_string();
        let soon = Some(Duration::from_secs(3));
        let error = remote_error(StatusCode::SERVICE_UNAVAILABLE, body.as_bytes(), soon);
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::Unavailable, "remote_error")
        );
        assert_eq!(error.message(), "no (from_the_future)");
        assert_eq!(error.retry_after(), soon);

        let error = remote_error(StatusCode::BAD_GATEWAY, b"<html>", None);
        assert_eq!(error.code(), "remote_error");
    }
}
