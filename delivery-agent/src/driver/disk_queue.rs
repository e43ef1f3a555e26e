//! The thread between the driver and the queue on disk: deliveries go in and due ones come out, in
//! the order they were asked for. It decides nothing.
//!
//! **Invariant:** a load sees every deferral that was asked for before it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use hookfleet_contract::time::Timestamp;
use tokio::sync::mpsc as async_mpsc;

use crate::{
    core::{QueueId, Waiting},
    journal::{Deferred, Error},
};

/// What a load took.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) queue: QueueId,
    pub(crate) deliveries: Vec<Waiting>,
    /// When the first of the rest is due.
    pub(crate) next_due: Option<Timestamp>,
}

/// A handle to the thread.
#[derive(Debug)]
pub(crate) struct DiskQueue {
    requests: mpsc::Sender<Request>,
    backlog: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Request {
    Defer(QueueId, Waiting),
    Load {
        queue: QueueId,
        until: Timestamp,
        limit: usize,
    },
}

impl DiskQueue {
    /// Starts the thread. It ends when the handle is dropped, or after the first error of the disk,
    /// which the caller takes as fatal: a queue that cannot be trusted loses deliveries.
    pub(crate) fn start(
        deferred: Deferred,
        loaded: async_mpsc::UnboundedSender<Result<Loaded, Error>>,
    ) -> std::io::Result<Self> {
        let (requests, receiver) = mpsc::channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&backlog);
        thread::Builder::new()
            .name("disk-queue".to_owned())
            .spawn(move || {
                while let Ok(request) = receiver.recv() {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    let answer = perform(&deferred, request).transpose();
                    let failed = matches!(answer, Some(Err(_)));
                    if answer.is_some_and(|it| loaded.send(it).is_err()) || failed {
                        break;
                    }
                }
            })?;
        Ok(Self { requests, backlog })
    }

    /// How many requests wait. The driver takes no new events while there are too many.
    pub(crate) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    pub(crate) fn defer(&self, queue: QueueId, waiting: Waiting) {
        self.request(Request::Defer(queue, waiting));
    }

    pub(crate) fn load(&self, queue: QueueId, until: Timestamp, limit: usize) {
        self.request(Request::Load {
            queue,
            until,
            limit,
        });
    }

    fn request(&self, request: Request) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        if self.requests.send(request).is_err() {
            // The thread has ended after an error, which is in the driver's channel already.
            tracing::debug!("the queue on disk is gone");
        }
    }
}

fn perform(deferred: &Deferred, request: Request) -> Result<Option<Loaded>, Error> {
    match request {
        Request::Defer(queue, waiting) => {
            deferred.defer(queue, waiting)?;
            Ok(None)
        }
        Request::Load {
            queue,
            until,
            limit,
        } => {
            let deliveries = deferred.take_due(queue, until, limit)?;
            let next_due = deferred.next_due(queue)?;
            Ok(Some(Loaded {
                queue,
                deliveries,
                next_due,
            }))
        }
    }
}
