//! `RelayService`: what other agents send to the owner of a slot.

use std::time::Duration;

use hookfleet_contract::{
    name::{DeliveryName, TenantName},
    shard::Shard,
    slot::Slot,
};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::{
    fleet::{
        ForwardRequest, HandOverRequest, HandOverResponse, RedeliverRequest, RedeliverResponse,
        relay_service_server::RelayService,
    },
    v1::{PublishRequest, PublishResponse},
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::{
    delivery::{Deliveries, redelivery_error},
    publisher::{Publisher, all},
};
use crate::{
    driver,
    ingest::{Admitted, OVERLOAD_PAUSE, broadcast, portion::together},
    journal::{NewEvent, Target},
    relay::{
        NOT_OWNER, NOT_READY,
        taking::{shard, taken},
    },
    slots::Admission,
};

/// How long an agent waits for a slot table that another has already.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// Takes events.
    pub publisher: Publisher,
    /// Delivers again.
    pub deliveries: Deliveries,
    /// Goes on with what is handed over.
    pub driver: driver::Handle,
}

// === impl Relayed ===

impl Relayed {
    /// Waits for a slot table that another agent has already. Whether it came or not is seen later.
    async fn caught_up(&self, version: i64) {
        drop(timeout(CATCH_UP, self.publisher.ingest().slots.reached(version)).await);
    }

    /// Leave to take something for a shard, if this agent owns its slot, or will in a moment.
    async fn admit(&self, shard: &Shard, version: i64) -> Result<Admission, ApiError> {
        self.caught_up(version).await;
        match self.publisher.ingest().admit(shard) {
            Ok(Admitted::Here(admission)) => Ok(admission),
            Ok(Admitted::There(owner)) => {
                let tenant = TenantName {
                    tenant: shard.tenant.clone(),
                };
                let message = format!("another agent takes these events of {tenant}");
                let error = ApiError::unavailable(NOT_OWNER, message, OVERLOAD_PAUSE);
                Err(error
                    .with("owner", owner.agent_id)
                    .with("address", owner.address))
            }
            Err(refused) => Err(super::publisher::refused(refused)),
        }
    }

    /// Deliveries of a subscription that is not known would end here. One that is gone ends where they come from.
    fn check_known(&self, event: &NewEvent) -> Result<(), ApiError> {
        let directory = &self.publisher.ingest().directory;
        let is_known = |it: &Target| directory.subscription(&it.uid).is_some();
        if event.targets.iter().all(is_known) {
            return Ok(());
        }
        let message = "this agent does not know the subscription yet";
        Err(ApiError::unavailable(NOT_READY, message, OVERLOAD_PAUSE))
    }
}

#[tonic::async_trait]
impl RelayService for Relayed {
    async fn forward(
        &self,
        request: Request<ForwardRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let ForwardRequest {
            publish,
            slot_table_version,
            slots,
        } = request.into_inner();
        let PublishRequest { parent, events } = publish.unwrap_or_default();
        let _open = self.publisher.check_open()?;
        if parent == broadcast::PARENT {
            let slots = slots.into_iter().map(|it| u16::try_from(it).map(Slot));
            let slots = slots.collect::<Result<_, _>>();
            let slots = slots.map_err(|_| ApiError::invalid_field("slots", "are not slots"))?;
            self.caught_up(slot_table_version).await;
            let results = self.publisher.broadcast_here(slots, events).await?;
            return Ok(Response::new(PublishResponse { results }));
        }
        let name = super::publisher::tenant(&parent)?;
        // Over how many shards the tenant is spread the caller may see otherwise: what counts is what is known here.
        let mut admitted = Vec::new();
        for portion in self.publisher.portions(&name, events) {
            let admission = self.admit(&portion.shard, slot_table_version).await?;
            admitted.push((admission, portion));
        }
        let published = admitted.into_iter().map(async |(admission, portion)| {
            let (publisher, shard) = (&self.publisher, &portion.shard);
            let results = publisher.publish_here(&admission, shard, portion.events);
            Ok::<_, ApiError>((portion.places, results.await?))
        });
        let results = together(all(published).await?);
        Ok(Response::new(PublishResponse { results }))
    }

