//! Why the journal refuses.

use std::{io, path::PathBuf, sync::Arc};

/// Why the journal refuses. Cheap to clone: one failure answers many requests.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Too many bytes of events wait for the disk; try again soon.
    #[error("too many events wait for the disk")]
    Overloaded,
    /// The disk is nearly full; deliveries go on, events are taken again when there is space.
    #[error("the disk is nearly full")]
    DiskFull,
    /// The event does not fit into a segment.
    #[error("the event of {bytes} bytes does not fit into a segment")]
    TooLarge {
        /// Its size with its targets.
        bytes: u64,
    },
    /// The journal was closed, or the disk failed and nothing more can be trusted.
    #[error("the journal has stopped")]
    Stopped,
    /// Another process has the journal open.
    #[error("journal {0} is in use by another process")]
    Locked(PathBuf),
    /// The files belong to another journal: a copied directory must be adopted explicitly.
    #[error("{path} belongs to journal {found:032x}")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: u128,
    },
    /// The file was written by a version that this one does not know.
    #[error("{path} has format {version}, which this version cannot read")]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// An event is there and cannot be read.
    #[error("event {seq} is damaged")]
    Corrupt {
        /// Its number.
        seq: u64,
    },
    /// The disk failed.
    #[error("cannot {what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The embedded database failed.
    #[error("the database failed")]
    Database(#[source] Arc<fjall::Error>),
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Overloaded | Self::DiskFull)
    }

    /// For `map_err`: what was attempted when the disk failed.
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            source: Arc::new(source),
        }
    }

    /// Whether the disk has no more room.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Full, or over a quota: to an append they are the same.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl From<fjall::Error> for Error {
    fn from(error: fjall::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}
