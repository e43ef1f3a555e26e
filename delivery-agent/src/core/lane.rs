//! Lanes keep receivers of one kind from standing in the way of another kind, and tenants take turns
//! within a lane: deficit round robin by bytes. It hands out turns; what may start is not its business.
//!
//! **Invariant:** a subscription stands in one lane of its tenant at most, once.

use std::collections::VecDeque;

use slab::Slab;

/// What one turn of a tenant is worth, in bytes.
const QUANTUM: i64 = 64 << 10;
/// What an attempt costs besides its body: a request, a response, a permit.
const ATTEMPT_COST: i64 = 16 << 10;
/// Every so many turns the lanes that come last are asked first, so that nothing starves them.
const FLOOR_EVERY: u32 = 8;

/// The kind of receiver that an attempt goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// It has answered, and fast.
    Proven,
    /// It has not answered yet.
    New,
    /// It failed and may be well again.
    Probe,
    /// It answers slowly.
    Slow,
}

/// The order in which lanes are asked. With `Slow` before `New`, new receivers starved in simulation.
pub(crate) const LANES: [Lane; 4] = [Lane::Proven, Lane::New, Lane::Probe, Lane::Slow];

/// Everyone who waits for a permit.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: [Turns; 4],
    n_turns: u32,
}

/// The tenants of one lane, in turn.
#[derive(Debug, Default)]
struct Turns {
    ring: VecDeque<usize>,
    in_flight: usize,
}

/// A tenant's place in one lane.
#[derive(Debug, Default)]
pub(crate) struct Share {
    ready: VecDeque<usize>,
    deficit: i64,
    in_flight: usize,
    in_ring: bool,
}

/// Who holds shares.
pub(crate) trait Holder {
    /// Its share of a lane.
    fn share(&mut self, lane: Lane) -> &mut Share;
}

// === impl Lane ===

impl Lane {
    /// The most permits that the attempts of a lane may hold, of `permits`.
    fn cap(self, permits: usize) -> usize {
        let percent = match self {
            Self::Proven => 100,
            Self::New => 40,
            Self::Probe => 10,
            Self::Slow => 45,
        };
        (permits * percent / 100).max(1)
    }
}

// === impl Lanes ===

impl Lanes {
    /// A subscription of a tenant wants to start an attempt.
    pub(crate) fn enter<T: Holder>(
        &mut self,
        lane: Lane,
        tenant: usize,
        subscription: usize,
        tenants: &mut Slab<T>,
    ) {
        let share = tenants[tenant].share(lane);
        share.ready.push_back(subscription);
        if !share.in_ring {
            share.in_ring = true;
            self.lanes[lane as usize].ring.push_back(tenant);
        }
    }

    /// Whose turn it is: the subscription leaves the lane.
    pub(crate) fn next<T: Holder>(
        &mut self,
        permits: usize,
        tenants: &mut Slab<T>,
    ) -> Option<(Lane, usize)> {
        let last_first = self.n_turns.is_multiple_of(FLOOR_EVERY);
        let order = |index: usize| if last_first { 3 - index } else { index };
        (0..4).map(|it| LANES[order(it)]).find_map(|lane| {
            let turns = &mut self.lanes[lane as usize];
            let cap = lane.cap(permits);
            if turns.in_flight >= cap {
                return None;
            }
            Some((lane, turns.next(lane, cap, tenants)?))
        })
    }

    /// An attempt starts.
    pub(crate) fn start<T: Holder>(&mut self, lane: Lane, bytes: u32, tenant: &mut T) {
        self.n_turns = self.n_turns.wrapping_add(1);
        self.lanes[lane as usize].in_flight += 1;
        let share = tenant.share(lane);
        share.in_flight += 1;
        share.deficit -= ATTEMPT_COST + i64::from(bytes);
    }

    /// An attempt is over.
    pub(crate) fn end<T: Holder>(&mut self, lane: Lane, tenant: &mut T) {
        self.lanes[lane as usize].in_flight -= 1;
        tenant.share(lane).in_flight -= 1;
    }
}

// === impl Turns ===

impl Turns {
    fn next<T: Holder>(&mut self, lane: Lane, cap: usize, tenants: &mut Slab<T>) -> Option<usize> {
        // One tenant holds at most half of a lane while others wait.
        let mut n_passed_over = 0;
        loop {
            let tenant = *self.ring.front()?;
            let share = tenants[tenant].share(lane);
            if share.ready.is_empty() {
                // Credit is not saved up while there is nothing to spend it on.
                share.deficit = share.deficit.min(0);
                share.in_ring = false;
                self.ring.pop_front();
                continue;
            }
            let others_wait = n_passed_over + 1 < self.ring.len();
            if others_wait && share.in_flight >= (cap / 2).max(1) {
                n_passed_over += 1;
                self.ring.rotate_left(1);
                continue;
            }
            n_passed_over = 0;
            if share.deficit <= 0 {
                share.deficit += QUANTUM;
                self.ring.rotate_left(1);
                continue;
            }
            return share.ready.pop_front();
        }
    }
}

