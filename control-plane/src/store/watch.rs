//! A subscription to the changes under a prefix: batches of whole revisions, in order, each change once.
//!
//! Knows nothing of where they come from. A task per watch feeds a channel of one batch, so a slow reader holds its
//! source back instead of growing memory, and [`Watch::next`] can be cancelled.

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Entry, Error, Revision};

/// The changes under a prefix from some revision on. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    batches: mpsc::Receiver<Result<Batch, Error>>,
    _source: AbortOnDropHandle<()>,
}

/// Whole revisions, in order: never a part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// In order of revision; may be empty, which says only that time went on.
    pub changes: Vec<Change>,
    /// Every change up to and including this revision has been handed out. Never goes back.
    pub revision: Revision,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was created or replaced.
    Put(Entry),
    /// The key was deleted, by a transaction or by the end of its lease.
    Delete {
        /// The key.
        key: String,
        /// When.
        mod_revision: Revision,
    },
}

// === impl Watch ===

impl Watch {
    /// Runs `source`, which feeds the watch until the sender is closed or it has nothing more to say.
    pub(super) fn spawn<S>(source: impl FnOnce(mpsc::Sender<Result<Batch, Error>>) -> S) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (sender, batches) = mpsc::channel(1);
        Self {
            batches,
            _source: AbortOnDropHandle::new(tokio::spawn(source(sender))),
        }
    }

    /// Waits for the next batch. An outage of the store is waited out, for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Compacted`] (list again), [`Error::FutureRevision`] (the store lost data), [`Error::Refused`],
    /// [`Error::Foreign`], [`Error::Fatal`]: the watch is over. Every later call is [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        match self.batches.recv().await {
            Some(answer) => answer,
            None => Err(Error::Unavailable {
                operation: "watch",
                source: None,
            }),
        }
    }
}

// === impl Change ===

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it changed.
    #[must_use]
    pub const fn mod_revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}
