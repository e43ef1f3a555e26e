//! Which slot a tenant is in. Slots are what agents own; who owns one is not known here.
//!
//! **Invariant:** the slot of a tenant never changes while the slot count does not.

use sha2::{Digest as _, Sha256};

use crate::name::TenantId;

/// How many slots a new cluster has.
pub const DEFAULT_SLOT_COUNT: u16 = 1024;

/// A hash bucket of tenants, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// The slot of a tenant, out of `slot_count` (at least 1).
#[must_use]
pub fn slot_of(tenant: &TenantId, slot_count: u16) -> Slot {
    let digest: [u8; 32] = Sha256::digest(tenant.as_str().as_bytes()).into();
    let [a, b, c, d, ..] = digest;
    let hash = u32::from_be_bytes([a, b, c, d]) % u32::from(slot_count.max(1));
    Slot(u16::try_from(hash).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_stable_and_spread() {
        let slot = |it: &str| slot_of(&it.parse().unwrap(), DEFAULT_SLOT_COUNT);
        assert_eq!(slot("acme"), slot("acme"));
        let mut used = [false; 1024];
        for number in 0..10_000 {
            used[usize::from(slot(&format!("t{number}")).0)] = true;
        }
        assert!(used.iter().filter(|it| **it).count() > 1000);
    }
}
