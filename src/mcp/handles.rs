//! The Tasks extension (`io.modelcontextprotocol/tasks`): handles of long calls as MCP speaks of them. What it calls a
//! task is our handle, never one of our tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use rmcp::model::{
    CallToolResponse, ClientCapabilities, CreateTaskResult, DetailedTask, ElicitResult,
    ElicitationAction, InputRequest, InputResponses, JsonObject, NotificationMetaObject, RequestId,
    ServerNotification, Task, TaskPayload, TaskStatus, TaskStatusNotification,
    TaskStatusNotificationParams,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Map, Value, json};

use super::{log, protocol_error, tools};
use crate::app::App;
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::error::{Error, Kind, Result};
use crate::feed::{Change, News, What};
use crate::handles::{self, KEPT, Started, Status, View};
use crate::op::{Ask, Class, Op, Reply};
use crate::rounds::{is_legacy, shows_forms};

/// How often a client is to ask that is not told.
const POLL: u64 = 1_000;
/// Handles that a listener may name.
pub(super) const LISTENED: usize = 100;

/// Whether a client knows how to follow calls. The extension is for the modern era: older revisions know other tasks, under
/// the same names.
pub(super) fn knows(cx: &RequestContext<RoleServer>) -> bool {
    !is_legacy(cx)
        && cx
            .client_capabilities()
            .is_some_and(|it| it.supports_tasks())
}

/// The error for a client that does not follow a call that can't be waited for.
pub(super) fn too_long() -> ErrorData {
    let required = ClientCapabilities::builder().enable_tasks().build();
    ErrorData::missing_required_client_capability(required)
}

/// Begins a call, for a client that follows it.
///
/// # Errors
/// As [`handles::begin`].
pub(super) async fn begin(
    ctx: &Ctx,
    op: &Op,
    input: Map<String, Value>,
    cx: &RequestContext<RoleServer>,
) -> Result<Started> {
    let shows_forms = cx.client_capabilities().as_ref().is_some_and(shows_forms);
    handles::begin(ctx, op, input, shows_forms).await
}

/// What a call came to when it was begun: its result if there is nothing to wait for, else the handle.
pub(super) fn response(started: Started) -> std::result::Result<CallToolResponse, ErrorData> {
    Ok(match started {
        Started::Handle(view) => CreateTaskResult::new(detailed(&view)?.task).into(),
        Started::Done(output) => tools::result(output).into(),
    })
}

pub(super) async fn get(
    app: &App,
    ctx: &Ctx,
    id: &str,
) -> std::result::Result<DetailedTask, ErrorData> {
    let admitted = ctx.admit(Class::Read);
    let _pass = admitted.map_err(|error| protocol_error(&error))?;
    let view = handles::get(&app.catalog, ctx, id).await;
    detailed(&view.map_err(|error| protocol_error(&error))?)
}

pub(super) async fn update(
    app: &App,
    ctx: &Ctx,
    id: &str,
    responses: InputResponses,
) -> std::result::Result<(), ErrorData> {
    let answered = async {
        let _pass = ctx.admit(Class::Write)?;
        let view = handles::get(&app.catalog, ctx, id).await?;
        let Status::Asking(asks) = view.status else {
            return Ok(());
        };
        // What answers nothing may be anything.
        let open = |key: &String| asks.iter().any(|ask| ask.key == *key);
        let responses = responses.into_iter().filter(|(key, _)| open(key));
        let replies: Result<BTreeMap<_, _>> = responses
            .map(|(key, response)| reply(&key, response).map(|reply| (key, reply)))
            .collect();
        handles::answer(&app.catalog, ctx, id, replies?).await
    };
    answered.await.map_err(|error| protocol_error(&error))
}

pub(super) async fn cancel(app: &App, ctx: &Ctx, id: &str) -> std::result::Result<(), ErrorData> {
    let cancelled = async {
        let _pass = ctx.admit(Class::Write)?;
        handles::cancel(&app.catalog, ctx, id).await
    };
    cancelled.await.map_err(|error| protocol_error(&error))
}

/// What the response to a form says.
fn reply(key: &str, response: Value) -> Result<Reply> {
    let path = format!("/inputResponses/{key}");
    let result: ElicitResult = serde_json::from_value(response)
        .map_err(|error| Error::invalid_at(&*path, error.to_string()))?;
    match result.action {
        ElicitationAction::Accept => {
            let content = result.content;
            let missing = || Error::invalid_at(format!("{path}/content"), "missing");
            content.map(Reply::Accepted).ok_or_else(missing)
        }
        ElicitationAction::Decline => Ok(Reply::Declined),
        _ => Ok(Reply::Dismissed),
    }
}

/// A handle as the extension shows it.
fn detailed(view: &View) -> std::result::Result<DetailedTask, ErrorData> {
    let payload = payload(view).map_err(|error| {
        log(&error);
        protocol_error(&error)
    })?;
    let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
    let task = Task::new(
        view.id.as_str(),
        TaskStatus::Working,
        view.created_at.to_string(),
        view.updated_at.to_string(),
    )
    .with_status_message(&*view.message)
    .with_ttl_ms(kept)
    .with_poll_interval_ms(POLL);
    Ok(DetailedTask::new(task, payload))
}

