//! The events of the last moment: what becomes of them while they are here is written with them, in
//! one record. Pure; a round is the unit of time.
//!
//! **Invariant:** bounded by age and by weight, whatever becomes of the events.

use std::{collections::BTreeMap, sync::Arc};

use hookfleet_contract::id::DeliveryId;

use super::{
    Report,
    key::{BLOCK_TARGETS, first_of_block},
    row::Row,
};
use crate::journal::{Outcome, StoredEvent, Target};

/// How many rounds an event waits to hear of all its deliveries: 200 ms, which is also how long the
/// log may take to sync an outcome.
const MAX_AGE: u64 = 40;
/// The most deliveries and KiB of payloads together: less than 100 MiB.
const MAX_WEIGHT: usize = 1 << 16;

/// The events of the last moment, in blocks.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// By the event and the first target. Events are numbered as they come: the first is the oldest.
    blocks: BTreeMap<(u64, u32), Fresh>,
    /// Of these every delivery was heard of.
    complete: Vec<(u64, u32)>,
    weight: usize,
}

/// A block that is not written yet.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) event: Arc<StoredEvent>,
    /// What became of each delivery, oldest first.
    pub(super) rows: Vec<Vec<Row>>,
    /// What the log is to learn once it is written.
    pub(super) outcomes: Vec<Outcome>,
    first: u32,
    n_unheard: usize,
    since: u64,
}

// === impl Recent ===

impl Recent {
    /// An event came in.
    pub(super) fn accept(&mut self, event: &Arc<StoredEvent>, round: u64) {
        let mut first = 0;
        loop {
            let fresh = Fresh::new(Arc::clone(event), first, round);
            let key = (event.seq, first);
            if fresh.n_unheard == 0 {
                self.complete.push(key);
            }
            self.weight += fresh.weight();
            self.blocks.insert(key, fresh);
            first += BLOCK_TARGETS;
            if first >= event.n_targets() {
                break;
            }
        }
    }

    /// Something became of a delivery. Gives it back if the event is not here.
    pub(super) fn hear(&mut self, report: Report) -> Option<Report> {
        let DeliveryId { seq, target } = report.outcome.delivery;
        let key = (seq, first_of_block(target));
        let place = (target - key.1) as usize;
        let Some(fresh) = self.blocks.get_mut(&key) else {
            return Some(report);
        };
        let Some(rows) = fresh.rows.get_mut(place) else {
            return Some(report);
        };
        if rows.is_empty() {
            fresh.n_unheard -= 1;
            if fresh.n_unheard == 0 {
                self.complete.push(key);
            }
        }
        rows.push(Row::new(&report.outcome, report.attempt));
        fresh.outcomes.push(report.outcome);
        None
    }

    /// Takes what is complete, what is too old, and the oldest of what is too much.
    pub(super) fn take(&mut self, round: u64) -> Vec<Fresh> {
        let complete = std::mem::take(&mut self.complete);
        let mut taken: Vec<Fresh> = complete
            .iter()
            .filter_map(|it| self.blocks.remove(it))
            .collect();
        let left = self.weight - taken.iter().map(Fresh::weight).sum::<usize>();
        self.weight = left;
        while let Some(oldest) = self.blocks.first_entry()
            && (oldest.get().since + MAX_AGE <= round || self.weight > MAX_WEIGHT)
        {
            self.weight -= oldest.get().weight();
            taken.push(oldest.remove());
        }
        taken
    }

    /// Takes everything.
    pub(super) fn take_all(&mut self) -> Vec<Fresh> {
        std::mem::take(self).blocks.into_values().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether something must go before more comes in.
    pub(super) fn is_full(&self) -> bool {
        self.weight > MAX_WEIGHT
    }
}

// === impl Fresh ===

impl Fresh {
    fn new(event: Arc<StoredEvent>, first: u32, since: u64) -> Self {
        let n_places = event.n_targets().saturating_sub(first).min(BLOCK_TARGETS) as usize;
        Self {
            event,
            rows: vec![Vec::new(); n_places],
            outcomes: Vec::new(),
            first,
            n_unheard: n_places,
            since,
        }
    }

    pub(super) fn targets(&self) -> &[Target] {
        let mut blocks = self.event.targets.chunks(BLOCK_TARGETS as usize);
        let nth = (self.first / BLOCK_TARGETS) as usize;
        blocks.nth(nth).unwrap_or_default()
    }

