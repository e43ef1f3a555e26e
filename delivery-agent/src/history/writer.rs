//! The thread that writes what is told, as much at once as has arrived.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
};

use fjall::{Database, PersistMode};
use hookfleet_contract::id::DeliveryId;
use hookfleet_proto::v1;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::journal::{self, Outcome};

use super::{
    Buckets, Error,
    bucket::{Day, attempt_key, dead_key, delivery_key, event_key},
    row::{DeliveryRow, Row, Standing},
};

/// The most rows of one batch.
const MAX_BATCH: usize = 4096;

#[derive(Debug)]
pub(super) enum Told {
    Row(Box<Row>, Option<Outcome>),
    /// Answers when everything before is on stable storage.
    Flush(oneshot::Sender<()>),
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) buckets: Arc<Buckets>,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) backlog: Arc<AtomicUsize>,
    pub(super) healthy: Arc<AtomicBool>,
    /// Tells the log what has become of a delivery.
    pub(super) settle: Box<dyn Fn(Outcome) + Send>,
}

impl Writer {
    pub(super) fn run(self) {
        while let Ok(first) = self.told.recv() {
            let (mut rows, mut outcomes, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
            for told in std::iter::once(first)
                .chain(self.told.try_iter())
                .take(MAX_BATCH)
            {
                match told {
                    Told::Row(row, outcome) => {
                        rows.push(*row);
                        outcomes.extend(outcome);
                    }
                    Told::Flush(flush) => flushes.push(flush),
                }
            }
            let is_dead = |it: &Outcome| matches!(it.standing, journal::Standing::DeadLettered(_));
            let written = self.write(&rows).and_then(|()| {
                if outcomes.iter().any(is_dead) {
                    self.database.persist(PersistMode::SyncAll)?;
                }
                Ok(())
            });
            self.note(&written, rows.len());
            if written.is_err() {
                // A dead letter that cannot be kept is not one yet: the next start finds it pending.
                outcomes.retain(|it| !is_dead(it));
            }
            outcomes.into_iter().for_each(&self.settle);
            self.backlog.fetch_sub(rows.len(), Ordering::Relaxed);
            if !flushes.is_empty() {
                match self.database.persist(PersistMode::SyncAll) {
                    Ok(()) => {
                        for flush in flushes {
                            // Whoever asked may have gone.
                            let _gone = flush.send(());
                        }
                    }
                    // Whoever waits is told by the channel's end.
                    Err(error) => tracing::error!(%error, "cannot flush the history"),
                }
            }
        }
    }

    /// Says once that the history has a gap, however long it gets.
    fn note(&self, written: &Result<(), Error>, n_rows: usize) {
        if n_rows == 0 {
            // A flush on its own says nothing of the disk's health.
            return;
        }
        let was_healthy = self.healthy.swap(written.is_ok(), Ordering::Relaxed);
        match written {
            Err(error) if was_healthy => {
                tracing::error!(%error, n_rows, "the history has a gap");
            }
            Err(error) => tracing::debug!(%error, n_rows, "the gap of the history grows"),
            Ok(()) if !was_healthy => tracing::warn!("the history is written again"),
            Ok(()) => {}
        }
    }

    fn write(&self, rows: &[Row]) -> Result<(), Error> {
        let mut batch = self.database.batch();
        // Rows of one delivery often come in one batch, where the disk does not know of them yet.
        let mut known: HashMap<DeliveryId, v1::Delivery> = HashMap::new();
        for row in rows {
            let row = match row {
                Row::Delivery(row) => row,
                Row::Event(row) => {
                    let bucket = self.buckets.open(Day::of(row.accept_time))?;
                    let key = event_key(&row.tenant, row.webhook_id);
                    batch.insert(&bucket.events, key, row.seq.to_be_bytes());
                    continue;
                }
            };
            let (id, accept_time, subject) = row.key();
            let bucket = self.buckets.open(Day::of(accept_time))?;
            let key = delivery_key(&subject.tenant, id);
            let before = match known.remove(&id) {
                Some(delivery) => Some(delivery),
                None => match bucket.deliveries.get(&key)? {
                    Some(bytes) => v1::Delivery::decode(&*bytes).ok(),
                    None => None,
                },
            };
            let is_new = before.is_none();
            let Some(delivery) = row.apply(before.clone()) else {
                known.extend(before.map(|it| (id, it)));
                continue;
            };
            batch.insert(&bucket.deliveries, key, delivery.encode_to_vec());
            known.insert(id, delivery);
            // A redelivery is not where its event is found.
            if is_new && subject.redelivery_of.is_none() {
                let key = event_key(&subject.tenant, subject.webhook_id);
                batch.insert(&bucket.events, key, id.seq.to_be_bytes());
            }
            if let DeliveryRow::Attempted { attempt, .. } = row {
                let key = attempt_key(id, attempt.number);
                batch.insert(&bucket.attempts, key, attempt.encode_to_vec());
            }
            if let DeliveryRow::Attempted { standing, .. } | DeliveryRow::Settled { standing, .. } =
                row
                && let Standing::DeadLettered { event, .. } = standing
            {
                batch.insert(&bucket.dead, dead_key(id), event.as_ref());
            }
        }
        batch.commit()?;
        Ok(())
    }
}
