//! The embedded store's bytes on disk: one fjall keyspace that holds the newest version of every key.
//!
//! Owns the layout and the lock on the directory. Refuses to know the past: that lives in memory. Invariant: a
//! [`Group`] is on disk whole or not at all, and [`Disk::write`] answers after the sync.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use uuid::Uuid;

use crate::store::{Change, Entry, Error, LeaseId, Revision};

const FORMAT: &[u8] = b"format";
const FORMAT_VERSION: &[u8] = b"hookfleet-store-1";
const INCARNATION: &[u8] = b"incarnation";
const REVISION: &[u8] = b"revision";
/// What the keys of entries begin with; a key follows.
const ENTRY: u8 = b'/';
/// What the keys of leases begin with; eight bytes of id follow.
const LEASE: u8 = b'@';
/// Create revision, mod revision, lease (0: none), then the value.
const ENTRY_HEADER: usize = 24;
/// Everything is held in memory anyway; fjall reads only when it opens.
const CACHE_BYTES: u64 = 1 << 20;

pub(super) struct Disk {
    database: Database,
    keyspace: Keyspace,
}

/// What the directory held when it was opened.
pub(super) struct Contents {
    pub(super) revision: Revision,
    pub(super) incarnation: Uuid,
    pub(super) entries: Vec<(Entry, Option<LeaseId>)>,
    pub(super) leases: Vec<(LeaseId, Duration)>,
}

/// What is written and synced at once.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The revision after the last change.
    pub(super) revision: Revision,
    /// In order; a later change of a key wins.
    pub(super) changes: Vec<(Change, Option<LeaseId>)>,
    /// In order.
    pub(super) leases: Vec<LeaseChange>,
}

#[derive(Debug)]
pub(super) enum LeaseChange {
    Granted(LeaseId, Duration),
    Ended(LeaseId),
}

// === impl Group ===

impl Group {
    pub(super) const fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.leases.is_empty()
    }
}

// === impl Disk ===

impl Disk {
    /// Opens or creates the store in `dir`, for this process alone.
    pub(super) fn open(dir: &Path) -> Result<(Self, Contents), Error> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .open()
            .map_err(|error| {
                if matches!(error, fjall::Error::Locked) {
                    Error::Locked(dir.to_owned())
                } else {
                    failed("open", error)
                }
            })?;
        let keyspace = database
            .keyspace("store", KeyspaceCreateOptions::default)
            .map_err(|error| failed("open", error))?;
        let disk = Self { database, keyspace };
        let contents = disk.read()?;
        Ok((disk, contents))
    }

    /// Writes a group and syncs it.
    pub(super) fn write(&self, group: &Group) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (change, lease) in &group.changes {
            match change {
                Change::Put(entry) => {
                    let value = encode_entry(entry, *lease);
                    batch.insert(&self.keyspace, entry_key(&entry.key), value);
                }
                Change::Delete { key, .. } => batch.remove(&self.keyspace, entry_key(key)),
            }
        }
        for change in &group.leases {
            match change {
                LeaseChange::Granted(id, ttl) => {
                    let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    batch.insert(&self.keyspace, lease_key(*id), ttl.to_be_bytes());
                }
                LeaseChange::Ended(id) => batch.remove(&self.keyspace, lease_key(*id)),
            }
        }
        batch.insert(&self.keyspace, REVISION, group.revision.to_be_bytes());
        batch.commit()
    }

    fn read(&self) -> Result<Contents, Error> {
        let Some(format) = self.value(FORMAT)? else {
            return self.create();
        };
        if format != FORMAT_VERSION {
            let found = String::from_utf8_lossy(&format).into_owned();
            return Err(Error::Corrupt(format!("unknown format {found:?}")));
        }
        let mut contents = Contents {
            revision: i64::from_be_bytes(self.fixed(REVISION)?),
            incarnation: Uuid::from_bytes(self.fixed(INCARNATION)?),
            entries: Vec::new(),
            leases: Vec::new(),
        };
        for item in self.keyspace.prefix([ENTRY]) {
            let (key, value) = item.into_inner().map_err(|error| failed("read", error))?;
            let read = decode_entry(&key, &value);
            contents.entries.push(read.ok_or_else(|| corrupt(&key))?);
        }
        for item in self.keyspace.prefix([LEASE]) {
            let (key, value) = item.into_inner().map_err(|error| failed("read", error))?;
            let read = decode_lease(&key, &value);
            contents.leases.push(read.ok_or_else(|| corrupt(&key))?);
        }
        Ok(contents)
    }

    fn create(&self) -> Result<Contents, Error> {
        let contents = Contents {
            revision: 1,
            incarnation: crate::random::uuid(),
            entries: Vec::new(),
            leases: Vec::new(),
        };
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.keyspace, FORMAT, FORMAT_VERSION);
        batch.insert(
            &self.keyspace,
            INCARNATION,
            *contents.incarnation.as_bytes(),
        );
        batch.insert(&self.keyspace, REVISION, contents.revision.to_be_bytes());
        batch.commit().map_err(|error| failed("create", error))?;
        Ok(contents)
    }

    fn value(&self, key: &[u8]) -> Result<Option<fjall::Slice>, Error> {
        self.keyspace
            .get(key)
            .map_err(|error| failed("read", error))
    }

    fn fixed<const N: usize>(&self, key: &[u8]) -> Result<[u8; N], Error> {
        let value = self.value(key)?;
        value
            .and_then(|value| value.as_ref().try_into().ok())
            .ok_or_else(|| corrupt(key))
    }
}

