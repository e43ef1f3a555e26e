//! From the files of an earlier run to a journal that goes on: reads the live segments, says what
//! is damaged, and brings the database in line with the log.
//!
//! Memory is bounded by the live segments: one of them as bytes, and a table of their deliveries.
//! What waits, new or retried, goes into the queue on disk; only a summary is returned.
//!
//! **Invariants:** nothing of the earlier run is written to again: new records go to a new segment,
//! and the last one's valid part is written anew, since the kernel may hold what the disk does not.
//! Damage is reported, copied to `quarantine/`, and never deleted.

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use fjall::Database;
use hookfleet_contract::time::Timestamp;

use super::{
    Config, Error,
    deferred::Deferred,
    duplicates::{Older, Recent},
    index::{Entry, Index, add_offset},
    lingering::Lingering,
    log::{Files, Log, SPARE},
    model::Outcome,
    record::{Place, Record},
    segment::{self, Header, LIVE, Name, RETIRED, Scanned},
    storage::{Storage, write_all},
    table::Table,
};
use crate::core::Uid;

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What waits, by subscription; all of it is in the queue on disk.
    pub pending: Vec<PendingSummary>,
    /// The number of the next event.
    pub next_seq: u64,
    /// What the disk lost. Empty unless something is wrong with it.
    pub damage: Vec<Damage>,
    /// Bytes of a write that a crash cut off; nobody was told that they are durable.
    pub torn_bytes: u64,
    /// The earlier run was closed in order.
    pub clean: bool,
}

/// The waiting deliveries of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingSummary {
    /// The subscription's uid.
    pub subscription: Uid,
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
const QUARANTINE: &str = "quarantine";

/// Makes this process the only one that writes to the journal in `dir`.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let open = || {
        fs::create_dir_all(dir)?;
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
    let mut reader = Reader {
        config,
        storage: &*storage,
        table: Table::default(),
        entries: VecDeque::new(),
        older_outcomes: Vec::new(),
        next_seq: None,
        recovered: Recovered::default(),
    };
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
        ..
    } = reader;
    let lingering = Lingering::open(database, table.first_seq().unwrap_or(next_seq))?;
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
    let pending = table.pending().map(Ok).chain(lingering.pending_counted());
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

/// The segments of a folder, oldest first.
#[derive(Debug, Default)]
struct Found {
    retired: Vec<Name>,
    live: Vec<Name>,
    next_number: u64,
}

struct Reader<'a> {
    config: &'a Config,
    storage: &'a dyn Storage,
    table: Table,
    entries: VecDeque<Entry>,
    /// Outcomes of deliveries whose segments are not live.
    older_outcomes: Vec<Outcome>,
    /// The number after the last event, once there is one.
    next_seq: Option<u64>,
    recovered: Recovered,
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

// === impl Reader ===

