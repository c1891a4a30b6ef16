//! Data that an operation answers, as text. It is written once; most who ask for it pass it on.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// JSON whose objects have their members in the order of their keys: the very text that a [`Value`] of it is written as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structured(String);

impl Structured {
    /// `data` as text.
    ///
    /// # Errors
    /// `internal` for what is no JSON: a key that is no text.
    pub fn of(data: &impl Serialize) -> Result<Self> {
        let text = RefCell::new(Vec::with_capacity(1024));
        let mut serializer = serde_json::Serializer::with_formatter(Out(&text), InOrder::of(&text));
        data.serialize(&mut serializer).map_err(Error::internal)?;
        String::from_utf8(text.into_inner())
            .map(Self)
            .map_err(Error::internal)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, to be kept.
    pub fn into_string(self) -> String {
        self.0
    }

    /// An object whose `result` it is.
    #[must_use]
    pub fn as_result(&self) -> Self {
        Self(format!(r#"{{"result":{}}}"#, self.0))
    }

    /// What it says.
    ///
    /// # Errors
    /// `internal` for what lies deeper than `serde_json` reads (128 levels).
    pub fn value(&self) -> Result<Value> {
        serde_json::from_str(&self.0).map_err(Error::internal)
    }
}

impl From<Value> for Structured {
    fn from(value: Value) -> Self {
        Self(value.to_string())
    }
}

impl Serialize for Structured {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Structured {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

/// Where the text goes, which the formatter looks at too.
struct Out<'t>(&'t RefCell<Vec<u8>>);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a member of an object lies in the text: its key in quotes, and all of it.
struct Member {
    /// The first bytes of what the key says, which mostly tell keys apart.
    head: u64,
    key: Range<usize>,
    end: usize,
}

/// Puts the members of each object in order when it ends.
struct InOrder<'t> {
    text: &'t RefCell<Vec<u8>>,
    /// The members of the objects that are being written, the outermost's first.
    members: Vec<Member>,
    /// How many members lie before those of each such object.
    objects: Vec<usize>,
}

impl<'t> InOrder<'t> {
    fn of(text: &'t RefCell<Vec<u8>>) -> Self {
        Self {
            text,
            members: Vec::with_capacity(32),
            objects: Vec::with_capacity(8),
        }
    }

    fn here(&self) -> usize {
        self.text.borrow().len()
    }
}

impl Formatter for InOrder<'_> {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.objects.push(self.members.len());
        writer.write_all(b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        if !is_first {
            writer.write_all(b",")?;
        }
        let here = self.here();
        self.members.push(Member {
            head: 0,
            key: here..here,
            end: here,
        });
        Ok(())
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        let text = self.text.borrow();
        if let Some(member) = self.members.last_mut() {
            member.key.end = text.len();
            let (key, mut head) = (key(&text[member.key.clone()]), [0; 8]);
            let length = key.len().min(head.len());
            head[..length].copy_from_slice(&key[..length]);
            member.head = u64::from_be_bytes(head);
        }
        Ok(())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        let here = self.here();
        if let Some(member) = self.members.last_mut() {
            member.end = here;
        }
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let first = self.objects.pop().unwrap_or_default();
        sort(&mut self.text.borrow_mut(), &mut self.members[first..]);
        self.members.truncate(first);
        writer.write_all(b"}")
    }
}

/// Writes `members`, which are the end of `text`, by their keys.
fn sort(text: &mut Vec<u8>, members: &mut [Member]) {
    let key = |member: &Member| key(&text[member.key.clone()]);
    let order = |one: &Member, other: &Member| {
        let heads = one.head.cmp(&other.head);
        heads.then_with(|| key(one).cmp(&key(other)))
    };
    if members.is_sorted_by(|one, other| order(one, other).is_le()) {
        return;
    }
    let begin = members[0].key.start;
    members.sort_unstable_by(order);
    let mut sorted = Vec::with_capacity(text.len() - begin);
    for member in members {
        sorted.extend_from_slice(&text[member.key.start..member.end]);
        sorted.push(b',');
    }
    // The comma behind the last is one too many.
    text.truncate(begin);
    text.extend_from_slice(&sorted[..sorted.len() - 1]);
}

/// What a key in quotes says.
fn key(quoted: &[u8]) -> Cow<'_, [u8]> {
    if !quoted.contains(&b'\\') {
        return quoted[1..quoted.len() - 1].into();
    }
    let said: String = serde_json::from_slice(quoted).unwrap_or_default();
    said.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Inner {
        z: Option<f64>,
        b: &'static str,
        a: BTreeMap<String, u8>,
    }

    #[derive(Serialize)]
    struct Outer {
        name: &'static str,
        #[serde(flatten)]
        inner: Inner,
        list: Vec<Inner>,
        empty: BTreeMap<String, u8>,
    }

    fn inner() -> Inner {
        let keys = ["\"", "#", "\n", "ä", "z", ""];
        Inner {
            z: Some(0.1),
            b: "\u{1}{\"",
            a: keys.iter().map(|key| ((*key).to_owned(), 1)).collect(),
        }
    }

    #[test]
    fn a_text_is_that_of_the_value() {
        let outer = Outer {
            name: "x",
            inner: inner(),
            list: vec![inner(), Inner { z: None, ..inner() }],
            empty: BTreeMap::new(),
        };
        let written = Structured::of(&outer).unwrap();
        assert_eq!(
            written,
            Structured::from(serde_json::to_value(&outer).unwrap())
        );
        assert_eq!(
            written.value().unwrap(),
            serde_json::to_value(&outer).unwrap()
        );
        let kept = serde_json::to_string(&written).unwrap();
        assert_eq!(kept, written.as_str());
        assert_eq!(serde_json::from_str::<Structured>(&kept).unwrap(), written);
    }

    #[test]
    fn what_is_no_object_stays_as_it_is() {
        for value in [
            json!(null),
            json!([]),
            json!({}),
            json!("a"),
            json!([{}, 1]),
        ] {
            assert_eq!(Structured::of(&value).unwrap(), Structured::from(value));
        }
    }

    /// An object whose members come in the order of the list.
    struct Unsorted(Vec<(String, u8)>);

    impl Serialize for Unsorted {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(key, value)| (key, [(key, value)])))
        }
    }

    proptest! {
        #[test]
        fn keys_of_any_kind_come_in_their_order(members in proptest::collection::btree_map(".{0,3}", 0_u8.., 0..6)) {
            let mut members: Vec<(String, u8)> = members.into_iter().collect();
            members.reverse();
            let value = serde_json::to_value(Unsorted(members.clone())).unwrap();
            prop_assert_eq!(Structured::of(&Unsorted(members)).unwrap(), Structured::from(value));
        }
    }
}
