//! Texts as words: what is indexed, embedded and compared. Pure; the embedding was made with the same rules
//! (`embedding/SPEC.md`), so a change here wants another embedding.

use std::collections::HashSet;
use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;

/// Words that say little about what a text is about, English and Spanish.
static STOP: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    include_str!("../../embedding/stopwords.txt")
        .lines()
        .collect()
});
/// Words that turn a sentence into its opposite.
const NEGATIONS: [&str; 9] = [
    "no", "not", "never", "nunca", "sin", "without", "jamas", "longer", "ya",
];

static ENGLISH: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));
static SPANISH: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::Spanish));

/// A run of letters and digits, folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    /// The folded pieces of a camelCase word; else none.
    pub(crate) parts: Vec<String>,
}

/// The words of `text`, in order.
pub(crate) fn of(text: &str) -> Vec<Word> {
    let text: String = text.nfkc().collect();
    let mut words = Vec::new();
    for run in runs(&text) {
        let pieces = pieces(run);
        let parts: Vec<String> = match pieces.len() {
            1 => Vec::new(),
            _ => pieces.into_iter().map(fold).collect(),
        };
        // Folding may break a run, rarely.
        words.extend(runs(&fold(run)).map(|text| Word {
            text: text.to_owned(),
            parts: parts.clone(),
        }));
    }
    words
}

/// What a text is indexed under: its words and their parts in order, as often as they stand there, without stop words
/// unless there is nothing else.
pub(crate) fn indexed(words: &[Word]) -> Vec<&str> {
    let all = words.iter().flat_map(|word| {
        let parts = word.parts.iter().map(String::as_str);
        std::iter::once(word.text.as_str()).chain(parts)
    });
    let all: Vec<&str> = all.collect();
    let telling: Vec<&str> = all.iter().copied().filter(|word| !is_stop(word)).collect();
    if telling.is_empty() { all } else { telling }
}

/// The words that a query asks for: those that are no stop words, unless there is nothing else.
pub(crate) fn asked(words: &[Word]) -> Vec<&Word> {
    let telling: Vec<&Word> = words.iter().filter(|word| !is_stop(&word.text)).collect();
    if telling.is_empty() {
        words.iter().collect()
    } else {
        telling
    }
}

/// What `word` is counted as: Snowball English, then Spanish; a word with a digit is itself.
pub(crate) fn stem(word: &str) -> String {
    if has_digit(word) {
        return word.to_owned();
    }
    SPANISH.stem(&ENGLISH.stem(word)).into_owned()
}

pub(crate) fn has_digit(word: &str) -> bool {
    word.chars().any(char::is_numeric)
}

pub(crate) fn is_stop(word: &str) -> bool {
    STOP.contains(word)
}

pub(crate) fn is_negation(word: &str) -> bool {
    NEGATIONS.contains(&word)
}

/// How many edits (a letter more, less, other, or two swapped) lead from `a` to `b`; `None` beyond `limit`.
pub(crate) fn distance(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i);
        for j in 1..=b.len() {
            let other = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (row[j] + 1).min(next[j - 1] + 1).min(row[j - 1] + other);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            next.push(best);
        }
        if next.iter().min().is_none_or(|least| *least > limit) {
            return None;
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|run| !run.is_empty())
}

/// `PostgreSQL` is `Postgre` and `SQL`.
fn pieces(run: &str) -> Vec<&str> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    for (at, pair) in run.as_bytes().windows(2).enumerate() {
        let [a, b] = [pair[0], pair[1]];
        if (a.is_ascii_lowercase() || a.is_ascii_digit()) && b.is_ascii_uppercase() {
            pieces.push(&run[start..=at]);
            start = at + 1;
        }
    }
    pieces.push(&run[start..]);
    pieces
}

fn fold(text: &str) -> String {
    let bare = text.to_lowercase();
    let bare = bare.nfkd().filter(|c| canonical_combining_class(*c) == 0);
    let folded: String = bare.nfkc().collect();
    if folded.contains('ß') {
        folded.replace('ß', "ss")
    } else {
        folded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        of(text).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_are_folded_runs_and_camel_case_has_parts() {
        assert_eq!(
            texts("Día_2: ¿PostgreSQL o ﬁle-server?"),
            ["dia", "2", "postgresql", "o", "file", "server"]
        );
        assert_eq!(of("PostgreSQL")[0].parts, ["postgre", "sql"]);
        assert_eq!(texts("Straße ÑANDÚ"), ["strasse", "nandu"]);
        assert_eq!(texts(" — "), Vec::<String>::new());
    }

    #[test]
    fn stop_words_are_left_out_unless_there_is_nothing_else() {
        assert_eq!(
            indexed(&of("the staging of the database")),
            ["staging", "database"]
        );
        assert_eq!(indexed(&of("to be or not to be")).len(), 6);
        assert_eq!(asked(&of("to be")).len(), 2);
    }

    #[test]
    fn stems_are_those_that_the_embedding_was_made_with() {
        let table = include_str!("../../embedding/stems.tsv");
        let pairs = table.lines().filter_map(|line| line.split_once('\t'));
        let (mut count, mut other) = (0, Vec::new());
        for (word, expected) in pairs {
            count += 1;
            let found = stem(word);
            if found != expected {
                other.push(format!("{word}: {found}, not {expected}"));
            }
        }
        // Releases of Snowball differ in a few words, which changes nothing of note.
        assert!(count == 1_500 && other.len() < 15, "{count} {other:?}");
    }

    #[test]
    fn edits_are_counted_up_to_a_limit() {
        for (a, b, limit, expected) in [
            ("deploy", "deploy", 1, Some(0)),
            ("deploy", "depoly", 1, Some(1)),
            ("deploy", "depoy", 1, Some(1)),
            ("deploy", "deplloyy", 1, None),
            ("kubernetes", "kubrentes", 2, Some(2)),
            ("kubernetes", "kuber", 2, None),
            ("", "a", 1, Some(1)),
        ] {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(distance(&chars(a), &chars(b), limit), expected, "{a} {b}");
        }
    }
}
