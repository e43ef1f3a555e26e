//! The queue on disk: deliveries that wait for their time, by queue and due time, or, where one waits
//! for another, by their numbers. It is an index and holds no truth: it is rebuilt at every start.
//!
//! Callers block on the disk, so they are not on a runtime's thread.
//!
//! **Invariant:** `next_due` is known for every queue that has an entry, so nobody ever walks
//! over the tombstones of what was taken before.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fjall::{Database, KeyspaceCreateOptions, config::FilterPolicy};
use hookfleet_contract::{id::DeliveryId, partition::UNORDERED, retry::Progress, time::Timestamp};

use super::{
    Error, PendingSummary,
    runs::{RUN, Runs},
    table::Pending,
};
use crate::core::{QueueId, Waiting};

/// Keyspaces are called after the segment that their run began with.
const PREFIX: &str = "journal-deferred-";
const KEY_BYTES: usize = 38;
const VALUE_BYTES: usize = 16;

type Key = [u8; KEY_BYTES];
type Value = [u8; VALUE_BYTES];

/// A cheap handle to the queue.
#[derive(Clone)]
pub struct Deferred {
    queue: Arc<Mutex<Queue>>,
}

struct Queue {
    deliveries: Runs<KEY_BYTES, VALUE_BYTES>,
    /// When the first of each queue is due.
    next_due: HashMap<QueueId, Timestamp>,
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
        let next_due = summaries.iter().map(|it| (it.queue, it.next_due)).collect();
        let queue = Queue {
            deliveries,
            next_due,
        };
        let deferred = Self {
            queue: Arc::new(Mutex::new(queue)),
        };
        Ok((deferred, summaries))
    }

    /// Puts a delivery into its queue.
    ///
    /// # Errors
    /// What the database said; the queue must then not be used any more.
    pub fn defer(&self, id: QueueId, waiting: Waiting) -> Result<(), Error> {
        let mut queue = self.lock();
        let due = sorted_by(id, waiting.due);
        queue
            .deliveries
            .insert(key(id, due, waiting.delivery), encode(&waiting));
        let first = queue.next_due.entry(id).or_insert(due);
        *first = due.min(*first);
        queue.write_if_large()
    }

    /// Takes up to `limit` deliveries that are due at `until`, the earliest first.
    ///
    /// # Errors
    /// As [`Deferred::defer`].
    pub fn take_due(
        &self,
        id: QueueId,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Waiting>, Error> {
        let mut queue = self.lock();
        let Some(&first) = queue.next_due.get(&id) else {
            return Ok(Vec::new());
        };
        if first > until {
            return Ok(Vec::new());
        }
        let first = bound(id, first, 0);
        let last = bound(id, Timestamp(u64::MAX), u8::MAX);
        let (mut keys, mut taken, mut rest) = (Vec::new(), Vec::new(), None);
        for entry in queue.deliveries.range(first, last) {
            let (key, value) = entry?;
            let (due, delivery) = decode_key(&key);
            if due > until || taken.len() == limit {
                rest = Some(due);
                break;
            }
            taken.push(decode(delivery, value));
            keys.push(key);
        }
        for key in keys {
            queue.deliveries.remove(key);
        }
        match rest {
            Some(due) => queue.next_due.insert(id, due),
            None => queue.next_due.remove(&id),
        };
        queue.write_if_large()?;
        Ok(taken)
    }

    /// When the first delivery of a queue is due.
    ///
    /// # Errors
    /// None at present.
    pub fn next_due(&self, id: QueueId) -> Result<Option<Timestamp>, Error> {
        Ok(self.lock().next_due.get(&id).copied())
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
    let mut summaries: BTreeMap<QueueId, PendingSummary> = BTreeMap::new();
    let mut run: Vec<(Key, Value)> = Vec::new();
    for it in pending {
        let it = it?;
        let due = sorted_by(it.queue, it.due);
        let waiting = Waiting {
            delivery: it.delivery,
            progress: it.progress,
            bytes: it.bytes,
            due: it.due,
        };
        run.push((key(it.queue, due, it.delivery), encode(&waiting)));
        if run.len() == RUN {
            run.sort_unstable();
            deliveries.write_sorted(run.drain(..))?;
        }
        summaries
            .entry(it.queue)
            .and_modify(|summary| {
                summary.count += 1;
                summary.next_due = summary.next_due.min(due);
            })
            .or_insert(PendingSummary {
                queue: it.queue,
                count: 1,
                next_due: due,
            });
    }
    for (key, value) in run {
        deliveries.insert(key, value);
    }
    Ok(summaries.into_values().collect())
}

/// What a delivery is sorted by before its number: where one waits for another, nothing.
fn sorted_by(queue: QueueId, due: Timestamp) -> Timestamp {
    match queue.partition {
        UNORDERED => due,
        _ => Timestamp(0),
    }
}

fn key(queue: QueueId, due: Timestamp, delivery: DeliveryId) -> Key {
    let mut key = bound(queue, due, 0);
    key[26..34].copy_from_slice(&delivery.seq.to_be_bytes());
    key[34..].copy_from_slice(&delivery.target.to_be_bytes());
    key
}

/// The first (`fill` 0) or the last (`fill` 255) key of a due time.
fn bound(queue: QueueId, due: Timestamp, fill: u8) -> Key {
    let mut key = [fill; KEY_BYTES];
    key[..16].copy_from_slice(&queue.subscription);
    key[16..18].copy_from_slice(&queue.partition.to_be_bytes());
    key[18..26].copy_from_slice(&due.0.to_be_bytes());
    key
}

fn decode_key(key: &Key) -> (Timestamp, DeliveryId) {
    let delivery = DeliveryId {
        seq: u64_at(key, 26),
        target: u32_at(key, 34),
    };
    (Timestamp(u64_at(key, 18)), delivery)
}

/// Attempts are fewer than 200, so 16 bits hold them.
fn encode(waiting: &Waiting) -> Value {
    let short = |count: u32| u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes();
    let mut value = [0; VALUE_BYTES];
    value[..2].copy_from_slice(&short(waiting.progress.attempts));
    value[2..4].copy_from_slice(&short(waiting.progress.step));
    value[4..8].copy_from_slice(&waiting.bytes.to_be_bytes());
    value[8..].copy_from_slice(&waiting.due.0.to_be_bytes());
    value
}

fn decode(delivery: DeliveryId, value: Value) -> Waiting {
    let progress = u32_at(&value, 0);
    Waiting {
        delivery,
        progress: Progress {
            attempts: progress >> 16,
            step: progress & 0xFFFF,
        },
        bytes: u32_at(&value, 4),
        due: Timestamp(u64_at(&value, 8)),
    }
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([0, 1, 2, 3].map(|i| bytes[at + i]))
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
