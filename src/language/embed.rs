//! Texts as vectors, by a static table of word vectors that is part of the program. Nothing is asked of anybody. What the
//! file holds and how a vector is made of it stands in `embedding/SPEC.md`.

use std::collections::HashMap;
use std::sync::LazyLock;

use pulp::{Arch, NullaryFnOnce};

use super::words::{self, Word};

/// Dimensions of a vector.
pub(crate) const DIMS: usize = 256;
/// The shortest beginning that may stand for a word that is not known.
const SHORTEST: usize = 4;
/// How much such a beginning counts.
const BEGINNING: f32 = 0.7;

static FILE: &[u8] = include_bytes!("../../embedding/baton-embed.bin");
/// Read when it is first needed.
static MODEL: LazyLock<Model> = LazyLock::new(|| Model::read(FILE));

/// A direction of length one, as whole numbers and what each counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vector {
    pub(crate) scale: f32,
    pub(crate) values: Box<[i8; DIMS]>,
}

struct Model {
    rows: HashMap<&'static str, usize>,
    /// The commonest word of each stem.
    stems: HashMap<String, usize>,
    scales: Vec<f32>,
    cells: &'static [u8],
}

/// What the words mean together; `None` when none of them is known.
pub(crate) fn embed(words: &[Word]) -> Option<Vector> {
    MODEL.sum(words).map(|sum| Vector::of(&sum))
}

/// The cosines of a vector with many, from their values and their scales.
pub(crate) fn cosines(of: &Vector, values: &[[i8; DIMS]], scales: &[f32]) -> Vec<f32> {
    Arch::new().dispatch(Cosines { of, values, scales })
}

/// What is reckoned with the widest registers that the processor has.
struct Cosines<'a> {
    of: &'a Vector,
    values: &'a [[i8; DIMS]],
    scales: &'a [f32],
}

impl NullaryFnOnce for Cosines<'_> {
    type Output = Vec<f32>;

    #[expect(
        clippy::inline_always,
        reason = "only what is part of it is compiled for these registers"
    )]
    #[inline(always)]
    fn call(self) -> Vec<f32> {
        let values = self.values.iter().zip(self.scales);
        let cosines =
            values.map(|(values, scale)| product(&self.of.values, values) * self.of.scale * scale);
        cosines.collect()
    }
}

#[expect(clippy::inline_always, reason = "see its callers")]
#[inline(always)]
fn product(a: &[i8; DIMS], b: &[i8; DIMS]) -> f32 {
    let products = a.iter().zip(b);
    let sum: i32 = products.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "below 2^23: 256 products of 127 x 127"
    )]
    let sum = sum as f32;
    sum
}

impl Vector {
    /// The direction of `sum`.
    fn of(sum: &[f32; DIMS]) -> Self {
        let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        let most = sum.iter().fold(0_f32, |most, value| most.max(value.abs()));
        #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
        let cell = |value: f32| (value / most * 127.0).round() as i8;
        Self {
            scale: most / length / 127.0,
            values: Box::new(std::array::from_fn(|at| cell(sum[at]))),
        }
    }

    /// The cosine of the angle between both.
    pub(crate) fn cosine(&self, other: &Self) -> f32 {
        product(&self.values, &other.values) * self.scale * other.scale
    }

    /// As the database keeps it: its scale, then its values.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let values = self.values.iter().map(|value| value.cast_unsigned());
        self.scale.to_le_bytes().into_iter().chain(values).collect()
    }

    /// From what the database keeps; `None` when that is no vector of this model.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (scale, values) = bytes.split_first_chunk()?;
        let values: &[u8; DIMS] = values.try_into().ok()?;
        Some(Self {
            scale: f32::from_le_bytes(*scale),
            values: Box::new(values.map(u8::cast_signed)),
        })
    }
}

