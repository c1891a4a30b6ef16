//! Paging: opaque cursors over a `(sort key, id)` position, so that every page costs the same.

use crate::error::{Error, Result};

/// Where a page ends: the sort key and the id of its last row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The sort key of the last row.
    pub key: i64,
    /// The id of the last row, which orders rows of the same key.
    pub id: String,
}

impl Position {
    /// The cursor that leads to the rows behind this one.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for byte in format!("{:x}.{}", self.key.cast_unsigned(), self.id).bytes() {
            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        text
    }

    /// # Errors
    /// `invalid_cursor` when `cursor` is not one of ours.
    pub fn decode(cursor: &str) -> Result<Self> {
        Self::parse(cursor).ok_or_else(|| {
            Error::invalid(
                "invalid_cursor",
                "/cursor: not a cursor of this list; start again without it",
            )
        })
    }

    fn parse(cursor: &str) -> Option<Self> {
        if !cursor.is_ascii() || cursor.len() > 512 {
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
        let text = String::from_utf8(bytes?).ok()?;
        let (key, id) = text.split_once('.')?;
        Some(Self {
            key: u64::from_str_radix(key, 16).ok()?.cast_signed(),
            id: id.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_trip_and_nothing_else_parses() {
        for key in [1_763_700_000_000_000, 0, -1, i64::MIN, i64::MAX] {
            let id = "tsk_1.x".into();
            let position = Position { key, id };
            assert_eq!(Position::decode(&position.encode()).ok(), Some(position));
        }
        for bad in ["", "zz", "é", "2e", "31", "3", "+1+2"] {
            assert!(Position::decode(bad).is_err(), "{bad:?}");
        }
    }
}
