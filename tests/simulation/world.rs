//! A driver for the real core in virtual time: receivers that answer as they are told, a perfect disk,
//! and a count of everything. The same seed makes the same run.
//!
//! It checks at every step that permits are bounded, that a delivery is in one place and ends once,
//! that retries are never early, that what is suspended or over its rate is not called, that a
//! partition is attempted in order and one at a time, and that an address is not called more often at once than it may be
//! by those who never had a success, as far as the core knows where their endpoints are.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use hookfleet_contract::{
    id::DeliveryId,
    partition::UNORDERED,
    response::Verdict,
    retry::{Jitter, Policy, Progress, Retry},
    shard::Shard,
    time::Timestamp,
};
use hookfleet_delivery_agent::core::{
    Attempt, Command, Core, End, Finished, Hints, QueueId, Settings, Uid, Waiting,
};
use hookfleet_proto::v1::{DeadLetterReason, FailureKind, subscription::SuspendReason};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

pub(crate) const T0: Timestamp = Timestamp(1_700_000_000_000);

/// How a receiver answers an attempt that starts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In 5 to 50 ms, and one in 200 with a 500.
    Healthy,
    /// After 5 s.
    Slow,
    /// Refuses connections.
    Refuses,
    /// Never accepts one: 3 s each.
    BlackHole,
    /// Answers 500 at once.
    Fails,
    /// Never asked to be called: 404 after 2 s.
    Stranger,
    /// Well for 20 s and failing for 20 s, in turn.
    Flaps,
    /// Every tenth attempt is a 429 with a pause of 2 s.
    Throttles,
}

/// One subscription and what became of its deliveries.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) uid: Uid,
    pub(crate) kind: Kind,
    pub(crate) settings: Settings,
    pub(crate) in_flight: u32,
    pub(crate) ended: bool,
    pub(crate) paused_until: Timestamp,
    succeeded: bool,
    starts: Vec<Timestamp>,
    /// The last delivery of each partition that was attempted first, and who is in flight.
    order: HashMap<u16, (u64, Option<DeliveryId>)>,
}

/// A delivery that is not over.
#[derive(Clone, Copy, Debug)]
struct Open {
    subscriber: usize,
    partition: u16,
    accepted: Timestamp,
    place: Where,
    /// No attempt may start before.
    due: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Core,
    Disk,
    Flight,
    Elsewhere,
}

/// The core and everything around it.
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) rng: SmallRng,
    pub(crate) subscribers: Vec<Subscriber>,
    /// Called with (subscriber, queue delay in ms) for each delivery that succeeded.
    pub(crate) on_success: Box<dyn FnMut(usize, u64)>,
    pub(crate) n_accepted: u64,
    pub(crate) n_succeeded: u64,
    pub(crate) n_dead: u64,
    pub(crate) n_handed_over: u64,
    pub(crate) n_in_flight: usize,
    pub(crate) permits: usize,
    /// Where names lead to, if it is the public internet.
    pub(crate) names: HashMap<Arc<str>, IpAddr>,
    /// Where the core has heard that they lead to.
    known: HashMap<Arc<str>, IpAddr>,
    /// Attempts in flight of those who never had a success, where the core believes that they go.
    crowds: HashMap<IpAddr, usize>,
    /// How many may be in one.
    crowd_max: usize,
    pub(crate) n_crowded: usize,
    by_uid: HashMap<Uid, usize>,
    open: HashMap<DeliveryId, Open>,
    disk: BTreeMap<QueueId, BTreeMap<(Timestamp, DeliveryId), Waiting>>,
    flights: BinaryHeap<Reverse<(Timestamp, DeliveryId)>>,
    attempts: HashMap<DeliveryId, Flown>,
    /// What another agent has been given and has not answered for.
    given: VecDeque<(QueueId, Vec<Waiting>)>,
    policy: Arc<Policy>,
}

