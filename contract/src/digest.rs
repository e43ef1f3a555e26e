//! What a set of versions of resources comes to, in eight bytes: control planes and agents compare these to find out
//! whether they have the same, without telling each other what they have.
//!
//! **Invariant:** the digest depends on what is in the set, not on the order or the way in which it came to be.

use std::collections::BTreeMap;

use hookfleet_proto::fleet::ResourceType;
use sha2::{Digest as _, Sha256};

use crate::{
    name::{KeyName, SubscriptionName, TenantName},
    slot::slot_of,
};

/// How agents call the slot table.
pub const SLOT_TABLE: &str = "slots";

/// A part of what an agent is told. Parts are compared one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// What its resources are.
    pub kind: ResourceType,
    /// The slot of subscriptions; 0 for others.
    pub slot: u16,
}

/// The digests of all parts. The digest of an empty part is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(BTreeMap<Part, u64>);

// === impl Part ===

impl Part {
    /// The part that a resource is in; `None` for what has no part.
    #[must_use]
    pub fn of(name: &str, slot_count: u16) -> Option<Self> {
        let whole = |kind| Self { kind, slot: 0 };
        if let Ok(name) = name.parse::<SubscriptionName>() {
            let kind = ResourceType::Subscription;
            let slot = slot_of(&name.tenant, slot_count).0;
            Some(Self { kind, slot })
        } else if name.parse::<TenantName>().is_ok() {
            Some(whole(ResourceType::Tenant))
        } else if name.parse::<KeyName>().is_ok() {
            Some(whole(ResourceType::Key))
        } else {
            (name == SLOT_TABLE).then(|| whole(ResourceType::SlotTable))
        }
    }

    /// Every part there is.
    pub fn all(slot_count: u16) -> impl Iterator<Item = Self> {
        let kinds = [
            ResourceType::Key,
            ResourceType::Tenant,
            ResourceType::SlotTable,
        ];
        let whole = kinds.map(|kind| Self { kind, slot: 0 });
        let kind = ResourceType::Subscription;
        whole
            .into_iter()
            .chain((0..slot_count).map(move |slot| Self { kind, slot }))
    }
}

// === impl Digests ===

impl Digests {
    /// A version of a resource, which has this digest, comes in.
    pub fn add(&mut self, part: Part, digest: u64) {
        self.change(part, |it| it.wrapping_add(digest));
    }

    /// A version of a resource that is in goes out.
    pub fn remove(&mut self, part: Part, digest: u64) {
        self.change(part, |it| it.wrapping_sub(digest));
    }

    /// The digest of a part.
    #[must_use]
    pub fn of(&self, part: Part) -> u64 {
        self.0.get(&part).copied().unwrap_or(0)
    }

    fn change(&mut self, part: Part, change: impl FnOnce(u64) -> u64) {
        let changed = change(self.of(part));
        if changed == 0 {
            self.0.remove(&part);
        } else {
            self.0.insert(part, changed);
        }
    }
}

/// The digest of a version of a resource by itself.
#[must_use]
pub fn digest(name: &str, revision: i64) -> u64 {
    let digest = Sha256::new()
        .chain_update(revision.to_be_bytes())
        .chain_update(name)
        .finalize();
    let first = digest.iter().take(8);
    first.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANTS: Part = Part {
        kind: ResourceType::Tenant,
        slot: 0,
    };

    #[test]
    fn equal_sets_have_equal_digests_whatever_their_past() {
        let (mut one, mut other) = (Digests::default(), Digests::default());
        one.add(TENANTS, digest("tenants/a", 1));
        one.add(TENANTS, digest("tenants/b", 2));
        other.add(TENANTS, digest("tenants/b", 1));
        other.add(TENANTS, digest("tenants/a", 1));
        assert_ne!(one, other);
        other.remove(TENANTS, digest("tenants/b", 1));
        other.add(TENANTS, digest("tenants/b", 2));
        assert_eq!(one, other);
        one.remove(TENANTS, digest("tenants/a", 1));
        one.remove(TENANTS, digest("tenants/b", 2));
        assert_eq!(one, Digests::default());
    }

    #[test]
    fn every_resource_has_one_of_the_parts() {
        let parts: Vec<Part> = Part::all(4).collect();
        let names = ["tenants/a", "tenants/a/subscriptions/s", "keys/k1", "slots"];
        for name in names {
            let part = Part::of(name, 4);
            assert!(part.is_some_and(|it| parts.contains(&it)), "{name}");
        }
        assert_eq!(Part::of("agents/a", 4), None);
        assert_eq!(parts.len(), 7);
    }
}
