//! The MCP edge: one handler for every transport and era, which only translates between the protocol and the catalogue.
//! How messages come and go is `transport`'s.

mod content;
mod handles;
mod kept;
mod listen;
mod params;
mod plain;
mod server;
mod session;
mod tools;

use rmcp::ErrorData;
use rmcp::model::ErrorCode;
use serde_json::json;

use crate::error::{Error, Kind};

pub(crate) use kept::{Kept, RETRY, Visit, number};
pub(crate) use listen::{Hearing, Leave, Listener, Requested, keep_task_ids, knows_listeners};
pub(crate) use plain::Plain;
pub(crate) use server::{Edge, Front, Named};
pub(crate) use session::{Beginning, Shared, too_many_sessions};

/// An error that is the protocol's and not a tool's: JSON-RPC shows it.
pub(crate) fn protocol_error(error: &Error) -> ErrorData {
    let code = match error.kind() {
        Kind::Invalid | Kind::NotFound => ErrorCode::INVALID_PARAMS,
        Kind::Unauthenticated | Kind::Forbidden => ErrorCode::INVALID_REQUEST,
        Kind::Conflict | Kind::Limited | Kind::Unavailable | Kind::Cancelled | Kind::Internal => {
            ErrorCode::INTERNAL_ERROR
        }
    };
    log(error);
    ErrorData::new(
        code,
        error.message().to_owned(),
        Some(json!({"error": error.body()})),
    )
}

/// A fault of ours goes to the log with its source, once.
fn log(error: &Error) {
    if error.kind() == Kind::Internal {
        tracing::error!(error = ?error, "a call failed");
    }
}
