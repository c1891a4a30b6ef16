//! SQL of what orchestrators look at, beside the tasks themselves.

use crate::error::Result;
use crate::id::TaskId;
use crate::store::{Tx, vals};
use crate::tasks::State;
use crate::tasks::store::{id_and_state, ids, state};

/// At most `limit` subtasks of `id`, oldest first, with the state and the result of each.
pub(super) fn first_subtasks(
    tx: &mut Tx<'_>,
    id: &TaskId,
    limit: u32,
) -> Result<Vec<(TaskId, State, Option<serde_json::Value>)>> {
    let rows = tx.query(
        "SELECT task_id, state, result FROM tasks WHERE tenant_id = $1 AND parent_task_id = $2
         ORDER BY created_at, task_id LIMIT $3",
        &vals![tx.tenant(), id, limit],
    )?;
    rows.into_iter()
        .map(|mut row| {
            let result = row.json_opt(2)?;
            let (id, state) = id_and_state(row)?;
            Ok((id, state, result))
        })
        .collect()
}

/// How many subtasks of `id` are in which state.
pub(super) fn subtask_states(tx: &mut Tx<'_>, id: &TaskId) -> Result<Vec<(State, i64)>> {
    let rows = tx.query(
        "SELECT count(*), stage AS state FROM tasks
         WHERE tenant_id = $1 AND parent_task_id = $2 AND stage <> 'running' GROUP BY stage
         UNION ALL
         SELECT count(*), state FROM tasks
         WHERE tenant_id = $1 AND parent_task_id = $2 AND stage = 'running' GROUP BY state ORDER BY state",
        &vals![tx.tenant(), id],
    )?;
    rows.into_iter()
        .map(|mut row| Ok((state(&mut row, 1)?, row.get(0)?)))
        .collect()
}

/// At most `limit` ids of tasks that begin with `prefix`, in their order.
pub(super) fn ids_with_prefix(tx: &mut Tx<'_>, prefix: &str, limit: u32) -> Result<Vec<String>> {
    // Ids are ASCII, so `~` sorts behind everything that may follow the prefix.
    let rows = tx.query(
        "SELECT task_id FROM tasks WHERE tenant_id = $1 AND task_id >= $2 AND task_id < $3 ORDER BY task_id LIMIT $4",
        &vals![tx.tenant(), prefix, format!("{prefix}~"), limit],
    )?;
    ids(rows)
}
