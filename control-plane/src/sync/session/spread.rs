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
pub(super) struct Spread(BTreeSet<TenantId>);

// === impl Spread ===

impl Spread {
    /// All that there are now.
    pub(super) fn now(contents: &Contents) -> Self {
        Self(contents.shards().keys().cloned().collect())
    }

    /// Those that an agent was told of which stands there. One that has changed since may not have been spread then.
    pub(super) fn at(stand: Option<Revision>, contents: &Contents) -> Self {
        let Self(mut tenants) = Self::now(contents);
        tenants.retain(|tenant| {
            let item = contents.get(&keys::tenant(tenant));
            item.map(|it| it.mod_revision) <= stand
        });
        Self(tenants)
    }

    /// Whether a subscription of one of them is, or was, at a key.
    pub(super) fn has(&self, key: &str) -> bool {
        let kind = (!self.0.is_empty()).then(|| keys::parse(key)).flatten();
        matches!(kind, Some(Kind::Subscription(_, name)) if self.0.contains(&name.tenant))
    }

    /// They are all that there are now; the subscriptions of those that come or go are to be told.
    pub(super) fn follow(&mut self, contents: &Contents) -> Vec<Arc<str>> {
        let Self(now) = Self::now(contents);
        let keys = subscriptions(contents, now.symmetric_difference(&self.0));
        self.0 = now;
        keys
    }

    /// What their subscriptions come to, by slots.
    pub(super) fn digests(&self, contents: &Contents) -> BTreeMap<u16, u64> {
        let mut digests = BTreeMap::new();
        let slot_count = slot_count(contents);
        for tenant in &self.0 {
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
