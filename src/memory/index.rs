//! One tenant's live entries as search needs them: postings, vocabulary, vectors. It is made of what the database keeps and
//! knows up to which event; how it is kept up to date is `shelf`'s.

use std::collections::HashMap;
use std::sync::Arc;

use super::rank::{self, Fused, Scored, number};
use super::{Facts, Query};
use crate::id::MemoryId;
use crate::language::words::{self, Word};
use crate::language::{DIMS, Vector, cosines};

/// The most words that stand in for one that the tenant never used.
const STAND_INS: usize = 3;
/// What such a word counts.
const STAND_IN: f64 = 0.7;
/// Places of removed entries after which an index is made anew, at the least.
const CHURN: usize = 10_000;

/// An entry on its way into the index.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) facts: Facts,
    /// The words that it is indexed under, with a space between.
    pub(super) words: String,
    pub(super) vector: Option<Vec<u8>>,
}

/// An entry that was found, and why.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) id: MemoryId,
    pub(super) score: f64,
    pub(super) fused: Fused,
    /// The words of the query that it has, or what stands in for them.
    pub(super) words: Vec<String>,
}

struct Doc {
    facts: Facts,
    /// As often and in the order in which they stand there.
    words: Box<[u32]>,
}

struct Entry {
    text: Arc<str>,
    stem: usize,
    /// In how many entries it stands.
    spread: usize,
}

/// A word of a query, as the index knows it.
struct Term {
    stem: Option<usize>,
    weight: f64,
    /// As it is shown: the word, or what stands in for which word.
    shown: String,
}

#[derive(Default)]
pub(super) struct Index {
    slots: HashMap<MemoryId, u32>,
    docs: Vec<Option<Doc>>,
    free: Vec<u32>,
    values: Vec<[i8; DIMS]>,
    /// Zero for an entry without a vector.
    scales: Vec<f32>,
    /// How many words each has.
    lengths: Vec<u32>,
    known: HashMap<Arc<str>, u32>,
    vocabulary: Vec<Entry>,
    stems: HashMap<String, usize>,
    /// Of each stem: in which entry, how often.
    postings: Vec<Vec<(u32, u32)>>,
    /// The words that begin alike and are of one length, for those who mistype.
    alike: HashMap<(char, usize), Vec<u32>>,
    /// Words of all entries together.
    length: usize,
    churn: usize,
    /// Whether vectors are looked up in the database: there are none here then.
    is_looked_up: bool,
}

impl Index {
    /// An empty one, with vectors of its own or without.
    pub(super) fn new(is_looked_up: bool) -> Self {
        Self {
            is_looked_up,
            ..Self::default()
        }
    }

    /// Whether [`Index::search`] needs to be told which entries are near.
    pub(super) fn is_looked_up(&self) -> bool {
        self.is_looked_up
    }

    /// The entries that answer a query for a part of them, when these are `most` or fewer.
    pub(super) fn few(&self, query: &Query, most: usize) -> Option<Vec<MemoryId>> {
        if !query.is_narrow() {
            return None;
        }
        let docs = self.docs.iter().flatten();
        let docs = docs.filter(|doc| query.asks_for(&doc.facts));
        let few = docs.take(most + 1).map(|doc| doc.facts.id.clone());
        let few: Vec<_> = few.collect();
        (few.len() <= most).then_some(few)
    }

    /// Takes an entry up, in place of what was known of it.
    pub(super) fn put(&mut self, loaded: Loaded) {
        self.remove(&loaded.facts.id);
        let slot = self.slot();
        let words: Box<[u32]> = loaded
            .words
            .split(' ')
            .map(|word| self.word(word))
            .collect();
        for (stem, times) in self.stems_of(&words) {
            self.postings[stem].push((slot, times));
        }
        for word in distinct(&words) {
            self.vocabulary[at(word)].spread += 1;
        }
        self.length += words.len();
        self.lengths[at(slot)] = u32::try_from(words.len()).unwrap_or(u32::MAX);
        let vector = loaded.vector.filter(|_| !self.is_looked_up);
        if let Some(vector) = vector.as_deref().and_then(Vector::from_bytes) {
            self.scales[at(slot)] = vector.scale;
            self.values[at(slot)] = *vector.values;
        }
        self.slots.insert(loaded.facts.id.clone(), slot);
        let facts = loaded.facts;
        self.docs[at(slot)] = Some(Doc { facts, words });
    }