fn payload(view: &View) -> Result<TaskPayload> {
    Ok(match &view.status {
        Status::Working => TaskPayload::Working,
        Status::Cancelled => TaskPayload::Cancelled,
        Status::Asking(asks) => {
            let requests = asks.iter().map(|ask| Ok((ask.key.clone(), request(ask)?)));
            TaskPayload::InputRequired {
                input_requests: requests.collect::<Result<_>>()?,
            }
        }
        Status::Failed(failure) => {
            let error = ErrorData::internal_error(failure.clone(), None);
            let error = serde_json::to_value(error).map_err(Error::internal)?;
            TaskPayload::Failed {
                error: serde_json::from_value(error).map_err(Error::internal)?,
            }
        }
        Status::Done(output) => {
            let result = tools::result(output.clone());
            let result = serde_json::to_value(result).map_err(Error::internal)?;
            let result: JsonObject = serde_json::from_value(result).map_err(Error::internal)?;
            TaskPayload::Completed { result }
        }
    })
}

fn request(ask: &Ask) -> Result<InputRequest> {
    let params = json!({"mode": "form", "message": ask.message, "requestedSchema": ask.form});
    let request = json!({"method": "elicitation/create", "params": params});
    serde_json::from_value(request).map_err(Error::internal)
}

/// The handles that a listener is told of.
pub(super) struct Watching {
    ctx: Ctx,
    catalog: Arc<Catalog>,
    handles: Vec<Watched>,
}

struct Watched {
    id: String,
    /// What its changes are known by.
    places: Vec<String>,
    /// Whether it may have changed since it was looked at.
    is_due: bool,
    /// What was told last, or what its client knows anyway.
    told: Option<Task>,
}

impl Watching {
    /// Begins to watch those of `ids` that are the caller's. Where one stands that already has something to say is told
    /// first: it may have come to that before there was a listener.
    ///
    /// # Errors
    /// A failure of the database.
    pub(super) async fn begin(
        app: &App,
        ctx: &Ctx,
        ids: Vec<String>,
    ) -> std::result::Result<Self, ErrorData> {
        let mut watching = Self {
            ctx: ctx.clone(),
            catalog: app.catalog.clone(),
            handles: Vec::new(),
        };
        for id in ids.into_iter().take(LISTENED) {
            if watching.handles.iter().any(|handle| handle.id == id) {
                continue;
            }
            match handles::get(&watching.catalog, ctx, &id).await {
                Ok(view) => {
                    let is_due = !matches!(view.status, Status::Working);
                    watching.handles.push(Watched {
                        told: if is_due {
                            None
                        } else {
                            Some(detailed(&view)?.task)
                        },
                        places: places(view),
                        is_due,
                        id,
                    });
                }
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(protocol_error(&error)),
            }
        }
        Ok(watching)
    }

    /// Those that are watched.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.handles.iter().map(|handle| handle.id.as_str())
    }

    /// Notes which ones `news` may have changed.
    pub(super) fn note(&mut self, news: &News) {
        for handle in &mut self.handles {
            let concerns = |change: &Change| match &change.what {
                What::Resource(uri) => handle.places.contains(uri),
                What::List(_) => false,
            };
            handle.is_due |= news.changes().any(concerns);
        }
    }

    /// The next message to the listener `id`, if there is anything to tell. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A failure of the database.
    pub(super) async fn next(
        &mut self,
        id: &RequestId,
    ) -> std::result::Result<Option<ServerNotification>, ErrorData> {
        while let Some(index) = self.handles.iter().position(|handle| handle.is_due) {
            let view = match handles::get(&self.catalog, &self.ctx, &self.handles[index].id).await {
                Ok(view) => view,
                Err(error) if is_refusal(&error) => {
                    self.handles.swap_remove(index);
                    continue;
                }
                Err(error) => return Err(protocol_error(&error)),
            };
            let task = detailed(&view)?;
            let handle = &mut self.handles[index];
            handle.is_due = false;
            let is_new = !handle
                .told
                .as_ref()
                .is_some_and(|told| says(told, &task.task));
            if view.status.is_terminal() {
                // It never changes again.
                self.handles.swap_remove(index);
            } else {
                handle.told = Some(task.task.clone());
                handle.places = places(view);
            }
            if is_new {
                return Ok(Some(notification(id, task)));
            }
        }
        Ok(None)
    }
}

/// Whether two tell a client the same; a question is known by when it was asked.
fn says(told: &Task, task: &Task) -> bool {
    told.status == task.status
        && told.status_message == task.status_message
        && (told.status == TaskStatus::Working || told.last_updated_at == task.last_updated_at)
}

fn places(view: View) -> Vec<String> {
    let own = handles::place(view.id.as_str());
    view.watched.into_iter().chain([own]).collect()
}

/// Whether a handle is none of the caller's, or no longer.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Forbidden)
}

fn notification(id: &RequestId, task: DetailedTask) -> ServerNotification {
    let mut meta = NotificationMetaObject::new();
    meta.set_subscription_id(id.clone());
    let mut message = TaskStatusNotification::new(TaskStatusNotificationParams::new(task));
    message.extensions.insert(meta);
    ServerNotification::TaskStatusNotification(message)
}
