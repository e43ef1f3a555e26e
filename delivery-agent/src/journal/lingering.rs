//! Unsettled deliveries whose segment is not live any more, and the events of those whose segment
//! is gone.
//!
//! **Invariants:** what is durable here is synced before the segment that it is from is retired or
//! unlinked; later changes wait in memory while the outcomes that made them are in live segments.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use hookfleet_contract::{id::DeliveryId, retry::Progress, time::Timestamp};

use super::{
    Error,
    model::{Outcome, Standing, StoredEvent},
    record,
    runs::{RUN, Runs},
    table::Pending,
};
use crate::core::{QueueId, Uid};

const KEY_BYTES: usize = 12;
const VALUE_BYTES: usize = 38;

type Key = [u8; KEY_BYTES];
type Value = [u8; VALUE_BYTES];

/// The two keyspaces.
pub(super) struct Lingering {
    database: Database,
    deliveries: Runs<KEY_BYTES, VALUE_BYTES>,
    kept: Kept,
    /// Whether events were put or removed since the last sync.
    is_dirty: bool,
}

/// What readers see of it; cheap to clone.
#[derive(Clone)]
pub(super) struct Kept {
    events: Keyspace,
    n_deliveries: Arc<AtomicU64>,
}

// === impl Lingering ===

impl Lingering {
    /// Opens the keyspaces and forgets deliveries from `first_live_seq` on: they are in the log.
    pub(super) fn open(database: &Database, first_live_seq: u64) -> Result<Self, Error> {
        // Nearly all that are looked for are there.
        let hits = || KeyspaceCreateOptions::default().expect_point_read_hits(true);
        let large = || hits().with_kv_separation(Some(KvSeparationOptions::default()));
        let mut deliveries = Runs::new(database.keyspace("journal-lingering", hits)?);
        let live: Result<Vec<_>, _> = deliveries.range(key_of(first_live_seq, 0), LAST).collect();
        for (key, _) in live? {
            deliveries.remove(key);
        }
        Ok(Self {
            database: database.clone(),
            deliveries,
            kept: Kept {
                events: database.keyspace("journal-lingering-events", large)?,
                n_deliveries: Arc::default(),
            },
            is_dirty: false,
        })
    }

    pub(super) fn kept(&self) -> Kept {
        self.kept.clone()
    }

    /// Takes over deliveries; durable after [`Lingering::sync`].
    pub(super) fn keep(&mut self, pending: impl Iterator<Item = Pending>) -> Result<(), Error> {
        for it in pending {
            self.kept.n_deliveries.fetch_add(1, Ordering::Relaxed);
            self.deliveries.insert(key(it.delivery), encode(&it));
            self.write_if_large()?;
        }
        Ok(())
    }

    /// Takes over an event whose segment will go; durable after [`Lingering::sync`].
    pub(super) fn keep_event(&mut self, event: &StoredEvent) -> Result<(), Error> {
        let mut body = Vec::with_capacity(record::event_size(event));
        record::put_event(&mut body, event);
        self.kept.events.insert(event.seq.to_be_bytes(), body)?;
        self.is_dirty = true;
        Ok(())
    }

    /// Applies what became of a delivery; one that is not here was settled before.
    pub(super) fn apply(&mut self, outcome: &Outcome) -> Result<(), Error> {
        let key = key(outcome.delivery);
        let Some(value) = self.deliveries.get(key)? else {
            return Ok(());
        };
        let pending = decode(outcome.delivery, value);
        match outcome.standing {
            Standing::Deferred { due } => {
                // Recovery may bring outcomes that are here already, and newer ones.
                if pending.progress.attempts <= outcome.progress.attempts {
                    let pending = Pending {
                        progress: outcome.progress,
                        due,
                        ..pending
                    };
                    self.deliveries.update(key, encode(&pending));
                }
            }
            Standing::Succeeded | Standing::DeadLettered(_) | Standing::HandedOver => {
                self.deliveries.remove(key);
                self.kept.n_deliveries.fetch_sub(1, Ordering::Relaxed);
                self.forget_event(outcome.delivery.seq)?;
            }
        }
        self.write_if_large()
    }

