//! `DeliveryService` for the whole fleet: the agent that owns the tenant's slot is asked first, and where it does not know,
//! the others, which may have owned it before, or own another one of the tenant's. Their answers come back as they are.

use std::{error::Error as _, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hookfleet_contract::name::{
    AgentId, AgentName, DeliveryName, EventName, SubscriptionScope, TenantId,
};
use hookfleet_gateway::{peers::Peer, status::ApiError};
use hookfleet_proto::v1::{
    Delivery, Event, GetDeliveryRequest, GetEventRequest, ListAttemptsRequest,
    ListAttemptsResponse, ListDeliveriesRequest, ListDeliveriesResponse, RedeliverDeliveryRequest,
    delivery_service_client::DeliveryServiceClient, delivery_service_server::DeliveryService,
};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use super::parse;
use crate::{
    query::{Deliverer, Deliverers},
    random,
};

/// How long an agent may take.
const DEADLINE: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Names the list in page tokens.
const LIST: &str = "deliveries of all agents";

type Client = DeliveryServiceClient<Peer>;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Deliveries(pub(crate) Deliverers);

/// Where a list goes on: it shows one agent's deliveries after another's.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The agent that comes first. The others follow by their ids.
    first: AgentId,
    /// The agent that is asked next.
    agent: AgentId,
    /// With this token of its own.
    token: String,
}

/// Why an agent's answer is none.
#[derive(Debug)]
enum Failed {
    /// The agent cannot be heard. It may have done what it was asked all the same.
    OutOfReach(AgentId),
    /// The agent says so.
    Refused(Status),
}

// === impl Deliveries ===

impl Deliveries {
    async fn delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<(Deliverer, Response<Delivery>), Status> {
        let request = GetDeliveryRequest {
            name: name.to_string(),
        };
        let get = |mut agent: Client| {
            let request = request.clone();
            async move { agent.get_delivery(request).await }
        };
        self.find(&name.tenant, get).await
    }

    /// The first answer, and whose it is.
    async fn find<T, F>(
        &self,
        tenant: &TenantId,
        call: impl Fn(Client) -> F,
    ) -> Result<(Deliverer, Response<T>), Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let owner = self.0.owner(tenant)?;
        let unknown = match ask(&owner, &call).await {
            Ok(answer) => return Ok((owner, answer)),
            Err(Failed::Refused(status)) if status.code() == Code::NotFound => status,
            Err(failed) => return Err(failed.into()),
        };
        let mut others = self.0.all()?;
        others.remove(&owner.agent);
        let call = &call;
        let others = others.into_values();
        let others = others.map(|agent| async move {
            let answer = ask(&agent, call).await;
            (agent, answer)
        });
        let mut others: FuturesUnordered<_> = others.collect();
        let mut why = unknown;
        while let Some((agent, asked)) = others.next().await {
            match asked {
                Ok(answer) => return Ok((agent, answer)),
                Err(Failed::Refused(status)) if status.code() == Code::NotFound => {}
                Err(failed) => why = failed.into(),
            }
        }
        Err(why)
    }

    async fn list(
        &self,
        mut request: ListDeliveriesRequest,
    ) -> Result<ListDeliveriesResponse, Status> {
        let scope: SubscriptionScope = parse("parent", &request.parent)?;
        let context = [request.parent.clone(), request.filter.clone()];
        let context = context.each_ref().map(String::as_str);
        let place = self.0.pages().open(LIST, &context, &request.page_token)?;
        let owner = self.0.owner(&scope.tenant)?;
        let mut place = match place {
            Some(bytes) => Place::decode(&bytes).ok_or_else(|| {
                ApiError::invalid_field("page_token", "is a token of another version")
            })?,
            None => Place::first(owner.agent.clone()),
        };
        let mut agents = self.0.all()?;
        agents.insert(owner.agent.clone(), owner.clone());
        let mut page = ListDeliveriesResponse::default();
        let next = loop {
            let mut next = place.next(agents.keys());
            let mut is_page = false;
            if let Some(agent) = agents.get(&place.agent) {
                request.page_token.clone_from(&place.token);
                let asked = request.clone();
                let list = |mut client: Client| async move { client.list_deliveries(asked).await };
                match ask(agent, list).await {
                    Ok(answer) => {
                        let answer = answer.into_inner();
                        let token = answer.next_page_token;
                        if !token.is_empty() {
                            next = Some(Place { token, ..place });
                        }
                        is_page = !answer.deliveries.is_empty();
                        page.deliveries = answer.deliveries;
                    }
                    Err(Failed::OutOfReach(agent)) if agent != owner.agent => {
                        is_page = true;
                        page.unreachable.push(AgentName { agent }.to_string());
                    }
                    Err(failed) => return Err(failed.into()),
                }
            }
            match next {
                Some(next) if !is_page => place = next,
                next => break next,
            }
        };
        let seal = |next: Place| {
            let pages = self.0.pages();
            pages.seal(LIST, &context, &next.encode(), random::nonce())
        };
        page.next_page_token = next.map(seal).unwrap_or_default();
        Ok(page)
    }
}