/// An attempt, and what comes of it.
#[derive(Clone, Debug)]
struct Flown {
    attempt: Attempt,
    answer: Answer,
    started: Timestamp,
    /// The endpoint, and where its name led to.
    destination: Option<(Arc<str>, IpAddr)>,
    crowd: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    kind: FailureKind,
    status: Option<u16>,
    pause: Option<Duration>,
}

const OK: Answer = Answer {
    kind: FailureKind::Unspecified,
    status: Some(200),
    pause: None,
};

impl World {
    pub(crate) fn new(seed: u64, permits: usize) -> Self {
        Self {
            core: Core::new(permits, u64::MAX),
            now: T0,
            rng: SmallRng::seed_from_u64(seed),
            subscribers: Vec::new(),
            on_success: Box::new(|_, _| {}),
            n_accepted: 0,
            n_succeeded: 0,
            n_dead: 0,
            n_handed_over: 0,
            n_in_flight: 0,
            permits,
            names: HashMap::new(),
            known: HashMap::new(),
            crowds: HashMap::new(),
            crowd_max: (permits / 8).clamp(1, 500),
            n_crowded: 0,
            by_uid: HashMap::new(),
            open: HashMap::new(),
            disk: BTreeMap::new(),
            flights: BinaryHeap::new(),
            attempts: HashMap::new(),
            given: VecDeque::new(),
            policy: Arc::new(Policy::default()),
        }
    }

    pub(crate) fn subscribe(&mut self, kind: Kind, tenant: &str, endpoint: &str) -> usize {
        let index = self.subscribers.len();
        let mut uid = [0; 16];
        self.rng.fill(&mut uid);
        self.by_uid.insert(uid, index);
        self.subscribers.push(Subscriber {
            uid,
            kind,
            settings: Settings {
                shard: Shard::first(&tenant.parse().unwrap()),
                endpoint: endpoint.into(),
                policy: Arc::clone(&self.policy),
                max_in_flight: 64,
                max_requests_per_second: None,
                suspended: false,
            },
            in_flight: 0,
            ended: false,
            paused_until: T0,
            succeeded: false,
            starts: Vec::new(),
            order: HashMap::new(),
        });
        index
    }

    pub(crate) fn publish(&mut self, subscriber: usize, partition: u16) {
        self.n_accepted += 1;
        let delivery = DeliveryId {
            seq: self.n_accepted,
            target: 0,
        };
        let it = &self.subscribers[subscriber];
        let queue = QueueId {
            subscription: it.uid,
            partition,
        };
        self.open.insert(
            delivery,
            Open {
                subscriber,
                partition,
                accepted: self.now,
                place: Where::Core,
                due: self.now,
            },
        );
        let waiting = Waiting {
            delivery,
            progress: Progress::default(),
            bytes: 1024,
            due: self.now,
        };
        let settings = || (!it.ended).then(|| it.settings.clone());
        self.core
            .handle_accepted(queue, waiting, settings, self.now);
        self.perform();
    }

    /// Tells the core of a change of a subscription's settings.
    pub(crate) fn tell(&mut self, subscriber: usize) {
        let it = &self.subscribers[subscriber];
        self.core
            .handle_subscription(it.uid, it.settings.clone(), self.now);
        self.perform();
    }

    pub(crate) fn end(&mut self, subscriber: usize) {
        self.subscribers[subscriber].ended = true;
        self.core
            .handle_ended(self.subscribers[subscriber].uid, self.now);
        self.perform();
    }

    /// A tenant's slot has moved.
    pub(crate) fn leave(&mut self, tenant: &str) {
        let shards = [Shard::first(&tenant.parse().unwrap())].into();
        self.core.handle_leaving(&shards, self.now);
        self.perform();
    }

    /// The other agent answers, and has mostly taken what it was given.
    fn answer_given(&mut self) {
        let Some((queue, lot)) = self.given.pop_front() else {
            return;
        };
        for waiting in &lot {
            self.open.get_mut(&waiting.delivery).unwrap().place = Where::Core;
        }
        let is_taken = self.rng.random::<f64>() < 0.7;
        self.core.handle_handed(queue, lot, is_taken, self.now);
        self.perform();
    }

