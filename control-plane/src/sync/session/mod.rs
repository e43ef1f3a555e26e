//! One agent's session after its Hello: what it is told, in which order, and when it is given up. Pure: the contents of
//! the cache and the answers of the agent go in, commands come out.
//!
//! Changes are told in rounds. A round collects the keys that changed since the last one, and sends their *current*
//! values in the order in which they depend on each other: keys of callers, tenants, subscriptions, tenants that are gone, the slot
//! table. What changes meanwhile is the next round's. So a slow agent costs a set of keys, never a queue of changes.
//!
//! **Invariants:** one update at a time is without its answer; an agent stands at a revision only once it has all
//! changes up to it, whatever their type; an agent is told only subscriptions of slots that it owns, or that it still has
//! deliveries of, and those of tenants with several shards: of these every agent is told, so that any of them may own one
//! of the shards, or have deliveries of it left.

mod lag;
mod round;
mod spread;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hookfleet_contract::{digest::Part, name::AgentId, time::Timestamp};
use hookfleet_proto::fleet::{Ack, Leftovers, PartDigest, ResourceType};

use self::{
    lag::Lag,
    round::{Round, in_slots, is_told, owned_by},
    spread::Spread,
};
use crate::{
    cache::{Contents, Item, era::Era, part_of},
    store::Revision,
};

/// An agent that does not answer an update for so long is stuck.
const ACK_DEADLINE: Duration = Duration::from_secs(30);
/// An agent that says nothing for so many heartbeats is gone.
const SILENT_HEARTBEATS: u32 = 3;

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    agent: AgentId,
    era: Era,
    /// How often the contents had been wrong when everything was last told.
    mends: u64,
    heartbeat: Duration,
    /// Everything up to here was applied; `None` before a full set was.
    stand: Option<Revision>,
    /// Everything that concerns the agent up to here was applied. Unlike the stand, it moves only with an answer.
    answered: Revision,
    lag: Lag,
    /// The slots whose subscriptions the agent has.
    told: BTreeSet<u16>,
    /// Whose subscriptions it has besides.
    spread: Spread,
    /// Those that it does not own, and since which version of the table. It says when it has nothing left of them.
    left: BTreeMap<u16, i64>,
    /// Those that it has nothing left of, and has not been told so.
    dropped: BTreeSet<u16>,
    round: Option<Round>,
    in_flight: Option<InFlight>,
    next_nonce: i64,
    last_heard: Timestamp,
    last_sent: Timestamp,
    /// The first bookmark tells the agent that it has everything that there was when it came.
    welcome: Revision,
    bookmarked: bool,
    /// The parts for whose sake everything was told again, and what they were to come to.
    retold: BTreeMap<Part, u64>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    #[error("another store is in force")]
    OtherStore,
}

// === impl Session ===

impl Session {
    /// A session of an agent that has everything up to `stand` of this store already, of these slots.
    pub(crate) fn new(
        agent: AgentId,
        stand: Option<Revision>,
        mut known: BTreeSet<u16>,
        contents: &Contents,
        heartbeat: Duration,
        now: Timestamp,
    ) -> Self {
        // Deltas need every removal since.
        let stand =
            stand.filter(|stand| *stand >= contents.horizon() && *stand <= contents.revision());
        let table = contents.slot_table();
        let owned = owned_by(&agent, table);
        // An agent that has heard of the table knows all there was in its slots, even if that was nothing.
        if stand.is_some_and(|stand| stand >= contents.slots_revision()) {
            known.extend(&owned);
        }
        let left = known.difference(&owned);
        let left = left.map(|slot| (*slot, table.version)).collect();
        Self {
            agent,
            era: contents.era().clone(),
            mends: contents.mends(),
            heartbeat,
            stand,
            answered: stand.unwrap_or(0),
            lag: Lag::new(
                contents.revision(),
                stand.is_none_or(|stand| stand < contents.revision()),
                now,
            ),
            told: known,
            spread: Spread::at(stand, contents),
            left,
            dropped: BTreeSet::new(),
            round: None,
            in_flight: None,
            next_nonce: 1,
            last_heard: now,
            last_sent: now,
            welcome: contents.revision(),
            bookmarked: false,
            retold: BTreeMap::new(),
        }
    }

    /// In which era the revisions count.
    pub(crate) fn era(&self) -> &Era {
        &self.era
    }

    /// Everything up to here was applied; 0 before a full set was.
    pub(crate) fn stand(&self) -> Revision {
        self.stand.unwrap_or(0)
    }

    /// The stand when the agent last answered to something that concerned it.
    pub(crate) fn answered(&self) -> Revision {
        self.answered
    }