impl Reader<'_> {
    fn skip(&mut self, name: Name) -> Result<(), Error> {
        let entry = self.open(name, RETIRED)?;
        self.entries.push_back(entry);
        Ok(())
    }

    fn read(&mut self, name: Name, is_last: bool) -> Result<(), Error> {
        let mut entry = self.open(name, LIVE)?;
        let bytes = entry.read_all()?;
        let has_header = self.check_header(&entry, &bytes)?;
        // Events that were in the end of the segment before and are not there any more.
        self.expect(name.first_seq);
        self.table.begin(name);
        let mut offsets = Vec::new();
        let scanned = segment::scan(entry.place, &bytes, |offset, record| {
            self.visit(name, offset, record, &mut offsets);
        });
        entry.offsets = Some(offsets);
        entry.live = true;
        self.note_damage(&entry, &scanned, has_header, is_last)?;
        if is_last {
            self.recovered.clean = scanned.clean && scanned.tail.is_none();
            if !self.recovered.clean {
                self.rewrite(&mut entry, &bytes, &scanned)?;
            }
        }
        self.entries.push_back(entry);
        Ok(())
    }

    fn visit(&mut self, name: Name, offset: u64, record: Record, offsets: &mut Vec<u32>) {
        match record {
            Record::Event(event) => {
                self.expect(event.seq);
                self.next_seq = Some(event.seq + 1);
                add_offset(offsets, name.first_seq, event.seq, offset);
                self.table.accept(name.number, &event);
            }
            Record::Outcome(outcome) => {
                if !self.table.apply(&outcome) {
                    self.older_outcomes.push(outcome);
                }
            }
            Record::Clean => {}
        }
    }

    /// Event `seq` comes next: those before it that were not seen are lost.
    fn expect(&mut self, seq: u64) {
        let expected = *self.next_seq.get_or_insert(seq);
        if expected < seq {
            tracing::error!(first = expected, end = seq, "the journal lost events");
            let seqs = expected..seq;
            self.recovered.damage.push(Damage::Events { seqs });
            self.next_seq = Some(seq);
        }
    }

    fn next_seq(&self) -> Result<u64, Error> {
        match (self.next_seq, self.entries.back()) {
            (Some(next_seq), _) => Ok(next_seq),
            // The live segments were taken away; numbers must not be used again.
            (None, Some(entry)) => Ok(entry.name.first_seq + entry.scan_offsets()?.len() as u64),
            (None, None) => Ok(1),
        }
    }

    fn open(&self, name: Name, extension: &str) -> Result<Entry, Error> {
        let path = self.config.dir.join(name.file_name(extension));
        let open = || {
            let metadata = fs::metadata(&path)?;
            let newest = metadata.modified()?.duration_since(UNIX_EPOCH);
            Ok(Entry {
                name,
                place: Place::new(self.config.id, name.number),
                file: self.storage.open(&path)?,
                path: path.clone(),
                live: false,
                bytes: metadata.len(),
                newest: Timestamp(0) + newest.unwrap_or_default(),
                offsets: None,
            })
        };
        open().map_err(Error::io("open a segment"))
    }

    fn check_header(&self, entry: &Entry, bytes: &Bytes) -> Result<bool, Error> {
        let path = entry.path.clone();
        match Header::parse(bytes) {
            Header::Valid { journal, .. } if journal != self.config.id => Err(Error::Foreign {
                path,
                found: journal,
            }),
            Header::Unknown { version } => Err(Error::Format { path, version }),
            Header::Valid { name, .. } => Ok(name == entry.name),
            Header::Damaged => Ok(false),
        }
    }

    fn note_damage(
        &mut self,
        entry: &Entry,
        scanned: &Scanned,
        has_header: bool,
        is_last: bool,
    ) -> Result<(), Error> {
        let segment = || entry.path.clone();
        let mut damage = Vec::new();
        if !has_header {
            damage.push(Damage::Header { segment: segment() });
        }
        let mut ranges = scanned.gaps.clone();
        match &scanned.tail {
            // With the marker of a clean shutdown in front of it, it is no torn write.
            Some(tail) if is_last && !scanned.clean => {
                self.recovered.torn_bytes = tail.end - tail.start;
                tracing::warn!(segment = %entry.path.display(), ?tail, "a write was cut off");
            }
            Some(tail) => ranges.push(tail.clone()),
            None => {}
        }
        damage.extend(ranges.into_iter().map(|range| Damage::Bytes {
            segment: segment(),
            range,
        }));
        if !damage.is_empty() {
            tracing::error!(segment = %entry.path.display(), ?damage, "a segment is damaged");
            self.quarantine(entry)
                .map_err(Error::io("quarantine a segment"))?;
            self.recovered.damage.append(&mut damage);
        }
        Ok(())
    }

    /// Keeps the damaged file under another name, whatever becomes of the segment.
    fn quarantine(&self, entry: &Entry) -> io::Result<()> {
        let dir = self.config.dir.join(QUARANTINE);
        fs::create_dir_all(&dir)?;
        match fs::hard_link(&entry.path, dir.join(entry.name.file_name(LIVE))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.storage.sync_dir(&dir)?;
        self.storage.sync_dir(&self.config.dir)
    }

    /// Writes the valid part of the last segment to the disk again, in place of the old file.
    fn rewrite(&self, entry: &mut Entry, bytes: &Bytes, scanned: &Scanned) -> Result<(), Error> {
        let copy = entry.path.with_extension(SPARE);
        let records = bytes
            .get(segment::HEADER_BYTES..segment::index(scanned.end))
            .unwrap_or_default();
        let mut rewrite = || {
            let file = self.storage.create(&copy, scanned.end)?;
            write_all(&*file, &entry.name.header(self.config.id), 0)?;
            write_all(&*file, records, segment::HEADER_BYTES as u64)?;
            file.sync_all()?;
            self.storage.rename(&copy, &entry.path)?;
            self.storage.sync_dir(&self.config.dir)?;
            entry.file = file;
            entry.bytes = scanned.end;
            Ok(())
        };
        rewrite().map_err(Error::io("write the last segment again"))
    }
}
