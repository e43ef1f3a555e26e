//! The core: decides which delivery is attempted when. It performs nothing, reads no clock and
//! draws no randomness; the driver feeds it and carries out its commands.
//!
//! To follow one delivery: [`Core::handle_accepted`] puts it into its subscription's [`queue`]; its
//! subscription enters a [`lane`]; [`Core::poll_command`] takes it from there ([`pick`]) when there is
//! a permit, and says [`Command::Attempt`]; [`Core::handle_finished`] learns from the outcome
//! ([`finish`]) and settles the delivery or defers it to its next attempt; a timer brings it back by
//! [`Command::Load`] and [`Core::handle_loaded`]. If its slot has moved, it goes to the new owner
//! ([`leave`]).
//!
//! What keeps an attempt from starting, from the inside out: the delivery's time, the subscription's
//! window, rate and [`breaker`], a pause its receiver asked for, the [`endpoint`] (out of reach, or
//! full), the [`destination`] (full, unless the receiver is proven), the cap of its lane, the tenant's turn, the budgets,
//! the permits of all. Each subscription that wants to start waits in exactly one place for the first of these.
//!
//! **Invariants:** permits taken = attempts in flight ≤ the limit; attempts of a subscription in
//! flight ≤ its window; attempts in flight to one address that is known, of receivers that are not proven, ≤ 500; every
//! accepted delivery is in exactly one place (head, in flight, on disk, being handed over) until its [`Command::Settle`];
//! a subscription without deliveries costs nothing but a bounded memory of its health.

mod brake;
mod breaker;
mod command;
mod destination;
mod endpoint;
mod finish;
mod health;
mod lane;
mod leave;
mod pick;
mod queue;
mod rate;
mod refresh;
mod subscription;
mod tables;
mod window;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};

use hookfleet_contract::{
    id::DeliveryId, partition::UNORDERED, retry::Progress, shard::Shard, time::Timestamp,
};
use hookfleet_proto::v1::DeadLetterReason;
use rustc_hash::FxBuildHasher;

pub use command::{Attempt, Command, Counts, End, Finished, Hints, QueueId, Settings, Waiting};
pub use health::Hint;

use brake::Brake;
use lane::Lanes;
use pick::{Budgets, InFlight};
use subscription::Phase;
use tables::Tables;

/// A subscription's uid, which is never used again.
pub type Uid = [u8; 16];

/// All heads together: 10 MiB. Beyond, each queue keeps one delivery in memory.
const HEADS_MAX: usize = 256 << 10;

/// The deliveries of one agent.
#[derive(Debug)]
pub struct Core {
    tables: Tables,
    lanes: Lanes,
    budgets: Budgets,
    brake: Brake,
    permits: usize,
    in_flight: HashMap<DeliveryId, InFlight, FxBuildHasher>,
    timers: BTreeSet<(Timestamp, Alarm)>,
    commands: VecDeque<Command>,
    n_waiting: u64,
    n_in_memory: usize,
}

/// Whom a timer wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Subscription(usize),
    Endpoint(usize),
}

// === impl Core ===

impl Core {
    /// An empty core that lets at most `permits` attempts be in flight, with at most `max_bytes` of
    /// events in them.
    #[must_use]
    pub fn new(permits: usize, max_bytes: u64) -> Self {
        Self {
            tables: Tables::new(permits),
            lanes: Lanes::default(),
            budgets: Budgets::new(permits, max_bytes),
            brake: Brake::default(),
            permits,
            in_flight: HashMap::default(),
            timers: BTreeSet::new(),
            commands: VecDeque::new(),
            n_waiting: 0,
            n_in_memory: 0,
        }
    }

    /// What an earlier run learnt. To be told before anything else.
    pub fn handle_hints(&mut self, hints: Hints) {
        self.tables.remember(hints);
    }

    /// What another agent learnt of what it hands over. To be told before that.
    pub fn handle_learnt(&mut self, hints: Hints, now: Timestamp) {
        self.tables.learn(hints, now);
    }

    /// Whether a subscription has deliveries here, so that it must be told of changes.
    #[must_use]
    pub fn has(&self, subscription: &Uid) -> bool {
        self.tables.find(subscription).is_some()
    }

