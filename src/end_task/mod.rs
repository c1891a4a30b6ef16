//! End.
pub fn operations() -> Vec<crate::op::Op> {
    vec![]
}
