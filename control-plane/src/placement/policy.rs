//! What operators want of the placement.

use std::collections::{BTreeMap, BTreeSet};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::StoredPolicy;

/// What operators want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// No slot changes hands.
    pub(crate) frozen: bool,
    /// Who is to have a slot, whatever its share, for as long as it is there.
    pub(crate) pins: BTreeMap<u16, AgentId>,
    /// Agents that are to have no slots; those of them that are away are not waited for.
    pub(crate) drained: BTreeSet<AgentId>,
}

impl From<StoredPolicy> for Policy {
    fn from(stored: StoredPolicy) -> Self {
        let pin =
            |(slot, agent): (i32, String)| Some((u16::try_from(slot).ok()?, agent.parse().ok()?));
        let drained = stored.drained.iter().filter_map(|it| it.parse().ok());
        Self {
            frozen: stored.frozen,
            drained: drained.collect(),
            pins: stored.pins.into_iter().filter_map(pin).collect(),
        }
    }
}
