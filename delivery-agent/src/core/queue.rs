//! One subscription's deliveries: a bounded head in memory, the rest on disk, and what limits how
//! fast the head may go. It knows only itself; the permits that all share are the core's.
//!
//! **Invariant:** `head.len() <= HEAD_MAX + LOAD_MAX`, whatever arrives.

use std::{collections::VecDeque, sync::Arc};

use hookfleet_contract::{id::DeliveryId, retry, retry::Progress, time::Timestamp};

use super::window::Window;

/// A new delivery joins the head up to this length, 32 × 24 bytes; beyond, it goes to disk.
pub(crate) const HEAD_MAX: usize = 32;
/// The head is filled from disk when it is down to half, with at most this many at once.
pub(crate) const LOAD_MAX: usize = HEAD_MAX / 2;

/// What the core needs to know of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// When a failed delivery is tried again.
    pub policy: Arc<retry::Policy>,
    /// The most attempts in flight at once.
    pub max_in_flight: u32,
    /// Deliveries wait.
    pub suspended: bool,
}

/// A delivery that waits in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) delivery: DeliveryId,
    pub(crate) progress: Progress,
}

/// Whether there is a subscription behind the queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    /// Deliveries of an earlier run; the subscription has not been heard of in this one.
    Unknown,
    /// As it should be.
    Live(Settings),
    /// The subscription is gone: what waits becomes dead letters.
    Ended,
}

/// One subscription's deliveries.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) phase: Phase,
    pub(crate) head: VecDeque<Waiting>,
    pub(crate) in_flight: u32,
    pub(crate) window: Window,
    /// How many wait on disk.
    pub(crate) n_deferred: u64,
    /// When the earliest of those is due, or earlier.
    pub(crate) next_due: Option<Timestamp>,
    /// A load is under way. What is deferred meanwhile may not be in its answer.
    pub(crate) loading: bool,
    pub(crate) paused_until: Option<Timestamp>,
    /// Standing in the ring of those that can start an attempt.
    pub(crate) in_ring: bool,
    /// The timer that is set, if any.
    pub(crate) timer: Option<Timestamp>,
}

impl Queue {
    /// A queue whose subscription has not been heard of.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Unknown,
            head: VecDeque::new(),
            in_flight: 0,
            window: Window::new(1),
            n_deferred: 0,
            next_due: None,
            loading: false,
            paused_until: None,
            in_ring: false,
            timer: None,
        }
    }

    /// The subscription is as the settings say. What was learnt of its receiver is kept.
    pub(crate) fn begin(&mut self, settings: Settings) {
        if self.phase == Phase::Unknown {
            self.window = Window::new(settings.max_in_flight);
        }
        self.window.set_max(settings.max_in_flight);
        self.phase = Phase::Live(settings);
    }

    /// Whether a delivery that is due may join the head: there is room, and none on disk is before it.
    pub(crate) fn head_takes(&self, now: Timestamp) -> bool {
        self.head.len() < HEAD_MAX && !self.loading && self.next_due.is_none_or(|due| due > now)
    }

    /// Whether an attempt may start.
    pub(crate) fn can_start(&self, now: Timestamp) -> bool {
        matches!(&self.phase, Phase::Live(settings) if !settings.suspended)
            && !self.head.is_empty()
            && self.in_flight < self.window.size()
            && self.paused_until.is_none_or(|until| until <= now)
    }

    /// Whether to fill the head from disk, and with what is due until when.
    pub(crate) fn load_until(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.next_due.filter(|_| !self.loading)?;
        match &self.phase {
            Phase::Live(settings) => {
                let wanted = !settings.suspended && self.head.len() <= HEAD_MAX - LOAD_MAX;
                (wanted && due <= now).then_some(now)
            }
            Phase::Ended => Some(Timestamp(u64::MAX)),
            Phase::Unknown => None,
        }
    }

    /// When something changes by itself.
    pub(crate) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let Phase::Live(settings) = &self.phase else {
            return None;
        };
        if settings.suspended {
            return None;
        }
        let paused = self.paused_until.filter(|&until| until > now);
        let due = self.next_due.filter(|&due| due > now && !self.loading);
        match (paused, due) {
            (Some(paused), _) if !self.head.is_empty() => Some(paused),
            (Some(paused), Some(due)) => Some(paused.max(due)),
            (None, due) => due,
            (Some(_), None) => None,
        }
    }

    /// Whether nothing is left to do for a subscription that is gone.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended)
            && self.head.is_empty()
            && self.in_flight == 0
            && self.n_deferred == 0
            && !self.loading
    }
}
