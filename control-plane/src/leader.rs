//! Which control plane places slots: the one whose key stands in the store, for as long as its lease lives.
//!
//! **Invariant:** what is written under [`Leadership::guard`] is written only if the key still is the one that this
//! control plane put there: a leader that was paused, cut off or replaced changes nothing any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hookfleet_contract::time::Timestamp;

use crate::{
    keys,
    store::{Error, LeaseId, Outcome, Revision, Store, Txn},
};

/// How long nobody places slots after a leader's death.
const LIFE: Duration = Duration::from_secs(10);
/// Between renewals.
const PERIOD: Duration = Duration::from_secs(3);

/// The right to place slots, or the wish for it.
#[derive(Debug)]
pub(crate) struct Leadership {
    store: Arc<dyn Store>,
    /// Who this is, for people.
    id: String,
    held: Option<Held>,
    /// For operators: until when this control plane places slots, if it is not heard of again.
    until: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    lease: LeaseId,
    /// At which the key was put.
    revision: Revision,
    renewed: Timestamp,
}

// === impl Leadership ===

impl Leadership {
    pub(crate) fn new(store: Arc<dyn Store>, id: String) -> Self {
        Self {
            store,
            id,
            held: None,
            until: Arc::default(),
        }
    }

    /// Until when this control plane places slots, by the clock of [`Self::keep`], in milliseconds; 0 if it does not.
    pub(crate) fn until(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.until)
    }

    /// Takes the right if nobody has it, and keeps it. Whether this control plane has it now; `is_free` says whether
    /// nobody seems to.
    ///
    /// # Errors
    /// Of the store; then the right may be lost, which a guarded write finds out.
    pub(crate) async fn keep(&mut self, is_free: bool, now: Timestamp) -> Result<bool, Error> {
        match self.held {
            Some(held) if now.since(held.renewed) < PERIOD => Ok(true),
            Some(held) => match self.store.keep_alive(held.lease).await {
                Ok(_) => {
                    self.hold(Some(Held {
                        renewed: now,
                        ..held
                    }));
                    Ok(true)
                }
                Err(Error::LeaseLost(_)) => {
                    self.lose();
                    Ok(false)
                }
                Err(error) => Err(error),
            },
            None if is_free => self.campaign(now).await,
            None => Ok(false),
        }
    }

    /// A transaction that changes something only if this control plane places slots.
    pub(crate) fn guard(&self, txn: Txn) -> Option<Txn> {
        let held = self.held?;
        Some(txn.unchanged(keys::LEADER, held.revision))
    }

    /// The right is somebody else's by now.
    pub(crate) fn lose(&mut self) {
        if self.held.is_some() {
            self.hold(None);
            tracing::warn!(id = self.id, "another control plane places slots now");
        }
    }

    /// Gives the right to whoever is next, at once.
    pub(crate) async fn resign(mut self) {
        let held = self.held;
        self.hold(None);
        if let Some(held) = held
            && let Err(error) = self.store.revoke(held.lease).await
        {
            tracing::debug!(%error, "could not resign; the lease ends by itself");
        }
    }

    fn hold(&mut self, held: Option<Held>) {
        let until = held.map_or(0, |it| (it.renewed + LIFE).0);
        self.until.store(until, Ordering::Relaxed);
        self.held = held;
    }

    async fn campaign(&mut self, now: Timestamp) -> Result<bool, Error> {
        let lease = self.store.grant(LIFE).await?;
        let txn = Txn::new()
            .absent(keys::LEADER)
            .put_leased(keys::LEADER, self.id.clone(), lease);
        match self.store.commit(txn).await {
            Ok(Outcome::Committed(revision)) => {
                tracing::info!(id = self.id, "places slots from now on");
                self.hold(Some(Held {
                    lease,
                    revision,
                    renewed: now,
                }));
                Ok(true)
            }
            Ok(Outcome::Conflict) => {
                self.store.revoke(lease).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, embedded::Retention};

    #[tokio::test]
    async fn one_leads_until_it_resigns_and_a_deposed_one_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path().join("store"), Retention::default());
        let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
        let leader = |id: &str| Leadership::new(Arc::clone(&store), id.to_owned());
        let (mut a, mut b) = (leader("a"), leader("b"));
        assert!(a.keep(true, Timestamp(0)).await.unwrap());
        let until = |it: &Leadership| it.until().load(Ordering::Relaxed);
        assert_eq!((until(&a), until(&b)), (10_000, 0), "for operators");
        // It looked free, and was not.
        assert!(!b.keep(true, Timestamp(0)).await.unwrap());
        assert!(b.guard(Txn::new()).is_none());
        let write = |it: &Leadership| it.guard(Txn::new().put("x", "1")).unwrap();
        let deposed = write(&a);
        let committed = store.commit(write(&a)).await.unwrap();
        assert!(matches!(committed, Outcome::Committed(_)));

        let told = a.until();
        a.resign().await;
        assert_eq!(told.load(Ordering::Relaxed), 0);
        assert!(b.keep(true, Timestamp(1)).await.unwrap());
        assert_eq!(store.commit(deposed).await.unwrap(), Outcome::Conflict);
    }

    #[tokio::test]
    async fn whoever_loses_its_lease_finds_out_when_it_renews_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path().join("store"), Retention::default());
        let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
        let mut a = Leadership::new(Arc::clone(&store), "a".to_owned());
        assert!(a.keep(true, Timestamp(0)).await.unwrap());
        store.revoke(a.held.unwrap().lease).await.unwrap();
        assert!(a.keep(true, Timestamp(2999)).await.unwrap());
        assert_eq!(a.until().load(Ordering::Relaxed), 10_000);
        assert!(!a.keep(false, Timestamp(3000)).await.unwrap());
        assert_eq!(a.until().load(Ordering::Relaxed), 0);
        assert!(a.keep(true, Timestamp(3001)).await.unwrap());
    }
}
