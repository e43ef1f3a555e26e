//! Unsettled deliveries whose segment is not live any more, and the events of those whose segment
//! is gone.
//!
//! **Invariants:** what the keeper puts here is synced before the segment is retired or unlinked;
//! later changes need no sync while the outcomes that made them are in live segments.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};
use hookfleet_contract::{id::DeliveryId, retry::Progress, time::Timestamp};

use super::{
    Error,
    model::{Outcome, Standing, StoredEvent},
    record,
    table::Pending,
};
use crate::core::Uid;

/// How many deliveries are written at once.
const BATCH: usize = 4096;

/// The two keyspaces.
pub(super) struct Lingering {
    database: Database,
    deliveries: Keyspace,
    events: Keyspace,
    n_deliveries: AtomicU64,
}

type Key = [u8; 12];
type Value = [u8; 32];

impl Lingering {
    /// Opens the keyspaces and forgets deliveries from `first_live_seq` on: they are in the log.
    pub(super) fn open(database: &Database, first_live_seq: u64) -> Result<Self, Error> {
        let large = || {
            KeyspaceCreateOptions::default()
                .with_kv_separation(Some(KvSeparationOptions::default()))
        };
        let lingering = Self {
            database: database.clone(),
            deliveries: database.keyspace("journal-lingering", KeyspaceCreateOptions::default)?,
            events: database.keyspace("journal-lingering-events", large)?,
            n_deliveries: AtomicU64::new(0),
        };
        let mut batch = database.batch();
        for entry in lingering.deliveries.range(first_live_seq.to_be_bytes()..) {
            batch.remove(&lingering.deliveries, entry.key()?);
        }
        batch.commit()?;
        Ok(lingering)
    }

    pub(super) fn n_deliveries(&self) -> u64 {
        self.n_deliveries.load(Ordering::Relaxed)
    }

    /// Takes over deliveries, not synced.
    pub(super) fn keep(&self, pending: impl Iterator<Item = Pending>) -> Result<(), Error> {
        let mut batch = self.database.batch();
        for it in pending {
            self.n_deliveries.fetch_add(1, Ordering::Relaxed);
            batch.insert(&self.deliveries, key(it.delivery), encode(&it));
            if batch.len() == BATCH {
                batch.commit()?;
                batch = self.database.batch();
            }
        }
        batch.commit()?;
        Ok(())
    }

    /// Takes over an event whose segment will go, not synced.
    pub(super) fn keep_event(&self, event: &StoredEvent) -> Result<(), Error> {
        let mut body = Vec::with_capacity(record::event_size(event));
        record::put_event(&mut body, event);
        self.events.insert(event.seq.to_be_bytes(), body)?;
        Ok(())
    }

    /// Applies what became of a delivery; one that is not here was settled before.
    pub(super) fn apply(&self, outcome: &Outcome) -> Result<(), Error> {
        let key = key(outcome.delivery);
        let Some(value) = self.deliveries.get(key)? else {
            return Ok(());
        };
        let pending = decode(outcome.delivery, &value);
        match outcome.standing {
            Standing::Deferred { due } => {
                // Recovery may bring outcomes that are here already, and newer ones.
                if pending.progress.attempts <= outcome.progress.attempts {
                    let pending = Pending {
                        progress: outcome.progress,
                        due,
                        ..pending
                    };
                    self.deliveries.insert(key, encode(&pending))?;
                }
            }
            Standing::Succeeded | Standing::DeadLettered(_) => {
                self.deliveries.remove(key)?;
                let seq = outcome.delivery.seq.to_be_bytes();
                if self.deliveries.prefix(seq).next().is_none() && self.events.contains_key(seq)? {
                    self.events.remove(seq)?;
                }
                self.n_deliveries.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    pub(super) fn event(&self, seq: u64) -> Result<Option<StoredEvent>, Error> {
        let Some(body) = self.events.get(seq.to_be_bytes())? else {
            return Ok(None);
        };
        let event = record::get_event(Bytes::copy_from_slice(&body));
        event.map(Some).map_err(|_| Error::Corrupt { seq })
    }

    /// The deliveries of some events, in order.
    pub(super) fn pending(&self, seqs: Range<u64>) -> impl Iterator<Item = Result<Pending, Error>> {
        let range = seqs.start.to_be_bytes().to_vec()..seqs.end.to_be_bytes().to_vec();
        self.deliveries.range(range).filter_map(|entry| {
            let (key, value) = match entry.into_inner() {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            decode_key(&key).map(|delivery| Ok(decode(delivery, &value)))
        })
    }

    /// Counts the deliveries again; recovery goes through all of them anyway.
    pub(super) fn pending_counted(&self) -> impl Iterator<Item = Result<Pending, Error>> {
        self.n_deliveries.store(0, Ordering::Relaxed);
        self.pending(0..u64::MAX).inspect(|_| {
            self.n_deliveries.fetch_add(1, Ordering::Relaxed);
        })
    }
}

fn key(delivery: DeliveryId) -> Key {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&delivery.seq.to_be_bytes());
    key[8..].copy_from_slice(&delivery.target.to_be_bytes());
    key
}

fn decode_key(key: &[u8]) -> Option<DeliveryId> {
    let (seq, target) = key.split_first_chunk()?;
    Some(DeliveryId {
        seq: u64::from_be_bytes(*seq),
        target: u32::from_be_bytes(target.try_into().ok()?),
    })
}

fn encode(pending: &Pending) -> Value {
    let mut value = [0; 32];
    value[..16].copy_from_slice(&pending.subscription);
    value[16..20].copy_from_slice(&pending.progress.attempts.to_be_bytes());
    value[20..24].copy_from_slice(&pending.progress.step.to_be_bytes());
    value[24..].copy_from_slice(&pending.due.0.to_be_bytes());
    value
}

/// The database checks its own checksums: a value here is one that we wrote.
fn decode(delivery: DeliveryId, value: &[u8]) -> Pending {
    let mut bytes = [0; 32];
    let length = value.len().min(32);
    bytes[..length].copy_from_slice(&value[..length]);
    let u32_at = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
    let mut subscription = Uid::default();
    subscription.copy_from_slice(&bytes[..16]);
    Pending {
        delivery,
        subscription,
        progress: Progress {
            attempts: u32_at(16),
            step: u32_at(20),
        },
        due: Timestamp(u64::from(u32_at(24)) << 32 | u64::from(u32_at(28))),
    }
}
