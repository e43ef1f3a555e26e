//! The agent's side of the sync stream: what it is told, what it keeps of that on disk, and the
//! connection that it comes over.

mod backoff;
pub mod client;
pub mod mirror;
mod report;
pub mod saver;
pub mod snapshot;
mod talk;
