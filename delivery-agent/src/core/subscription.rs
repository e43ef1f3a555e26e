//! One subscription that has deliveries: its queues, what is known of its receiver, and what keeps it
//! from starting an attempt. It knows only itself; permits and endpoints are the core's.
//!
//! **Invariant:** attempts in flight ≤ the window.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use hookfleet_contract::{id::DeliveryId, partition::UNORDERED, time::Timestamp};

use super::{
    Uid,
    breaker::State,
    command::{Settings, Waiting},
    health::Health,
    queue::{Listed, Queue},
};

/// How often deliveries that cannot be attempted are looked at for the end of their time to live.
const REVIEW_EVERY: Duration = Duration::from_secs(600);

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) uid: Uid,
    pub(crate) phase: Phase,
    /// Deliveries that wait for nothing but their time.
    plain: Queue,
    /// Those that wait for each other, if there are any.
    partitions: Option<Box<Partitions>>,
    pub(crate) health: Health,
    /// Whose turn it is: the partitions', or the others'.
    partitions_next: bool,
    pub(crate) in_flight: u32,
    pub(crate) place: Place,
    /// The timer that is set, if any.
    pub(crate) timer: Option<Timestamp>,
    pub(crate) review: Review,
    /// Its deliveries are to go on at another agent.
    pub(crate) leaving: bool,
}

/// Whether there is a subscription behind the deliveries.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Deliveries of an earlier run; the subscription has not been heard of in this one.
    Unknown,
    /// As it should be.
    Live(Live),
    /// The subscription is gone: what waits becomes dead letters.
    Ended,
}

/// A subscription that is there.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) settings: Settings,
    /// Its tenant and its endpoint, in the core's tables.
    pub(crate) tenant: usize,
    pub(crate) endpoint: usize,
}

/// Where a subscription stands that wants to start an attempt: in one place at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It does not.
    Nowhere,
    /// In a lane.
    Lane,
    /// Among the waiters of its endpoint.
    Endpoint,
    /// Among those of a destination, where its endpoint may no longer be.
    Destination(IpAddr),
    /// Among those that wait for a budget.
    Budget,
}

/// The search for deliveries whose time to live is over while they cannot be attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// Nothing is kept from being attempted.
    Off,
    /// The next look, and at which partition.
    At(Timestamp, u16),
    /// A look at the first delivery of a partition is under way.
    UnderWay(u16),
}

/// What keeps a subscription from starting an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It waits for time to pass or for something to happen to itself.
    Itself(Option<Timestamp>),
    /// It must not call: for now, or until it is told.
    Receiver(Option<Timestamp>),
}

#[derive(Debug, Default)]
struct Partitions {
    queues: BTreeMap<u16, Queue>,
    /// Those whose first delivery may start, each once.
    startable: VecDeque<u16>,
    /// Those whose first delivery waits for its time.
    timed: BTreeSet<(Timestamp, u16)>,
    /// Those whose head wanted more from disk when it was looked at last.
    hungry: BTreeSet<u16>,
}

// === impl Subscription ===

impl Subscription {
    /// One that has not been heard of.
    pub(crate) fn new(uid: Uid, health: Health) -> Self {
        Self {
            uid,
            phase: Phase::Unknown,
            plain: Queue::new(UNORDERED),
            partitions: None,
            health,
            partitions_next: false,
            in_flight: 0,
            place: Place::Nowhere,
            timer: None,
            review: Review::Off,
            leaving: false,
        }
    }

    /// What keeps its next attempt from starting, as far as it knows itself.
    pub(crate) fn obstacle(&self, now: Timestamp) -> Option<Obstacle> {
        let Phase::Live(Live { settings, .. }) = &self.phase else {
            return Some(Obstacle::Itself(None));
        };
        if self.leaving {
            return Some(Obstacle::Itself(None));
        }
        if settings.suspended {
            return Some(Obstacle::Receiver(None));
        }
        match self.health.breaker.state(now) {
            State::Open { until } => return Some(Obstacle::Receiver(Some(until))),
            State::Half { probing: true } => return Some(Obstacle::Receiver(None)),
            State::Half { probing: false } | State::Closed => {}
        }
        if !self.can_start(now) {
            return Some(Obstacle::Itself(self.wake_at(now)));
        }
        if self.in_flight >= self.health.window.size(settings.max_in_flight) {
            return Some(Obstacle::Itself(None));
        }
        let rate = settings.max_requests_per_second;
        let ready_at = rate.map(|it| self.health.bucket.ready_at(it));
        let throttled = ready_at.filter(|&at| at > now);
        throttled.map(|at| Obstacle::Itself(Some(at)))
    }

    /// The queue of a partition.
    pub(crate) fn queue(&mut self, partition: u16) -> &mut Queue {
        if partition == UNORDERED {
            return &mut self.plain;
        }
        let partitions = self.partitions.get_or_insert_default();
        let queues = partitions.queues.entry(partition);
        queues.or_insert_with(|| Queue::new(partition))
    }

    /// The next delivery to attempt, and the partition it is in.
    pub(crate) fn next(&self, now: Timestamp) -> Option<(u16, Waiting)> {
        let partitions = self.partitions.as_ref();
        let serial = partitions.and_then(|it| {
            let partition = *it.startable.front()?;
            Some((partition, *it.queues.get(&partition)?.head.front()?))
        });
        if self.plain.can_start(now) && !(self.partitions_next && serial.is_some()) {
            return Some((UNORDERED, *self.plain.head.front()?));
        }
        serial
    }

