//! SQL of tasks.

use serde::Serialize;

use super::{Priority, State, Task};
use crate::clock::Time;
use crate::error::{Error, Result};
use crate::id::{AgentId, TaskId, TenantId};
use crate::page::Position;
use crate::store::{FromValue, Row, SystemTx, Tx, Value, vals};

macro_rules! columns {
    () => {
        "task_id, created_at, updated_at, state, priority, spec, run, result, report, fingerprint"
    };
}

/// The state that a column names.
pub(crate) fn state(row: &mut Row, column: usize) -> Result<State> {
    let name: String = row.get(column)?;
    State::from_name(&name).ok_or_else(|| Error::internal(format!("state {name}")))
}

fn task(mut row: Row) -> Result<Task> {
    let priority: i64 = row.get(4)?;
    Ok(Task {
        id: row.get(0)?,
        created_at: row.get(1)?,
        updated_at: row.get(2)?,
        state: state(&mut row, 3)?,
        priority: Priority::from_rank(priority)
            .ok_or_else(|| Error::internal(format!("priority {priority}")))?,
        spec: row.json(5)?,
        run: row.json(6)?,
        result: row.json_opt(7)?,
        report: row.json_opt(8)?,
        fingerprint: row.get(9)?,
        may_be_awaited: true,
    })
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

fn json_opt(value: Option<&impl Serialize>) -> Result<Option<String>> {
    value.map(json).transpose()
}

/// What the database sorts by; the oldest comes first.
fn age(task: &Task) -> (Time, &str) {
    (task.created_at, task.id.as_str())
}

/// What a task asks of its executor, as the index of claimable tasks spells it.
fn lane(task: &Task) -> String {
    task.spec
        .required_capabilities
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

/// A task as [`insert`] writes it, but for its tenant.
pub(crate) struct NewTask([Value; 15]);

impl NewTask {
    pub(crate) fn of(task: &Task) -> Result<Self> {
        let spec = &task.spec;
        let task_type = serde_json::to_value(spec.task_type).map_err(Error::internal)?;
        Ok(Self(vals![
            &task.id,
            task.created_at,
            task.state.name(),
            task_type.as_str().unwrap_or_default(),
            task.priority.rank(),
            spec.project_id.as_deref(),
            spec.parent_task_id.as_ref(),
            spec.assigned_to.as_ref().map_or("", AgentId::as_str),
            lane(task),
            task.is_claimable(),
            task.wake_at(),
            &task.fingerprint,
            json(spec)?,
            json(&task.run)?,
            task.state.stage(),
        ]))
    }
}

pub(crate) fn insert(tx: &mut Tx<'_>, task: &Task, row: &NewTask) -> Result<()> {
    let values = std::iter::once(tx.tenant().into()).chain(row.0.iter().cloned());
    tx.put(
        "INSERT INTO tasks (tenant_id, task_id, created_at, updated_at, state, task_type, priority, project_id,
             parent_task_id, assigned_to, capabilities, claimable, agent_id, leased, wake_at, fingerprint, spec, run, stage)
         VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL, 0, $12, $13, $14, $15, $16)",
        values.collect::<Vec<_>>(),
    )?;
    for dependency in &task.spec.depends_on {
        tx.put(
            "INSERT INTO task_dependencies (tenant_id, task_id, depends_on) VALUES ($1, $2, $3)",
            vals![tx.tenant(), &task.id, dependency],
        )?;
    }
    Ok(())
}

const FIND: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tasks WHERE tenant_id = $1 AND task_id = $2"
);

pub(crate) fn find(tx: &mut Tx<'_>, id: &TaskId) -> Result<Option<Task>> {
    tx.query_opt(FIND, &vals![tx.tenant(), id])?
        .map(task)
        .transpose()
}

pub(crate) fn get(tx: &mut Tx<'_>, id: &TaskId) -> Result<Task> {
    find(tx, id)?.ok_or_else(|| unknown(id))
}

/// The task, and whether it has subtasks.
pub(crate) fn get_for_view(tx: &mut Tx<'_>, id: &TaskId) -> Result<(Task, bool)> {
    const FIND: &str = concat!(
        "SELECT ",
        columns!(),
        ", EXISTS (SELECT 1 FROM tasks s WHERE s.tenant_id = tasks.tenant_id AND s.parent_task_id = tasks.task_id)
         FROM tasks WHERE tenant_id = $1 AND task_id = $2"
    );
    let mut row = tx
        .query_opt(FIND, &vals![tx.tenant(), id])?
        .ok_or_else(|| unknown(id))?;
    let has_subtasks = row.get(10)?;
    Ok((task(row)?, has_subtasks))
}

/// The task, for a change that [`save`] or [`save_all`] follows.
pub(crate) fn lock(tx: &mut Tx<'_>, id: &TaskId) -> Result<Task> {
    get(tx, id)
}

