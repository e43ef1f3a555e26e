//! When the snapshot is written: with each update, and put on stable storage a little later.
//!
//! **Invariant:** rows are written in the order in which they came; what cannot be written is written with the next.

use std::time::Duration;

use hookfleet_proto::fleet::Snapshot;
use tokio::{task::spawn_blocking, time::Instant};

use super::snapshot::{Row, Store};

/// How long what was written waits for stable storage. If it is lost, the control plane says it again.
const SYNC_PAUSE: Duration = Duration::from_secs(1);

/// Writes a snapshot beside everything else.
#[derive(Debug)]
pub struct Saver {
    store: Store,
    /// Rows that could not be written yet.
    unsaved: Vec<Row>,
    sync_at: Option<Instant>,
}

impl Saver {
    /// One with nothing to do.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            unsaved: Vec::new(),
            sync_at: None,
        }
    }

    /// When [`Saver::sync`] is to be called, if anything was written.
    pub(super) fn sync_at(&self) -> Option<Instant> {
        self.sync_at
    }

    /// Writes rows, and what they are of.
    pub(super) async fn save(&mut self, rows: Vec<Row>, head: Option<Snapshot>) {
        self.unsaved.extend(rows);
        let (store, rows) = (self.store.clone(), std::mem::take(&mut self.unsaved));
        let saved = spawn_blocking(move || (store.save(&rows, head.as_ref()), rows)).await;
        match saved {
            Ok((Ok(()), _)) => {
                self.sync_at.get_or_insert(Instant::now() + SYNC_PAUSE);
            }
            Ok((Err(error), rows)) => {
                tracing::warn!(%error, "cannot save the snapshot");
                self.unsaved = rows;
            }
            Err(error) => tracing::error!(%error, "saving the snapshot panicked"),
        }
    }

    /// Puts what was written on stable storage.
    pub(super) async fn sync(&mut self) {
        if self.sync_at.take().is_none() {
            return;
        }
        let store = self.store.clone();
        match spawn_blocking(move || store.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot sync the snapshot"),
            Err(error) => tracing::error!(%error, "syncing the snapshot panicked"),
        }
    }
}
