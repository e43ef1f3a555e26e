//! A store that grants some leases and then answers nothing, as one does whose network is gone.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::future::pending;

use super::*;

/// Nobody is there any more.
#[derive(Debug)]
pub(crate) struct Deaf {
    n_answers: AtomicUsize,
}

impl Deaf {
    /// Grants so many leases.
    pub(crate) fn after(n_answers: usize) -> Self {
        let n_answers = n_answers.into();
        Self { n_answers }
    }
}

#[async_trait]
impl Store for Deaf {
    async fn get(&self, _key: &str) -> Result<(Option<Entry>, Revision), Error> {
        pending().await
    }

    async fn range(
        &self,
        _prefix: &str,
        _after: Option<&str>,
        _limit: usize,
        _at: Option<Revision>,
    ) -> Result<Page, Error> {
        pending().await
    }

    async fn commit(&self, _txn: Txn) -> Result<Outcome, Error> {
        pending().await
    }

    async fn watch(&self, _prefix: &str, _after: Revision) -> Result<Watch, Error> {
        pending().await
    }

    async fn grant(&self, _ttl: Duration) -> Result<LeaseId, Error> {
        if self.n_answers.load(Ordering::Relaxed) == 0 {
            return pending().await;
        }
        self.n_answers.fetch_sub(1, Ordering::Relaxed);
        Ok(LeaseId(1))
    }

    async fn keep_alive(&self, _lease: LeaseId) -> Result<Duration, Error> {
        pending().await
    }

    async fn revoke(&self, _lease: LeaseId) -> Result<(), Error> {
        pending().await
    }

    async fn generation(&self) -> Result<Generation, Error> {
        pending().await
    }
}
