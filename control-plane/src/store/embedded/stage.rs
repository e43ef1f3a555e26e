//! Decides what a group of requests does, one after the other, before anything is written.
//!
//! Pure. Refuses to know of disks and channels. Invariant: a request sees what the earlier ones of its group did,
//! although no reader does yet.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    disk::{Group, LeaseChange},
    history::History,
    leases::Leases,
};
use crate::store::{Change, Compare, Entry, Error, LeaseId, Outcome, Revision, Txn, Write};

/// A group in the making.
pub(super) struct Stage<'a> {
    history: &'a History,
    leases: &'a mut Leases,
    /// Create and mod revision of the keys that this group touched; `None`: deleted.
    heads: HashMap<String, Option<(Revision, Revision)>>,
    group: Group,
}

impl<'a> Stage<'a> {
    pub(super) fn new(history: &'a History, leases: &'a mut Leases) -> Self {
        let group = Group {
            revision: history.revision(),
            ..Group::default()
        };
        Self {
            history,
            leases,
            heads: HashMap::new(),
            group,
        }
    }

    /// What is to be written.
    pub(super) fn finish(self) -> Group {
        self.group
    }

    pub(super) fn commit(&mut self, txn: Txn) -> Result<Outcome, Error> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome::Conflict);
        }
        let mut leases = txn.writes.iter().filter_map(Write::lease);
        if let Some(lost) = leases.find(|lease| !self.leases.contains(*lease)) {
            return Err(Error::LeaseLost(lost));
        }
        let revision = self.group.revision + 1;
        for write in txn.writes {
            match write {
                Write::Put { key, value, lease } => self.put(key, value, lease, revision),
                Write::Delete(key) => self.delete(key, revision),
            }
        }
        Ok(Outcome::Committed(self.group.revision))
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.leases.grant(id, ttl, now);
        self.group.leases.push(LeaseChange::Granted(id, ttl));
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Duration, Error> {
        self.leases.renew(id, now).ok_or(Error::LeaseLost(id))
    }

    /// Ends a lease, if there is one, and deletes its keys at one revision.
    pub(super) fn end(&mut self, id: LeaseId) {
        let Some(keys) = self.leases.end(id) else {
            return;
        };
        self.group.leases.push(LeaseChange::Ended(id));
        let revision = self.group.revision + 1;
        for key in keys {
            self.delete(key, revision);
        }
    }

    /// Ends the leases whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        for id in self.leases.due(now) {
            self.end(id);
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.head(key).is_none(),
            Compare::Revision(key, revision) => {
                self.head(key).map_or(0, |(_, modified)| modified) == *revision
            }
        }
    }

    fn head(&self, key: &str) -> Option<(Revision, Revision)> {
        match self.heads.get(key) {
            Some(head) => *head,
            None => self.history.head(key),
        }
    }

    fn put(
        &mut self,
        key: String,
        value: bytes::Bytes,
        lease: Option<LeaseId>,
        revision: Revision,
    ) {
        let created = self.head(&key).map_or(revision, |(created, _)| created);
        self.heads.insert(key.clone(), Some((created, revision)));
        self.leases.attach(&key, lease);
        let entry = Entry {
            key,
            value,
            create_revision: created,
            mod_revision: revision,
        };
        self.group.changes.push((Change::Put(entry), lease));
        self.group.revision = revision;
    }

    fn delete(&mut self, key: String, mod_revision: Revision) {
        if self.head(&key).is_none() {
            return;
        }
        self.heads.insert(key.clone(), None);
        self.leases.attach(&key, None);
        let change = Change::Delete { key, mod_revision };
        self.group.changes.push((change, None));
        self.group.revision = mod_revision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::history::Retention;

    #[test]
    fn a_deleted_key_leaves_its_lease() {
        let history = History::new(1, [], Retention::default());
        let mut leases = Leases::default();
        let mut stage = Stage::new(&history, &mut leases);
        let id = LeaseId(1);
        stage.grant(id, Duration::from_secs(1), Instant::now());
        stage
            .commit(Txn::new().put_leased("k", "", id))
            .expect("the lease lives");
        stage
            .commit(Txn::new().delete("k"))
            .expect("no lease needed");
        assert_eq!(
            leases.end(id),
            Some([].into()),
            "a long lease does not grow"
        );
    }
}
