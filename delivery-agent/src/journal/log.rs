//! The end of the log: the active segment, the spare one behind it, and the bytes that are not
//! written yet. It knows nothing of who waits for them.
//!
//! **Invariants:** a segment is preallocated, has its header and its name on stable storage before
//! the first record goes into it; the segment before it is synced by then. Events never take the
//! last spare segment: on a full disk it is left to outcomes, so that deliveries can drain.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Error,
    model::{Outcome, StoredEvent},
    record::{self, CLEAN_BYTES, OUTCOME_BYTES, Place, Record},
    segment::{HEADER_BYTES, LIVE, Name},
    storage::{SegmentFile, Storage, write_all},
};

/// The buffer is given back above this: a burst must not cost its size for ever.
const BUFFER_KEPT: usize = 8 << 20;

/// The end of the log.
#[derive(Debug)]
pub(super) struct Log {
    files: Files,
    active: Segment,
    spare: Option<Spare>,
    next_seq: u64,
    /// Bytes that belong at the end of the active segment.
    buffer: Vec<u8>,
    /// Whether the active segment has bytes that are not synced.
    dirty: bool,
}

/// A segment that was opened for writing.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) name: Name,
    pub(super) place: Place,
    pub(super) file: Arc<dyn SegmentFile>,
    /// How many of its bytes are written.
    end: u64,
}

#[derive(Debug)]
struct Spare {
    number: u64,
    file: Arc<dyn SegmentFile>,
}

/// Where the segments are, and what they are called next.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) journal: u128,
    pub(super) segment_bytes: u64,
    pub(super) next_number: u64,
}

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment's number.
    pub(super) segment: u64,
    pub(super) offset: u32,
}

/// The largest record that fits into a segment.
pub(super) fn max_record(segment_bytes: u64) -> u64 {
    let most = segment_bytes.min(u64::from(u32::MAX));
    most.saturating_sub((HEADER_BYTES + CLEAN_BYTES) as u64)
}

// === impl Log ===

impl Log {
    /// Begins a new segment.
    pub(super) fn start(mut files: Files, next_seq: u64) -> Result<Self, Error> {
        let first = files.create_spare()?;
        let active = files.begin(first, next_seq)?;
        let spare = files.create_spare_if_room()?;
        Ok(Self {
            files,
            active,
            spare,
            next_seq,
            buffer: Vec::new(),
            dirty: false,
        })
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn active(&self) -> &Segment {
        &self.active
    }

    /// Whether events may be appended; tries to make room if not.
    pub(super) fn takes_events(&mut self) -> Result<bool, Error> {
        if self.spare.is_none() {
            self.spare = self.files.create_spare_if_room()?;
        }
        Ok(self.spare.is_some())
    }

    /// Adds the next event to the buffer; it must have [`Log::next_seq`] and fit into a segment.
    /// `began` gets the segments that began on the way.
    pub(super) fn push_event(
        &mut self,
        event: &StoredEvent,
        began: &mut Vec<Segment>,
    ) -> Result<Position, Error> {
        debug_assert_eq!(event.seq, self.next_seq, "numbers are dense");
        if !self.has_room(record::event_size(event)) {
            // First the next spare, so that a full disk leaves everything as it is.
            let next_spare = self.files.create_spare_if_room()?.ok_or(Error::DiskFull)?;
            let spare = self.spare.replace(next_spare).ok_or(Error::DiskFull)?;
            began.push(self.rotate(spare)?);
        }
        let offset = self.active.end + self.buffer.len() as u64;
        let place = self.active.place;
        place.encode_event(&mut self.buffer, self.active.end, event);
        self.next_seq += 1;
        Ok(Position {
            segment: self.active.name.number,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
        })
    }

    /// Adds an outcome to the buffer, or drops it if the disk is full to the last byte: the
    /// attempt is then made again after a crash.
    pub(super) fn push_outcome(
        &mut self,
        outcome: &Outcome,
        began: &mut Vec<Segment>,
    ) -> Result<(), Error> {
        if !self.has_room(OUTCOME_BYTES) {
            if self.spare.is_none() {
                self.spare = self.files.create_spare_if_room()?;
            }
            let Some(spare) = self.spare.take() else {
                tracing::warn!("the disk is full: an outcome is not recorded");
                return Ok(());
            };
            began.push(self.rotate(spare)?);
        }
        let place = self.active.place;
        place.encode_outcome(&mut self.buffer, self.active.end, outcome);
        Ok(())
    }

    /// Writes the buffer.
    pub(super) fn write(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        write_all(&*self.active.file, &self.buffer, self.active.end)
            .map_err(Error::io("write to the log"))?;
        self.active.end += self.buffer.len() as u64;
        self.dirty = true;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(())
    }

    /// Whether something written is not synced.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Makes everything written durable. An error is final: the kernel may have dropped the bytes.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.write()?;
        if self.dirty {
            self.active
                .file
                .sync_data()
                .map_err(Error::io("sync the log"))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Ends the log with the marker of a clean shutdown and gives unused space back.
    pub(super) fn close(mut self) -> Result<(), Error> {
        let place = self.active.place;
        place.encode(&mut self.buffer, self.active.end, &Record::Clean);
        self.write()?;
        let give_back = || self.active.file.set_len(self.active.end);
        give_back()
            .and_then(|()| self.active.file.sync_all())
            .map_err(Error::io("close the log"))
    }

    /// The marker of a clean shutdown always has room.
    fn has_room(&self, n_bytes: usize) -> bool {
        let end = self.active.end + (self.buffer.len() + n_bytes + CLEAN_BYTES) as u64;
        end <= self.files.segment_bytes
    }

    fn rotate(&mut self, spare: Spare) -> Result<Segment, Error> {
        self.sync()?;
        self.active = self.files.begin(spare, self.next_seq)?;
        Ok(self.active.clone())
    }
}

// === impl Files ===

impl Files {
    fn create_spare(&mut self) -> Result<Spare, Error> {
        let number = self.next_number;
        let file = self
            .storage
            .create(&spare_path(&self.dir, number), self.segment_bytes)
            .map_err(Error::io("allocate a segment"))?;
        self.next_number += 1;
        Ok(Spare { number, file })
    }

    fn create_spare_if_room(&mut self) -> Result<Option<Spare>, Error> {
        match self.create_spare() {
            Ok(spare) => Ok(Some(spare)),
            Err(error) if error.is_no_space() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the spare one a segment: header, name, and both durable.
    fn begin(&self, spare: Spare, first_seq: u64) -> Result<Segment, Error> {
        let Spare { number, file } = spare;
        let name = Name { first_seq, number };
        let begin = || {
            write_all(&*file, &name.header(self.journal), 0)?;
            file.sync_all()?;
            self.storage.rename(
                &spare_path(&self.dir, number),
                &self.dir.join(name.file_name(LIVE)),
            )?;
            self.storage.sync_dir(&self.dir)
        };
        begin().map_err(Error::io("begin a segment"))?;
        Ok(Segment {
            name,
            place: Place::new(self.journal, number),
            file,
            end: HEADER_BYTES as u64,
        })
    }
}

/// Files that are not segments yet; recovery removes them.
pub(super) const SPARE: &str = "spare";

fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08x}.{SPARE}"))
}
