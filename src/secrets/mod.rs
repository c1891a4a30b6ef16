//! What tenants keep secret: set once, never shown again, opened only for calls that name it.
//!
//! Every tenant has a data key of its own, sealed by a master key of `vault`; what is sealed is bound to its tenant and to
//! what it is, so that a row which is moved elsewhere opens nothing. `rotate` gives all data keys to another master key.

mod ops;
mod rotate;
mod store;

use std::collections::BTreeMap;

use crate::ctx::Scope;
use crate::error::{Error, Result};
use crate::id::SecretName;
use crate::secret::Secret;
use crate::store::Tx;
use crate::vault::Key;

pub use ops::operations;
pub use rotate::{Checked, Rotated, check, rotate};

/// What secrets themselves are sealed as.
const SECRET: &str = "secret";
/// What data keys are sealed as.
const DATA_KEY: &str = "data key";

/// Seals `text` with the tenant's key, as `what` it is and by what name: it opens as nothing else.
///
/// # Errors
/// `master_key_missing` and its like, or a failure of the database.
pub fn seal(
    scope: &Scope,
    tx: &mut Tx<'_>,
    (what, name): (&'static str, &str),
    text: &Secret,
) -> Result<Vec<u8>> {
    let key = match data_key(scope, tx)? {
        Some(key) => key,
        None => make_data_key(scope, tx)?,
    };
    let about = [what, tx.tenant().as_str(), name];
    key.seal(&about, text.reveal().as_bytes(), scope.random())
}

/// Opens what [`seal`] sealed.
///
/// # Errors
/// As [`seal`]; `secret_broken` when it was changed, or is something else's.
pub fn open(
    scope: &Scope,
    tx: &mut Tx<'_>,
    (what, name): (&'static str, &str),
    sealed: &[u8],
) -> Result<Secret> {
    let key = data_key(scope, tx)?.ok_or_else(broken)?;
    open_with(&key, tx, (what, name), sealed)
}

fn open_with(key: &Key, tx: &Tx<'_>, (what, name): (&str, &str), sealed: &[u8]) -> Result<Secret> {
    let opened = key.open(&[what, tx.tenant().as_str(), name], sealed);
    let text = opened.and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(Secret::from).ok_or_else(broken)
}

/// The secrets of these names, for a call that names them.
///
/// # Errors
/// `unknown_secret` names the first that there is none of; as [`open`].
pub fn resolve(
    scope: &Scope,
    tx: &mut Tx<'_>,
    names: &[SecretName],
) -> Result<BTreeMap<SecretName, Secret>> {
    let found = store::sealed(tx, names)?;
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let key = data_key(scope, tx)?;
    let opened = names.iter().zip(found).map(|(name, sealed)| {
        let (Some(sealed), Some(key)) = (sealed, &key) else {
            return Err(unknown(name));
        };
        let text = open_with(key, tx, (SECRET, name.as_str()), &sealed)?;
        Ok((name.clone(), text))
    });
    opened.collect()
}

fn data_key(scope: &Scope, tx: &mut Tx<'_>) -> Result<Option<Key>> {
    let Some((master_id, sealed)) = store::data_key(tx)? else {
        return Ok(None);
    };
    let master = scope.vault().find(&master_id)?;
    let about = [DATA_KEY, tx.tenant().as_str(), &master_id];
    let bytes = master.key.open(&about, &sealed).ok_or_else(broken)?;
    Key::of(&bytes).map(Some).ok_or_else(broken)
}

/// The first data key of a tenant. The master key is read anew, so that it is not one that a rotation has just replaced:
/// on SQLite, whoever rotates and whoever makes a key do so one after the other.
fn make_data_key(scope: &Scope, tx: &mut Tx<'_>) -> Result<Key> {
    let master = scope.vault().current()?;
    let random = || scope.random().u128().to_be_bytes();
    let bytes = [random(), random()].concat();
    let about = [DATA_KEY, tx.tenant().as_str(), &master.id];
    let sealed = master.key.seal(&about, &bytes, scope.random())?;
    store::insert_data_key(tx, (&master.id, sealed), scope.now())?;
    Key::of(&bytes).ok_or_else(broken)
}

fn broken() -> Error {
    let message = "what is sealed here was changed from outside, or belongs elsewhere; set it anew";
    Error::conflict("secret_broken", message)
}

fn unknown(name: &SecretName) -> Error {
    let message = format!("there is no secret {name}; an admin sets it with secret_set");
    Error::not_found("unknown_secret", message)
}
