//! The bytes of one segment: its name, its header, and a scan over its records. Pure.
//!
//! A segment is a file `seg-{first_seq}-{number}.log`, later `.retired`. Numbers are never used
//! again, so every opening of a journal writes under a number of its own: it is the epoch that
//! keeps records of an earlier life from validating.
//!
//! **Invariant:** a scan visits every record that validates, in order, whatever lies between them.

use std::ops::Range;

use bytes::Bytes;

use super::record::{ALIGNMENT, Place, Record};

/// Records start after this.
pub(super) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"hookfjrn";
const VERSION: u32 = 2;

pub(super) const LIVE: &str = "log";
pub(super) const RETIRED: &str = "retired";

/// Which segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// The number of its first event, or of the next event if it has none.
    pub(super) first_seq: u64,
    /// Which segment of the journal's life it is.
    pub(super) number: u64,
}

/// What a header says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Valid {
        journal: u128,
        name: Name,
    },
    /// Another version's; everything after the number may differ.
    Unknown {
        version: u32,
    },
    /// Not a header.
    Damaged,
}

/// What a scan found besides records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Where the last valid record ends.
    pub(super) end: u64,
    /// Bytes between valid records that are none.
    pub(super) gaps: Vec<Range<u64>>,
    /// Bytes after the last valid record that are not zero: a torn write, or damage.
    pub(super) tail: Option<Range<u64>>,
    /// The last record says that the journal was closed.
    pub(super) clean: bool,
}

impl Name {
    pub(super) fn file_name(self, extension: &str) -> String {
        let Self { first_seq, number } = self;
        format!("seg-{first_seq:016x}-{number:08x}.{extension}")
    }

    /// The segment and whether it is live, if the file is a segment.
    pub(super) fn parse(file_name: &str) -> Option<(Self, bool)> {
        let (stem, extension) = file_name.strip_prefix("seg-")?.split_once('.')?;
        let (first_seq, number) = stem.split_once('-')?;
        let name = Self {
            first_seq: u64::from_str_radix(first_seq, 16).ok()?,
            number: u64::from_str_radix(number, 16).ok()?,
        };
        match extension {
            LIVE => Some((name, true)),
            RETIRED => Some((name, false)),
            _ => None,
        }
    }

    pub(super) fn header(self, journal: u128) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..32].copy_from_slice(&journal.to_le_bytes());
        header[32..40].copy_from_slice(&self.number.to_le_bytes());
        header[40..48].copy_from_slice(&self.first_seq.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Self::Damaged;
        };
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let u64_at = |at: usize| u64::from(u32_at(at + 4)) << 32 | u64::from(u32_at(at));
        if header[..8] != MAGIC || crc32c::crc32c(&header[..60]) != u32_at(60) {
            return Self::Damaged;
        }
        match u32_at(8) {
            VERSION => Self::Valid {
                journal: u128::from(u64_at(24)) << 64 | u128::from(u64_at(16)),
                name: Name {
                    number: u64_at(32),
                    first_seq: u64_at(40),
                },
            },
            version => Self::Unknown { version },
        }
    }
}

/// Visits the records of a segment with their offsets.
pub(super) fn scan(place: Place, bytes: &Bytes, mut visit: impl FnMut(u64, Record)) -> Scanned {
    let mut scanned = Scanned {
        end: HEADER_BYTES as u64,
        ..Scanned::default()
    };
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        match place.decode(bytes, at, at as u64) {
            Ok((record, size)) => {
                if scanned.end != at as u64 {
                    scanned.gaps.push(scanned.end..at as u64);
                }
                scanned.clean = record == Record::Clean;
                visit(at as u64, record);
                at += size;
                scanned.end = at as u64;
            }
            Err(_) => at += ALIGNMENT,
        }
    }
    let tail = bytes.get(index(scanned.end)..).unwrap_or_default();
    scanned.tail = tail
        .iter()
        .rposition(|&byte| byte != 0)
        .map(|last| scanned.end..scanned.end + last as u64 + 1);
    scanned
}

/// Segments are files that fit into memory while they are scanned.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
