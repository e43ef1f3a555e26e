//! `RelayService`: what other agents send to the owner of a slot.

use std::time::Duration;

use hookfleet_contract::{
    name::{DeliveryName, TenantName},
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
    publisher::Publisher,
};
use crate::{
    ingest::{Admitted, OVERLOAD_PAUSE, broadcast},
    relay::{NOT_OWNER, taking::taken},
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
}

// === impl Relayed ===

impl Relayed {
    /// Waits for a slot table that another agent has already. Whether it came or not is seen later.
    async fn caught_up(&self, version: i64) {
        drop(timeout(CATCH_UP, self.publisher.ingest().slots.reached(version)).await);
    }

    /// Leave to take something for a tenant, if this agent owns its slot, or will in a moment.
    async fn admit(&self, tenant: &TenantName, version: i64) -> Result<Admission, ApiError> {
        self.caught_up(version).await;
        match self.publisher.ingest().admit(&tenant.tenant) {
            Ok(Admitted::Here(admission)) => Ok(admission),
            Ok(Admitted::There(owner)) => {
                let message = format!("another agent takes the events of {tenant}");
                let error = ApiError::unavailable(NOT_OWNER, message, OVERLOAD_PAUSE);
                Err(error
                    .with("owner", owner.agent_id)
                    .with("address", owner.address))
            }
            Err(refused) => Err(super::publisher::refused(refused)),
        }
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
        let admission = self.admit(&name, slot_table_version).await?;
        let results = self
            .publisher
            .publish_here(&admission, &name, events)
            .await?;
        Ok(Response::new(PublishResponse { results }))
    }

    async fn hand_over(
        &self,
        request: Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let HandOverRequest {
            events,
            slot_table_version,
        } = request.into_inner();
        let _open = self.publisher.check_open()?;
        let mut admissions = Vec::new();
        let mut accepted = Vec::with_capacity(events.len());
        for (number, event) in events.into_iter().enumerate() {
            let event = taken(event).map_err(|field| {
                let field = format!("events[{number}].{field}");
                ApiError::invalid_field(field, "is not as it must be")
            })?;
            let tenant = TenantName {
                tenant: event.tenant.clone(),
            };
            admissions.push(self.admit(&tenant, slot_table_version).await?);
            accepted.push(event);
        }
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
        let tenant = TenantName {
            tenant: name.tenant.clone(),
        };
        let admission = self.admit(&tenant, slot_table_version).await?;
        let redeliverer = self.deliveries.redeliverer();
        let new = redeliverer.append(&admission, &name, event.into()).await;
        let new = new.map_err(|error| redelivery_error(error, &name))?;
        Ok(Response::new(RedeliverResponse {
            delivery: new.name.to_string(),
            accept_time: Some(new.accept_time.into()),
        }))
    }
}
