//! `RelayService`: what other agents send to the owner of a slot.

use std::time::Duration;

use hookfleet_contract::name::TenantName;
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::{
    fleet::{
        ForwardRequest, HandOverRequest, HandOverResponse, relay_service_server::RelayService,
    },
    v1::{PublishRequest, PublishResponse},
};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::publisher::Publisher;
use crate::{
    ingest::{Admitted, OVERLOAD_PAUSE},
    relay::taking::taken,
    slots::Admission,
};

/// How long an agent waits for a slot table that another has already.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The service.
#[derive(Clone, Debug)]
pub struct Relayed(pub Publisher);

// === impl Relayed ===

impl Relayed {
    /// Leave to take something for a tenant, if this agent owns its slot, or will in a moment.
    async fn admit(&self, tenant: &TenantName, version: i64) -> Result<Admission, ApiError> {
        let ingest = self.0.ingest();
        // Whether it came or not is seen below.
        drop(timeout(CATCH_UP, ingest.slots.reached(version)).await);
        match ingest.admit(&tenant.tenant) {
            Ok(Admitted::Here(admission)) => Ok(admission),
            Ok(Admitted::There(owner)) => {
                let message = format!("another agent takes the events of {tenant}");
                let error = ApiError::unavailable("NOT_OWNER", message, OVERLOAD_PAUSE);
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
        } = request.into_inner();
        let PublishRequest { parent, events } = publish.unwrap_or_default();
        self.0.check_open()?;
        let name = super::publisher::tenant(&parent)?;
        let admission = self.admit(&name, slot_table_version).await?;
        let results = self.0.publish_here(&admission, &name, events).await?;
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
        self.0.check_open()?;
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
        let appended = self.0.ingest().journal.append_all(accepted).await;
        appended.map_err(|error| super::publisher::journal_error(&error))?;
        Ok(Response::new(HandOverResponse {}))
    }
}
