//! What the newest tasks of a tenant suggest to whoever fills in a form.

use std::collections::BTreeSet;

use super::{Task, store};
use crate::ctx::Scope;
use crate::error::Result;
use crate::store::Tx;

/// Tasks that are looked at: suggestions need not be complete, but quick.
const NEWEST: u32 = 200;

/// What `of` finds in the newest tasks and begins with `prefix`.
fn suggest(
    tx: &mut Tx<'_>,
    prefix: &str,
    limit: u32,
    of: impl Fn(Task) -> Vec<String>,
) -> Result<Vec<String>> {
    let tasks = store::list(tx, &store::Filter::default(), None, NEWEST)?;
    let found = tasks.into_iter().flat_map(of);
    let found: BTreeSet<_> = found.filter(|text| text.starts_with(prefix)).collect();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(found.into_iter().take(limit).collect())
}

/// What they are called.
pub(crate) fn titles(_: &Scope, tx: &mut Tx<'_>, prefix: &str, limit: u32) -> Result<Vec<String>> {
    suggest(tx, prefix, limit, |task| Vec::from_iter(task.spec.title))
}

/// What executors must be able to do for them. `prefix` may be a list, of which the last is completed.
pub(crate) fn capabilities(
    _: &Scope,
    tx: &mut Tx<'_>,
    prefix: &str,
    limit: u32,
) -> Result<Vec<String>> {
    let (before, last) = match prefix.rfind(',') {
        Some(comma) => prefix.split_at(comma + 1),
        None => ("", prefix),
    };
    let found = suggest(tx, last.trim_start(), limit, |task| {
        Vec::from_iter(task.spec.required_capabilities)
    })?;
    let found = found.into_iter();
    Ok(found.map(|name| format!("{before}{name}")).collect())
}

/// Who had them, or is to have them.
pub(crate) fn agents(_: &Scope, tx: &mut Tx<'_>, prefix: &str, limit: u32) -> Result<Vec<String>> {
    suggest(tx, prefix, limit, |task| {
        let agents = task.spec.assigned_to.into_iter().chain(task.run.agent_id);
        agents.map(|id| id.to_string()).collect()
    })
}
