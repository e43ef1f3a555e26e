//! The one type of time: it survives a restart and is an argument everywhere. Reading the clock is
//! not its business.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// A point in time, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `2026-01-02T03:04:05.678Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        prost_types::Timestamp::from(self).to_string()
    }
}

/// Reads a time of RFC 3339, whole: with its seconds and its offset. Protobuf's own reader takes much
/// that is none.
pub(crate) fn parse_rfc3339(text: &str) -> Option<prost_types::Timestamp> {
    let is_like = |bytes: &[u8], pattern: &[u8]| {
        let fits = |(it, wanted): (&u8, &u8)| match wanted {
            b'0' => it.is_ascii_digit(),
            other => it.eq_ignore_ascii_case(other),
        };
        bytes.len() == pattern.len() && bytes.iter().zip(pattern).all(fits)
    };
    let (date_time, rest) = text.as_bytes().split_at_checked(19)?;
    let n_fraction = rest
        .iter()
        .take_while(|it| **it == b'.' || it.is_ascii_digit())
        .count();
    let offset = &rest[n_fraction..];
    let is_offset = [b"Z".as_slice(), b"+00:00", b"-00:00"]
        .into_iter()
        .any(|pattern| is_like(offset, pattern));
    let is_whole = is_like(date_time, b"0000-00-00T00:00:00") && is_offset;
    is_whole.then(|| text.parse().ok()).flatten()
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at the end of time.
    fn add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    /// Saturates at the epoch.
    fn sub(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl From<Timestamp> for prost_types::Timestamp {
    fn from(timestamp: Timestamp) -> Self {
        // Protobuf's timestamps end with the year 9999.
        const LAST_SECOND: u64 = 253_402_300_799;
        Self {
            seconds: timestamp.unix_seconds().min(LAST_SECOND).cast_signed(),
            nanos: i32::try_from(timestamp.0 % 1000 * 1_000_000).unwrap_or(0),
        }
    }
}

impl From<prost_types::Timestamp> for Timestamp {
    /// Rounds down to milliseconds; what lies before the epoch becomes the epoch.
    fn from(timestamp: prost_types::Timestamp) -> Self {
        let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
        let millis = u64::try_from(timestamp.nanos / 1_000_000).unwrap_or(0);
        Self(seconds.saturating_mul(1000).saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_and_back_keeps_milliseconds() {
        for millis in [0, 1, 999, 1000, 1_767_323_045_678] {
            let timestamp = Timestamp(millis);
            let there: prost_types::Timestamp = timestamp.into();
            assert_eq!(Timestamp::from(there), timestamp);
        }
    }

    #[test]
    fn times_are_written_whole() {
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", 1_767_323_045_000),
            ("2026-01-02t03:04:05.5z", 1_767_323_045_500),
            ("2026-01-02T04:34:05.5+01:30", 1_767_323_045_500),
            ("2026-01-01T22:04:05-05:00", 1_767_323_045_000),
            ("1990-12-31T23:59:60Z", 662_687_999_000),
        ] {
            let read = parse_rfc3339(text).map(Timestamp::from);
            assert_eq!(read, Some(Timestamp(expected)), "{text}");
        }
        for text in [
            "",
            "2026-01-02",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04:05 Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05.1.2Z",
            "2026-01-02T03:04:05+01",
            "2026-01-02T03:04:05+0100",
            "2026-01-02T03:04:05+24:00",
            "2026-02-30T03:04:05Z",
            "2026-01-02T24:00:00Z",
            "+12026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Zx",
            "2026-01-02T03:04:0\u{661}Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(
            Timestamp(u64::MAX) + Duration::from_secs(1),
            Timestamp(u64::MAX)
        );
        assert_eq!(Timestamp(1).since(Timestamp(2)), Duration::ZERO);
        assert_eq!(Timestamp(u64::MAX).to_rfc3339(), "9999-12-31T23:59:59.615Z");
    }
}
