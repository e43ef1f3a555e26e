//! How many attempts of one subscription may be in flight: additive increase, additive decrease per
//! window's worth of outcomes, as Postfix does for each destination. It knows nothing of time or of
//! why an attempt failed.
//!
//! **Invariant:** `1 <= size <= max`.

/// The window of one subscription.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    size: u16,
    /// No failure was seen yet: the window doubles with each round trip.
    starting: bool,
    /// Parts of the next step up, and down.
    up: f32,
    down: f32,
}

impl Window {
    /// A window of one: whoever has not answered yet holds one permit.
    pub(crate) const NEW: Self = Self {
        size: 1,
        starting: true,
        up: 0.0,
        down: 0.0,
    };

    pub(crate) fn size(self, max: u32) -> u32 {
        u32::from(self.size).min(max.max(1))
    }

    /// One more for each window's worth of successes, but only while the window is what limits.
    pub(crate) fn succeeded(&mut self, in_flight: u32, max: u32) {
        let size = self.size(max);
        let is_limit = if self.starting {
            // A batch of successes may be seen before the next batch has started.
            2 * (in_flight + 1) >= size
        } else {
            in_flight + 2 > size
        };
        if !is_limit || size >= max {
            return;
        }
        self.up += if self.starting {
            1.0
        } else {
            1.0 / f32::from(self.size)
        };
        if self.up >= 1.0 {
            self.up -= 1.0;
            self.down = 0.0;
            self.size += 1;
        }
    }

    /// One less for each window's worth of failures; the first of them bites at once.
    pub(crate) fn failed(&mut self) {
        self.starting = false;
        self.down -= 1.0 / f32::from(self.size);
        if self.down < 0.0 {
            self.size = (self.size - 1).max(1);
            self.down += 1.0;
            self.up = 0.0;
        }
    }

    /// The receiver says that it is too much.
    pub(crate) fn throttled(&mut self) {
        self.starting = false;
        self.size = (self.size / 2).max(1);
        (self.up, self.down) = (0.0, 0.0);
    }

    /// After an outage the receiver is met again one attempt at a time.
    pub(crate) fn reset(&mut self) {
        *self = Self::NEW;
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    fn grown(size: u32) -> Window {
        let mut window = Window::NEW;
        while window.size(1000) < size {
            window.succeeded(window.size(1000), 1000);
        }
        window
    }

    #[test]
    fn doubles_with_each_round_trip_at_first() {
        let mut window = Window::NEW;
        for expected in [2, 4, 8, 16, 32] {
            let size = window.size(100);
            for _ in 0..size {
                window.succeeded(size, 100);
            }
            assert_eq!(window.size(100), expected);
        }
    }

    #[test]
    fn grows_to_its_maximum_and_no_further() {
        let mut window = Window::NEW;
        for _ in 0..1000 {
            window.succeeded(window.size(20), 20);
        }
        assert_eq!(window.size(20), 20);
        assert_eq!(window.size(1000), 20);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = grown(4);
        window.succeeded(0, 20);
        assert_eq!(window.size(20), 4);
    }

    #[test]
    fn one_failure_costs_one_and_a_window_of_them_one_more() {
        let mut window = grown(32);
        window.failed();
        assert_eq!(window.size(64), 31);
        for _ in 0..30 {
            window.failed();
        }
        assert_eq!(window.size(64), 31);
        window.failed();
        window.failed();
        assert_eq!(window.size(64), 30);
        for _ in 0..5000 {
            window.failed();
        }
        assert_eq!(window.size(64), 1);
    }

    #[test]
    fn after_a_failure_it_grows_by_one_for_each_round_trip() {
        let mut window = grown(8);
        window.failed();
        for _ in 0..8 {
            window.succeeded(7, 64);
        }
        assert_eq!(window.size(64), 8);
    }

    #[test]
    fn a_lower_maximum_takes_effect_at_once() {
        assert_eq!(grown(64).size(3), 3);
    }
}
