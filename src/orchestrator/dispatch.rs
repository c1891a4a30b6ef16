//! `task_dispatch`: creates a task, once, however often the call is repeated.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::events;
use crate::id::{AgentId, TaskId};
use crate::op;
use crate::store::Tx;
use crate::tasks::settle::{settle, tellable};
use crate::tasks::store::NewTask;
use crate::tasks::{
    ExecutionContext, OnDependencyFailure, OrchestratorInfo, Priority, Run, Spec, State, Task,
    TaskType, fingerprint, store,
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

/// A dispatch on its way to the writer: all that can be worked out without the database is worked out before it waits.
pub(super) struct Order {
    task: Task,
    /// Whether the caller named it, and may so have named it before.
    is_named: bool,
    row: NewTask,
    told: Box<RawValue>,
}

/// Makes a dispatch ready.
pub(super) fn order(scope: &Scope, input: Dispatch) -> Result<Order> {
    if let Some(schema) = &input.result_schema {
        op::compile(&Value::Object(schema.clone()))
            .map_err(|error| Error::invalid_at("/result_schema", error))?;
    }
    let is_named = input.task_id.is_some();
    let task = create(scope, input)?;
    Ok(Order {
        row: NewTask::of(&task)?,
        told: tellable(&task, Some(Record::of(&task)))?,
        task,
        is_named,
    })
}

pub(super) fn dispatch(scope: &Scope, tx: &mut Tx<'_>, order: &Order) -> Result<Dispatched> {
    let task = &order.task;
    if order.is_named
        && let Some(known) = store::find(tx, &task.id)?
    {
        return repeated(known, &task.fingerprint);
    }
    check(tx, task)?;
    store::insert(tx, task, &order.row)?;
    let kind = "dev.baton.task.dispatched";
    events::append(scope, tx, kind, task.id.as_str(), &order.told)?;
    let mut state = task.state;
    if state == State::Blocked {
        let mut task = task.clone();
        settle(scope, tx, &mut task)?;
        state = task.state;
    }
    Ok(Dispatched {
        task_id: task.id.clone(),
        state,
        created: true,
    })
}

/// What a repeated call is known by; empty for a task that its caller did not name, which no call repeats. A timestamp that
/// the client makes anew with each try does not make it another payload.
fn fingerprint_of(input: &Dispatch) -> Result<String> {
    if input.task_id.is_none() {
        return Ok(String::new());
    }
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

fn check(tx: &mut Tx<'_>, task: &Task) -> Result<()> {
    let (id, spec) = (&task.id, &task.spec);
    for (index, dependency) in spec.depends_on.iter().enumerate() {
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
    if let Some(parent) = &spec.parent_task_id {
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
    Ok(())
}

fn create(scope: &Scope, input: Dispatch) -> Result<Task> {
    let fingerprint = fingerprint_of(&input)?;
    let context = input.execution_context;
    let orchestrator = input
        .orchestrator_info
        .map(|orchestrator| OrchestratorInfo {
            timestamp: Some(orchestrator.timestamp.unwrap_or(scope.now())),
            ..orchestrator
        });
    Ok(Task {
        id: input
            .task_id
            .unwrap_or_else(|| TaskId::mint(scope.now(), scope.random())),
        created_at: scope.now(),
        updated_at: scope.now(),
        state: if input.depends_on.is_empty() {
            State::Pending
        } else {
            State::Blocked
        },
        priority: input.priority,
        spec: Spec {
            title: input.title,
            description: input.description,
            task_type: input.task_type,
            orchestrator,
            timeout_seconds: context.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS),
            max_retries: context.max_retries.unwrap_or(DEFAULT_RETRIES),
            resource_limits: context.resource_limits,
            task_data: input.task_data,
            depends_on: input.depends_on,
            on_dependency_failure: input.on_dependency_failure,
            required_capabilities: input.required_capabilities,
            assigned_to: input.assigned_to,
            project_id: input.project_id,
            parent_task_id: input.parent_task_id,
            result_schema: input.result_schema,
            trace: scope.trace().cloned(),
        },
        run: Run::default(),
        result: None,
        report: None,
        fingerprint,
        may_be_awaited: false,
    })
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
