//! Finds who can answer questions about a tenant's deliveries: the agent that owns its slot. What is asked is not its
//! business.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hookfleet_contract::{name::TenantId, slot::slot_of};
use hookfleet_gateway::status::ApiError;
use tonic::transport::{Channel, Endpoint};

use crate::api::Api;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A half-open connection is found out in this time.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Connections to the agents, by their addresses.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    api: Arc<Api>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Owners {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            channels: Arc::default(),
        }
    }

    /// A connection to the agent that owns the tenant's slot, made when it is used.
    pub(crate) fn of(&self, tenant: &TenantId) -> Result<Channel, ApiError> {
        let slot = slot_of(tenant, self.api.slot_count).0;
        let owner = self.api.owner(slot).ok_or_else(|| {
            let message = format!("no agent delivers for tenants/{tenant}");
            ApiError::unavailable("NO_OWNER", message, RETRY_AFTER).with("slot", slot.to_string())
        })?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&owner.address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(owner.address.clone());
        let endpoint =
            endpoint.map_err(|_| ApiError::internal("an agent has no usable address"))?;
        let (interval, patience) = KEEP_ALIVE;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(patience)
            .connect_lazy();
        // Agents that moved leave their old addresses behind.
        let table = self
            .api
            .cache
            .read(|contents| Arc::clone(contents.slot_table()));
        channels.retain(|address, _| table.owners.iter().any(|owner| owner.address == *address));
        channels.insert(owner.address, channel.clone());
        Ok(channel)
    }
}