    /// A crash: attempts in flight are forgotten, and everything that is not over comes back.
    pub(crate) fn restart(&mut self) {
        let hints: Hints = self.core.hints(self.now);
        self.core = Core::new(self.permits, u64::MAX);
        self.core.handle_hints(hints);
        self.flights.clear();
        self.given.clear();
        self.known.clear();
        self.crowds.clear();
        self.n_in_flight = 0;
        for it in &mut self.subscribers {
            it.in_flight = 0;
            it.starts.clear();
            for (_, flight) in it.order.values_mut() {
                *flight = None;
            }
        }
        let mut lost: Vec<DeliveryId> = self.open.keys().copied().collect();
        lost.sort_unstable();
        for id in lost {
            let Some(open) = self.open.get_mut(&id) else {
                continue;
            };
            if open.place != Where::Disk {
                let waiting = Waiting {
                    delivery: id,
                    progress: self
                        .attempts
                        .get(&id)
                        .map(|it| it.attempt.progress)
                        .unwrap_or_default(),
                    bytes: 1024,
                    due: open.due,
                };
                open.place = Where::Disk;
                let queue = QueueId {
                    subscription: self.subscribers[open.subscriber].uid,
                    partition: open.partition,
                };
                self.put(queue, waiting);
            }
        }
        let queues: Vec<(QueueId, u64, Timestamp)> = self
            .disk
            .iter()
            .filter_map(|(queue, it)| Some((*queue, it.len() as u64, it.keys().next()?.0)))
            .collect();
        for (queue, n, due) in queues {
            self.core.handle_recovered(queue, n, due, self.now);
        }
        for index in 0..self.subscribers.len() {
            if !self.subscribers[index].ended {
                self.tell(index);
            }
        }
        self.core.handle_all_known(self.now);
        self.perform();
    }

    /// When the next thing happens by itself.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        let flight = self.flights.peek().map(|Reverse((at, _))| *at);
        let given = self.given.front().map(|_| self.now);
        [flight, given, self.core.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets everything happen up to `until`.
    pub(crate) fn run_until(&mut self, until: Timestamp) {
        while let Some(at) = self.next_at()
            && at <= until
        {
            self.now = at.max(self.now);
            self.answer_given();
            if let Some(&Reverse((at, delivery))) = self.flights.peek()
                && at <= self.now
            {
                self.flights.pop();
                self.land(delivery);
            } else {
                self.core.handle_timeout(self.now);
            }
            self.perform();
        }
        self.now = until.max(self.now);
    }

    /// Deliveries that are not over.
    pub(crate) fn n_open(&self) -> usize {
        self.open.len()
    }

    /// Attempts in flight to receivers of some kinds.
    pub(crate) fn n_in_flight_to(&self, kinds: &[Kind]) -> u64 {
        let those = self
            .subscribers
            .iter()
            .filter(|it| kinds.contains(&it.kind));
        those.map(|it| u64::from(it.in_flight)).sum()
    }

    fn perform(&mut self) {
        while let Some(command) = self.core.poll_command(self.now) {
            self.carry_out(command);
        }
        assert_eq!(self.core.counts().n_in_flight as usize, self.n_in_flight);
        assert!(self.n_in_flight <= self.permits);
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Attempt(attempt) => self.fly(attempt),
            Command::Review { queue, delivery } => {
                let open = self.open[&delivery];
                let over = self.now.since(open.accepted) > self.policy.ttl;
                let over = over.then_some(DeadLetterReason::Ttl);
                self.core.handle_reviewed(queue, delivery, over, self.now);
            }
            Command::Defer { queue, waiting, .. } => {
                let open = self.open.get_mut(&waiting.delivery).unwrap();
                assert_eq!(open.place, Where::Core);
                open.place = Where::Disk;
                open.due = open.due.max(waiting.due);
                self.put(queue, waiting);
            }
            Command::Postpone { waiting } => {
                let open = self.open.get_mut(&waiting.delivery).unwrap();
                assert_eq!(open.place, Where::Core);
                open.due = open.due.max(waiting.due);
            }
            Command::Load {
                queue,
                until,
                limit,
            } => self.load(queue, until, limit),
            Command::HandOver { queue, lot } => {
                let it = &self.subscribers[self.by_uid[&queue.subscription]];
                assert!(it.in_flight == 0 && !it.ended, "{it:?}");
                assert!(!self.given.iter().any(|(given, _)| *given == queue));
                for waiting in &lot {
                    let open = self.open.get_mut(&waiting.delivery).unwrap();
                    assert_eq!(open.place, Where::Core);
                    open.place = Where::Elsewhere;
                }
                self.given.push_back((queue, lot));
            }
            Command::Settle { delivery, end, .. } => {
                let open = self.open.remove(&delivery);
                let open = open.unwrap_or_else(|| panic!("{delivery} ended twice"));
                assert_eq!(open.place, Where::Core);
                match end {
                    End::Succeeded => self.n_succeeded += 1,
                    End::DeadLettered(_) => self.n_dead += 1,
                    End::HandedOver => self.n_handed_over += 1,
                }
                self.attempts.remove(&delivery);
            }
            Command::Suspend {
                subscription,
                reason,
            } => {
                assert_eq!(reason, SuspendReason::NoSuccess);
                let index = self.by_uid[&subscription];
                self.subscribers[index].settings.suspended = true;
            }
        }
    }

