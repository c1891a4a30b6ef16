//! The MCP edge.
