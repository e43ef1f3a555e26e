//! The snapshot on disk: what lets an agent start while the control plane is away. Sealed, because
//! it holds signing secrets; it knows nothing of what is inside.
//!
//! **Invariant:** at every moment there is a whole snapshot on disk, the last one or the one before.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hookfleet_contract::seal::Sealer;
use hookfleet_proto::fleet::Snapshot;
use prost::Message as _;

const CONTEXT: &[u8] = b"hookfleet agent snapshot 1";
const CURRENT: &str = "snapshot";
const PREVIOUS: &str = "snapshot.previous";

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    sealer: Sealer,
}

impl Store {
    /// Snapshots in `dir`, sealed with `sealer`.
    #[must_use]
    pub fn new(dir: &Path, sealer: Sealer) -> Self {
        Self {
            dir: dir.to_owned(),
            sealer,
        }
    }

    /// The newest snapshot that is whole. A broken one is reported and passed over.
    #[must_use]
    pub fn load(&self) -> Option<Snapshot> {
        [CURRENT, PREVIOUS].into_iter().find_map(|name| {
            let sealed = fs::read(self.dir.join(name)).ok()?;
            let snapshot = self.open(&sealed);
            if snapshot.is_none() {
                tracing::warn!(name, "snapshot is damaged, or sealed with another key");
            }
            snapshot
        })
    }

    /// Replaces the snapshot. Blocks on the disk.
    ///
    /// # Errors
    /// Those of the file system; the snapshot before stays.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let sealed = self
            .sealer
            .seal(CONTEXT, &snapshot.encode_to_vec(), rand::random());
        let new = self.dir.join("snapshot.new");
        let mut file = File::create(&new)?;
        file.write_all(&sealed)?;
        file.sync_all()?;
        let current = self.dir.join(CURRENT);
        if current.exists() {
            fs::rename(&current, self.dir.join(PREVIOUS))?;
        }
        fs::rename(&new, &current)?;
        File::open(&self.dir)?.sync_all()
    }

    fn open(&self, sealed: &[u8]) -> Option<Snapshot> {
        let plain = self.sealer.open(CONTEXT, sealed).ok()?;
        Snapshot::decode(plain.as_slice()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_snapshot_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), 7);
        assert_eq!(store.load(), None);

        store.save(&at_revision(1)).unwrap();
        store.save(&at_revision(2)).unwrap();
        assert_eq!(store.load(), Some(at_revision(2)));

        let path = dir.path().join(CURRENT);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.load(), Some(at_revision(1)), "cut at {length}");
        }
    }

    #[test]
    fn another_key_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), 7).save(&at_revision(1)).unwrap();
        assert_eq!(store(dir.path(), 8).load(), None);
    }

    fn store(dir: &Path, key: u8) -> Store {
        Store::new(dir, Sealer::new([key; 32]))
    }

    fn at_revision(revision: i64) -> Snapshot {
        Snapshot {
            revision,
            ..Snapshot::default()
        }
    }
}
