//! A bucket for each of any number of keys, in memory that does not grow: sets of a few places each, as caches of
//! processors have them. A full bucket is as good as none, so a place is free again as soon as its key has been idle, and
//! nothing is lost by that. Where all places of a set are in use, a new key shares the bucket of which least is missing.
//!
//! **Invariant:** nothing is allocated after [`Table::new`].

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use hookfleet_contract::time::Timestamp;

use super::bucket::{Bucket, Left, Quota};

/// Places of a set.
const N_PLACES: usize = 8;
/// With 32,768 places of 16 bytes, half a MiB.
const N_SETS: usize = 4096;

/// The buckets of one quota.
#[derive(Debug)]
pub(crate) struct Table {
    quota: Quota,
    /// Seeded at random: nobody can choose keys that meet.
    hasher: RandomState,
    sets: Box<[Mutex<Set>]>,
}

/// Buckets by the hashes of their keys.
type Set = [(u64, Bucket); N_PLACES];

/// Why nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is not enough; when there will be.
    Over(Duration),
    /// The table is broken: a thread panicked within it.
    Fault,
}

// === impl Table ===

impl Table {
    /// Full buckets.
    pub(crate) fn new(quota: Quota) -> Self {
        Self {
            quota,
            hasher: RandomState::new(),
            sets: (0..N_SETS).map(|_| Mutex::default()).collect(),
        }
    }

    /// What each key may use.
    pub(crate) fn quota(&self) -> Quota {
        self.quota
    }

    /// Takes so much of what a key may use.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn take(&self, key: impl Hash, units: u64, now: Timestamp) -> Result<Left, Refusal> {
        let hash = self.hasher.hash_one(key);
        let mut set = self.set(hash)?;
        let bucket = find(&mut set, hash, now);
        let taken = bucket.take(units, self.quota, now);
        taken.map_err(Refusal::Over)
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(&self, key: impl Hash, units: u64) {
        let hash = self.hasher.hash_one(key);
        let Ok(mut set) = self.set(hash) else {
            return;
        };
        if let Some((_, bucket)) = set.iter_mut().find(|(it, _)| *it == hash) {
            bucket.give_back(units, self.quota);
        }
    }

    fn set(&self, hash: u64) -> Result<MutexGuard<'_, Set>, Refusal> {
        let number = usize::try_from(hash % N_SETS as u64).unwrap_or(0);
        self.sets[number].lock().map_err(|_| Refusal::Fault)
    }

    /// Breaks it as a bug would.
    #[cfg(test)]
    pub(crate) fn break_down(&self) {
        for set in &self.sets {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    let _held = set.lock();
                    std::panic::resume_unwind(Box::new("a bug"));
                });
                drop(thread.join());
            });
        }
    }
}

/// The bucket of a key: its own, or a place that nobody needs, or the one of which least is missing.
fn find(set: &mut Set, hash: u64, now: Timestamp) -> &mut Bucket {
    let own = set.iter().position(|(it, _)| *it == hash);
    let index = own.unwrap_or_else(|| {
        let least = set.iter().enumerate().min_by_key(|(_, (_, it))| *it);
        let index = least.map_or(0, |(index, _)| index);
        if set[index].1.is_full(now) {
            set[index].0 = hash;
        }
        index
    });
    &mut set[index].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_buckets_of_their_own() {
        let table = Table::new(Quota::new(1, 2).unwrap());
        let now = Timestamp(9);
        for key in 0..1000 {
            table.take(key, 1, now).unwrap();
            table.take(key, 1, now).unwrap();
        }
        for key in 0..1000 {
            let refused = table.take(key, 1, now).unwrap_err();
            assert_eq!(refused, Refusal::Over(Duration::from_secs(1)), "{key}");
        }
        table.give_back(7, 1);
        table.take(7, 1, now).unwrap();
        assert!(table.take(8, 1, now).is_err());
    }

    #[test]
    fn a_million_keys_need_no_more_room_and_idle_ones_make_room() {
        let table = Table::new(Quota::new(10, 10).unwrap());
        let now = Timestamp(9);
        let n_refused = (0..1_000_000)
            .filter(|key| table.take(key, 1, now).is_err())
            .count();
        let n_places = table.sets.len() * N_PLACES;
        // All places were shared, and none gave more than it has.
        assert_eq!(n_refused, 1_000_000 - 10 * n_places);
        // A tenth of a second is a unit; a whole one makes all places free.
        let later = Timestamp(now.0 + 1000);
        for key in 0..100 {
            let left = table.take(("later", key), 1, later).unwrap();
            assert_eq!(left.units, 9, "{key}");
        }
    }

    #[test]
    fn who_comes_last_shares_with_the_least_greedy() {
        let quota = Quota::new(1, 100).unwrap();
        let now = Timestamp(0);
        let mut set = Set::default();
        for hash in 1..=8 {
            find(&mut set, hash, now)
                .take(hash * 10, quota, now)
                .unwrap();
        }
        let shared = find(&mut set, 9, now);
        assert_eq!(shared.take(90, quota, now).unwrap().units, 0);
        assert!(
            find(&mut set, 1, now).take(1, quota, now).is_err(),
            "shared"
        );
        find(&mut set, 8, now).take(20, quota, now).unwrap();
    }

    #[test]
    fn a_broken_table_says_so() {
        let table = Table::new(Quota::new(1, 1).unwrap());
        table.break_down();
        assert_eq!(table.take("a", 1, Timestamp(0)), Err(Refusal::Fault));
    }
}
