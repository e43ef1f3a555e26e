//! The durable log of an agent: events with their targets, and what became of them. It knows nothing of matching,
//! scheduling or HTTP.
//!
//! ```text
//! append ─▶ inbox ─▶ writer ─▶ log ─▶ fdatasync ─▶ answer, index, driver
//! record ─▶   ┘         └─▶ keeper ─▶ retires, evicts and unlinks segments
//! ```
//!
//! - [`record`], [`segment`]: what bytes mean. Pure. [`storage`] is the seam to the file system.
//! - [`inbox`], [`writer`], [`log`]: one thread appends whatever arrived during the last sync.
//! - [`index`]: where events are found again. [`table`]: which deliveries of the live segments are unsettled. Pure.
//! - [`keeper`], [`lingering`], [`duplicates`], [`room`], [`reserve`]: one thread keeps the number of live segments small.
//! - [`deferred`]: the queue on disk; an index that is rebuilt at every start.
//! - [`recovery`]: from the bytes of an earlier run to all of the above.
//!
//! **Where truth lives.** A delivery's state is in the log while its segment is live, and in the `lingering` keyspace
//! afterwards. A segment is live until all its deliveries are settled or until it is too old, when the unsettled rest
//! moves to `lingering`, which is synced before the segment is renamed to `.retired`. Recovery reads the few live
//! segments only. Everything else (the queue on disk, the index, the memory of recent ids) is derived.
//!
//! **Invariants:** an append is answered only after `fdatasync`; after a failed write or sync nothing is answered any more
//! and the process must end; losing unsynced outcomes only causes duplicates; a damaged record never hides its neighbours
//! and is never deleted by us.

mod config;
mod deferred;
mod duplicates;
mod error;
mod inbox;
mod index;
mod keeper;
mod lingering;
mod log;
mod model;
mod record;
mod recovery;
mod reserve;
mod room;
mod runs;
mod segment;
mod storage;
mod table;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use hookfleet_contract::id::WebhookId;
use tokio::sync::{mpsc, oneshot};

pub use config::Config;
pub use deferred::Deferred;
pub use error::Error;
pub use model::{Appended, NewEvent, Origin, Outcome, Stand, Standing, StoredEvent, Target};
pub use recovery::{Damage, PendingSummary, Recovered};
pub use reserve::release_reserve;

use duplicates::{Older, Recent};
use inbox::{Inbox, Request};
use index::Index;
use keeper::Keeper;
use lingering::Kept;
use reserve::Reserve;
use room::Room;
use storage::{Disk, Storage};
use writer::Writer;

/// A cheap handle to the log.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

/// How the journal is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segments that recovery would read.
    pub n_live_segments: u64,
    /// Segments that are kept for redelivery only.
    pub n_retired_segments: u64,
    /// Their bytes together.
    pub segment_bytes: u64,
    /// Unsettled deliveries whose events are in live segments.
    pub n_unsettled: u64,
    /// Unsettled deliveries of older events.
    pub n_lingering: u64,
    /// Bytes of events that wait for the writer.
    pub waiting_bytes: u64,
    /// Free bytes of the disk when it was last looked at.
    pub free_bytes: u64,
    /// With fewer, no event is taken.
    pub min_free_bytes: u64,
    /// The number of the next event.
    pub next_seq: u64,
}

struct Shared {
    inbox: Arc<Inbox>,
    index: Arc<Index>,
    recent: Recent,
    older: Arc<Older>,
    lingering: Kept,
    room: Arc<Room>,
    n_unsettled: Arc<AtomicU64>,
    max_event_bytes: u64,
    deferred: Deferred,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

// === impl Journal ===

impl Journal {
    /// Opens the log, creating it if there is none, and brings `database` in line with it. Every event goes to `accepted`
    /// once it is durable; the writer waits while that channel is full. Blocks while the live segments are read.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open, [`Error::Foreign`] if it is another
    /// journal's, else what the disk or the database said.
    pub fn open(
        config: Config,
        database: &fjall::Database,
        accepted: mpsc::Sender<Arc<StoredEvent>>,
    ) -> Result<(Self, Recovered), Error> {
        Self::open_on(Arc::new(Disk), config, database, accepted)
    }

    fn open_on(
        storage: Arc<dyn Storage>,
        config: Config,
        database: &fjall::Database,
        accepted: mpsc::Sender<Arc<StoredEvent>>,
    ) -> Result<(Self, Recovered), Error> {
        let lock = recovery::lock(&config.dir)?;
        let opened = recovery::recover(Arc::clone(&storage), &config, database)?;
        let inbox = Arc::new(Inbox::new(config.max_waiting_bytes));
        let index = Arc::new(opened.index);
        let older = Arc::new(opened.older);
        let lingering = opened.lingering.kept();
        let n_unsettled = Arc::new(AtomicU64::new(opened.table.n_unsettled()));
        let room = Arc::new(Room::new(Arc::clone(&storage), &config));
        let keeper = Keeper {
            config: config.clone(),
            reserve: Reserve::new(Arc::clone(&storage), &config),
            storage,
            room: Arc::clone(&room),
            database: database.clone(),
            table: opened.table,
            index: Arc::clone(&index),
            older: Arc::clone(&older),
            lingering: opened.lingering,
            inbox: Arc::clone(&inbox),
            n_unsettled: Arc::clone(&n_unsettled),
        };
        let (groups, keeper) = keeper.start()?;
        let max_event_bytes = log::max_record(config.segment_bytes);
        let writer = Writer {
            log: opened.log,
            inbox: Arc::clone(&inbox),
            index: Arc::clone(&index),
            older: Arc::clone(&older),
            recent: opened.recent.clone(),
            room: Arc::clone(&room),
            groups,
            accepted,
            config,
            keeper,
            lock,
        };
        let threads = Mutex::new(vec![writer.start()?]);
        let shared = Arc::new(Shared {
            inbox,
            index,
            recent: opened.recent,
            older,
            lingering,
            room,
            n_unsettled,
            max_event_bytes,
            deferred: opened.deferred,
            threads,
        });
        Ok((Self { shared }, opened.recovered))
    }

