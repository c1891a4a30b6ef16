//! Tenants as operators configure, see and delete them. What each may have is `allowance`'s, calls are `limits`'; here it is
//! kept, told to every process, and counted.
//!
//! Features ask [`of`] inside a transaction; `ops` declares what callers may do, `configure` and `look` do it.

mod configure;
mod delete;
mod look;
mod ops;
mod stats;
mod store;

use std::sync::Arc;

use crate::allowance::{Allowance, News};
use crate::ctx::{Scope, System};
use crate::error::Result;
use crate::store::Tx;

pub use ops::operations;

/// What the transaction's tenant may have, as this process knows it: at once where it was configured, elsewhere within a
/// second. It costs no statement.
pub fn of(scope: &Scope, tx: &Tx<'_>) -> Arc<Allowance> {
    scope.allowances().of(tx.tenant())
}

/// Takes over what changed on whatever process, if anything did, and goes on with what is to be deleted. Says how many rows of
/// that went.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    if system.survey(store::changes).await? != system.allowances().changes() {
        take_over(system).await?;
    }
    delete::round(system).await
}

async fn take_over(system: &System) -> Result<()> {
    let known = system.allowances().changes();
    let news = move |tx: &mut crate::store::SystemTx<'_>| {
        let configured = store::changed_since(tx, known)?.into_iter();
        Ok(News {
            changes: store::changes(tx)?,
            configured: configured
                .map(|(tenant, configuration)| (tenant, Allowance::of(&configuration)))
                .collect(),
            deleted: store::deleted_since(tx, known)?,
            closed: store::closed(tx)?,
        })
    };
    let news = system.survey(news).await?;
    let ended = system
        .survey(move |tx| store::ended_since(tx, known))
        .await?;
    // Each process has its own disk, perhaps; and whoever comes next under the name is let in afterwards.
    delete::remove_older(system, ended).await;
    system.allowances().apply(&news);
    // What goes on of them ends; what is known of them here is no longer so.
    for tenant in &news.deleted {
        system.presence().end_tenant(tenant);
        system.meter().forget(tenant);
    }
    Ok(())
}
