//! The tenants with several shards that an agent was told of: it has their subscriptions, whatever slots these are in.
//! Every agent is told of them, so that any of them may own a shard, or have deliveries left of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hookfleet_contract::{name::TenantId, slot::slot_of};

use crate::{
    cache::Contents,
    keys::{self, Kind},
    store::Revision,
};

/// Those tenants.
#[derive(Debug)]
pub(super) struct Spread {
    tenants: BTreeSet<TenantId>,
    /// The agent was told of others, too, before this session.
    is_resumed: bool,
}

// === impl Spread ===

impl Spread {
    /// All that there are now.
    pub(super) fn now(contents: &Contents) -> Self {
        Self {
            tenants: contents.shards().keys().cloned().collect(),
            is_resumed: false,
        }
    }

    /// Those that an agent was told of which stands there. One that has changed since may not have been spread then, and one
    /// that is gone may have been, even if there is another of its name.
    pub(super) fn at(stand: Option<Revision>, contents: &Contents) -> Self {
        let mut spread = Self::now(contents);
        spread.tenants.retain(|tenant| {
            let item = contents.get(&keys::tenant(tenant));
            item.map(|it| it.mod_revision) <= stand
        });
        let gone = stand.into_iter().flat_map(|it| contents.removed_since(it));
        let gone = gone.filter_map(|key| match keys::parse(key) {
            Some(Kind::Tenant(name)) => Some(name.tenant),
            _ => None,
        });
        spread.tenants.extend(gone);
        spread.is_resumed = true;
        spread
    }

    /// Whether a subscription of one of them is, or was, at a key that has changed. What is gone may have been of a tenant
    /// that is gone too, or another one now.
    pub(super) fn has(&self, key: &str, contents: &Contents) -> bool {
        match keys::parse(key) {
            Some(Kind::Subscription(_, name)) => {
                let is_gone = self.is_resumed && contents.get(key).is_none();
                is_gone || self.tenants.contains(&name.tenant)
            }
            _ => false,
        }
    }

    /// They are all that there are now; the subscriptions of those that come or go are to be told.
    pub(super) fn follow(&mut self, contents: &Contents) -> Vec<Arc<str>> {
        let now = Self::now(contents);
        let changed = now.tenants.symmetric_difference(&self.tenants);
        let keys = subscriptions(contents, changed);
        *self = now;
        keys
    }

    /// The subscriptions that an agent must know before it is given a slot and of which it has not heard in a round that
    /// began there: any of these tenants may have a shard in the slot.
    pub(super) fn since(&self, began: Revision, contents: &Contents) -> BTreeSet<Arc<str>> {
        let shards = contents.shards();
        let mut keys = contents.changed_since(began);
        keys.retain(|key| {
            let kind = keys::parse(key);
            matches!(kind, Some(Kind::Subscription(_, name)) if shards.contains_key(&name.tenant))
        });
        let new = shards.keys().filter(|it| !self.tenants.contains(*it));
        keys.extend(subscriptions(contents, new));
        keys
    }

    /// What their subscriptions come to, by slots.
    pub(super) fn digests(&self, contents: &Contents) -> BTreeMap<u16, u64> {
        let mut digests = BTreeMap::new();
        let slot_count = slot_count(contents);
        for tenant in &self.tenants {
            let digest: &mut u64 = digests.entry(slot_of(tenant, slot_count).0).or_default();
            let part = contents.digest_of(&keys::subscriptions_of(tenant, slot_count));
            *digest = digest.wrapping_add(part);
        }
        digests
    }
}

/// The keys of the subscriptions of these tenants.
pub(super) fn subscriptions<'a>(
    contents: &Contents,
    tenants: impl IntoIterator<Item = &'a TenantId>,
) -> Vec<Arc<str>> {
    let slot_count = slot_count(contents);
    let mut keys = Vec::new();
    for tenant in tenants {
        let prefix = keys::subscriptions_of(tenant, slot_count);
        keys.extend(
            contents
                .with_prefix(&prefix)
                .map(|(key, _)| Arc::clone(key)),
        );
    }
    keys
}

fn slot_count(contents: &Contents) -> u16 {
    u16::try_from(contents.slot_table().slot_owners.len()).unwrap_or(u16::MAX)
}
