//! The thread that writes what is told, round by round: as much at once as has arrived.
//!
//! **Invariants:** the log learns of an outcome after its row is written, so that the row survives
//! whatever ends the process; of a dead letter after it is on stable storage, and not at all if it
//! could not be written. What is written goes to a day that is kept for a week at least.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, TryRecvError},
    },
    thread,
    time::Duration,
};

use fjall::{Database, OwnedWriteBatch, PersistMode};
use hookfleet_contract::id::DeliveryId;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    Error, Log, Report,
    buckets::{Bucket, Buckets, Day, RETENTION},
    key,
    recent::{Fresh, Recent, weight},
    row::{self, Block, Row},
};
use crate::journal::{Outcome, Standing, StoredEvent};

/// The time between rounds. Whoever tells something meanwhile wakes nobody.
const PAUSE: Duration = Duration::from_millis(5);
/// The most that is heard in one round.
const MAX_HEARD: usize = 4096;
/// How many rounds a dead letter waits for others to be synced with.
const SYNC_ROUNDS: u64 = 20;
/// A delivery that is older is written where today's are, and not where it was accepted: that day is
/// about to be dropped.
const OUTLIVED: Duration = Duration::from_secs(RETENTION.as_secs() / 2);

#[derive(Debug)]
pub(super) enum Told {
    Accepted(Arc<StoredEvent>),
    Report(Report),
    /// Answers when everything before is on stable storage.
    Flush(oneshot::Sender<()>),
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) buckets: Arc<Buckets>,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) backlog: Arc<AtomicUsize>,
    pub(super) healthy: Arc<AtomicBool>,
    pub(super) log: Box<dyn Log>,
    pub(super) state: State,
}

/// What it remembers from round to round.
#[derive(Debug, Default)]
pub(super) struct State {
    round: u64,
    recent: Recent,
    /// Events whose blocks are written, or recent.
    known: Range<u64>,
    /// Dead letters that are written and not synced, and since when there are any.
    unsynced: Vec<Outcome>,
    unsynced_since: u64,
}

/// What one round heard.
#[derive(Debug, Default)]
struct Heard {
    n_told: usize,
    /// Of events that are no longer recent.
    reports: Vec<Report>,
    flushes: Vec<oneshot::Sender<()>>,
    weight: usize,
    /// Nobody is left who could tell more.
    is_over: bool,
}

