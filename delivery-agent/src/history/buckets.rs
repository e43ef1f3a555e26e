//! The days of history on disk. A day is one bucket of keyspaces and is dropped whole.
//!
//! **Invariant:** a day that was dropped is not made again: what is written goes to a day of the
//! younger half of those that are kept (see [`super::writer`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use hookfleet_contract::time::Timestamp;

use super::Error;

/// How long days are kept. The longest delivery takes seven days.
pub(super) const RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// How much of a keyspace is in memory before it becomes a file: a quarter of the default, so that
/// those of today stay below 50 MiB.
const MEMTABLE_BYTES: u64 = 16 << 20;
const MILLIS_A_DAY: u64 = 86_400_000;
const PREFIX: &str = "history-";

/// A day since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub(super) u64);

/// One day.
pub(super) struct Bucket {
    /// Blocks, subjects and rows; see [`super::key`].
    pub(super) deliveries: Keyspace,
    /// Delivery → the encoded event of a dead letter.
    pub(super) dead: Keyspace,
}

/// The days that are open.
pub(super) struct Buckets {
    database: Database,
    open: RwLock<BTreeMap<Day, Arc<Bucket>>>,
}

const KINDS: [&str; 2] = ["deliveries", "dead"];

// === impl Day ===

impl Day {
    pub(super) fn of(time: Timestamp) -> Self {
        Self(time.0 / MILLIS_A_DAY)
    }

    fn name(self, kind: &str) -> String {
        format!("{PREFIX}{kind}-{}", self.0)
    }

    /// The days that have a bucket, or what a crash left of one.
    fn all(database: &Database) -> BTreeSet<Self> {
        let names = database.list_keyspace_names();
        let day = |name: &str| {
            let (_, day) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
            day.parse().ok().map(Self)
        };
        names.iter().filter_map(|it| day(it)).collect()
    }
}

// === impl Bucket ===

impl Bucket {
    fn open(database: &Database, day: Day) -> Result<Self, fjall::Error> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let open = |kind| database.keyspace(&day.name(kind), options);
        let [deliveries, dead] = KINDS;
        Ok(Self {
            deliveries: open(deliveries)?,
            dead: open(dead)?,
        })
    }

    fn delete(&self, database: &Database) -> Result<(), fjall::Error> {
        for keyspace in [&self.deliveries, &self.dead] {
            database.delete_keyspace(keyspace.clone())?;
        }
        Ok(())
    }
}

// === impl Buckets ===

impl Buckets {
    /// Opens the days that there are.
    pub(super) fn open(database: Database) -> Result<Self, Error> {
        let buckets = Self {
            open: RwLock::default(),
            database,
        };
        for day in Day::all(&buckets.database) {
            buckets.at(day)?;
        }
        Ok(buckets)
    }

    /// The bucket of a day, made if it is not there.
    pub(super) fn at(&self, day: Day) -> Result<Arc<Bucket>, Error> {
        let known = self
            .open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&day)
            .cloned();
        if let Some(bucket) = known {
            return Ok(bucket);
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let bucket = Arc::new(Bucket::open(&self.database, day)?);
        Ok(Arc::clone(open.entry(day).or_insert(bucket)))
    }

    pub(super) fn newest_first(&self) -> Vec<(Day, Arc<Bucket>)> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.iter()
            .rev()
            .map(|(day, bucket)| (*day, Arc::clone(bucket)))
            .collect()
    }

    /// Drops the days that are over. What cannot be dropped is dropped at the next start.
    pub(super) fn expire(&self, now: Timestamp) -> Result<(), Error> {
        let retention = u64::try_from(RETENTION.as_millis()).unwrap_or(u64::MAX);
        let oldest = Day::of(Timestamp(now.0.saturating_sub(retention)));
        let over = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            let kept = open.split_off(&oldest);
            std::mem::replace(&mut *open, kept)
        };
        for bucket in over.into_values() {
            bucket.delete(&self.database)?;
        }
        Ok(())
    }
}
