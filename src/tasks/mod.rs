//! Tasks.
pub mod reap {
    pub async fn tick(_: &crate::ctx::System) -> crate::error::Result<usize> {
        Ok(0)
    }
}
pub fn operations() -> Vec<crate::op::Op> {
    vec![]
}
pub fn resources() -> Vec<crate::op::Resource> {
    vec![]
}
