//! How a journal is kept: where, and its bounds.

use std::{path::PathBuf, time::Duration};

use hookfleet_gateway::limits::memory::Memory;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// The settings. [`Config::new`] fills in the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the segments are; created if missing.
    pub dir: PathBuf,
    /// Where the databases of this process are, whose logs are given their space here.
    pub database_dirs: Vec<PathBuf>,
    /// Which journal this is, chosen at random once. The files of another one are refused.
    pub id: u128,
    /// The size of a segment, preallocated. An event must fit into one.
    pub segment_bytes: u64,
    /// The most bytes of events that may wait for the writer; beyond it [`super::Error::Overloaded`].
    pub max_waiting_bytes: usize,
    /// The most bytes of recent events kept in memory for [`super::Journal::read`].
    pub cache_bytes: usize,
    /// The free space below which events are refused. `None` is 5 %, at least two segments and the reserve.
    pub min_free_bytes: Option<u64>,
    /// The most sealed segments that recovery has to read.
    pub max_live_segments: usize,
    /// How long a repeated webhook id is answered as a duplicate.
    pub duplicate_window: Duration,
    /// How long events are kept for redelivery.
    pub retention: Duration,
    /// The most bytes of retired segments that are kept for redelivery.
    pub retention_bytes: u64,
    /// The time.
    pub clock: Clock,
    /// Cancelled when the disk can no longer be trusted; the process must then end at once.
    pub fatal: CancellationToken,
}

impl Config {
    /// A journal in `dir` with the default bounds.
    #[must_use]
    pub fn new(dir: PathBuf, id: u128, clock: Clock, fatal: CancellationToken) -> Self {
        Self {
            database_dirs: vec![dir.with_file_name("database")],
            dir,
            id,
            segment_bytes: 64 << 20,
            max_waiting_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            min_free_bytes: None,
            max_live_segments: 4,
            duplicate_window: Duration::from_secs(24 * 60 * 60),
            retention: Duration::from_secs(72 * 60 * 60),
            retention_bytes: 16 << 30,
            clock,
            fatal,
        }
    }

    /// With the bounds that so much memory makes of them.
    #[must_use]
    pub fn within(mut self, memory: Memory) -> Self {
        self.max_waiting_bytes = memory.share(self.max_waiting_bytes);
        self.cache_bytes = memory.share(self.cache_bytes);
        self
    }

    /// The number of the first event. It begins with 20 bits of the journal's id, so that deliveries of different agents
    /// have different names, and leaves room for 2^44 events.
    pub(super) const fn first_seq(&self) -> u64 {
        ((self.id >> 108) as u64) << 44 | 1
    }
}
