//! How many slots each agent is to have: by weight, to the slot.
//!
//! **Invariant:** the quotas add up to the slots, and differ from the exact shares by less than one slot.

use std::{cmp::Reverse, collections::BTreeMap};

use hookfleet_contract::name::AgentId;

use super::Member;

/// Shares `n_slots` out over the agents by weight, which some agent must have. What does not divide goes to those that have it already, so that
/// nothing moves for the sake of a fraction; then to those that miss most of a slot.
pub(super) fn quotas<'a>(
    n_slots: usize,
    agents: &'a BTreeMap<AgentId, Member>,
    counts: &BTreeMap<&AgentId, usize>,
) -> BTreeMap<&'a AgentId, usize> {
    let total: usize = agents.values().map(weight).sum();
    let mut quotas = BTreeMap::new();
    let mut claims = Vec::with_capacity(agents.len());
    for (agent, member) in agents {
        let share = n_slots * weight(member);
        let (floor, missing) = (share / total, share % total);
        quotas.insert(agent, floor);
        let has_it = counts.get(agent).is_some_and(|count| *count > floor);
        claims.push((Reverse(missing > 0 && has_it), Reverse(missing), agent));
    }
    let n_left = n_slots - quotas.values().sum::<usize>();
    claims.sort_unstable();
    for (_, _, agent) in claims.into_iter().take(n_left) {
        *quotas.entry(agent).or_default() += 1;
    }
    quotas
}

fn weight(member: &Member) -> usize {
    usize::try_from(member.weight).unwrap_or(usize::MAX)
}
