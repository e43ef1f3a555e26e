//! What is told to the history, and the deliveries that it makes of it. Pure.

use std::sync::Arc;

use bytes::Bytes;
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::{DeliveryName, EventName, SubscriptionId, TenantId},
    time::Timestamp,
};
use hookfleet_proto::v1::{self, DeadLetterReason, delivery::State};

/// What a delivery is of. The same for all that is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose it is.
    pub tenant: TenantId,
    /// For whom.
    pub subscription: SubscriptionId,
    /// The event.
    pub webhook_id: WebhookId,
    /// The event's type.
    pub event_type: Arc<str>,
    /// The delivery that it repeats.
    pub redelivery_of: Option<DeliveryId>,
}

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Waits for an attempt.
    Pending {
        /// When it is due.
        next: Timestamp,
    },
    /// The receiver took it.
    Succeeded,
    /// Given up.
    DeadLettered {
        /// Why.
        reason: DeadLetterReason,
        /// The encoded event, kept for redelivery.
        event: Bytes,
    },
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// An event was accepted.
    Event(EventRow),
    /// Something happened to a delivery.
    Delivery(DeliveryRow),
}

/// Where an event is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Whose it is.
    pub tenant: TenantId,
    /// What receivers know it by.
    pub webhook_id: WebhookId,
    /// When it was accepted.
    pub accept_time: Timestamp,
    /// Its number in the journal.
    pub seq: u64,
}

/// One thing that happened to a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryRow {
    /// It came into being. Says nothing of one that is known already.
    Accepted {
        /// Which.
        id: DeliveryId,
        /// When.
        accept_time: Timestamp,
        /// Of what.
        subject: Subject,
    },
    /// An attempt was made.
    Attempted {
        /// Which.
        id: DeliveryId,
        /// When it came into being.
        accept_time: Timestamp,
        /// Of what.
        subject: Subject,
        /// The attempt.
        attempt: v1::Attempt,
        /// Where it stands now.
        standing: Standing,
    },
    /// It stands elsewhere without an attempt.
    Settled {
        /// Which.
        id: DeliveryId,
        /// When it came into being.
        accept_time: Timestamp,
        /// Of what.
        subject: Subject,
        /// Where it stands now.
        standing: Standing,
        /// Since when.
        at: Timestamp,
    },
}

// === impl DeliveryRow ===

impl DeliveryRow {
    /// Which delivery, and when it came into being.
    pub(super) fn key(&self) -> (DeliveryId, Timestamp, &Subject) {
        match self {
            Self::Accepted {
                id,
                accept_time,
                subject,
            }
            | Self::Attempted {
                id,
                accept_time,
                subject,
                ..
            }
            | Self::Settled {
                id,
                accept_time,
                subject,
                ..
            } => (*id, *accept_time, subject),
        }
    }

    /// The delivery after this, given what is known of it before. `None` if nothing changes.
    pub(super) fn apply(&self, known: Option<v1::Delivery>) -> Option<v1::Delivery> {
        let (id, accept_time, subject) = self.key();
        let fresh = || subject.delivery(id, accept_time);
        match self {
            Self::Accepted { .. } => known.is_none().then(fresh),
            Self::Attempted {
                attempt, standing, ..
            } => {
                let mut delivery = known.unwrap_or_else(fresh);
                let ended = attempt
                    .start_time
                    .map(Timestamp::from)
                    .unwrap_or(accept_time)
                    + std::time::Duration::from_millis(
                        u64::try_from(attempt.duration_millis).unwrap_or(0),
                    );
                delivery.attempt_count = delivery.attempt_count.max(attempt.number);
                delivery.last_attempt = Some(attempt.clone());
                standing.put(ended, &mut delivery);
                Some(delivery)
            }
            Self::Settled { standing, at, .. } => {
                let mut delivery = known.unwrap_or_else(fresh);
                standing.put(*at, &mut delivery);
                Some(delivery)
            }
        }
    }
}

// === impl Subject ===

impl Subject {
    fn delivery(&self, id: DeliveryId, accept_time: Timestamp) -> v1::Delivery {
        let event = EventName {
            tenant: self.tenant.clone(),
            event: self.webhook_id,
        };
        let repeated = self.redelivery_of.map(|it| self.name(it).to_string());
        v1::Delivery {
            name: self.name(id).to_string(),
            event: event.to_string(),
            event_type: self.event_type.to_string(),
            state: State::Pending.into(),
            accept_time: Some(accept_time.into()),
            next_attempt_time: Some(accept_time.into()),
            redelivery_of: repeated.unwrap_or_default(),
            ..v1::Delivery::default()
        }
    }

    fn name(&self, delivery: DeliveryId) -> DeliveryName {
        DeliveryName {
            tenant: self.tenant.clone(),
            subscription: self.subscription.clone(),
            delivery,
        }
    }
}

// === impl Standing ===

impl Standing {
    fn put(&self, at: Timestamp, delivery: &mut v1::Delivery) {
        delivery.next_attempt_time = None;
        delivery.settle_time = None;
        delivery.set_dead_letter_reason(DeadLetterReason::Unspecified);
        match self {
            Self::Pending { next } => {
                delivery.set_state(State::Pending);
                delivery.next_attempt_time = Some((*next).into());
            }
            Self::Succeeded => {
                delivery.set_state(State::Succeeded);
                delivery.settle_time = Some(at.into());
            }
            Self::DeadLettered { reason, .. } => {
                delivery.set_state(State::DeadLettered);
                delivery.settle_time = Some(at.into());
                delivery.set_dead_letter_reason(*reason);
            }
        }
    }
}
