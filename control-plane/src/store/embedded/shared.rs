//! What readers see: the durable state and its newest revision.
//!
//! Invariant: nothing is visible before it is on disk, and nothing at all after a write failed.

use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{mpsc, watch};

use super::{disk::Group, history::History};
use crate::store::{Batch, Error, Revision};

/// The most revisions that a watch hands out at once.
const MAX_BATCH: usize = 256;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) history: RwLock<History>,
    /// Tells watches that the history grew or failed.
    newest: watch::Sender<Revision>,
    failed: AtomicBool,
}

impl Shared {
    pub(super) fn new(history: History) -> Self {
        Self {
            newest: watch::Sender::new(history.revision()),
            history: RwLock::new(history),
            failed: AtomicBool::new(false),
        }
    }

    /// Reads the durable state.
    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&History) -> T,
    ) -> Result<T, Error> {
        if self.has_failed() {
            let source = None;
            return Err(Error::Fatal { operation, source });
        }
        Ok(read(
            &self.history.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Shows a group that is on disk.
    pub(super) fn publish(&self, group: Group) {
        let mut changes = group
            .changes
            .into_iter()
            .map(|(change, _)| change)
            .peekable();
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = changes.next() {
            let revision = first.mod_revision();
            let mut whole = vec![first];
            while let Some(next) = changes.next_if(|change| change.mod_revision() == revision) {
                whole.push(next);
            }
            history.apply(whole);
        }
        let revision = history.revision();
        drop(history);
        self.newest.send_replace(revision);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.newest.send_modify(|_| ());
    }

    /// Resolves once a write has failed.
    pub(super) async fn failed(&self) {
        let mut newest = self.newest.subscribe();
        // Whoever tells is as old as this, so it cannot be gone.
        let _told = newest.wait_for(|_| self.has_failed()).await;
    }

    /// Feeds a watch until it is dropped or cannot go on.
    pub(super) async fn follow(
        &self,
        prefix: String,
        mut after: Revision,
        watch: mpsc::Sender<Result<Batch, Error>>,
    ) {
        let mut newest = self.newest.subscribe();
        while let Ok(permit) = watch.reserve().await {
            // A future revision does not wait for the present to reach it: that would be another history.
            if newest
                .wait_for(|newest| self.has_failed() || *newest != after)
                .await
                .is_err()
            {
                return;
            }
            let batch = self.read("watch", |history| {
                history.changes(&prefix, after, MAX_BATCH)
            });
            match batch.flatten() {
                Ok(batch) => {
                    after = batch.revision;
                    permit.send(Ok(batch));
                }
                Err(error) => return permit.send(Err(error)),
            }
        }
    }
}
