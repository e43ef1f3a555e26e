//! The audit log: who changed what, and who was denied what. Every call that changes something is in it before it is
//! answered; so is every read of an event's data. What is refused is in it too, as far as its [`quota`] goes.
//!
//! - [`record`], [`chain`]: what a record says, and how each holds on to the one before.
//! - [`quota`]: how many refusals are written down, so that a flood of them does not fill the disk.
//! - [`log`], [`writer`]: the files, and the thread that writes them.
//! - [`subject`], [`layer`]: what a call is about, and where calls are noted.
//! - [`check`]: whether a log is whole.
//!
//! **Invariant:** no secret and no payload is ever in it, nor a digest of one: of a request there are the names of the
//! resources that it is about.

pub(crate) mod chain;
pub mod check;
pub(crate) mod layer;
pub(crate) mod log;
pub(crate) mod quota;
pub(crate) mod record;
pub(crate) mod subject;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::{path::PathBuf, sync::Arc};

use self::{record::Record, writer::Writer};
use crate::clock::Clock;

pub use self::log::Error;

/// Writes down what happens; cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Writer>>);

// === impl Audit ===

impl Audit {
    /// Nothing is written down.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Goes on with the log in a directory, or begins one there. Reads a file of it, so it takes a moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(dir: PathBuf, clock: Clock) -> Result<Self, Error> {
        Writer::start(dir, clock).map(|it| Self(Some(Arc::new(it))))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what happens next can be written down.
    pub(crate) fn is_writable(&self) -> bool {
        self.0.as_ref().is_none_or(|it| it.is_writable())
    }

    /// The time, for a record.
    pub(crate) fn now(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |it| it.now())
    }

    /// Writes a record down, and returns once it is on stable storage, or cannot be, which the log of the process says.
    pub(crate) async fn commit(&self, record: Record) {
        if let Some(writer) = &self.0 {
            writer.commit(record).await;
        }
    }

    /// Writes a record of something that was refused down, soon, if the quota of whoever asked for it allows.
    pub(crate) fn note(&self, record: Record) {
        if let Some(writer) = &self.0 {
            writer.note(record);
        }
    }
}
