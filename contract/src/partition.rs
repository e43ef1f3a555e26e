//! Which partition of an ordered subscription an event is in. Keys share a fixed number of partitions,
//! so that a subscription with a million keys costs no more than one with a thousand.
//!
//! **Invariant:** events with the same key are always in the same partition.

use sha2::{Digest as _, Sha256};

/// How many partitions share the keys of a subscription: as many as attempts may be in flight.
pub const PARTITIONS: u16 = 1000;
/// The partition of events that wait for nothing.
pub const UNORDERED: u16 = 0;

/// The partition of a key: 1 to [`PARTITIONS`].
#[must_use]
pub fn partition_of(key: &str) -> u16 {
    let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let [a, b, c, d, ..] = digest;
    let hash = u32::from_be_bytes([a, b, c, d]) % u32::from(PARTITIONS);
    1 + u16::try_from(hash).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{PARTITIONS, partition_of};

    #[test]
    fn keys_are_stable_and_spread_over_the_partitions() {
        assert_eq!(partition_of("order-1"), partition_of("order-1"));
        let mut used: Vec<u16> = (0..20_000)
            .map(|it| partition_of(&it.to_string()))
            .collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.first(), Some(&1));
        assert_eq!(used.last(), Some(&PARTITIONS));
        assert_eq!(used.len(), usize::from(PARTITIONS));
    }
}
