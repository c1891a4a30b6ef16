//! Paging: opaque, sealed cursors over a `(sort key, id)` position, so that every page costs the same and a cursor leads on
//! in its own list and tenant alone.

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::id::TenantId;

/// Where a page ends: the sort key and the id of its last row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The sort key of the last row.
    pub key: i64,
    /// The id of the last row, which orders rows of the same key.
    pub id: String,
}

/// Bytes of a cursor that prove where it is from.
const MARK: usize = 16;
/// The longest cursor.
const LONGEST: usize = 512;

/// What makes the cursors of one list of one tenant.
pub struct Seal {
    key: Vec<u8>,
    tenant: TenantId,
    list: &'static str,
}

impl Seal {
    /// The seal of `list` for `tenant`, where cursors are sealed with `key`.
    pub fn new(key: Vec<u8>, tenant: &TenantId, list: &'static str) -> Self {
        let tenant = tenant.clone();
        Self { key, tenant, list }
    }

    /// The cursor that leads to the rows behind `position`.
    pub fn close(&self, position: &Position) -> String {
        let text = format!("{:x}.{}", position.key.cast_unsigned(), position.id);
        let mark = self.mark(text.as_bytes());
        let bytes = mark.into_iter().chain(text.into_bytes());
        let digit = |four: u8| char::from_digit(four.into(), 16).unwrap_or('0');
        bytes
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
            .collect()
    }

    /// Where a cursor leads.
    ///
    /// # Errors
    /// `invalid_cursor` when this list has not given it to this tenant.
    pub fn open(&self, cursor: &str) -> Result<Position> {
        self.read(cursor).ok_or_else(|| {
            let message = format!(
                "/cursor: not a cursor of {}; start again without it",
                self.list
            );
            Error::invalid("invalid_cursor", message)
        })
    }

    /// Each part is led by its length, so that no two texts are spelled the same.
    fn mark(&self, text: &[u8]) -> [u8; MARK] {
        let mut hash = Sha256::new();
        let parts = [
            &self.key,
            self.tenant.as_str().as_bytes(),
            self.list.as_bytes(),
            text,
        ];
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut mark = [0; MARK];
        mark.copy_from_slice(&hash.finalize()[..MARK]);
        mark
    }

    fn read(&self, cursor: &str) -> Option<Position> {
        if !cursor.is_ascii() || cursor.len() > LONGEST {
            return None;
        }
        let bytes: Option<Vec<u8>> = cursor
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16)
                    .ok()
                    .filter(|_| pair.len() == 2)
            })
            .collect();
        let bytes = bytes?;
        let (mark, text) = bytes.split_at_checked(MARK)?;
        if mark != self.mark(text) {
            return None;
        }
        let (key, id) = std::str::from_utf8(text).ok()?.split_once('.')?;
        Some(Position {
            key: u64::from_str_radix(key, 16).ok()?.cast_signed(),
            id: id.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(key: u8, tenant: &str, list: &'static str) -> Seal {
        Seal::new(vec![key; 32], &tenant.parse().unwrap(), list)
    }

    #[test]
    fn a_cursor_survives_the_trip_and_nothing_else_is_read() {
        let own = seal(7, "acme", "task_list");
        for key in [1_763_700_000_000_000, 0, -1, i64::MIN, i64::MAX] {
            let id = "tsk_1.x".into();
            let position = Position { key, id };
            let cursor = own.close(&position);
            assert_eq!(own.open(&cursor).ok().as_ref(), Some(&position));
            for other in [
                seal(8, "acme", "task_list"),
                seal(7, "globex", "task_list"),
                seal(7, "acme", "key_list"),
            ] {
                assert!(other.open(&cursor).is_err());
            }
            let mut forged = cursor.clone();
            forged.pop();
            assert!(own.open(&forged).is_err());
            forged.push(if cursor.ends_with('0') { '1' } else { '0' });
            assert!(own.open(&forged).is_err(), "{forged}");
        }
        for bad in ["", "zz", "é", "2e", "31", "3", "+1+2", &"0".repeat(34)] {
            assert!(own.open(bad).is_err(), "{bad:?}");
        }
    }
}
