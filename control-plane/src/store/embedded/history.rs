//! Keys and values in memory, with enough of their past for pinned reads and watches.
//!
//! Pure. Refuses to know of disks, leases and threads. Invariant: for every revision from `compacted` to `revision` a read
//! sees exactly what a read at that time saw, and the changes after `compacted` are all in the log.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use crate::store::{Batch, Change, Entry, Error, Page, Revision};

/// How much of the past is kept, whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Revisions that can be read and watched from.
    pub revisions: usize,
    /// Bytes of the keys and values written in these revisions.
    pub bytes: usize,
}

#[derive(Debug)]
pub(super) struct History {
    revision: Revision,
    compacted: Revision,
    retention: Retention,
    /// The versions of each key, oldest first, never empty.
    keys: BTreeMap<Arc<str>, Vec<Version>>,
    /// The changes of the revisions after `compacted`, one item per revision.
    log: VecDeque<Vec<Change>>,
    n_log_bytes: usize,
}

/// A key's value from one revision to the next version's.
#[derive(Debug)]
struct Version {
    create_revision: Revision,
    mod_revision: Revision,
    /// `None` when this version is the key's deletion.
    value: Option<Bytes>,
}

// === impl Retention ===

impl Default for Retention {
    /// Minutes of the busiest management traffic; a page token or an agent that is away longer starts over.
    fn default() -> Self {
        Self {
            revisions: 10_000,
            bytes: 64 << 20,
        }
    }
}

// === impl History ===

impl History {
    /// The state at `revision`, without a past.
    pub(super) fn new(
        revision: Revision,
        entries: impl IntoIterator<Item = Entry>,
        retention: Retention,
    ) -> Self {
        let keys = entries
            .into_iter()
            .map(|entry| {
                let version = Version {
                    create_revision: entry.create_revision,
                    mod_revision: entry.mod_revision,
                    value: Some(entry.value),
                };
                (entry.key.into(), vec![version])
            })
            .collect();
        Self {
            revision,
            compacted: revision,
            retention,
            keys,
            log: VecDeque::new(),
            n_log_bytes: 0,
        }
    }

    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let (key, versions) = self.keys.get_key_value(key)?;
        entry(key, versions.last()?)
    }

    /// The create and mod revision of a key that exists.
    pub(super) fn head(&self, key: &str) -> Option<(Revision, Revision)> {
        let version = self.keys.get(key)?.last()?;
        let exists = version.value.is_some();
        exists.then_some((version.create_revision, version.mod_revision))
    }

    pub(super) fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let revision = at.unwrap_or(self.revision);
        self.check(revision)?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let mut found = self
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, versions)| {
                let version = versions.iter().rfind(|v| v.mod_revision <= revision)?;
                entry(key, version)
            });
        let entries = found.by_ref().take(limit).collect();
        Ok(Page {
            entries,
            more: found.next().is_some(),
            revision,
        })
    }

    /// The changes under `prefix` in the revisions after `after`, at most `n_revisions` of them.
    pub(super) fn changes(
        &self,
        prefix: &str,
        after: Revision,
        n_revisions: usize,
    ) -> Result<Batch, Error> {
        self.check(after)?;
        let n_seen = distance(self.compacted, after);
        let n_revisions = n_revisions.min(self.log.len() - n_seen);
        let changes = self
            .log
            .range(n_seen..n_seen + n_revisions)
            .flatten()
            .filter(|change| change.key().starts_with(prefix))
            .cloned()
            .collect();
        Ok(Batch {
            changes,
            revision: after.saturating_add_unsigned(n_revisions as u64),
        })
    }

    /// Takes the next revision in.
    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        self.revision += 1;
        for change in &changes {
            self.n_log_bytes += size(change);
            let (key, version) = match change {
                Change::Put(entry) => {
                    let version = Version {
                        create_revision: entry.create_revision,
                        mod_revision: entry.mod_revision,
                        value: Some(entry.value.clone()),
                    };
                    (&entry.key, version)
                }
                Change::Delete { key, mod_revision } => {
                    let version = Version {
                        create_revision: 0,
                        mod_revision: *mod_revision,
                        value: None,
                    };
                    (key, version)
                }
            };
            match self.keys.get_mut(key.as_str()) {
                Some(versions) => versions.push(version),
                None => drop(self.keys.insert(key.as_str().into(), vec![version])),
            }
        }
        self.log.push_back(changes);
        while self.log.len() > self.retention.revisions || self.n_log_bytes > self.retention.bytes {
            self.forget_oldest();
        }
    }

    /// Forgets what was before `revision`.
    #[cfg(test)]
    pub(super) fn compact(&mut self, revision: Revision) {
        while self.compacted < revision.min(self.revision) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(changes) = self.log.pop_front() else {
            return;
        };
        self.compacted += 1;
        for change in changes {
            self.n_log_bytes -= size(&change);
            let Some(versions) = self.keys.get_mut(change.key()) else {
                continue;
            };
            // The version of this revision stays, for reads at it; a deletion has nothing to show.
            versions.retain(|version| {
                version.mod_revision > self.compacted
                    || version.mod_revision == self.compacted && version.value.is_some()
            });
            if versions.is_empty() {
                self.keys.remove(change.key());
            }
        }
    }

    fn check(&self, revision: Revision) -> Result<(), Error> {
        if revision < self.compacted {
            Err(Error::Compacted { revision })
        } else if revision > self.revision {
            Err(Error::FutureRevision { revision })
        } else {
            Ok(())
        }
    }
}

