//! The MCP edge.

mod line;
pub mod stdio;
pub mod wire;
