//! A keyspace that is written in sorted runs: what was put and removed since the last run is in
//! memory, and goes to the disk at once, around the database's own log.
//!
//! A run costs a fraction of what single writes do, nothing of it is replayed when the database is
//! opened, and what is put and removed again between two runs never touches the disk.
//!
//! **Invariants:** a run is durable once it is written; what is not in a run is lost in a crash.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    ops::Bound,
};

use fjall::Keyspace;

use super::Error;

/// How many keys are in memory at most, and in a run: some 20 MiB, which take a fraction of a second
/// to write. Smaller runs are merged more often.
pub(super) const RUN: usize = 1 << 18;

/// A keyspace of keys and values of fixed sizes.
pub(super) struct Runs<const K: usize, const V: usize> {
    keyspace: Keyspace,
    fresh: BTreeMap<[u8; K], Fresh<V>>,
}

/// What is newer than the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fresh<const V: usize> {
    /// The disk has no such key.
    New([u8; V]),
    /// The disk may have another value.
    Changed([u8; V]),
    Removed,
}

// === impl Runs ===

impl<const K: usize, const V: usize> Runs<K, V> {
    pub(super) fn new(keyspace: Keyspace) -> Self {
        Self {
            keyspace,
            fresh: BTreeMap::new(),
        }
    }

    /// How many keys are in memory.
    pub(super) fn n_fresh(&self) -> usize {
        self.fresh.len()
    }

    /// Puts a key that is not there.
    pub(super) fn insert(&mut self, key: [u8; K], value: [u8; V]) {
        match self.fresh.entry(key) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Fresh::New(value));
            }
            // Removed from the disk, and back.
            btree_map::Entry::Occupied(mut occupied) => *occupied.get_mut() = Fresh::Changed(value),
        }
    }

    /// Changes the value of a key.
    pub(super) fn update(&mut self, key: [u8; K], value: [u8; V]) {
        let fresh = self.fresh.entry(key).or_insert(Fresh::Removed);
        *fresh = match fresh {
            Fresh::New(_) => Fresh::New(value),
            Fresh::Changed(_) | Fresh::Removed => Fresh::Changed(value),
        };
    }

    pub(super) fn remove(&mut self, key: [u8; K]) {
        match self.fresh.get(&key) {
            Some(Fresh::New(_)) => self.fresh.remove(&key),
            Some(Fresh::Changed(_) | Fresh::Removed) | None => {
                self.fresh.insert(key, Fresh::Removed)
            }
        };
    }

    pub(super) fn get(&self, key: [u8; K]) -> Result<Option<[u8; V]>, Error> {
        match self.fresh.get(&key) {
            Some(fresh) => Ok(fresh.value()),
            None => Ok(self.keyspace.get(key)?.map(|it| array(&it))),
        }
    }

    /// The keys from `first` to `last` and their values, in order.
    pub(super) fn range(
        &self,
        first: [u8; K],
        last: [u8; K],
    ) -> impl Iterator<Item = Result<([u8; K], [u8; V]), Error>> {
        let bounds = (Bound::Included(first), Bound::Included(last));
        let fresh = self.fresh.range(bounds).map(|(key, fresh)| (*key, *fresh));
        let stored = self.keyspace.range(first..=last).map(|it| {
            let (key, value) = it.into_inner()?;
            Ok((array(&key), array(&value)))
        });
        Merged {
            fresh: fresh.peekable(),
            stored: stored.peekable(),
        }
    }

    /// Makes everything durable, as one run.
    pub(super) fn write(&mut self) -> Result<(), Error> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let mut run = self.keyspace.start_ingestion()?;
        for (key, fresh) in &self.fresh {
            match fresh.value() {
                Some(value) => run.write(key, value)?,
                None => run.write_tombstone(key)?,
            }
        }
        run.finish()?;
        self.fresh.clear();
        Ok(())
    }

    /// Writes a run of keys that are not there, sorted.
    pub(super) fn write_sorted(
        &self,
        entries: impl IntoIterator<Item = ([u8; K], [u8; V])>,
    ) -> Result<(), Error> {
        let mut run = self.keyspace.start_ingestion()?;
        for (key, value) in entries {
            run.write(key, value)?;
        }
        Ok(run.finish()?)
    }
}

// === impl Fresh ===

impl<const V: usize> Fresh<V> {
    fn value(self) -> Option<[u8; V]> {
        match self {
            Self::New(value) | Self::Changed(value) => Some(value),
            Self::Removed => None,
        }
    }
}

/// Both in the order of their keys; of the same key, the fresh one.
struct Merged<F: Iterator, S: Iterator> {
    fresh: Peekable<F>,
    stored: Peekable<S>,
}

impl<const K: usize, const V: usize, F, S> Iterator for Merged<F, S>
where
    F: Iterator<Item = ([u8; K], Fresh<V>)>,
    S: Iterator<Item = Result<([u8; K], [u8; V]), Error>>,
{
    type Item = Result<([u8; K], [u8; V]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stored = match self.stored.peek() {
                Some(Ok((key, _))) => Some(*key),
                Some(Err(_)) => return self.stored.next(),
                None => None,
            };
            let is_fresh = |(key, _): &([u8; K], _)| stored.is_none_or(|stored| *key <= stored);
            let Some((key, fresh)) = self.fresh.next_if(is_fresh) else {
                return self.stored.next();
            };
            if stored == Some(key) {
                self.stored.next();
            }
            if let Some(value) = fresh.value() {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// The database checks its own checksums: what it has is what was written.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    let length = bytes.len().min(N);
    array[..length].copy_from_slice(&bytes[..length]);
    array
}
