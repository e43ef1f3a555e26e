//! Deliveries that another agent began, as this one's journal keeps them. Pure.

use hookfleet_contract::{
    id::WebhookId,
    retry::{LONGEST_PAUSE, Progress},
    shard::{self, Shard},
    time::Timestamp,
};
use hookfleet_proto::fleet::{HandedDelivery, HandedEvent};

use crate::journal::{NewEvent, Origin, Stand, Target};

/// An event with what is left of it, as it is taken at `now`, or what of it is not as it must be.
///
/// # Errors
/// The name of the field.
pub fn taken(event: HandedEvent, now: Timestamp) -> Result<NewEvent, &'static str> {
    let HandedEvent {
        handover_id,
        tenant,
        webhook_id,
        accept_time,
        event,
        deliveries,
    } = event;
    let bytes = |bytes: Vec<u8>| <[u8; 16]>::try_from(bytes);
    let stands = deliveries.iter().map(|it| stand(it, now));
    Ok(NewEvent {
        tenant: tenant.parse().map_err(|_| "tenant")?,
        webhook_id: WebhookId(bytes(webhook_id).map_err(|_| "webhook_id")?),
        accept_time: accept_time.ok_or("accept_time")?.into(),
        targets: deliveries.iter().map(target).collect::<Result<_, _>>()?,
        origin: Origin::HandedOver(bytes(handover_id).map_err(|_| "handover_id")?),
        event: event.into(),
        stands: stands.collect::<Result<_, _>>()?,
    })
}

/// The shard that all deliveries of an event are in.
#[must_use]
pub fn shard(event: &NewEvent) -> Shard {
    let number = event.targets.first().map(|it| shard::original(it.uid).1);
    Shard {
        tenant: event.tenant.clone(),
        number: number.unwrap_or(0),
    }
}

fn target(delivery: &HandedDelivery) -> Result<Target, &'static str> {
    let uid = delivery.subscription_uid.as_slice();
    Ok(Target {
        uid: uid.try_into().map_err(|_| "subscription_uid")?,
        partition: u16::try_from(delivery.partition).map_err(|_| "partition")?,
        subscription: delivery.subscription.parse().map_err(|_| "subscription")?,
    })
}

fn stand(delivery: &HandedDelivery, now: Timestamp) -> Result<Stand, &'static str> {
    let due = Timestamp::from(delivery.due_time.ok_or("due_time")?);
    // What no schedule gives is of a clock that is ahead: nobody knows how long it has waited.
    let is_believable = due.since(now) <= LONGEST_PAUSE;
    Ok(Stand {
        progress: Progress {
            attempts: u32::try_from(delivery.attempt_count).map_err(|_| "attempt_count")?,
            step: u32::try_from(delivery.step).map_err(|_| "step")?,
        },
        due: if is_believable { due } else { now },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn what_a_clock_that_is_years_ahead_says_is_due_at_once() {
        let due = |due: Timestamp| {
            let delivery = HandedDelivery {
                due_time: Some(due.into()),
                ..HandedDelivery::default()
            };
            stand(&delivery, NOW).unwrap().due
        };
        for believable in [Timestamp(0), NOW, NOW + LONGEST_PAUSE] {
            assert_eq!(due(believable), believable);
        }
        let years = Duration::from_secs(10 * 365 * 86_400);
        for unbelievable in [NOW + LONGEST_PAUSE + Duration::from_millis(1), NOW + years] {
            assert_eq!(due(unbelievable), NOW);
        }
    }
}
