//! Stories through the real server: one binary, one file per feature.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test fails where it stands, and nothing is reached from outside a test"
)]

mod program;
mod support;

mod access;
mod access_calls;
mod access_ends;
mod access_keys;
mod access_limits;
mod access_rates;
mod access_tokens;
mod asking;
mod asking_once;
mod bad_input;
mod bounds;
mod cli_install;
mod cli_verbs;
mod contract;
mod databases;
mod databases_apart;
mod databases_hostile;
mod databases_postgres;
mod databases_tls;
mod handles;
mod handles_heard;
mod handles_kept;
mod histories;
mod http_edge;
mod http_openapi;
mod http_pages;
mod http_rest;
mod isolation;
mod isolation_beside;
mod lifecycle;
mod mcp_declared;
mod mcp_http;
mod mcp_matrix;
mod mcp_schema;
mod mcp_sessions;
mod mcp_sessions_anywhere;
mod mcp_short;
mod mcp_sse;
mod mcp_stdio;
mod mcp_streams;
mod mcp_wire;
mod memory;
mod memory_near;
mod memory_quality;
mod outbound;
mod places;
mod questions;
mod resources;
mod resources_access;
mod resources_changes;
mod resources_service;
mod resources_stores;
mod scripts;
mod scripts_escapes;
mod scripts_resources;
mod secrets;
mod secrets_kept;
mod steering;
mod store;
mod tasks;
mod tenants;
mod tenants_delete;
mod tenants_fields;
mod tls;
mod tls_program;
mod tools;
mod tools_done;
mod tools_given;
mod tools_shown;
mod traces;
mod upstreams;
mod upstreams_hostile;
mod upstreams_many;
mod work_life;
mod work_rest;
