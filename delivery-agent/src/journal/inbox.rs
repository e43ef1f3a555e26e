//! What waits for the writer: a queue that is emptied in one go, with a bound on the bytes of
//! events. Outcomes are not bounded here: the driver starts no attempts while there are many of them.
//!
//! Somebody waits for an event, nobody for an outcome: outcomes wake the writer only once there are
//! some of them, or after a pause, so that it does not wake and write for each.
//!
//! **Invariant:** the lock is held for moving pointers only, never across encoding or disk.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hookfleet_contract::id::WebhookId;
use tokio::sync::oneshot;

use super::{
    Error,
    duplicates::First,
    model::{Appended, NewEvent, Outcome},
};

/// About what a disk takes in a few milliseconds; more would only make the first wait for the last.
const GROUP_BYTES: usize = 4 << 20;
/// What an event and each of its targets cost besides their content.
const EVENT_OVERHEAD: usize = 256;
const TARGET_OVERHEAD: usize = 96;
/// How long outcomes wait for company, when no event takes them along. A crash repeats attempts
/// whose outcomes still wait here.
const OUTCOME_PAUSE: Duration = Duration::from_millis(5);
/// How many outcomes are company enough: 64 KiB of records.
const OUTCOMES: usize = 1024;

/// The queue.
#[derive(Debug)]
pub(super) struct Inbox {
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    /// As many as `waiting` has; for those who ask often.
    n_outcomes: AtomicUsize,
    arrived: Condvar,
}

/// Some events to append, answered together.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) events: Vec<NewEvent>,
    /// What is known of them on disk: the first event with the same webhook id, for each of them, or
    /// for the first few if no later one has any.
    pub(super) firsts: Vec<Option<First>>,
    /// See [`super::duplicates::Older::generation`].
    pub(super) generation: u64,
    pub(super) reply: oneshot::Sender<Result<Vec<Appended>, Error>>,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) requests: Vec<Request>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// Ids that are on disk by now.
    pub(super) forget: Vec<(WebhookId, u64)>,
    pub(super) closed: Option<Closed>,
}

/// How the journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// Sync, and leave a marker.
    pub(super) cleanly: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<(usize, Request)>,
    bytes: usize,
    outcomes: Vec<Outcome>,
    flushes: Vec<oneshot::Sender<()>>,
    forget: Vec<(WebhookId, u64)>,
    closed: Option<Closed>,
    stopped: bool,
    writer: Patience,
}

/// What the writer waits for. Telling it more than once is a system call for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Patience {
    /// It is at work and will look.
    #[default]
    None,
    /// Whatever comes.
    Anything,
    /// It has outcomes; for anything that somebody waits for, or many more outcomes.
    Company,
}

// === impl Inbox ===

impl Inbox {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            waiting: Mutex::default(),
            n_outcomes: AtomicUsize::new(0),
            arrived: Condvar::new(),
        }
    }

    /// Queues events, unless too many wait. One request is always taken when nothing waits.
    pub(super) fn append(&self, request: Request) -> Result<(), Error> {
        let bytes = request.bytes();
        let mut waiting = self.open()?;
        if waiting.bytes > 0 && waiting.bytes + bytes > self.max_bytes {
            return Err(Error::Overloaded);
        }
        waiting.bytes += bytes;
        waiting.requests.push_back((bytes, request));
        self.wake(waiting);
        Ok(())
    }

    pub(super) fn record(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        if let Ok(mut waiting) = self.open() {
            waiting.outcomes.extend(outcomes);
            let n_outcomes = waiting.outcomes.len();
            self.n_outcomes.store(n_outcomes, Ordering::Relaxed);
            let is_enough = match waiting.writer {
                Patience::None => false,
                Patience::Anything => !waiting.outcomes.is_empty(),
                Patience::Company => waiting.outcomes.len() >= OUTCOMES,
            };
            if is_enough {
                self.wake(waiting);
            }
        }
    }

    pub(super) fn flush(&self, reply: oneshot::Sender<()>) -> Result<(), Error> {
        let mut waiting = self.open()?;
        waiting.flushes.push(reply);
        self.wake(waiting);
        Ok(())
    }

    /// Tells the writer which ids it need not remember.
    pub(super) fn forget(&self, ids: Vec<(WebhookId, u64)>) {
        let mut waiting = self.lock();
        waiting.forget.extend(ids);
    }

    /// Refuses new work; what waits is still done. The first word counts.
    pub(super) fn close(&self, cleanly: bool) {
        let mut waiting = self.lock();
        waiting.closed.get_or_insert(Closed { cleanly });
        self.wake(waiting);
    }

    /// Refuses everything and drops what waits, which answers it.
    pub(super) fn stop(&self) {
        let dropped = {
            let mut waiting = self.lock();
            waiting.stopped = true;
            std::mem::take(&mut waiting.requests)
        };
        drop(dropped);
    }

    pub(super) fn n_outcomes(&self) -> usize {
        self.n_outcomes.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Waits for work, at most `patience`, and takes a group of it.
    pub(super) fn take(&self, patience: Duration) -> Batch {
        let mut waiting = self.lock();
        waiting = self.wait(waiting, patience, Patience::Anything, Waiting::is_idle);
        waiting = self.wait(
            waiting,
            OUTCOME_PAUSE,
            Patience::Company,
            Waiting::lacks_company,
        );
        let mut batch = Batch {
            outcomes: std::mem::take(&mut waiting.outcomes),
            flushes: std::mem::take(&mut waiting.flushes),
            forget: std::mem::take(&mut waiting.forget),
            ..Batch::default()
        };
        self.n_outcomes.store(0, Ordering::Relaxed);
        let mut n_bytes = 0;
        while n_bytes < GROUP_BYTES
            && let Some((bytes, request)) = waiting.requests.pop_front()
        {
            n_bytes += bytes;
            waiting.bytes -= bytes;
            batch.requests.push(request);
        }
        if waiting.requests.is_empty() {
            batch.closed = waiting.closed;
        }
        batch
    }

    fn open(&self) -> Result<MutexGuard<'_, Waiting>, Error> {
        let waiting = self.lock();
        if waiting.stopped || waiting.closed.is_some() {
            return Err(Error::Stopped);
        }
        Ok(waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        patience: Duration,
        what: Patience,
        condition: impl Fn(&Waiting) -> bool,
    ) -> MutexGuard<'a, Waiting> {
        waiting.writer = what;
        let (mut waiting, _) = self
            .arrived
            .wait_timeout_while(waiting, patience, |it| condition(it))
            .unwrap_or_else(PoisonError::into_inner);
        waiting.writer = Patience::None;
        waiting
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let patience = std::mem::take(&mut waiting.writer);
        drop(waiting);
        if patience != Patience::None {
            self.arrived.notify_one();
        }
    }
}

impl Waiting {
    /// Whether somebody waits for an answer.
    fn is_awaited(&self) -> bool {
        !self.requests.is_empty() || !self.flushes.is_empty() || self.closed.is_some()
    }

    fn is_idle(&self) -> bool {
        !self.is_awaited() && self.outcomes.is_empty()
    }

    /// Whether there are outcomes, and few.
    fn lacks_company(&self) -> bool {
        !self.is_awaited() && (1..OUTCOMES).contains(&self.outcomes.len())
    }
}

impl Request {
    fn bytes(&self) -> usize {
        let bytes =
            |it: &NewEvent| EVENT_OVERHEAD + it.event.len() + TARGET_OVERHEAD * it.targets.len();
        self.events.iter().map(bytes).sum()
    }
}