fn entry(key: &str, version: &Version) -> Option<Entry> {
    Some(Entry {
        key: key.to_owned(),
        value: version.value.clone()?,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
    })
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete { key, .. } => key.len(),
    }
}

fn distance(from: Revision, to: Revision) -> usize {
    usize::try_from(to - from).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, revision: Revision) -> Change {
        Change::Put(Entry {
            key: key.to_owned(),
            value: Bytes::from(revision.to_string()),
            create_revision: revision,
            mod_revision: revision,
        })
    }

    fn delete(key: &str, mod_revision: Revision) -> Change {
        let key = key.to_owned();
        Change::Delete { key, mod_revision }
    }

    fn history(revisions: usize, bytes: usize) -> History {
        History::new(0, [], Retention { revisions, bytes })
    }

    #[test]
    fn what_is_forgotten_leaves_no_trace_in_memory() {
        let mut history = history(2, usize::MAX);
        history.apply(vec![put("a", 1), put("b", 1)]);
        history.apply(vec![delete("a", 2), put("b", 2)]);
        assert_eq!(history.keys["a"].len(), 2);
        history.apply(vec![put("c", 3)]);
        history.apply(vec![put("d", 4)]);

        assert_eq!(history.compacted, 2);
        assert!(!history.keys.contains_key("a"), "a deletion is no version");
        assert_eq!(history.keys["b"].len(), 1);
        assert_eq!(history.log.len(), 2);
    }

    #[test]
    fn large_values_shorten_the_past() {
        let mut history = history(100, 10);
        for revision in 1..=50 {
            history.apply(vec![put("key", revision)]);
        }
        assert_eq!(history.compacted, 48);
        assert!(matches!(
            history.changes("", 47, 9),
            Err(Error::Compacted { revision: 47 })
        ));
        let batch = history.changes("", 48, 9).expect("still there");
        assert_eq!((batch.changes.len(), batch.revision), (2, 50));
    }

    #[test]
    fn changes_stop_at_the_asked_number_of_revisions() {
        let mut history = history(100, usize::MAX);
        for revision in 1..=9 {
            history.apply(vec![put("a/x", revision), put("b/x", revision)]);
        }
        let batch = history.changes("b/", 3, 4).expect("in the log");
        let revisions: Vec<_> = batch.changes.iter().map(Change::mod_revision).collect();
        assert_eq!((revisions, batch.revision), (vec![4, 5, 6, 7], 7));
        let batch = history.changes("none/", 7, 4).expect("in the log");
        assert_eq!((batch.changes.len(), batch.revision), (0, 9));
    }
}