impl Told {
    /// What it weighs in memory: about a KiB each.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Accepted(event) => weight(event),
            Self::Report(report) => report.event.as_deref().map_or(1, weight),
            Self::Flush(_) => 0,
        }
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn run(mut self) {
        loop {
            let heard = self.listen();
            let is_last = heard.is_over || !heard.flushes.is_empty();
            let blocks = if is_last {
                self.state.recent.take_all()
            } else {
                self.state.recent.take(self.state.round)
            };
            self.write_round(blocks, heard.reports);
            self.sync(is_last);
            self.backlog.fetch_sub(heard.weight, Ordering::Relaxed);
            for flush in heard.flushes {
                self.answer(flush);
            }
            if heard.is_over {
                break;
            }
            self.state.round += 1;
            if heard.n_told < MAX_HEARD {
                thread::park_timeout(PAUSE);
            }
        }
    }

    /// Waits for something only while nothing waits to be written.
    fn listen(&mut self) -> Heard {
        let mut heard = Heard::default();
        let is_idle = self.state.recent.is_empty() && self.state.unsynced.is_empty();
        let mut first = is_idle.then(|| self.told.recv().map_err(|_| TryRecvError::Disconnected));
        while heard.n_told < MAX_HEARD && !self.state.recent.is_full() {
            match first.take().unwrap_or_else(|| self.told.try_recv()) {
                Ok(told) => self.hear(told, &mut heard),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    heard.is_over = true;
                    break;
                }
            }
        }
        heard
    }

    fn hear(&mut self, told: Told, heard: &mut Heard) {
        heard.n_told += 1;
        heard.weight += told.weight();
        match told {
            Told::Accepted(event) => {
                if self.state.known.is_empty() {
                    self.state.known.start = event.seq;
                }
                self.state.known.end = event.seq + 1;
                self.state.recent.accept(&event, self.state.round);
            }
            Told::Report(report) => {
                let late = self.state.recent.hear(report);
                heard.reports.extend(late);
            }
            Told::Flush(flush) => heard.flushes.push(flush),
        }
    }

    fn write_round(&mut self, blocks: Vec<Fresh>, reports: Vec<Report>) {
        let n_records = blocks.len() + reports.len();
        if n_records == 0 {
            // A flush on its own says nothing of the disk's health.
            return;
        }
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(n_records);
        outcomes.extend(blocks.iter().flat_map(|it| &it.outcomes));
        outcomes.extend(reports.iter().map(|it| it.outcome));
        let written = self.write(blocks, reports);
        self.note(&written, n_records);
        if written.is_err() {
            // What is told of these events later cannot lean on their blocks.
            self.state.known = 0..0;
        }
        for outcome in outcomes {
            if !matches!(outcome.standing, Standing::DeadLettered(_)) {
                self.log.settle(outcome);
            } else if written.is_ok() {
                if self.state.unsynced.is_empty() {
                    self.state.unsynced_since = self.state.round;
                }
                self.state.unsynced.push(outcome);
            }
            // A dead letter that cannot be kept is not one yet: the next start finds it pending.
        }
    }

    /// Says once that the history has a gap, however long it gets.
    fn note(&self, written: &Result<(), Error>, n_records: usize) {
        let was_healthy = self.healthy.swap(written.is_ok(), Ordering::Relaxed);
        match written {
            Err(error) if was_healthy => {
                tracing::error!(%error, n_records, "the history has a gap");
            }
            Err(error) => tracing::debug!(%error, n_records, "the gap of the history grows"),
            Ok(()) if !was_healthy => tracing::warn!("the history is written again"),
            Ok(()) => {}
        }
    }

    fn write(&self, blocks: Vec<Fresh>, reports: Vec<Report>) -> Result<(), Error> {
        let mut batch = self.database.batch();
        for fresh in blocks {
            self.put_block(&mut batch, fresh)?;
        }
        for report in reports {
            self.put_report(&mut batch, report)?;
        }
        // Hands it to the operating system, too: a batch is durable as a process is killed.
        batch.commit()?;
        Ok(())
    }

    fn put_block(&self, batch: &mut OwnedWriteBatch, mut fresh: Fresh) -> Result<(), Error> {
        let rows = std::mem::take(&mut fresh.rows);
        let event = &*fresh.event;
        let bucket = self.buckets.at(Day::of(event.accept_time))?;
        let block = Block::new(event, fresh.targets(), rows);
        let key = key::block(&event.tenant, fresh.first());
        batch.insert(&bucket.deliveries, key, block.encode_to_vec());
        for outcome in &fresh.outcomes {
            put_dead(batch, &bucket, outcome, event);
        }
        Ok(())
    }

    fn put_report(&self, batch: &mut OwnedWriteBatch, report: Report) -> Result<(), Error> {
        let Report {
            outcome,
            attempt,
            event,
        } = report;
        let id = outcome.delivery;
        let event = event.or_else(|| self.log.event(id.seq));
        let Some((event, target)) = event.as_deref().zip(place(id)) else {
            tracing::error!(delivery = %id, "the history has a gap: the event cannot be read");
            return Ok(());
        };
        let Some(target) = event.targets.get(target..=target) else {
            tracing::error!(delivery = %id, "the history has a gap: the event has no such target");
            return Ok(());
        };
        let has_outlived = outcome.at.since(event.accept_time) >= OUTLIVED;
        let day = if has_outlived {
            outcome.at
        } else {
            event.accept_time
        };
        let bucket = self.buckets.at(Day::of(day))?;
        if has_outlived || !self.state.known.contains(&id.seq) {
            // Accepted in an earlier run, of which the last moment may be lost; or on another day.
            let subject = Block::new(event, target, []);
            let key = key::subject(&event.tenant, id);
            batch.insert(&bucket.deliveries, key, subject.encode_to_vec());
        }
        let number = row::number(&outcome, attempt.as_ref());
        let key = key::row(&event.tenant, id, number);
        let row = Row::new(&outcome, attempt);
        batch.insert(&bucket.deliveries, key, row.encode_to_vec());
        put_dead(batch, &bucket, &outcome, event);
        Ok(())
    }

    /// Lets the log know of dead letters that are synced, many at once.
    fn sync(&mut self, now: bool) {
        let state = &mut self.state;
        let is_due = now || state.round - state.unsynced_since >= SYNC_ROUNDS;
        if state.unsynced.is_empty() || !is_due {
            return;
        }
        let unsynced = std::mem::take(&mut state.unsynced);
        match self.database.persist(PersistMode::SyncAll) {
            Ok(()) => unsynced.into_iter().for_each(|it| self.log.settle(it)),
            Err(error) => tracing::error!(%error, "cannot sync the dead letters"),
        }
    }

    fn answer(&self, flush: oneshot::Sender<()>) {
        match self.database.persist(PersistMode::SyncAll) {
            Ok(()) => {
                // Whoever asked may have gone.
                let _gone = flush.send(());
            }
            // Whoever waits is told by the channel's end.
            Err(error) => tracing::error!(%error, "cannot flush the history"),
        }
    }
}

fn place(id: DeliveryId) -> Option<usize> {
    usize::try_from(id.target).ok()
}

/// A dead letter keeps its event, so that it can be delivered again when the log has forgotten it.
fn put_dead(batch: &mut OwnedWriteBatch, bucket: &Bucket, outcome: &Outcome, event: &StoredEvent) {
    if matches!(outcome.standing, Standing::DeadLettered(_)) {
        batch.insert(
            &bucket.dead,
            key::dead(outcome.delivery),
            event.event.as_ref(),
        );
    }
}
