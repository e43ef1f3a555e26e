//! An endpoint: scheme, host and port, whoever calls it. What can be learnt by one about its being
//! in reach holds for all; what it answers to one tenant says nothing about another.
//!
//! **Invariant:** attempts in flight ≤ [`MAX_IN_FLIGHT`]; while it is out of reach, one probe.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hookfleet_contract::time::Timestamp;

use super::{
    breaker::{Breaker, State},
    health::Health,
};

/// The most attempts in flight to one endpoint, over all tenants: a thousand tenants that call the
/// same victim do not add up.
pub(crate) const MAX_IN_FLIGHT: u32 = 1000;
/// An endpoint that was in reach within this time is expected to be now.
const KNOWN_GOOD: Duration = Duration::from_secs(3600);

/// One endpoint that is being called.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) origin: Arc<str>,
    pub(crate) in_flight: u32,
    /// How many subscriptions refer to it.
    pub(crate) n_users: usize,
    /// Those who wait for a place or for it to be in reach, each once.
    pub(crate) waiters: VecDeque<usize>,
    /// Only its breaker is of use, and where it is: being in reach has no window and no speed.
    pub(crate) health: Health,
    reached: Option<Timestamp>,
    /// The timer that is set, if any.
    pub(crate) timer: Option<Timestamp>,
    /// The last period of the brake in which it was counted.
    pub(crate) counted: u64,
}

impl Endpoint {
    pub(crate) fn new(origin: Arc<str>, health: Health) -> Self {
        Self {
            origin,
            in_flight: 0,
            n_users: 0,
            waiters: VecDeque::new(),
            health,
            reached: None,
            timer: None,
            counted: 0,
        }
    }

    pub(crate) fn breaker(&mut self) -> &mut Breaker {
        &mut self.health.breaker
    }

    /// How many attempts may start.
    pub(crate) fn room(&self, now: Timestamp) -> u32 {
        match self.health.breaker.state(now) {
            State::Open { .. } | State::Half { probing: true } => 0,
            State::Half { probing: false } => 1,
            State::Closed => MAX_IN_FLIGHT.saturating_sub(self.in_flight),
        }
    }

    /// Whether the next attempt is a probe.
    pub(crate) fn is_half(&self, now: Timestamp) -> bool {
        matches!(self.health.breaker.state(now), State::Half { .. })
    }

    /// Until when it is left alone.
    pub(crate) fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.health.breaker.state(now) {
            State::Open { until } => Some(until),
            State::Closed | State::Half { .. } => None,
        }
    }

    /// Somebody answered there.
    pub(crate) fn answered(&mut self, now: Timestamp) {
        self.reached = Some(now);
    }

    /// Whether it was in reach lately.
    pub(crate) fn is_known_good(&self, now: Timestamp) -> bool {
        self.reached.is_some_and(|at| now.since(at) <= KNOWN_GOOD)
    }
}
