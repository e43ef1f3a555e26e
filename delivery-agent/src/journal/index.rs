//! Where events are found again: the recent ones in memory, the others by their place in a segment.
//! It changes nothing on the disk.
//!
//! **Invariants:** whatever is found was durable before it was put here; memory is bounded by bytes,
//! for events and for offsets of retired segments, which are read again when they are needed.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use hookfleet_contract::time::Timestamp;

use super::{
    Error, Stats,
    log::{Position, Segment},
    model::StoredEvent,
    record::{self, Place, Record},
    segment::{self, LIVE, Name},
    storage::{SegmentFile, read_full},
};

/// What is read of a record at first; most are smaller.
const FIRST_READ: usize = 4096;
/// Offsets of retired segments that stay in memory: enough for 8 million events.
const RETIRED_OFFSETS: usize = 8 << 20;
/// What an event costs in memory besides its content.
const EVENT_OVERHEAD: usize = 256;

/// The events of a journal.
#[derive(Debug)]
pub(super) struct Index {
    cache_bytes: usize,
    places: RwLock<Places>,
}

/// A segment as a place to read from.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    pub(super) place: Place,
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) live: bool,
    pub(super) bytes: u64,
    /// About when its last event was accepted, once it is retired.
    pub(super) newest: Timestamp,
    /// Offsets of its events from the first on; 0 is one that is damaged. Absent if not in memory.
    pub(super) offsets: Option<Vec<u32>>,
}

/// The oldest segment, which is retired.
#[derive(Debug)]
pub(super) struct Oldest {
    /// Without its offsets.
    pub(super) entry: Entry,
    /// The number of the first event after it.
    pub(super) end_seq: u64,
    /// The size of all retired segments.
    pub(super) retired_bytes: u64,
}

#[derive(Debug, Default)]
struct Places {
    recent: VecDeque<Arc<StoredEvent>>,
    recent_bytes: usize,
    /// In the order of their numbers and of their first events.
    segments: VecDeque<Entry>,
    next_seq: u64,
}

enum Found {
    Memory(Arc<StoredEvent>),
    Offset(Arc<dyn SegmentFile>, Place, u32),
    Segment(Entry),
    Nowhere,
}

// === impl Index ===

impl Index {
    pub(super) fn new(cache_bytes: usize, segments: VecDeque<Entry>, next_seq: u64) -> Self {
        Self {
            cache_bytes,
            places: RwLock::new(Places {
                segments,
                next_seq,
                ..Places::default()
            }),
        }
    }

    pub(super) fn began(&self, entries: impl IntoIterator<Item = Entry>) {
        self.write().segments.extend(entries);
    }

    /// Events have become durable.
    pub(super) fn publish(&self, events: &[(Position, Arc<StoredEvent>)]) {
        let mut places = self.write();
        for (position, event) in events {
            let entry = places.entry_mut(position.segment);
            if let Some(offsets) = entry.and_then(|it| it.offsets.as_mut()) {
                offsets.push(position.offset);
            }
            places.next_seq = event.seq + 1;
            places.recent_bytes += cost(event);
            places.recent.push_back(Arc::clone(event));
        }
        while places.recent_bytes > self.cache_bytes
            && let Some(event) = places.recent.pop_front()
        {
            places.recent_bytes -= cost(&event);
        }
    }

    pub(super) fn read(&self, seq: u64) -> Result<Option<Arc<StoredEvent>>, Error> {
        let found = self.read_lock().find(seq);
        match found {
            Found::Memory(event) => Ok(Some(event)),
            Found::Offset(file, place, offset) => fetch(&*file, place, offset, seq).map(Some),
            Found::Segment(entry) => {
                let offsets = entry.scan_offsets()?;
                let n_before = seq - entry.name.first_seq;
                let offset = usize::try_from(n_before).ok().and_then(|i| offsets.get(i));
                let event = match offset {
                    Some(&offset) => Some(fetch(&*entry.file, entry.place, offset, seq)?),
                    None => None,
                };
                self.write().remember(entry.name.number, offsets);
                Ok(event)
            }
            Found::Nowhere => Ok(None),
        }
    }

    /// The segment gets another name and will not be read by recovery.
    pub(super) fn retire(
        &self,
        number: u64,
        path: PathBuf,
        newest: Timestamp,
        rename: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let from = self.read_lock().entry(number).map(|it| it.path.clone());
        let Some(from) = from else {
            return Ok(());
        };
        rename(&from, &path)?;
        let mut places = self.write();
        if let Some(entry) = places.entry_mut(number) {
            entry.path = path;
            entry.live = false;
            entry.newest = newest;
        }
        places.trim(None);
        Ok(())
    }

    /// The oldest segment, if it is retired.
    pub(super) fn oldest_retired(&self) -> Option<Oldest> {
        let places = self.read_lock();
        let retired = places.segments.iter().take_while(|it| !it.live);
        let oldest = places.segments.front().filter(|it| !it.live)?;
        Some(Oldest {
            entry: Entry {
                offsets: None,
                ..oldest.clone()
            },
            end_seq: places.segments.get(1)?.name.first_seq,
            retired_bytes: retired.map(|it| it.bytes).sum(),
        })
    }

    /// Forgets the oldest segment.
    pub(super) fn remove_oldest(&self) {
        self.write().segments.pop_front();
    }

