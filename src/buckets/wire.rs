//! How object stores are asked: every request of theirs goes out through `outbound`, to where tenants may lead calls and
//! nowhere else, without following redirects. What a store says of a failure is brought down to its status and its code.

use std::error::Error as _;
use std::fmt;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap};
use http_body::Body as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpService,
};

use crate::error::{Error, Kind};
use crate::outbound::{Answer, Bounds, Outside, Request};

/// What one answer of a store may take: a page of a list has a thousand names of a kilobyte.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(30),
    bytes: 4 * 1024 * 1024,
    redirects: 0,
};
/// Bytes of a store's own code of a failure at most.
const CODE: usize = 64;

/// Makes what asks a store.
#[derive(Debug, Clone)]
pub(super) struct Wire(pub(super) Outside);

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// Why a request failed, as it travels through the library in between.
#[derive(Debug)]
pub(super) struct Said {
    kind: Kind,
    code: &'static str,
    message: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Said {}

impl Said {
    fn by_store(status: StatusCode, code: Option<String>) -> Self {
        let code = code.map_or_else(String::new, |code| format!(" ({code})"));
        Self {
            kind: Kind::Unavailable,
            code: "remote_error",
            message: format!("the store answered {status}{code}"),
        }
    }

    /// What was said somewhere down an error of the library.
    pub(super) fn within(error: &object_store::Error) -> Option<Error> {
        let mut next = error.source();
        while let Some(error) = next {
            if let Some(Self {
                kind,
                code,
                message,
            }) = error.downcast_ref()
            {
                return Some(Error::new(*kind, code, message));
            }
            next = error.source();
        }
        None
    }
}

fn failed(said: Said) -> HttpError {
    // Of a kind that is not tried again: whoever called decides.
    HttpError::new(HttpErrorKind::Unknown, said)
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Wire {
    fn call<'wire, 'call>(&'wire self, request: HttpRequest) -> Answering<'call>
    where
        'wire: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let mut headers = parts.headers;
            // The connection says these, by the URL and by what is sent.
            headers.remove(CONTENT_LENGTH);
            headers.remove(HOST);
            if headers
                .get(AUTHORIZATION)
                .is_some_and(|shown| shown.as_bytes().trim_ascii() == b"Bearer")
            {
                // Nobody, as the library says it in some places.
                headers.remove(AUTHORIZATION);
            }
            let body = if parts.method.is_safe() {
                None
            } else {
                Some(whole(body).await?)
            };
            let request = Request {
                method: parts.method,
                url: parts.uri.to_string(),
                headers,
                body,
            };
            let answer = self.0.fetch(request, &BOUNDS).await.map_err(|error| {
                failed(Said {
                    kind: error.kind(),
                    code: error.code(),
                    message: error.message().to_owned(),
                })
            })?;
            passed(answer)
        })
    }
}

async fn whole(body: HttpRequestBody) -> Result<Bytes, HttpError> {
    let mut body = pin!(body);
    let mut all = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// The answer, if it is one that the library makes something of: what succeeded, what is not there, what was in the way.
fn passed(answer: Answer) -> Result<HttpResponse, HttpError> {
    let status = answer.status;
    if answer.is_cut {
        let mut said = Said::by_store(status, None);
        said.message = format!("the store answered more than {} bytes", BOUNDS.bytes);
        return Err(failed(said));
    }
    let is_understood = status.is_success()
        || matches!(
            status,
            StatusCode::NOT_MODIFIED | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED
        );
    if !is_understood {
        let code = code(&answer.headers, &answer.body);
        // An object that is not there is none, but without its bucket nothing can be.
        let is_object = !matches!(
            code.as_deref(),
            Some("NoSuchBucket" | "ContainerNotFound" | "AccountNotFound")
        );
        if status != StatusCode::NOT_FOUND || !is_object {
            return Err(failed(Said::by_store(status, code)));
        }
    }
    let mut response = HttpResponse::new(Bytes::from(answer.body).into());
    *response.status_mut() = status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}

/// The store's own word for a failure. The rest of what it says may repeat what was sent to it.
fn code(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let header = headers.get("x-ms-error-code");
    let header = header.and_then(|code| code.to_str().ok());
    let text = std::str::from_utf8(body).unwrap_or_default();
    let within = text.split_once("<Code>").map(|(_, rest)| rest);
    let within = within.and_then(|rest| rest.split('<').next());
    let code = header.or(within)?;
    let is_word = code.len() <= CODE && code.chars().all(|c| c.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.into(),
            is_cut: false,
        }
    }

    #[test]
    fn of_what_a_store_says_only_its_code_comes_through() {
        let said = |status, body: &str| {
            let error = passed(answer(status, body)).unwrap_err();
            error.source().unwrap().to_string()
        };
        assert_eq!(
            said(
                403,
                "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>"
            ),
            "the store answered 403 Forbidden (SignatureDoesNotMatch)"
        );
        assert_eq!(
            said(500, "<Code>a key: AKIA</Code>"),
            "the store answered 500 Internal Server Error"
        );
        assert_eq!(
            said(404, "<Error><Code>NoSuchBucket</Code></Error>"),
            "the store answered 404 Not Found (NoSuchBucket)"
        );
        assert_eq!(said(307, ""), "the store answered 307 Temporary Redirect");
        for (status, body) in [(200, ""), (404, ""), (404, "<Code>NoSuchKey</Code>")] {
            assert!(passed(answer(status, body)).is_ok(), "{status} {body}");
        }
        let mut long = answer(200, "x");
        long.is_cut = true;
        assert!(passed(long).is_err());
    }
}
