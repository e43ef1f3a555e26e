//! What became of events: deliveries, attempts, dead letters. A record for people and programs to
//! ask; nothing is decided by it. It lags behind what happens by a batch.
//!
//! **Invariant:** telling it something never blocks and never fails; what cannot be written is an
//! ERROR in the log and a gap here, not a lost delivery.

mod bucket;
mod query;
mod row;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use fjall::Database;
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::{DeliveryName, SubscriptionScope, TenantId},
    time::Timestamp,
};
use hookfleet_proto::v1;
use prost::Message as _;
use tokio::sync::oneshot;

pub use query::{Cursor, Wanted};
pub use row::{DeliveryRow, EventRow, Row, Standing, Subject};

use crate::journal::Outcome;
use bucket::{
    Bucket, Day, attempt_key, dead_key, delivery_key, delivery_of, event_key, tenant_prefix,
};
use writer::{Told, Writer};

/// How long days are kept. The longest delivery takes seven days.
const RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// The most deliveries that one page looks at; it may be shorter than asked for.
const MAX_EXAMINED: usize = 20_000;

/// A cheap handle to the history.
#[derive(Clone)]
pub struct History {
    buckets: Arc<Buckets>,
    told: mpsc::Sender<Told>,
    backlog: Arc<AtomicUsize>,
    healthy: Arc<AtomicBool>,
}

