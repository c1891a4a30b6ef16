//! Texts as words, as vectors, and when two say the same. Pure, English and Spanish before all; what texts are for is
//! others'.

mod alike;
mod embed;
pub(crate) mod words;

pub(crate) use alike::Shape;
pub(crate) use embed::{DIMS, Vector, cosine, embed};
