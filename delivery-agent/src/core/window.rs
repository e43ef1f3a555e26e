//! How many attempts of one subscription may be in flight: additive increase, multiplicative
//! decrease. It knows nothing of time or of why an attempt failed.
//!
//! **Invariant:** `1 <= size <= max`.

/// The window of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    size: u32,
    max: u32,
    successes: u32,
}

/// A new subscription gets two attempts at once: one bad event does not stall the next.
const INITIAL: u32 = 2;

impl Window {
    pub(crate) fn new(max: u32) -> Self {
        let max = max.max(1);
        Self {
            size: INITIAL.min(max),
            max,
            successes: 0,
        }
    }

    pub(crate) fn size(self) -> u32 {
        self.size
    }

    /// Keeps what was learnt when the limit changes.
    pub(crate) fn set_max(&mut self, max: u32) {
        self.max = max.max(1);
        self.size = self.size.min(self.max);
    }

    /// One more for each window's worth of successes, but only while the window is what limits.
    pub(crate) fn succeeded(&mut self, in_flight: u32) {
        if in_flight.saturating_add(1) < self.size {
            return;
        }
        self.successes += 1;
        // Below 16 the window doubles with each round trip, as in TCP's slow start; a subscription
        // that is alone on a fast receiver is at full speed after five of them.
        if self.size < 16 || self.successes >= self.size {
            self.successes = 0;
            self.size = (self.size + 1).min(self.max);
        }
    }

    /// Half after each failure.
    pub(crate) fn failed(&mut self) {
        self.successes = 0;
        self.size = (self.size / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn grows_to_its_maximum_and_no_further() {
        let mut window = Window::new(20);
        for _ in 0..1000 {
            let full = window.size();
            window.succeeded(full);
            assert!(window.size() <= 20);
        }
        assert_eq!(window.size(), 20);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::new(20);
        window.succeeded(0);
        assert_eq!(window.size(), 2);
    }

    #[test]
    fn failures_halve_it_down_to_one() {
        let mut window = Window::new(64);
        for _ in 0..5000 {
            let full = window.size();
            window.succeeded(full);
        }
        window.failed();
        assert_eq!(window.size(), 32);
        for _ in 0..10 {
            window.failed();
        }
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_lower_maximum_takes_effect_at_once() {
        let mut window = Window::new(64);
        for _ in 0..5000 {
            let full = window.size();
            window.succeeded(full);
        }
        window.set_max(3);
        assert_eq!(window.size(), 3);
    }
}