/// As [`lock`], for a change that probably is the task's end: whether others depend on it comes along.
pub(crate) fn lock_to_end(tx: &mut Tx<'_>, id: &TaskId) -> Result<Task> {
    const FIND: &str = concat!(
        "SELECT ",
        columns!(),
        ", EXISTS (SELECT 1 FROM task_dependencies d
             WHERE d.tenant_id = tasks.tenant_id AND d.depends_on = tasks.task_id)
         FROM tasks WHERE tenant_id = $1 AND task_id = $2"
    );
    let mut row = tx
        .query_opt(FIND, &vals![tx.tenant(), id])?
        .ok_or_else(|| unknown(id))?;
    let may_be_awaited = row.get(10)?;
    Ok(Task {
        may_be_awaited,
        ..task(row)?
    })
}

pub(crate) fn unknown(id: &TaskId) -> Error {
    Error::not_found("unknown_task", format!("there is no task {id}"))
}

/// What queries look for, beside the texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Columns {
    state: State,
    claimable: bool,
    agent_id: Option<AgentId>,
    leased: bool,
    wake_at: Option<Time>,
}

impl Columns {
    pub(crate) fn of(task: &Task) -> Self {
        Self {
            state: task.state,
            claimable: task.is_claimable(),
            agent_id: task.run.agent_id.clone(),
            leased: task.run.lease.is_some(),
            wake_at: task.wake_at(),
        }
    }

    /// Whether indexes say the same of both.
    fn is_where(&self, other: &Self) -> bool {
        let state = other.state;
        self.state.stage() == state.stage()
            && Self {
                state,
                ..self.clone()
            } == *other
    }
}

/// What a change of `task` writes, and what it was made on.
fn changed(tx: &Tx<'_>, task: &Task, was: &Columns, now: Time) -> Result<Vec<Value>> {
    let is = Columns::of(task);
    let values = vals![
        tx.tenant(),
        &task.id,
        was.state.name(),
        now,
        json(&task.run)?,
        is.state.name(),
        is.state.stage(),
        is.claimable,
        is.agent_id.as_ref(),
        is.leased,
        is.wake_at,
    ];
    Ok(values.to_vec())
}

/// Writes how it goes. `was` is what the decision was made on; columns that stay as they are cost their indexes nothing.
pub(crate) fn save(tx: &mut Tx<'_>, task: &Task, was: &Columns, now: Time) -> Result<()> {
    let mut values = changed(tx, task, was, now)?;
    if Columns::of(task).is_where(was) {
        values.truncate(6);
        return tx.put(
            "UPDATE tasks SET updated_at = $4, run = $5, state = $6 WHERE tenant_id = $1 AND task_id = $2 AND state = $3",
            values,
        );
    }
    tx.put(
        "UPDATE tasks SET updated_at = $4, run = $5, state = $6, stage = $7, claimable = $8, agent_id = $9, leased = $10,
             wake_at = $11
         WHERE tenant_id = $1 AND task_id = $2 AND state = $3",
        values,
    )
}

/// Writes how it ended and what came of it.
pub(crate) fn save_end(tx: &mut Tx<'_>, task: &Task, was: &Columns, now: Time) -> Result<()> {
    let mut values = changed(tx, task, was, now)?;
    values.push(json_opt(task.result.as_ref())?.into());
    values.push(json_opt(task.report.as_ref())?.into());
    tx.put(
        "UPDATE tasks SET updated_at = $4, run = $5, state = $6, stage = $7, claimable = $8, agent_id = $9, leased = $10,
             wake_at = $11, result = $12, report = $13
         WHERE tenant_id = $1 AND task_id = $2 AND state = $3",
        values,
    )
}

/// Writes how it goes, what was asked for and what came of it.
pub(crate) fn save_all(tx: &mut Tx<'_>, task: &Task, was: &Columns, now: Time) -> Result<()> {
    save_end(tx, task, was, now)?;
    tx.put(
        "UPDATE tasks SET priority = $3, spec = $4, assigned_to = $5, capabilities = $6
         WHERE tenant_id = $1 AND task_id = $2",
        vals![
            tx.tenant(),
            &task.id,
            task.priority.rank(),
            json(&task.spec)?,
            task.spec.assigned_to.as_ref().map_or("", AgentId::as_str),
            lane(task),
        ],
    )
}

/// The tasks that wait for `id` to end. Each is looked up by its id: for a join, a planner without statistics may read all
/// tasks of the tenant for each.
pub(crate) fn dependents(tx: &mut Tx<'_>, id: &TaskId) -> Result<Vec<TaskId>> {
    let rows = tx.query(
        "SELECT d.task_id FROM task_dependencies d WHERE d.tenant_id = $1 AND d.depends_on = $2
             AND (SELECT t.state FROM tasks t WHERE t.tenant_id = d.tenant_id AND t.task_id = d.task_id) = 'blocked'
         ORDER BY d.task_id",
        &vals![tx.tenant(), id],
    )?;
    ids(rows)
}

