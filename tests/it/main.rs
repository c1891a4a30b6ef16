//! Stories through the real server: one binary, one file per feature.

mod support;

mod mcp_stdio;
mod tasks;
