//! One agent's session after its Hello: what it is told, in which order, and when it is given up. Pure: the contents of
//! the cache and the answers of the agent go in, commands come out.
//!
//! Changes are told in rounds. A round collects the keys that changed since the last one, and sends their *current*
//! values in the order in which they depend on each other: tenants, subscriptions, tenants that are gone, the slot
//! table. What changes meanwhile is the next round's. So a slow agent costs a set of keys, never a queue of changes.
//!
//! **Invariants:** one update at a time is without its answer; an agent stands at a revision only once it has all
//! changes up to it, whatever their type; an agent is told only subscriptions of slots that it owns.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hookfleet_contract::{name::AgentId, slot::Slot, time::Timestamp};
use hookfleet_proto::fleet::{Ack, ResourceType, SlotTable};

use crate::{
    cache::{Contents, Item},
    keys::{self, Kind},
    store::Revision,
};

/// The limits of one update. One resource may be larger than that by itself.
const MAX_RESOURCES: usize = 2000;
const MAX_BYTES: usize = 1 << 20;
/// An agent that does not answer an update for so long is stuck.
const ACK_DEADLINE: Duration = Duration::from_secs(30);
/// An agent that says nothing for so many heartbeats is gone.
const SILENT_HEARTBEATS: u32 = 3;

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    agent: AgentId,
    heartbeat: Duration,
    /// Everything up to here was applied; `None` before a full set was.
    stand: Option<Revision>,
    /// Everything that concerns the agent up to here was applied. Unlike the stand, it moves only with an answer.
    answered: Revision,
    /// The slots whose subscriptions the agent has.
    owned: BTreeSet<u16>,
    round: Option<Round>,
    in_flight: Option<InFlight>,
    next_nonce: i64,
    last_heard: Timestamp,
    last_sent: Timestamp,
    /// The first bookmark tells the agent that it has everything that there was when it came.
    welcome: Revision,
    bookmarked: bool,
}

#[derive(Debug)]
struct Round {
    /// Where the agent stands when the round is over.
    goal: Revision,
    full: bool,
    phases: VecDeque<Phase>,
}

#[derive(Debug)]
struct Phase {
    kind: ResourceType,
    keys: VecDeque<Arc<str>>,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    nonce: i64,
    since: Timestamp,
    /// The stand once it is answered.
    goal: Option<Revision>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Send changed resources.
    Update(Draft),
    /// Send a sign of life: everything up to here was sent.
    Bookmark(Revision),
    /// End the session.
    Close(Reason),
}

/// An update whose resources are still as the store has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) nonce: i64,
    pub(crate) kind: ResourceType,
    pub(crate) revision: Revision,
    pub(crate) full: bool,
    pub(crate) last_chunk: bool,
    pub(crate) upserts: Vec<(Arc<str>, Item)>,
    pub(crate) removals: Vec<Arc<str>>,
}

/// Why a session is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("the agent did not answer an update for {ACK_DEADLINE:?}")]
    Unanswered,
    #[error("the agent was silent for {SILENT_HEARTBEATS} heartbeats")]
    Silent,
}

// === impl Session ===

impl Session {
    /// A session of an agent that has everything up to `stand` of this store already.
    pub(crate) fn new(
        agent: AgentId,
        stand: Option<Revision>,
        contents: &Contents,
        heartbeat: Duration,
        now: Timestamp,
    ) -> Self {
        // Deltas need every removal since, and slots that are the same as then.
        let stand = stand.filter(|stand| {
            *stand >= contents.horizon().max(contents.slots_revision()) && *stand <= contents.revision()
        });
        let owned = match stand {
            Some(_) => owned_by(&agent, contents.slot_table()),
            None => BTreeSet::new(),
        };
        Self {
            agent,
            heartbeat,
            stand,
            answered: stand.unwrap_or(0),
            owned,
            round: None,
            in_flight: None,
            next_nonce: 1,
            last_heard: now,
            last_sent: now,
            welcome: contents.revision(),
            bookmarked: false,
        }
    }

    /// Everything up to here was applied; 0 before a full set was.
    pub(crate) fn stand(&self) -> Revision {
        self.stand.unwrap_or(0)
    }

    /// The stand when the agent last answered to something that concerned it.
    pub(crate) fn answered(&self) -> Revision {
        self.answered
    }

