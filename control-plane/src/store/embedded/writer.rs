//! The one thread that changes the embedded store: it takes the requests that arrived during the last sync, decides
//! them, writes and syncs them as one group, shows them to readers, and only then answers.
//!
//! Owns the queue, the leases and the disk. Invariant: after a failed write no request is ever answered well again.

use std::{
    sync::{Arc, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use super::{disk::Group, leases::Leases, shared::Shared, stage::Stage};
use crate::store::{BoxError, Error, LeaseId, Outcome, Txn};

/// Requests that wait or are being written; more callers wait their turn.
const MAX_QUEUED: usize = 1024;

/// What a caller wants, and where the answer goes.
pub(super) enum Request {
    Commit(Txn, Reply<Outcome>),
    Grant(LeaseId, Duration, Reply<()>),
    KeepAlive(LeaseId, Reply<Duration>),
    Revoke(LeaseId, Reply<()>),
}

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Writes a group durably.
pub(super) type Persist = Box<dyn FnMut(&Group) -> Result<(), BoxError> + Send>;

/// The queue into the thread. Dropping it finishes what is queued and joins the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<(Request, OwnedSemaphorePermit)>>,
    room: Arc<Semaphore>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Loop {
    queue: mpsc::Receiver<(Request, OwnedSemaphorePermit)>,
    shared: Arc<Shared>,
    leases: Leases,
    persist: Persist,
}

/// Answers one request: with what was decided, or with the failure to write it.
type Answer = Box<dyn FnOnce(Result<(), Error>)>;

// === impl Writer ===

impl Writer {
    pub(super) fn spawn(
        shared: Arc<Shared>,
        leases: Leases,
        persist: Persist,
    ) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel();
        let work = Loop {
            queue: requests,
            shared,
            leases,
            persist,
        };
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || work.run())?;
        Ok(Self {
            queue: Some(queue),
            room: Arc::new(Semaphore::new(MAX_QUEUED)),
            thread: Some(thread),
        })
    }

    /// Queues a request and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        operation: &'static str,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Error> {
        let gone = || Error::Fatal {
            operation,
            source: None,
        };
        let permit = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|_closed| gone())?;
        let (reply, answer) = oneshot::channel();
        self.queue
            .as_ref()
            .and_then(|queue| queue.send((request(reply), permit)).ok())
            .ok_or_else(gone)?;
        answer.await.map_err(|_dropped| gone())?
    }

    /// Requests that no write has taken up.
    #[cfg(test)]
    pub(super) fn n_waiting(&self) -> usize {
        MAX_QUEUED - self.room.available_permits()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

// === impl Loop ===

impl Loop {
    fn run(mut self) {
        while let Some(requests) = self.next_group() {
            self.serve(requests);
        }
    }

    /// Everything that is queued, or nothing when a lease ends first; `None` when the store is dropped.
    fn next_group(&self) -> Option<Vec<Request>> {
        let first = match self.leases.next_deadline() {
            None => self.queue.recv().ok(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.queue.recv_timeout(left) {
                    Ok(request) => Some(request),
                    Err(mpsc::RecvTimeoutError::Timeout) => return Some(Vec::new()),
                    Err(mpsc::RecvTimeoutError::Disconnected) => None,
                }
            }
        };
        let group = first
            .into_iter()
            .chain(self.queue.try_iter().take(MAX_QUEUED));
        let requests: Vec<_> = group.map(|(request, _permit)| request).collect();
        (!requests.is_empty()).then_some(requests)
    }

    fn serve(&mut self, requests: Vec<Request>) {
        let now = Instant::now();
        let (group, answers) = {
            let history = self.shared.history.read();
            let history = history.unwrap_or_else(PoisonError::into_inner);
            let mut stage = Stage::new(&history, &mut self.leases);
            stage.expire(now);
            let answers: Vec<_> = requests
                .into_iter()
                .map(|request| decide(&mut stage, request, now))
                .collect();
            (stage.finish(), answers)
        };
        let mut failure = None;
        if self.shared.has_failed() {
            // The leases' state no longer matters, but a lease that is due must not spin.
            self.leases = Leases::default();
        } else if !group.is_empty() {
            match (self.persist)(&group) {
                Ok(()) => self.shared.publish(group),
                Err(error) => {
                    tracing::error!(%error, "the store cannot write; the process must end");
                    self.shared.fail();
                    failure = Some(error);
                }
            }
        }
        for answer in answers {
            if self.shared.has_failed() {
                answer(Err(Error::Fatal {
                    operation: "write",
                    source: failure.take(),
                }));
            } else {
                answer(Ok(()));
            }
        }
    }
}

fn decide(stage: &mut Stage<'_>, request: Request, now: Instant) -> Answer {
    match request {
        Request::Commit(txn, reply) => later(reply, stage.commit(txn)),
        Request::Grant(id, ttl, reply) => {
            stage.grant(id, ttl, now);
            later(reply, Ok(()))
        }
        Request::KeepAlive(id, reply) => later(reply, stage.keep_alive(id, now)),
        Request::Revoke(id, reply) => {
            stage.end(id);
            later(reply, Ok(()))
        }
    }
}

fn later<T: 'static>(reply: Reply<T>, decided: Result<T, Error>) -> Answer {
    Box::new(move |written| {
        // A caller that went away does not want the answer.
        reply.send(written.and(decided)).ok();
    })
}
