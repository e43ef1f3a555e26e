//! How a tenant is spread over slots. A *shard* is what a tenant has in one of its slots: some of its events, with their
//! deliveries for all of its subscriptions. Nearly all tenants have one.
//!
//! **Invariants:** shard 0 is in the slot that the tenant always had; a tenant's shards are in different slots; more shards
//! leave those where they are that it has already; events of one key, and repeats of one event, are in one shard as long
//! as the tenant's spread stays as it is.

use hookfleet_proto::cloudevents::CloudEvent;
use sha2::{Digest as _, Sha256};

use crate::{
    event,
    name::TenantId,
    slot::{Slot, slot_of},
};

/// The most shards of a tenant: as many as the six bits can tell apart that [`replica`] uses.
pub const MAX_SPREAD: u8 = 64;

/// One of a tenant's shards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// Whose.
    pub tenant: TenantId,
    /// Which, from 0.
    pub number: u8,
}

/// How many shards a tenant has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Its events go to so many, the first ones.
    pub events: u8,
    /// Deliveries may be in so many: the most that its events ever went to.
    pub shards: u8,
}

// === impl Shard ===

impl Shard {
    /// The shard that every tenant has.
    #[must_use]
    pub fn first(tenant: &TenantId) -> Self {
        Self {
            tenant: tenant.clone(),
            number: 0,
        }
    }

    /// The slot that it is in, out of `slot_count` (at least 1).
    #[must_use]
    pub fn slot(&self, slot_count: u16) -> Slot {
        let first = slot_of(&self.tenant, slot_count);
        if self.number == 0 {
            return first;
        }
        let n_slots = u32::from(slot_count.max(1));
        let place = u32::from(first.0) + u32::from(self.number) * step(&self.tenant, n_slots);
        Slot(u16::try_from(place % n_slots).unwrap_or(0))
    }
}

/// From a shard's slot to the next one's. It has no divisor in common with the number of slots, so that it leads through all
/// of them before it comes back.
fn step(tenant: &TenantId, n_slots: u32) -> u32 {
    let digest: [u8; 32] = Sha256::digest(tenant.as_str().as_bytes()).into();
    let [.., a, b, c] = digest;
    let hash = u32::from_be_bytes([0, a, b, c]);
    let steps = (1..n_slots).map(|it| 1 + (hash + it) % (n_slots - 1));
    let is_prime_to = |it: &u32| gcd(*it, n_slots) == 1;
    steps.into_iter().find(is_prime_to).unwrap_or(0)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

// === impl Spread ===

impl Spread {
    /// Into how many parts what a subscription may do is divided, of which this shard has one. A shard that gets no events
    /// any more has some that wait, beside those that do.
    #[must_use]
    pub const fn n_shares(self, number: u8) -> u8 {
        if number < self.events {
            self.events
        } else {
            self.shards
        }
    }
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            events: 1,
            shards: 1,
        }
    }
}

/// The number of the shard of a tenant with so many that an event is in: by its `partitionkey` if it has one, else by source
/// and id. Another shard takes an equal part of the keys of each that was there.
#[must_use]
pub fn shard_of(event: &CloudEvent, spread: u8) -> u8 {
    if spread <= 1 {
        return 0;
    }
    let mut hash = Sha256::new();
    match event::text(event, "partitionkey") {
        Some(key) => hash.update(key),
        None => {
            for part in [&event.source, "\0", &event.id] {
                hash.update(part);
            }
        }
    }
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = hash.finalize().into();
    let key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    // Each shard bids for the key, and the highest bid has it.
    let highest = (0..spread).max_by_key(|shard| mixed(key.wrapping_add(u64::from(*shard))));
    highest.unwrap_or(0)
}

/// The last steps of SplitMix64: neighbours have nothing in common.
const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// What a subscription, a UUID of version 4, is called in a shard: each has its own queues there. Shard 0 knows it by its
/// own uid. In the others the six bits that say that a UUID is of version 4 tell the shards apart, so nobody has to keep a
/// table of these.
#[must_use]
pub const fn replica(mut uid: [u8; 16], number: u8) -> [u8; 16] {
    uid[6] ^= (number >> 2) << 4;
    uid[8] ^= (number & 3) << 6;
    uid
}

