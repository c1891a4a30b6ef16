//! A request over HTTP to anything that is served: method and path, headers, body. It is answered, and with no fault of ours.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use baton::http::Guarded;
use baton::transport::Front;
use baton_fuzz::SERVER;
use serde_json::Value;
use tower_service::Service;

/// What takes longer is a stream, or waits as it should.
const PATIENCE: Duration = Duration::from_millis(50);

static ROUTES: LazyLock<Guarded<Front>> = LazyLock::new(|| {
    let _entered = SERVER.runtime.enter();
    baton::http::guarded(&SERVER.app, |others| {
        baton::transport::front(&SERVER.app, others)
    })
});

/// `METHOD path`, a header a line, an empty line, the body.
fn request(text: &[u8]) -> Option<Request<Body>> {
    let end = text.windows(2).position(|two| two == b"\n\n")?;
    let mut lines = text[..end].split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, path) = first.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    request.body(Body::from(text[end + 2..].to_vec())).ok()
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Some(request) = request(text) else { return };
    SERVER.runtime.block_on(async {
        let answer = ROUTES.clone().call(request);
        let Ok(answer) = tokio::time::timeout(PATIENCE, answer).await else {
            return;
        };
        let (head, body) = answer.expect("routes don't fail").into_parts();
        let Ok(body) = tokio::time::timeout(PATIENCE, to_bytes(body, usize::MAX)).await else {
            return;
        };
        let body = body.expect("a body is whole");
        assert!(head.status != 500, "{}", String::from_utf8_lossy(&body));
        let kind = head.headers.get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.contains("json") {
            serde_json::from_slice::<Value>(&body).expect("JSON is JSON");
        }
    });
});
