//! Whether to call somebody who fails: closed, open for a while, then one probe. It serves a
//! subscription (which fails) and an endpoint (which cannot be reached) alike.
//!
//! **Invariants:** while it is open nothing starts; half open, one attempt at a time; an attempt that
//! began before it opened changes nothing any more.

use std::time::Duration;

use hookfleet_contract::time::Timestamp;

/// How long it stays open at first; twice as long after each probe that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// And at most so long,
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// or so long for one that is dead.
const DEAD_PAUSE: Duration = Duration::from_secs(3600);
/// The last outcomes that are remembered, for those who fail often without failing always.
const RECENT: u32 = 20;
/// It opens if fewer of them than this were successes.
const MIN_RECENT_SUCCESSES: u32 = 4;
/// Unless the first of them is older than this.
const RECENT_AGE: Duration = Duration::from_secs(60);

/// A breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Breaker {
    state: State,
    generation: u16,
    /// How often it opened, less the probes that succeeded since.
    opens: u8,
    /// Failures without a success between them, in windows; it opens at 1.
    cohort: f32,
    /// The last outcomes, the newest lowest; a success is a 1.
    recent: u32,
    n_recent: u8,
    recent_since: Timestamp,
}

/// What may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Everything.
    Closed,
    /// Nothing.
    Open {
        /// Before this.
        until: Timestamp,
    },
    /// One attempt, the probe.
    Half {
        /// It is in flight.
        probing: bool,
    },
}

/// A failure, as a breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Failure {
    /// Its part of a window: with a window of 4, a quarter.
    pub(crate) weight: f32,
    /// There has been no success for a day.
    pub(crate) is_dead: bool,
    /// No pause is longer.
    pub(crate) longest: Duration,
    /// A random number in 0..1 that spreads the pause.
    pub(crate) spread: f64,
}

// === impl Breaker ===

impl Breaker {
    pub(crate) const CLOSED: Self = Self {
        state: State::Closed,
        generation: 0,
        opens: 0,
        cohort: 0.0,
        recent: 0,
        n_recent: 0,
        recent_since: Timestamp(0),
    };

    /// What an earlier run left: open, or about to be probed.
    pub(crate) fn restored(opens: u8, until: Timestamp) -> Self {
        Self {
            state: if opens == 0 {
                State::Closed
            } else {
                State::Open { until }
            },
            opens,
            ..Self::CLOSED
        }
    }

    /// What may start at `now`.
    pub(crate) fn state(&self, now: Timestamp) -> State {
        match self.state {
            State::Open { until } if until <= now => State::Half { probing: false },
            State::Open { .. } | State::Half { .. } | State::Closed => self.state,
        }
    }

    /// An attempt starts. The number is to be told with its outcome.
    pub(crate) fn start(&mut self, now: Timestamp) -> u16 {
        if let State::Half { .. } = self.state(now) {
            self.state = State::Half { probing: true };
        }
        self.generation
    }

    /// An attempt that started under `generation` succeeded. Whether that closed the breaker.
    pub(crate) fn succeeded(&mut self, generation: u16, now: Timestamp) -> bool {
        if !self.is_current(generation) {
            return false;
        }
        self.remember(true, now);
        self.cohort = 0.0;
        self.answered(generation)
    }

    /// An attempt that started under `generation` was answered, if not as one could wish. Whether that
    /// closed the breaker.
    pub(crate) fn answered(&mut self, generation: u16) -> bool {
        let closes = self.is_current(generation) && matches!(self.state, State::Half { .. });
        if closes {
            self.state = State::Closed;
            self.generation = self.generation.wrapping_add(1);
            self.opens = self.opens.saturating_sub(1);
        }
        closes
    }

    /// Whether an attempt that started under `generation` says anything about now.
    pub(crate) fn is_current(&self, generation: u16) -> bool {
        generation == self.generation
    }

    /// An attempt that started under `generation` failed. Whether that opened the breaker.
    pub(crate) fn failed(&mut self, generation: u16, failure: Failure, now: Timestamp) -> bool {
        if !self.is_current(generation) {
            return false;
        }
        self.remember(false, now);
        self.cohort += failure.weight;
        // Three times a third is to be one.
        let is_down = self.cohort >= 0.999;
        let is_bad =
            u32::from(self.n_recent) == RECENT && self.recent.count_ones() < MIN_RECENT_SUCCESSES;
        let opens = match self.state {
            State::Half { .. } => true,
            State::Closed => is_down || is_bad,
            State::Open { .. } => false,
        };
        if opens {
            self.open(now, failure);
        }
        opens
    }

    /// An attempt that started under `generation` said nothing. If it was the probe, another follows.
    pub(crate) fn said_nothing(&mut self, generation: u16) {
        if self.is_current(generation)
            && let State::Half { probing } = &mut self.state
        {
            *probing = false;
        }
    }

    /// How often it opened lately, and until when it is open.
    pub(crate) fn memory(&self) -> (u8, Timestamp) {
        match self.state {
            State::Open { until } => (self.opens, until),
            State::Closed | State::Half { .. } => (self.opens, Timestamp(0)),
        }
    }