    /// An attempt of the first delivery of `partition` starts.
    pub(crate) fn start(&mut self, partition: u16, now: Timestamp) -> Option<Waiting> {
        if let Phase::Live(Live { settings, .. }) = &self.phase
            && let Some(per_second) = settings.max_requests_per_second
        {
            self.health.bucket.take(per_second, now);
        }
        self.partitions_next = partition == UNORDERED;
        self.in_flight += 1;
        let queue = self.queue(partition);
        queue.in_flight += 1;
        let waiting = queue.head.pop_front();
        self.sort(partition, now);
        waiting
    }

    /// An attempt of `partition` is over.
    pub(crate) fn end(&mut self, partition: u16) {
        self.in_flight -= 1;
        self.queue(partition).in_flight -= 1;
    }

    /// Brings the lists of partitions in line with the queue of one of them.
    pub(crate) fn sort(&mut self, partition: u16, now: Timestamp) {
        let Some(partitions) = &mut self.partitions else {
            return;
        };
        let Some(queue) = partitions.queues.get_mut(&partition) else {
            return;
        };
        let listed = if queue.can_start(now) {
            Listed::Startable
        } else {
            queue.wake_at(now).map_or(Listed::Nowhere, Listed::Timed)
        };
        let before = std::mem::replace(&mut queue.listed, listed);
        if queue.wants(now) {
            partitions.hungry.insert(partition);
        }
        let is_empty = queue.is_empty();
        if before != listed {
            partitions.unlist(before, partition);
            partitions.list(listed, partition);
        }
        if is_empty {
            partitions.queues.remove(&partition);
            if partitions.queues.is_empty() {
                self.partitions = None;
            }
        }
    }

    /// Time has passed.
    pub(crate) fn wake(&mut self, now: Timestamp) {
        while let Some(partitions) = &self.partitions
            && let Some(&(at, partition)) = partitions.timed.first()
            && at <= now
        {
            self.sort(partition, now);
        }
    }

    /// The next partition whose head wants from disk what is due at `until`.
    pub(crate) fn next_hungry(&mut self, until: Timestamp) -> Option<u16> {
        if self.plain.wants(until) {
            return Some(UNORDERED);
        }
        let partitions = self.partitions.as_mut()?;
        while let Some(partition) = partitions.hungry.pop_first() {
            let queue = partitions.queues.get(&partition);
            if queue.is_some_and(|it| it.wants(until)) {
                return Some(partition);
            }
        }
        None
    }

    /// Its partitions that hold anything.
    pub(crate) fn partitions(&self) -> Vec<u16> {
        let ordered = self.partitions.iter().flat_map(|it| it.queues.keys());
        std::iter::once(UNORDERED).chain(ordered.copied()).collect()
    }

    /// The next partition from `from` on in which something waits.
    pub(crate) fn waiting_from(&self, from: u16) -> Option<u16> {
        if from == UNORDERED && self.plain.has_waiting() {
            return Some(UNORDERED);
        }
        let queues = &self.partitions.as_ref()?.queues;
        let mut waiting = queues.range(from..).filter(|(_, it)| it.has_waiting());
        waiting.next().map(|(&partition, _)| partition)
    }

    /// When the next look for expired deliveries is due, if it is kept from attempting any.
    pub(crate) fn review_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        match self.review {
            Review::UnderWay(_) => None,
            Review::At(at, _) => Some(at),
            Review::Off => {
                let at = now + REVIEW_EVERY;
                self.review = Review::At(at, UNORDERED);
                Some(at)
            }
        }
    }

    /// A delivery of `partition` is over, so the next may be; or it is not, and neither are those behind.
    pub(crate) fn reviewed(&mut self, partition: u16, expired: bool, now: Timestamp) {
        if self.review != Review::UnderWay(partition) {
            return;
        }
        let from = if expired { partition } else { partition + 1 };
        self.review = match self.waiting_from(from) {
            Some(next) => Review::At(now, next),
            None => Review::At(now + REVIEW_EVERY, UNORDERED),
        };
    }

    /// Takes a delivery out of the head.
    pub(crate) fn remove(
        &mut self,
        partition: u16,
        delivery: DeliveryId,
        now: Timestamp,
    ) -> Option<Waiting> {
        let head = &mut self.queue(partition).head;
        let index = head.iter().position(|it| it.delivery == delivery)?;
        let removed = head.remove(index);
        self.sort(partition, now);
        removed
    }

    /// Whether it has no deliveries and stands nowhere.
    pub(crate) fn is_over(&self) -> bool {
        self.in_flight == 0
            && self.place == Place::Nowhere
            && self.partitions.is_none()
            && self.plain.is_empty()
    }

    fn can_start(&self, now: Timestamp) -> bool {
        let partitions = self.partitions.as_ref();
        self.plain.can_start(now) || partitions.is_some_and(|it| !it.startable.is_empty())
    }

    fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let partitions = self.partitions.as_ref();
        let timed = partitions.and_then(|it| it.timed.first().map(|&(at, _)| at));
        [self.plain.wake_at(now), timed].into_iter().flatten().min()
    }
}

// === impl Partitions ===

impl Partitions {
    fn list(&mut self, listed: Listed, partition: u16) {
        match listed {
            Listed::Nowhere => {}
            Listed::Startable => self.startable.push_back(partition),
            Listed::Timed(at) => {
                self.timed.insert((at, partition));
            }
        }
    }

    fn unlist(&mut self, listed: Listed, partition: u16) {
        match listed {
            Listed::Nowhere => {}
            // The one that starts is the first.
            Listed::Startable if self.startable.front() == Some(&partition) => {
                self.startable.pop_front();
            }
            Listed::Startable => self.startable.retain(|&it| it != partition),
            Listed::Timed(at) => {
                self.timed.remove(&(at, partition));
            }
        }
    }
}

// === impl Phase ===

impl Phase {
    pub(crate) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Unknown | Self::Ended => None,
        }
    }
}