    /// Since when the agent has lacked something, by the time that is told here.
    pub(crate) fn behind_since(&self) -> Option<Timestamp> {
        self.lag.since()
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
            self.lag.end_round();
        }
    }

    /// The agent said what it still has of slots that it does not own.
    pub(crate) fn handle_leftovers(&mut self, leftovers: &Leftovers) {
        let kept: BTreeSet<i32> = leftovers.slots.iter().copied().collect();
        let is_over = |slot: &u16, since: &mut i64| {
            leftovers.slot_table_version >= *since && !kept.contains(&i32::from(*slot))
        };
        for (slot, _) in self.left.extract_if(.., is_over) {
            self.told.remove(&slot);
            self.dropped.insert(slot);
        }
    }

    /// The agent said what parts of its set come to. If one is not as it should be the agent is told everything again;
    /// answers which one. Where that changed nothing (the agent cannot apply something, or nobody can read it) it is
    /// not done again before the part changes.
    pub(crate) fn handle_digests(
        &mut self,
        digests: &[PartDigest],
        contents: &Contents,
    ) -> Option<Part> {
        let stand = self.stand?;
        let is_idle = self.in_flight.is_none() && self.round.is_none() && self.dropped.is_empty();
        if !is_idle || digests.is_empty() {
            return None;
        }
        let changed = contents.changed_since(stand);
        let changed: BTreeSet<Part> = changed.iter().filter_map(|key| part_of(key)).collect();
        let spread = self.spread.digests(contents);
        let wrong = digests.iter().find_map(|it| {
            let part = Part {
                kind: it.r#type(),
                slot: u16::try_from(it.slot).ok()?,
            };
            let is_told = part.kind != ResourceType::Subscription || self.told.contains(&part.slot);
            let expected = match is_told {
                true => contents.digest(part),
                false => spread.get(&part.slot).copied().unwrap_or(0),
            };
            let is_retold = self.retold.get(&part) == Some(&expected);
            let is_wrong = it.digest != expected && !changed.contains(&part) && !is_retold;
            is_wrong.then_some((part, expected))
        });
        let (part, expected) = wrong?;
        self.retold.insert(part, expected);
        self.stand = None;
        Some(part)
    }

    /// What to do now; nothing until the contents, an answer or the time change.
    pub(crate) fn poll_command(&mut self, contents: &Contents, now: Timestamp) -> Option<Command> {
        let in_round = self.round.is_some() || self.in_flight.is_some();
        self.lag.see(contents.revision(), in_round, now);
        if self
            .in_flight
            .is_some_and(|it| now >= it.since + ACK_DEADLINE)
        {
            return Some(Command::Close(Reason::Unanswered));
        }
        if now >= self.last_heard + self.heartbeat * SILENT_HEARTBEATS {
            return Some(Command::Close(Reason::Silent));
        }
        if *contents.era() != self.era {
            return Some(Command::Close(Reason::OtherStore));
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
        [unanswered, bookmark]
            .into_iter()
            .flatten()
            .fold(silent, Timestamp::min)
    }

    fn poll_update(&mut self, contents: &Contents, now: Timestamp) -> Option<Command> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.round.is_none() {
            self.begin_round(contents, now);
        }
        let round = self.round.as_mut()?;
        if round.is_at_slots() {
            // The table that is sent is the latest, so what it assigns must have been sent before.
            let table = contents.slot_table();
            let owned = owned_by(&self.agent, table);
            let moved: Vec<u16> = owned.difference(&self.told).copied().collect();
            if !moved.is_empty() {
                let mut keys = self.spread.since(round.goal, contents);
                keys.extend(in_slots(contents, &moved));
                round.insert(keys);
            }
            self.left.retain(|slot, _| !owned.contains(slot));
            for slot in self.told.difference(&owned) {
                self.left.entry(*slot).or_insert(table.version);
            }
            self.told.extend(owned);
        }
        let mut draft = Draft {
            nonce: self.next_nonce,
            revision: self.stand.unwrap_or(0),
            ..Draft::default()
        };
        let is_over = round.fill(&mut draft, contents, &self.told);
        let goal = is_over.then_some(round.goal);
        if let Some(goal) = goal {
            draft.revision = goal;
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

    fn begin_round(&mut self, contents: &Contents, now: Timestamp) {
        if self.mends != contents.mends() {
            self.mends = contents.mends();
            self.stand = None;
        }
        if contents.slots_revision() == 0 {
            // An agent that heard of subscriptions and of no slots would think that it owns nothing.
            return;
        }
        let Some(stand) = self.stand else {
            self.lag.begin_anew(now);
            let owned = owned_by(&self.agent, contents.slot_table());
            self.told.extend(owned);
            self.spread = Spread::now(contents);
            self.round = Some(Round::full(contents, &self.told));
            return;
        };
        let goal = contents.revision();
        if stand >= goal && self.dropped.is_empty() {
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        let mut keys = contents.changed_since(stand);
        keys.retain(|key| {
            let is_of_slots = |slots| is_told(key, slots, contents);
            // What is gone may have been a tenant's that is gone too.
            is_of_slots(&self.told) || is_of_slots(&dropped) || self.spread.has(key, contents)
        });
        keys.extend(in_slots(contents, &dropped));
        keys.extend(self.spread.follow(contents));
        if keys.is_empty() {
            self.stand = Some(goal);
            self.lag.end_round();
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
