//! The documentation page: one self-contained document that shows `/openapi.json`.

use axum::Router;
use axum::http::header;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n",
    "<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<title>Baton API</title>\n<style>\n",
    include_str!("../../web/docs.css"),
    "</style>\n</head>\n",
    include_str!("../../web/docs.html"),
    "<script>\n",
    include_str!("../../web/docs.js"),
    "</script>\n</body>\n</html>\n",
);

/// What stands between the tags of the page, to the byte.
const STYLE: &str = concat!("\n", include_str!("../../web/docs.css"));
const SCRIPT: &str = concat!("\n", include_str!("../../web/docs.js"));

pub(super) fn router() -> Router {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let page = move || async move { (headers, PAGE) };
    Router::new().route("/docs", get(page))
}

/// The page runs what is written in it and nothing else, and loads its data from this server and nothing from anywhere else.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}
