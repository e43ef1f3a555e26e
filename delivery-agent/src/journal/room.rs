//! How much room the disk has, looked at a few times a second.
//!
//! **Invariant:** below the bound no event is taken; what is kept for redelivery goes first, the reserve last.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hookfleet_contract::time::Timestamp;

use super::{Config, reserve, storage::Storage};

/// Others may fill the disk while nobody looks.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);
/// The number of files that the disk should have room for: the database makes some, and replaces others.
pub(super) const MIN_FREE_FILES: u64 = 64;

/// What is known of the disk's room.
#[derive(Debug)]
pub(super) struct Room {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    /// What the operator wants to stay free.
    min_free: Option<u64>,
    segment_bytes: u64,
    checked: AtomicU64,
    free: AtomicU64,
    free_files: AtomicU64,
    min: AtomicU64,
}

impl Room {
    pub(super) fn new(storage: Arc<dyn Storage>, config: &Config) -> Self {
        Self {
            storage,
            dir: config.dir.clone(),
            min_free: config.min_free_bytes,
            segment_bytes: config.segment_bytes,
            checked: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            free_files: AtomicU64::new(u64::MAX),
            min: AtomicU64::new(0),
        }
    }

    /// Whether too little is free.
    pub(super) fn is_low(&self, now: Timestamp) -> bool {
        let checked = Timestamp(self.checked.load(Ordering::Relaxed));
        if now.since(checked) >= INTERVAL {
            self.checked.store(now.0, Ordering::Relaxed);
            self.look();
        }
        self.free() < self.min() || self.min() > 0 && self.free_files() < MIN_FREE_FILES
    }

    /// Looks now.
    pub(super) fn look(&self) {
        match self.storage.space(&self.dir) {
            Ok(space) => {
                // Below two segments and the reserve the database may run out of room before we do.
                let default = (space.total / 20).max(2 * self.segment_bytes + reserve::BYTES);
                let min = self.min_free.unwrap_or(default);
                self.free.store(space.free, Ordering::Relaxed);
                self.free_files.store(space.free_files, Ordering::Relaxed);
                self.min.store(min, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "cannot tell how much space is left"),
        }
    }

    pub(super) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    pub(super) fn free_files(&self) -> u64 {
        self.free_files.load(Ordering::Relaxed)
    }

    /// How many bytes should be free.
    pub(super) fn min(&self) -> u64 {
        self.min.load(Ordering::Relaxed)
    }
}
