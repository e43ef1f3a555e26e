//! The slot table, slot by slot, and as it is stored.

use std::collections::BTreeMap;

use hookfleet_contract::{name::AgentId, zone::Zone};
use hookfleet_proto::fleet::{SlotOwner, SlotTable};

use super::Problem;

/// One slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) owner: Option<AgentId>,
    pub(super) epoch: i64,
    /// Who owned it before and may still have deliveries of it.
    pub(super) previous: Option<AgentId>,
}

/// The owner of a slot.
pub(crate) fn owner(table: &SlotTable, slot: u16) -> Option<&SlotOwner> {
    named(table, &table.slot_owners, slot)
}

/// The agent that owned a slot before and may still have deliveries of it.
pub(crate) fn previous(table: &SlotTable, slot: u16) -> Option<&SlotOwner> {
    named(table, &table.slot_previous, slot)
}

fn named<'a>(table: &'a SlotTable, places: &[i32], slot: u16) -> Option<&'a SlotOwner> {
    let place = usize::try_from(*places.get(usize::from(slot))?).ok()?;
    table.owners.get(place.checked_sub(1)?)
}

/// The slots of a table.
pub(super) fn read(table: &SlotTable, slot_count: u16) -> Vec<Placed> {
    let agent = |it: &SlotOwner| it.agent_id.parse().ok();
    (0..slot_count)
        .map(|slot| Placed {
            owner: owner(table, slot).and_then(agent),
            epoch: table
                .epochs
                .get(usize::from(slot))
                .copied()
                .unwrap_or_default(),
            previous: previous(table, slot).and_then(agent),
        })
        .collect()
}

/// The table that follows `last`; the same if nothing is different.
pub(super) fn write(problem: &Problem, placed: &[Placed], last: &SlotTable) -> SlotTable {
    let entry_of = |id: &AgentId| match problem.agents.get(id) {
        Some(member) => SlotOwner {
            agent_id: id.to_string(),
            address: member.address.clone(),
            zone: member
                .zone
                .as_ref()
                .map(Zone::to_string)
                .unwrap_or_default(),
        },
        None => {
            let known = last.owners.iter().find(|it| it.agent_id == id.as_str());
            known.cloned().unwrap_or_default()
        }
    };
    let agents = placed.iter().flat_map(|it| [&it.owner, &it.previous]);
    let mut places: BTreeMap<&AgentId, i32> = agents.flatten().map(|id| (id, 0)).collect();
    for (place, (_, at)) in (1..).zip(&mut places) {
        *at = place;
    }
    let place = |id: &Option<AgentId>| id.as_ref().map_or(0, |id| places[id]);
    let next = SlotTable {
        version: last.version,
        owners: places.keys().map(|id| entry_of(id)).collect(),
        slot_owners: placed.iter().map(|it| place(&it.owner)).collect(),
        epochs: placed.iter().map(|it| it.epoch).collect(),
        slot_previous: placed.iter().map(|it| place(&it.previous)).collect(),
    };
    // After a restored store agents can know a later table; they hear only of one that is later still.
    let known = problem.agents.values();
    let known = known.map(|it| it.leftovers.slot_table_version);
    let newest = known.fold(last.version, i64::max);
    let is_empty = placed.iter().all(|it| *it == Placed::default());
    let is_same = next == *last && newest == last.version;
    if is_same || (is_empty && last.version == 0) {
        return last.clone();
    }
    SlotTable {
        version: newest + 1,
        ..next
    }
}