    /// Forgets an event if it was kept and none of its deliveries is left.
    fn forget_event(&mut self, seq: u64) -> Result<(), Error> {
        let events = &self.kept.events;
        if events.contains_key(seq.to_be_bytes())? && self.pending(seq..=seq).next().is_none() {
            events.remove(seq.to_be_bytes())?;
            self.is_dirty = true;
        }
        Ok(())
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        // An event outlives its deliveries: the other way round it would never be forgotten.
        if self.is_dirty {
            self.database.persist(PersistMode::SyncAll)?;
            self.is_dirty = false;
        }
        self.deliveries.write()
    }

    fn write_if_large(&mut self) -> Result<(), Error> {
        match self.deliveries.n_fresh() < RUN {
            true => Ok(()),
            false => self.sync(),
        }
    }

    /// The deliveries of some events, in order.
    pub(super) fn pending(
        &self,
        seqs: RangeInclusive<u64>,
    ) -> impl Iterator<Item = Result<Pending, Error>> {
        let (first, last) = (key_of(*seqs.start(), 0), key_of(*seqs.end(), u32::MAX));
        self.deliveries.range(first, last).map(|entry| {
            let (key, value) = entry?;
            Ok(decode(decode_key(key), value))
        })
    }

    /// Counts the deliveries again; recovery goes through all of them anyway.
    pub(super) fn pending_counted(&self) -> impl Iterator<Item = Result<Pending, Error>> {
        self.kept.n_deliveries.store(0, Ordering::Relaxed);
        self.pending(0..=u64::MAX).inspect(|_| {
            self.kept.n_deliveries.fetch_add(1, Ordering::Relaxed);
        })
    }
}

// === impl Kept ===

impl Kept {
    pub(super) fn n_deliveries(&self) -> u64 {
        self.n_deliveries.load(Ordering::Relaxed)
    }

    pub(super) fn event(&self, seq: u64) -> Result<Option<StoredEvent>, Error> {
        let Some(body) = self.events.get(seq.to_be_bytes())? else {
            return Ok(None);
        };
        let event = record::get_event(Bytes::copy_from_slice(&body));
        event.map(Some).map_err(|_| Error::Corrupt { seq })
    }
}

const LAST: Key = [u8::MAX; KEY_BYTES];

fn key(delivery: DeliveryId) -> Key {
    key_of(delivery.seq, delivery.target)
}

fn key_of(seq: u64, target: u32) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&seq.to_be_bytes());
    key[8..].copy_from_slice(&target.to_be_bytes());
    key
}

fn decode_key(key: Key) -> DeliveryId {
    let u32_at = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| key[at + i]));
    DeliveryId {
        seq: u64::from(u32_at(0)) << 32 | u64::from(u32_at(4)),
        target: u32_at(8),
    }
}

fn encode(pending: &Pending) -> Value {
    let mut value = [0; VALUE_BYTES];
    value[..16].copy_from_slice(&pending.queue.subscription);
    value[16..20].copy_from_slice(&pending.progress.attempts.to_be_bytes());
    value[20..24].copy_from_slice(&pending.progress.step.to_be_bytes());
    value[24..32].copy_from_slice(&pending.due.0.to_be_bytes());
    value[32..36].copy_from_slice(&pending.bytes.to_be_bytes());
    value[36..].copy_from_slice(&pending.queue.partition.to_be_bytes());
    value
}

fn decode(delivery: DeliveryId, value: Value) -> Pending {
    let u32_at = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| value[at + i]));
    let mut subscription = Uid::default();
    subscription.copy_from_slice(&value[..16]);
    Pending {
        delivery,
        queue: QueueId {
            subscription,
            partition: u16::from_be_bytes([value[36], value[37]]),
        },
        bytes: u32_at(32),
        progress: Progress {
            attempts: u32_at(16),
            step: u32_at(20),
        },
        due: Timestamp(u64::from(u32_at(24)) << 32 | u64::from(u32_at(28))),
    }
}
