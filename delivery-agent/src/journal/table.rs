//! Which deliveries of the live segments are unsettled, and where they stand. Pure.
//!
//! **Invariant:** the same events and outcomes in the same order make the same table, whether they
//! come from the writer or from the log.

use std::collections::VecDeque;

use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    retry::Progress,
    time::Timestamp,
};

use super::{
    duplicates::First,
    model::{Outcome, Standing, StoredEvent},
    segment::Name,
};
use crate::core::QueueId;

/// The live segments, oldest first.
#[derive(Debug, Default)]
pub(super) struct Table {
    segments: VecDeque<Live>,
}

/// A live segment.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) name: Name,
    /// Its events; one that is damaged has no deliveries.
    events: Vec<Event>,
    deliveries: Vec<Delivery>,
    n_unsettled: u64,
    newest: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    /// See [`StoredEvent::keys`].
    keys: [Option<WebhookId>; 2],
    accept_time: Timestamp,
    /// Where its deliveries begin.
    first: usize,
    /// How large it is.
    bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Delivery {
    queue: QueueId,
    progress: Progress,
    due: Timestamp,
    settled: bool,
}

/// An unsettled delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) delivery: DeliveryId,
    pub(super) queue: QueueId,
    /// How large its event is.
    pub(super) bytes: u32,
    pub(super) progress: Progress,
    /// When it may be attempted: at once, if no attempt was made yet.
    pub(super) due: Timestamp,
}

// === impl Table ===

impl Table {
    /// A new segment; the next events go into it.
    pub(super) fn begin(&mut self, name: Name) {
        self.segments.push_back(Live {
            name,
            events: Vec::new(),
            deliveries: Vec::new(),
            n_unsettled: 0,
            newest: Timestamp::default(),
        });
    }

    /// An event of the segment `number`. Those missing before it are damaged.
    pub(super) fn accept(&mut self, number: u64, event: &StoredEvent) {
        let segment = self
            .segments
            .iter_mut()
            .rev()
            .find(|it| it.name.number == number);
        if let Some(segment) = segment {
            segment.accept(event);
        }
    }

    /// Applies what became of a delivery. Whether its event is in a live segment.
    pub(super) fn apply(&mut self, outcome: &Outcome) -> bool {
        let seq = outcome.delivery.seq;
        let n_before = self.segments.partition_point(|it| it.name.first_seq <= seq);
        let segment = n_before
            .checked_sub(1)
            .and_then(|i| self.segments.get_mut(i));
        segment.is_some_and(|it| {
            it.apply(outcome);
            true
        })
    }

    /// The number of the first event that is in a live segment.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.segments.front().map(|it| it.name.first_seq)
    }

    /// The oldest segment, unless it is the one that is written to.
    pub(super) fn oldest_sealed(&self) -> Option<&Live> {
        self.segments.front().filter(|_| self.segments.len() > 1)
    }

    pub(super) fn n_sealed(&self) -> usize {
        self.segments.len().saturating_sub(1)
    }

    pub(super) fn retire_oldest(&mut self) {
        self.segments.pop_front();
    }

    pub(super) fn n_unsettled(&self) -> u64 {
        self.segments.iter().map(|it| it.n_unsettled).sum()
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = Pending> {
        self.segments.iter().flat_map(Live::pending)
    }

    /// What all events are found by, oldest first.
    pub(super) fn ids(&self) -> impl Iterator<Item = (WebhookId, First)> {
        self.segments.iter().flat_map(Live::ids)
    }
}

// === impl Live ===

impl Live {
    pub(super) fn is_settled(&self) -> bool {
        self.n_unsettled == 0
    }

    /// When its last event was accepted.
    pub(super) fn newest(&self) -> Timestamp {
        self.newest
    }

    fn accept(&mut self, event: &StoredEvent) {
        let index = index(event.seq.saturating_sub(self.name.first_seq));
        let damaged = Event {
            keys: [None; 2],
            accept_time: Timestamp::default(),
            first: self.deliveries.len(),
            bytes: 0,
        };
        self.events.resize(index, damaged);
        self.events.push(Event {
            keys: event.keys(),
            accept_time: event.accept_time,
            first: self.deliveries.len(),
            bytes: event.n_bytes(),
        });
        self.deliveries
            .extend(event.targets.iter().map(|target| Delivery {
                queue: target.queue(),
                progress: Progress::default(),
                due: event.accept_time,
                settled: false,
            }));
        self.n_unsettled += u64::from(event.n_targets());
        self.newest = self.newest.max(event.accept_time);
    }

    fn apply(&mut self, outcome: &Outcome) {
        let DeliveryId { seq, target } = outcome.delivery;
        let event = index(seq - self.name.first_seq);
        let end = self.end(event);
        let Some(first) = self.events.get(event).map(|it| it.first) else {
            return;
        };
        let delivery = self.deliveries.get_mut(first..end);
        let delivery = delivery.and_then(|it| it.get_mut(index(target.into())));
        let Some(delivery) = delivery.filter(|it| !it.settled) else {
            return;
        };
        delivery.progress = outcome.progress;
        match outcome.standing {
            Standing::Succeeded | Standing::DeadLettered(_) | Standing::HandedOver => {
                delivery.settled = true;
                self.n_unsettled -= 1;
            }
            Standing::Deferred { due } => delivery.due = due,
        }
    }

    /// Where the deliveries of the event at `index` end.
    fn end(&self, index: usize) -> usize {
        let next = self.events.get(index.saturating_add(1));
        next.map_or(self.deliveries.len(), |it| it.first)
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = Pending> {
        let of_event = |(seq, i): (u64, usize)| {
            let first = self.events.get(i).map_or(usize::MAX, |it| it.first);
            let deliveries = self.deliveries.get(first..self.end(i)).unwrap_or_default();
            let bytes = self.events.get(i).map_or(0, |it| it.bytes);
            let id = move |target| (DeliveryId { seq, target }, bytes);
            (0..).map(id).zip(deliveries)
        };
        (self.name.first_seq..)
            .zip(0..self.events.len())
            .flat_map(of_event)
            .filter(|(_, it)| !it.settled)
            .map(|((delivery, bytes), it)| Pending {
                delivery,
                queue: it.queue,
                bytes,
                progress: it.progress,
                due: it.due,
            })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = (WebhookId, First)> {
        let first = |(seq, (i, event)): (u64, (usize, &Event))| {
            let n_targets = self.end(i) - event.first;
            let first = First {
                seq,
                n_targets: u32::try_from(n_targets).unwrap_or(u32::MAX),
                accept_time: event.accept_time,
            };
            let keys = event.keys.into_iter().flatten();
            keys.map(move |key| (key, first))
        };
        (self.name.first_seq..)
            .zip(self.events.iter().enumerate())
            .flat_map(first)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