/// The uid of the subscription that is called `replica` in a shard, and the number of that shard.
#[must_use]
pub const fn original(replica: [u8; 16]) -> ([u8; 16], u8) {
    let number = (((replica[6] >> 4) ^ 4) << 2) | ((replica[8] >> 6) ^ 2);
    (self::replica(replica, number), number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hookfleet_proto::cloudevents::{
        CloudEventAttributeValue, cloud_event_attribute_value::Attr,
    };
    use proptest::prelude::*;

    use super::*;

    fn event(source: &str, id: &str, key: Option<&str>) -> CloudEvent {
        let key = key.map(|key| {
            let attr = Some(Attr::CeString(key.to_owned()));
            let value = CloudEventAttributeValue { attr };
            ("partitionkey".to_owned(), value)
        });
        CloudEvent {
            source: source.to_owned(),
            id: id.to_owned(),
            attributes: key.into_iter().collect(),
            ..CloudEvent::default()
        }
    }

    fn slots(tenant: &str, spread: u8, slot_count: u16) -> Vec<Slot> {
        let tenant: TenantId = tenant.parse().unwrap();
        let shards = (0..spread).map(|number| Shard {
            tenant: tenant.clone(),
            number,
        });
        shards.map(|it| it.slot(slot_count)).collect()
    }

    proptest! {
        #[test]
        fn shards_are_in_different_slots_and_stay_where_they_are(
            tenant in "[a-z][a-z0-9]{0,12}",
            slot_count in 1u16..2000,
            spread in 1u8..=MAX_SPREAD,
        ) {
            let spread = spread.min(u8::try_from(slot_count).unwrap_or(MAX_SPREAD));
            let all = slots(&tenant, spread, slot_count);
            prop_assert_eq!(all[0], slot_of(&tenant.parse().unwrap(), slot_count));
            prop_assert!(all.iter().all(|it| it.0 < slot_count));
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            prop_assert_eq!(&all[..1], slots(&tenant, 1, slot_count));
        }

        #[test]
        fn one_shard_more_takes_keys_and_moves_no_others(key in ".{0,20}", spread in 1u8..MAX_SPREAD) {
            let event = event("s", "1", Some(&key));
            let (before, after) = (shard_of(&event, spread), shard_of(&event, spread + 1));
            prop_assert!(before < spread);
            prop_assert!(after == before || after == spread, "{} {}", before, after);
        }

        #[test]
        fn replicas_have_names_of_their_own_that_lead_back(bytes: [u8; 16]) {
            let mut uid = bytes;
            uid[6] = 0x40 | (uid[6] & 0x0f);
            uid[8] = 0x80 | (uid[8] & 0x3f);
            let replicas: BTreeSet<_> = (0..MAX_SPREAD).map(|it| replica(uid, it)).collect();
            prop_assert_eq!(replicas.len(), usize::from(MAX_SPREAD));
            for number in 0..MAX_SPREAD {
                prop_assert_eq!(original(replica(uid, number)), (uid, number));
            }
            prop_assert_eq!(replica(uid, 0), uid);
        }
    }

    #[test]
    fn keys_decide_the_shard_and_else_source_and_id() {
        let shard = |event| shard_of(&event, 64);
        assert_eq!(
            shard(event("s", "1", Some("k"))),
            shard(event("t", "2", Some("k")))
        );
        assert_eq!(shard(event("s", "1", None)), shard(event("s", "1", None)));
        let texts: Vec<String> = (0..50).map(|it| it.to_string()).collect();
        let shards = |of: &dyn Fn(&str) -> CloudEvent| {
            let shards = texts.iter().map(|it| shard(of(it)));
            shards.collect::<BTreeSet<_>>().len()
        };
        assert!(shards(&|id| event("s", id, None)) > 20);
        assert!(shards(&|source| event(source, "1", None)) > 20);
        assert!(shards(&|key| event("s", "1", Some(key))) > 20);
    }

    #[test]
    fn shards_have_about_as_many_keys_each() {
        let mut counts = [0; 8];
        for number in 0..8000 {
            let event = event("s", &number.to_string(), None);
            counts[usize::from(shard_of(&event, 8))] += 1;
        }
        assert!(
            counts.iter().all(|it| (850..1150).contains(it)),
            "{counts:?}"
        );
    }

    #[test]
    fn slots_and_shards_are_what_they_were_in_earlier_versions() {
        let numbers: Vec<u16> = slots("acme", 4, 1024).into_iter().map(|it| it.0).collect();
        assert_eq!(numbers, [941, 282, 647, 1012]);
        let shards = ["a", "b", "c", "d"].map(|key| shard_of(&event("s", "1", Some(key)), 64));
        assert_eq!(shards, [29, 36, 48, 29]);
    }
}
