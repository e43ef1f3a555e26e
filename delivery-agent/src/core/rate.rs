//! A token bucket as one number (the generic cell rate algorithm): how often attempts of a
//! subscription may start, with a burst of one second's worth.

use std::time::Duration;

use hookfleet_contract::time::Timestamp;

/// When the bucket would be full again, in microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket(u64);

const SECOND: f64 = 1_000_000.0;

impl Bucket {
    pub(crate) const FULL: Self = Self(0);

    /// When the next attempt may start, at `per_second`.
    pub(crate) fn ready_at(self, per_second: f64) -> Timestamp {
        // A burst of n attempts is n - 1 intervals of credit.
        let interval = SECOND / per_second;
        let credit = (SECOND - interval).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1,000,000"
        )]
        let credit = credit as u64;
        Timestamp(self.0.saturating_sub(credit).div_ceil(1000))
    }

    /// An attempt starts.
    pub(crate) fn take(&mut self, per_second: f64, now: Timestamp) {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        let now = now.0.saturating_mul(1000);
        self.0 = self.0.max(now).saturating_add(micros);
    }
}

#[cfg(test)]
mod tests {
    use hookfleet_contract::time::Timestamp;

    use super::Bucket;

    /// When attempts start that are made as early as possible, in milliseconds.
    fn starts(per_second: f64, n_attempts: usize) -> Vec<u64> {
        let (mut bucket, mut now) = (Bucket::FULL, Timestamp(10_000));
        let start = |_| {
            now = now.max(bucket.ready_at(per_second));
            bucket.take(per_second, now);
            now.0 - 10_000
        };
        (0..n_attempts).map(start).collect()
    }

    #[test]
    fn a_burst_of_a_second_and_then_the_rate() {
        assert_eq!(starts(4.0, 7), [0, 0, 0, 0, 250, 500, 750]);
    }

    #[test]
    fn less_than_one_a_second_has_a_burst_of_one() {
        assert_eq!(starts(0.5, 3), [0, 2000, 4000]);
        assert_eq!(starts(1.0 / 60.0, 3), [0, 60_000, 120_000]);
    }

    #[test]
    fn fast_rates_are_exact_over_time() {
        let starts = starts(10_000.0, 60_001);
        assert_eq!(starts.last(), Some(&5001));
    }
}
