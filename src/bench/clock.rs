//! The time of a measurement: what two processes on one machine agree on.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(super) fn micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}
