//! What became of events: deliveries, attempts, dead letters. A record for people and programs to
//! ask; nothing is decided by it. It lags behind what happens by a moment.
//!
//! ```text
//! accepted ─▶ recent ─┬▶ writer ─▶ buckets ◀─ scan ◀─ read
//! record   ─▶   ┘     └─▶ log
//! ```
//!
//! - [`recent`]: for a moment an event waits for what becomes of it, so that the usual delivery is
//!   one small record, written once and never read. Pure.
//! - [`row`], [`key`]: what is kept, and under which keys. Pure.
//! - [`writer`]: one thread writes, and lets the log know of outcomes.
//! - [`buckets`]: the days on disk, each dropped whole.
//! - [`read`], [`scan`], [`query`]: deliveries are put together when somebody asks.
//!
//! **Invariant:** telling it something never blocks and never fails; what cannot be written is an
//! ERROR in the log and a gap here, not a lost delivery.

mod buckets;
mod key;
mod query;
mod read;
mod recent;
mod row;
mod scan;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, Thread},
    time::Duration,
};

use fjall::Database;
use hookfleet_contract::time::Timestamp;
use hookfleet_proto::v1;
use tokio::sync::oneshot;

pub use query::{Cursor, Wanted};

use crate::{
    clock::Clock,
    journal::{Journal, Outcome, StoredEvent},
};
use buckets::Buckets;
use writer::{State, Told, Writer};

/// Days are kept for two weeks; an hour more does not matter.
const EXPIRY: Duration = Duration::from_secs(3600);

/// A cheap handle to the history.
#[derive(Clone)]
pub struct History {
    buckets: Arc<Buckets>,
    told: mpsc::Sender<Told>,
    writer: Thread,
    backlog: Arc<AtomicUsize>,
    healthy: Arc<AtomicBool>,
}

/// The history cannot be read or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The embedded database failed.
    #[error("the database of the history failed")]
    Database(#[from] fjall::Error),
    /// What was read is not what was written.
    #[error("the history is damaged")]
    Damaged(#[from] prost::DecodeError),
    /// The writer's thread could not start.
    #[error("cannot start the thread of the history")]
    Thread(#[from] std::io::Error),
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// For the log, once it is written.
    pub outcome: Outcome,
    /// The attempt that led to it, if one was made.
    pub attempt: Option<v1::Attempt>,
    /// The event, if it is at hand; else it is read when it is needed.
    pub event: Option<Arc<StoredEvent>>,
}

/// The log, as the history sees it.
pub trait Log: Send + 'static {
    /// An event that it keeps. Blocks on the disk.
    fn event(&self, seq: u64) -> Option<Arc<StoredEvent>>;

    /// Tells it what became of a delivery, now that the history has it.
    fn settle(&self, outcome: Outcome);
}

// === impl Log ===

impl Log for Journal {
    fn event(&self, seq: u64) -> Option<Arc<StoredEvent>> {
        self.read(seq).unwrap_or_else(|error| {
            tracing::error!(seq, %error, "cannot read an event for the history");
            None
        })
    }

    fn settle(&self, outcome: Outcome) {
        self.record(outcome);
    }
}

// === impl History ===

impl History {
    /// Opens the history and drops the days that are over.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(database: Database, now: Timestamp, log: impl Log) -> Result<Self, Error> {
        let buckets = Arc::new(Buckets::open(database.clone())?);
        buckets.expire(now)?;
        let (told, receiver) = mpsc::channel();
        let backlog = Arc::<AtomicUsize>::default();
        let healthy = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            database,
            buckets: Arc::clone(&buckets),
            told: receiver,
            backlog: Arc::clone(&backlog),
            healthy: Arc::clone(&healthy),
            log: Box::new(log),
            state: State::default(),
        };
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            buckets,
            told,
            writer: thread.thread().clone(),
            backlog,
            healthy,
        })
    }

    /// An event was accepted. To be told before anything becomes of its deliveries.
    pub fn accepted(&self, event: Arc<StoredEvent>) {
        self.tell(Told::Accepted(event));
    }

    /// Something became of a delivery. The log learns of it once it is written; of a dead letter once
    /// it is on stable storage, and not before the next start if it could not be written.
    pub fn record(&self, report: Report) {
        self.tell(Told::Report(report));
    }

    /// How much waits to be written: about a KiB of memory each.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Whether what was told last could be written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Resolves when everything told before that could be written is on stable storage.
    pub async fn flush(&self) {
        let (flushed, done) = oneshot::channel();
        self.tell(Told::Flush(flushed));
        self.writer.unpark();
        if done.await.is_err() {
            tracing::error!("the history could not be flushed");
        }
    }

    /// Drops the days that are over.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn expire(&self, now: Timestamp) -> Result<(), Error> {
        self.buckets.expire(now)
    }

    /// Drops the days that are over, every hour.
    pub async fn expire_hourly(self, clock: Clock) {
        let mut hourly = tokio::time::interval(EXPIRY);
        loop {
            hourly.tick().await;
            let (history, now) = (self.clone(), clock.now());
            let expired = tokio::task::spawn_blocking(move || history.expire(now)).await;
            if let Ok(Err(error)) = expired {
                tracing::error!(%error, "cannot drop old history");
            }
        }
    }

    fn tell(&self, told: Told) {
        self.backlog.fetch_add(told.weight(), Ordering::Relaxed);
        if self.told.send(told).is_err() {
            tracing::error!("the thread of the history has ended");
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("backlog", &self.backlog())
            .finish_non_exhaustive()
    }
}
