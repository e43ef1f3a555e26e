//! Which attempt starts next: whoever's turn it is in the lanes, if nothing keeps it from starting.

use std::{collections::VecDeque, net::IpAddr};

use hookfleet_contract::time::Timestamp;

use super::{
    Attempt, Command, Core, Waiting,
    breaker::State,
    endpoint::Endpoint,
    health::Health,
    lane::{Holder as _, Lane},
    subscription::{Obstacle, Place},
};

/// Retries may hold one permit in so many,
const RETRY_DIVISOR: usize = 5;
/// but at least this many.
const MIN_RETRIES: usize = 16;

/// An attempt that has started.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) subscription: usize,
    pub(super) partition: u16,
    pub(super) waiting: Waiting,
    pub(super) tenant: usize,
    pub(super) endpoint: usize,
    /// Where it counts, if it does. Its endpoint may be elsewhere by now.
    pub(super) destination: Option<IpAddr>,
    pub(super) lane: Lane,
    /// What the breakers of the subscription and of the endpoint called the present.
    pub(super) generation: u16,
    pub(super) endpoint_generation: u16,
}

/// What a subscription waits for that wants to start an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Subscription(Obstacle),
    /// Its endpoint is full or out of reach.
    Endpoint(usize),
    /// The address behind its endpoint is full.
    Destination(IpAddr),
}

/// Where others may wait for a subscription that does not start an attempt although it could have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) endpoint: usize,
    destination: Option<IpAddr>,
}

/// What attempts share besides permits.
#[derive(Debug)]
pub(super) struct Budgets {
    max_retries: usize,
    n_retries: usize,
    max_bytes: u64,
    bytes: u64,
    waiters: VecDeque<usize>,
}

// === impl InFlight ===

impl InFlight {
    fn is_retry(&self) -> bool {
        self.waiting.progress.attempts > 0
    }
}

// === impl Budgets ===