    fn open(&mut self, now: Timestamp, failure: Failure) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.opens.min(16));
        let pause = if failure.is_dead {
            DEAD_PAUSE
        } else {
            doubled.min(LONGEST_PAUSE)
        };
        let pause = pause.min(failure.longest);
        let until = now + pause.mul_f64(0.8 + 0.4 * failure.spread.clamp(0.0, 1.0));
        self.state = State::Open { until };
        self.opens = self.opens.saturating_add(1);
        self.generation = self.generation.wrapping_add(1);
        self.cohort = 0.0;
        self.n_recent = 0;
    }

    fn remember(&mut self, success: bool, now: Timestamp) {
        if now.since(self.recent_since) > RECENT_AGE || self.n_recent == 0 {
            (self.recent, self.n_recent) = (0, 0);
            self.recent_since = now;
        }
        let mask = (1 << RECENT) - 1;
        self.recent = ((self.recent << 1) | u32::from(success)) & mask;
        self.n_recent = (self.n_recent + 1).min(RECENT as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_700_000_000_000);

    fn part(weight: f32) -> Failure {
        Failure {
            weight,
            is_dead: false,
            longest: Duration::MAX,
            spread: 0.5,
        }
    }

    fn after(seconds: u64) -> Timestamp {
        T0 + Duration::from_secs(seconds)
    }

    /// Opened by one failure of a window of one.
    fn open() -> Breaker {
        let mut breaker = Breaker::CLOSED;
        let generation = breaker.start(T0);
        assert!(breaker.failed(generation, part(1.0), T0));
        breaker
    }

    #[test]
    fn a_window_of_failures_opens_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::CLOSED;
        for _ in 0..100 {
            for _ in 0..3 {
                assert!(!breaker.failed(0, part(0.25), T0));
            }
            breaker.succeeded(0, T0);
        }
        for _ in 0..3 {
            assert!(!breaker.failed(0, part(0.25), T0));
        }
        assert!(breaker.failed(0, part(0.25), T0));
        assert_eq!(breaker.state(T0), State::Open { until: after(5) });
    }

    #[test]
    fn after_the_pause_one_probe_at_a_time() {
        let mut breaker = open();
        assert_eq!(breaker.state(after(4)), State::Open { until: after(5) });
        assert_eq!(breaker.state(after(5)), State::Half { probing: false });
        let probe = breaker.start(after(5));
        assert_eq!(breaker.state(after(5)), State::Half { probing: true });
        assert!(breaker.succeeded(probe, after(6)));
        assert_eq!(breaker.state(after(6)), State::Closed);
    }

    #[test]
    fn pauses_double_to_a_quarter_of_an_hour_and_are_an_hour_for_the_dead() {
        let (mut breaker, mut now) = (open(), T0);
        let mut pause_after = |is_dead| {
            let (_, until) = breaker.memory();
            now = now.max(until);
            let probe = breaker.start(now);
            let failure = Failure {
                is_dead,
                ..part(0.01)
            };
            assert!(breaker.failed(probe, failure, now));
            breaker.memory().1.since(now).as_secs()
        };
        let pauses: Vec<u64> = (0..9).map(|_| pause_after(false)).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
        assert_eq!(pause_after(true), 3600);
    }

    #[test]
    fn stragglers_from_before_it_opened_change_nothing() {
        let mut breaker = Breaker::CLOSED;
        let early = breaker.start(T0);
        assert!(breaker.failed(early, part(1.0), T0));
        let probe = breaker.start(after(5));
        assert_ne!(early, probe);
        assert!(!breaker.succeeded(early, after(6)));
        assert_eq!(breaker.state(after(6)), State::Half { probing: true });
        assert!(breaker.succeeded(probe, after(6)));
        assert!(!breaker.failed(probe, part(1.0), after(7)), "closed since");
    }

    #[test]
    fn a_probe_that_said_nothing_is_followed_by_another() {
        let mut breaker = open();
        let probe = breaker.start(after(5));
        breaker.said_nothing(probe);
        assert_eq!(breaker.state(after(5)), State::Half { probing: false });
    }

    #[test]
    fn one_success_in_ten_is_not_enough() {
        let mut breaker = Breaker::CLOSED;
        let opened = (0..40).any(|it| {
            if it % 10 == 0 {
                breaker.succeeded(0, T0);
                false
            } else {
                breaker.failed(0, part(0.01), T0)
            }
        });
        assert!(opened);
    }

    #[test]
    fn what_is_restored_is_as_open_as_before() {
        let (opens, until) = open().memory();
        let restored = Breaker::restored(opens, until);
        assert_eq!(restored.state(T0), State::Open { until: after(5) });
        assert_eq!(restored.state(after(5)), State::Half { probing: false });
        let healthy = Breaker::restored(0, Timestamp(0));
        assert_eq!(healthy.state(T0), State::Closed);
    }
}
