//! What the journal keeps: events with their targets, and outcomes.

use bytes::Bytes;
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::{SubscriptionId, TenantId},
    retry::Progress,
    time::Timestamp,
};
use hookfleet_proto::v1::DeadLetterReason;

use crate::core::{QueueId, Uid};

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Whose it is.
    pub tenant: TenantId,
    /// What receivers know it by.
    pub webhook_id: WebhookId,
    /// When it was accepted.
    pub accept_time: Timestamp,
    /// The subscriptions it matched. May be empty: then only its webhook id is of use.
    pub targets: Vec<Target>,
    /// How it came here.
    pub origin: Origin,
    /// The encoded `CloudEvent`.
    pub event: Bytes,
    /// Where each of its deliveries stands, if it was handed over; else empty: at the beginning.
    pub stands: Vec<Stand>,
}

/// How an event came into this journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was published.
    Published,
    /// It repeats a delivery.
    Redelivery(DeliveryId),
    /// It was published for a slot that this agent does not own, or not alone: it waits to be sent on.
    Parked,
    /// Another agent had it before, and named the handover so.
    HandedOver([u8; 16]),
}

/// Where a delivery stands that was begun elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// In its schedule.
    pub progress: Progress,
    /// When it may be attempted.
    pub due: Timestamp,
}

/// One subscription that an event matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The subscription's uid, which is never used again.
    pub uid: Uid,
    /// [`hookfleet_contract::partition::UNORDERED`], or the partition that the event's key is in.
    pub partition: u16,
    /// Its id.
    pub subscription: SubscriptionId,
}

/// An event that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number: dense and increasing.
    pub seq: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// What receivers know it by.
    pub webhook_id: WebhookId,
    /// When it was accepted.
    pub accept_time: Timestamp,
    /// The subscriptions it matched.
    pub targets: Vec<Target>,
    /// How it came here.
    pub origin: Origin,
    /// The encoded `CloudEvent`.
    pub event: Bytes,
    /// Where each of its deliveries began, if it has just been handed over; else empty. Outcomes keep it.
    pub stands: Vec<Stand>,
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The event's number; of a duplicate, the first one's.
    pub seq: u64,
    /// How many subscriptions it matched; of a duplicate, the first one.
    pub n_targets: u32,
    /// It was appended before.
    pub duplicate: bool,
}

/// What became of a delivery, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Where it stands in its schedule.
    pub progress: Progress,
    /// What became of it.
    pub standing: Standing,
    /// When.
    pub at: Timestamp,
}

/// Where a delivery stands after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The receiver took it. Settled.
    Succeeded,
    /// Given up. Settled.
    DeadLettered(DeadLetterReason),
    /// Another agent goes on with it. Settled.
    HandedOver,
    /// It will be attempted again.
    Deferred {
        /// When.
        due: Timestamp,
    },
}

// === impl Origin ===

impl Origin {
    /// Within the window there is one event with this key. Redeliveries have none: each is new.
    pub(super) fn key(self, webhook_id: WebhookId) -> Option<WebhookId> {
        match self {
            Self::Published => Some(webhook_id),
            Self::Redelivery(_) => None,
            // What is parked comes again when it is sent on to ourselves.
            Self::Parked => Some(WebhookId(webhook_id.0.map(|byte| !byte))),
            Self::HandedOver(name) => Some(WebhookId(name)),
        }
    }

    /// The delivery that it repeats, if it does.
    #[must_use]
    pub fn redelivery_of(self) -> Option<DeliveryId> {
        match self {
            Self::Redelivery(delivery) => Some(delivery),
            Self::Published | Self::Parked | Self::HandedOver(_) => None,
        }
    }
}

/// Under which an event is found that was accepted elsewhere: what is published with its webhook id is no duplicate of it.
pub(super) fn elsewhere(webhook_id: WebhookId) -> WebhookId {
    WebhookId(webhook_id.0.map(|byte| byte ^ 0x55))
}

// === impl NewEvent ===

impl NewEvent {
    pub(super) fn key(&self) -> Option<WebhookId> {
        self.origin.key(self.webhook_id)
    }
}

// === impl StoredEvent ===

impl StoredEvent {
    /// The event as it is kept under `seq`.
    pub(super) fn new(seq: u64, new: NewEvent) -> Self {
        Self {
            seq,
            tenant: new.tenant,
            webhook_id: new.webhook_id,
            accept_time: new.accept_time,
            targets: new.targets,
            origin: new.origin,
            event: new.event,
            stands: new.stands,
        }
    }

    /// Its deliveries, one for each target.
    pub fn deliveries(&self) -> impl Iterator<Item = (DeliveryId, &Target)> {
        let id = |target| DeliveryId {
            seq: self.seq,
            target,
        };
        (0..).map(id).zip(&self.targets)
    }

    /// How large the event is.
    #[must_use]
    pub fn n_bytes(&self) -> u32 {
        u32::try_from(self.event.len()).unwrap_or(u32::MAX)
    }

    /// What a repeated one is a duplicate of, and where one is found that came from another agent.
    pub(super) fn keys(&self) -> [Option<WebhookId>; 2] {
        let is_handed_over = matches!(self.origin, Origin::HandedOver(_));
        [
            self.origin.key(self.webhook_id),
            is_handed_over.then(|| elsewhere(self.webhook_id)),
        ]
    }

    /// How many subscriptions it matched.
    #[must_use]
    pub fn n_targets(&self) -> u32 {
        u32::try_from(self.targets.len()).unwrap_or(u32::MAX)
    }
}

// === impl Target ===

impl Target {
    /// Where the delivery waits.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        QueueId {
            subscription: self.uid,
            partition: self.partition,
        }
    }
}

// === impl Standing ===

impl Standing {
    /// Whether the delivery is over.
    #[must_use]
    pub fn is_settled(self) -> bool {
        match self {
            Self::Succeeded | Self::DeadLettered(_) | Self::HandedOver => true,
            Self::Deferred { .. } => false,
        }
    }
}
