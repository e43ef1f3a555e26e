//! Finds who can answer questions about a tenant's deliveries: the agent that owns its slot. What is asked is not its
//! business.

use std::{sync::Arc, time::Duration};

use hookfleet_contract::{name::TenantId, slot::slot_of};
use hookfleet_gateway::{peers::Peers, status::ApiError};
use tonic::transport::Channel;

use crate::api::Api;

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Connections to the agents that own slots.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    api: Arc<Api>,
    peers: Peers,
}

impl Owners {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            peers: Peers::default(),
        }
    }

    /// A connection to the agent that owns the tenant's slot, made when it is used.
    pub(crate) fn of(&self, tenant: &TenantId) -> Result<Channel, ApiError> {
        let slot = slot_of(tenant, self.api.slot_count).0;
        let owner = self.api.owner(slot).ok_or_else(|| {
            let message = format!("no agent delivers for tenants/{tenant}");
            ApiError::unavailable("NO_OWNER", message, RETRY_AFTER).with("slot", slot.to_string())
        })?;
        let table = self
            .api
            .cache
            .read(|contents| Arc::clone(contents.slot_table()));
        let current = |address: &str| table.owners.iter().any(|owner| owner.address == address);
        let channel = self.peers.channel(&owner.address, current);
        channel.map_err(|_| ApiError::internal("an agent has no usable address"))
    }
}
