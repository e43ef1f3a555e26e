//! A compare-and-swap transaction: what must still hold, and what is written if it does.
//!
//! Knows nothing of who performs it. Invariant: a [`Txn`] that passed [`Txn::check`] is accepted by every store.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Error, LeaseId, Revision};

/// The most compares, and the most writes, of one transaction: etcd's default `--max-txn-ops`.
pub const MAX_OPERATIONS: usize = 128;

/// The most bytes of keys and values of one transaction, below etcd's default limit of 1.5 MiB per request.
pub const MAX_BYTES: usize = 1 << 20;

/// The most bytes of a key.
pub const MAX_KEY_BYTES: usize = 4096;

/// Writes that happen all together, at one revision, and only if every compare holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of them must hold.
    pub compares: Vec<Compare>,
    /// No key twice.
    pub writes: Vec<Write>,
}

/// What must hold of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last changed at this revision.
    Revision(String, Revision),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: Bytes,
        /// The key is deleted when this lease ends. Without one, the key leaves the lease it had.
        lease: Option<LeaseId>,
    },
    /// Deletes; a key that does not exist is no change.
    Delete(String),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied and durable. The revision is the `mod_revision` of everything written; it is the store's
    /// current one if nothing was changed.
    Committed(Revision),
    /// A compare did not hold; nothing was changed.
    Conflict,
}

// === impl Txn ===

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that the key does not exist.
    #[must_use]
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent(key.into()));
        self
    }

    /// Requires that the key was last changed at `revision`.
    #[must_use]
    pub fn unchanged(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::Revision(key.into(), revision));
        self
    }

    /// Writes a key that lives until it is deleted.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        self
    }

    /// Writes a key that ends with the lease.
    #[must_use]
    pub fn put_leased(
        mut self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Self {
        self.writes.push(Write::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        });
        self
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// Checks the limits that hold for every store.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::DuplicateKey`].
    pub fn check(&self) -> Result<(), Error> {
        let operations = self.compares.len().max(self.writes.len());
        let compared: usize = self
            .compares
            .iter()
            .map(|compare| compare.key().len())
            .sum();
        let written: usize = self.writes.iter().map(Write::len).sum();
        let bytes = compared + written;
        let mut keys = self.writes.iter().map(Write::key);
        let is_key_too_long = keys.any(|key| key.len() > MAX_KEY_BYTES);
        if operations > MAX_OPERATIONS || bytes > MAX_BYTES || is_key_too_long {
            return Err(Error::TooLarge { operations, bytes });
        }
        let mut keys = HashSet::with_capacity(self.writes.len());
        match self.writes.iter().find(|write| !keys.insert(write.key())) {
            Some(write) => Err(Error::DuplicateKey(write.key().to_owned())),
            None => Ok(()),
        }
    }

    /// Whether applying it makes one of its own compares fail, so that a second application is a conflict
    /// and never a second change: what makes a repetition safe.
    pub(super) fn guards_itself(&self) -> bool {
        self.compares.iter().any(|compare| {
            self.writes.iter().any(|write| match (compare, write) {
                (Compare::Absent(key), Write::Put { key: written, .. }) => key == written,
                (Compare::Revision(key, _), write) => key == write.key(),
                (Compare::Absent(_), Write::Delete(_)) => false,
            })
        })
    }
}

// === impl Compare ===

impl Compare {
    /// The key that is compared.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Revision(key, _) => key,
        }
    }
}

// === impl Write ===

impl Write {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }

    /// The lease that the key hangs on.
    pub(super) const fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Put { lease, .. } => *lease,
            Self::Delete(_) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_last_that_pass() {
        let many = |n: usize| (0..n).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), "v"));
        assert!(many(MAX_OPERATIONS).check().is_ok());
        assert!(matches!(
            many(MAX_OPERATIONS + 1).check(),
            Err(Error::TooLarge {
                operations: 129,
                ..
            })
        ));

        let long = |n: usize| Txn::new().put("k".repeat(n), "");
        assert!(long(MAX_KEY_BYTES).check().is_ok());
        assert!(matches!(
            long(MAX_KEY_BYTES + 1).check(),
            Err(Error::TooLarge { .. })
        ));

        let large = |n: usize| Txn::new().put("k", vec![0; n]);
        assert!(large(MAX_BYTES - 1).check().is_ok());
        assert!(matches!(
            large(MAX_BYTES).check(),
            Err(Error::TooLarge { operations: 1, .. })
        ));
    }

    #[test]
    fn a_key_is_written_once() {
        let txn = Txn::new().put("a", "1").put("b", "1").delete("a");
        assert!(matches!(txn.check(), Err(Error::DuplicateKey(key)) if key == "a"));
    }

    #[test]
    fn only_a_compare_that_its_own_write_breaks_guards() {
        assert!(Txn::new().absent("a").put("a", "").guards_itself());
        assert!(Txn::new().unchanged("a", 3).put("a", "").guards_itself());
        assert!(Txn::new().unchanged("a", 3).delete("a").guards_itself());
        assert!(!Txn::new().absent("a").delete("a").guards_itself());
        assert!(
            !Txn::new()
                .unchanged("leader", 3)
                .put("a", "")
                .guards_itself()
        );
        assert!(!Txn::new().put("a", "").guards_itself());
    }
}
