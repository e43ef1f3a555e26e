//! From the files of an earlier run to a journal that goes on: reads the live segments, says what
//! is damaged, and brings the database in line with the log.
//!
//! Memory is bounded by the live segments: one of them as bytes, and a table of their deliveries.
//! What waits, new or retried, goes into the queue on disk; only a summary is returned.
//!
//! **Invariants:** nothing of the earlier run is written to again: new records go to a new segment,
//! and the last one's valid part is written anew, since the kernel may hold what the disk does not.
//! Damage is reported, copied to `quarantine/`, and never deleted.

mod reader;

use std::{
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fjall::Database;
use hookfleet_contract::{retry::LONGEST_PAUSE, time::Timestamp};

use super::{
    Config, Error,
    deferred::Deferred,
    duplicates::{Older, Recent},
    index::{Entry, Index},
    lingering::Lingering,
    log::{Files, Log, SPARE},
    segment::Name,
    storage::Storage,
    table::{Pending, Table},
};
use crate::core::QueueId;
use reader::Reader;

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What waits, by subscription; all of it is in the queue on disk.
    pub pending: Vec<PendingSummary>,
    /// The number of the next event.
    pub next_seq: u64,
    /// What the disk lost. Empty unless something is wrong with it.
    pub damage: Vec<Damage>,
    /// Bytes after the last valid record of a run that was not closed: a write that a crash cut
    /// off, of which nobody was told that it is durable.
    pub torn_bytes: u64,
    /// The earlier run was closed in order.
    pub clean: bool,
}

impl Recovered {
    /// Says what the journal came back with.
    pub fn report(&self) {
        for damage in &self.damage {
            tracing::error!(
                ?damage,
                "the journal is damaged; everything around it was read"
            );
        }
        let pending: u64 = self.pending.iter().map(|it| it.count).sum();
        let Self {
            next_seq,
            torn_bytes,
            clean,
            ..
        } = self;
        tracing::info!(pending, next_seq, torn_bytes, clean, "journal recovered");
    }
}

/// The waiting deliveries of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingSummary {
    /// Which.
    pub queue: QueueId,
    /// How many deliveries.
    pub count: u64,
    /// When the first of them is due.
    pub next_due: Timestamp,
}

/// Something that was on the disk and is not readable any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A segment's header. Its records validate by themselves.
    Header {
        /// The segment as it was found.
        segment: PathBuf,
    },
    /// Bytes of a segment that held events or outcomes. Lost outcomes cause duplicates.
    Bytes {
        /// The segment as it was found.
        segment: PathBuf,
        /// Which bytes.
        range: Range<u64>,
    },
    /// Events that are lost.
    Events {
        /// Their numbers.
        seqs: Range<u64>,
    },
}

/// Everything a journal starts with.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) table: Table,
    pub(super) index: Index,
    pub(super) recent: Recent,
    pub(super) older: Older,
    pub(super) lingering: Lingering,
    pub(super) deferred: Deferred,
    pub(super) recovered: Recovered,
}

const LOCK: &str = "LOCK";
/// Clocks are set right by less than this all the time.
const NOTABLE: Duration = Duration::from_secs(60);

/// Makes this process the only one that writes to the journal in `dir`.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let open = || {
        fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        File::create(dir.join(LOCK))
    };
    let lock = open().map_err(Error::io("create the journal's folder"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(Error::io("lock the journal")(source)),
    }
}

