//! The names of what agents are told of, in parts that can be shared with the resources themselves.

use hookfleet_contract::{
    digest::SLOT_TABLE,
    name::{KeyName, SubscriptionName, TenantId, TenantName},
};
use hookfleet_proto::fleet::ResourceType;

/// Where a resource is held: its name, in parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Key(KeyName),
    Tenant(TenantId),
    Subscription(SubscriptionName),
    SlotTable,
}

impl Place {
    /// The place that is called so; nothing, if it is of a kind that this version does not know.
    pub(super) fn of(name: &str) -> Option<Self> {
        if let Ok(name) = name.parse() {
            return Some(Self::Subscription(name));
        }
        if let Ok(TenantName { tenant }) = name.parse() {
            return Some(Self::Tenant(tenant));
        }
        if name == SLOT_TABLE {
            return Some(Self::SlotTable);
        }
        name.parse().ok().map(Self::Key)
    }

    /// What it is called.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Subscription(name) => name.to_string(),
            Self::Tenant(tenant) => TenantName {
                tenant: tenant.clone(),
            }
            .to_string(),
            Self::Key(name) => name.to_string(),
            Self::SlotTable => SLOT_TABLE.to_owned(),
        }
    }

    /// What kind of resource is there.
    pub(super) fn kind(&self) -> ResourceType {
        match self {
            Self::Subscription(_) => ResourceType::Subscription,
            Self::Tenant(_) => ResourceType::Tenant,
            Self::Key(_) => ResourceType::Key,
            Self::SlotTable => ResourceType::SlotTable,
        }
    }
}