    fn fly(&mut self, attempt: Attempt) {
        let now = self.now;
        let open = self.open.get_mut(&attempt.delivery).unwrap();
        assert_eq!(open.place, Where::Core, "{attempt:?}");
        assert!(open.due <= now, "{attempt:?} is early");
        open.place = Where::Flight;
        let (index, partition) = (open.subscriber, open.partition);
        let it = &mut self.subscribers[index];
        assert!(!it.settings.suspended && !it.ended, "{it:?}");
        assert!(it.paused_until <= now, "it asked for a pause: {it:?}");
        it.in_flight += 1;
        self.n_in_flight += 1;
        assert!(it.in_flight <= it.settings.max_in_flight);
        if let Some(rate) = it.settings.max_requests_per_second {
            it.starts.push(now);
            let second = it.starts.iter().rev();
            let n = second.take_while(|at| now.since(**at).as_millis() < 1000);
            // A second's burst, and what a second brings.
            assert!(n.count() as f64 <= 2.0 * rate.max(1.0) + 1.0);
        }
        if partition != UNORDERED {
            let order = it.order.entry(partition).or_default();
            assert_eq!(order.1, None, "one at a time: {attempt:?}");
            assert!(order.0 <= attempt.delivery.seq, "in order: {attempt:?}");
            *order = (attempt.delivery.seq, Some(attempt.delivery));
        }
        let endpoint = &it.settings.endpoint;
        let destination = self.names.get_key_value(endpoint);
        let destination = destination.map(|(name, address)| (Arc::clone(name), *address));
        let crowd = self.known.get(endpoint).filter(|_| !it.succeeded).copied();
        if let Some(address) = crowd {
            let n = self.crowds.entry(address).or_default();
            *n += 1;
            assert!(*n <= self.crowd_max, "{n} at {address}: {attempt:?}");
            self.n_crowded += usize::from(*n == self.crowd_max);
        }
        let (kind, roll) = (it.kind, self.rng.random::<f64>());
        let (millis, answer) = self.answer(kind, roll);
        let at = now + Duration::from_millis(millis);
        self.flights.push(Reverse((at, attempt.delivery)));
        let flown = Flown {
            attempt,
            answer,
            started: now,
            destination,
            crowd,
        };
        self.attempts.insert(attempt.delivery, flown);
    }