    /// Forgets an entry, if it is known.
    pub(super) fn remove(&mut self, id: &MemoryId) {
        let Some(slot) = self.slots.remove(id) else {
            return;
        };
        let Some(doc) = self.docs[at(slot)].take() else {
            return;
        };
        for (stem, _) in self.stems_of(&doc.words) {
            self.postings[stem].retain(|(other, _)| *other != slot);
        }
        for word in distinct(&doc.words) {
            self.vocabulary[at(word)].spread -= 1;
        }
        self.length -= doc.words.len();
        self.scales[at(slot)] = 0.0;
        self.free.push(slot);
        self.churn += 1;
    }

    /// How many entries it knows.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether so much has gone that it takes more room than it should.
    pub(super) fn is_worn(&self) -> bool {
        self.churn > CHURN.max(self.slots.len())
    }

    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        const DOC: usize = 400;
        const WORD: usize = 160;
        self.docs.len() * DOC
            + self.values.len() * DIMS
            + self.length * 12
            + self.vocabulary.len() * WORD
    }

    fn slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.docs.push(None);
            self.scales.push(0.0);
            self.lengths.push(0);
            if !self.is_looked_up {
                self.values.push([0; DIMS]);
            }
            u32::try_from(self.docs.len() - 1).expect("fewer entries than 2^32")
        })
    }

    fn word(&mut self, text: &str) -> u32 {
        if let Some(word) = self.known.get(text) {
            return *word;
        }
        let word = u32::try_from(self.vocabulary.len()).expect("fewer words than 2^32");
        let (stem, text) = (words::stem(text), Arc::<str>::from(text));
        let stem = *self.stems.entry(stem).or_insert_with(|| {
            self.postings.push(Vec::new());
            self.postings.len() - 1
        });
        if let Some(key) = likeness(&text) {
            self.alike.entry(key).or_default().push(word);
        }
        self.known.insert(text.clone(), word);
        self.vocabulary.push(Entry {
            text,
            stem,
            spread: 0,
        });
        word
    }

    /// The stems of words, each once, and how often it stands there.
    fn stems_of(&self, words: &[u32]) -> Vec<(usize, u32)> {
        let stems = words.iter().map(|word| self.vocabulary[at(*word)].stem);
        let mut stems: Vec<usize> = stems.collect();
        stems.sort_unstable();
        let groups = stems.chunk_by(|a, b| a == b);
        let count = |group: &[usize]| u32::try_from(group.len()).unwrap_or(u32::MAX);
        groups.map(|group| (group[0], count(group))).collect()
    }

    /// The stem, if it stands in any entry.
    fn stem_in_use(&self, word: &str) -> Option<usize> {
        let stem = self.stems.get(&words::stem(word)).copied();
        stem.filter(|stem| !self.postings[*stem].is_empty())
    }

    /// What a query asks for. A word that the tenant never used gives way to its parts or to words that are nearly
    /// written so; with none of these it stays, and lowers every coverage.
    fn terms(&self, query: &[Word]) -> Vec<Term> {
        let mut terms: Vec<(String, Term)> = Vec::new();
        let mut add = |key: String, term: Term| match terms.iter().position(|it| it.0 == key) {
            None => terms.push((key, term)),
            Some(at) if terms[at].1.weight < term.weight => terms[at].1 = term,
            Some(_) => {}
        };
        for word in words::asked(query) {
            let shown = word.text.clone();
            let mut better: Vec<(&str, f64, String)> = Vec::new();
            let stem = self.stem_in_use(&word.text);
            if stem.is_none() {
                let parts = word.parts.iter();
                let parts = parts.filter(|part| self.stem_in_use(part).is_some());
                better.extend(parts.map(|part| (part.as_str(), 1.0, part.clone())));
                if better.is_empty() {
                    let near = self.nearly(&word.text).into_iter();
                    better.extend(near.map(|near| (near, STAND_IN, format!("{near} for {shown}"))));
                }
            }
            if better.is_empty() {
                let weight = 1.0;
                let term = Term {
                    stem,
                    weight,
                    shown,
                };
                add(words::stem(&word.text), term);
            } else {
                for (text, weight, shown) in better {
                    let stem = self.stem_in_use(text);
                    let term = Term {
                        stem,
                        weight,
                        shown,
                    };
                    add(words::stem(text), term);
                }
            }
        }
        terms.into_iter().map(|(_, term)| term).collect()
    }

    /// The tenant's words that are nearest to one that is mistyped.
    fn nearly(&self, word: &str) -> Vec<&str> {
        let Some((first, length)) = likeness(word).filter(|(_, length)| *length >= 5) else {
            return Vec::new();
        };
        let limit = if length >= 8 { 2 } else { 1 };
        let chars: Vec<char> = word.chars().collect();
        let lengths = length - limit..=length + limit;
        let candidates = lengths.filter_map(|length| self.alike.get(&(first, length)));
        let candidates = candidates.flatten().map(|word| &self.vocabulary[at(*word)]);
        let mut near: Vec<_> = candidates
            .filter(|entry| entry.spread > 0)
            .filter_map(|entry| {
                let text: Vec<char> = entry.text.chars().collect();
                let distance = words::distance(&chars, &text, limit)?;
                Some((distance, std::cmp::Reverse(entry.spread), &*entry.text))
            })
            .collect();
        near.sort_unstable();
        let nearest = near.first().map(|found| found.0);
        let near = near.into_iter().filter(|found| Some(found.0) == nearest);
        near.take(STAND_INS).map(|found| found.2).collect()
    }

    /// The entries that answer the query best, best first. `near` are the nearest by meaning, where those are looked up.
    pub(super) fn search(
        &self,
        query: &Query,
        near: &[(MemoryId, f64)],
        limit: usize,
    ) -> Vec<Found> {
        let terms = self.terms(&query.words);
        let near = if self.is_looked_up {
            self.looked_up(near, query)
        } else {
            self.by_meaning(query)
        };
        let fused = rank::fuse(&self.by_words(&terms, query), &near);
        let mut found: Vec<(f64, &Doc, Fused)> = fused
            .into_iter()
            .filter_map(|(slot, fused)| {
                let doc = self.docs[at(slot)].as_ref()?;
                let age = query.now.since(doc.facts.updated_at).as_secs_f64() / 86_400.0;
                let score = fused.score * rank::prior(doc.facts.importance, age);
                (score > 0.0).then_some((score, doc, fused))
            })
            .collect();
        found.sort_unstable_by(|a, b| {
            let by_score = b.0.total_cmp(&a.0);
            by_score.then_with(|| a.1.facts.id.cmp(&b.1.facts.id))
        });
        found.truncate(limit);
        let found = found.into_iter().map(|(score, doc, fused)| Found {
            id: doc.facts.id.clone(),
            score,
            fused,
            words: self.shared(doc, &terms),
        });
        found.collect()
    }

    /// The words of the query that stand in an entry.
    fn shared(&self, doc: &Doc, terms: &[Term]) -> Vec<String> {
        let stems = self.stems_of(&doc.words);
        let has = |stem: usize| stems.iter().any(|(other, _)| *other == stem);
        let terms = terms.iter().filter(|term| term.stem.is_some_and(has));
        terms.map(|term| term.shown.clone()).collect()
    }

    /// The best by their words, with how much of the query they cover.
    fn by_words(&self, terms: &[Term], query: &Query) -> Vec<(u32, f64)> {
        let all = number(self.slots.len());
        let usual = number(self.length) / all.max(1.0);
        let rarity = |term: &Term| {
            let with = term.stem.map_or(0, |stem| self.postings[stem].len());
            rank::rarity(all, number(with))
        };
        let whole: f64 = terms.iter().map(|term| term.weight * rarity(term)).sum();
        let mut scores = vec![(0.0, 0.0); self.docs.len()];
        for term in terms {
            let rarity = rarity(term);
            for (slot, times) in term.stem.iter().flat_map(|stem| &self.postings[*stem]) {
                let length = (f64::from(self.lengths[at(*slot)]), usual);
                let (score, covered) = &mut scores[at(*slot)];
                *score += term.weight * rank::bm25(rarity, f64::from(*times), length);
                *covered += term.weight * rarity / whole;
            }
        }
        let best = self.best(query, || {
            let scores = (0..).zip(&scores).filter(|(_, (score, _))| *score > 0.0);
            scores.map(|(slot, (score, covered))| (slot, *score, *covered))
        });
        best.into_iter()
            .map(|(slot, _, covered)| (slot, covered))
            .collect()
    }

    /// The nearest by their meaning, with their cosines.
    fn by_meaning(&self, query: &Query) -> Vec<(u32, f64)> {
        let Some(vector) = &query.vector else {
            return Vec::new();
        };
        let cosines = cosines(vector, &self.values, &self.scales);
        let best = self.best(query, || {
            let cosines = (0..).zip(&cosines).filter(|(_, cosine)| **cosine > 0.0);
            cosines.map(|(slot, cosine)| (slot, f64::from(*cosine), 0.0))
        });
        best.into_iter()
            .map(|(slot, cosine, _)| (slot, cosine))
            .collect()
    }

    /// Those of `near` that the query asks for: some were perhaps written a moment ago, and are not known yet.
    fn looked_up(&self, near: &[(MemoryId, f64)], query: &Query) -> Vec<(u32, f64)> {
        let known = near.iter().filter_map(|(id, cosine)| {
            let slot = *self.slots.get(id)?;
            let doc = self.docs[at(slot)].as_ref()?;
            (*cosine > 0.0 && query.asks_for(&doc.facts)).then_some((slot, *cosine, id))
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.2.cmp(b.2)));
        let known = known.into_iter();
        known.map(|(slot, cosine, _)| (slot, cosine)).collect()
    }

    /// The first [`rank::DEPTH`] by score of those that the query asks for; of equals, the older one.
    fn best<I: Iterator<Item = Scored>>(
        &self,
        query: &Query,
        found: impl Fn() -> I,
    ) -> Vec<Scored> {
        let answers = |(slot, ..): &Scored| {
            let doc = self.docs[at(*slot)].as_ref();
            doc.is_some_and(|doc| query.asks_for(&doc.facts))
        };
        let id = |slot: u32| self.docs[at(slot)].as_ref().map(|doc| &doc.facts.id);
        let older = |a: u32, b: u32| id(a).cmp(&id(b));
        if !query.is_narrow() {
            // Nearly all answer: whether one does is looked up for the best alone.
            let (mut best, is_all) = rank::first(found(), 2 * rank::DEPTH, older);
            best.retain(answers);
            if is_all || best.len() >= rank::DEPTH {
                best.truncate(rank::DEPTH);
                return best;
            }
        }
        rank::first(found().filter(answers), rank::DEPTH, older).0
    }
}

