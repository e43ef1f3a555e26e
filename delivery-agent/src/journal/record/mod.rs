//! The bytes of one record. Pure: no file, no clock.
//!
//! ```text
//! length u32 | crc32c u32 | "HFJ" kind u8 | body: `length` bytes | zeros up to a multiple of 8
//! ```
//!
//! Numbers are little-endian. The checksum covers everything but itself, and starts from the
//! journal's id, the segment's number and the record's offset.
//!
//! **Invariant:** a record validates only where it was written: a stale, moved, copied or truncated
//! one does not, nor do zeros, and nobody can make an event's content look like a record.

use std::ops::Range;

use bytes::{Buf as _, BufMut as _, Bytes, TryGetError};
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::TenantId,
    retry::Progress,
    time::Timestamp,
};
use hookfleet_proto::v1::DeadLetterReason;

use super::model::{NewEvent, Origin, Outcome, Standing, StoredEvent, Target};

#[cfg(test)]
mod tests;

/// Records start at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
const HEADER_BYTES: usize = 12;
const MAGIC: [u8; 3] = *b"HFJ";

const KIND_EVENT: u8 = 1;
const KIND_OUTCOME: u8 = 2;
const KIND_CLEAN: u8 = 3;

/// What a segment says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Event(StoredEvent),
    Outcome(Outcome),
    /// The journal was closed; nothing follows in this segment.
    Clean,
}

/// The segment that a record is in, as far as checksums are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    seed: u32,
}

/// The bytes are not a record that was written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

// === impl Place ===

impl Place {
    pub(super) fn new(journal: u128, number: u64) -> Self {
        let seed = crc32c::crc32c(&journal.to_le_bytes());
        Self {
            seed: crc32c::crc32c_append(seed, &number.to_le_bytes()),
        }
    }

    fn checksum(self, offset: u64, length: [u8; 4], rest: &[u8]) -> u32 {
        let checksum = crc32c::crc32c_append(self.seed, &offset.to_le_bytes());
        let checksum = crc32c::crc32c_append(checksum, &length);
        crc32c::crc32c_append(checksum, rest)
    }

    /// Appends a record to `buffer`, which begins at `buffer_offset` of the segment.
    pub(super) fn encode(self, buffer: &mut Vec<u8>, buffer_offset: u64, record: &Record) {
        match record {
            Record::Event(event) => self.encode_event(buffer, buffer_offset, event),
            Record::Outcome(outcome) => self.encode_outcome(buffer, buffer_offset, outcome),
            Record::Clean => self.frame(buffer, buffer_offset, KIND_CLEAN, |body| body.put_u8(1)),
        }
    }

    pub(super) fn encode_event(self, buffer: &mut Vec<u8>, offset: u64, event: &StoredEvent) {
        self.frame(buffer, offset, KIND_EVENT, |body| put_event(body, event));
    }

    pub(super) fn encode_outcome(self, buffer: &mut Vec<u8>, offset: u64, outcome: &Outcome) {
        self.frame(buffer, offset, KIND_OUTCOME, |body| {
            put_outcome(body, outcome)
        });
    }

