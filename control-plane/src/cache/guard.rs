//! The store as the services see it: there for as long as it is believed.
//!
//! **Invariant:** while a store is not believed nothing is read from it for a caller, and nothing is changed in it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Cache;
use crate::store::{Entry, Error, Generation, LeaseId, Outcome, Page, Revision, Store, Txn, Watch};

/// A store that answers only while it is believed.
#[derive(Debug)]
pub(crate) struct Guarded {
    store: Arc<dyn Store>,
    cache: Cache,
}

// === impl Guarded ===

impl Guarded {
    /// The store that the cache follows.
    pub(crate) fn new(store: Arc<dyn Store>, cache: Cache) -> Self {
        Self { store, cache }
    }

    fn believed(&self, operation: &'static str) -> Result<&dyn Store, Error> {
        if self.cache.is_guarded() {
            let source = Some("it is not believed; an operator must look".into());
            return Err(Error::Unavailable { operation, source });
        }
        Ok(&*self.store)
    }
}

#[async_trait]
impl Store for Guarded {
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error> {
        self.believed("get")?.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        self.believed("range")?
            .range(prefix, after, limit, at)
            .await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.believed("commit")?.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.believed("watch")?.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.believed("grant")?.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.believed("keep alive")?.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.believed("revoke")?.revoke(lease).await
    }

    async fn generation(&self) -> Result<Generation, Error> {
        self.believed("generation")?.generation().await
    }
}
