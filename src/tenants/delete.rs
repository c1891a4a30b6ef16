//! `tenant_delete`: everything that bears a tenant's name goes, as the schema says what that is. The call writes down that it is
//! to go and closes the tenant; a worker removes it, some rows at a time, and goes on where another process was killed.

use std::time::{Duration, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store::{self, Deletion};
use super::take_over;
use crate::clock::Time;
use crate::ctx::{Ctx, Scope, System};
use crate::error::{Error, Result};
use crate::events;
use crate::id::TenantId;
use crate::limits;
use crate::op::UNCONFIRMED;
use crate::store::{Tx, vals};

/// Rows removed in one transaction.
const BATCH: u64 = 1_000;
/// Transactions of one tenant before others have their turn.
const BATCHES: usize = 20;
/// How long a tenant is closed before anything of it goes: by then every process has looked, takes no more calls for it, and has
/// ended what went on.
const SETTLED: Duration = Duration::from_secs(3);
/// How long answers to questions of calls are remembered that were acted on.
const ROUNDS: Duration = Duration::from_hours(2);
/// Where they are. A yes to the deletion is one of them: it must not delete what comes later under the same name.
const ROUNDS_TABLE: &str = "request_rounds";
/// The worker's name among those of which one process has each.
const WORKER: &str = "tenants";

/// Which tenant is to go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(super) struct Delete {
    /// The tenant
    #[expect(dead_code, reason = "the call is for it already")]
    tenant_id: TenantId,
    /// Yes, with everything of it
    #[serde(default)]
    confirm: bool,
}

/// Where the deletion of a tenant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    // It goes on, and nothing is taken for the tenant meanwhile.
    Deleting,
    // Nothing is left.
    Deleted,
}

/// The deletion of a tenant.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct View {
    /// The tenant
    tenant_id: TenantId,
    /// deleting, or deleted
    state: State,
    /// When it was asked for
    requested_at: Time,
    /// Who asked for it
    requested_by: String,
    /// Rows that are gone
    rows: u64,
    /// When nothing was left
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<Time>,
}

impl From<Deletion> for View {
    fn from(deletion: Deletion) -> Self {
        Self {
            state: match deletion.ended_at {
                None => State::Deleting,
                Some(_) => State::Deleted,
            },
            tenant_id: deletion.tenant,
            requested_at: deletion.requested_at,
            requested_by: deletion.requested_by,
            rows: deletion.rows,
            deleted_at: deletion.ended_at,
        }
    }
}

/// Has a tenant deleted. This process takes nothing more for it once this is answered, and what goes on of it ends.
pub(super) async fn delete_now(ctx: Ctx, input: Delete) -> Result<View> {
    let view = ctx
        .write(move |scope, tx| delete(scope, tx, &input))
        .await?;
    take_over(ctx.system()).await?;
    Ok(view)
}

fn delete(scope: &Scope, tx: &mut Tx<'_>, input: &Delete) -> Result<View> {
    let name = tx.tenant();
    let is_there = store::began(tx)?.is_some();
    match store::deletion(tx)? {
        Some(known) if known.ended_at.is_none() || !is_there => return Ok(known.into()),
        _ if is_there => {}
        _ => {
            let message = format!("there is no tenant {name}");
            return Err(Error::not_found("unknown_tenant", message));
        }
    }
    if !input.confirm {
        let (tasks, entries, keys) = store::substance(tx)?;
        let message = format!(
            "deleting {name} removes everything of it for good, with {tasks} tasks, {entries} entries of memory and {keys} keys; if that is meant, say so (confirm true)"
        );
        return Err(Error::conflict(UNCONFIRMED, message));
    }
    let deletion = Deletion {
        tenant: name.clone(),
        requested_at: scope.now(),
        requested_by: scope.actor().to_owned(),
        rows: 0,
        ended_at: None,
    };
    let change = store::next_change(tx)?;
    store::begin_deletion(tx, &deletion, scope.now() + SETTLED, change)?;
    let kind = "dev.baton.tenant.deleting";
    events::append(scope, tx, kind, name.as_str(), &json!({}))?;
    Ok(deletion.into())
}

