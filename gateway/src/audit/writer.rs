//! The thread that writes the log: whatever has come while it synced goes into the next write.
//!
//! **Invariant:** who waits for a record waits for stable storage.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    log::{Error, Log},
    quota::Quota,
    record::Record,
};
use crate::clock::Clock;

/// When refusals that were only counted are written down at the latest.
const PAUSE: Duration = Duration::from_secs(60);
/// How many records one write has at most.
const MAX_RECORDS: usize = 1024;

/// A handle to the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    entries: Sender<Entry>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    quota: Mutex<Quota>,
    is_writable: AtomicBool,
    clock: Clock,
}

/// A record, and who waits for it.
struct Entry(Record, Option<oneshot::Sender<()>>);

// === impl Writer ===

impl Writer {
    pub(crate) fn start(dir: PathBuf, clock: Clock) -> Result<Self, Error> {
        let log = Log::open(&dir)?;
        let head = log.head();
        let (sequence, hash) = (head.sequence, head.hash.as_str());
        tracing::info!(dir = %dir.display(), sequence, hash, "the audit log goes on");
        let shared = Arc::new(Shared {
            quota: Mutex::default(),
            is_writable: AtomicBool::new(true),
            clock,
        });
        let (entries, incoming) = mpsc::channel();
        let writing = Arc::clone(&shared);
        let run = move || write(&dir, log, &incoming, &writing);
        let thread = thread::Builder::new().name("audit".to_owned());
        thread.spawn(run).map_err(|source| Error::Io {
            path: "a thread".into(),
            source,
        })?;
        Ok(Self { entries, shared })
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.shared.is_writable.load(Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> String {
        self.shared.clock.now().to_rfc3339()
    }

    pub(crate) async fn commit(&self, record: Record) {
        let (done, waiting) = oneshot::channel();
        self.send(record, Some(done));
        // Who is not told has waited for a write that failed, which was logged.
        drop(waiting.await);
    }

    pub(crate) fn note(&self, mut record: Record) {
        let now = self.shared.clock.steady();
        let has_room = self.shared.quota(|it| {
            let has_room = it.take(&record.actor, now);
            if has_room {
                record.unrecorded = it.unrecorded();
            }
            has_room
        });
        if has_room {
            self.send(record, None);
        }
    }

    fn send(&self, record: Record, done: Option<oneshot::Sender<()>>) {
        if self.entries.send(Entry(record.cleaned(), done)).is_err() {
            self.shared.is_writable.store(false, Ordering::Relaxed);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn quota<T>(&self, with: impl FnOnce(&mut Quota) -> T) -> T {
        with(&mut self.quota.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes until nobody has anything to write any more.
fn write(dir: &Path, log: Log, entries: &Receiver<Entry>, shared: &Shared) {
    let mut log = Some(log);
    loop {
        let mut records = Vec::new();
        let mut waiting = Vec::new();
        let first = entries.recv_timeout(PAUSE);
        let is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
        let more = std::iter::from_fn(|| entries.try_recv().ok());
        for Entry(record, done) in first.ok().into_iter().chain(more).take(MAX_RECORDS) {
            records.push(record);
            waiting.extend(done);
        }
        if records.is_empty() {
            let count = shared.quota(Quota::unrecorded);
            let time = shared.clock.now().to_rfc3339();
            records.extend((count > 0).then(|| Record::unrecorded(time, count)));
        }
        if !records.is_empty() {
            append(dir, &mut log, &records, shared);
        }
        // Those that wait are told, or find that nobody will tell them.
        if log.is_some() {
            for done in waiting {
                let _nobody_waits = done.send(());
            }
        }
        if is_over {
            return;
        }
    }
}

/// Appends records to the log, which is opened again if it failed before.
fn append(dir: &Path, log: &mut Option<Log>, records: &[Record], shared: &Shared) {
    let opened = match log.take() {
        Some(log) => Ok(log),
        None => Log::open(dir),
    };
    let appended = opened.and_then(|mut log| {
        let appended = log.append(records);
        appended.map(|()| log).map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })
    });
    match appended {
        Ok(opened) => *log = Some(opened),
        Err(error) => {
            let (error, count) = (&error as &dyn std::error::Error, records.len());
            tracing::error!(error, count, "records of the audit log are lost");
        }
    }
    shared.is_writable.store(log.is_some(), Ordering::Relaxed);
}
