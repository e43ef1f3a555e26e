//! `FleetService`: the agents, and who owns what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hookfleet_contract::name::{AgentId, AgentName};
use hookfleet_gateway::{page, status::ApiError};
use hookfleet_proto::{
    fleet::{SlotTable, StoredAgent},
    v1::{
        GetPlacementRequest, ListAgentsRequest, ListAgentsResponse, Placement, SlotRange,
        fleet_service_server::FleetService,
    },
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, respond};
use crate::{keys, model, placement, random};

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
                    let n_slots = n_slots(&table, id);
                    (
                        id.clone(),
                        model::agent::view(id, fleet.get(id), noted.get(id), n_slots),
                    )
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
            let agent = owner
                .agent_id
                .parse()
                .map(|agent| AgentName { agent }.to_string());
            let (slot, agent) = (i32::from(slot), agent.unwrap_or_default());
            match ranges.last_mut() {
                Some(range)
                    if range.last_slot + 1 == slot
                        && range.agent == agent
                        && range.epoch == *epoch =>
                {
                    range.last_slot = slot;
                }
                Some(_) | None => ranges.push(SlotRange {
                    first_slot: slot,
                    last_slot: slot,
                    agent,
                    epoch: *epoch,
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

fn n_slots(table: &SlotTable, agent: &AgentId) -> usize {
    let slots = (0..).take(table.slot_owners.len());
    let owners = slots.filter_map(|slot| placement::owner(table, slot));
    owners
        .filter(|owner| owner.agent_id == agent.as_str())
        .count()
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
}