    fn answer(&mut self, kind: Kind, roll: f64) -> (u64, Answer) {
        let quick = self.rng.random_range(5..=50);
        let failed = |kind, status| Answer {
            kind,
            status,
            pause: None,
        };
        let error = failed(FailureKind::Status, Some(500));
        let connect = failed(FailureKind::Connect, None);
        match kind {
            Kind::Healthy if roll < 0.005 => (quick, error),
            Kind::Healthy => (quick, OK),
            Kind::Slow => (5000, OK),
            Kind::Refuses => (1, connect),
            Kind::BlackHole => (3000, connect),
            Kind::Fails => (quick, error),
            Kind::Stranger => (2000, failed(FailureKind::Status, Some(404))),
            Kind::Flaps if self.now.since(T0).as_secs() / 20 % 2 == 1 => (quick, error),
            Kind::Flaps => (quick, OK),
            Kind::Throttles if roll < 0.1 => {
                let pause = Some(Duration::from_secs(2));
                let answer = Answer {
                    kind: FailureKind::Status,
                    status: Some(429),
                    pause,
                };
                (quick, answer)
            }
            Kind::Throttles => (quick, OK),
        }
    }

    fn land(&mut self, delivery: DeliveryId) {
        let Flown {
            attempt,
            answer,
            started,
            destination,
            crowd,
        } = self.attempts[&delivery].clone();
        let open = self.open.get_mut(&delivery).unwrap();
        open.place = Where::Core;
        let (index, accepted) = (open.subscriber, open.accepted);
        let it = &mut self.subscribers[index];
        it.in_flight -= 1;
        self.n_in_flight -= 1;
        if let Some((_, flight)) = it.order.get_mut(&open.partition) {
            *flight = None;
        }
        if let Some(n) = crowd.and_then(|it| self.crowds.get_mut(&it)) {
            *n -= 1;
        }
        let verdict = if answer.kind == FailureKind::Unspecified {
            it.succeeded = true;
            (self.on_success)(index, started.since(accepted).as_millis() as u64);
            Verdict::Delivered
        } else {
            if let Some(pause) = answer.pause {
                it.paused_until = self.now + pause;
            }
            Verdict::Retry(Retry {
                failure: answer.kind,
                minimum: Duration::ZERO,
                retry_after: answer.pause,
                throttled: answer.pause.is_some(),
                pause_endpoint: answer.pause.is_some(),
            })
        };
        // What a crash would find in the log.
        let counted = Progress {
            attempts: attempt.progress.attempts + 1,
            step: attempt.progress.step + u32::from(answer.pause.is_none()),
        };
        self.attempts.get_mut(&delivery).unwrap().attempt.progress = counted;
        let finished = Finished {
            delivery,
            verdict,
            status: answer.status,
            attempted: true,
            duration: self.now.since(started),
            destination: destination.as_ref().map(|(_, address)| *address),
            accept_time: accepted,
            expiry: None,
            jitter: Jitter {
                delay: self.rng.random(),
                retry_after: self.rng.random(),
            },
            spread: self.rng.random(),
        };
        self.known.extend(destination);
        self.core.handle_finished(finished, self.now);
    }

    fn put(&mut self, queue: QueueId, waiting: Waiting) {
        let due = if queue.partition == UNORDERED {
            waiting.due
        } else {
            Timestamp(0)
        };
        let queue = self.disk.entry(queue).or_default();
        let before = queue.insert((due, waiting.delivery), waiting);
        assert_eq!(before, None);
    }

    fn load(&mut self, id: QueueId, until: Timestamp, limit: usize) {
        let queue = self.disk.entry(id).or_default();
        let mut loaded = Vec::new();
        while loaded.len() < limit
            && let Some(entry) = queue.first_entry()
            && entry.key().0 <= until
        {
            let waiting = entry.remove();
            self.open.get_mut(&waiting.delivery).unwrap().place = Where::Core;
            loaded.push(waiting);
        }
        let next_due = queue.keys().next().map(|it| it.0);
        if queue.is_empty() {
            self.disk.remove(&id);
        }
        self.core.handle_loaded(id, loaded, next_due, self.now);
    }
}
