//! Events that wait in this agent's journal to be sent on: for an owner that is out of reach, or, where order is promised,
//! until nobody else has earlier ones. To the core they are deliveries of one ordered subscription, [`PARKED`], with a
//! partition for each slot; so they are kept, tried again and counted as all others are.
//!
//! **Invariant:** of a slot that has events parked, no event with a partition key goes past them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hookfleet_contract::{
    name::SubscriptionId,
    retry::{Policy, Schedule},
    shard::Shard,
    slot::Slot,
};

use crate::{
    core::{Settings, Uid},
    journal::{self, Appended, Journal, NewEvent, Origin, PendingSummary, Target},
};

/// The subscription of events that are to be sent on. No other one has this uid: theirs are random.
pub const PARKED: Uid = *b"hookfleet parked";
/// Whose it is, as far as turns are concerned.
pub const TENANT: &str = "hookfleet-parked";
/// How soon an event that could not be sent on is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Slots are independent of each other.
const MAX_IN_FLIGHT: u32 = 256;

/// How many events are parked, by slot.
#[derive(Clone, Debug, Default)]
pub struct Parked(Arc<Mutex<HashMap<Slot, u64>>>);

// === impl Parked ===

impl Parked {
    /// What an earlier run left.
    #[must_use]
    pub fn recovered(pending: &[PendingSummary]) -> Self {
        let parked = pending.iter().filter(|it| it.queue.subscription == PARKED);
        let slots = parked.filter_map(|it| Some((slot_of(it.queue.partition)?, it.count)));
        Self(Arc::new(Mutex::new(slots.collect())))
    }

    /// Whether a slot has events parked.
    #[must_use]
    pub fn has(&self, slot: Slot) -> bool {
        self.counts().contains_key(&slot)
    }

    /// Appends events and counts those that are parked, before they are there, so that nothing slips past in between.
    ///
    /// # Errors
    /// What the journal says.
    ///
    /// # Cancel safety
    /// The counts are put right even if nobody waits for the answer any more.
    pub async fn append(
        &self,
        journal: &Journal,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Appended>, journal::Error> {
        if events.iter().all(|it| it.origin != Origin::Parked) {
            return journal.append_all(events).await;
        }
        let slots: Vec<Vec<Slot>> = events.iter().map(slots_of).collect();
        slots.iter().flatten().for_each(|slot| self.add(*slot));
        let (parked, journal) = (self.clone(), journal.clone());
        let appending = tokio::spawn(async move {
            let appended = journal.append_all(events).await;
            for (at, slots) in slots.iter().enumerate() {
                let is_new = appended.as_ref().is_ok_and(|it| !it[at].duplicate);
                if !is_new {
                    slots.iter().for_each(|slot| parked.remove(*slot));
                }
            }
            appended
        });
        appending.await.unwrap_or(Err(journal::Error::Stopped))
    }

    fn add(&self, slot: Slot) {
        *self.counts().entry(slot).or_default() += 1;
    }

    /// An event was sent on, or not parked after all.
    pub fn remove(&self, slot: Slot) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&slot) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&slot);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Slot, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event as it is parked: for its slots, whatever it matches.
#[must_use]
pub fn parked(event: NewEvent, slots: impl IntoIterator<Item = Slot>) -> NewEvent {
    let subscription: Option<SubscriptionId> = "parked".parse().ok();
    let targets = slots.into_iter().filter_map(|slot| {
        Some(Target {
            uid: PARKED,
            partition: slot.0 + 1,
            subscription: subscription.clone()?,
        })
    });
    NewEvent {
        origin: Origin::Parked,
        targets: targets.collect(),
        ..event
    }
}

/// What the core needs to know of parked events.
#[must_use]
pub fn settings() -> Option<Settings> {
    let schedule = Schedule::Exponential {
        initial: RETRY,
        multiplier: 1.0,
        max: RETRY,
        max_attempts: u32::MAX,
    };
    Some(Settings {
        shard: Shard::first(&TENANT.parse().ok()?),
        endpoint: "hookfleet:parked".into(),
        policy: Arc::new(Policy {
            schedule,
            // An event that was acknowledged is not given up, whoever is away for however long.
            ttl: Duration::from_secs(u64::from(u32::MAX)),
            ..Policy::default()
        }),
        max_in_flight: MAX_IN_FLIGHT,
        max_requests_per_second: None,
        suspended: false,
    })
}

/// The slots that an event is parked for.
fn slots_of(event: &NewEvent) -> Vec<Slot> {
    let targets = event.targets.iter().filter(|it| it.uid == PARKED);
    targets.filter_map(|it| slot_of(it.partition)).collect()
}

/// The slot for which something in this partition is parked.
#[must_use]
pub fn slot_of(partition: u16) -> Option<Slot> {
    partition.checked_sub(1).map(Slot)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt as _;
    use hookfleet_contract::id::WebhookId;
    use tokio::{
        sync::mpsc,
        task::yield_now,
        time::{Duration, timeout},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock::Clock;

    const SLOT: Slot = Slot(7);

    #[tokio::test]
    async fn a_publisher_that_goes_away_leaves_the_counts_right() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let database = fjall::Database::builder(dir.path().join("database")).open();
        let config = journal::Config {
            min_free_bytes: Some(0),
            ..journal::Config::new(
                dir.path().join("journal"),
                1,
                clock,
                CancellationToken::new(),
            )
        };
        let (accepted, _durable) = mpsc::channel(8);
        let (journal, _) = Journal::open(config, &database.unwrap(), accepted).unwrap();
        let event = || {
            let event = NewEvent {
                tenant: "acme".parse().unwrap(),
                webhook_id: WebhookId([1; 16]),
                accept_time: clock.now(),
                targets: Vec::new(),
                origin: Origin::Parked,
                stands: Vec::new(),
                event: Bytes::from_static(b"event"),
            };
            vec![parked(event, [SLOT])]
        };
        let counts = Parked::default();
        counts.append(&journal, event()).await.unwrap();
        assert!(counts.has(SLOT));
        counts.remove(SLOT);

        // The same again is a duplicate, and nobody waits to hear that.
        let heard = counts.append(&journal, event()).now_or_never();
        assert!(heard.is_none() && counts.has(SLOT));
        let settled = async {
            while counts.has(SLOT) {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), settled).await.unwrap();
    }
}
