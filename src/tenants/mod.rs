//! Tenants as operators configure, see and delete them. What each may have is `allowance`'s, calls are `limits`'; here it is
//! kept, told to every process, and counted.
//!
//! Features ask [`of`] inside a transaction; `ops` declares what callers may do, `configure` and `look` do it.

mod configure;
mod look;
mod ops;
mod store;

use std::sync::Arc;

use crate::allowance::Allowance;
use crate::ctx::{Scope, System};
use crate::error::Result;
use crate::store::Tx;

pub use ops::operations;

/// What the transaction's tenant may have, as this process knows it: at once where it was configured, elsewhere within a
/// second. It costs no statement.
pub fn of(scope: &Scope, tx: &Tx<'_>) -> Arc<Allowance> {
    scope.allowances().of(tx.tenant())
}

/// Takes over what was configured on whatever process, if anything was. There is never more to do at once.
///
/// # Errors
/// A failure of the database.
pub async fn tick(system: &System) -> Result<usize> {
    if system.survey(store::changes).await? != system.allowances().changes() {
        take_over(system).await?;
    }
    Ok(0)
}

async fn take_over(system: &System) -> Result<()> {
    let known = system.allowances().changes();
    let news = move |tx: &mut crate::store::SystemTx<'_>| {
        Ok((store::changes(tx)?, store::changed_since(tx, known)?))
    };
    let (changes, news) = system.survey(news).await?;
    let news = news.into_iter();
    let news = news.map(|(tenant, configuration)| (tenant, Some(Allowance::of(&configuration))));
    system.allowances().apply(news, changes);
    Ok(())
}