/// What `id` depends on, with the state of each.
pub(crate) fn dependencies(tx: &mut Tx<'_>, id: &TaskId) -> Result<Vec<(TaskId, State)>> {
    let rows = tx.query(
        "SELECT d.depends_on,
             (SELECT t.state FROM tasks t WHERE t.tenant_id = d.tenant_id AND t.task_id = d.depends_on)
         FROM task_dependencies d WHERE d.tenant_id = $1 AND d.task_id = $2 ORDER BY d.depends_on",
        &vals![tx.tenant(), id],
    )?;
    rows.into_iter().map(id_and_state).collect()
}

/// Rows of one id each.
pub(crate) fn ids<T: FromValue>(rows: Vec<Row>) -> Result<Vec<T>> {
    rows.into_iter().map(|mut row| row.get(0)).collect()
}

/// A row of an id and a state.
pub(crate) fn id_and_state(mut row: Row) -> Result<(TaskId, State)> {
    Ok((row.get(0)?, state(&mut row, 1)?))
}

/// Subtasks of `id` that have not ended.
pub(crate) fn live_subtasks(tx: &mut Tx<'_>, id: &TaskId) -> Result<Vec<TaskId>> {
    let rows = tx.query(
        "SELECT task_id FROM tasks WHERE tenant_id = $1 AND parent_task_id = $2
             AND stage NOT IN ('completed', 'failed', 'cancelled') ORDER BY created_at, task_id",
        &vals![tx.tenant(), id],
    )?;
    ids(rows)
}

/// What tasks ask of an executor: whom they are for (empty: anybody) and what it must be able to do.
pub(crate) type Lane = (String, String);

/// How many tasks executors work on.
pub(crate) fn running(tx: &mut Tx<'_>) -> Result<u64> {
    let row = tx.query_opt(
        "SELECT count(*) FROM tasks
         WHERE tenant_id = $1 AND stage IN ('running', 'escalated') AND stage <> '' AND leased = 1",
        &vals![tx.tenant()],
    )?;
    let count: i64 = row.map_or(Ok(0), |mut row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// How many tasks `agent` holds, and the lanes with claimable tasks that are for it or for anybody. Each lane costs one
/// look into the index, however many tasks wait in it: a planner without statistics would read a whole lane for `min`.
pub(crate) fn offers(tx: &mut Tx<'_>, agent: &AgentId) -> Result<(i64, Vec<Lane>)> {
    const OFFERS: &str = "WITH RECURSIVE lanes (assigned_to, capabilities) AS (
             SELECT whose.assigned_to, (SELECT t.capabilities FROM tasks t
                 WHERE t.tenant_id = $1 AND t.claimable = 1 AND t.assigned_to = whose.assigned_to
                 ORDER BY t.capabilities LIMIT 1)
             FROM (SELECT '' AS assigned_to UNION ALL SELECT $2) AS whose
             UNION ALL
             SELECT lanes.assigned_to, (SELECT t.capabilities FROM tasks t
                 WHERE t.tenant_id = $1 AND t.claimable = 1 AND t.assigned_to = lanes.assigned_to
                     AND t.capabilities > lanes.capabilities
                 ORDER BY t.capabilities LIMIT 1)
             FROM lanes WHERE lanes.capabilities IS NOT NULL)
         SELECT count(*), '', '' FROM tasks WHERE tenant_id = $1 AND agent_id = $2 AND leased = 1
         UNION ALL SELECT NULL, assigned_to, capabilities FROM lanes WHERE capabilities IS NOT NULL";
    let (mut held, mut lanes) = (0, Vec::new());
    for mut row in tx.query(OFFERS, &vals![tx.tenant(), agent])? {
        match row.get(0)? {
            Some(count) => held = count,
            None => lanes.push((row.get(1)?, row.get(2)?)),
        }
    }
    Ok((held, lanes))
}

/// Lanes that are looked at together.
const LANES: usize = 16;

/// The best `limit` tasks of these lanes, by priority, then by age.
pub(crate) fn best(tx: &mut Tx<'_>, lanes: &[Lane], limit: u32) -> Result<Vec<Task>> {
    const HEADS: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM tasks WHERE tenant_id = $1 AND claimable = 1 AND assigned_to = $2 AND capabilities = $3
         ORDER BY priority, created_at, task_id LIMIT $4"
    );
    let mut best: Vec<Task> = Vec::new();
    for lanes in lanes.chunks(LANES) {
        let of_lane = |(assigned_to, lane): &Lane| vals![tx.tenant(), assigned_to, lane, limit];
        let values: Vec<_> = lanes.iter().map(of_lane).collect();
        let queries: Vec<(&'static str, &[Value])> =
            values.iter().map(|values| (HEADS, &values[..])).collect();
        for row in tx.query_all(&queries)?.into_iter().flatten() {
            best.push(task(row)?);
        }
        let rank = |task: &Task| task.priority.rank();
        best.sort_by(|one, other| (rank(one), age(one)).cmp(&(rank(other), age(other))));
        best.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    Ok(best)
}

/// What a list is narrowed down to.
#[derive(Debug, Default)]
pub(crate) struct Filter<'a> {
    pub state: Option<State>,
    pub task_type: Option<&'a str>,
    pub priority: Option<Priority>,
    pub agent_id: Option<&'a AgentId>,
    pub project_id: Option<&'a str>,
    pub parent: Option<&'a TaskId>,
}

/// Tasks behind a position that one index leads to; the rest of the filter sifts what it finds.
macro_rules! found {
    ($lead:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE tenant_id = $1 AND (created_at, task_id) < ($2, $3)",
            $lead,
            " AND (state = $4 OR $4 IS NULL) AND (task_type = $5 OR $5 IS NULL)
                 AND (priority = $6 OR $6 IS NULL) AND (agent_id = $7 OR $7 IS NULL)
                 AND (project_id = $8 OR $8 IS NULL) AND (parent_task_id = $9 OR $9 IS NULL)"
        )
    };
}