// === impl Share ===

impl Share {
    /// Whether the tenant has nothing in this lane.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.in_flight == 0 && !self.in_ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Tenant([Share; 4]);

    impl Holder for Tenant {
        fn share(&mut self, lane: Lane) -> &mut Share {
            &mut self.0[lane as usize]
        }
    }

    const PERMITS: usize = 100;

    /// Lanes in which each of `n_tenants` has `each` subscriptions, numbered by tenant.
    fn filled(n_tenants: usize, each: usize, lane: Lane) -> (Lanes, Slab<Tenant>) {
        let (mut lanes, mut tenants) = (Lanes::default(), Slab::new());
        for tenant in 0..n_tenants {
            tenants.insert(Tenant::default());
            for _ in 0..each {
                lanes.enter(lane, tenant, tenant, &mut tenants);
            }
        }
        (lanes, tenants)
    }

    #[test]
    fn tenants_take_turns_by_bytes() {
        let (mut lanes, mut tenants) = filled(2, 500, Lane::Proven);
        let mut n_started = [0, 0];
        for _ in 0..400 {
            let (lane, tenant) = lanes.next(PERMITS, &mut tenants).unwrap();
            // The first sends a megabyte each time, the second nothing much.
            let bytes = if tenant == 0 { 1 << 20 } else { 0 };
            lanes.start(lane, bytes, &mut tenants[tenant]);
            lanes.end(lane, &mut tenants[tenant]);
            n_started[tenant] += 1;
        }
        let ratio = f64::from(n_started[1]) / f64::from(n_started[0]);
        let cost = ((1 << 20) + ATTEMPT_COST) as f64 / ATTEMPT_COST as f64;
        assert!((ratio / cost - 1.0).abs() < 0.2, "{n_started:?}");
    }

    #[test]
    fn lanes_are_capped_and_the_last_are_not_starved() {
        let (mut lanes, mut tenants) = filled(1, 1000, Lane::Proven);
        for _ in 0..1000 {
            lanes.enter(Lane::Slow, 0, 0, &mut tenants);
        }
        let mut in_flight = [0; 4];
        while let Some((lane, _)) = lanes.next(PERMITS, &mut tenants) {
            lanes.start(lane, 0, &mut tenants[0]);
            in_flight[lane as usize] += 1;
            if in_flight.iter().sum::<usize>() == PERMITS {
                break;
            }
        }
        let slow = in_flight[Lane::Slow as usize];
        assert!((PERMITS / 10..=45).contains(&slow), "{in_flight:?}");

        let (mut lanes, mut tenants) = filled(1, 1000, Lane::Slow);
        while let Some((lane, _)) = lanes.next(PERMITS, &mut tenants) {
            lanes.start(lane, 0, &mut tenants[0]);
        }
        assert_eq!(tenants[0].share(Lane::Slow).in_flight, 45);
    }

    #[test]
    fn no_tenant_holds_more_than_half_of_a_lane_while_others_wait() {
        let (mut lanes, mut tenants) = filled(1, 1000, Lane::New);
        for _ in 0..40 {
            let (lane, _) = lanes.next(PERMITS, &mut tenants).unwrap();
            lanes.start(lane, 0, &mut tenants[0]);
        }
        assert_eq!(
            lanes.next(PERMITS, &mut tenants),
            None,
            "the cap of the lane"
        );
        tenants.insert(Tenant::default());
        for _ in 0..1000 {
            lanes.enter(Lane::New, 1, 1, &mut tenants);
        }
        for _ in 0..20 {
            lanes.end(Lane::New, &mut tenants[0]);
            let (lane, tenant) = lanes.next(PERMITS, &mut tenants).unwrap();
            assert_eq!(tenant, 1);
            lanes.start(lane, 0, &mut tenants[1]);
        }
    }

    #[test]
    fn what_nobody_else_wants_one_tenant_may_have() {
        let (mut lanes, mut tenants) = filled(1, 1000, Lane::Proven);
        for _ in 0..PERMITS {
            let (lane, _) = lanes.next(PERMITS, &mut tenants).unwrap();
            lanes.start(lane, 1 << 20, &mut tenants[0]);
        }
        assert!(tenants[0].share(Lane::Slow).is_idle());
        assert!(!tenants[0].share(Lane::Proven).is_idle());
    }
}
