//! Publishing to all tenants: here for the slots that are this agent's, and in one call per owner for the others.
//!
//! **Invariant:** it is acknowledged when every slot has it: accepted by its owner, or parked here.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hookfleet_contract::{event::Event, slot::Slot};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{self, PublishRequest, PublishResult, publish_result},
};
use tonic::Status;

use super::publisher::{Publisher, all, failure, refused};
use crate::{
    ingest::{
        OVERLOAD_PAUSE,
        broadcast::{PARENT, Reach},
    },
    relay,
    slots::{Everywhere, Owner},
};

/// How many owners are sent to at once: each has a copy of the request.
const MAX_OWNERS: usize = 4;

impl Publisher {
    /// Publishes events to all tenants.
    pub(super) async fn broadcast(
        &self,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, Status> {
        let everywhere = self.everywhere()?;
        let (good, mut results) = self.check(events);
        let owners = everywhere.others.iter();
        let owners = owners.map(|(owner, slots)| self.broadcast_there(owner, slots, &good));
        let owners = stream::iter(owners.collect::<Vec<_>>());
        let (mine, nobodys, theirs) = tokio::try_join!(
            self.broadcast_own(&everywhere, &everywhere.own, &good),
            self.park_all(&everywhere.nobodys, &good),
            owners.buffer_unordered(MAX_OWNERS).try_collect::<Vec<_>>(),
        )?;
        for part in theirs.into_iter().chain([mine, nobodys]) {
            let open = results.iter_mut().filter(|it| !is_error(it));
            for (result, part) in open.zip(part) {
                add(result, part);
            }
        }
        Ok(results)
    }

    /// Publishes events to all tenants of these slots, if they are all this agent's.
    pub(super) async fn broadcast_here(
        &self,
        slots: BTreeSet<Slot>,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, Status> {
        let everywhere = self.everywhere()?;
        if !slots.is_subset(&everywhere.own) {
            let message = "another agent takes the events of some of these slots";
            return Err(ApiError::unavailable("NOT_OWNER", message, OVERLOAD_PAUSE).into());
        }
        let (good, mut results) = self.check(events);
        let mine = self.broadcast_own(&everywhere, &slots, &good).await?;
        let open = results.iter_mut().filter(|it| !is_error(it));
        for (result, part) in open.zip(mine) {
            add(result, part);
        }
        Ok(results)
    }

    fn everywhere(&self) -> Result<Everywhere, ApiError> {
        let ingest = self.ingest();
        let everywhere = ingest.slots.admit_everywhere(&ingest.agent_id);
        everywhere.ok_or_else(|| {
            let message = "no agent takes events yet";
            ApiError::unavailable("NO_OWNER", message, OVERLOAD_PAUSE)
        })
    }

    /// The events that are good, and results to begin with: what is wrong with the others.
    fn check(&self, events: Vec<CloudEvent>) -> (Vec<Event>, Vec<PublishResult>) {
        let mut good = Vec::with_capacity(events.len());
        let results =
            events
                .into_iter()
                .map(|event| match Event::try_new(event, &self.ingest().limits) {
                    Ok(event) => {
                        good.push(event);
                        receipt(Reach::default())
                    }
                    Err(violations) => failure(&ApiError::invalid(violations).into()),
                });
        let results = results.collect();
        (good, results)
    }

    async fn broadcast_own(
        &self,
        everywhere: &Everywhere,
        slots: &BTreeSet<Slot>,
        events: &[Event],
    ) -> Result<Vec<PublishResult>, Status> {
        let ingest = self.ingest();
        let must_wait =
            |slot: &&Slot| everywhere.arriving.contains(slot) || ingest.parked.has(**slot);
        let accepted = events.iter().map(async |event| {
            // Nothing with a key goes past what waits already, or past what another agent has.
            let later: BTreeSet<Slot> = match event.text("partitionkey") {
                Some(_) => slots.iter().filter(must_wait).copied().collect(),
                None => BTreeSet::new(),
            };
            let now: BTreeSet<Slot> = slots.difference(&later).copied().collect();
            let accepted = ingest.broadcast(&everywhere.admission, &now, event).await?;
            let parked = ingest.park_broadcast(&later, event).await?;
            Ok(receipt(Reach {
                n_deliveries: accepted.n_deliveries,
                is_new: accepted.is_new || parked.is_new,
            }))
        });
        let accepted = all(accepted).await;
        Ok(accepted.map_err(refused)?)
    }

    /// Publishes at the owner of these slots, or, while that is out of reach, keeps the events for it.
    async fn broadcast_there(
        &self,
        owner: &Owner,
        slots: &BTreeSet<Slot>,
        events: &[Event],
    ) -> Result<Vec<PublishResult>, Status> {
        let has_key = |event: &Event| event.text("partitionkey").is_some();
        let waits = slots.iter().any(|slot| self.ingest().parked.has(*slot));
        if !(waits && events.iter().any(has_key)) {
            let request = PublishRequest {
                parent: PARENT.to_owned(),
                events: events.iter().map(|it| it.cloud_event().clone()).collect(),
            };
            match self.relay().forward(owner, request, slots).await {
                Ok(answer) => return Ok(answer.results),
                Err(relay::Error::Refused(status)) => return Err(status),
                Err(relay::Error::OutOfReach | relay::Error::Unsettled) => {}
            }
        }
        self.park_all(slots, events).await
    }

    async fn park_all(
        &self,
        slots: &BTreeSet<Slot>,
        events: &[Event],
    ) -> Result<Vec<PublishResult>, Status> {
        let parked = events.iter().map(async |event| {
            let parked = self.ingest().park_broadcast(slots, event).await;
            parked.map(receipt)
        });
        Ok(all(parked).await.map_err(refused)?)
    }
}

fn is_error(result: &PublishResult) -> bool {
    matches!(result.result, Some(publish_result::Result::Error(_)))
}

fn receipt(reach: Reach) -> PublishResult {
    let receipt = v1::Receipt {
        event: String::new(),
        delivery_count: i32::try_from(reach.n_deliveries).unwrap_or(i32::MAX),
        duplicate: !reach.is_new,
    };
    PublishResult {
        result: Some(publish_result::Result::Receipt(receipt)),
    }
}

/// What became of an event here and elsewhere.
fn add(result: &mut PublishResult, part: PublishResult) {
    match (&mut result.result, part.result) {
        (
            Some(publish_result::Result::Receipt(receipt)),
            Some(publish_result::Result::Receipt(part)),
        ) => {
            receipt.delivery_count = receipt.delivery_count.saturating_add(part.delivery_count);
            receipt.duplicate &= part.duplicate;
        }
        (result, part) => *result = part,
    }
}