    pub(super) fn add_to(&self, stats: &mut Stats) {
        let places = self.read_lock();
        let n_live = places.segments.iter().filter(|it| it.live).count();
        stats.n_live_segments = n_live as u64;
        stats.n_retired_segments = (places.segments.len() - n_live) as u64;
        stats.segment_bytes = places.segments.iter().map(|it| it.bytes).sum();
        stats.next_seq = places.next_seq;
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Places ===

impl Places {
    fn find(&self, seq: u64) -> Found {
        if seq >= self.next_seq {
            return Found::Nowhere;
        }
        let in_memory = self
            .recent
            .front()
            .and_then(|first| seq.checked_sub(first.seq))
            .and_then(|i| self.recent.get(usize::try_from(i).ok()?));
        if let Some(event) = in_memory {
            return Found::Memory(Arc::clone(event));
        }
        let n_before = self.segments.partition_point(|it| it.name.first_seq <= seq);
        let Some(entry) = n_before.checked_sub(1).and_then(|i| self.segments.get(i)) else {
            return Found::Nowhere;
        };
        let Some(offsets) = &entry.offsets else {
            return Found::Segment(entry.clone());
        };
        let i = usize::try_from(seq - entry.name.first_seq).unwrap_or(usize::MAX);
        match offsets.get(i) {
            Some(&offset) => Found::Offset(Arc::clone(&entry.file), entry.place, offset),
            None => Found::Nowhere,
        }
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.segments.iter().rfind(|it| it.name.number == number)
    }

    fn entry_mut(&mut self, number: u64) -> Option<&mut Entry> {
        self.segments
            .iter_mut()
            .rfind(|it| it.name.number == number)
    }

    fn remember(&mut self, number: u64, offsets: Vec<u32>) {
        if let Some(entry) = self.entry_mut(number) {
            entry.offsets = Some(offsets);
            self.trim(Some(number));
        }
    }

    /// Forgets offsets of retired segments, the oldest first, but not those of `keep`.
    fn trim(&mut self, keep: Option<u64>) {
        let retired = || self.segments.iter().filter(|it| !it.live);
        let mut n_offsets: usize = retired()
            .filter_map(|it| Some(it.offsets.as_ref()?.len()))
            .sum();
        let others = self.segments.iter_mut();
        for entry in others.filter(|it| !it.live && Some(it.name.number) != keep) {
            if n_offsets <= RETIRED_OFFSETS {
                break;
            }
            n_offsets -= entry.offsets.take().map_or(0, |it| it.len());
        }
    }
}

// === impl Entry ===

impl Entry {
    /// A segment that has just begun.
    pub(super) fn live(segment: &Segment, dir: &Path, bytes: u64) -> Self {
        Self {
            name: segment.name,
            path: dir.join(segment.name.file_name(LIVE)),
            place: segment.place,
            file: Arc::clone(&segment.file),
            live: true,
            bytes,
            newest: Timestamp(u64::MAX),
            offsets: Some(Vec::new()),
        }
    }

    /// The whole file.
    pub(super) fn read_all(&self) -> Result<Bytes, Error> {
        let mut bytes = vec![0; segment::index(self.bytes)];
        let n_read = read_full(&*self.file, &mut bytes, 0).map_err(Error::io("read a segment"))?;
        bytes.truncate(n_read);
        Ok(bytes.into())
    }

    pub(super) fn scan_offsets(&self) -> Result<Vec<u32>, Error> {
        let mut offsets = Vec::new();
        segment::scan(self.place, &self.read_all()?, |offset, record| {
            if let Record::Event(event) = record {
                add_offset(&mut offsets, self.name.first_seq, event.seq, offset);
            }
        });
        Ok(offsets)
    }
}

/// Notes where event `seq` is; those before it that were not found are damaged.
pub(super) fn add_offset(offsets: &mut Vec<u32>, first_seq: u64, seq: u64, offset: u64) {
    let i = usize::try_from(seq.saturating_sub(first_seq)).unwrap_or(usize::MAX);
    offsets.resize(i, 0);
    offsets.push(u32::try_from(offset).unwrap_or_default());
}

fn fetch(
    file: &dyn SegmentFile,
    place: Place,
    offset: u32,
    seq: u64,
) -> Result<Arc<StoredEvent>, Error> {
    // At offset 0, which stands for a damaged event, there is no record.
    let corrupt = Error::Corrupt { seq };
    let offset = u64::from(offset);
    let read = |n_bytes| -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; n_bytes];
        let n_read = read_full(file, &mut bytes, offset).map_err(Error::io("read an event"))?;
        bytes.truncate(n_read);
        Ok(bytes)
    };
    let mut bytes = read(FIRST_READ)?;
    let size = record::size(&bytes).map_err(|_| corrupt.clone())?;
    if size > bytes.len() {
        bytes = read(size)?;
    }
    bytes.truncate(size);
    bytes.shrink_to_fit();
    match place.decode(&bytes.into(), 0, offset) {
        Ok((Record::Event(event), _)) if event.seq == seq => Ok(Arc::new(event)),
        Ok((Record::Event(_) | Record::Outcome(_) | Record::Clean, _)) | Err(_) => Err(corrupt),
    }
}

fn cost(event: &StoredEvent) -> usize {
    EVENT_OVERHEAD + record::event_size(event)
}