    /// The shards that have deliveries here, once every subscription with deliveries has been heard of.
    #[must_use]
    pub fn shards(&self) -> Option<BTreeSet<Shard>> {
        let all_known = self.tables.unknown().is_empty();
        all_known.then(|| self.tables.users().collect())
    }

    /// A subscription is new or has changed. One without deliveries is forgotten at once.
    pub fn handle_subscription(&mut self, subscription: Uid, settings: Settings, now: Timestamp) {
        if let Some(key) = self.tables.find(&subscription) {
            self.begin(key, settings, now);
            self.refresh(key, now);
        }
    }

    /// A subscription is gone: what waits becomes dead letters, what is in flight may finish.
    pub fn handle_ended(&mut self, subscription: Uid, now: Timestamp) {
        match self.tables.find(&subscription) {
            Some(key) => self.end(key, now),
            // It may come back, and be another then.
            None => self.tables.forget(&subscription),
        }
    }

    /// Every subscription is known now: those that were not heard of are gone.
    pub fn handle_all_known(&mut self, now: Timestamp) {
        for key in self.tables.unknown() {
            self.end(key, now);
        }
    }

    /// A delivery is durable and may start. `settings` are asked for if its subscription has no
    /// others here; without any it is gone.
    pub fn handle_accepted(
        &mut self,
        queue: QueueId,
        waiting: Waiting,
        settings: impl FnOnce() -> Option<Settings>,
        now: Timestamp,
    ) {
        self.n_waiting += 1;
        let key = match self.tables.find(&queue.subscription) {
            Some(key) => key,
            None => {
                let key = self.tables.add(queue.subscription);
                match settings() {
                    Some(settings) => self.begin(key, settings, now),
                    None => self.tables.subscriptions[key].phase = Phase::Ended,
                }
                key
            }
        };
        let subscription = &mut self.tables.subscriptions[key];
        if matches!(subscription.phase, Phase::Ended) {
            self.settle(waiting.delivery, waiting.progress, ended());
        } else {
            let roomy = self.n_in_memory < HEADS_MAX;
            let place = subscription.queue(queue.partition);
            let is_due = waiting.due <= now || queue.partition != UNORDERED;
            if is_due && place.takes(now, roomy) {
                place.head.push_back(waiting);
                self.n_in_memory += 1;
                subscription.sort(queue.partition, now);
            } else {
                self.defer(key, queue.partition, waiting, false);
            }
        }
        self.refresh(key, now);
    }

    /// The queue on disk holds `n_deferred` deliveries of an earlier run, the first due at `next_due`.
    pub fn handle_recovered(
        &mut self,
        id: QueueId,
        n_deferred: u64,
        next_due: Timestamp,
        now: Timestamp,
    ) {
        self.n_waiting += n_deferred;
        let found = self.tables.find(&id.subscription);
        let key = found.unwrap_or_else(|| self.tables.add(id.subscription));
        let subscription = &mut self.tables.subscriptions[key];
        let queue = subscription.queue(id.partition);
        queue.n_deferred += n_deferred;
        queue.next_due = Some(queue.next_due.map_or(next_due, |due| due.min(next_due)));
        subscription.sort(id.partition, now);
        self.refresh(key, now);
    }

    /// What [`Command::Load`] took from disk, and when the first of the rest is due.
    pub fn handle_loaded(
        &mut self,
        id: QueueId,
        loaded: Vec<Waiting>,
        next_due: Option<Timestamp>,
        now: Timestamp,
    ) {
        let Some(key) = self.tables.find(&id.subscription) else {
            debug_assert!(false, "a queue stays while it is loading");
            return;
        };
        let subscription = &mut self.tables.subscriptions[key];
        let has_ended = matches!(subscription.phase, Phase::Ended);
        let queue = subscription.queue(id.partition);
        queue.loaded(loaded.len(), next_due);
        if has_ended {
            for it in loaded {
                self.settle(it.delivery, it.progress, ended());
            }
        } else {
            self.n_in_memory += loaded.len();
            queue.head.extend(loaded);
        }
        self.tables.subscriptions[key].sort(id.partition, now);
        self.refresh(key, now);
    }

