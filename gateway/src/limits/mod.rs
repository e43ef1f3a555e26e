//! What callers may use: requests of a credential and of an address, events and bytes of a tenant, attempts to get in,
//! connections. All limits are those of one process.
//!
//! - [`bucket`], [`table`]: what was used of a quota, by anybody. [`limiter`]: of all quotas.
//! - `layer`: where requests are stopped, before their bodies are read. `fields`: what they are told.
//! - [`connections`]: how many there are. `patience`: how long they may take. [`memory`]: what all of it may use.

mod bucket;
pub mod connections;
pub(crate) mod fields;
pub(crate) mod layer;
pub mod limiter;
pub mod memory;
pub(crate) mod patience;
mod table;