/// The lists that these conditions lead to, as one: databases merge what is sorted already, and read no more than they return.
macro_rules! list {
    ($first:literal $(, $lead:literal)*) => {
        concat!(
            found!($first),
            $(" UNION ALL ", found!($lead),)*
            " ORDER BY created_at DESC, task_id DESC LIMIT $10"
        )
    };
}

/// At most `limit` tasks, newest first, behind `position`.
pub(crate) fn list(
    tx: &mut Tx<'_>,
    filter: &Filter<'_>,
    position: Option<&Position>,
    limit: u32,
) -> Result<Vec<Task>> {
    let (key, id) = position.map_or((i64::MAX, ""), |position| {
        (position.key, position.id.as_str())
    });
    let values = vals![
        tx.tenant(),
        key,
        id,
        filter.state.map(State::name),
        filter.task_type,
        filter.priority.map(Priority::rank),
        filter.agent_id,
        filter.project_id,
        filter.parent,
        limit,
        filter.state.map(State::stage),
    ];
    // The condition that few tasks meet, as far as that can be told, finds the index.
    let (sql, count) = match filter {
        Filter {
            parent: Some(_), ..
        } => (list!(" AND parent_task_id = $9"), 10),
        Filter {
            project_id: Some(_),
            ..
        } => (list!(" AND project_id = $8"), 10),
        Filter {
            agent_id: Some(_), ..
        } => (
            list!(
                " AND agent_id = $7 AND leased = 0",
                " AND agent_id = $7 AND leased = 1"
            ),
            10,
        ),
        Filter { state: Some(_), .. } => (list!(" AND stage = $11 AND stage <> ''"), 11),
        _ => (EVERY_STAGE, 10),
    };
    let rows = tx.query(sql, values.get(..count).unwrap_or(&values))?;
    rows.into_iter().map(task).collect()
}

/// A task is in one index of lists, that of stages, unless something else leads to it.
const EVERY_STAGE: &str = list!(
    " AND stage = 'blocked' AND stage <> ''",
    " AND stage = 'pending' AND stage <> ''",
    " AND stage = 'running' AND stage <> ''",
    " AND stage = 'escalated' AND stage <> ''",
    " AND stage = 'completed' AND stage <> ''",
    " AND stage = 'failed' AND stage <> ''",
    " AND stage = 'cancelled' AND stage <> ''"
);

/// Tasks of any tenant that time has something to say to, the most overdue first.
pub(crate) fn due(tx: &mut SystemTx<'_>, now: Time, limit: u32) -> Result<Vec<(TenantId, TaskId)>> {
    let rows = tx.query(
        "SELECT tenant_id, task_id FROM tasks WHERE wake_at <= $1 ORDER BY wake_at LIMIT $2",
        &vals![now, limit],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// How many tasks of each tenant are in which state, and how many are leased. Every task itself is read, and no index for it,
/// so that `baton doctor` meets what is damaged.
pub(crate) fn counts(tx: &mut SystemTx<'_>) -> Result<Vec<(TenantId, String, i64, i64)>> {
    let rows = tx.query(
        "SELECT tenant_id, state, count(*), CAST(sum(leased) AS BIGINT) FROM tasks
         GROUP BY tenant_id, state ORDER BY tenant_id, state",
        &vals![],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .collect()
}
