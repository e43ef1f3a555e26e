//! The one thread that appends. It takes whatever arrived during the last sync, writes it at once,
//! syncs once, and only then answers.
//!
//! **Invariants:** nothing is answered, read or delivered before it is synced; the first error of
//! the disk ends the thread, answers nobody, and cancels `fatal`.

use std::{
    fs::File,
    iter, mem,
    sync::{Arc, mpsc::SyncSender},
    thread::{self, JoinHandle},
    time::Duration,
};

use hookfleet_contract::time::Timestamp;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Error,
    duplicates::{First, Older, Recent},
    inbox::{Batch, Closed, Inbox, Request},
    index::{Entry, Index},
    keeper::Group,
    log::{Log, Position, Segment},
    model::{Appended, NewEvent, Outcome, Standing, StoredEvent},
    room::Room,
};

/// Outcomes that are written are synced within this: what a power cut may repeat.
const OUTCOME_SYNC: Duration = Duration::from_millis(200);
/// How long to sleep when there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// The thread's state.
pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) config: Config,
    pub(super) room: Arc<Room>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) index: Arc<Index>,
    pub(super) older: Arc<Older>,
    pub(super) recent: Recent,
    pub(super) groups: SyncSender<Group>,
    pub(super) accepted: mpsc::Sender<Arc<StoredEvent>>,
    pub(super) keeper: JoinHandle<()>,
    /// Held as long as this run may write.
    pub(super) lock: File,
}

type Reply = oneshot::Sender<Result<Vec<Appended>, Error>>;
type Answer = Result<Vec<Appended>, Error>;

/// What one sync makes durable.
#[derive(Debug, Default)]
struct Work {
    began: Vec<Segment>,
    events: Vec<(Position, Arc<StoredEvent>)>,
    outcomes: Vec<Outcome>,
    answers: Vec<(Reply, Answer)>,
}

/// Whoever leaves the thread, by a panic too, leaves nobody waiting.
struct Leaving {
    inbox: Arc<Inbox>,
    fatal: CancellationToken,
    cleanly: bool,
}

// === impl Writer ===

