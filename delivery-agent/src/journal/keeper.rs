//! The thread that keeps the number of live segments small, off the path of the answers: it follows
//! what the writer made durable, retires segments that are settled or too old, and unlinks those
//! that nobody needs.
//!
//! **Invariants:** segments retire oldest first, and only after everything that recovery would
//! have learned from them alone is synced in the database; a segment is unlinked only after its
//! unsettled events are synced there too.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use fjall::Database;

use super::{
    Config, Error,
    duplicates::Older,
    inbox::Inbox,
    index::{Entry, Index},
    lingering::Lingering,
    log::Position,
    model::{Outcome, StoredEvent},
    reserve::Reserve,
    room::{self, Room},
    segment::{Name, RETIRED},
    storage::Storage,
    table::Table,
    writer::cause,
};

/// How far the keeper may be behind before the writer waits for it.
const MAX_GROUPS: usize = 64;

/// What one sync made durable.
#[derive(Debug)]
pub(super) struct Group {
    /// Segments that began, oldest first.
    pub(super) began: Vec<Name>,
    pub(super) events: Vec<(Position, Arc<StoredEvent>)>,
    pub(super) outcomes: Vec<Outcome>,
}

/// The thread's state.
pub(super) struct Keeper {
    pub(super) config: Config,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) room: Arc<Room>,
    pub(super) reserve: Reserve,
    pub(super) database: Database,
    pub(super) table: Table,
    pub(super) index: Arc<Index>,
    pub(super) older: Arc<Older>,
    pub(super) lingering: Lingering,
    pub(super) inbox: Arc<Inbox>,
    pub(super) n_unsettled: Arc<AtomicU64>,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn start(mut self) -> Result<(SyncSender<Group>, JoinHandle<()>), Error> {
        let (sender, receiver) = sync_channel(MAX_GROUPS);
        let thread = thread::Builder::new()
            .name("journal-keeper".to_owned())
            .spawn(move || {
                if let Err(error) = self.serve(&receiver) {
                    tracing::error!(%error, cause = cause(&error), "the journal cannot be kept");
                    self.inbox.stop();
                    self.config.fatal.cancel();
                }
            })
            .map_err(Error::io("start the journal's keeper"))?;
        Ok((sender, thread))
    }

    fn serve(&mut self, groups: &Receiver<Group>) -> Result<(), Error> {
        loop {
            match groups.recv_timeout(room::INTERVAL) {
                Ok(group) => self.follow(group)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.retire_segments()?;
            self.unlink_segments()?;
            let now = self.config.clock.now();
            self.older.drop_expired(&self.database, now)?;
            // Looked at while nothing is appended too, so that a full disk is noticed early.
            self.reserve.look(&self.room, &self.database, now)?;
            let n_unsettled = self.table.n_unsettled();
            self.n_unsettled.store(n_unsettled, Ordering::Relaxed);
        }
    }

    fn follow(&mut self, group: Group) -> Result<(), Error> {
        for name in group.began {
            self.table.begin(name);
        }
        for (position, event) in group.events {
            self.table.accept(position.segment, &event);
        }
        for outcome in &group.outcomes {
            if !self.table.apply(outcome) {
                self.lingering.apply(outcome)?;
            }
        }
        Ok(())
    }

    fn retire_segments(&mut self) -> Result<(), Error> {
        loop {
            let is_crowded = self.table.n_sealed() > self.config.max_live_segments;
            let oldest = self.table.oldest_sealed();
            if !oldest.is_some_and(|it| is_crowded || it.is_settled()) {
                return Ok(());
            }
            self.retire_oldest()?;
        }
    }

    /// Makes recovery pass the oldest segment by.
    fn retire_oldest(&mut self) -> Result<(), Error> {
        let Some(segment) = self.table.oldest_sealed() else {
            return Ok(());
        };
        let now = self.config.clock.now();
        self.older.keep(&self.database, segment.ids(), now)?;
        self.lingering.keep(segment.pending())?;
        // Outcomes of older deliveries that are in this segment become durable as well.
        self.lingering.sync()?;
        let path = self.config.dir.join(segment.name.file_name(RETIRED));
        self.index
            .retire(segment.name.number, path, segment.newest(), |from, to| {
                self.storage.rename(from, to)?;
                self.storage.sync_dir(&self.config.dir)
            })
            .map_err(Error::io("retire a segment"))?;
        self.older.bump_generation();
        let ids = segment.ids().map(|(id, first)| (id, first.seq));
        self.inbox.forget(ids.collect());
        self.table.retire_oldest();
        Ok(())
    }

    fn unlink_segments(&mut self) -> Result<(), Error> {
        while let Some(oldest) = self.index.oldest_retired() {
            let now = self.config.clock.now();
            let is_needless = oldest.entry.name.first_seq == oldest.end_seq
                || now.since(oldest.entry.newest) >= self.config.retention
                || oldest.retired_bytes > self.config.retention_bytes
                || self.room.is_low(now);
            if !is_needless {
                break;
            }
            self.keep_events(oldest.entry.name.first_seq..oldest.end_seq)?;
            self.unlink(&oldest.entry)?;
        }
        Ok(())
    }

    /// Copies the events of unsettled deliveries into the database.
    fn keep_events(&mut self, seqs: Range<u64>) -> Result<(), Error> {
        let mut kept: Vec<u64> = Vec::new();
        for pending in self
            .lingering
            .pending(seqs.start..=seqs.end.saturating_sub(1))
        {
            let seq = pending?.delivery.seq;
            if kept.last() != Some(&seq) {
                kept.push(seq);
            }
        }
        for seq in kept {
            match self.index.read(seq) {
                Ok(Some(event)) => self.lingering.keep_event(&event)?,
                Ok(None) | Err(Error::Corrupt { .. }) => {
                    tracing::error!(seq, "the event of a waiting delivery is lost");
                }
                Err(error) => return Err(error),
            }
        }
        self.lingering.sync()
    }

    fn unlink(&self, entry: &Entry) -> Result<(), Error> {
        self.index.remove_oldest();
        let unlink = || {
            self.storage.remove(&entry.path)?;
            self.storage.sync_dir(&self.config.dir)
        };
        unlink().map_err(Error::io("unlink a segment"))?;
        self.room.look();
        Ok(())
    }
}
