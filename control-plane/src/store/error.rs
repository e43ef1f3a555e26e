//! The one error of the store: a variant is something the caller can do differently.
//!
//! A lost compare is no error, it is [`Outcome::Conflict`](super::Outcome::Conflict).

use std::path::PathBuf;

use super::{LeaseId, Revision};

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store cannot be reached or has no leader. Nothing was changed. Try again later.
    #[error("{operation}: the store is unavailable")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// What the last try met.
        #[source]
        source: Option<BoxError>,
    },
    /// A commit was sent and its answer was lost: it may be applied, now or shortly, or not. Read again before deciding.
    #[error("commit: the answer was lost, the transaction may have been applied")]
    Unknown {
        /// What the last try met; `None` when a repeated try met its own compares.
        #[source]
        source: Option<BoxError>,
    },
    /// The history that was asked for is gone: list again, then watch from there.
    #[error("revision {revision} has been compacted")]
    Compacted {
        /// The revision that was asked for.
        revision: Revision,
    },
    /// The store has not reached this revision: it was wiped or restored since the revision was seen.
    #[error("revision {revision} is in the future")]
    FutureRevision {
        /// The revision that was asked for.
        revision: Revision,
    },
    /// The lease has expired or was revoked, and its keys are deleted.
    #[error("{0} is lost")]
    LeaseLost(LeaseId),
    /// The transaction exceeds [`MAX_OPERATIONS`](super::MAX_OPERATIONS) or [`MAX_BYTES`](super::MAX_BYTES), or a key
    /// [`MAX_KEY_BYTES`](super::MAX_KEY_BYTES).
    #[error("the transaction is too large: {operations} operations, {bytes} bytes")]
    TooLarge {
        /// Compares or writes, the larger number.
        operations: usize,
        /// Keys and values.
        bytes: usize,
    },
    /// The transaction writes this key twice.
    #[error("the transaction writes key {0:?} twice")]
    DuplicateKey(String),
    /// The store has no room for writes; reads and deletes still work. The write that filled it may be applied.
    #[error("{operation}: the store is out of space")]
    Full {
        /// What was asked.
        operation: &'static str,
        /// The store's own words.
        #[source]
        source: BoxError,
    },
    /// The store refuses our credentials or our request. Repeating it does not help.
    #[error("{operation}: the store refuses")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The store's own words.
        #[source]
        source: BoxError,
    },
    /// An endpoint answers for another cluster than the one we began with.
    #[error("an endpoint belongs to cluster {found:016x}, not {expected:016x}")]
    Foreign {
        /// The cluster that we began with.
        expected: u64,
        /// The cluster that answered.
        found: u64,
    },
    /// Another process has the data directory open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Stored bytes that cannot be read. A human must look; nothing was repaired or dropped.
    #[error("corrupt store: {0}")]
    Corrupt(String),
    /// The disk failed. What was not answered is not known to be stored: the process must end and open again.
    #[error("{operation}: the store has failed")]
    Fatal {
        /// What was asked.
        operation: &'static str,
        /// The first failure; `None` on every call after it.
        #[source]
        source: Option<BoxError>,
    },
}

/// A cause whose type is the implementation's business.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// Whether the same call may succeed later without anyone's doing.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Unknown { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::LeaseLost(_)
            | Self::TooLarge { .. }
            | Self::DuplicateKey(_)
            | Self::Full { .. }
            | Self::Refused { .. }
            | Self::Foreign { .. }
            | Self::Locked(_)
            | Self::Corrupt(_)
            | Self::Fatal { .. } => false,
        }
    }
}