/// The history cannot be read or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The embedded database failed.
    #[error("the database of the history failed")]
    Database(#[from] fjall::Error),
    /// What was read is not what was written.
    #[error("the history is damaged")]
    Damaged(#[from] prost::DecodeError),
    /// The writer's thread could not start.
    #[error("cannot start the thread of the history")]
    Thread(#[from] std::io::Error),
}

/// The days that are open.
struct Buckets {
    database: Database,
    open: RwLock<BTreeMap<Day, Bucket>>,
}

// === impl History ===

impl History {
    /// Opens the history and drops the days that are over. `settle` is called with the outcome of each
    /// row once the row is written, and of a dead letter once it is on stable storage.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(
        database: Database,
        now: Timestamp,
        settle: impl Fn(Outcome) + Send + 'static,
    ) -> Result<Self, Error> {
        let buckets = Arc::new(Buckets {
            open: RwLock::default(),
            database: database.clone(),
        });
        for day in Day::all(&database) {
            buckets.open(day)?;
        }
        buckets.expire(now)?;
        let (told, receiver) = mpsc::channel();
        let backlog = Arc::<AtomicUsize>::default();
        let healthy = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            database,
            buckets: Arc::clone(&buckets),
            told: receiver,
            backlog: Arc::clone(&backlog),
            healthy: Arc::clone(&healthy),
            settle: Box::new(settle),
        };
        thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            buckets,
            told,
            backlog,
            healthy,
        })
    }

    /// Tells it something, and what the log is to learn once it is written.
    pub fn record(&self, row: Row, outcome: Option<Outcome>) {
        self.backlog.fetch_add(1, Ordering::Relaxed);
        self.tell(Told::Row(Box::new(row), outcome));
    }

    /// How many rows wait to be written.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Whether what was told last could be written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Resolves when everything told before that could be written is on stable storage.
    pub async fn flush(&self) {
        let (flushed, done) = oneshot::channel();
        self.tell(Told::Flush(flushed));
        if done.await.is_err() {
            tracing::error!("the history could not be flushed");
        }
    }

    /// Drops the days that are over.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn expire(&self, now: Timestamp) -> Result<(), Error> {
        self.buckets.expire(now)
    }

    /// One delivery. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delivery(&self, name: &DeliveryName) -> Result<Option<v1::Delivery>, Error> {
        let key = delivery_key(&name.tenant, name.delivery);
        for bucket in self.buckets.newest_first() {
            if let Some(bytes) = bucket.deliveries.get(&key)? {
                let delivery = v1::Delivery::decode(&*bytes)?;
                return Ok((delivery.name == name.to_string()).then_some(delivery));
            }
        }
        Ok(None)
    }

    /// A page of deliveries, newest first, and where the next one begins. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn deliveries(
        &self,
        scope: &SubscriptionScope,
        wanted: &Wanted,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<v1::Delivery>, Option<Cursor>), Error> {
        self.page(scope, wanted, after, limit, MAX_EXAMINED)
    }

    /// Looks at `max_examined` deliveries at most.
    fn page(
        &self,
        scope: &SubscriptionScope,
        wanted: &Wanted,
        after: Option<Cursor>,
        limit: usize,
        max_examined: usize,
    ) -> Result<(Vec<v1::Delivery>, Option<Cursor>), Error> {
        let prefix = tenant_prefix(&scope.tenant);
        let end = [prefix.as_slice(), &[0xFF; 13]].concat();
        let of_subscription = scope.subscription.as_ref().map(|_| format!("{scope}/"));
        let mut found = Vec::new();
        let mut n_examined = 0;
        for (day, bucket) in self.buckets.days_newest_first() {
            let start = match after {
                Some(cursor) if day.0 > cursor.day => continue,
                Some(cursor) if day.0 == cursor.day => {
                    // The first key after that of the cursor.
                    [delivery_key(&scope.tenant, cursor.after).as_slice(), &[0]].concat()
                }
                Some(_) | None => prefix.clone(),
            };
            for entry in bucket.deliveries.range(start..end.clone()) {
                let (key, value) = entry.into_inner()?;
                let delivery = v1::Delivery::decode(&*value)?;
                let is_in_scope = of_subscription
                    .as_ref()
                    .is_none_or(|it| delivery.name.starts_with(it));
                if is_in_scope && wanted.admits(&delivery) {
                    found.push(delivery);
                }
                n_examined += 1;
                if (found.len() == limit || n_examined == max_examined)
                    && let Some(after) = delivery_of(&key)
                {
                    return Ok((found, Some(Cursor { day: day.0, after })));
                }
            }
        }
        Ok((found, None))
    }

    /// The attempts of a delivery after number `after`, oldest first. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn attempts(&self, delivery: DeliveryId, after: i32) -> Result<Vec<v1::Attempt>, Error> {
        let range =
            attempt_key(delivery, after.saturating_add(1))..=attempt_key(delivery, i32::MAX);
        for bucket in self.buckets.newest_first() {
            let entries = bucket.attempts.range(range.clone()).map(|entry| {
                let value = entry.value()?;
                Ok(v1::Attempt::decode(&*value)?)
            });
            let attempts: Vec<v1::Attempt> = entries.collect::<Result<_, Error>>()?;
            if !attempts.is_empty() {
                return Ok(attempts);
            }
        }
        Ok(Vec::new())
    }

    /// An event's number in the journal. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn event(&self, tenant: &TenantId, event: WebhookId) -> Result<Option<u64>, Error> {
        let key = event_key(tenant, event);
        for bucket in self.buckets.newest_first() {
            if let Some(value) = bucket.events.get(&key)?
                && let Some(seq) = value.first_chunk::<8>()
            {
                return Ok(Some(u64::from_be_bytes(*seq)));
            }
        }
        Ok(None)
    }

    /// The encoded event of a dead letter. Blocks on the disk.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn dead_event(&self, delivery: DeliveryId) -> Result<Option<Bytes>, Error> {
        for bucket in self.buckets.newest_first() {
            if let Some(event) = bucket.dead.get(dead_key(delivery))? {
                return Ok((!event.is_empty()).then(|| Bytes::copy_from_slice(&event)));
            }
        }
        Ok(None)
    }

    fn tell(&self, told: Told) {
        if self.told.send(told).is_err() {
            tracing::error!("the thread of the history has ended");
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("backlog", &self.backlog())
            .finish_non_exhaustive()
    }
}

// === impl Buckets ===

impl Buckets {
    /// The bucket of a day, made if it is not there.
    fn open(&self, day: Day) -> Result<Bucket, Error> {
        let known = self
            .open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&day)
            .cloned();
        if let Some(bucket) = known {
            return Ok(bucket);
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let bucket = Bucket::open(&self.database, day)?;
        Ok(open.entry(day).or_insert(bucket).clone())
    }

    fn days_newest_first(&self) -> Vec<(Day, Bucket)> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.iter()
            .rev()
            .map(|(day, bucket)| (*day, bucket.clone()))
            .collect()
    }

    fn newest_first(&self) -> impl Iterator<Item = Bucket> + use<> {
        self.days_newest_first()
            .into_iter()
            .map(|(_, bucket)| bucket)
    }

    fn expire(&self, now: Timestamp) -> Result<(), Error> {
        let oldest = Day::of(Timestamp(
            now.since(Timestamp(0))
                .saturating_sub(RETENTION)
                .as_millis()
                .try_into()
                .unwrap_or(0),
        ));
        // Held to the end, so that a day is not opened again while it is half gone.
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let kept = open.split_off(&oldest);
        for bucket in std::mem::replace(&mut *open, kept).into_values() {
            bucket.delete(&self.database)?;
        }
        Ok(())
    }
}