    /// Appends one event; resolves when it is durable. An event whose webhook id was appended within the window, and which
    /// is not a redelivery, is answered with the first one's number.
    ///
    /// # Errors
    /// [`Error::Overloaded`] and [`Error::DiskFull`]: nothing is kept, try again later.
    /// [`Error::TooLarge`]: never. [`Error::Stopped`]: it is unknown whether the event is kept.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the event to its fate; appending it again is a duplicate.
    pub async fn append(&self, event: NewEvent) -> Result<Appended, Error> {
        let appended = self.append_all(vec![event]).await?;
        appended.into_iter().next().ok_or(Error::Stopped)
    }

    /// Appends events, in order, with one answer for all.
    ///
    /// # Errors
    /// As [`Journal::append`]. If the disk fills up in between, the first may be kept; again they are duplicates.
    ///
    /// # Cancel safety
    /// As [`Journal::append`].
    pub async fn append_all(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let generation = self.shared.older.generation();
        let mut firsts = Vec::new();
        for (i, event) in events.iter().enumerate() {
            let bytes = record::new_event_size(event) as u64;
            if bytes > self.shared.max_event_bytes {
                return Err(Error::TooLarge { bytes });
            }
            let first = self.shared.older.first(event)?;
            if first.is_some() {
                firsts.resize(i, None);
                firsts.push(first);
            }
        }
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.append(Request {
            events,
            firsts,
            generation,
            reply,
        })?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Appends what became of a delivery. It is written within a few milliseconds, synced within 200 ms, and answered to
    /// nobody: if it is lost in a crash the attempt is made again.
    pub fn record(&self, outcome: Outcome) {
        self.record_all([outcome]);
    }

    /// As [`Journal::record`], for many at once.
    pub fn record_all(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.shared.inbox.record(outcomes);
    }

    /// How many outcomes wait to be written. Nobody bounds them but whoever makes them.
    pub fn n_outcomes_waiting(&self) -> usize {
        self.shared.inbox.n_outcomes()
    }

    /// Reads a durable event back: from memory if it is recent, else from the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the disk lost it, else what the disk or the database said.
    pub fn read(&self, seq: u64) -> Result<Option<Arc<StoredEvent>>, Error> {
        match self.shared.index.read(seq)? {
            Some(event) => Ok(Some(event)),
            None => Ok(self.shared.lingering.event(seq)?.map(Arc::new)),
        }
    }

    /// The last event that was accepted with this webhook id, as far as events are kept.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn find(&self, id: WebhookId) -> Result<Option<Arc<StoredEvent>>, Error> {
        for key in [id, model::elsewhere(id)] {
            // What leaves the memory was put on the disk before.
            let first = match self.shared.recent.get(key) {
                Some(first) => Some(first),
                None => self.shared.older.get(key)?,
            };
            let event = first.map_or(Ok(None), |it| self.read(it.seq))?;
            // What is parked or was handed over has a name of its own among the ids.
            if let Some(event) = event.filter(|it| it.webhook_id == id) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The queue on disk of deliveries that wait for their time.
    #[must_use]
    pub fn deferred(&self) -> Deferred {
        self.shared.deferred.clone()
    }

    /// Resolves when everything recorded before is durable.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn flush(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.shared.inbox.flush(reply)?;
        done.await.map_err(|_| Error::Stopped)
    }

    /// Stops the journal: what was recorded is synced, and a marker says that this was done. Other handles get
    /// [`Error::Stopped`] from then on. Does nothing the second time. The receiver of accepted events must be gone, or be
    /// read from.
    pub async fn close(&self) {
        self.shared.inbox.close(true);
        self.join().await;
    }

    /// Stops as a crash does: nothing is synced and no marker is written.
    #[cfg(test)]
    async fn abandon(&self) {
        self.shared.inbox.close(false);
        self.join().await;
    }

    async fn join(&self) {
        let threads = self.shared.threads.lock();
        let threads = std::mem::take(&mut *threads.unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("a thread of the journal panicked");
            }
        }
    }

    /// How the journal is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            n_unsettled: self.shared.n_unsettled.load(Ordering::Relaxed),
            n_lingering: self.shared.lingering.n_deliveries(),
            waiting_bytes: self.shared.inbox.waiting_bytes() as u64,
            free_bytes: self.shared.room.free(),
            min_free_bytes: self.shared.room.min(),
            ..Stats::default()
        };
        self.shared.index.add_to(&mut stats);
        stats
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.inbox.close(true);
    }
}
