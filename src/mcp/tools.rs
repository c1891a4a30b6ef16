//! Tools: the catalogue's operations as MCP shows and calls them.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock,
    ProgressNotificationParam, ProgressToken, Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, Peer, RoleServer};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{handles, log};
use crate::app::App;
use crate::catalog::Catalog;
use crate::ctx::{Ctx, Progress};
use crate::error::Error;
use crate::op::{Effect, Op};

/// Progress that waits to be sent; more is skipped, since the next step says more.
const PROGRESS: usize = 16;

/// All operations as tools, in the catalogue's order.
pub(super) fn project(catalog: &Catalog) -> Vec<Tool> {
    catalog.ops().iter().map(tool).collect()
}

fn tool(op: &Op) -> Tool {
    let mut annotations = ToolAnnotations::new();
    annotations.title = Some(op.title.to_owned());
    annotations.read_only_hint = Some(op.effect == Effect::ReadOnly);
    annotations.destructive_hint = Some(op.effect == Effect::Destructive);
    annotations.idempotent_hint = Some(op.idempotent);
    annotations.open_world_hint = Some(false);
    Tool::new(op.name, op.description, Arc::new(op.input_schema.clone()))
        .with_title(op.title)
        .with_raw_output_schema(Arc::new(op.output_schema.clone()))
        .with_annotations(annotations)
}

/// Calls a tool. What it refuses is a result that the model can read and act on, not an error of the protocol.
pub(super) async fn call(
    app: &App,
    ctx: Ctx,
    request: CallToolRequestParams,
    cx: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let (catalog, name) = (&app.catalog, &*request.name);
    let Some(op) = catalog.op(name) else {
        return Err(ErrorData::invalid_params(
            format!("there is no tool {name:?}"),
            None,
        ));
    };
    let input = request.arguments.unwrap_or_default();
    if handles::follows(op, cx) {
        return handles::begin(&ctx, op, input, cx).await;
    }
    let called = async {
        let Some(token) = cx.meta.get_progress_token() else {
            return catalog.call(ctx, name, input).await;
        };
        let (sender, steps) = mpsc::channel(PROGRESS);
        let call = catalog.call(ctx.with_progress(sender), name, input);
        // The call owns the sender, so `tell` ends when the call has and everything is sent.
        tokio::join!(call, tell(&cx.peer, token, steps)).0
    };
    let outcome = tokio::select! {
        biased;
        outcome = called => outcome,
        () = cx.ct.cancelled() => Err(cancelled()),
        error = app.last_call() => Err(error),
    };
    Ok(result(outcome).into())
}

/// What a tool answered, as a result.
pub(super) fn result(outcome: crate::error::Result<Value>) -> CallToolResult {
    match outcome {
        Ok(output) => {
            let mut result = CallToolResult::success(vec![ContentBlock::text(output.to_string())]);
            result.structured_content = Some(output);
            result
        }
        Err(error) => refusal(&error),
    }
}

/// Nobody reads this answer: a cancelled request gets none.
fn cancelled() -> Error {
    Error::new(
        crate::error::Kind::Cancelled,
        "cancelled",
        "the call was cancelled",
    )
}

/// What was refused, as a result.
pub(super) fn refusal(error: &Error) -> CallToolResult {
    log(error);
    CallToolResult::error(vec![ContentBlock::text(
        json!({"error": error.body()}).to_string(),
    )])
}

/// Sends steps as they come, each farther than the one before, as the protocol asks.
async fn tell(peer: &Peer<RoleServer>, token: ProgressToken, mut steps: mpsc::Receiver<Progress>) {
    let mut last = f64::NEG_INFINITY;
    while let Some(step) = steps.recv().await {
        if step.progress <= last {
            continue;
        }
        last = step.progress;
        let mut param = ProgressNotificationParam::new(token.clone(), step.progress);
        (param.total, param.message) = (step.total, step.message);
        if peer.notify_progress(param).await.is_err() {
            break;
        }
    }
}
