//! A round of a session: the keys that an agent is to be told of, in the order in which they depend on each other, and
//! how they are cut into updates.
//!
//! **Invariant:** values are looked up when an update is made of them, so it always tells the latest.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use hookfleet_contract::{name::AgentId, slot::Slot};
use hookfleet_proto::fleet::{ResourceType, SlotTable};

use super::{Draft, spread};
use crate::{
    cache::Contents,
    keys::{self, Kind},
    store::Revision,
};

/// The limits of one update. One resource may be larger than that by itself.
const MAX_RESOURCES: usize = 2000;
const MAX_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Round {
    /// Where the agent stands when the round is over.
    pub(super) goal: Revision,
    phases: VecDeque<Phase>,
}

/// Keys of one type; as a full set, or as changes.
#[derive(Debug)]
struct Phase {
    kind: ResourceType,
    full: bool,
    keys: VecDeque<Arc<str>>,
}

// === impl Round ===

impl Round {
    /// Everything that concerns the owner of these slots.
    pub(super) fn full(contents: &Contents, owned: &BTreeSet<u16>) -> Self {
        let phase = |kind, keys| Phase {
            kind,
            full: true,
            keys,
        };
        let phases = [
            phase(ResourceType::Key, keys_with(contents, keys::KEYS).collect()),
            phase(
                ResourceType::Tenant,
                keys_with(contents, keys::TENANTS).collect(),
            ),
            phase(ResourceType::Subscription, subscriptions(contents, owned)),
            phase(
                ResourceType::SlotTable,
                keys_with(contents, keys::SLOTS).collect(),
            ),
        ];
        Self {
            goal: contents.revision(),
            phases: phases.into(),
        }
    }

    /// What changed or is gone.
    pub(super) fn delta(contents: &Contents, keys: BTreeSet<Arc<str>>) -> Self {
        let mut phases = [
            ResourceType::Key,
            ResourceType::Tenant,
            ResourceType::Subscription,
            ResourceType::Tenant,
            ResourceType::SlotTable,
        ]
        .map(|kind| Phase::changes(kind, VecDeque::new()));
        for key in keys {
            let phase = if key.starts_with(keys::KEYS) {
                0
            } else if key.starts_with(keys::SUBSCRIPTIONS) {
                2
            } else if &*key == keys::SLOTS {
                4
            } else if contents.get(&key).is_some() {
                1
            } else {
                3
            };
            phases[phase].keys.push_back(key);
        }
        Self {
            goal: contents.revision(),
            phases: phases
                .into_iter()
                .filter(|phase| !phase.keys.is_empty())
                .collect(),
        }
    }

    /// Whether the slot table is next.
    pub(super) fn is_at_slots(&self) -> bool {
        self.phases
            .front()
            .is_some_and(|phase| phase.kind == ResourceType::SlotTable)
    }

    /// Puts subscriptions before the rest.
    pub(super) fn insert(&mut self, keys: BTreeSet<Arc<str>>) {
        if !keys.is_empty() {
            let keys = keys.into_iter().collect();
            self.phases
                .push_front(Phase::changes(ResourceType::Subscription, keys));
        }
    }

    /// Moves keys into the draft. Answers whether the round is over.
    pub(super) fn fill(
        &mut self,
        draft: &mut Draft,
        contents: &Contents,
        owned: &BTreeSet<u16>,
    ) -> bool {
        if let Some(phase) = self.phases.front_mut() {
            phase.fill(draft, contents, owned);
        }
        if draft.last_chunk {
            self.phases.pop_front();
        }
        self.phases.is_empty()
    }
}

// === impl Phase ===

impl Phase {
    fn changes(kind: ResourceType, keys: VecDeque<Arc<str>>) -> Self {
        Self {
            kind,
            full: false,
            keys,
        }
    }

    /// Moves keys into the draft, with their current values, until it is large enough.
    fn fill(&mut self, draft: &mut Draft, contents: &Contents, owned: &BTreeSet<u16>) {
        (draft.kind, draft.full) = (self.kind, self.full);
        let (mut n_resources, mut n_bytes) = (0, 0);
        while let Some(key) = self.keys.front() {
            let item = contents.get(key);
            let item = item.filter(|_| is_told(key, owned, contents)).cloned();
            n_bytes += key.len() + item.as_ref().map_or(0, |item| item.value.len());
            if n_resources == MAX_RESOURCES || (n_bytes > MAX_BYTES && n_resources > 0) {
                return;
            }
            n_resources += 1;
            match (self.keys.pop_front(), item) {
                (Some(key), Some(item)) => draft.upserts.push((key, item)),
                // What a full set does not have is gone.
                (Some(_), None) if draft.full => {}
                (Some(key), None) => draft.removals.push(key),
                (None, _) => {}
            }
        }
        draft.last_chunk = true;
    }
}

/// The subscriptions that the owner of these slots is told of, each once.
fn subscriptions(contents: &Contents, owned: &BTreeSet<u16>) -> VecDeque<Arc<str>> {
    let mut keys = in_slots(contents, owned);
    let elsewhere = spread::subscriptions(contents, contents.shards().keys());
    let is_elsewhere = |key: &Arc<str>| {
        let kind = keys::parse(key);
        !matches!(kind, Some(Kind::Subscription(slot, _)) if owned.contains(&slot.0))
    };
    keys.extend(elsewhere.into_iter().filter(is_elsewhere));
    keys
}

/// Whether the owner of these slots is told what is at a key.
pub(super) fn is_told(key: &str, owned: &BTreeSet<u16>, contents: &Contents) -> bool {
    match keys::parse(key) {
        Some(Kind::Subscription(slot, name)) => {
            owned.contains(&slot.0) || contents.shards().contains_key(&name.tenant)
        }
        Some(Kind::Key(_) | Kind::Tenant(_) | Kind::Slots) => true,
        Some(Kind::Agent(_) | Kind::Fleet) | None => false,
    }
}

pub(super) fn in_slots<'a>(
    contents: &Contents,
    slots: impl IntoIterator<Item = &'a u16>,
) -> VecDeque<Arc<str>> {
    let slots = slots.into_iter().map(|slot| keys::slot(Slot(*slot)));
    let keys = slots.map(|prefix| keys_with(contents, &prefix).collect::<Vec<_>>());
    keys.flatten().collect()
}

fn keys_with<'a>(contents: &'a Contents, prefix: &'a str) -> impl Iterator<Item = Arc<str>> {
    contents.with_prefix(prefix).map(|(key, _)| Arc::clone(key))
}

/// The slots of an agent.
pub(super) fn owned_by(agent: &AgentId, table: &SlotTable) -> BTreeSet<u16> {
    let index = table
        .owners
        .iter()
        .position(|owner| owner.agent_id == agent.as_str());
    let place = index.and_then(|index| i32::try_from(index + 1).ok());
    let slots = (0..).zip(&table.slot_owners);
    slots
        .filter(|(_, owner)| Some(**owner) == place)
        .map(|(slot, _)| slot)
        .collect()
}
