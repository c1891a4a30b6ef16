//! Stories through the real server: one binary, one file per feature.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod program;
mod support;

mod cli_install;
mod cli_verbs;
mod http_edge;
mod http_openapi;
mod http_rest;
mod mcp_stdio;
mod tasks;
mod work_life;
mod work_rest;
