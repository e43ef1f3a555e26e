//! The queue on disk: deliveries that wait for their time, by subscription and due time. It is an
//! index and holds no truth: it is rebuilt at every start and never synced.
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

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use hookfleet_contract::{id::DeliveryId, retry::Progress, time::Timestamp};

use super::{Error, PendingSummary, table::Pending};
use crate::core::Uid;

/// Keyspaces are called after the segment that their run began with.
const PREFIX: &str = "journal-deferred-";
/// How many deliveries are sorted in memory at once during recovery: 12 MiB.
const CHUNK: usize = 1 << 18;

type Key = [u8; 36];
type Value = [u8; 8];

/// A cheap handle to the queue.
#[derive(Clone)]
pub struct Deferred {
    queue: Arc<Queue>,
}

struct Queue {
    database: Database,
    keyspace: Keyspace,
    /// When the first of each subscription is due.
    next_due: Mutex<HashMap<Uid, Timestamp>>,
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
        let name = format!("{PREFIX}{run}");
        let keyspace = database.keyspace(&name, KeyspaceCreateOptions::default)?;
        let summaries = fill(&keyspace, pending)?;
        let next_due = summaries
            .iter()
            .map(|it| (it.subscription, it.next_due))
            .collect();
        let queue = Queue {
            database: database.clone(),
            keyspace,
            next_due: Mutex::new(next_due),
        };
        let deferred = Self {
            queue: Arc::new(queue),
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
        let mut next_due = self.next_due_of();
        let (key, value) = (key(subscription, due, delivery), encode(progress));
        self.queue.keyspace.insert(key, value)?;
        let first = next_due.entry(subscription).or_insert(due);
        *first = due.min(*first);
        Ok(())
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
        let mut next_due = self.next_due_of();
        let Some(&first) = next_due.get(&subscription) else {
            return Ok(Vec::new());
        };
        if first > until {
            return Ok(Vec::new());
        }
        let (start, end) = (
            bound(subscription, first, 0),
            bound(subscription, Timestamp(u64::MAX), u8::MAX),
        );
        let mut batch = self.queue.database.batch();
        let mut taken = Vec::new();
        let mut rest = None;
        for entry in self.queue.keyspace.range(start..=end) {
            let (key, value) = entry.into_inner()?;
            let Some((due, delivery)) = decode_key(&key) else {
                continue;
            };
            if due > until || taken.len() == limit {
                rest = Some(due);
                break;
            }
            taken.push((delivery, decode(&value)));
            batch.remove(&self.queue.keyspace, key);
        }
        batch.commit()?;
        match rest {
            Some(due) => next_due.insert(subscription, due),
            None => next_due.remove(&subscription),
        };
        Ok(taken)
    }

    /// When the first delivery of a subscription is due.
    ///
    /// # Errors
    /// None at present.
    pub fn next_due(&self, subscription: Uid) -> Result<Option<Timestamp>, Error> {
        Ok(self.next_due_of().get(&subscription).copied())
    }

    fn next_due_of(&self) -> MutexGuard<'_, HashMap<Uid, Timestamp>> {
        let next_due = self.queue.next_due.lock();
        next_due.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").finish_non_exhaustive()
    }
}

/// Fills an empty keyspace, one sorted chunk after another.
fn fill(
    keyspace: &Keyspace,
    pending: impl Iterator<Item = Result<Pending, Error>>,
) -> Result<Vec<PendingSummary>, Error> {
    let mut summaries: BTreeMap<Uid, PendingSummary> = BTreeMap::new();
    let mut chunk: Vec<(Key, Value)> = Vec::new();
    for it in pending {
        let it = it?;
        chunk.push((
            key(it.subscription, it.due, it.delivery),
            encode(it.progress),
        ));
        if chunk.len() == CHUNK {
            ingest(keyspace, &mut chunk)?;
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
    ingest(keyspace, &mut chunk)?;
    Ok(summaries.into_values().collect())
}

/// Writes a chunk as a sorted table, around the database's own log.
fn ingest(keyspace: &Keyspace, chunk: &mut Vec<(Key, Value)>) -> Result<(), Error> {
    if chunk.is_empty() {
        return Ok(());
    }
    chunk.sort_unstable();
    chunk.dedup_by_key(|(key, _)| *key);
    let mut ingestion = keyspace.start_ingestion()?;
    for (key, value) in chunk.drain(..) {
        ingestion.write(key, value)?;
    }
    ingestion.finish()?;
    Ok(())
}

fn key(subscription: Uid, due: Timestamp, delivery: DeliveryId) -> Key {
    let mut key = bound(subscription, due, 0);
    key[24..32].copy_from_slice(&delivery.seq.to_be_bytes());
    key[32..].copy_from_slice(&delivery.target.to_be_bytes());
    key
}

/// The first (`fill` 0) or the last (`fill` 255) key of a due time.
fn bound(subscription: Uid, due: Timestamp, fill: u8) -> Key {
    let mut key = [fill; 36];
    key[..16].copy_from_slice(&subscription);
    key[16..24].copy_from_slice(&due.0.to_be_bytes());
    key
}

fn decode_key(key: &[u8]) -> Option<(Timestamp, DeliveryId)> {
    let (due, rest) = key.get(16..)?.split_first_chunk()?;
    let (seq, target) = rest.split_first_chunk()?;
    let delivery = DeliveryId {
        seq: u64::from_be_bytes(*seq),
        target: u32::from_be_bytes(target.try_into().ok()?),
    };
    Some((Timestamp(u64::from_be_bytes(*due)), delivery))
}

fn encode(progress: Progress) -> Value {
    (u64::from(progress.attempts) << 32 | u64::from(progress.step)).to_be_bytes()
}

fn decode(value: &[u8]) -> Progress {
    let part = |range| {
        let bytes = value.get::<std::ops::Range<usize>>(range);
        let bytes = bytes.and_then(|it| it.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    };
    Progress {
        attempts: part(0..4),
        step: part(4..8),
    }
}
