//! When a failed delivery is tried again. Time and randomness are arguments.
//!
//! **Invariants:** no attempt is planned after the event's time to live; none is planned sooner than
//! the receiver asked; the number of attempts is bounded whatever the receiver answers.

use std::time::Duration;

use hookfleet_proto::v1::{DeadLetterReason, FailureKind};

use crate::time::Timestamp;

/// Delays of the default schedule, in seconds: Standard Webhooks' example, 75:35:05 in all.
pub const DEFAULT_DELAYS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// The default time to live: the default schedule with the most jitter takes 90:42:06.
pub const DEFAULT_TTL: Duration = Duration::from_secs(96 * 3600);
/// Attempts that a receiver throttles do not advance the schedule; this many end a delivery anyway.
pub const MAX_ATTEMPTS: u32 = 100;

/// No attempt waits longer for its time: a day, the longest that can be asked for, with the most jitter.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(86_400 * 6 / 5);

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

/// What a failure has to say about the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Why it failed.
    pub failure: FailureKind,
    /// Not sooner than this.
    pub minimum: Duration,
    /// The receiver asked for this pause.
    pub retry_after: Option<Duration>,
    /// The attempt does not count against the schedule.
    pub throttled: bool,
    /// Nothing else may go to the endpoint before `retry_after`, which is then there, either.
    pub pause_endpoint: bool,
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

    /// The longest of the delays.
    #[must_use]
    pub fn longest(&self) -> Duration {
        match self {
            Self::Delays(delays) => delays.iter().max().copied().unwrap_or_default(),
            Self::Exponential { max, .. } => *max,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACCEPTED: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn a_throttled_attempt_does_not_advance_the_schedule_but_is_counted() {
        let policy = Policy {
            schedule: Schedule::Delays(vec![Duration::from_secs(1)]),
            ..Policy::default()
        };
        let retry = retry(0, None);
        let next = |attempts, step| {
            let progress = Progress { attempts, step };
            policy.after(&retry, progress, ACCEPTED, None, ACCEPTED, Jitter::NONE)
        };
        assert!(matches!(next(99, 1), Next::At(_)));
        assert_eq!(next(2, 2), Next::DeadLetter(DeadLetterReason::MaxAttempts));
        assert_eq!(
            next(100, 0),
            Next::DeadLetter(DeadLetterReason::MaxAttempts)
        );
    }

    #[test]
    fn the_reason_is_the_limit_that_was_met() {
        let policy = Policy::default();
        let progress = Progress {
            attempts: 1,
            step: 1,
        };
        let late = ACCEPTED + policy.ttl;
        let next = |expiry, now| {
            policy.after(
                &retry(0, None),
                progress,
                ACCEPTED,
                expiry,
                now,
                Jitter::NONE,
            )
        };
        assert_eq!(next(None, late), Next::DeadLetter(DeadLetterReason::Ttl));
        let expired = Next::DeadLetter(DeadLetterReason::Expired);
        assert_eq!(next(Some(ACCEPTED), ACCEPTED), expired);
    }

    #[test]
    fn exponential_delays_grow_to_their_maximum() {
        let schedule = Schedule::Exponential {
            initial: Duration::from_secs(2),
            multiplier: 3.0,
            max: Duration::from_secs(20),
            max_attempts: 5,
        };
        let delays: Vec<u64> = (1..)
            .map_while(|it| schedule.delay(it))
            .map(|it| it.as_secs())
            .collect();
        assert_eq!(delays, [2, 6, 18, 20]);
    }

    proptest! {
        #[test]
        fn never_early_never_after_the_ttl_and_always_an_end(
            minimum in 0_u64..1000,
            retry_after in proptest::option::of(0_u64..100_000),
            attempts in 0_u32..300,
            step in 0_u32..20,
            waited in 0_u64..500_000,
            delay in 0.0_f64..=1.0,
            asked in 0.0_f64..=1.0,
        ) {
            let policy = Policy::default();
            let now = ACCEPTED + Duration::from_secs(waited);
            let jitter = Jitter { delay, retry_after: asked };
            let retry = retry(minimum, retry_after);
            let progress = Progress { attempts, step };
            match policy.after(&retry, progress, ACCEPTED, None, now, jitter) {
                Next::At(due) => {
                    prop_assert!(attempts < MAX_ATTEMPTS && step <= 9);
                    let base = policy.schedule.delay(step.max(1)).unwrap();
                    let least = [
                        base.mul_f64(0.8),
                        Duration::from_secs(minimum),
                        Duration::from_secs(retry_after.unwrap_or(0)),
                    ];
                    let most = [
                        base.mul_f64(1.2),
                        Duration::from_secs(minimum),
                        Duration::from_secs(retry_after.unwrap_or(0)).mul_f64(1.1),
                    ];
                    prop_assert!(due.since(now) >= least.into_iter().max().unwrap());
                    let slack = Duration::from_millis(1);
                    prop_assert!(due.since(now) <= most.into_iter().max().unwrap() + slack);
                    prop_assert!(due <= ACCEPTED + policy.ttl);
                }
                Next::DeadLetter(reason) => prop_assert!(matches!(
                    reason,
                    DeadLetterReason::MaxAttempts | DeadLetterReason::Ttl
                )),
            }
        }
    }

    fn retry(minimum: u64, retry_after: Option<u64>) -> Retry {
        Retry {
            failure: FailureKind::Status,
            minimum: Duration::from_secs(minimum),
            retry_after: retry_after.map(Duration::from_secs),
            throttled: false,
            pause_endpoint: false,
        }
    }
}