/// Goes on with what is to be deleted, and says how many rows went.
///
/// # Errors
/// A failure of the database.
pub(super) async fn round(system: &System) -> Result<usize> {
    let now = system.clock().now();
    let due = system.survey(move |tx| store::due(tx, now)).await?;
    if due.is_empty() || !system.does(WORKER).await? {
        return Ok(0);
    }
    let mut all = 0;
    for deletion in due {
        if deletion.ended_at.is_some() {
            let name = deletion.tenant;
            let forget = move |tx: &mut crate::store::SystemTx<'_>| store::forget(tx, &name);
            system.command(forget).await?;
            continue;
        }
        remove_files(system, &deletion.tenant).await?;
        for _ in 0..BATCHES {
            let rows = erase(system, &deletion).await?;
            all += rows;
            if rows == 0 {
                break;
            }
        }
    }
    Ok(usize::try_from(all).unwrap_or(usize::MAX))
}

/// Removes the folder of a tenant's own files, if this process has one.
async fn remove_files(system: &System, tenant: &TenantId) -> Result<()> {
    let folder = system.folders().own.join(tenant.as_str());
    let remove = move || match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::internal(error)),
        _ => Ok(()),
    };
    let removed = tokio::task::spawn_blocking(remove).await;
    removed.map_err(Error::internal)?
}

/// Removes the folders that tenants had when their deletion was asked for, if this process has some: another one did the rest,
/// perhaps on another machine. A folder of somebody who has come under the same name since is younger.
pub(super) async fn remove_older(system: &System, ended: Vec<(TenantId, Time)>) {
    for (tenant, asked) in ended {
        let folder = system.folders().own.join(tenant.as_str());
        let made = std::fs::metadata(folder).and_then(|about| about.created());
        let made = made
            .ok()
            .and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let made = made.and_then(|made| i64::try_from(made.as_micros()).ok());
        if made.is_none_or(|made| Time::from_micros(made) >= asked) {
            continue;
        }
        if let Err(error) = remove_files(system, &tenant).await {
            tracing::warn!(error = ?error, tenant = %tenant, "files of a tenant that was deleted are left");
        }
    }
}

/// Removes some rows, or, if there are none, the tenant. Whoever else does so at the same time does no harm.
async fn erase(system: &System, deletion: &Deletion) -> Result<u64> {
    let erasures = system.store().erasures()?.iter();
    let (across, own): (Vec<_>, Vec<_>) = erasures
        .filter(|erasure| erasure.table != ROUNDS_TABLE)
        .partition(|erasure| erasure.is_across);
    let [across, own] =
        [across, own].map(|all| all.into_iter().map(|it| it.sql).collect::<Vec<_>>());
    let (name, now) = (deletion.tenant.clone(), system.clock().now());
    // Rows of other tenants that speak of this one: all tenants' transactions can see them.
    let elsewhere = system.command(move |tx| {
        let mut rows = 0;
        for sql in &across {
            rows += tx.execute(sql, &vals![&name, BATCH.cast_signed()])?;
        }
        Ok(rows)
    });
    let elsewhere = elsewhere.await?;
    // Not by the door, which is closed.
    let here = system.store().write(&deletion.tenant, move |tx| {
        let mut room = BATCH;
        for sql in &own {
            if room > 0 {
                let values = vals![tx.tenant(), room.cast_signed()];
                room = room.saturating_sub(tx.execute(sql, &values)?);
            }
        }
        let rows = BATCH - room + elsewhere;
        store::note_rows(tx, rows)?;
        if rows == 0 {
            let change = store::next_change(tx)?;
            store::end_deletion(tx, (now, now + ROUNDS), change)?;
            limits::note_change(tx)?;
            tx.end_log()?;
        }
        Ok(rows)
    });
    let rows = here.await?;
    if rows == 0 {
        tracing::info!(tenant = %deletion.tenant, "a tenant was deleted");
        take_over(system).await?;
    }
    Ok(rows)
}
