//! An agent as callers see it, made of its session here and of what any control plane noted in the store.

use hookfleet_contract::name::{AgentId, AgentName};
use hookfleet_proto::{
    fleet::StoredAgent,
    v1::{self, agent::State},
};

use crate::fleet;

/// The resource. What a session here says is newer than what was noted.
pub(crate) fn view(
    id: &AgentId,
    session: Option<&fleet::Agent>,
    noted: Option<&StoredAgent>,
    n_slots: usize,
) -> v1::Agent {
    let agent = v1::Agent {
        name: AgentName { agent: id.clone() }.to_string(),
        state: State::Disconnected.into(),
        slot_count: i32::try_from(n_slots).unwrap_or(i32::MAX),
        ..v1::Agent::default()
    };
    match (session, noted) {
        (Some(session), _) => v1::Agent {
            address: session.address.clone(),
            state: if session.is_live {
                State::Live
            } else {
                State::Syncing
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
