//! Finds who can answer questions about a tenant's deliveries: the agent that owns its slot knows of the newest, and those
//! that owned it before keep what was settled while they did. Of a tenant that is spread over several slots each owner knows
//! its part, so all agents are asked, too. What is asked is not its business.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hookfleet_contract::{
    name::{AgentId, TenantId},
    slot::slot_of,
};
use hookfleet_gateway::{
    page::Pages,
    peers::{Dialer, Peer, Peers},
    status::ApiError,
};
use hookfleet_proto::fleet::StoredAgent;
use prost::Message as _;

use crate::{api::Api, keys};

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Connections to agents.
#[derive(Clone, Debug)]
pub(crate) struct Deliverers {
    api: Arc<Api>,
    peers: Peers,
}

/// An agent that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Deliverer {
    pub(crate) agent: AgentId,
    /// A connection, made when it is used.
    pub(crate) peer: Peer,
}

impl Deliverers {
    pub(crate) fn new(api: Arc<Api>, dialer: Dialer) -> Self {
        Self {
            api,
            peers: Peers::new(dialer),
        }
    }

    /// The agent that owns the tenant's slot.
    pub(crate) fn owner(&self, tenant: &TenantId) -> Result<Deliverer, ApiError> {
        let slot = slot_of(tenant, self.api.slot_count).0;
        let no_owner = || {
            let message = format!("no agent delivers for tenants/{tenant}");
            ApiError::unavailable("NO_OWNER", message, RETRY_AFTER).with("slot", slot.to_string())
        };
        let owner = self.api.owner(slot).ok_or_else(no_owner)?;
        let agent = owner.agent_id.parse().map_err(|_| no_owner())?;
        self.deliverer(agent, &owner.address)
    }

    /// The agents that some control plane hears of.
    pub(crate) fn all(&self) -> Result<BTreeMap<AgentId, Deliverer>, ApiError> {
        let agents = self.noted().into_iter();
        agents
            .map(|(id, address)| Ok((id.clone(), self.deliverer(id, &address)?)))
            .collect()
    }

    /// What makes and reads page tokens.
    pub(crate) fn pages(&self) -> &Pages {
        &self.api.pages
    }

    fn deliverer(&self, agent: AgentId, address: &str) -> Result<Deliverer, ApiError> {
        let current = |address: &str| {
            let is_owner = self.api.cache.read(|contents| {
                let mut owners = contents.slot_table().owners.iter();
                owners.any(|owner| owner.address == address)
            });
            is_owner || self.noted().values().any(|it| it == address)
        };
        let peer = self.peers.peer(address, current);
        let peer = peer.map_err(|_| ApiError::internal("an agent has no usable address"))?;
        Ok(Deliverer { agent, peer })
    }

    fn noted(&self) -> BTreeMap<AgentId, String> {
        let address = |value: &[u8]| Some(StoredAgent::decode(value).ok()?.address);
        self.api.cache.read(|contents| {
            let agents = contents.with_prefix(keys::AGENTS);
            let agents = agents.filter_map(|(key, item)| {
                let id = key.strip_prefix(keys::AGENTS)?.parse().ok()?;
                Some((id, address(&item.value)?))
            });
            agents.collect()
        })
    }
}
