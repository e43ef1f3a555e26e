//! Where our keys are in etcd, and what its key-value pairs are to us.
//!
//! Invariant: nothing outside the root is read or written.

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue};

use crate::store::{Change, Entry, Error};

/// The prefix of all our keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) root: String,
}

impl Keys {
    pub(super) fn full(&self, key: &str) -> String {
        [&self.root, key].concat()
    }

    /// The end of the range of all keys that begin with `prefix`.
    pub(super) fn end(&self, prefix: &str) -> Vec<u8> {
        let mut end = self.full(prefix).into_bytes();
        // UTF-8 never holds 0xff, so the last byte has a successor; without any byte, \0 means everything.
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(0),
        }
        end
    }

    pub(super) fn entry(&self, pair: PbKeyValue) -> Result<Entry, Error> {
        Ok(Entry {
            key: self.relative(&pair.key)?,
            value: Bytes::from(pair.value),
            create_revision: pair.create_revision,
            mod_revision: pair.mod_revision,
        })
    }

    pub(super) fn change(&self, event: PbEvent) -> Result<Change, Error> {
        let pair = event.kv.unwrap_or_default();
        match event.r#type {
            0 => self.entry(pair).map(Change::Put),
            1 => Ok(Change::Delete {
                key: self.relative(&pair.key)?,
                mod_revision: pair.mod_revision,
            }),
            unknown => Err(Error::Corrupt(format!("an event of type {unknown}"))),
        }
    }

    fn relative(&self, key: &[u8]) -> Result<String, Error> {
        key.strip_prefix(self.root.as_bytes())
            .and_then(|key| str::from_utf8(key).ok())
            .map(str::to_owned)
            .ok_or_else(|| Error::Corrupt(format!("key {}", key.escape_ascii())))
    }
}
