//! The deliveries of one subscription, or of one of its partitions: a bounded head in memory, the
//! rest on disk. It knows nothing of receivers or permits.
//!
//! **Invariant:** every delivery is in exactly one place: head, in flight, or on disk.

use std::collections::VecDeque;

use hookfleet_contract::{partition::UNORDERED, time::Timestamp};

use super::command::Waiting;

/// A new delivery joins the head up to this length while memory is plenty; beyond, it goes to disk.
pub(crate) const HEAD_MAX: usize = 16_384;
/// The head is filled from disk when it is down to this,
const HEAD_LOW: usize = 16;
/// with at most this many at once; fewer when memory is scarce.
pub(crate) const LOAD_MAX: usize = 256;
pub(crate) const LOAD_MIN: usize = 16;
/// All of what is on disk.
pub(crate) const ALWAYS: Timestamp = Timestamp(u64::MAX);

/// One queue.
#[derive(Debug)]
pub(crate) struct Queue {
    /// One at a time, and in order; else all that are due may start.
    serial: bool,
    pub(crate) head: VecDeque<Waiting>,
    pub(crate) in_flight: u32,
    /// How many wait on disk.
    pub(crate) n_deferred: u64,
    /// When the earliest of those is due, or earlier.
    pub(crate) next_due: Option<Timestamp>,
    /// A load is under way. What is deferred meanwhile may not be in its answer.
    pub(crate) loading: bool,
    /// Some of it is being handed over.
    pub(crate) handing: bool,
    /// In which list of its subscription's partitions it is.
    pub(crate) listed: Listed,
}

/// The list that a partition is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// None.
    Nowhere,
    /// Those whose first delivery may start.
    Startable,
    /// Those whose first delivery waits for its time.
    Timed(Timestamp),
}

impl Queue {
    pub(crate) fn new(partition: u16) -> Self {
        Self {
            serial: partition != UNORDERED,
            head: VecDeque::new(),
            in_flight: 0,
            n_deferred: 0,
            next_due: None,
            loading: false,
            handing: false,
            listed: Listed::Nowhere,
        }
    }

    /// Whether a new delivery may join the head: there is room, and none on disk is before it.
    /// `roomy` says that memory is not scarce; one delivery has room always.
    pub(crate) fn takes(&self, now: Timestamp, roomy: bool) -> bool {
        (self.head.is_empty() || (roomy && self.head.len() < HEAD_MAX))
            && !self.loading
            && self.next_due.is_none_or(|due| due > now)
    }

    /// Whether its first delivery may start.
    pub(crate) fn can_start(&self, now: Timestamp) -> bool {
        let free = !self.serial || self.in_flight == 0;
        free && self.head.front().is_some_and(|it| it.due <= now)
    }

    /// Whether the head wants more from disk that is due.
    pub(crate) fn wants(&self, now: Timestamp) -> bool {
        !self.loading && self.head.len() <= HEAD_LOW && self.next_due.is_some_and(|due| due <= now)
    }

    /// When one may start by the passing of time alone.
    pub(crate) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let free = !self.serial || self.in_flight == 0;
        let head = self.head.front().map(|it| it.due);
        let disk = self.next_due.filter(|_| !self.loading);
        // In a serial queue nothing overtakes the head.
        let disk = disk.filter(|_| !self.serial || self.head.is_empty());
        let due = [head, disk].into_iter().flatten();
        due.filter(|&due| free && due > now).min()
    }

    /// A delivery goes to disk. A serial queue is ordered by its numbers there: nothing in it is due
    /// at a time of its own.
    pub(crate) fn defer(&mut self, mut waiting: Waiting) -> Waiting {
        if self.serial && waiting.progress.attempts == 0 {
            waiting.due = Timestamp(0);
        }
        let due = if self.serial {
            Timestamp(0)
        } else {
            waiting.due
        };
        self.n_deferred += 1;
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        waiting
    }

    /// An answer from disk: what was taken, and when the first of the rest is due.
    pub(crate) fn loaded(&mut self, n_loaded: usize, next_due: Option<Timestamp>) {
        self.loading = false;
        self.n_deferred = self.n_deferred.saturating_sub(n_loaded as u64);
        // While it was loading `next_due` held only what was deferred meanwhile.
        self.next_due = [self.next_due, next_due].into_iter().flatten().min();
        if self.next_due.is_none() {
            debug_assert_eq!(self.n_deferred, 0, "what is on disk has a due time");
            self.n_deferred = 0;
        }
    }

    /// Takes the first deliveries out of the head: at most `n`, of at most so many bytes, but one at least.
    pub(crate) fn take_lot(&mut self, n: usize, bytes: u64) -> Vec<Waiting> {
        let mut room = bytes;
        let fits = |it: &&Waiting| {
            let left = room.checked_sub(it.bytes.into());
            room = left.unwrap_or(0);
            left.is_some()
        };
        let n_fitting = self.head.iter().take(n).take_while(fits).count();
        let n_taken = n_fitting.max(1).min(self.head.len());
        self.head.drain(..n_taken).collect()
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty()
            && self.in_flight == 0
            && self.n_deferred == 0
            && !self.loading
            && !self.handing
    }

    /// Whether anything waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.head.is_empty() || self.n_deferred > 0
    }
}