// === impl Place ===

impl Place {
    fn first(agent: AgentId) -> Self {
        Self {
            first: agent.clone(),
            agent,
            token: String::new(),
        }
    }

    /// The beginning of what the next of these agents has.
    fn next<'a>(&self, mut agents: impl Iterator<Item = &'a AgentId>) -> Option<Self> {
        let Self { first, agent, .. } = self;
        let is_next = |it: &&AgentId| *it != first && (agent == first || *it > agent);
        Some(Self {
            first: first.clone(),
            agent: agents.find(is_next)?.clone(),
            token: String::new(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        format!("{}/{}/{}", self.first, self.agent, self.token).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(bytes).ok()?.splitn(3, '/');
        Some(Self {
            first: parts.next()?.parse().ok()?,
            agent: parts.next()?.parse().ok()?,
            token: parts.next()?.to_owned(),
        })
    }
}

/// Waits for an agent's answer. What the connection says is told apart from what the agent says.
async fn ask<T, F>(agent: &Deliverer, call: impl FnOnce(Client) -> F) -> Result<Response<T>, Failed>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    match timeout(DEADLINE, call(Client::new(agent.peer.clone()))).await {
        Ok(Err(status)) if status.source().is_none() => Err(Failed::Refused(status)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(Failed::OutOfReach(agent.agent.clone())),
    }
}

impl From<Failed> for Status {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::OutOfReach(agent) => {
                let agent = AgentName { agent }.to_string();
                let message = format!("{agent}, which may know of it, is out of reach");
                ApiError::unavailable("AGENT_UNREACHABLE", message, RETRY_AFTER)
                    .with("agent", agent)
                    .into()
            }
            Failed::Refused(status) => status,
        }
    }
}

#[tonic::async_trait]
impl DeliveryService for Deliveries {
    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<Event>, Status> {
        let request = request.into_inner();
        let name: EventName = parse("name", &request.name)?;
        let get = |mut agent: Client| {
            let request = request.clone();
            async move { agent.get_event(request).await }
        };
        Ok(self.find(&name.tenant, get).await?.1)
    }

    async fn get_delivery(
        &self,
        request: Request<GetDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let name: DeliveryName = parse("name", &request.get_ref().name)?;
        Ok(self.delivery(&name).await?.1)
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let page = self.list(request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_attempts(
        &self,
        request: Request<ListAttemptsRequest>,
    ) -> Result<Response<ListAttemptsResponse>, Status> {
        let request = request.into_inner();
        let name: DeliveryName = parse("parent", &request.parent)?;
        let list = |mut agent: Client| {
            let request = request.clone();
            async move { agent.list_attempts(request).await }
        };
        Ok(self.find(&name.tenant, list).await?.1)
    }

    async fn redeliver_delivery(
        &self,
        request: Request<RedeliverDeliveryRequest>,
    ) -> Result<Response<Delivery>, Status> {
        let request = request.into_inner();
        let name: DeliveryName = parse("name", &request.name)?;
        let (agent, _) = self.delivery(&name).await?;
        let redeliver =
            |mut client: Client| async move { client.redeliver_delivery(request).await };
        ask(&agent, redeliver).await.map_err(|failed| match failed {
            // To repeat it blindly might deliver twice.
            Failed::OutOfReach(_) => {
                let message = "the agent that was to deliver it again does not answer";
                ApiError::aborted("OUTCOME_UNKNOWN", message).into()
            }
            Failed::Refused(status) => status,
        })
    }
}
