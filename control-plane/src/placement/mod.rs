//! Who owns which slots. Pure: agents and the last table go in, the next table comes out. What it promises and why is in
//! the README beside it.
//!
//! **Invariants:** a slot changes hands only because its owner is lost or has more than its share, and then its epoch
//! grows; no more slots move than must; a slot that somebody else still has deliveries of does not move again unless its
//! owner is lost; the version grows with every change; nothing changes twice for the same reason.

mod absence;
mod policy;
mod quota;
mod ramp;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use hookfleet_contract::{name::AgentId, zone::Zone};
use hookfleet_proto::fleet::{Leftovers, SlotTable};
use sha2::{Digest as _, Sha256};

pub(crate) use self::{
    absence::{Absences, Zones},
    policy::Policy,
    ramp::{Arrivals, Ramp},
    table::{owner, previous},
};
use self::{quota::quotas, table::Placed};

/// The weight of an agent that names none.
pub(crate) const DEFAULT_WEIGHT: u32 = 100;

/// What is to be placed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Problem {
    /// How many slots there are.
    pub(crate) slot_count: u16,
    /// The agents that are there.
    pub(crate) agents: BTreeMap<AgentId, Member>,
    /// Agents that have been away for too long.
    pub(crate) lost: BTreeSet<AgentId>,
    /// What operators want.
    pub(crate) policy: Policy,
}

/// An agent that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Member {
    /// Where it takes events.
    pub(crate) address: String,
    /// Where it runs, as far as failures are shared.
    pub(crate) zone: Option<Zone>,
    /// Of its process.
    pub(crate) incarnation: String,
    /// How much of its share others may give it by now.
    pub(crate) ramp: Ramp,
    /// Its share of the slots, beside the weights of others; 0 if it is to have none.
    pub(crate) weight: u32,
    /// What it still has of slots that it does not own, as it last said.
    pub(crate) leftovers: Leftovers,
}

/// The next table, unless `last` is right as it is.
pub(crate) fn solve(problem: &Problem, last: &SlotTable) -> Option<SlotTable> {
    let mut placed = table::read(last, problem.slot_count);
    for (slot, placed) in (0..).zip(&mut placed) {
        let is_over = |agent: &mut AgentId| !problem.holds(agent, slot, last.version);
        placed.previous.take_if(is_over);
    }
    let is_taken = problem.agents.values().any(|it| it.weight > 0);
    if is_taken && !problem.policy.frozen {
        // Without agents that take slots a lost owner stays: when it comes back it still has what waits there.
        for placed in &mut placed {
            placed
                .owner
                .take_if(|owner| problem.lost.contains(owner) && !problem.is_there(owner));
        }
        pin(problem, &mut placed);
        let mut counts: BTreeMap<&AgentId, usize> =
            problem.agents.keys().map(|id| (id, 0)).collect();
        let n_kept_for_absent = place_kept(problem, &placed, &mut counts);
        let quotas = quotas(placed.len() - n_kept_for_absent, &problem.agents, &counts);
        // Orphans have nobody, and whoever leaves waits for others: that does not wait for a ramp.
        let leaving = problem.by_agent(|agent, member| match member.weight {
            0 => quotas[agent],
            _ => usize::MAX,
        });
        let ramped = problem.by_agent(|agent, member| member.ramp.limit(quotas[agent]));
        for (kept, limits) in [(&leaving, &quotas), (&quotas, &ramped)] {
            shed(&mut placed, &problem.policy.pins, &mut counts, kept, limits);
            assign(&mut placed, &mut counts, limits);
        }
    }
    let next = table::write(problem, &placed, last);
    (next != *last).then_some(next)
}

// === impl Problem ===

impl Problem {
    fn is_there(&self, agent: &AgentId) -> bool {
        self.agents.contains_key(agent)
    }

    fn by_agent(&self, count: impl Fn(&AgentId, &Member) -> usize) -> BTreeMap<&AgentId, usize> {
        let agents = self.agents.iter();
        agents.map(|(id, it)| (id, count(id, it))).collect()
    }

    /// Whether an agent may still have deliveries of a slot that it lost by this version of the table at the latest.
    fn holds(&self, agent: &AgentId, slot: i32, version: i64) -> bool {
        match self.agents.get(agent) {
            Some(Member { leftovers, .. }) => {
                leftovers.slot_table_version < version || leftovers.slots.contains(&slot)
            }
            None => !self.lost.contains(agent),
        }
    }
}

