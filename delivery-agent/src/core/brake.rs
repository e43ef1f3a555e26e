//! Notices when it is our own network that fails: then nothing that happens is believed of anybody.
//!
//! **Invariant:** endpoints that never were in reach have no say.

use std::time::Duration;

use hookfleet_contract::time::Timestamp;

/// What is counted together.
const PERIOD: Duration = Duration::from_secs(10);
/// Fewer endpoints than this are their own fault.
const MIN_ENDPOINTS: u32 = 100;
/// How many attempts it takes to see that the network is back.
const MIN_ATTEMPTS: u32 = 5;
/// While it brakes, one permit in so many is used.
const PERMITS_DIVISOR: usize = 20;

/// The brake.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    on: bool,
    period: u64,
    started: Timestamp,
    n_endpoints: u32,
    n_attempts: u32,
    n_unreached: u32,
}

impl Brake {
    /// Whether to believe nothing.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// How many of `permits` to use.
    pub(crate) fn permits(&self, permits: usize) -> usize {
        if self.on {
            (permits / PERMITS_DIVISOR).max(1).min(permits)
        } else {
            permits
        }
    }

    /// An attempt to an endpoint that was in reach within the last hour is over. `counted` is the
    /// period in which that endpoint was counted last. Whether the brake was pulled or released.
    pub(crate) fn ended(&mut self, reached: bool, counted: &mut u64, now: Timestamp) -> bool {
        if now.since(self.started) >= PERIOD || self.period == 0 {
            self.started = now;
            self.period += 1;
            (self.n_endpoints, self.n_attempts, self.n_unreached) = (0, 0, 0);
        }
        if *counted != self.period {
            *counted = self.period;
            self.n_endpoints += 1;
        }
        self.n_attempts += 1;
        self.n_unreached += u32::from(!reached);
        let fails = self.n_unreached * 2 >= self.n_attempts;
        let was_on = self.on;
        if self.on {
            self.on = fails || self.n_attempts < MIN_ATTEMPTS;
        } else {
            self.on = fails && self.n_endpoints >= MIN_ENDPOINTS;
        }
        self.on != was_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn half_of_a_hundred_endpoints_pull_it_and_a_success_rate_releases_it() {
        let mut brake = Brake::default();
        let mut counted = [0; 100];
        for (index, counted) in counted.iter_mut().enumerate() {
            assert!(!brake.is_on());
            brake.ended(index % 2 == 1, counted, T0);
        }
        assert!(brake.is_on());
        assert_eq!(brake.permits(1000), 50);
        let later = T0 + PERIOD;
        for counted in &mut counted[..4] {
            brake.ended(true, counted, later);
            assert!(brake.is_on(), "too few to know");
        }
        brake.ended(true, &mut counted[4], later);
        assert!(!brake.is_on());
        assert_eq!(brake.permits(1000), 1000);
    }

    #[test]
    fn many_failures_of_few_endpoints_are_their_own() {
        let mut brake = Brake::default();
        let mut counted = [0; 99];
        for _ in 0..100 {
            for counted in &mut counted {
                brake.ended(false, counted, T0);
            }
        }
        assert!(!brake.is_on());
    }

    #[test]
    fn failures_of_different_periods_do_not_add_up() {
        let mut brake = Brake::default();
        let mut counted = [0; 150];
        for (index, counted) in counted.iter_mut().enumerate() {
            let now = T0 + Duration::from_millis(index as u64 * 200);
            brake.ended(false, counted, now);
        }
        assert!(!brake.is_on());
    }
}