/// What words that are nearly written alike have in common; none for those that nobody mistypes so.
fn likeness(word: &str) -> Option<(char, usize)> {
    let first = word.chars().next()?;
    (!words::has_digit(word)).then(|| (first, word.chars().count()))
}

fn distinct(words: &[u32]) -> Vec<u32> {
    let mut words = words.to_vec();
    words.sort_unstable();
    words.dedup();
    words
}

fn at(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{Eyes, Kind, Reach};
    use super::*;
    use crate::clock::Time;
    use crate::language::embed;

    fn loaded(number: usize, text: &str, expires_at: Option<Time>) -> Loaded {
        let found = words::of(text);
        Loaded {
            facts: Facts {
                id: format!("mem_{number:05}").parse().unwrap(),
                agent_id: format!("agent-{}", number % 2).parse().unwrap(),
                kind: Kind::LongTerm,
                reach: Reach::Agent,
                task_id: None,
                tags: Vec::new(),
                importance: 0.5,
                updated_at: Time::from_micros(1),
                expires_at,
            },
            words: words::indexed(&found).join(" "),
            vector: embed(&found).map(|vector| vector.to_bytes()),
        }
    }

    #[test]
    fn what_may_not_be_found_takes_the_place_of_nothing_that_may() {
        let (past, now) = (Time::from_micros(5), Time::from_micros(10));
        let mut index = Index::default();
        for number in 0..2_000 {
            // The older of equals come first, and these are gone.
            let expires_at = (number < 1_900).then_some(past);
            index.put(loaded(number, "The boiler is in the cellar", expires_at));
        }
        let found = words::of("where is the boiler");
        let mut query = Query {
            vector: embed(&found),
            words: found,
            eyes: Eyes::All,
            kind: None,
            tags: Vec::new(),
            now,
        };
        let ids = |found: Vec<Found>| found.into_iter().map(|found| found.id.to_string());
        let all: Vec<String> = ids(index.search(&query, &[], 1_000)).collect();
        let expected = (1_900..2_000).map(|number| format!("mem_{number:05}"));
        assert_eq!(all, expected.collect::<Vec<_>>());
        query.eyes = Eyes::Of(vec!["agent-1".parse().unwrap()], None);
        let own: Vec<String> = ids(index.search(&query, &[], 1_000)).collect();
        let expected = (1_901..2_000).step_by(2);
        let expected = expected.map(|number| format!("mem_{number:05}"));
        assert_eq!(own, expected.collect::<Vec<_>>());
    }
}