    /// Its first delivery; of an event without targets, the one that there would be.
    pub(super) fn first(&self) -> DeliveryId {
        DeliveryId {
            seq: self.event.seq,
            target: self.first,
        }
    }

    /// What became of its deliveries: one [`Report`]'s worth each.
    fn weight(&self) -> usize {
        self.rows.len() + weight(&self.event)
    }
}

/// What an event in memory weighs: about a KiB each.
pub(super) fn weight(event: &StoredEvent) -> usize {
    1 + event.event.len() / 1024
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hookfleet_contract::{id::WebhookId, retry::Progress, time::Timestamp};

    use super::*;
    use crate::journal::Standing;

    #[test]
    fn an_event_goes_as_soon_as_something_became_of_each_delivery() {
        let mut recent = Recent::default();
        recent.accept(&event(1, 2, 0), 0);
        assert_eq!(recent.hear(report(1, 0)), None);
        assert_eq!(recent.hear(report(1, 0)), None);
        assert!(recent.take(0).is_empty());
        assert_eq!(recent.hear(report(1, 1)), None);
        let taken = recent.take(0);
        assert_eq!(taken.len(), 1);
        let n_rows: Vec<_> = taken[0].rows.iter().map(Vec::len).collect();
        assert_eq!(n_rows, [2, 1]);
        assert_eq!(taken[0].outcomes.len(), 3);
        assert!(recent.is_empty());
        assert!(recent.hear(report(1, 1)).is_some());
    }

    #[test]
    fn an_event_without_deliveries_goes_at_once() {
        let mut recent = Recent::default();
        recent.accept(&event(1, 0, 0), 0);
        assert_eq!(recent.take(0).len(), 1);
        assert!(recent.is_empty());
    }

    #[test]
    fn an_event_goes_when_it_is_too_old() {
        let mut recent = Recent::default();
        recent.accept(&event(1, 1, 0), 7);
        recent.accept(&event(2, 1, 0), 8);
        assert!(recent.take(MAX_AGE + 6).is_empty());
        let seqs = |taken: Vec<Fresh>| taken.iter().map(|it| it.event.seq).collect::<Vec<_>>();
        assert_eq!(seqs(recent.take(MAX_AGE + 7)), [1]);
        assert_eq!(seqs(recent.take(MAX_AGE + 8)), [2]);
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let mut recent = Recent::default();
        // A wide event, and large ones.
        recent.accept(&event(1, 3 * BLOCK_TARGETS, 0), 0);
        let mut seq = 2;
        while !recent.is_full() {
            recent.accept(&event(seq, 1, 1 << 20), 0);
            seq += 1;
        }
        let taken = recent.take(0);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].first(), id(1, 0));
        assert_eq!(taken[0].targets().len(), BLOCK_TARGETS as usize);
        assert!(!recent.is_full());
        recent.take_all();
        assert_eq!(recent.weight, 0);
    }

    #[test]
    fn a_delivery_that_the_event_does_not_have_is_given_back() {
        let mut recent = Recent::default();
        recent.accept(&event(1, BLOCK_TARGETS + 1, 0), 0);
        assert!(recent.hear(report(1, BLOCK_TARGETS + 1)).is_some());
        assert!(recent.hear(report(1, 2 * BLOCK_TARGETS)).is_some());
        assert_eq!(recent.hear(report(1, BLOCK_TARGETS)), None);
        assert_eq!(recent.take(0).len(), 1);
    }

    fn id(seq: u64, target: u32) -> DeliveryId {
        DeliveryId { seq, target }
    }

    fn event(seq: u64, n_targets: u32, n_bytes: usize) -> Arc<StoredEvent> {
        let target = || Target {
            partition: 0,
            uid: [0; 16],
            subscription: "hook".parse().unwrap(),
        };
        Arc::new(StoredEvent {
            seq,
            tenant: "acme".parse().unwrap(),
            webhook_id: WebhookId([0; 16]),
            accept_time: Timestamp(0),
            targets: (0..n_targets).map(|_| target()).collect(),
            origin: crate::journal::Origin::Published,
            stands: Vec::new(),
            event: Bytes::from(vec![0; n_bytes]),
        })
    }

    fn report(seq: u64, target: u32) -> Report {
        let progress = Progress {
            attempts: 1,
            step: 1,
        };
        Report {
            outcome: Outcome {
                delivery: id(seq, target),
                progress,
                standing: Standing::Succeeded,
                at: Timestamp(0),
            },
            attempt: None,
            event: None,
        }
    }
}