    async fn hand_over(
        &self,
        request: Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let HandOverRequest {
            events,
            slot_table_version,
            health,
        } = request.into_inner();
        let _open = self.publisher.check_open()?;
        let now = self.publisher.ingest().clock.now();
        let mut admissions = Vec::new();
        let mut accepted = Vec::with_capacity(events.len());
        for (number, event) in events.into_iter().enumerate() {
            let event = taken(event, now).map_err(|field| {
                let field = format!("events[{number}].{field}");
                ApiError::invalid_field(field, "is not as it must be")
            })?;
            admissions.push(self.admit(&shard(&event), slot_table_version).await?);
            self.check_known(&event)?;
            accepted.push(event);
        }
        // Before the deliveries, so that nobody is called who asked for a pause.
        self.driver.learn(health.unwrap_or_default()).await;
        let appended = self.publisher.ingest().journal.append_all(accepted).await;
        appended.map_err(|error| super::publisher::journal_error(&error))?;
        Ok(Response::new(HandOverResponse {}))
    }

    async fn redeliver(
        &self,
        request: Request<RedeliverRequest>,
    ) -> Result<Response<RedeliverResponse>, Status> {
        let RedeliverRequest {
            delivery,
            event,
            slot_table_version,
        } = request.into_inner();
        let _open = self.publisher.check_open()?;
        let name: DeliveryName = delivery
            .parse()
            .map_err(|_| ApiError::invalid_field("delivery", "is not a name"))?;
        let (redeliverer, event) = (self.deliveries.redeliverer(), event.into());
        let shard = redeliverer.shard(&name, &event);
        let shard = shard.map_err(|error| redelivery_error(error, &name))?;
        let admission = self.admit(&shard, slot_table_version).await?;
        let new = redeliverer.append(&admission, &shard, &name, event).await;
        let new = new.map_err(|error| redelivery_error(error, &name))?;
        Ok(Response::new(RedeliverResponse {
            delivery: new.name.to_string(),
            accept_time: Some(new.accept_time.into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hookfleet_gateway::{
        limits::{limiter::Limiter, memory::Memory},
        status::reason,
    };
    use hookfleet_proto::{
        cloudevents::CloudEvent,
        fleet::{HandedDelivery, HandedEvent},
    };
    use prost::Message as _;

    use super::*;
    use crate::{
        api::{
            delivery::tests::{World, subscription},
            lifecycle::Stages,
        },
        core::Uid,
        directory::Change,
    };

    const UNKNOWN: Uid = [9; 16];

    /// The service of an agent that accepts events, and owns every slot.
    fn relayed(world: &World) -> Relayed {
        let deliveries = world.service.clone();
        let (ingest, relay) = {
            let redeliverer = deliveries.redeliverer();
            (redeliverer.ingest.clone(), redeliverer.relay.clone())
        };
        let (stages, limiter) = (Stages::default(), Limiter::off());
        stages.ready.cancel();
        let hour = Duration::from_secs(3600);
        Relayed {
            publisher: Publisher::new(ingest, relay, stages, hour, limiter, Memory::default()),
            deliveries,
            driver: driver::Handle::of_nobody(),
        }
    }

    /// An event of which these subscriptions have deliveries left.
    fn handed_over(uids: &[Uid]) -> Request<HandOverRequest> {
        let delivery = |uid: &Uid| HandedDelivery {
            subscription_uid: uid.to_vec(),
            subscription: "hook".to_owned(),
            due_time: Some(prost_types::Timestamp::default()),
            ..HandedDelivery::default()
        };
        let event = HandedEvent {
            handover_id: vec![1; 16],
            tenant: "acme".to_owned(),
            webhook_id: vec![2; 16],
            accept_time: Some(prost_types::Timestamp::default()),
            event: CloudEvent::default().encode_to_vec(),
            deliveries: uids.iter().map(delivery).collect(),
        };
        Request::new(HandOverRequest {
            events: vec![event],
            slot_table_version: 1,
            health: None,
        })
    }

    #[tokio::test]
    async fn deliveries_of_subscriptions_that_are_not_known_yet_are_not_taken() {
        let world = World::new();
        let (relayed, known) = (relayed(&world), subscription());
        for uids in [vec![UNKNOWN], vec![known.uid, UNKNOWN]] {
            let refused = relayed.hand_over(handed_over(&uids)).await.unwrap_err();
            assert_eq!(reason(&refused).as_deref(), Some(NOT_READY), "{refused}");
        }
        assert_eq!(world.journal.stats().next_seq, 1);

        let mut late = known.clone();
        (late.uid, late.name.subscription) = (UNKNOWN, "late".parse().unwrap());
        world
            .directory
            .apply(vec![Change::Subscription(Arc::new(late))]);
        let both = handed_over(&[known.uid, UNKNOWN]);
        relayed.hand_over(both).await.unwrap();
        let taken = world.journal.read(1).unwrap().unwrap();
        assert_eq!(taken.targets.len(), 2);
    }
}
