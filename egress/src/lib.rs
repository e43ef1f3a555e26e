//! The only way out: every callback leaves through here. Resolve, judge every answer, connect to the
//! judged address, speak, read as little as possible.
//!
//! - [`address`]: which addresses may be called. Pure.
//! - `resolve`, `names`: names to addresses, and what is remembered of them.
//! - `connect`, `connection`, `meter`, `pool`: connections, what they may read, and their reuse.
//! - [`Egress`]: one POST, or one question.
//! - [`fetch`]: documents that the operator has named. Not on the path of events.

pub mod address;
mod client;
mod connect;
mod connection;
mod exchange;
pub mod fetch;
mod meter;
mod names;
mod pool;
mod resolve;

pub use client::{Config, Egress, Error};
pub use exchange::{Exchange, Failure, Request, Response};

#[cfg(test)]
mod tests;
