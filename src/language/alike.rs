//! When two texts say the same. Pure. A cosine can't tell: "the version is 5.3.1" and "is 5.3.2" mean nearly the same and
//! say two things.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::words::{self, Word};

/// The share of stems that duplicates have in common, of a hundred.
const DUPLICATE: usize = 85;
/// The share from which on one may be an update of the other, of a hundred.
const RELATED: usize = 65;

/// What is compared of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    stems: BTreeSet<String>,
    /// Words with digits.
    numbers: BTreeSet<String>,
    negations: BTreeSet<String>,
}

impl Shape {
    pub(crate) fn of(words: &[Word]) -> Self {
        let texts = || words.iter().map(|word| word.text.as_str());
        let only = |is: fn(&str) -> bool| texts().filter(move |text| is(text)).map(str::to_owned);
        Self {
            stems: words::indexed(words).into_iter().map(words::stem).collect(),
            numbers: only(words::has_digit).collect(),
            negations: only(words::is_negation).collect(),
        }
    }

    /// Whether both say the same: nearly all words, every number, and yes or no.
    pub(crate) fn is_duplicate_of(&self, other: &Self) -> bool {
        self.numbers == other.numbers
            && self.negations == other.negations
            && self.share(other, DUPLICATE)
    }

    /// Whether one may be an update of the other, or contradict it.
    pub(crate) fn is_related_to(&self, other: &Self) -> bool {
        self.share(other, RELATED)
    }

    /// Whether so much of a hundred of all stems is common (Jaccard).
    fn share(&self, other: &Self, least: usize) -> bool {
        let common = self.stems.intersection(&other.stems).count();
        let all = self.stems.len() + other.stems.len() - common;
        all == 0 || common * 100 >= least * all
    }

    /// Hashes of the words of which every duplicate for `audience` shares one. If two sets share so much and both are put
    /// in the same order, their beginnings meet; the order puts rare words first, as far as their looks tell. Numbers and
    /// negations are part of each, since duplicates have the same: what resembles much else but for these meets none of it.
    pub(crate) fn marks(&self, audience: &str) -> Vec<i64> {
        let mut stems: Vec<&str> = self.stems.iter().map(String::as_str).collect();
        stems.sort_by_key(|stem| {
            let rare = (words::has_digit(stem), stem.chars().count());
            (std::cmp::Reverse(rare), *stem)
        });
        let needed = (stems.len() * DUPLICATE).div_ceil(100);
        stems.truncate(stems.len() + 1 - needed.max(1));
        if stems.is_empty() {
            stems.push("");
        }
        let same = self.numbers.iter().chain(&self.negations);
        let same = same.fold(String::new(), |same, word| same + " " + word);
        let whose = format!("{audience}\n{same}");
        stems.iter().map(|stem| mark(&whose, stem)).collect()
    }
}

fn mark(whose: &str, stem: &str) -> i64 {
    let hash = Sha256::digest(format!("{whose}\n{stem}"));
    let first = hash.first_chunk::<8>().expect("a hash has 32 bytes");
    i64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pairs() -> Vec<(String, Shape, Shape)> {
        let table = include_str!("../../benches/memory/pairs.jsonl");
        let pair = |line: &str| {
            let pair: Value = serde_json::from_str(line).unwrap();
            let shape = |side: &str| Shape::of(&words::of(pair[side].as_str().unwrap()));
            (
                pair["label"].as_str().unwrap().to_owned(),
                shape("a"),
                shape("b"),
            )
        };
        table.lines().map(pair).collect()
    }

    #[test]
    fn all_duplicates_are_found_and_nothing_else_is_one() {
        for (label, a, b) in pairs() {
            let is_duplicate = label == "duplicate";
            assert_eq!(a.is_duplicate_of(&b), is_duplicate, "{label} {a:?} {b:?}");
            assert_eq!(b.is_duplicate_of(&a), is_duplicate);
        }
    }

    #[test]
    fn duplicates_share_a_mark_and_other_audiences_share_none() {
        for (label, a, b) in pairs() {
            let (of_a, of_b) = (a.marks("shared"), b.marks("shared"));
            if label == "duplicate" {
                assert!(of_a.iter().any(|mark| of_b.contains(mark)), "{a:?} {b:?}");
            }
            assert!(of_a.iter().all(|mark| !a.marks("agent ada").contains(mark)));
        }
    }

    #[test]
    fn what_has_other_numbers_or_negations_shares_no_mark() {
        let marks = |text: &str| Shape::of(&words::of(text)).marks("shared");
        let of_one = marks("Case 17: the deploy of the billing service waits for approval");
        for other in [
            "Case 18: the deploy of the billing service waits for approval",
            "The deploy of the billing service waits for approval",
            "Case 17: the deploy of the billing service never waits for approval",
        ] {
            let of_other = marks(other);
            assert!(
                of_one.iter().all(|mark| !of_other.contains(mark)),
                "{other}"
            );
        }
    }

    #[test]
    fn texts_without_words_are_the_same_to_each_other_alone() {
        let (none, some) = (Shape::of(&words::of("—")), Shape::of(&words::of("a word")));
        assert!(none.is_duplicate_of(&none) && !none.is_duplicate_of(&some));
        assert_eq!(none.marks("x").len(), 1);
    }
}
