//! Sends parked events on: one attempt, from the journal's event to what became of it.

use std::{collections::BTreeSet, time::Duration};

use hookfleet_contract::{
    event::Event,
    name::TenantName,
    response::Verdict,
    retry::{Jitter, Retry},
    slot::Slot,
};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{DeadLetterReason, FailureKind, PublishRequest, publish_result},
};
use prost::Message as _;
use tonic::Code;

use super::{Error, Relay, parking};
use crate::{
    callback::Completed,
    core::{Attempt, Finished},
    ingest::{Admitted, Ingest, Refused, broadcast},
    journal::StoredEvent,
    slots::{Everywhere, Owner},
};

/// Sends events on; cheap to clone.
#[derive(Clone, Debug)]
pub struct Courier {
    /// For those whose slot is ours by now.
    pub ingest: Ingest,
    /// For the others.
    pub relay: Relay,
}

// === impl Courier ===

impl Courier {
    /// Makes one attempt.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown whether the owner has the event; sending it again is safe.
    pub async fn carry(&self, attempt: Attempt) -> Completed {
        let verdict = match self.ingest.journal.read(attempt.delivery.seq) {
            Ok(Some(stored)) => self.send(&stored, attempt.delivery.target).await,
            Ok(None) => lost(&attempt),
            Err(error) => {
                tracing::error!(delivery = %attempt.delivery, %error, "cannot read a parked event");
                later()
            }
        };
        Completed {
            finished: Finished {
                delivery: attempt.delivery,
                verdict,
                status: None,
                // It says nothing about a receiver.
                attempted: false,
                duration: Duration::ZERO,
                destination: None,
                accept_time: self.ingest.clock.now(),
                expiry: None,
                jitter: Jitter::NONE,
                spread: 0.5,
            },
            record: None,
            event: None,
            is_parked: true,
        }
    }

    async fn send(&self, stored: &StoredEvent, target: u32) -> Verdict {
        let target = usize::try_from(target).ok();
        let target = target.and_then(|it| stored.targets.get(it));
        let Some(slot) = target.and_then(|it| parking::slot_of(it.partition)) else {
            return refused("it is for no slot");
        };
        let verdict = if broadcast::is_broadcast(&stored.tenant) {
            self.broadcast(stored, slot).await
        } else {
            self.publish(stored).await
        };
        if !matches!(verdict, Verdict::Retry(_)) {
            self.ingest.parked.remove(slot);
        }
        verdict
    }

    /// To its tenant.
    async fn publish(&self, stored: &StoredEvent) -> Verdict {
        let tenant = &stored.tenant;
        let Ok(event) = CloudEvent::decode(stored.event.clone()) else {
            return refused("it cannot be decoded");
        };
        let shard = self.ingest.shard(tenant, &event);
        match self.ingest.admit(&shard) {
            Err(_) => later(),
            Ok(Admitted::Here(admission)) if admission.has_previous() => later(),
            Ok(Admitted::Here(admission)) => {
                match self.ingest.unpark(&admission, &shard, event).await {
                    Ok(mut results) => match results.pop() {
                        Some(Err(violations)) => refused(&violations.to_string()),
                        Some(Ok(_)) | None => Verdict::Delivered,
                    },
                    Err(Refused::UnknownTenant(_)) => refused("its tenant is gone"),
                    Err(Refused::NoOwner(_) | Refused::Suspended(_) | Refused::Journal(_)) => {
                        later()
                    }
                }
            }
            Ok(Admitted::There(owner)) => {
                let parent = TenantName {
                    tenant: tenant.clone(),
                };
                self.forward(&owner, parent.to_string(), event, &BTreeSet::new())
                    .await
            }
        }
    }

    /// To all tenants of a slot.
    async fn broadcast(&self, stored: &StoredEvent, slot: Slot) -> Verdict {
        let Ok(event) = Event::decode(&stored.event) else {
            return refused("it cannot be decoded");
        };
        let slots = BTreeSet::from([slot]);
        let Some(everywhere) = self.ingest.slots.admit_everywhere(&self.ingest.agent_id) else {
            return later();
        };
        let Everywhere {
            admission,
            own,
            arriving,
            others,
            ..
        } = everywhere;
        if arriving.contains(&slot) {
            return later();
        }
        if own.contains(&slot) {
            let accepted = self.ingest.broadcast(&admission, &slots, &event).await;
            return accepted.map_or_else(|_| later(), |_| Verdict::Delivered);
        }
        drop(admission);
        match others.iter().find(|(_, theirs)| theirs.contains(&slot)) {
            Some((owner, _)) => {
                let parent = broadcast::PARENT.to_owned();
                self.forward(owner, parent, event.into_inner(), &slots)
                    .await
            }
            None => later(),
        }
    }

    async fn forward(
        &self,
        owner: &Owner,
        parent: String,
        event: CloudEvent,
        slots: &BTreeSet<Slot>,
    ) -> Verdict {
        let request = PublishRequest {
            parent,
            events: vec![event],
        };
        match self.relay.forward(owner, request, slots).await {
            Ok(mut answer) => match answer.results.pop().and_then(|it| it.result) {
                Some(publish_result::Result::Error(error)) => refused(&error.message),
                Some(publish_result::Result::Receipt(_)) => Verdict::Delivered,
                None => later(),
            },
            Err(Error::OutOfReach | Error::Unsettled) => later(),
            Err(Error::Refused(status)) if status.code() == Code::NotFound => {
                refused(status.message())
            }
            Err(Error::Refused(_)) => later(),
        }
    }
}

fn later() -> Verdict {
    Verdict::Retry(Retry {
        failure: FailureKind::Internal,
        minimum: Duration::ZERO,
        retry_after: None,
        throttled: true,
        pause_endpoint: false,
    })
}

fn refused(reason: &str) -> Verdict {
    tracing::warn!(reason, "a parked event is given up: its owner refuses it");
    Verdict::Reject(DeadLetterReason::SubscriptionEnded)
}

fn lost(attempt: &Attempt) -> Verdict {
    tracing::error!(delivery = %attempt.delivery, "a parked event is not in the journal");
    Verdict::Reject(DeadLetterReason::EventLost)
}
