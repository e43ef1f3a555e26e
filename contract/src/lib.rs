//! What Hookfleet promises a receiver: subscription + event + time → the exact request; response →
//! outcome → next attempt. Pure: no IO, no clock, no randomness.
//!
//! - [`time`], [`name`], [`id`], [`slot`], [`shard`], [`zone`], [`violation`]: the words everything else is said in.
//! - [`event`], [`pattern`], [`partition`]: what may be published, who wants it, and in which order.
//! - [`subscription`], [`target`], [`header`]: what may be subscribed.
//! - [`mod@format`], [`signature`], [`request`], [`trace`]: the request.
//! - [`response`], [`retry`]: what the answer means, and when the next attempt is due.
//! - [`verification`]: whether callbacks are wanted at all.
//! - [`seal`]: how secrets are kept. [`digest`]: whether two sides know the same.

pub mod digest;
pub mod event;
pub mod format;
pub mod header;
pub mod id;
pub mod name;
pub mod partition;
pub mod pattern;
pub mod request;
pub mod response;
pub mod retry;
pub mod seal;
pub mod shard;
pub mod signature;
pub mod slot;
pub mod subscription;
pub mod target;
pub mod time;
pub mod trace;
pub mod verification;
pub mod violation;
pub mod zone;

#[cfg(test)]
mod vectors;
