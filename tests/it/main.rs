//! Stories through the real server: one binary, one file per feature.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

mod http_edge;
mod http_openapi;
mod http_rest;
mod tasks;
