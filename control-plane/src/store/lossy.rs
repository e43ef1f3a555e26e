//! A store whose watches lose changes, as etcd's have (reference/control-plane.md §3.6), and which can be another one from one
//! moment to the next: everything else is another store's. It passes the suite's cases of watches as long as it is told to lose nothing.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;

use super::*;

/// Loses the next change of a key, if it is told one.
#[derive(Debug)]
pub(crate) struct Lossy {
    store: Arc<dyn Store>,
    lost: Arc<Mutex<Option<String>>>,
    is_another: AtomicBool,
}

impl Lossy {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            lost: Arc::default(),
            is_another: AtomicBool::default(),
        }
    }

    /// The data are of another incarnation from now on, and look the same.
    pub(crate) fn become_another(&self) {
        self.is_another.store(true, Ordering::Relaxed);
    }

    /// The next change of this key is never heard of.
    pub(crate) fn lose(&self, key: &str) {
        *self.lost.lock().expect("no panic") = Some(key.to_owned());
    }

    /// Whether what was to be lost is.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.lock().expect("no panic").is_none()
    }
}

#[async_trait]
impl Store for Lossy {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        self.store.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        self.store.range(prefix, after, limit, at).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.store.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let mut watch = self.store.watch(prefix, after).await?;
        let lost = Arc::clone(&self.lost);
        Ok(Watch::spawn(|batches| async move {
            loop {
                let mut next = watch.next().await;
                if let Ok(batch) = &mut next {
                    let mut lost = lost.lock().expect("no panic");
                    let is_lost = |it: &mut Change| lost.take_if(|key| it.key() == key).is_some();
                    batch.changes.extract_if(.., is_lost).for_each(drop);
                }
                let is_over = next.is_err();
                if batches.send(next).await.is_err() || is_over {
                    return;
                }
            }
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke(lease).await
    }

    async fn generation(&self) -> Result<Generation, Error> {
        let generation = self.store.generation().await?;
        if self.is_another.load(Ordering::Relaxed) {
            return Ok(Generation::new(0, uuid::Uuid::nil()));
        }
        Ok(generation)
    }
}

mod tests {
    use super::*;
    use crate::store::{
        embedded::Retention,
        suite::{self, conformance},
    };

    struct Fixture {
        _dir: tempfile::TempDir,
        store: Arc<Lossy>,
    }

    #[async_trait]
    impl suite::Fixture for Fixture {
        fn store(&self) -> Arc<dyn Store> {
            self.store.clone()
        }

        async fn compact(&self, _revision: Revision) {
            unreachable!("no case of watches compacts");
        }
    }

    async fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path().join("store"), Retention::default());
        let store = Arc::new(Lossy::new(Arc::new(store.await.unwrap())));
        Fixture { _dir: dir, store }
    }

    conformance! { fixture =>
        a_watch_from_the_past_sees_everything_once_in_order
        a_watch_sees_what_happens_under_its_prefix_only
        a_watch_hands_out_whole_transactions_however_many
        a_watch_that_waits_is_cancel_safe
    }
}
