//! A token bucket as one number: when it will be full again (the generic cell rate algorithm). Pure: no clock, no lock.
//!
//! **Invariant:** in any time `t`, what is taken is at most the burst and the rate times `t`, to a nanosecond.

use std::time::Duration;

use hookfleet_contract::time::Timestamp;

const NANOS: u64 = 1_000_000_000;

/// How much may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    per_second: u64,
    burst: u64,
}

/// What is left of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) units: u64,
    /// When nothing will be missing.
    pub(crate) full_in: Duration,
}

/// What was taken of a quota: the nanosecond at which nothing of it will be missing. One of long ago is a full bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bucket(u64);

// === impl Quota ===

impl Quota {
    /// So much per second, and at once what a second allows, or `largest` if that is more: what may be asked for in one
    /// piece must not be impossible. None if nothing is said, which is 0.
    pub(crate) fn new(per_second: u64, largest: u64) -> Option<Self> {
        (per_second > 0).then(|| Self {
            per_second,
            burst: per_second.max(largest),
        })
    }

    /// The most that may be taken at once.
    pub(crate) fn burst(self) -> u64 {
        self.burst
    }

    /// How long an empty bucket takes to fill, in whole seconds: the window of which the burst is the quota.
    pub(crate) fn window_seconds(self) -> u64 {
        self.burst.div_ceil(self.per_second)
    }

    /// How long it takes until so much has come.
    fn nanos(self, units: u64) -> u64 {
        let nanos = u128::from(units) * u128::from(NANOS);
        u64::try_from(nanos.div_ceil(self.per_second.into())).unwrap_or(u64::MAX)
    }

    fn left(self, bucket: Bucket, now: u64) -> Left {
        let missing = bucket.0.saturating_sub(now);
        let there = u128::from(self.nanos(self.burst).saturating_sub(missing));
        let units = there * u128::from(self.per_second) / u128::from(NANOS);
        Left {
            units: u64::try_from(units).unwrap_or(u64::MAX).min(self.burst),
            full_in: Duration::from_nanos(missing),
        }
    }
}

// === impl Bucket ===

impl Bucket {
    /// Takes so much, and tells what is left. More than the burst counts as the burst.
    ///
    /// # Errors
    /// When to come back, if there is not so much. Nothing is taken then.
    pub(crate) fn take(
        &mut self,
        units: u64,
        quota: Quota,
        now: Timestamp,
    ) -> Result<Left, Duration> {
        let now = nanos(now);
        let cost = quota.nanos(units.min(quota.burst));
        let full_at = self.0.max(now).saturating_add(cost);
        let too_late = full_at.saturating_sub(now.saturating_add(quota.nanos(quota.burst)));
        if too_late > 0 {
            return Err(Duration::from_nanos(too_late));
        }
        self.0 = full_at;
        Ok(quota.left(*self, now))
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(&mut self, units: u64, quota: Quota) {
        self.0 = self.0.saturating_sub(quota.nanos(units.min(quota.burst)));
    }

    /// Whether nothing is missing: it is as good as a new one.
    pub(crate) fn is_full(self, now: Timestamp) -> bool {
        self.0 <= nanos(now)
    }
}

fn nanos(time: Timestamp) -> u64 {
    time.0.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_bucket_holds_its_burst_and_fills_at_its_rate() {
        let quota = Quota::new(10, 25).unwrap();
        let mut bucket = Bucket::default();
        let now = Timestamp(1_000_000);
        for left in (0..25).rev() {
            assert_eq!(bucket.take(1, quota, now).unwrap().units, left);
        }
        assert_eq!(
            bucket.take(1, quota, now).unwrap_err(),
            Duration::from_millis(100)
        );
        assert_eq!(
            bucket.take(4, quota, now).unwrap_err(),
            Duration::from_millis(400)
        );
        assert!(bucket.take(4, quota, Timestamp(now.0 + 399)).is_err());
        let left = bucket.take(4, quota, Timestamp(now.0 + 400)).unwrap();
        assert_eq!(left.units, 0);
        assert_eq!(left.full_in, Duration::from_millis(2500));
        assert!(!bucket.is_full(Timestamp(now.0 + 2899)));
        assert!(bucket.is_full(Timestamp(now.0 + 2900)));
        assert_eq!(quota.window_seconds(), 3);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let quota = Quota::new(1, 3).unwrap();
        let mut bucket = Bucket::default();
        bucket.take(3, quota, Timestamp(5)).unwrap();
        bucket.give_back(2, quota);
        assert!(bucket.take(3, quota, Timestamp(5)).is_err());
        bucket.take(2, quota, Timestamp(5)).unwrap();
    }

    #[test]
    fn the_largest_piece_is_never_impossible() {
        let quota = Quota::new(3, 1000).unwrap();
        let mut bucket = Bucket::default();
        bucket.take(1000, quota, Timestamp(0)).unwrap();
        let wait = bucket.take(5000, quota, Timestamp(0)).unwrap_err();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap() + 1;
        bucket.take(5000, quota, Timestamp(wait_ms)).unwrap();
        assert_eq!(Quota::new(0, 9), None);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_the_rate(
            per_second in 1_u64..2_000_000,
            largest in 0_u64..10_000,
            asked in prop::collection::vec((0_u64..2_000, 1_u64..3_000), 1..200),
        ) {
            let quota = Quota::new(per_second, largest).unwrap();
            let mut bucket = Bucket::default();
            let mut now = 7;
            let mut taken = Vec::new();
            for (pause_ms, units) in asked {
                now += pause_ms;
                let units = units.min(quota.burst());
                match bucket.take(units, quota, Timestamp(now)) {
                    Ok(_) => taken.push((now, units)),
                    Err(wait) => {
                        // It is told when: a millisecond before is too early, and then is not.
                        let ms = u64::try_from(wait.as_millis()).unwrap();
                        let mut early = bucket;
                        prop_assert!(ms == 0 || early.take(units, quota, Timestamp(now + ms - 1)).is_err());
                        prop_assert!(bucket.take(units, quota, Timestamp(now + ms + 1)).is_ok());
                        now += ms + 1;
                        taken.push((now, units));
                    }
                }
            }
            for (first, &(from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for &(at, units) in &taken[first..] {
                    sum += u128::from(units);
                    let allowed = u128::from(quota.burst) * 1000
                        + u128::from(per_second) * u128::from(at - from);
                    // A nanosecond is at most a five-hundredth of a unit here.
                    prop_assert!(sum * 1000 <= allowed + 2, "{sum} from {from} to {at}");
                }
            }
        }
    }
}