    /// What [`Command::Review`] found: why the delivery is over, if it is.
    pub fn handle_reviewed(
        &mut self,
        id: QueueId,
        delivery: DeliveryId,
        over: Option<DeadLetterReason>,
        now: Timestamp,
    ) {
        let Some(key) = self.tables.find(&id.subscription) else {
            return;
        };
        let subscription = &mut self.tables.subscriptions[key];
        // It may have been attempted meanwhile.
        if let Some(reason) = over
            && let Some(waiting) = subscription.remove(id.partition, delivery, now)
        {
            self.n_in_memory -= 1;
            self.settle(delivery, waiting.progress, End::DeadLettered(reason));
        }
        self.tables.subscriptions[key].reviewed(id.partition, over.is_some(), now);
        self.refresh(key, now);
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(&(at, alarm)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match alarm {
                Alarm::Subscription(key) => {
                    let subscription = &mut self.tables.subscriptions[key];
                    subscription.timer = None;
                    subscription.wake(now);
                    self.refresh(key, now);
                }
                Alarm::Endpoint(key) => {
                    self.tables.endpoints[key].timer = None;
                    self.wake_endpoint(key, now);
                }
            }
        }
    }

    /// No attempt starts any more; those in flight may finish.
    pub fn handle_stop(&mut self) {
        self.permits = 0;
    }

    /// When [`Core::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// The next effect to perform.
    pub fn poll_command(&mut self, now: Timestamp) -> Option<Command> {
        self.poll_consequence().or_else(|| self.start(now))
    }

    /// The next effect that follows from what has happened: all but the start of an attempt. For times in which outcomes
    /// cannot be written, so that no more of them come about.
    pub fn poll_consequence(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// What the agent should know that a subscription is handed over to.
    #[must_use]
    pub fn hints_of(&self, subscription: &Uid, now: Timestamp) -> Hints {
        let key = self.tables.find(subscription);
        key.map(|key| self.tables.hints_of(key, now))
            .unwrap_or_default()
    }

    /// What the next run should know from the start.
    #[must_use]
    pub fn hints(&self, now: Timestamp) -> Hints {
        self.tables.hints(now)
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            n_waiting: self.n_waiting,
            n_in_flight: self.in_flight.len() as u64,
            n_in_memory: self.n_in_memory as u64,
            bytes_in_flight: self.budgets.bytes(),
            n_destinations: self.tables.destinations.len() as u64,
            braking: self.brake.is_on(),
        }
    }

    fn begin(&mut self, key: usize, settings: Settings, now: Timestamp) {
        let before = self.spot(key);
        let (endpoint, left) = self.tables.attach(key, settings);
        self.silence(left);
        if let Some(before) = before.filter(|it| it.endpoint != endpoint) {
            self.wake_behind(before, now);
        }
        let it = &self.tables.endpoints[endpoint];
        // An earlier run may have found it out of reach.
        if let Some(until) = it.open_until(now).filter(|_| it.timer.is_none()) {
            self.alarm_endpoint(endpoint, until);
        }
    }

    fn end(&mut self, key: usize, now: Timestamp) {
        let before = self.spot(key);
        let left = self.tables.end(key);
        self.silence(left);
        if let Some(before) = before {
            self.wake_behind(before, now);
        }
        for partition in self.tables.subscriptions[key].partitions() {
            let subscription = &mut self.tables.subscriptions[key];
            let waiting = std::mem::take(&mut subscription.queue(partition).head);
            subscription.sort(partition, now);
            self.n_in_memory -= waiting.len();
            for it in waiting {
                self.settle(it.delivery, it.progress, ended());
            }
        }
        self.refresh(key, now);
    }

    fn defer(&mut self, key: usize, partition: u16, waiting: Waiting, failed: bool) {
        let subscription = &mut self.tables.subscriptions[key];
        let waiting = subscription.queue(partition).defer(waiting);
        self.commands.push_back(Command::Defer {
            queue: QueueId {
                subscription: subscription.uid,
                partition,
            },
            waiting,
            failed,
        });
    }

    fn settle(&mut self, delivery: DeliveryId, progress: Progress, end: End) {
        self.n_waiting -= 1;
        self.commands.push_back(Command::Settle {
            delivery,
            progress,
            end,
        });
    }
}

fn ended() -> End {
    End::DeadLettered(DeadLetterReason::SubscriptionEnded)
}
