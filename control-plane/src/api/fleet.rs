//! `FleetService`: the agents, and who owns what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hookfleet_contract::name::{AgentId, AgentName};
use hookfleet_gateway::{page, status::ApiError};
use hookfleet_proto::{
    fleet::{SlotOwner, SlotTable, StoredAgent},
    v1::{
        AcceptStoreRequest, FleetPolicy, GetFleetPolicyRequest, GetPlacementRequest,
        GetStoreStatusRequest, ListAgentsRequest, ListAgentsResponse, Placement, SlotRange,
        StoreStatus, UpdateFleetPolicyRequest, fleet_service_server::FleetService,
    },
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, policy, respond, store};
use crate::{
    keys,
    model::agent::{self, Known, SlotCounts},
    placement, random,
};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Agents(pub(crate) Arc<Api>);

// === impl Agents ===

impl Agents {
    fn list(&self, request: &ListAgentsRequest) -> Result<ListAgentsResponse, ApiError> {
        let api = &*self.0;
        let page_size = page::page_size(request.page_size)?;
        let cursor = api.pages.open("agents", &[], &request.page_token)?;
        let (noted, table) = api.cache.read(|contents| {
            let noted = contents
                .with_prefix(keys::AGENTS)
                .filter_map(|(key, item)| {
                    let id: AgentId = key.strip_prefix(keys::AGENTS)?.parse().ok()?;
                    Some((id, StoredAgent::decode(item.value.clone()).ok()?))
                });
            (
                noted.collect::<BTreeMap<_, _>>(),
                Arc::clone(contents.slot_table()),
            )
        });
        let owners = table
            .owners
            .iter()
            .filter_map(|owner| owner.agent_id.parse().ok());
        let now = api.clock.now();
        let (agents, more) = api.fleet(|fleet| {
            let known = fleet
                .agents()
                .map(|(id, _)| id.clone())
                .chain(noted.keys().cloned())
                .chain(owners);
            let known: BTreeSet<AgentId> = known.collect();
            let cursor = cursor.as_deref();
            let is_next =
                |id: &&AgentId| cursor.is_none_or(|cursor| id.as_str().as_bytes() > cursor);
            let mut known = known.iter().filter(is_next);
            let page = known.by_ref().take(page_size);
            let page: Vec<_> = page
                .map(|id| {
                    let is_agent = |it: &&SlotOwner| it.agent_id == id.as_str();
                    let known = Known {
                        session: fleet.get(id),
                        noted: noted.get(id),
                        seen: fleet.seen(id),
                        owner: table.owners.iter().find(is_agent),
                        slots: slot_counts(&table, id),
                    };
                    (id.clone(), agent::view(id, known, now))
                })
                .collect();
            let more = known.next().is_some();
            (page, more)
        });
        let last = agents.last().filter(|_| more);
        let next_page_token = last.map(|(id, _)| {
            api.pages
                .seal("agents", &[], id.as_str().as_bytes(), random::nonce())
        });
        Ok(ListAgentsResponse {
            next_page_token: next_page_token.unwrap_or_default(),
            agents: agents.into_iter().map(|(_, agent)| agent).collect(),
        })
    }

    fn placement(&self) -> Placement {
        let table = self
            .0
            .cache
            .read(|contents| Arc::clone(contents.slot_table()));
        let mut ranges: Vec<SlotRange> = Vec::new();
        for (slot, epoch) in (0..self.0.slot_count).zip(&table.epochs) {
            let Some(owner) = placement::owner(&table, slot) else {
                continue;
            };
            let agent = name_of(owner);
            let previous_agent = placement::previous(&table, slot).map(name_of);
            let previous_agent = previous_agent.unwrap_or_default();
            let slot = i32::from(slot);
            match ranges.last_mut() {
                Some(range)
                    if range.last_slot + 1 == slot
                        && range.agent == agent
                        && range.previous_agent == previous_agent
                        && range.epoch == *epoch =>
                {
                    range.last_slot = slot;
                }
                Some(_) | None => ranges.push(SlotRange {
                    first_slot: slot,
                    last_slot: slot,
                    agent,
                    epoch: *epoch,
                    previous_agent,
                }),
            }
        }
        Placement {
            slot_count: i32::from(self.0.slot_count),
            version: table.version,
            ranges,
        }
    }
}

fn slot_counts(table: &SlotTable, agent: &AgentId) -> SlotCounts {
    let is_agent = |it: &SlotOwner| it.agent_id == agent.as_str();
    let mut counts = SlotCounts::default();
    for slot in (0..).take(table.slot_owners.len()) {
        let previous = placement::previous(table, slot);
        if placement::owner(table, slot).is_some_and(is_agent) {
            counts.owned += 1;
            counts.arriving += usize::from(previous.is_some());
        }
        counts.leaving += usize::from(previous.is_some_and(is_agent));
    }
    counts
}

fn name_of(agent: &SlotOwner) -> String {
    let agent = agent.agent_id.parse();
    agent.map_or_else(|_| String::new(), |agent| AgentName { agent }.to_string())
}

#[tonic::async_trait]
impl FleetService for Agents {
    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        respond(self.list(request.get_ref()))
    }

    async fn get_placement(
        &self,
        _request: Request<GetPlacementRequest>,
    ) -> Result<Response<Placement>, Status> {
        respond(Ok(self.placement()))
    }

    async fn get_fleet_policy(
        &self,
        _request: Request<GetFleetPolicyRequest>,
    ) -> Result<Response<FleetPolicy>, Status> {
        respond(policy::get(&self.0).await)
    }

    async fn update_fleet_policy(
        &self,
        request: Request<UpdateFleetPolicyRequest>,
    ) -> Result<Response<FleetPolicy>, Status> {
        respond(policy::update(&self.0, request.into_inner()).await)
    }

    async fn get_store_status(
        &self,
        _request: Request<GetStoreStatusRequest>,
    ) -> Result<Response<StoreStatus>, Status> {
        respond(Ok(store::get(&self.0)))
    }

    async fn accept_store(
        &self,
        request: Request<AcceptStoreRequest>,
    ) -> Result<Response<StoreStatus>, Status> {
        respond(store::accept(&self.0, request.get_ref()).await)
    }
}
