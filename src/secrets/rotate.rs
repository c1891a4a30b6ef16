//! Another master key: every tenant's data key is sealed anew, one transaction each, while servers run. A rotation that was
//! interrupted goes on where it stopped: data keys say which master key sealed them.

use std::collections::BTreeSet;

use serde_json::json;

use super::{DATA_KEY, broken, store};
use crate::ctx::{Scope, System};
use crate::error::{Error, Result};
use crate::events;
use crate::store::Tx;
use crate::vault::Master;

/// Tenants looked at in one round.
const BATCH: u32 = 200;

/// What a rotation did.
#[derive(Debug)]
pub struct Rotated {
    /// What the master key is called that seals now.
    pub master_id: String,
    /// Whether it was made for this; else it stood there already and had not sealed everything yet.
    pub made: bool,
    /// Tenants whose data keys were sealed anew.
    pub tenants: usize,
}

/// Gives all data keys to another master key: to the first one, where some are not sealed by it yet, else to a new one.
///
/// # Errors
/// `rotation_running`, `master_key_fixed`; `master_key_unknown` when there are data keys that can't be opened, after all
/// others were sealed anew.
pub async fn rotate(system: &System) -> Result<Rotated> {
    let vault = system.vault();
    // A data folder that has kept nothing yet has no file; from now on it has.
    vault.current()?;
    let only = vault.lock()?;
    let mut current = vault.current()?;
    let before = system.survey(store::masters).await?;
    let is_left = |id: &String| *id != current.id && vault.find(id).is_ok();
    let made = !before.iter().any(|(id, _)| is_left(id));
    if made {
        current = vault.renew()?;
    }
    let (mut tenants, mut failed) = (0, None);
    let mut after = String::new();
    loop {
        let (id, from) = (current.id.clone(), after.clone());
        let others = system
            .survey(move |tx| store::tenants_of_others(tx, &id, &from, BATCH))
            .await?;
        let Some(last) = others.last() else { break };
        after = last.to_string();
        for tenant in others {
            let to = current.clone();
            let ctx = system.on_behalf_of(tenant);
            match ctx.write(move |scope, tx| reseal(scope, tx, &to)).await {
                Ok(()) => tenants += 1,
                Err(error) => failed = Some(error),
            }
        }
    }
    let used = system.survey(store::masters).await?;
    let used: BTreeSet<String> = used.into_iter().map(|(id, _)| id).collect();
    if made {
        vault.trim(|id| used.contains(id))?;
    }
    drop(only);
    match failed {
        Some(error) => Err(error),
        None => Ok(Rotated {
            master_id: current.id,
            made,
            tenants,
        }),
    }
}

fn reseal(scope: &Scope, tx: &mut Tx<'_>, to: &Master) -> Result<()> {
    let Some((from, sealed)) = store::data_key(tx)?.filter(|(from, _)| *from != to.id) else {
        return Ok(());
    };
    let about = |id| [DATA_KEY, tx.tenant().as_str(), id];
    let bytes = scope.vault().find(&from)?.key.open(&about(&from), &sealed);
    let bytes = bytes.ok_or_else(broken)?;
    let sealed = to.key.seal(&about(&to.id), &bytes, scope.random())?;
    store::save_data_key(tx, &to.id, sealed)?;
    let told = json!({"from": from, "to": to.id});
    events::append(scope, tx, "dev.baton.secret.resealed", "master_key", &told).map(drop)
}

/// Whether this process can open what is kept.
#[derive(Debug)]
pub struct Checked {
    /// Tenants whose secrets open.
    pub tenants: i64,
    /// Why others' do not, once for each master key that is missed.
    pub missing: Vec<Error>,
}

/// Looks for data keys that this process can't open.
///
/// # Errors
/// A failure of the database.
pub async fn check(system: &System) -> Result<Checked> {
    let (mut tenants, mut missing) = (0, Vec::new());
    for (id, count) in system.survey(store::masters).await? {
        match system.vault().find(&id) {
            Ok(_) => tenants += count,
            Err(error) => missing.push(error),
        }
    }
    Ok(Checked { tenants, missing })
}
