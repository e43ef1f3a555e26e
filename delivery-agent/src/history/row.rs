//! What is kept of deliveries, and the deliveries that it makes. Pure.
//!
//! **Invariant:** a delivery is its subject and its rows in order; however they are spread over
//! blocks and days, the same rows make the same delivery.

use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::{DeliveryName, EventName, SubscriptionId, TenantId},
    time::Timestamp,
};
use hookfleet_proto::v1::{self, DeadLetterReason, delivery::State};
use prost::Message;

use crate::journal::{Outcome, Standing, StoredEvent, Target};

/// Deliveries of one event: what they have in common, for whom each is, and what became of them by
/// the time it was written.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Block {
    /// The halves of the event's id.
    #[prost(fixed64, tag = "1")]
    webhook_id_high: u64,
    #[prost(fixed64, tag = "2")]
    webhook_id_low: u64,
    #[prost(uint64, tag = "3")]
    accept_time: u64,
    #[prost(string, tag = "4")]
    event_type: String,
    #[prost(message, optional, tag = "5")]
    redelivery_of: Option<Redelivered>,
    /// One for each place.
    #[prost(string, repeated, tag = "6")]
    subscriptions: Vec<String>,
    /// By place, and for each oldest first.
    #[prost(message, repeated, tag = "7")]
    rows: Vec<Row>,
}

/// A delivery that is repeated.
#[derive(Clone, Copy, PartialEq, Message)]
struct Redelivered {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(uint32, tag = "2")]
    target: u32,
}

/// What became of a delivery once.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Row {
    /// Which delivery of its block; 0 if it stands alone.
    #[prost(uint32, tag = "1")]
    place: u32,
    /// The attempt that was made, if one was.
    #[prost(message, optional, tag = "2")]
    pub(super) attempt: Option<v1::Attempt>,
    #[prost(enumeration = "State", tag = "3")]
    state: i32,
    /// While pending, when the next attempt is due; else, since when it is settled.
    #[prost(uint64, tag = "4")]
    time: u64,
    #[prost(enumeration = "DeadLetterReason", tag = "5")]
    reason: i32,
}

/// Of a `CloudEvent`, its type alone: the payload is not copied.
#[derive(Clone, PartialEq, Message)]
struct Typed {
    #[prost(string, tag = "4")]
    r#type: String,
}

// === impl Block ===

impl Block {
    /// The deliveries of `event` to `targets`, with what became of each.
    pub(super) fn new(
        event: &StoredEvent,
        targets: &[Target],
        rows: impl IntoIterator<Item = Vec<Row>>,
    ) -> Self {
        let in_place = |(place, rows): (u32, Vec<Row>)| {
            let put = move |row| Row { place, ..row };
            rows.into_iter().map(put)
        };
        let (high, low) = event.webhook_id.0.split_at(8);
        Self {
            webhook_id_high: u64::from_be_bytes(high.try_into().unwrap_or_default()),
            webhook_id_low: u64::from_be_bytes(low.try_into().unwrap_or_default()),
            accept_time: event.accept_time.0,
            // What cannot be decoded has no type; that it cannot is the delivery's to say.
            event_type: Typed::decode(&*event.event).unwrap_or_default().r#type,
            redelivery_of: event.origin.redelivery_of().map(|it| Redelivered {
                seq: it.seq,
                target: it.target,
            }),
            subscriptions: targets
                .iter()
                .map(|it| it.subscription.as_str().to_owned())
                .collect(),
            rows: (0..).zip(rows).flat_map(in_place).collect(),
        }
    }

    pub(super) fn n_places(&self) -> u32 {
        u32::try_from(self.subscriptions.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn accept_time(&self) -> Timestamp {
        Timestamp(self.accept_time)
    }

    /// For whom the delivery at `place` is.
    pub(super) fn subscription(&self, place: u32) -> &str {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        self.subscriptions.get(place).map_or("", String::as_str)
    }

    /// What became of the delivery at `place`, oldest first.
    pub(super) fn rows(&self, place: u32) -> &[Row] {
        let start = self.rows.partition_point(|it| it.place < place);
        let end = self.rows.partition_point(|it| it.place <= place);
        &self.rows[start..end]
    }

    /// The delivery at `place` as it was accepted.
    pub(super) fn accepted(&self, tenant: &TenantId, id: DeliveryId, place: u32) -> v1::Delivery {
        let mut webhook_id = [0; 16];
        webhook_id[..8].copy_from_slice(&self.webhook_id_high.to_be_bytes());
        webhook_id[8..].copy_from_slice(&self.webhook_id_low.to_be_bytes());
        let event = EventName {
            tenant: tenant.clone(),
            event: WebhookId(webhook_id),
        };
        let name = |delivery| match self.subscription(place).parse::<SubscriptionId>() {
            Ok(subscription) => DeliveryName {
                tenant: tenant.clone(),
                subscription,
                delivery,
            }
            .to_string(),
            Err(_) => unreachable!("written from an id"),
        };
        let repeated = self.redelivery_of.map(|Redelivered { seq, target }| {
            let delivery = DeliveryId { seq, target };
            name(delivery)
        });
        v1::Delivery {
            name: name(id),
            event: event.to_string(),
            event_type: self.event_type.clone(),
            state: State::Pending.into(),
            accept_time: Some(self.accept_time().into()),
            next_attempt_time: Some(self.accept_time().into()),
            redelivery_of: repeated.unwrap_or_default(),
            ..v1::Delivery::default()
        }
    }
}

// === impl Row ===

impl Row {
    /// What an outcome says, with the attempt that led to it.
    pub(super) fn new(outcome: &Outcome, attempt: Option<v1::Attempt>) -> Self {
        let (state, time, reason) = match outcome.standing {
            Standing::Deferred { due } => (State::Pending, due, DeadLetterReason::Unspecified),
            Standing::Succeeded => (State::Succeeded, outcome.at, DeadLetterReason::Unspecified),
            Standing::DeadLettered(reason) => (State::DeadLettered, outcome.at, reason),
            Standing::HandedOver => (State::HandedOver, outcome.at, DeadLetterReason::Unspecified),
        };
        Self {
            place: 0,
            attempt,
            state: state.into(),
            time: time.0,
            reason: reason.into(),
        }
    }

    /// The delivery after this.
    pub(super) fn apply(&self, delivery: &mut v1::Delivery) {
        if let Some(attempt) = &self.attempt {
            delivery.attempt_count = delivery.attempt_count.max(attempt.number);
            delivery.last_attempt = Some(attempt.clone());
        }
        let time = Some(Timestamp(self.time).into());
        let is_pending = self.state() == State::Pending;
        delivery.state = self.state;
        delivery.next_attempt_time = time.filter(|_| is_pending);
        delivery.settle_time = time.filter(|_| !is_pending);
        delivery.dead_letter_reason = self.reason;
    }
}

/// The place of a row among those of its delivery: attempts as they count, and an end without an
/// attempt after all of them.
pub(super) fn number(outcome: &Outcome, attempt: Option<&v1::Attempt>) -> u32 {
    match attempt {
        Some(attempt) => u32::try_from(attempt.number).unwrap_or(0),
        None if outcome.standing.is_settled() => u32::MAX,
        None => outcome.progress.attempts.saturating_add(1),
    }
}