impl Writer {
    pub(super) fn start(self) -> Result<JoinHandle<()>, Error> {
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || self.run())
            .map_err(Error::io("start the journal's thread"))
    }

    fn run(mut self) {
        let mut leaving = Leaving {
            inbox: Arc::clone(&self.inbox),
            fatal: self.config.fatal.clone(),
            cleanly: false,
        };
        let ended = self.serve().and_then(|closed| match closed {
            Closed { cleanly: true } => self.log.close(),
            Closed { cleanly: false } => Ok(()),
        });
        match ended {
            Ok(()) => leaving.cleanly = true,
            Err(error) => tracing::error!(%error, cause = cause(&error), "the journal has failed"),
        }
        drop(leaving);
        drop(self.groups);
        if self.keeper.join().is_err() {
            tracing::error!("the keeper of the journal panicked");
            self.config.fatal.cancel();
        }
        drop(self.lock);
    }

    fn serve(&mut self) -> Result<Closed, Error> {
        let mut sync_by: Option<Timestamp> = None;
        loop {
            let patience = sync_by.map_or(IDLE, |at| at.since(self.config.clock.now()));
            let mut batch = self.inbox.take(patience);
            if batch.closed == Some(Closed { cleanly: false }) {
                return Ok(Closed { cleanly: false });
            }
            let now = self.config.clock.now();
            let closed = batch.closed;
            let flushes = mem::take(&mut batch.flushes);
            let mut work = self.prepare(batch, now)?;
            self.log.write()?;
            let is_late = sync_by.is_some_and(|at| at <= now);
            if !work.events.is_empty() || !flushes.is_empty() || is_late {
                self.log.sync()?;
            }
            self.publish(&mut work)?;
            for flush in flushes {
                // Whoever asked may have gone.
                flush.send(()).ok();
            }
            sync_by = self
                .log
                .is_dirty()
                .then(|| sync_by.unwrap_or(now + OUTCOME_SYNC));
            if let Some(closed) = closed {
                return Ok(closed);
            }
        }
    }

    /// Encodes a batch; what is refused is answered in the end like the rest.
    fn prepare(&mut self, batch: Batch, now: Timestamp) -> Result<Work, Error> {
        self.recent.forget(batch.forget);
        let mut work = Work::default();
        let mut is_full = !batch.requests.is_empty() && self.is_full(now)?;
        for request in batch.requests {
            let (reply, answer) = match is_full {
                true => (request.reply, Err(Error::DiskFull)),
                false => self.append(request, &mut work),
            };
            match &answer {
                Ok(_) | Err(Error::Database(_)) => {}
                Err(Error::DiskFull) => is_full = true,
                Err(error) => return Err(error.clone()),
            }
            work.answers.push((reply, answer));
        }
        for outcome in &batch.outcomes {
            self.log.push_outcome(outcome, &mut work.began)?;
        }
        work.outcomes.extend(batch.outcomes);
        Ok(work)
    }

    fn is_full(&mut self, now: Timestamp) -> Result<bool, Error> {
        Ok(self.room.is_low(now) || !self.log.takes_events()?)
    }

    fn append(&mut self, request: Request, work: &mut Work) -> (Reply, Answer) {
        let Request {
            events,
            firsts,
            generation,
            reply,
        } = request;
        let found = firsts.into_iter().chain(iter::repeat(None));
        let appended = events.into_iter().zip(found).map(|(event, found)| {
            let first = self.recent.first(&event, found, generation, &self.older)?;
            match first {
                Some(first) => Ok(Appended {
                    seq: first.seq,
                    n_targets: first.n_targets,
                    duplicate: true,
                }),
                None => self.append_one(event, work),
            }
        });
        let answer = appended.collect();
        (reply, answer)
    }

    fn append_one(&mut self, event: NewEvent, work: &mut Work) -> Result<Appended, Error> {
        let event = StoredEvent::new(self.log.next_seq(), event);
        let position = self.log.push_event(&event, &mut work.began)?;
        let first = First {
            seq: event.seq,
            n_targets: event.n_targets(),
            accept_time: event.accept_time,
        };
        for key in event.keys().into_iter().flatten() {
            self.recent.insert(key, first);
        }
        for ((delivery, _), stand) in event.deliveries().zip(&event.stands) {
            let outcome = Outcome {
                delivery,
                progress: stand.progress,
                standing: Standing::Deferred { due: stand.due },
                at: event.accept_time,
            };
            self.log.push_outcome(&outcome, &mut work.began)?;
            work.outcomes.push(outcome);
        }
        work.events.push((position, Arc::new(event)));
        Ok(Appended {
            seq: first.seq,
            n_targets: first.n_targets,
            duplicate: false,
        })
    }

    /// Lets everyone know of what is durable now.
    fn publish(&mut self, work: &mut Work) -> Result<(), Error> {
        if !work.began.is_empty() {
            let Config {
                dir, segment_bytes, ..
            } = &self.config;
            let entries = work
                .began
                .iter()
                .map(|it| Entry::live(it, dir, *segment_bytes));
            self.index.began(entries);
        }
        if !work.events.is_empty() {
            self.index.publish(&work.events);
        }
        for (reply, answer) in work.answers.drain(..) {
            // Whoever asked may have gone.
            reply.send(answer).ok();
        }
        for (_, event) in &work.events {
            if !self.hand_on(Arc::clone(event)) {
                // The driver has ended; the next run recovers the event.
                break;
            }
        }
        let work = mem::take(work);
        if work.events.is_empty() && work.outcomes.is_empty() && work.began.is_empty() {
            return Ok(());
        }
        let group = Group {
            began: work.began.iter().map(|it| it.name).collect(),
            events: work.events,
            outcomes: work.outcomes,
        };
        self.groups.send(group).map_err(|_| Error::Stopped)
    }

    /// Gives an event to the driver, and waits while that has too many. Whether it is there.
    fn hand_on(&self, event: Arc<StoredEvent>) -> bool {
        match self.accepted.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(event)) => self.accepted.blocking_send(event).is_ok(),
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.inbox.stop();
        if !self.cleanly {
            self.fatal.cancel();
        }
    }
}

/// What lies beneath an error, for the log.
pub(super) fn cause(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}