    fn frame(
        self,
        buffer: &mut Vec<u8>,
        buffer_offset: u64,
        kind: u8,
        put: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = buffer.len();
        buffer.put_bytes(0, HEADER_BYTES);
        put(buffer);
        let length = buffer.len() - start - HEADER_BYTES;
        buffer.resize(start + padded(length), 0);
        let length = u32::try_from(length).unwrap_or_default().to_le_bytes();
        let (header, _) = buffer[start..].split_at_mut(HEADER_BYTES);
        header[..4].copy_from_slice(&length);
        header[8..11].copy_from_slice(&MAGIC);
        header[11] = kind;
        let checksum = self.checksum(buffer_offset + start as u64, length, &buffer[start + 8..]);
        buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The record at `at` of `bytes`, which is at `offset` of the segment; and its size.
    pub(super) fn decode(
        self,
        bytes: &Bytes,
        at: usize,
        offset: u64,
    ) -> Result<(Record, usize), Invalid> {
        let bytes_after = bytes.get(at..).unwrap_or_default();
        let Sized { kind, size, body } = measure(bytes_after)?;
        let record = bytes_after.get(..size).ok_or(Invalid)?;
        let (header, rest) = record.split_at(8);
        let (length, checksum) = header.split_at(4);
        let expected = self.checksum(offset, array(length)?, rest);
        if u32::from_le_bytes(array(checksum)?) != expected {
            return Err(Invalid);
        }
        let body = bytes.slice(at + body.start..at + body.end);
        let record = match kind {
            KIND_EVENT => Record::Event(get_event(body)?),
            KIND_OUTCOME => Record::Outcome(get_outcome(body)?),
            KIND_CLEAN => Record::Clean,
            _ => return Err(Invalid),
        };
        Ok((record, size))
    }
}

struct Sized {
    kind: u8,
    size: usize,
    body: Range<usize>,
}

fn measure(bytes: &[u8]) -> Result<Sized, Invalid> {
    let header = bytes.get(..HEADER_BYTES).ok_or(Invalid)?;
    let length = u32::from_le_bytes(array(&header[..4])?) as usize;
    if length == 0 || header[8..11] != MAGIC {
        return Err(Invalid);
    }
    Ok(Sized {
        kind: header[11],
        size: padded(length),
        body: HEADER_BYTES..HEADER_BYTES + length,
    })
}

/// How long the record is that begins with `bytes`, if it is one.
pub(super) fn size(bytes: &[u8]) -> Result<usize, Invalid> {
    measure(bytes).map(|it| it.size)
}

/// How long an event's record will be.
pub(super) fn event_size(event: &StoredEvent) -> usize {
    padded_event(&event.tenant, &event.targets, event.origin, &event.event)
}

/// How long the record of an event will be once it has a number.
pub(super) fn new_event_size(event: &NewEvent) -> usize {
    padded_event(&event.tenant, &event.targets, event.origin, &event.event)
}

fn padded_event(tenant: &TenantId, targets: &[Target], origin: Origin, event: &Bytes) -> usize {
    let origin = match origin {
        Origin::Published | Origin::Parked => 1,
        Origin::Redelivery(_) => 13,
        Origin::HandedOver(_) => 17,
    };
    let target = |it: &Target| 19 + it.subscription.as_str().len();
    let targets: usize = targets.iter().map(target).sum();
    padded(8 + 8 + 16 + origin + 1 + tenant.as_str().len() + 4 + targets + event.len())
}

/// How long an outcome's record is at most.
pub(super) const OUTCOME_BYTES: usize = padded(12 + 8 + 8 + 1 + 8);
/// How long the marker's record is.
pub(super) const CLEAN_BYTES: usize = padded(1);

const fn padded(length: usize) -> usize {
    (HEADER_BYTES + length).next_multiple_of(ALIGNMENT)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Invalid> {
    bytes.try_into().map_err(|_| Invalid)
}

// === bodies ===

const ORIGIN_PUBLISHED: u8 = 0;
const ORIGIN_REDELIVERY: u8 = 1;
const ORIGIN_PARKED: u8 = 2;
const ORIGIN_HANDED_OVER: u8 = 3;

/// Appends an event, without a frame.
pub(super) fn put_event(body: &mut Vec<u8>, event: &StoredEvent) {
    body.put_u64_le(event.seq);
    body.put_u64_le(event.accept_time.0);
    body.put_slice(&event.webhook_id.0);
    match event.origin {
        Origin::Published => body.put_u8(ORIGIN_PUBLISHED),
        Origin::Redelivery(delivery) => {
            body.put_u8(ORIGIN_REDELIVERY);
            put_delivery(body, delivery);
        }
        Origin::Parked => body.put_u8(ORIGIN_PARKED),
        Origin::HandedOver(name) => {
            body.put_u8(ORIGIN_HANDED_OVER);
            body.put_slice(&name);
        }
    }
    put_label(body, event.tenant.as_str());
    body.put_u32_le(event.n_targets());
    for target in &event.targets {
        body.put_slice(&target.uid);
        body.put_u16_le(target.partition);
        put_label(body, target.subscription.as_str());
    }
    body.put_slice(&event.event);
}

/// An event without a frame.
pub(super) fn get_event(mut body: Bytes) -> Result<StoredEvent, Invalid> {
    let seq = body.try_get_u64_le()?;
    let accept_time = Timestamp(body.try_get_u64_le()?);
    let webhook_id = WebhookId(get_array(&mut body)?);
    let origin = match body.try_get_u8()? {
        ORIGIN_PUBLISHED => Origin::Published,
        ORIGIN_REDELIVERY => Origin::Redelivery(get_delivery(&mut body)?),
        ORIGIN_PARKED => Origin::Parked,
        ORIGIN_HANDED_OVER => Origin::HandedOver(get_array(&mut body)?),
        _ => return Err(Invalid),
    };
    let tenant = get_label(&mut body)?;
    let n_targets = body.try_get_u32_le()? as usize;
    // A target takes at least 20 bytes: a wrong count must not reserve memory.
    let mut targets = Vec::with_capacity(n_targets.min(body.len() / 20));
    for _ in 0..n_targets {
        targets.push(Target {
            uid: get_array(&mut body)?,
            partition: body.try_get_u16_le()?,
            subscription: get_label(&mut body)?,
        });
    }
    Ok(StoredEvent {
        seq,
        tenant,
        webhook_id,
        accept_time,
        targets,
        origin,
        event: body,
        stands: Vec::new(),
    })
}

const STANDING_SUCCEEDED: u8 = 1;
const STANDING_DEAD_LETTERED: u8 = 2;
const STANDING_DEFERRED: u8 = 3;
const STANDING_HANDED_OVER: u8 = 4;

fn put_outcome(body: &mut Vec<u8>, outcome: &Outcome) {
    put_delivery(body, outcome.delivery);
    body.put_u32_le(outcome.progress.attempts);
    body.put_u32_le(outcome.progress.step);
    body.put_u64_le(outcome.at.0);
    match outcome.standing {
        Standing::Succeeded => body.put_u8(STANDING_SUCCEEDED),
        Standing::HandedOver => body.put_u8(STANDING_HANDED_OVER),
        Standing::DeadLettered(reason) => {
            body.put_u8(STANDING_DEAD_LETTERED);
            body.put_i32_le(reason.into());
        }
        Standing::Deferred { due } => {
            body.put_u8(STANDING_DEFERRED);
            body.put_u64_le(due.0);
        }
    }
}

fn get_outcome(mut body: Bytes) -> Result<Outcome, Invalid> {
    Ok(Outcome {
        delivery: get_delivery(&mut body)?,
        progress: Progress {
            attempts: body.try_get_u32_le()?,
            step: body.try_get_u32_le()?,
        },
        at: Timestamp(body.try_get_u64_le()?),
        standing: match body.try_get_u8()? {
            STANDING_SUCCEEDED => Standing::Succeeded,
            STANDING_HANDED_OVER => Standing::HandedOver,
            // A reason of a later version is still a dead letter.
            STANDING_DEAD_LETTERED => Standing::DeadLettered(
                DeadLetterReason::try_from(body.try_get_i32_le()?).unwrap_or_default(),
            ),
            STANDING_DEFERRED => Standing::Deferred {
                due: Timestamp(body.try_get_u64_le()?),
            },
            _ => return Err(Invalid),
        },
    })
}

fn put_delivery(body: &mut Vec<u8>, delivery: DeliveryId) {
    body.put_u64_le(delivery.seq);
    body.put_u32_le(delivery.target);
}

fn get_delivery(body: &mut Bytes) -> Result<DeliveryId, Invalid> {
    Ok(DeliveryId {
        seq: body.try_get_u64_le()?,
        target: body.try_get_u32_le()?,
    })
}

/// Names are labels of at most 63 bytes.
fn put_label(body: &mut Vec<u8>, label: &str) {
    body.put_u8(u8::try_from(label.len()).unwrap_or_default());
    body.put_slice(label.as_bytes());
}

fn get_label<T: std::str::FromStr>(body: &mut Bytes) -> Result<T, Invalid> {
    let length = usize::from(body.try_get_u8()?);
    if body.len() < length {
        return Err(Invalid);
    }
    let label = body.split_to(length);
    std::str::from_utf8(&label)
        .ok()
        .and_then(|label| label.parse().ok())
        .ok_or(Invalid)
}

fn get_array<const N: usize>(body: &mut Bytes) -> Result<[u8; N], Invalid> {
    let mut array = [0; N];
    body.try_copy_to_slice(&mut array)?;
    Ok(array)
}

impl From<TryGetError> for Invalid {
    fn from(_: TryGetError) -> Self {
        Self
    }
}
