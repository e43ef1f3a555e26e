//! Sends parked events on: one attempt, from the journal's event to what became of it.

use std::time::Duration;

use hookfleet_contract::{
    name::TenantName,
    response::Verdict,
    retry::{Jitter, Retry},
};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{DeadLetterReason, FailureKind, PublishRequest, publish_result},
};
use prost::Message as _;
use tonic::Code;

use super::{Error, Relay};
use crate::{
    callback::Completed,
    core::{Attempt, Finished},
    ingest::{Admitted, Ingest, Refused},
    journal::StoredEvent,
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
            Ok(Some(stored)) => self.send(&stored).await,
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

    async fn send(&self, stored: &StoredEvent) -> Verdict {
        let tenant = &stored.tenant;
        let Ok(event) = CloudEvent::decode(stored.event.clone()) else {
            return refused("it cannot be decoded");
        };
        let verdict = match self.ingest.admit(tenant) {
            Err(_) => later(),
            Ok(Admitted::Here(admission)) if admission.has_previous() => later(),
            Ok(Admitted::Here(admission)) => {
                match self.ingest.unpark(&admission, tenant, event).await {
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
                let request = PublishRequest {
                    parent: parent.to_string(),
                    events: vec![event],
                };
                match self.relay.forward(&owner, request).await {
                    Ok(mut answer) => match answer.results.pop().and_then(|it| it.result) {
                        Some(publish_result::Result::Error(error)) => refused(&error.message),
                        Some(publish_result::Result::Receipt(_)) => Verdict::Delivered,
                        None => later(),
                    },
                    Err(Error::OutOfReach) => later(),
                    Err(Error::Refused(status)) if status.code() == Code::NotFound => {
                        refused(status.message())
                    }
                    Err(Error::Refused(_)) => later(),
                }
            }
        };
        if !matches!(verdict, Verdict::Retry(_))
            && let Some(slot) = self.ingest.slots.slot(tenant)
        {
            self.ingest.parked.remove(slot, 1);
        }
        verdict
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
