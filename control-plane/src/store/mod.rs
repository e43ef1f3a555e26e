//! What the control plane remembers: keys, values, revisions, leases. No event ever comes here.
//!
//! Owns the trait, its two implementations ([`embedded`] for one machine, [`etcd`] for a fleet) and the one suite that
//! both pass. Refuses to know what a value means. Invariant: the revision grows with every change, and a change that
//! was answered is durable.

mod error;
mod txn;
mod watch;

#[cfg(test)]
pub(crate) mod deaf;
pub mod embedded;
pub mod etcd;
#[cfg(test)]
pub(crate) mod lossy;
#[cfg(test)]
mod suite;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::{
    embedded::Embedded,
    error::{BoxError, Error},
    etcd::Etcd,
    txn::{Compare, MAX_BYTES, MAX_KEY_BYTES, MAX_OPERATIONS, Outcome, Txn, Write},
    watch::{Batch, Change, Watch},
};

/// A point in the store's history: +1 per transaction that changed something, over all keys.
pub type Revision = i64;

/// A promise to come back; the keys that hang on it are deleted when it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// Which incarnation of the data the revisions count in: a wiped or another store has a different one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Generation(Arc<str>);

/// A key and its value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// When the key came into being.
    pub create_revision: Revision,
    /// When the value was last written: the etag, and what [`Compare::Revision`] compares.
    pub mod_revision: Revision,
}

/// A part of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In byte order of their keys.
    pub entries: Vec<Entry>,
    /// Whether keys follow after the last entry.
    pub more: bool,
    /// The revision that was read: pass it as `at` for the next page, or watch from it.
    pub revision: Revision,
}

/// A strictly consistent, versioned map from keys to values. Keys are relative to the store's own root.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Reads a key, linearizably, and the revision at which it was read.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn get(&self, key: &str) -> Result<(Option<Entry>, Revision), Error>;

    /// Reads up to `limit` (> 0) keys that begin with `prefix` and come after `after`, in byte order, linearizably or
    /// as they were at revision `at`. A page of a long list costs etcd as much as the rest of the list: keep what is
    /// listed often under many short prefixes.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::Unavailable`].
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error>;

    /// Applies a transaction if its compares hold, and answers when it is durable.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the answer was lost on the way: read again before deciding. [`Error::Unavailable`],
    /// [`Error::LeaseLost`], [`Error::TooLarge`], [`Error::DuplicateKey`] when nothing was changed. [`Error::Full`].
    ///
    /// # Cancel safety
    /// The transaction may be applied although the future was dropped.
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Follows the changes of keys that begin with `prefix`, from the first one after revision `after`. What is wrong
    /// with `after` is said by the first [`Watch::next`].
    ///
    /// # Errors
    /// [`Error::Fatal`].
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;

    /// Makes a lease that lives for `ttl`, rounded up to a second or the least that the store grants.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Renews a lease and answers how long it lives from now on. Count from before the call.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Unavailable`].
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error>;

    /// Ends a lease and deletes its keys. A lease that has ended already is fine.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Which incarnation of the data this is; the first caller ever makes it.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Corrupt`].
    async fn generation(&self) -> Result<Generation, Error>;
}

// === impl LeaseId ===

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {:016x}", self.0)
    }
}

// === impl Generation ===

impl Generation {
    fn new(cluster: u64, incarnation: uuid::Uuid) -> Self {
        Self(format!("{cluster:016x}-{}", incarnation.simple()).into())
    }

    /// The wire form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A time to live in the unit that leases are granted in: rounded up, never zero.
fn whole_seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}