    /// Whether the session goes on where an older one stood.
    pub(crate) fn goes_on(&self) -> bool {
        self.stand.is_some()
    }

    /// Whether the agent has had everything that there was when it came.
    pub(crate) fn is_live(&self) -> bool {
        self.bookmarked
    }

    /// The agent said something.
    pub(crate) fn handle_sign_of_life(&mut self, now: Timestamp) {
        self.last_heard = now;
    }

    /// The agent answered an update. An answer to another one is not heard.
    pub(crate) fn handle_ack(&mut self, ack: &Ack, now: Timestamp) {
        self.handle_sign_of_life(now);
        if let Some(answered) = self.in_flight.take_if(|it| it.nonce == ack.nonce)
            && let Some(goal) = answered.goal
        {
            self.stand = Some(goal);
            self.answered = goal;
        }
    }

    /// What to do now; nothing until the contents, an answer or the time change.
    pub(crate) fn poll_command(&mut self, contents: &Contents, now: Timestamp) -> Option<Command> {
        if self.in_flight.is_some_and(|it| now >= it.since + ACK_DEADLINE) {
            return Some(Command::Close(Reason::Unanswered));
        }
        if now >= self.last_heard + self.heartbeat * SILENT_HEARTBEATS {
            return Some(Command::Close(Reason::Silent));
        }
        let command = self
            .poll_first_bookmark()
            .or_else(|| self.poll_update(contents, now))
            .or_else(|| self.poll_first_bookmark())
            .or_else(|| self.poll_bookmark(now));
        if command.is_some() {
            self.last_sent = now;
        }
        command
    }

    /// When to ask again although nothing has happened.
    pub(crate) fn poll_timeout(&self) -> Timestamp {
        let silent = self.last_heard + self.heartbeat * SILENT_HEARTBEATS;
        let unanswered = self.in_flight.map(|it| it.since + ACK_DEADLINE);
        let bookmark = self.bookmarked.then(|| self.last_sent + self.heartbeat);
        [unanswered, bookmark].into_iter().flatten().fold(silent, Timestamp::min)
    }

    fn poll_update(&mut self, contents: &Contents, now: Timestamp) -> Option<Command> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.round.is_none() {
            self.begin_round(contents);
        }
        let round = self.round.as_mut()?;
        let phase = round.phases.front_mut()?;
        let mut draft = Draft {
            nonce: self.next_nonce,
            kind: phase.kind,
            revision: self.stand.unwrap_or(0),
            full: round.full,
            last_chunk: false,
            upserts: Vec::new(),
            removals: Vec::new(),
        };
        phase.fill(&mut draft, contents, &self.owned);
        draft.last_chunk = phase.keys.is_empty();
        let mut goal = None;
        if draft.last_chunk {
            round.phases.pop_front();
        }
        if round.phases.is_empty() {
            draft.revision = round.goal;
            goal = Some(round.goal);
            self.round = None;
        }
        self.next_nonce += 1;
        self.in_flight = Some(InFlight {
            nonce: draft.nonce,
            since: now,
            goal,
        });
        Some(Command::Update(draft))
    }

    fn begin_round(&mut self, contents: &Contents) {
        if contents.slots_revision() == 0 {
            // An agent that heard of subscriptions and of no slots would think that it owns nothing.
            return;
        }
        let goal = contents.revision();
        let owned = owned_by(&self.agent, contents.slot_table());
        let Some(stand) = self.stand else {
            self.round = Some(Round::full(contents, &owned));
            self.owned = owned;
            return;
        };
        if stand >= goal {
            return;
        }
        let mut keys = contents.changed_since(stand);
        for slot in owned.symmetric_difference(&self.owned) {
            let prefix = keys::slot(Slot(*slot));
            keys.extend(contents.with_prefix(&prefix).map(|(key, _)| Arc::clone(key)));
        }
        keys.retain(|key| match keys::parse(key) {
            Some(Kind::Subscription(slot, _)) => owned.contains(&slot.0) || self.owned.contains(&slot.0),
            Some(Kind::Tenant(_) | Kind::Slots) => true,
            Some(Kind::Agent(_)) | None => false,
        });
        self.owned = owned;
        if keys.is_empty() {
            self.stand = Some(goal);
        } else {
            self.round = Some(Round::delta(contents, keys));
        }
    }

    fn poll_first_bookmark(&mut self) -> Option<Command> {
        let stand = self.stand.filter(|stand| *stand >= self.welcome)?;
        let is_idle = self.in_flight.is_none() && self.round.is_none();
        (is_idle && !self.bookmarked).then(|| {
            self.bookmarked = true;
            Command::Bookmark(stand)
        })
    }

    fn poll_bookmark(&self, now: Timestamp) -> Option<Command> {
        let is_due = self.bookmarked && now >= self.last_sent + self.heartbeat;
        is_due.then(|| Command::Bookmark(self.stand()))
    }
}

