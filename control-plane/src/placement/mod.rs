//! Who owns which slots. Pure: agents and the last table go in, the next table comes out.
//!
//! Today one agent delivers for everybody: slots stay with their owner for as long as it is there, and slots without one
//! all go to the same agent. Sharing them out evenly comes later, behind the same function.
//!
//! **Invariants:** a slot changes hands only when its owner is lost, and then its epoch grows; the version grows with
//! every change; nothing changes twice for the same reason.

mod absence;

use std::collections::{BTreeMap, BTreeSet};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::{SlotOwner, SlotTable};

pub(crate) use self::absence::Absences;

/// What is to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    /// How many slots there are.
    pub(crate) slot_count: u16,
    /// The agents that are there, and where they take events.
    pub(crate) agents: BTreeMap<AgentId, String>,
    /// Agents that have been away for too long.
    pub(crate) lost: BTreeSet<AgentId>,
}

/// The next table, unless `previous` is right as it is.
pub(crate) fn solve(problem: &Problem, previous: &SlotTable) -> Option<SlotTable> {
    let owners = owners(problem, previous);
    // Without agents a lost owner stays: when it comes back it still has what waits there.
    let heir = heir(problem, &owners)?;
    let mut epochs = previous.epochs.clone();
    epochs.resize(owners.len(), 0);
    let mut next = Vec::with_capacity(owners.len());
    for (owner, epoch) in owners.iter().zip(&mut epochs) {
        match owner.filter(|owner| !is_lost(problem, &owner.agent_id)) {
            Some(owner) => next.push(addressed(problem, owner)),
            None => {
                *epoch += 1;
                next.push(heir.clone());
            }
        }
    }
    let table = table(previous.version + 1, &next, epochs);
    let is_same = table.owners == previous.owners
        && table.slot_owners == previous.slot_owners
        && table.epochs == previous.epochs;
    (!is_same).then_some(table)
}

/// The owner of a slot.
pub(crate) fn owner(table: &SlotTable, slot: u16) -> Option<&SlotOwner> {
    let index = usize::try_from(*table.slot_owners.get(usize::from(slot))?).ok()?;
    table.owners.get(index.checked_sub(1)?)
}

fn owners<'a>(problem: &Problem, previous: &'a SlotTable) -> Vec<Option<&'a SlotOwner>> {
    (0..problem.slot_count)
        .map(|slot| owner(previous, slot))
        .collect()
}

/// Who takes the slots that nobody has: the agent that has most of the others already, else the first by name.
fn heir(problem: &Problem, owners: &[Option<&SlotOwner>]) -> Option<SlotOwner> {
    let mut n_slots: BTreeMap<&str, usize> = BTreeMap::new();
    for owner in owners.iter().copied().flatten() {
        *n_slots.entry(&owner.agent_id).or_default() += 1;
    }
    let agents = problem.agents.iter().rev();
    let heir = agents.max_by_key(|(id, _)| n_slots.get(id.as_str()).copied().unwrap_or(0));
    heir.map(|(id, address)| SlotOwner {
        agent_id: id.to_string(),
        address: address.clone(),
    })
}

fn is_lost(problem: &Problem, agent_id: &str) -> bool {
    problem.lost.iter().any(|lost| lost.as_str() == agent_id)
}

/// The owner, where it is now.
fn addressed(problem: &Problem, owner: &SlotOwner) -> SlotOwner {
    let address = problem
        .agents
        .iter()
        .find(|(id, _)| id.as_str() == owner.agent_id);
    SlotOwner {
        agent_id: owner.agent_id.clone(),
        address: address.map_or_else(|| owner.address.clone(), |(_, address)| address.clone()),
    }
}

fn table(version: i64, owners: &[SlotOwner], epochs: Vec<i64>) -> SlotTable {
    let named: BTreeMap<&str, &SlotOwner> = owners
        .iter()
        .map(|owner| (owner.agent_id.as_str(), owner))
        .collect();
    let places: BTreeMap<&str, i32> = named.keys().copied().zip(1..).collect();
    let slot_owners = owners
        .iter()
        .map(|owner| places.get(owner.agent_id.as_str()).copied().unwrap_or(0));
    SlotTable {
        version,
        slot_owners: slot_owners.collect(),
        owners: named.into_values().cloned().collect(),
        epochs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(agents: &[&str], lost: &[&str]) -> Problem {
        let address = |id: &&str| (id.parse().unwrap(), format!("http://{id}:1"));
        Problem {
            slot_count: 4,
            agents: agents.iter().map(address).collect(),
            lost: lost.iter().map(|id| id.parse().unwrap()).collect(),
        }
    }

    fn first() -> SlotTable {
        solve(&problem(&["a"], &[]), &SlotTable::default()).unwrap()
    }

    #[test]
    fn the_first_agent_gets_every_slot() {
        let table = first();
        assert_eq!(
            (table.version, &table.slot_owners, &table.epochs),
            (1, &vec![1; 4], &vec![1; 4])
        );
        assert_eq!(owner(&table, 3).unwrap().address, "http://a:1");
        assert_eq!(owner(&table, 4), None);
    }

    #[test]
    fn without_agents_nothing_is_placed() {
        assert_eq!(solve(&problem(&[], &[]), &SlotTable::default()), None);
    }

    #[test]
    fn an_owner_keeps_its_slots_while_others_come_and_while_it_may_come_back() {
        let table = first();
        assert_eq!(solve(&problem(&["a", "b"], &[]), &table), None);
        assert_eq!(solve(&problem(&["b"], &[]), &table), None);
        assert_eq!(solve(&problem(&[], &["a"]), &table), None);
    }

    #[test]
    fn the_slots_of_a_lost_owner_move_and_their_epochs_grow() {
        let table = solve(&problem(&["b", "c"], &["a"]), &first()).unwrap();
        assert_eq!((table.version, &table.epochs), (2, &vec![2; 4]));
        assert_eq!(owner(&table, 0).unwrap().agent_id, "b");
        assert_eq!(solve(&problem(&["a", "b", "c"], &[]), &table), None);
    }

    #[test]
    fn orphaned_slots_go_to_the_agent_that_has_most() {
        let mut table = first();
        table.owners.push(SlotOwner {
            agent_id: "b".to_owned(),
            address: "http://b:1".to_owned(),
        });
        table.slot_owners = vec![1, 2, 2, 0];
        let table = solve(&problem(&["a", "b"], &[]), &table).unwrap();
        assert_eq!(table.slot_owners, [1, 2, 2, 2]);
        assert_eq!(table.epochs, [1, 1, 1, 2]);
    }

    #[test]
    fn a_new_address_is_no_new_owner() {
        let mut moved = problem(&["a"], &[]);
        moved
            .agents
            .insert("a".parse().unwrap(), "http://elsewhere:1".to_owned());
        let table = solve(&moved, &first()).unwrap();
        assert_eq!((table.version, &table.epochs), (2, &vec![1; 4]));
        assert_eq!(table.owners[0].address, "http://elsewhere:1");
    }
}
