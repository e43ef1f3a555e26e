//! Which event has a webhook id: what tells duplicates within the window, and where an event is found by its id for as
//! long as it is kept. The ids of live segments are in memory; when a segment retires they go to keyspaces that are
//! dropped whole when they are too old.
//!
//! **Invariant:** within the window an id is in memory, or on disk, or new. Callers look at the disk
//! before the writer looks into the memory; if ids left that in between, which the generation
//! tells, the writer looks at the disk again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use hookfleet_contract::{id::WebhookId, time::Timestamp};

use super::{Error, model::NewEvent, runs::Runs};

/// How long ids are kept to find events by: the longest delivery takes seven days.
const KEPT: Duration = Duration::from_secs(8 * 86_400);
/// Keyspaces are called after the window they begin in.
const PREFIX: &str = "journal-ids-";

/// The first event with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    pub(super) seq: u64,
    pub(super) n_targets: u32,
    pub(super) accept_time: Timestamp,
}

/// The ids of live segments; a cheap handle. Only the writer changes them.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    window: Duration,
    ids: Arc<RwLock<HashMap<WebhookId, First>>>,
}

/// The ids of retired segments, on disk.
pub(super) struct Older {
    window: Duration,
    buckets: RwLock<BTreeMap<u64, Keyspace>>,
    generation: AtomicU64,
}

// === impl Recent ===

impl Recent {
    pub(super) fn new(window: Duration, ids: impl Iterator<Item = (WebhookId, First)>) -> Self {
        Self {
            window,
            ids: Arc::new(RwLock::new(ids.collect())),
        }
    }

    /// The first event with this one's id, if it is a duplicate. `found` is what the disk had when
    /// it was in `generation`.
    pub(super) fn first(
        &self,
        event: &NewEvent,
        found: Option<First>,
        generation: u64,
        older: &Older,
    ) -> Result<Option<First>, Error> {
        let Some(key) = event.key() else {
            return Ok(None);
        };
        if let Some(recent) = self.get(key)
            && is_within(self.window, recent, event.accept_time)
        {
            return Ok(Some(recent));
        }
        if generation == older.generation() {
            Ok(found)
        } else {
            older.first(event)
        }
    }

    pub(super) fn get(&self, id: WebhookId) -> Option<First> {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.get(&id).copied()
    }

    pub(super) fn insert(&self, id: WebhookId, first: First) {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id, first);
    }

    /// Forgets ids that are on disk now.
    pub(super) fn forget(&self, forgotten: Vec<(WebhookId, u64)>) {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        for (id, seq) in forgotten {
            // A later event may have the id by now.
            if ids.get(&id).is_some_and(|it| it.seq == seq) {
                ids.remove(&id);
            }
        }
    }
}

// === impl Older ===

impl Older {
    pub(super) fn open(database: &Database, window: Duration) -> Result<Self, Error> {
        let mut buckets = BTreeMap::new();
        for name in database.list_keyspace_names() {
            let bucket = name.strip_prefix(PREFIX).and_then(|it| it.parse().ok());
            if let Some(bucket) = bucket {
                let keyspace = database.keyspace(&name, KeyspaceCreateOptions::default)?;
                buckets.insert(bucket, keyspace);
            }
        }
        Ok(Self {
            window,
            buckets: RwLock::new(buckets),
            generation: AtomicU64::new(0),
        })
    }

    /// Changes whenever the writer was told to forget ids.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn bump_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The first event with this one's id.
    pub(super) fn first(&self, event: &NewEvent) -> Result<Option<First>, Error> {
        let Some(key) = event.key() else {
            return Ok(None);
        };
        // The window begins in the bucket before this one.
        let oldest = self.bucket_number(event.accept_time).saturating_sub(1);
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let in_window = buckets.range(oldest..).rev().map(|(_, bucket)| bucket);
        let first = newest(in_window, key)?;
        Ok(first.filter(|it| is_within(self.window, *it, event.accept_time)))
    }

    /// The last event with an id, of those that are kept. Nobody waits for the disk meanwhile.
    pub(super) fn get(&self, id: WebhookId) -> Result<Option<First>, Error> {
        let buckets: Vec<Keyspace> = {
            let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
            buckets.values().rev().cloned().collect()
        };
        newest(&buckets, id)
    }

    /// Puts ids on disk, durably, if they are still of use at `now`. Of the same id, the last one
    /// counts.
    pub(super) fn keep(
        &self,
        database: &Database,
        ids: impl Iterator<Item = (WebhookId, First)>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut buckets: BTreeMap<u64, Vec<(WebhookId, First)>> = BTreeMap::new();
        for (id, first) in ids.filter(|(_, first)| is_within(self.kept(), *first, now)) {
            let bucket = self.bucket_number(first.accept_time);
            buckets.entry(bucket).or_default().push((id, first));
        }
        for (bucket, mut ids) in buckets {
            ids.sort_unstable_by_key(|(id, first)| (id.0, Reverse(first.seq)));
            ids.dedup_by_key(|(id, _)| *id);
            let bucket = self.bucket(database, bucket)?;
            Runs::new(bucket)
                .write_sorted(ids.into_iter().map(|(id, first)| (id.0, encode(first))))?;
        }
        Ok(())
    }

    /// Drops keyspaces that have nothing that is to be kept.
    pub(super) fn drop_expired(&self, database: &Database, now: Timestamp) -> Result<(), Error> {
        let kept = u64::try_from(self.kept().as_millis()).unwrap_or(u64::MAX);
        let oldest = self.bucket_number(Timestamp(now.0.saturating_sub(kept)));
        let mut expired = Vec::new();
        {
            let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
            while let Some(entry) = buckets.first_entry()
                && *entry.key() < oldest
            {
                expired.push(entry.remove());
            }
        }
        for bucket in expired {
            database.delete_keyspace(bucket)?;
        }
        Ok(())
    }

    fn bucket(&self, database: &Database, number: u64) -> Result<Keyspace, Error> {
        {
            let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = buckets.get(&number) {
                return Ok(bucket.clone());
            }
        }
        let name = format!("{PREFIX}{number}");
        let bucket = database.keyspace(&name, KeyspaceCreateOptions::default)?;
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.insert(number, bucket.clone());
        Ok(bucket)
    }

    fn kept(&self) -> Duration {
        KEPT.max(self.window)
    }

    fn bucket_number(&self, time: Timestamp) -> u64 {
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        time.0 / window.max(1)
    }
}

/// The event with an id in the first of these that has one.
fn newest<'a>(
    buckets: impl IntoIterator<Item = &'a Keyspace>,
    id: WebhookId,
) -> Result<Option<First>, Error> {
    for bucket in buckets {
        if let Some(first) = bucket.get(id.0)?.and_then(|it| decode(&it)) {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

fn is_within(window: Duration, first: First, now: Timestamp) -> bool {
    now.since(first.accept_time) < window
}

fn encode(first: First) -> [u8; 20] {
    let mut value = [0; 20];
    value[..8].copy_from_slice(&first.seq.to_be_bytes());
    value[8..12].copy_from_slice(&first.n_targets.to_be_bytes());
    value[12..].copy_from_slice(&first.accept_time.0.to_be_bytes());
    value
}

fn decode(value: &[u8]) -> Option<First> {
    let (seq, rest) = value.split_first_chunk()?;
    let (n_targets, accept_time) = rest.split_first_chunk()?;
    Some(First {
        seq: u64::from_be_bytes(*seq),
        n_targets: u32::from_be_bytes(*n_targets),
        accept_time: Timestamp(u64::from_be_bytes(accept_time.try_into().ok()?)),
    })
}
