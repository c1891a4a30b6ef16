//! Stories through the real server: one binary, one file per feature.

mod support;

mod http_edge;
mod http_openapi;
mod http_rest;
mod tasks;
