//! `task_dispatch`: creates a task, once, however often the call is repeated.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::{AgentId, TaskId};
use crate::op;
use crate::store::Tx;
use crate::tasks::settle::settle;
use crate::tasks::{
    ExecutionContext, OnDependencyFailure, OrchestratorInfo, Priority, Run, Spec, State, Task,
    TaskType, fingerprint, store, tell_with,
};

/// What an orchestrator asks for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(super) struct Dispatch {
    /// What is to be done, in words that an executor understands without asking
    #[schemars(length(min = 1, max = 100_000))]
    pub description: String,
    /// Your own id for it; repeating a call with the same id and payload returns the same task
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// A few words
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub title: Option<String>,
    /// What kind of work it is
    #[serde(default)]
    pub task_type: TaskType,
    /// How urgent it is (medium is normal)
    #[serde(default)]
    pub priority: Priority,
    /// What the executor gets to work with
    #[serde(default)]
    pub task_data: Map<String, Value>,
    /// Tasks that must complete first
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 100))]
    pub depends_on: BTreeSet<TaskId>,
    /// What to do when one of them ends otherwise than completed
    #[serde(default)]
    pub on_dependency_failure: OnDependencyFailure,
    /// What an executor must be able to do
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 32), inner(regex(pattern = "^[A-Za-z0-9._:/-]{1,64}$")))]
    pub required_capabilities: BTreeSet<String>,
    /// The only executor that may take it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<AgentId>,
    /// Bounds of an attempt
    #[serde(default)]
    pub execution_context: ExecutionContext,
    /// Who you are
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator_info: Option<OrchestratorInfo>,
    /// The project that it belongs to
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9._:-]{1,128}$"))]
    pub project_id: Option<String>,
    /// The task that it is part of
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_task_id: Option<TaskId>,
    /// JSON Schema that the result must satisfy
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Map<String, Value>>,
}

/// What became of a dispatch.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Dispatched {
    /// The task
    pub task_id: TaskId,
    /// Where it stands
    pub state: State,
    /// False when the same call had made it before
    pub created: bool,
}

const DEFAULT_TIMEOUT_SECONDS: u32 = 3_600;
const DEFAULT_RETRIES: u32 = 2;

pub(crate) fn dispatch(scope: &Scope, tx: &mut Tx<'_>, input: &Dispatch) -> Result<Dispatched> {
    let fingerprint = fingerprint_of(input)?;
    if let Some(id) = &input.task_id
        && let Some(task) = store::find(tx, id)?
    {
        return repeated(task, &fingerprint);
    }
    let id = input
        .task_id
        .clone()
        .unwrap_or_else(|| TaskId::mint(scope.now(), scope.random()));
    check(tx, input, &id)?;
    let mut task = create(scope, input, id, fingerprint);
    store::insert(tx, &task)?;
    tell_with(
        scope,
        tx,
        "dev.baton.task.dispatched",
        &task,
        Record::of(&task),
    )?;
    if task.state == State::Blocked {
        settle(scope, tx, &mut task)?;
    }
    Ok(Dispatched {
        task_id: task.id,
        state: task.state,
        created: true,
    })
}

/// A timestamp that the client makes anew with each try does not make it another payload.
fn fingerprint_of(input: &Dispatch) -> Result<String> {
    let orchestrator = input.orchestrator_info.as_ref();
    if orchestrator.is_none_or(|orchestrator| orchestrator.timestamp.is_none()) {
        return fingerprint(input);
    }
    let mut input = input.clone();
    if let Some(orchestrator) = &mut input.orchestrator_info {
        orchestrator.timestamp = None;
    }
    fingerprint(&input)
}

fn repeated(task: Task, fingerprint: &str) -> Result<Dispatched> {
    if task.fingerprint == fingerprint {
        return Ok(Dispatched {
            task_id: task.id,
            state: task.state,
            created: false,
        });
    }
    Err(Error::conflict(
        "task_id_taken",
        format!(
            "there is a task {} with another payload; use another task_id, or none",
            task.id
        ),
    ))
}

fn check(tx: &mut Tx<'_>, input: &Dispatch, id: &TaskId) -> Result<()> {
    for (index, dependency) in input.depends_on.iter().enumerate() {
        if dependency == id {
            return Err(Error::invalid_at(
                format!("/depends_on/{index}"),
                "a cycle: the task depends on itself",
            ));
        }
        if store::find(tx, dependency)?.is_none() {
            let message = format!("there is no task {dependency}; dispatch it first");
            return Err(Error::invalid_at(format!("/depends_on/{index}"), message));
        }
    }
    if let Some(parent) = &input.parent_task_id {
        if parent == id {
            return Err(Error::invalid_at(
                "/parent_task_id",
                "a cycle: the task is its own parent",
            ));
        }
        if store::find(tx, parent)?.is_none() {
            return Err(Error::invalid_at(
                "/parent_task_id",
                format!("there is no task {parent}"),
            ));
        }
    }
    match &input.result_schema {
        Some(schema) => op::compile(&Value::Object(schema.clone()))
            .map(drop)
            .map_err(|error| Error::invalid_at("/result_schema", error)),
        None => Ok(()),
    }
}

fn create(scope: &Scope, input: &Dispatch, id: TaskId, fingerprint: String) -> Task {
    let context = &input.execution_context;
    let orchestrator = input
        .orchestrator_info
        .clone()
        .map(|orchestrator| OrchestratorInfo {
            timestamp: Some(orchestrator.timestamp.unwrap_or(scope.now())),
            ..orchestrator
        });
    Task {
        id,
        created_at: scope.now(),
        updated_at: scope.now(),
        state: if input.depends_on.is_empty() {
            State::Pending
        } else {
            State::Blocked
        },
        priority: input.priority,
        spec: Spec {
            title: input.title.clone(),
            description: input.description.clone(),
            task_type: input.task_type,
            orchestrator,
            timeout_seconds: context.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS),
            max_retries: context.max_retries.unwrap_or(DEFAULT_RETRIES),
            resource_limits: context.resource_limits.clone(),
            task_data: input.task_data.clone(),
            depends_on: input.depends_on.clone(),
            on_dependency_failure: input.on_dependency_failure,
            required_capabilities: input.required_capabilities.clone(),
            assigned_to: input.assigned_to.clone(),
            project_id: input.project_id.clone(),
            parent_task_id: input.parent_task_id.clone(),
            result_schema: input.result_schema.clone(),
        },
        run: Run::default(),
        result: None,
        report: None,
        fingerprint,
        is_awaited: false,
    }
}

/// What the log keeps of a dispatch: all but the data, which may be large.
#[derive(Serialize)]
struct Record<'a> {
    description: &'a str,
    task_type: TaskType,
    priority: Priority,
    orchestrator_info: Option<&'a OrchestratorInfo>,
    depends_on: &'a BTreeSet<TaskId>,
    required_capabilities: &'a BTreeSet<String>,
}

impl<'a> Record<'a> {
    fn of(task: &'a Task) -> Self {
        let spec = &task.spec;
        Self {
            description: &spec.description,
            task_type: spec.task_type,
            priority: task.priority,
            orchestrator_info: spec.orchestrator.as_ref(),
            depends_on: &spec.depends_on,
            required_capabilities: &spec.required_capabilities,
        }
    }
}
