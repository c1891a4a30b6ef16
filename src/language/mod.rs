//! Texts as words, as vectors, and when two say the same; pages of the web as texts. Pure, English and Spanish before
//! all; what texts are for is others'.

mod alike;
mod embed;
mod page;
pub(crate) mod words;

pub(crate) use alike::Shape;
pub(crate) use embed::{DIMS, Vector, cosines, embed};
pub(crate) use page::page;