impl Budgets {
    pub(super) fn new(permits: usize, max_bytes: u64) -> Self {
        Self {
            max_retries: (permits / RETRY_DIVISOR).max(MIN_RETRIES),
            n_retries: 0,
            max_bytes,
            bytes: 0,
            waiters: VecDeque::new(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is room. The first always fits, however large it is.
    fn admit(&self, waiting: &Waiting) -> bool {
        let fits = self.bytes == 0 || self.bytes + u64::from(waiting.bytes) <= self.max_bytes;
        fits && (waiting.progress.attempts == 0 || self.n_retries < self.max_retries)
    }

    fn start(&mut self, flight: &InFlight) {
        self.bytes += u64::from(flight.waiting.bytes);
        self.n_retries += usize::from(flight.is_retry());
    }

    pub(super) fn end(&mut self, flight: &InFlight) {
        self.bytes -= u64::from(flight.waiting.bytes);
        self.n_retries -= usize::from(flight.is_retry());
    }
}

// === impl Core ===

impl Core {
    /// Starts the next attempt, if any may start.
    pub(super) fn start(&mut self, now: Timestamp) -> Option<Command> {
        let permits = self.brake.permits(self.permits);
        while self.in_flight.len() < permits {
            let (lane, key) = self.lanes.next(permits, &mut self.tables.tenants)?;
            self.tables.subscriptions[key].place = Place::Nowhere;
            if self.obstacle(key, now) == Ok(lane) {
                if let Some(attempt) = self.try_start(key, lane, now) {
                    self.refresh(key, now);
                    return Some(Command::Attempt(attempt));
                }
                continue;
            }
            // Something has happened since it entered the lane. Whoever waits behind it may do better.
            let spot = self.spot(key);
            self.refresh(key, now);
            if let Some(spot) = spot {
                self.wake_behind(spot, now);
            }
            self.wake_budget(now);
        }
        None
    }

    /// In which lane a subscription may start an attempt, or what it waits for.
    pub(super) fn obstacle(&self, key: usize, now: Timestamp) -> Result<Lane, Wait> {
        let subscription = &self.tables.subscriptions[key];
        if let Some(obstacle) = subscription.obstacle(now) {
            return Err(Wait::Subscription(obstacle));
        }
        let Some(live) = subscription.phase.live() else {
            return Err(Wait::Subscription(Obstacle::Itself(None)));
        };
        if let Some(until) = self.tables.paused_until(live, now) {
            return Err(Wait::Subscription(Obstacle::Receiver(Some(until))));
        }
        let endpoint = &self.tables.endpoints[live.endpoint];
        if endpoint.room(now) == 0 {
            return Err(Wait::Endpoint(live.endpoint));
        }
        let is_probe = endpoint.is_half(now)
            || matches!(subscription.health.breaker.state(now), State::Half { .. });
        let lane = if is_probe {
            Lane::Probe
        } else {
            subscription.health.lane()
        };
        match destination(&subscription.health, endpoint, lane) {
            Some(address) if self.tables.destinations.room(address) == 0 => {
                Err(Wait::Destination(address))
            }
            Some(_) | None => Ok(lane),
        }
    }

    /// A subscription enters a lane.
    pub(super) fn enter(&mut self, key: usize, lane: Lane) {
        let subscription = &mut self.tables.subscriptions[key];
        if let Some(live) = subscription.phase.live() {
            let tenant = live.tenant;
            subscription.place = Place::Lane;
            self.lanes
                .enter(lane, tenant, key, &mut self.tables.tenants);
        }
    }

    fn try_start(&mut self, key: usize, lane: Lane, now: Timestamp) -> Option<Attempt> {
        let subscription = &mut self.tables.subscriptions[key];
        let live = subscription.phase.live()?;
        let (tenant, endpoint) = (live.tenant, live.endpoint);
        let (partition, waiting) = subscription.next(now)?;
        if !self.budgets.admit(&waiting) {
            subscription.place = Place::Budget;
            self.budgets.waiters.push_back(key);
            return None;
        }
        let called = &self.tables.endpoints[endpoint];
        let destination = destination(&subscription.health, called, lane);
        subscription.start(partition, now);
        let flight = InFlight {
            subscription: key,
            partition,
            waiting,
            tenant,
            endpoint,
            destination,
            lane,
            generation: subscription.health.breaker.start(now),
            endpoint_generation: self.tables.endpoints[endpoint].breaker().start(now),
        };
        self.tables.endpoints[endpoint].in_flight += 1;
        if let Some(address) = destination {
            self.tables.destinations.start(address);
        }
        let tenant = &mut self.tables.tenants[tenant];
        self.lanes.start(lane, waiting.bytes, tenant);
        self.budgets.start(&flight);
        self.n_waiting -= 1;
        self.n_in_memory -= 1;
        self.in_flight.insert(waiting.delivery, flight);
        Some(Attempt {
            subscription: subscription.uid,
            delivery: waiting.delivery,
            progress: waiting.progress,
        })
    }

    pub(super) fn spot(&self, key: usize) -> Option<Spot> {
        let live = self.tables.subscriptions[key].phase.live()?;
        Some(Spot {
            endpoint: live.endpoint,
            destination: self.tables.endpoints[live.endpoint].health.destination,
        })
    }

    /// Lets those go on who may have waited for somebody whose turn it was.
    pub(super) fn wake_behind(&mut self, spot: Spot, now: Timestamp) {
        self.wake_endpoint(spot.endpoint, now);
        self.wake_destination(spot.destination, now);
    }

    /// Lets those go on who wait for an endpoint, as many as may start. One that no longer wants to
    /// makes room for the next.
    pub(super) fn wake_endpoint(&mut self, key: usize, now: Timestamp) {
        let Some(endpoint) = self.tables.endpoints.get(key) else {
            return;
        };
        let mut room = endpoint.room(now);
        while room > 0
            && let Some(endpoint) = self.tables.endpoints.get_mut(key)
            && let Some(woken) = endpoint.waiters.pop_front()
        {
            room -= u32::from(self.wake(woken, now));
        }
    }

    /// Lets those go on who wait for a destination, likewise.
    pub(super) fn wake_destination(&mut self, destination: Option<IpAddr>, now: Timestamp) {
        let Some(address) = destination else {
            return;
        };
        let mut room = self.tables.destinations.room_for_waiters(address);
        while room > 0
            && let Some(woken) = self.tables.destinations.next(address)
        {
            debug_assert_eq!(
                self.tables.subscriptions[woken].place,
                Place::Destination(address)
            );
            room -= u32::from(self.wake(woken, now));
        }
    }

    /// Lets one go on who waits for a budget.
    pub(super) fn wake_budget(&mut self, now: Timestamp) {
        while let Some(woken) = self.budgets.waiters.pop_front() {
            let spot = self.spot(woken);
            if self.wake(woken, now) {
                return;
            }
            if let Some(spot) = spot {
                self.wake_behind(spot, now);
            }
        }
    }

    /// A subscription waits no longer. Whether it is about to start an attempt.
    fn wake(&mut self, key: usize, now: Timestamp) -> bool {
        self.tables.subscriptions[key].place = Place::Nowhere;
        self.refresh(key, now);
        let place = self.tables.subscriptions.get(key).map(|it| it.place);
        place == Some(Place::Lane)
    }

    /// Gives back what an attempt held.
    pub(super) fn release(&mut self, flight: &InFlight) {
        let tenant = &mut self.tables.tenants[flight.tenant];
        debug_assert!(!tenant.share(flight.lane).is_idle());
        self.lanes.end(flight.lane, tenant);
        self.tables.leave_tenant(flight.tenant);
        self.budgets.end(flight);
        self.tables.endpoints[flight.endpoint].in_flight -= 1;
        if let Some(address) = flight.destination {
            self.tables.destinations.end(address);
        }
        self.tables.subscriptions[flight.subscription].end(flight.partition);
    }
}

/// The destination at which an attempt counts.
fn destination(health: &Health, endpoint: &Endpoint, lane: Lane) -> Option<IpAddr> {
    match health.is_wanted(lane) {
        true => None,
        false => endpoint.health.destination,
    }
}
