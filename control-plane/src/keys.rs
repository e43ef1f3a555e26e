//! Where things are in the store. It knows no values.
//!
//! **Invariant:** keys of one tenant's subscriptions are neighbours, in the order of their names, behind the slot that
//! an agent owns: a slot, a tenant and a page are all one range.

use hookfleet_contract::{
    digest,
    name::{AgentId, AgentName, KeyId, KeyName, SubscriptionName, TenantId, TenantName},
    slot::{Slot, slot_of},
};
use uuid::Uuid;

/// What the cluster is.
pub(crate) const CLUSTER: &str = "meta/cluster";
/// The operator's word that the store is to be believed.
pub(crate) const ACCEPTANCE: &str = "meta/acceptance";
/// The slot table.
pub(crate) const SLOTS: &str = digest::SLOT_TABLE;
/// Tenants.
pub(crate) const TENANTS: &str = "tenant/";
/// Subscriptions.
pub(crate) const SUBSCRIPTIONS: &str = "subscription/";
/// The keys of callers.
pub(crate) const KEYS: &str = "key/";
/// Says that the first key was made, and which.
pub(crate) const FIRST_KEY: &str = "meta/first-key";
/// Agents that were heard of lately.
pub(crate) const AGENTS: &str = "agent/";

/// What the fleet as a whole has.
pub(crate) const FLEET: &str = "fleet/";
/// Which control plane places slots.
pub(crate) const LEADER: &str = "fleet/leader";
/// What operators want of the placement.
pub(crate) const POLICY: &str = "fleet/policy";

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tenant(TenantName),
    Subscription(Slot, SubscriptionName),
    Slots,
    Agent(AgentId),
    Fleet,
    Key(KeyId),
}

/// The key of a tenant.
pub(crate) fn tenant(tenant: &TenantId) -> String {
    format!("{TENANTS}{tenant}")
}

/// The key of a subscription.
pub(crate) fn subscription(name: &SubscriptionName, slot_count: u16) -> String {
    format!(
        "{}{}",
        subscriptions_of(&name.tenant, slot_count),
        name.subscription
    )
}

/// Begins the keys of all subscriptions of a tenant.
pub(crate) fn subscriptions_of(tenant: &TenantId, slot_count: u16) -> String {
    format!("{}{tenant}/", slot(slot_of(tenant, slot_count)))
}

/// Begins the keys of all subscriptions of a slot.
pub(crate) fn slot(slot: Slot) -> String {
    format!("{SUBSCRIPTIONS}{:04x}/", slot.0)
}

/// The key of a request's result.
pub(crate) fn request(id: Uuid) -> String {
    format!("request/{id}")
}

/// The key of what a confirmation confirms, by the digest of its own key.
pub(crate) fn confirmation(digest: &str) -> String {
    format!("confirmation/{digest}")
}

/// The key of an agent.
pub(crate) fn agent(id: &AgentId) -> String {
    format!("{AGENTS}{id}")
}

/// The key of a caller's key.
pub(crate) fn key(id: &KeyId) -> String {
    format!("{KEYS}{id}")
}

/// What a key holds; `None` for what agents and lists have no use for.
pub(crate) fn parse(key: &str) -> Option<Kind> {
    if let Some(rest) = key.strip_prefix(SUBSCRIPTIONS) {
        let mut parts = rest.splitn(3, '/');
        let slot = u16::from_str_radix(parts.next()?, 16).ok()?;
        let name = SubscriptionName {
            tenant: parts.next()?.parse().ok()?,
            subscription: parts.next()?.parse().ok()?,
        };
        Some(Kind::Subscription(Slot(slot), name))
    } else if let Some(tenant) = key.strip_prefix(TENANTS) {
        let tenant = tenant.parse().ok()?;
        Some(Kind::Tenant(TenantName { tenant }))
    } else if let Some(agent) = key.strip_prefix(AGENTS) {
        Some(Kind::Agent(agent.parse().ok()?))
    } else if [LEADER, POLICY].contains(&key) {
        Some(Kind::Fleet)
    } else if let Some(key) = key.strip_prefix(KEYS) {
        Some(Kind::Key(key.parse().ok()?))
    } else {
        (key == SLOTS).then_some(Kind::Slots)
    }
}

/// How agents call what is at a key.
pub(crate) fn name(key: &str) -> String {
    match parse(key) {
        Some(Kind::Tenant(name)) => name.to_string(),
        Some(Kind::Subscription(_, name)) => SubscriptionName::to_string(&name),
        Some(Kind::Agent(agent)) => AgentName { agent }.to_string(),
        Some(Kind::Key(key)) => KeyName { key }.to_string(),
        Some(Kind::Slots | Kind::Fleet) | None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_as_they_were_made() {
        let name: SubscriptionName = "tenants/acme/subscriptions/s1".parse().unwrap();
        let slot = slot_of(&name.tenant, 1024);
        let key = subscription(&name, 1024);
        assert_eq!(key, format!("subscription/{:04x}/acme/s1", slot.0));
        assert_eq!(parse(&key), Some(Kind::Subscription(slot, name.clone())));
        let tenant_name = TenantName {
            tenant: name.tenant.clone(),
        };
        assert_eq!(
            parse(&tenant(&name.tenant)),
            Some(Kind::Tenant(tenant_name))
        );
        assert_eq!(
            parse(&agent(&"a1".parse().unwrap())),
            Some(Kind::Agent("a1".parse().unwrap()))
        );
        assert_eq!(
            parse(&super::key(&"k1".parse().unwrap())),
            Some(Kind::Key("k1".parse().unwrap()))
        );
        assert_eq!(parse(SLOTS), Some(Kind::Slots));
        assert_eq!(parse(LEADER), Some(Kind::Fleet));
        for other in [
            CLUSTER,
            "request/x",
            "confirmation/00",
            "subscription/zz",
            "subscription/0001/-/s",
            "tenant/A",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
