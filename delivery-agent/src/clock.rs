//! The only file of the agent that reads time.
//!
//! **Invariant:** within one run the clock never goes back: wall time is read once and the
//! monotonic clock is added to it, so a step of the system's clock cannot bring a storm of retries.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hookfleet_contract::time::Timestamp;

/// How far the anchored clock may be off the system's before signatures follow the system: receivers
/// tolerate 300 s, and small steps are corrections.
const TOLERANCE: Duration = Duration::from_secs(5);

/// Tells the time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    wall: Timestamp,
}

impl Clock {
    /// A clock that starts at the system's time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn system() -> Self {
        Self {
            started: Instant::now(),
            wall: wall(),
        }
    }

    /// The time for schedules: never goes back.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall + self.started.elapsed()
    }

    /// The time for signatures: the system's, if it has moved away from the schedule's.
    #[must_use]
    pub fn signing_time(&self) -> Timestamp {
        let (anchored, wall) = (self.now(), wall());
        let distance = anchored.since(wall).max(wall.since(anchored));
        if distance > TOLERANCE { wall } else { anchored }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn wall() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(0) + since_epoch
}
