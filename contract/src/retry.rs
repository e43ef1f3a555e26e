//! When a failed delivery is tried again. Time and randomness are arguments.
//!
//! **Invariants:** no attempt is planned after the event's time to live; none is planned sooner than
//! the receiver asked; the number of attempts is bounded whatever the receiver answers.

use std::time::Duration;

use hookfleet_proto::v1::DeadLetterReason;

use crate::{response::Retry, time::Timestamp};

/// Delays of the default schedule, in seconds: Standard Webhooks' example, 75:35:05 in all.
pub const DEFAULT_DELAYS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// The default time to live: the default schedule with the most jitter takes 90:42:06.
pub const DEFAULT_TTL: Duration = Duration::from_secs(96 * 3600);
/// Attempts that a receiver throttles do not advance the schedule; this many end a delivery anyway.
pub const MAX_ATTEMPTS: u32 = 100;

/// When and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The delays.
    pub schedule: Schedule,
    /// No attempt starts later than this after acceptance.
    pub ttl: Duration,
    /// Which responses are final.
    pub preset: Preset,
    /// Statuses that are final in any case.
    pub non_retryable: Vec<u16>,
}

/// The delays between attempts.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Fixed; one more attempt than there are delays.
    Delays(Vec<Duration>),
    /// Growing by a factor.
    Exponential {
        /// The first.
        initial: Duration,
        /// The factor.
        multiplier: f64,
        /// The longest.
        max: Duration,
        /// The number of attempts.
        max_attempts: u32,
    },
}

/// Which responses are worth a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// Nearly all.
    #[default]
    Standard,
    /// As Knative does.
    Knative,
    /// As Amazon EventBridge does.
    EventBridge,
    /// As Azure Event Grid does.
    EventGrid,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Attempts that were made.
    pub attempts: u32,
    /// Those of them that advanced the schedule.
    pub step: u32,
}

/// Random numbers, uniform in 0..1, one for each purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    /// Spreads the delay by ± 20 %.
    pub delay: f64,
    /// Lengthens the receiver's pause by up to 10 %.
    pub retry_after: f64,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, then.
    At(Timestamp),
    /// No other attempt.
    DeadLetter(DeadLetterReason),
}

// === impl Jitter ===

impl Jitter {
    /// In the middle: delays are as the schedule says.
    pub const NONE: Self = Self {
        delay: 0.5,
        retry_after: 0.0,
    };
}

// === impl Policy ===

impl Policy {
    /// What follows a failure. `progress` counts the attempt that failed.
    #[must_use]
    pub fn after(
        &self,
        retry: &Retry,
        progress: Progress,
        accept_time: Timestamp,
        expiry: Option<Timestamp>,
        now: Timestamp,
        jitter: Jitter,
    ) -> Next {
        if progress.attempts >= MAX_ATTEMPTS.max(self.schedule.max_attempts()) {
            return Next::DeadLetter(DeadLetterReason::MaxAttempts);
        }
        // An attempt that did not advance the schedule waits as long as the one before it did.
        let Some(base) = self.schedule.delay(progress.step.max(1)) else {
            return Next::DeadLetter(DeadLetterReason::MaxAttempts);
        };
        let spread = base.mul_f64(0.8 + 0.4 * jitter.delay.clamp(0.0, 1.0));
        let asked = retry.retry_after.unwrap_or_default();
        let asked = asked
            .mul_f64(1.0 + 0.1 * jitter.retry_after.clamp(0.0, 1.0))
            .max(asked);
        let due = now + ceil_millis(spread.max(retry.minimum).max(asked));
        if expiry.is_some_and(|at| due > at) {
            return Next::DeadLetter(DeadLetterReason::Expired);
        }
        if due > accept_time + self.ttl {
            return Next::DeadLetter(DeadLetterReason::Ttl);
        }
        Next::At(due)
    }
}

/// Timestamps have milliseconds; rounding down would be early.
fn ceil_millis(duration: Duration) -> Duration {
    duration.saturating_add(Duration::from_nanos(999_999))
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            ttl: DEFAULT_TTL,
            preset: Preset::default(),
            non_retryable: Vec::new(),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// The delay after so many attempts (from 1), if there is another.
    #[must_use]
    pub fn delay(&self, n_attempts: u32) -> Option<Duration> {
        let index = usize::try_from(n_attempts.saturating_sub(1)).ok()?;
        match self {
            Self::Delays(delays) => delays.get(index).copied(),
            Self::Exponential {
                initial,
                multiplier,
                max,
                max_attempts,
            } => (n_attempts < *max_attempts).then(|| {
                let factor = multiplier.powf(f64::from(n_attempts.saturating_sub(1)));
                let seconds = (initial.as_secs_f64() * factor).min(max.as_secs_f64());
                Duration::from_secs_f64(seconds)
            }),
        }
    }

    fn max_attempts(&self) -> u32 {
        match self {
            Self::Delays(delays) => u32::try_from(delays.len())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            Self::Exponential { max_attempts, .. } => *max_attempts,
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Delays(DEFAULT_DELAYS.map(Duration::from_secs).to_vec())
    }
}
