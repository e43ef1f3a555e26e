//! Reads the live segments, oldest first, into a table and an index, and notes what is damaged.
//!
//! **Invariant:** whatever validates is used, whatever does not is reported, and the files that were
//! found are left as they are, but for the last one, which is replaced by a copy of its valid part.

use std::{collections::VecDeque, fs, io, time::UNIX_EPOCH};

use bytes::Bytes;
use hookfleet_contract::time::Timestamp;

use super::{
    super::{
        Config, Error,
        index::{Entry, add_offset},
        log::SPARE,
        model::{Origin, Outcome},
        record::{Place, Record},
        segment::{self, Header, LIVE, Name, RETIRED, Scanned},
        storage::{Storage, write_all},
        table::Table,
    },
    Damage, Recovered,
};

const QUARANTINE: &str = "quarantine";

/// What was read so far.
pub(super) struct Reader<'a> {
    config: &'a Config,
    storage: &'a dyn Storage,
    pub(super) table: Table,
    pub(super) entries: VecDeque<Entry>,
    /// Outcomes of deliveries whose segments are not live.
    pub(super) older_outcomes: Vec<Outcome>,
    /// When the last record was written, by the clock of its run.
    pub(super) written: Timestamp,
    /// The number after the last event, once there is one.
    next_seq: Option<u64>,
    pub(super) recovered: Recovered,
}

impl<'a> Reader<'a> {
    pub(super) fn new(config: &'a Config, storage: &'a dyn Storage) -> Self {
        Self {
            config,
            storage,
            table: Table::default(),
            entries: VecDeque::new(),
            older_outcomes: Vec::new(),
            written: Timestamp(0),
            next_seq: None,
            recovered: Recovered::default(),
        }
    }

    /// Takes note of a segment that is only kept for redelivery.
    pub(super) fn skip(&mut self, name: Name) -> Result<(), Error> {
        let entry = self.open(name, RETIRED)?;
        self.entries.push_back(entry);
        Ok(())
    }

    /// Reads a live segment.
    pub(super) fn read(&mut self, name: Name, is_last: bool) -> Result<(), Error> {
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
                // What was handed over has times of another agent's clock.
                if !matches!(event.origin, Origin::HandedOver(_)) {
                    self.written = event.accept_time;
                }
                add_offset(offsets, name.first_seq, event.seq, offset);
                self.table.accept(name.number, &event);
            }
            Record::Outcome(outcome) => {
                self.written = outcome.at;
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

    /// The number of the next event.
    pub(super) fn next_seq(&self) -> Result<u64, Error> {
        match (self.next_seq, self.entries.back()) {
            (Some(next_seq), _) => Ok(next_seq),
            // The live segments were taken away; numbers must not be used again.
            (None, Some(entry)) => Ok(entry.name.first_seq + entry.scan_offsets()?.len() as u64),
            (None, None) => Ok(self.config.first_seq()),
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
