//! `DeliveryService` for the whole fleet: every call goes to the agent that owns the tenant's slot, and its answer comes
//! back as it is.

use std::{error::Error as _, time::Duration};

use hookfleet_contract::name::{DeliveryName, EventName, SubscriptionScope, TenantId};
use hookfleet_gateway::status::ApiError;
use hookfleet_proto::v1::{
    Delivery, Event, GetDeliveryRequest, GetEventRequest, ListAttemptsRequest,
    ListAttemptsResponse, ListDeliveriesRequest, ListDeliveriesResponse, RedeliverDeliveryRequest,
    delivery_service_client::DeliveryServiceClient, delivery_service_server::DeliveryService,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status, transport::Channel};

use super::parse;
use crate::query::Owners;

/// How long the owner may take.
const DEADLINE: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Deliveries(pub(crate) Owners);

// === impl Deliveries ===

impl Deliveries {
    fn owner(&self, tenant: &TenantId) -> Result<DeliveryServiceClient<Channel>, ApiError> {
        self.0.of(tenant).map(DeliveryServiceClient::new)
    }
}

/// Waits for the owner's answer. What the connection says is told apart from what the owner says: callers need a reason,
/// and where the outcome is unknown they must not repeat the call blindly.
async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    is_repeatable: bool,
) -> Result<Response<T>, Status> {
    let message = match timeout(DEADLINE, call).await {
        Ok(Err(status)) if status.source().is_some() => {
            "the agent that delivers for the tenant is out of reach"
        }
        Ok(answer) => return answer,
        Err(_) => "the agent that delivers for the tenant does not answer",
    };
    Err(if is_repeatable {
        ApiError::unavailable("OWNER_UNREACHABLE", message, RETRY_AFTER).into()
    } else {
        ApiError::aborted("OUTCOME_UNKNOWN", message).into()
    })
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<Event>, Status> {
        let name: EventName = parse("name", &request.get_ref().name)?;
        let mut owner = self.owner(&name.tenant)?;
        answer(owner.get_event(request.into_inner()), true).await
    }

    async fn get_delivery(
        &self,
        request: Request<GetDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let name: DeliveryName = parse("name", &request.get_ref().name)?;
        let mut owner = self.owner(&name.tenant)?;
        answer(owner.get_delivery(request.into_inner()), true).await
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let scope: SubscriptionScope = parse("parent", &request.get_ref().parent)?;
        let mut owner = self.owner(&scope.tenant)?;
        answer(owner.list_deliveries(request.into_inner()), true).await
    }

    async fn list_attempts(
        &self,
        request: Request<ListAttemptsRequest>,
    ) -> Result<Response<ListAttemptsResponse>, Status> {
        let name: DeliveryName = parse("parent", &request.get_ref().parent)?;
        let mut owner = self.owner(&name.tenant)?;
        answer(owner.list_attempts(request.into_inner()), true).await
    }

    async fn redeliver_delivery(
        &self,
        request: Request<RedeliverDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let name: DeliveryName = parse("name", &request.get_ref().name)?;
        let mut owner = self.owner(&name.tenant)?;
        answer(owner.redeliver_delivery(request.into_inner()), false).await
    }
}
