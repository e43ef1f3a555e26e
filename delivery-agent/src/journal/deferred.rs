//! The queue on disk: deliveries that wait for their time, by subscription and due time. It is an
//! index and holds no truth: it is rebuilt at every start.
//!
//! Callers block on the disk, so they are not on a runtime's thread.
//!
//! **Invariant:** `next_due` is known for every subscription that has an entry, so nobody ever walks
//! over the tombstones of what was taken before.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fjall::{Database, KeyspaceCreateOptions, config::FilterPolicy};
use hookfleet_contract::{id::DeliveryId, retry::Progress, time::Timestamp};

use super::{
    Error, PendingSummary,
    runs::{RUN, Runs},
    table::Pending,
};
use crate::core::Uid;

/// Keyspaces are called after the segment that their run began with.
const PREFIX: &str = "journal-deferred-";
const KEY_BYTES: usize = 36;
const VALUE_BYTES: usize = 8;

type Key = [u8; KEY_BYTES];
type Value = [u8; VALUE_BYTES];

/// A cheap handle to the queue.
#[derive(Clone)]
pub struct Deferred {
    queue: Arc<Mutex<Queue>>,
}

struct Queue {
    deliveries: Runs<KEY_BYTES, VALUE_BYTES>,
    /// When the first of each subscription is due.
    next_due: HashMap<Uid, Timestamp>,
}

// === impl Deferred ===

impl Deferred {
    /// A new queue of `pending`, in place of the earlier run's; and what is in it.
    pub(super) fn rebuild(
        database: &Database,
        run: u64,
        pending: impl Iterator<Item = Result<Pending, Error>>,
    ) -> Result<(Self, Vec<PendingSummary>), Error> {
        for name in database.list_keyspace_names() {
            if name.starts_with(PREFIX) {
                let keyspace = database.keyspace(&name, KeyspaceCreateOptions::default)?;
                database.delete_keyspace(keyspace)?;
            }
        }
        // Nobody looks for a single key.
        let options = || KeyspaceCreateOptions::default().filter_policy(FilterPolicy::disabled());
        let keyspace = database.keyspace(&format!("{PREFIX}{run}"), options)?;
        let mut deliveries = Runs::new(keyspace);
        let summaries = fill(&mut deliveries, pending)?;
        let next_due = summaries
            .iter()
            .map(|it| (it.subscription, it.next_due))
            .collect();
        let queue = Queue {
            deliveries,
            next_due,
        };
        let deferred = Self {
            queue: Arc::new(Mutex::new(queue)),
        };
        Ok((deferred, summaries))
    }

    /// Puts a delivery into its subscription's queue.
    ///
    /// # Errors
    /// What the database said; the queue must then not be used any more.
    pub fn defer(
        &self,
        subscription: Uid,
        due: Timestamp,
        delivery: DeliveryId,
        progress: Progress,
    ) -> Result<(), Error> {
        let mut queue = self.lock();
        let key = key(subscription, due, delivery);
        queue.deliveries.insert(key, encode(progress));
        let first = queue.next_due.entry(subscription).or_insert(due);
        *first = due.min(*first);
        queue.write_if_large()
    }

    /// Takes up to `limit` deliveries that are due at `until`, the earliest first.
    ///
    /// # Errors
    /// As [`Deferred::defer`].
    pub fn take_due(
        &self,
        subscription: Uid,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, Progress)>, Error> {
        let mut queue = self.lock();
        let Some(&first) = queue.next_due.get(&subscription) else {
            return Ok(Vec::new());
        };
        if first > until {
            return Ok(Vec::new());
        }
        let first = bound(subscription, first, 0);
        let last = bound(subscription, Timestamp(u64::MAX), u8::MAX);
        let (mut keys, mut taken, mut rest) = (Vec::new(), Vec::new(), None);
        for entry in queue.deliveries.range(first, last) {
            let (key, value) = entry?;
            let (due, delivery) = decode_key(&key);
            if due > until || taken.len() == limit {
                rest = Some(due);
                break;
            }
            taken.push((delivery, decode(value)));
            keys.push(key);
        }
        for key in keys {
            queue.deliveries.remove(key);
        }
        match rest {
            Some(due) => queue.next_due.insert(subscription, due),
            None => queue.next_due.remove(&subscription),
        };
        queue.write_if_large()?;
        Ok(taken)
    }

    /// When the first delivery of a subscription is due.
    ///
    /// # Errors
    /// None at present.
    pub fn next_due(&self, subscription: Uid) -> Result<Option<Timestamp>, Error> {
        Ok(self.lock().next_due.get(&subscription).copied())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").finish_non_exhaustive()
    }
}

// === impl Queue ===

impl Queue {
    fn write_if_large(&mut self) -> Result<(), Error> {
        match self.deliveries.n_fresh() < RUN {
            true => Ok(()),
            false => self.deliveries.write(),
        }
    }
}

/// Fills an empty queue; sorting a run at once is faster than inserting into one.
fn fill(
    deliveries: &mut Runs<KEY_BYTES, VALUE_BYTES>,
    pending: impl Iterator<Item = Result<Pending, Error>>,
) -> Result<Vec<PendingSummary>, Error> {
    let mut summaries: BTreeMap<Uid, PendingSummary> = BTreeMap::new();
    let mut run: Vec<(Key, Value)> = Vec::new();
    for it in pending {
        let it = it?;
        let key = key(it.subscription, it.due, it.delivery);
        run.push((key, encode(it.progress)));
        if run.len() == RUN {
            run.sort_unstable();
            deliveries.write_sorted(run.drain(..))?;
        }
        summaries
            .entry(it.subscription)
            .and_modify(|summary| {
                summary.count += 1;
                summary.next_due = summary.next_due.min(it.due);
            })
            .or_insert(PendingSummary {
                subscription: it.subscription,
                count: 1,
                next_due: it.due,
            });
    }
    for (key, value) in run {
        deliveries.insert(key, value);
    }
    Ok(summaries.into_values().collect())
}

fn key(subscription: Uid, due: Timestamp, delivery: DeliveryId) -> Key {
    let mut key = bound(subscription, due, 0);
    key[24..32].copy_from_slice(&delivery.seq.to_be_bytes());
    key[32..].copy_from_slice(&delivery.target.to_be_bytes());
    key
}

/// The first (`fill` 0) or the last (`fill` 255) key of a due time.
fn bound(subscription: Uid, due: Timestamp, fill: u8) -> Key {
    let mut key = [fill; KEY_BYTES];
    key[..16].copy_from_slice(&subscription);
    key[16..24].copy_from_slice(&due.0.to_be_bytes());
    key
}

fn decode_key(key: &Key) -> (Timestamp, DeliveryId) {
    let u32_at = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| key[at + i]));
    let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
    let delivery = DeliveryId {
        seq: u64_at(24),
        target: u32_at(32),
    };
    (Timestamp(u64_at(16)), delivery)
}

fn encode(progress: Progress) -> Value {
    (u64::from(progress.attempts) << 32 | u64::from(progress.step)).to_be_bytes()
}

fn decode([a, b, c, d, e, f, g, h]: Value) -> Progress {
    Progress {
        attempts: u32::from_be_bytes([a, b, c, d]),
        step: u32::from_be_bytes([e, f, g, h]),
    }
}
