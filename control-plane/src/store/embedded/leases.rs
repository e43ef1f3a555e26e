//! Who promised to come back by when, and what is deleted when they do not.
//!
//! Pure: `now` is an argument, ids come from outside. Invariant: a key hangs on one lease at most.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::LeaseId;

#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Instant, LeaseId)>,
    holders: HashMap<String, LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<String>,
}

impl Leases {
    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        let keys = BTreeSet::new();
        self.deadlines.insert((deadline, id));
        self.leases.insert(
            id,
            Lease {
                ttl,
                deadline,
                keys,
            },
        );
    }

    /// Starts the time to live again and answers it; `None` when the lease is lost.
    pub(super) fn renew(&mut self, id: LeaseId, now: Instant) -> Option<Duration> {
        let lease = self.leases.get_mut(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.ttl;
        self.deadlines.insert((lease.deadline, id));
        Some(lease.ttl)
    }

    /// Hangs a key on a lease that exists, or on none.
    pub(super) fn attach(&mut self, key: &str, id: Option<LeaseId>) {
        if let Some(former) = self.holders.remove(key)
            && let Some(lease) = self.leases.get_mut(&former)
        {
            lease.keys.remove(key);
        }
        if let Some(id) = id
            && let Some(lease) = self.leases.get_mut(&id)
        {
            lease.keys.insert(key.to_owned());
            self.holders.insert(key.to_owned(), id);
        }
    }

    /// Ends a lease and answers its keys; `None` when there is none.
    pub(super) fn end(&mut self, id: LeaseId) -> Option<BTreeSet<String>> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        for key in &lease.keys {
            self.holders.remove(key);
        }
        Some(lease.keys)
    }

    /// When the next lease ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases whose time is over.
    pub(super) fn due(&self, now: Instant) -> Vec<LeaseId> {
        let due = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now);
        due.map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LeaseId = LeaseId(1);
    const B: LeaseId = LeaseId(2);
    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_is_due_at_its_deadline_and_renewal_moves_it() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.grant(A, TTL, start);
        leases.grant(B, TTL * 2, start);
        assert_eq!(leases.next_deadline(), Some(start + TTL));
        assert_eq!(leases.due(start + TTL - Duration::from_nanos(1)), []);
        assert_eq!(leases.due(start + TTL), [A]);

        assert_eq!(leases.renew(A, start + TTL), Some(TTL));
        assert_eq!(leases.due(start + TTL * 2), [A, B]);
        assert_eq!(leases.end(A), Some(BTreeSet::new()));
        assert_eq!(leases.renew(A, start), None);
        assert_eq!(leases.due(start + TTL * 2), [B]);
    }

    #[test]
    fn a_key_hangs_on_the_lease_it_was_written_with_last() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.grant(A, TTL, start);
        leases.grant(B, TTL, start);
        leases.attach("moved", Some(A));
        leases.attach("freed", Some(A));
        leases.attach("stays", Some(A));
        leases.attach("moved", Some(B));
        leases.attach("freed", None);
        assert_eq!(leases.end(A), Some(BTreeSet::from(["stays".to_owned()])));
        assert_eq!(leases.end(B), Some(BTreeSet::from(["moved".to_owned()])));
        assert!(leases.holders.is_empty());
    }
}
