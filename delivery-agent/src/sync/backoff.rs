//! How long to wait before the next connection. Pure.

use std::time::Duration;

/// 0.2 s × 1.6ⁿ up to 15 s, ± 40 %.
const BACKOFF: (f64, f64, f64) = (0.2, 1.6, 15.0);

/// The pause after so many failures; `unit` is uniform in 0..1.
pub(super) fn backoff(failures: u32, unit: f64) -> Duration {
    let (first, factor, most) = BACKOFF;
    let pause = first * factor.powi(failures.min(30).cast_signed());
    Duration::from_secs_f64(pause.min(most) * (0.6 + 0.8 * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_spread() {
        assert!(backoff(0, 0.5) < backoff(3, 0.5));
        assert!(backoff(u32::MAX, 1.0) <= Duration::from_secs(21));
        assert!(backoff(u32::MAX, 0.0) >= Duration::from_secs(9));
    }
}
