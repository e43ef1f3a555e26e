//! Gives deliveries to the agents that own their slots now.
//!
//! **Invariant:** a lot is taken as a whole or not at all, and lots of a queue arrive in their order: the core gives out
//! the next one only when it has heard of this one.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use hookfleet_contract::{
    shard::{self, Shard},
    subscription::Subscription,
};
use hookfleet_proto::fleet::{HandOverRequest, HandedDelivery, HandedEvent, HealthHints};
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::Relay;
use crate::{
    core::{QueueId, Waiting},
    journal::{Journal, StoredEvent},
    slots::{Owner, Slots},
};

/// How many lots are handed over at once, if they go to the same agent. Each has 2 MiB at most.
const MAX_LOTS: usize = 3;

/// What the core wants to be handed over.
#[derive(Debug)]
pub struct Lot {
    /// Whose.
    pub subscription: Arc<Subscription>,
    /// The queue they are from.
    pub queue: QueueId,
    /// Which, in order.
    pub deliveries: Vec<Waiting>,
    /// What is known of the receiver.
    pub health: HealthHints,
}

/// A lot that has been tried.
#[derive(Debug)]
pub struct Handed {
    /// The lot.
    pub lot: Lot,
    /// Whether it is durable at the other agent.
    pub is_taken: bool,
}

/// Hands over.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// This agent.
    pub agent_id: String,
    /// Names this agent's journal in handovers.
    pub journal_id: u128,
    /// Who owns which slot.
    pub slots: Slots,
    /// Where events are read.
    pub journal: Journal,
    /// Speaks to the owners.
    pub relay: Relay,
}

/// What is left of an event.
struct Left {
    event: Arc<StoredEvent>,
    targets: Vec<u32>,
    deliveries: Vec<HandedDelivery>,
}

// === impl Lot ===

impl Lot {
    /// The shard that all of it is in.
    fn shard(&self) -> Shard {
        let (_, number) = shard::original(self.queue.subscription);
        Shard {
            tenant: self.subscription.name.tenant.clone(),
            number,
        }
    }
}

// === impl Left ===

impl Left {
    fn of(event: Arc<StoredEvent>) -> Self {
        Self {
            event,
            targets: Vec::new(),
            deliveries: Vec::new(),
        }
    }
}

// === impl HandOver ===

impl HandOver {
    /// Hands over until nobody wants anything to be handed over any more.
    pub async fn run(
        self,
        mut lots: mpsc::UnboundedReceiver<Lot>,
        handed: mpsc::UnboundedSender<Handed>,
    ) {
        let mut waiting = Vec::new();
        while lots.recv_many(&mut waiting, MAX_LOTS).await > 0 {
            let mut by_agent: BTreeMap<String, (Owner, Vec<Lot>)> = BTreeMap::new();
            for lot in waiting.drain(..) {
                match self.slots.owner(&lot.shard()) {
                    Some(owner) if owner.agent_id != self.agent_id => {
                        let id = owner.agent_id.clone();
                        let (_, lots) = by_agent.entry(id).or_insert((owner, Vec::new()));
                        lots.push(lot);
                    }
                    // It has come back to us.
                    Some(_) | None => tell(&handed, lot, false),
                }
            }
            for (owner, lots) in by_agent.into_values() {
                let (is_taken, lots) = self.give(&owner, lots).await;
                for lot in lots {
                    tell(&handed, lot, is_taken);
                }
            }
        }
    }

    async fn give(&self, owner: &Owner, lots: Vec<Lot>) -> (bool, Vec<Lot>) {
        let (journal, journal_id) = (self.journal.clone(), self.journal_id);
        let reading = spawn_blocking(move || (events(&journal, journal_id, &lots), lots));
        let Ok((events, lots)) = reading.await else {
            return (false, Vec::new());
        };
        let Some(events) = events else {
            return (false, lots);
        };
        let n_events = events.len();
        let request = HandOverRequest {
            events,
            slot_table_version: owner.table_version,
            health: Some(together(lots.iter().map(|it| &it.health))),
        };
        let given = self.relay.hand_over(owner, request).await;
        match &given {
            Ok(()) => tracing::debug!(n_events, to = owner.agent_id, "handed over"),
            Err(error) => {
                tracing::info!(%error, n_events, to = owner.agent_id, "cannot hand over");
            }
        }
        (given.is_ok(), lots)
    }
}

fn tell(handed: &mpsc::UnboundedSender<Handed>, lot: Lot, is_taken: bool) {
    if handed.send(Handed { lot, is_taken }).is_err() {
        tracing::debug!("a handover ended after the driver");
    }
}

/// The events of these lots, each once, in order. Nothing if one cannot be read: attempts find out why. Blocks on the disk.
fn events(journal: &Journal, journal_id: u128, lots: &[Lot]) -> Option<Vec<HandedEvent>> {
    let mut by_seq: BTreeMap<u64, Left> = BTreeMap::new();
    for lot in lots {
        for waiting in &lot.deliveries {
            let id = waiting.delivery;
            let left = match by_seq.entry(id.seq) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Left::of(journal.read(id.seq).ok()??)),
            };
            left.targets.push(id.target);
            left.deliveries.push(delivery(lot, waiting));
        }
    }
    let events = by_seq.into_values().map(|left| {
        let event = left.event;
        HandedEvent {
            handover_id: name(journal_id, event.seq, left.targets).to_vec(),
            tenant: event.tenant.to_string(),
            webhook_id: event.webhook_id.0.to_vec(),
            accept_time: Some(event.accept_time.into()),
            event: event.event.to_vec(),
            deliveries: left.deliveries,
        }
    });
    Some(events.collect())
}

/// What is known of the receivers of several lots.
fn together<'a>(all: impl Iterator<Item = &'a HealthHints>) -> HealthHints {
    all.fold(HealthHints::default(), |mut sum, it| {
        sum.hints.extend_from_slice(&it.hints);
        sum.pauses.extend_from_slice(&it.pauses);
        sum
    })
}

fn delivery(lot: &Lot, waiting: &Waiting) -> HandedDelivery {
    let number = |it: u32| i32::try_from(it).unwrap_or(i32::MAX);
    HandedDelivery {
        subscription_uid: lot.queue.subscription.to_vec(),
        subscription: lot.subscription.name.subscription.to_string(),
        partition: lot.queue.partition.into(),
        attempt_count: number(waiting.progress.attempts),
        step: number(waiting.progress.step),
        due_time: Some(waiting.due.into()),
    }
}

/// The same for the same deliveries, and for no others: what is left of an event may be handed over in parts.
fn name(journal_id: u128, seq: u64, mut targets: Vec<u32>) -> [u8; 16] {
    targets.sort_unstable();
    let mut hash = Sha256::new();
    hash.update(journal_id.to_be_bytes());
    hash.update(seq.to_be_bytes());
    for target in targets {
        hash.update(target.to_be_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    first
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::fleet::health_hints::{Hint, Pause};

    use super::*;

    #[test]
    fn what_is_known_of_the_receivers_of_all_lots_goes_along() {
        let of = |endpoint: &str| HealthHints {
            hints: vec![Hint {
                endpoint: endpoint.to_owned(),
                ..Hint::default()
            }],
            pauses: vec![Pause {
                endpoint: endpoint.to_owned(),
                ..Pause::default()
            }],
        };
        let (a, b) = (of("https://a:443"), of("https://b:443"));
        let all = together([&a, &b].into_iter());
        assert_eq!(all.hints, [a.hints, b.hints].concat());
        assert_eq!(all.pauses, [a.pauses, b.pauses].concat());
    }
}