/// Gives slots to those that operators want to have them, as soon as they are at rest.
fn pin(problem: &Problem, placed: &mut [Placed]) {
    for (slot, agent) in &problem.policy.pins {
        let Some(placed) = placed.get_mut(usize::from(*slot)) else {
            continue;
        };
        let is_right = placed.owner.as_ref() == Some(agent);
        if !is_right && problem.is_there(agent) && placed.previous.is_none() {
            placed.previous = placed.owner.replace(agent.clone());
            placed.epoch += 1;
        }
    }
}

fn is_pinned(slot: u16, placed: &Placed, pins: &BTreeMap<u16, AgentId>) -> bool {
    pins.get(&slot)
        .is_some_and(|pin| placed.owner.as_ref() == Some(pin))
}

/// Counts the slots of the agents that are there. Answers how many are kept for agents that are away.
fn place_kept<'a>(
    problem: &'a Problem,
    placed: &[Placed],
    counts: &mut BTreeMap<&'a AgentId, usize>,
) -> usize {
    let mut n_absent = 0;
    for owner in placed.iter().filter_map(|it| it.owner.as_ref()) {
        match counts.get_mut(owner) {
            Some(count) => *count += 1,
            None if problem.is_there(owner) => {}
            None => n_absent += 1,
        }
    }
    n_absent
}

/// Takes slots from agents that have more than they may keep, no more than others have room for up to their limits.
fn shed(
    placed: &mut [Placed],
    pins: &BTreeMap<u16, AgentId>,
    counts: &mut BTreeMap<&AgentId, usize>,
    kept: &BTreeMap<&AgentId, usize>,
    limits: &BTreeMap<&AgentId, usize>,
) {
    let room = |(agent, limit): (&&AgentId, &usize)| limit.saturating_sub(counts[agent]);
    let n_orphans = placed.iter().filter(|it| it.owner.is_none()).count();
    let mut room = limits
        .iter()
        .map(room)
        .sum::<usize>()
        .saturating_sub(n_orphans);
    let receivers: Vec<&AgentId> = limits
        .keys()
        .copied()
        .filter(|agent| counts[agent] < limits[agent])
        .collect();
    // Those that fit a receiver best go first, so that an agent that comes back gets most of what it had.
    let mut movable: Vec<(i128, u16)> = (0..)
        .zip(placed.iter())
        .filter(|(slot, it)| it.previous.is_none() && !is_pinned(*slot, it, pins))
        .filter_map(|(slot, it)| {
            let fit = receivers.iter().map(|agent| score(slot, agent)).max()?;
            let owned = score(slot, it.owner.as_ref()?);
            Some((i128::from(owned) - i128::from(fit), slot))
        })
        .collect();
    movable.sort_unstable();
    for (_, slot) in movable {
        if room == 0 {
            return;
        }
        let placed = &mut placed[usize::from(slot)];
        let Some(owner) = &placed.owner else { continue };
        let count = counts.get_mut(owner);
        if let Some(count) = count.filter(|count| **count > kept[owner]) {
            *count -= 1;
            room -= 1;
            placed.previous = placed.owner.take();
        }
    }
}

/// Gives slots without an owner to agents below their limits, each to the one that it fits best.
fn assign(
    placed: &mut [Placed],
    counts: &mut BTreeMap<&AgentId, usize>,
    limits: &BTreeMap<&AgentId, usize>,
) {
    for (slot, placed) in (0..).zip(placed) {
        if placed.owner.is_some() {
            continue;
        }
        let fitting = counts
            .iter_mut()
            .filter(|(agent, count)| **count < limits[**agent])
            .max_by_key(|(agent, _)| score(slot, agent));
        if let Some((agent, count)) = fitting {
            *count += 1;
            placed.owner = Some((*agent).clone());
            placed.epoch += 1;
        }
    }
}

/// How well a slot fits an agent: the same for ever, and without a pattern (rendezvous hashing).
fn score(slot: u16, agent: &AgentId) -> u64 {
    let digest = Sha256::new()
        .chain_update(slot.to_be_bytes())
        .chain_update(agent.as_str())
        .finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |score, byte| score << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
