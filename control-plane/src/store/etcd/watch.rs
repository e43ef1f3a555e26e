//! One watch on etcd, over as many streams and endpoints as it takes.
//!
//! Owns the stream, its watchdog and its resumption. Refuses to trust `header.revision` of a message with events: in
//! catch-up it is the server's present, not what was sent. Invariant: a new stream starts right after the last whole
//! revision that was handed out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::{Code, Status};

use super::{
    assembly::Assembly,
    current_revision,
    endpoints::{Endpoints, backoff},
    fault::Fault,
    keys::Keys,
};
use crate::store::{Batch, Error};

/// How long a server may take to acknowledge a watch, or to answer a request for progress.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a watch may be silent before we ask whether it is alive.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Fragments are at most 2 MiB on a server with default limits, and never smaller than one event.
const MAX_MESSAGE: usize = 8 << 20;

/// Feeds one watch.
pub(super) struct Follower {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) keys: Keys,
    pub(super) prefix: String,
    pub(super) assembly: Assembly,
    pub(super) batches: mpsc::Sender<Result<Batch, Error>>,
}

/// Why a stream is over.
enum Ended {
    /// Nobody listens any more.
    Unwatched,
    /// Another stream may go on.
    Broken(Fault),
    /// The watch cannot go on.
    Over(Error),
}

impl Follower {
    /// Feeds the watch until it is dropped or cannot go on.
    pub(super) async fn run(mut self) {
        let mut n_failures = 0;
        loop {
            let before = self.assembly.last();
            let (client, turn) = self.endpoints.watching();
            let Err(ended) = self.follow(client).await;
            match ended {
                Ended::Unwatched => return,
                Ended::Over(error) => {
                    // A receiver that went away does not want to know.
                    self.batches.send(Err(error)).await.ok();
                    return;
                }
                Ended::Broken(fault) => {
                    let moved = self.assembly.last() > before;
                    n_failures = if moved { 1 } else { n_failures + 1 };
                    self.endpoints.skip(turn, &fault);
                    sleep(backoff(n_failures)).await;
                }
            }
        }
    }

    /// Follows one stream to its end.
    async fn follow(&mut self, client: Client) -> Result<Infallible, Ended> {
        let mut stream = self.open(client).await?;
        let mut asked = false;
        loop {
            let patience = if asked { ANSWER_TIMEOUT } else { IDLE_TIMEOUT };
            match timeout(patience, stream.message()).await {
                Ok(message) => {
                    asked = false;
                    self.take(message?.ok_or_else(closed)?).await?;
                }
                Err(elapsed) if asked => return Err(Ended::Broken(elapsed.into())),
                Err(_) => {
                    asked = true;
                    stream.request_progress().await?;
                }
            }
        }
    }

    async fn open(&mut self, client: Client) -> Result<WatchStream, Ended> {
        let after = self.assembly.last();
        self.assembly.restart();
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(after + 1)
            .with_progress_notify()
            .with_fragment();
        let mut watch = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
        let prefix = self.keys.full(&self.prefix);
        let opening = async {
            let mut stream = watch.watch(prefix, Some(options)).await?;
            let created = stream.message().await?.ok_or_else(closed)?;
            Ok::<_, Ended>((stream, created))
        };
        let opened = timeout(ANSWER_TIMEOUT, opening).await;
        let (stream, created) = opened.map_err(|elapsed| Ended::Broken(elapsed.into()))??;
        self.check(&created)?;
        let newest = created.header().map_or(0, |header| header.revision());
        // A member that lags may not know our revision yet; a cluster that does not was restored or wiped.
        if newest < after && current_revision(&self.endpoints, &self.keys).await? < after {
            let revision = after;
            return Err(Ended::Over(Error::FutureRevision { revision }));
        }
        Ok(stream)
    }

    async fn take(&mut self, response: WatchResponse) -> Result<(), Ended> {
        self.check(&response)?;
        let batch = if response.events().is_empty() {
            // Progress that was asked for belongs to no watch, and old servers do not order it with the events.
            let ordered = response.watch_id() >= 0;
            let header = response.header().filter(|_| ordered);
            header.and_then(|header| self.assembly.progress(header.revision()))
        } else {
            let fragment = response.0.fragment;
            let events = response.0.events.into_iter();
            let changes: Result<Vec<_>, _> = events.map(|e| self.keys.change(e)).collect();
            self.assembly.take(changes?, fragment)
        };
        let Some(batch) = batch else {
            return Ok(());
        };
        let sent = self.batches.send(Ok(batch)).await;
        sent.map_err(|_closed| Ended::Unwatched)
    }

    /// Refuses what ends the stream, and what comes from another cluster.
    fn check(&self, response: &WatchResponse) -> Result<(), Ended> {
        if response.compact_revision() > 0 {
            let revision = self.assembly.last();
            return Err(Ended::Over(Error::Compacted { revision }));
        }
        if response.canceled() {
            let status = Status::cancelled(response.cancel_reason());
            return Err(Ended::Broken(Fault::from(status)));
        }
        Ok(self.endpoints.check(response.header())?)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error.is_retryable() {
            true => Self::Broken(Fault::Lost(error.into())),
            false => Self::Over(error),
        }
    }
}

impl From<etcd_client::Error> for Ended {
    fn from(error: etcd_client::Error) -> Self {
        match Fault::from(error) {
            fault @ Fault::Answered(Code::PermissionDenied | Code::Unauthenticated, _) => {
                Self::Over(fault.into_error("watch"))
            }
            fault @ (Fault::Answered(..) | Fault::NotSent(_) | Fault::Lost(_)) => {
                Self::Broken(fault)
            }
        }
    }
}

fn closed() -> Ended {
    let status = Status::cancelled("the server closed the watch");
    Ended::Broken(Fault::from(status))
}
