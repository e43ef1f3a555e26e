//! An agent as callers see it, made of its session here and of what any control plane noted in the store.

use hookfleet_contract::name::{AgentId, AgentName};
use hookfleet_proto::{
    fleet::StoredAgent,
    v1::{self, agent::State},
};

use crate::fleet;

/// How many slots concern an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotCounts {
    /// Its own.
    pub(crate) owned: usize,
    /// Those of them that another agent may still have deliveries of.
    pub(crate) arriving: usize,
    /// Those of others that it may still have deliveries of.
    pub(crate) leaving: usize,
}

/// The resource. What a session here says is newer than what was noted.
pub(crate) fn view(
    id: &AgentId,
    session: Option<&fleet::Agent>,
    noted: Option<&StoredAgent>,
    slots: SlotCounts,
) -> v1::Agent {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let is_draining = noted.is_some_and(|it| it.draining);
    let agent = v1::Agent {
        name: AgentName { agent: id.clone() }.to_string(),
        state: State::Disconnected.into(),
        slot_count: count(slots.owned),
        arriving_slot_count: count(slots.arriving),
        leaving_slot_count: count(slots.leaving),
        weight: noted.map_or(0, |it| it.weight),
        ..v1::Agent::default()
    };
    match (session, noted) {
        (Some(session), _) => v1::Agent {
            address: session.address.clone(),
            state: match session.is_live {
                _ if is_draining => State::Draining,
                true => State::Live,
                false => State::Syncing,
            }
            .into(),
            version: session.version.clone(),
            applied_revision: session.applied,
            last_heartbeat_time: Some(session.last_heard.into()),
            pending_delivery_count: session.n_pending,
            ..agent
        },
        (None, Some(noted)) => v1::Agent {
            address: noted.address.clone(),
            version: noted.version.clone(),
            applied_revision: noted.applied_revision,
            last_heartbeat_time: noted.write_time,
            ..agent
        },
        (None, None) => agent,
    }
}
