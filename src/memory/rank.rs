//! How well an entry answers a query: what its words and its meaning say, fused. Pure numbers; the constants were found by
//! `benches/memory/evaluate.py` and lie on a flat optimum (`docs/MEMORY.md`).

use std::cmp::Ordering;
use std::collections::HashMap;

/// Entries of each ranking that are looked at.
pub(super) const DEPTH: usize = 100;
/// How soon a word that is repeated counts no more (BM25).
const K1: f64 = 1.2;
/// How much long texts are held back (BM25).
const B: f64 = 0.5;
/// How flat ranks are.
const FLAT: f64 = 10.0;
/// What meaning counts beside words.
const MEANING: f64 = 0.7;
/// What importance and recency can add.
const PRIOR: f64 = 0.05;
/// Days in which recency halves.
const HALF_LIFE: f64 = 30.0;

/// How much a word tells that stands in `with` of `all` entries.
pub(super) fn rarity(all: f64, with: f64) -> f64 {
    ((all - with + 0.5) / (with + 0.5)).ln_1p()
}

/// What a word of this rarity adds that stands `times` times in a text of `length` words, where `usual` are usual.
pub(super) fn bm25(rarity: f64, times: f64, (length, usual): (f64, f64)) -> f64 {
    rarity * times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * length / usual))
}

/// An entry in both rankings.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Fused {
    pub(super) score: f64,
    /// The share of the query's weight that its words have.
    pub(super) coverage: f64,
    /// Its place by words, from 1.
    pub(super) by_words: Option<usize>,
    /// Cosine to the query.
    pub(super) similarity: Option<f64>,
    /// Its place by meaning, from 1.
    pub(super) by_meaning: Option<usize>,
}

/// Reciprocal ranks, weighed by how much of the query an entry covers and how near it is. `lexical` has coverages,
/// `near` cosines, both best first.
pub(super) fn fuse(lexical: &[(u32, f64)], near: &[(u32, f64)]) -> HashMap<u32, Fused> {
    let mut fused: HashMap<u32, Fused> = HashMap::new();
    for (rank, (slot, coverage)) in (1..).zip(lexical.iter().take(DEPTH)) {
        let entry = fused.entry(*slot).or_default();
        entry.coverage = *coverage;
        entry.by_words = Some(rank);
        entry.score += coverage * coverage / (FLAT + number(rank));
    }
    for (rank, (slot, cosine)) in (1..).zip(near.iter().take(DEPTH)) {
        let entry = fused.entry(*slot).or_default();
        entry.similarity = Some(*cosine);
        entry.by_meaning = Some(rank);
        entry.score += MEANING * cosine.max(0.0) / (FLAT + number(rank));
    }
    fused
}

/// An entry's place, its score, and what is to be known of it besides.
pub(super) type Scored = (u32, f64, f64);

/// The first `count` by score, in order, and whether these are all; equals go by `tie`.
pub(super) fn first(
    found: impl Iterator<Item = Scored>,
    count: usize,
    tie: impl Fn(u32, u32) -> Ordering,
) -> (Vec<Scored>, bool) {
    let order = |a: &Scored, b: &Scored| b.1.total_cmp(&a.1).then_with(|| tie(a.0, b.0));
    let mut first: Vec<Scored> = Vec::with_capacity(4 * count);
    // What is below this can't be among them any more.
    let (mut floor, mut is_all) = (f64::MIN, true);
    for one in found {
        if one.1 < floor {
            continue;
        }
        first.push(one);
        if first.len() == 4 * count {
            let (_, last, _) = first.select_nth_unstable_by(count - 1, order);
            (floor, is_all) = (last.1, false);
            first.truncate(count);
        }
    }
    first.sort_unstable_by(order);
    is_all &= first.len() <= count;
    first.truncate(count);
    (first, is_all)
}

/// What importance (0 to 1) and age make of a score.
pub(super) fn prior(importance: f64, age_days: f64) -> f64 {
    1.0 + PRIOR * importance + PRIOR * (-age_days.max(0.0) / HALF_LIFE).exp2()
}

/// Days of recency that an importance is worth, so that importance times recency orders entries the same at any time.
pub(super) fn worth_days(importance: f64) -> f64 {
    HALF_LIFE * importance.max(0.01).log2()
}

/// Exact for whatever is counted here.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 memories")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(lexical: &[(u32, f64)], near: &[(u32, f64)]) -> Vec<u32> {
        let mut found: Vec<_> = fuse(lexical, near).into_iter().collect();
        found.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
        found.into_iter().map(|(slot, _)| slot).collect()
    }

    #[test]
    fn words_that_cover_the_query_win_and_meaning_decides_where_they_do_not() {
        assert_eq!(
            order(&[(1, 1.0), (2, 0.3)], &[(2, 0.6), (3, 0.5)]),
            [1, 2, 3]
        );
        assert_eq!(
            order(&[(1, 0.2), (2, 0.1)], &[(3, 0.8), (1, 0.3)]),
            [3, 1, 2]
        );
        assert_eq!(order(&[], &[(4, 0.2), (5, -0.1)]), [4, 5]);
    }

    #[test]
    fn the_first_are_those_that_sorting_finds() {
        for (all, count) in [(0, 5), (3, 5), (5, 5), (6, 5), (19, 5), (20, 5), (1_000, 7)] {
            let scores = (0..all).map(|slot| (slot, f64::from(slot * 37 % 11), 0.0));
            let mut sorted: Vec<Scored> = scores.clone().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
            sorted.truncate(count);
            let is_all = sorted.len() == scores.len();
            let found = first(scores, count, |a, b| b.cmp(&a));
            assert_eq!(found, (sorted, is_all), "{count} of {all}");
        }
    }

    #[test]
    fn rare_words_tell_more_and_repeating_them_adds_less_each_time() {
        assert!(rarity(100.0, 1.0) > rarity(100.0, 50.0));
        let of = |times, length| bm25(1.0, times, (length, 10.0));
        assert!(of(2.0, 10.0) > of(1.0, 10.0));
        assert!(of(3.0, 10.0) - of(2.0, 10.0) < of(2.0, 10.0) - of(1.0, 10.0));
        assert!(of(1.0, 40.0) < of(1.0, 10.0));
    }

    #[test]
    fn importance_and_recency_tip_the_scales_and_no_more() {
        assert!(prior(1.0, 0.0) < 1.11 && prior(0.0, 1e6) >= 1.0);
        assert!(prior(0.5, 1.0) > prior(0.5, 60.0));
        assert!((worth_days(1.0) - worth_days(0.5) - HALF_LIFE).abs() < 1e-9);
    }
}