fn failed(operation: &'static str, error: fjall::Error) -> Error {
    Error::Fatal {
        operation,
        source: Some(error.into()),
    }
}

fn corrupt(key: &[u8]) -> Error {
    Error::Corrupt(format!("key {}", key.escape_ascii()))
}

fn entry_key(key: &str) -> Vec<u8> {
    [&[ENTRY], key.as_bytes()].concat()
}

fn lease_key(id: LeaseId) -> Vec<u8> {
    [&[LEASE], id.0.to_be_bytes().as_slice()].concat()
}

fn encode_entry(entry: &Entry, lease: Option<LeaseId>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRY_HEADER + entry.value.len());
    bytes.extend(entry.create_revision.to_be_bytes());
    bytes.extend(entry.mod_revision.to_be_bytes());
    bytes.extend(lease.map_or(0, |lease| lease.0).to_be_bytes());
    bytes.extend(&entry.value);
    bytes
}

fn decode_entry(key: &[u8], value: &[u8]) -> Option<(Entry, Option<LeaseId>)> {
    let (create_revision, rest) = value.split_first_chunk()?;
    let (mod_revision, rest) = rest.split_first_chunk()?;
    let (lease, value) = rest.split_first_chunk()?;
    let entry = Entry {
        key: str::from_utf8(key.strip_prefix(&[ENTRY])?).ok()?.to_owned(),
        value: Bytes::copy_from_slice(value),
        create_revision: i64::from_be_bytes(*create_revision),
        mod_revision: i64::from_be_bytes(*mod_revision),
    };
    let lease = i64::from_be_bytes(*lease);
    Some((entry, (lease != 0).then_some(LeaseId(lease))))
}

fn decode_lease(key: &[u8], value: &[u8]) -> Option<(LeaseId, Duration)> {
    let id = key.strip_prefix(&[LEASE])?.try_into().ok()?;
    let ttl = value.try_into().ok()?;
    Some((
        LeaseId(i64::from_be_bytes(id)),
        Duration::from_millis(u64::from_be_bytes(ttl)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_short_one_is_refused() {
        let entry = Entry {
            key: "tenants/a".to_owned(),
            value: Bytes::from_static(b"value"),
            create_revision: 3,
            mod_revision: 7,
        };
        for lease in [None, Some(LeaseId(9))] {
            let bytes = encode_entry(&entry, lease);
            let read = decode_entry(&entry_key(&entry.key), &bytes);
            assert_eq!(read, Some((entry.clone(), lease)));
            for n in 0..ENTRY_HEADER {
                assert_eq!(decode_entry(&entry_key(&entry.key), &bytes[..n]), None);
            }
        }
    }
}