/// Reads what an earlier run left; the caller holds the lock.
pub(super) fn recover(
    storage: Arc<dyn Storage>,
    config: &Config,
    database: &Database,
) -> Result<Opened, Error> {
    let found = Found::list(&config.dir)?;
    let mut reader = Reader::new(config, &*storage);
    for name in &found.retired {
        reader.skip(*name)?;
    }
    for (i, name) in found.live.iter().enumerate() {
        reader.read(*name, i + 1 == found.live.len())?;
    }
    let next_seq = reader.next_seq()?;
    let Reader {
        mut table,
        mut entries,
        older_outcomes,
        mut recovered,
        written,
        ..
    } = reader;
    let mut lingering = Lingering::open(database, table.first_seq().unwrap_or(next_seq))?;
    for outcome in &older_outcomes {
        lingering.apply(outcome)?;
    }
    let older = Older::open(database, config.duplicate_window)?;
    let recent = Recent::new(config.duplicate_window, table.ids());

    let log = Log::start(
        Files {
            storage,
            dir: config.dir.clone(),
            journal: config.id,
            segment_bytes: config.segment_bytes,
            next_number: found.next_number,
        },
        next_seq,
    )?;
    let now = config.clock.now();
    let ahead = written.since(now);
    if ahead > NOTABLE {
        tracing::warn!(
            ?ahead,
            "the clock was set back since the run before; what waits is due as it was then"
        );
    }
    let pending = table.pending().map(Ok).chain(lingering.pending_counted());
    let pending = pending.map(|it| {
        it.map(|it| Pending {
            due: as_of(now, it.due, ahead),
            ..it
        })
    });
    let run = log.active().name.number;
    let (deferred, summaries) = Deferred::rebuild(database, run, pending)?;
    table.begin(log.active().name);
    entries.push_back(Entry::live(log.active(), &config.dir, config.segment_bytes));
    recovered.pending = summaries;
    recovered.next_seq = next_seq;
    Ok(Opened {
        log,
        table,
        index: Index::new(config.cache_bytes, entries, next_seq),
        recent,
        older,
        lingering,
        deferred,
        recovered,
    })
}

/// A due time on our clock, where the clock of the run that wrote it was ahead of ours, as far as the log tells. One that
/// no schedule gives is of a run before that: what waits for it has waited for long enough.
fn as_of(now: Timestamp, due: Timestamp, ahead: Duration) -> Timestamp {
    match due.since(now).saturating_sub(ahead) {
        left if due <= now || left > LONGEST_PAUSE => due.min(now),
        left => now + left,
    }
}

/// The segments of a folder, oldest first.
#[derive(Debug, Default)]
struct Found {
    retired: Vec<Name>,
    live: Vec<Name>,
    next_number: u64,
}

// === impl Found ===

impl Found {
    fn list(dir: &Path) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut list = || {
            for file in fs::read_dir(dir)? {
                let path = file?.path();
                if path.extension().is_some_and(|it| it == SPARE) {
                    fs::remove_file(&path)?;
                    continue;
                }
                let file_name = path.file_name().and_then(|it| it.to_str());
                let Some((name, live)) = file_name.and_then(Name::parse) else {
                    continue;
                };
                found.next_number = found.next_number.max(name.number + 1);
                let segments = if live {
                    &mut found.live
                } else {
                    &mut found.retired
                };
                segments.push(name);
            }
            io::Result::Ok(())
        };
        list().map_err(Error::io("list the journal's folder"))?;
        found.retired.sort();
        found.live.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

    #[test]
    fn what_waits_is_due_as_long_after_a_restart_on_a_right_clock_as_on_the_one_that_was_ahead() {
        assert_eq!(as_of(NOW, NOW + YEARS + HOUR, YEARS), NOW + HOUR);
        assert_eq!(as_of(NOW, NOW + YEARS, YEARS), NOW, "never attempted");
        assert_eq!(as_of(NOW, NOW + HOUR, YEARS), NOW, "of the run before");
    }

    #[test]
    fn due_times_of_a_right_clock_stay_and_those_that_no_schedule_gives_are_now() {
        for due in [Timestamp(0), NOW, NOW + HOUR, NOW + LONGEST_PAUSE] {
            assert_eq!(as_of(NOW, due, Duration::ZERO), due);
        }
        assert_eq!(as_of(NOW, NOW + YEARS, Duration::ZERO), NOW);
    }
}
