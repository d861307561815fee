//! x
#![allow(missing_docs)]
pub async fn run(_m: crate::network::Mode) -> anyhow::Result<()> { Ok(()) }
