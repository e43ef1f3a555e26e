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
    journal::{NewEvent, Origin, PendingSummary, Target},
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

    /// So many events more are parked.
    pub fn add(&self, slot: Slot, n: u64) {
        if n > 0 {
            *self.counts().entry(slot).or_default() += n;
        }
    }

    /// So many events were sent on, or not parked after all.
    pub fn remove(&self, slot: Slot, n: u64) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&slot) {
            *count = count.saturating_sub(n);
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

/// The slot for which something in this partition is parked.
#[must_use]
pub fn slot_of(partition: u16) -> Option<Slot> {
    partition.checked_sub(1).map(Slot)
}