// === impl Round ===

impl Round {
    fn full(contents: &Contents, owned: &BTreeSet<u16>) -> Self {
        let keys = |prefix: &str| contents.with_prefix(prefix).map(|(key, _)| Arc::clone(key)).collect();
        let subscriptions = owned.iter().flat_map(|slot| {
            let keys: Vec<_> = keys(&keys::slot(Slot(*slot)));
            keys
        });
        let subscriptions = Phase::new(ResourceType::Subscription, subscriptions);
        let tenants: Vec<_> = keys(keys::TENANTS);
        let slots: Vec<_> = keys(keys::SLOTS);
        let phases = [
            Phase::new(ResourceType::Tenant, tenants),
            subscriptions,
            Phase::new(ResourceType::SlotTable, slots),
        ];
        Self {
            goal: contents.revision(),
            full: true,
            phases: phases.into(),
        }
    }

    fn delta(contents: &Contents, keys: BTreeSet<Arc<str>>) -> Self {
        let (mut tenants, mut subscriptions) = (Vec::new(), Vec::new());
        let (mut tenants_gone, mut slots) = (Vec::new(), Vec::new());
        for key in keys {
            if key.starts_with(keys::SUBSCRIPTIONS) {
                subscriptions.push(key);
            } else if &*key == keys::SLOTS {
                slots.push(key);
            } else if contents.get(&key).is_some() {
                tenants.push(key);
            } else {
                tenants_gone.push(key);
            }
        }
        let phases = [
            Phase::new(ResourceType::Tenant, tenants),
            Phase::new(ResourceType::Subscription, subscriptions),
            Phase::new(ResourceType::Tenant, tenants_gone),
            Phase::new(ResourceType::SlotTable, slots),
        ];
        Self {
            goal: contents.revision(),
            full: false,
            phases: phases.into_iter().filter(|phase| !phase.keys.is_empty()).collect(),
        }
    }
}

// === impl Phase ===

impl Phase {
    fn new(kind: ResourceType, keys: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            kind,
            keys: keys.into_iter().collect(),
        }
    }

    /// Moves keys into the draft, with their current values, until it is large enough.
    fn fill(&mut self, draft: &mut Draft, contents: &Contents, owned: &BTreeSet<u16>) {
        let mut n_bytes = 0;
        while draft.upserts.len() + draft.removals.len() < MAX_RESOURCES {
            let Some(key) = self.keys.front() else { return };
            let item = contents.get(key).filter(|_| is_told(key, owned)).cloned();
            let value = item.as_ref().map(|item| &item.value);
            n_bytes += key.len() + value.map_or(0, Bytes::len);
            if n_bytes > MAX_BYTES && draft.upserts.len() + draft.removals.len() > 0 {
                return;
            }
            let Some(key) = self.keys.pop_front() else { return };
            match item {
                Some(item) => draft.upserts.push((key, item)),
                // What a full set does not have is gone.
                None if draft.full => {}
                None => draft.removals.push(key),
            }
        }
    }
}

fn is_told(key: &str, owned: &BTreeSet<u16>) -> bool {
    match keys::parse(key) {
        Some(Kind::Subscription(slot, _)) => owned.contains(&slot.0),
        Some(Kind::Tenant(_) | Kind::Slots) => true,
        Some(Kind::Agent(_)) | None => false,
    }
}

fn owned_by(agent: &AgentId, table: &SlotTable) -> BTreeSet<u16> {
    let index = table.owners.iter().position(|owner| owner.agent_id == agent.as_str());
    let place = index.and_then(|index| i32::try_from(index + 1).ok());
    let slots = (0..).zip(&table.slot_owners);
    slots.filter(|(_, owner)| Some(**owner) == place).map(|(slot, _)| slot).collect()
}

#[cfg(test)]
mod tests;