impl Model {
    fn read(file: &'static [u8]) -> Self {
        let number = |at: usize| {
            let bytes = file[at..at + 4].try_into();
            usize::try_from(u32::from_le_bytes(bytes.expect("four bytes"))).expect("a size")
        };
        assert!(file.starts_with(b"BATNEMB1") && number(12) == DIMS);
        let (count, text) = (number(8), number(16));
        let names = std::str::from_utf8(&file[24..24 + text]).expect("words are ASCII");
        let mut rows = HashMap::with_capacity(count);
        let mut stems = HashMap::with_capacity(count);
        for (row, word) in names.split_terminator('\0').enumerate() {
            rows.insert(word, row);
            stems.entry(words::stem(word)).or_insert(row);
        }
        let scales = (24 + text).next_multiple_of(4);
        let cells = scales + count * 4;
        let scale = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Self {
            rows,
            stems,
            scales: file[scales..cells].chunks_exact(4).map(scale).collect(),
            cells: &file[cells..cells + count * DIMS / 2],
        }
    }

    fn row_of(&self, word: &str) -> Option<usize> {
        let row = self.rows.get(word);
        row.or_else(|| self.stems.get(&words::stem(word))).copied()
    }

    /// The rows that stand for a word, and how much each counts.
    fn rows_of(&self, word: &Word) -> Vec<(usize, f32)> {
        if let Some(row) = self.row_of(&word.text) {
            return vec![(row, 1.0)];
        }
        let parts = word.parts.iter().filter_map(|part| self.row_of(part));
        let parts: Vec<_> = parts.map(|row| (row, 1.0)).collect();
        if !parts.is_empty() || words::has_digit(&word.text) {
            return parts;
        }
        let ends = word.text.char_indices().skip(SHORTEST);
        let ends: Vec<usize> = ends.map(|(end, _)| end).collect();
        let mut beginnings = ends.into_iter().rev().map(|end| &word.text[..end]);
        let row = beginnings.find_map(|beginning| self.rows.get(beginning).copied());
        row.map(|row| (row, BEGINNING)).into_iter().collect()
    }

    fn sum(&self, words: &[Word]) -> Option<[f32; DIMS]> {
        let mut sum = [0_f32; DIMS];
        for (row, weight) in words.iter().flat_map(|word| self.rows_of(word)) {
            let scale = self.scales[row] * weight;
            let cells = &self.cells[row * DIMS / 2..(row + 1) * DIMS / 2];
            for (pair, cell) in sum.chunks_exact_mut(2).zip(cells) {
                pair[0] += (f32::from(cell & 15) - 8.0) * scale;
                pair[1] += (f32::from(cell >> 4) - 8.0) * scale;
            }
        }
        sum.iter().any(|value| *value != 0.0).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn vectors_are_those_that_the_recipe_makes() {
        let samples = include_str!("../../embedding/test_vectors.json");
        let samples: Value = serde_json::from_str(samples).unwrap();
        for sample in samples.as_array().unwrap() {
            let words = words::of(sample["text"].as_str().unwrap());
            let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(Value::from(texts), sample["words"]);
            let sum = MODEL.sum(&words).unwrap();
            let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
            for (value, expected) in sum.iter().zip(sample["vector"].as_array().unwrap()) {
                let off = f64::from(value / length) - expected.as_f64().unwrap();
                assert!(off.abs() < 1e-4, "{sample}");
            }
            let vector = Vector::of(&sum);
            assert!((vector.cosine(&vector) - 1.0).abs() < 0.01);
            let values = [*vector.values, [0; DIMS], *vector.values];
            let all = cosines(&vector, &values, &[vector.scale, 0.0, -vector.scale]);
            let own = vector.cosine(&vector);
            assert_eq!(all, [own, 0.0, -own]);
            assert_eq!(Vector::from_bytes(&vector.to_bytes()), Some(vector));
        }
    }

    #[test]
    fn what_means_nothing_has_no_vector_and_other_bytes_are_none() {
        assert_eq!(embed(&words::of("— 9f8e7d6c5b4a —")), None);
        assert_eq!(embed(&[]), None);
        assert_eq!(Vector::from_bytes(&[0; 8]), None);
    }
}
