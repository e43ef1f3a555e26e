//! What operators want of the placement: wire to store and back.

use bytes::Bytes;
use hookfleet_contract::{
    name::{AgentId, AgentName},
    violation::Violations,
};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::{
    fleet::StoredPolicy,
    v1::{FleetPolicy, SlotPin, UpdateFleetPolicyRequest},
};
use prost::Message as _;

use super::{
    Api,
    change::{self, Version},
    status,
};
use crate::{
    keys,
    store::{Outcome, Txn},
    stored,
};

const NAME: &str = "fleetPolicy";

/// The policy as it is.
pub(super) async fn get(api: &Api) -> Result<FleetPolicy, ApiError> {
    let found: Option<Version<StoredPolicy>> = change::read(&*api.store, keys::POLICY).await?;
    Ok(found.map_or_else(FleetPolicy::default, view))
}

/// Replaces it.
pub(super) async fn update(
    api: &Api,
    request: UpdateFleetPolicyRequest,
) -> Result<FleetPolicy, ApiError> {
    let wanted = request
        .fleet_policy
        .ok_or_else(|| ApiError::invalid_field("fleet_policy", "is required"))?;
    let policy = stored(&wanted, api.slot_count).map_err(ApiError::invalid)?;
    let bytes = Bytes::from(policy.encode_to_vec());
    for _ in 0..change::ATTEMPTS {
        let found: Option<Version<StoredPolicy>> = change::read(&*api.store, keys::POLICY).await?;
        let etag = found.as_ref().map(|it| stored::etag(it.revision));
        if !wanted.etag.is_empty() && wanted.etag != etag.unwrap_or_default() {
            return Err(ApiError::etag_mismatch(NAME));
        }
        let txn = match found {
            None => Txn::new().absent(keys::POLICY),
            Some(found) => Txn::new().unchanged(keys::POLICY, found.revision),
        };
        let txn = txn.put(keys::POLICY, bytes.clone());
        let outcome = change::commit(&*api.store, txn, keys::POLICY, &bytes).await?;
        if let Outcome::Committed(revision) = outcome {
            let value = policy;
            return Ok(view(Version { value, revision }));
        }
    }
    Err(status::contended(NAME))
}

fn view(found: Version<StoredPolicy>) -> FleetPolicy {
    let name = |id: &String| {
        let agent = id.parse();
        agent.map_or_else(|_| String::new(), |agent| AgentName { agent }.to_string())
    };
    let mut pins: Vec<SlotPin> = found
        .value
        .pins
        .iter()
        .map(|(slot, agent)| SlotPin {
            slot: *slot,
            agent: name(agent),
        })
        .collect();
    pins.sort_by_key(|it| it.slot);
    FleetPolicy {
        frozen: found.value.frozen,
        pins,
        drained_agents: found.value.drained.iter().map(name).collect(),
        etag: stored::etag(found.revision),
    }
}

fn stored(policy: &FleetPolicy, slot_count: u16) -> Result<StoredPolicy, Violations> {
    let mut violations = Violations::default();
    let mut stored = StoredPolicy {
        frozen: policy.frozen,
        ..StoredPolicy::default()
    };
    for (index, pin) in policy.pins.iter().enumerate() {
        if !(0..i32::from(slot_count)).contains(&pin.slot) {
            let field = format!("fleet_policy.pins[{index}].slot");
            violations.push(field, format!("must be 0 to {}", slot_count - 1));
        }
        let field = format!("fleet_policy.pins[{index}].agent");
        if let Some(agent) = agent(&pin.agent, field.clone(), &mut violations)
            && stored.pins.insert(pin.slot, agent).is_some()
        {
            violations.push(field, "pins a slot that is pinned already");
        }
    }
    for (index, name) in policy.drained_agents.iter().enumerate() {
        let field = format!("fleet_policy.drained_agents[{index}]");
        let drained = agent(name, field, &mut violations);
        stored.drained.extend(drained);
    }
    stored.drained.sort_unstable();
    stored.drained.dedup();
    violations.into_result(stored)
}

fn agent(name: &str, field: String, violations: &mut Violations) -> Option<String> {
    match name.parse::<AgentName>() {
        Ok(AgentName { agent }) => Some(AgentId::to_string(&agent)),
        Err(error) => {
            violations.push(field, error.to_string());
            None
        }
    }
}
