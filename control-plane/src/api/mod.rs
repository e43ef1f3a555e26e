//! The services: wire to domain and back. They share one [`Api`] and hold nothing else.

pub(crate) mod change;
pub(crate) mod creation;
pub(crate) mod delivery;
pub(crate) mod fleet;
pub(crate) mod key;
pub(crate) mod list;
mod policy;
mod rotation;
pub(crate) mod status;
mod store;
pub(crate) mod subscription;
pub(crate) mod sync;
pub(crate) mod tenant;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod verification;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hookfleet_contract::{
    name::{AgentId, SubscriptionName},
    shard::Shard,
    target::Rules,
};
use hookfleet_gateway::{page::Pages, status::ApiError};
use hookfleet_proto::fleet::{SlotOwner, StoredAgent, StoredCluster};
use prost::Message as _;
use tonic::Status;

use self::creation::Leases;
use crate::{
    cache::Cache,
    clock::Clock,
    config,
    fleet::Fleet,
    keys, placement,
    store::{Revision, Store},
    vault::Vault,
};

/// How long old secrets stay of use after a rotation, if the request does not say, and at most.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);
const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the services work with.
#[derive(Debug)]
pub(crate) struct Api {
    /// The store, as long as it is believed.
    pub(crate) store: Arc<dyn Store>,
    /// The store, believed or not.
    pub(crate) unguarded: Arc<dyn Store>,
    pub(crate) cluster: StoredCluster,
    pub(crate) cache: Cache,
    pub(crate) fleet: Arc<Mutex<Fleet>>,
    pub(crate) vault: Vault,
    pub(crate) pages: Pages,
    pub(crate) clock: Clock,
    pub(crate) rules: Rules,
    pub(crate) slot_count: u16,
    pub(crate) max_subscriptions: usize,
    /// Of results of requests.
    pub(crate) leases: Leases,
    /// With what, and whether, callback URLs are verified.
    pub(crate) verification: config::Verification,
    /// Of keys that confirm.
    pub(crate) confirmations: Leases,
}

// === impl Api ===

impl Api {
    /// Looks at the fleet, or changes it. Others wait meanwhile.
    pub(crate) fn fleet<T>(&self, with: impl FnOnce(&mut Fleet) -> T) -> T {
        with(&mut self.fleet.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The agent that owns a slot, as far as this control plane knows.
    pub(crate) fn owner(&self, slot: u16) -> Option<SlotOwner> {
        self.cache
            .read(|contents| placement::owner(contents.slot_table(), slot).cloned())
    }

    /// Whether events published from now on match this version of a subscription, in whichever of the tenant's shards.
    pub(crate) fn is_applied(&self, name: &SubscriptionName, mod_revision: Revision) -> bool {
        let shards = self.cache.read(|contents| {
            let shards = contents.shards().get(&name.tenant);
            shards.copied().unwrap_or(1)
        });
        let name = (name, name.to_string());
        (0..shards).all(|number| {
            let tenant = name.0.tenant.clone();
            let slot = Shard { tenant, number }.slot(self.slot_count).0;
            self.is_applied_in(slot, &name.1, mod_revision)
        })
    }

    /// Whether the owner of a slot has a version of a resource in force, and who owned the slot before, if that one is
    /// there, knows that it no longer does.
    fn is_applied_in(&self, slot: u16, name: &str, mod_revision: Revision) -> bool {
        let (owner, previous, slots_revision) = self.cache.read(|contents| {
            let table = contents.slot_table();
            let id = |it: Option<&SlotOwner>| it.and_then(|it| it.agent_id.parse::<AgentId>().ok());
            (
                id(placement::owner(table, slot)),
                id(placement::previous(table, slot)),
                contents.slots_revision(),
            )
        });
        let Some((owner, applied)) = owner.and_then(|it| Some((it.clone(), self.applied(&it)?)))
        else {
            return false;
        };
        let has_it = self.fleet(|fleet| fleet.has_applied(&owner, applied, name, mod_revision));
        let previous = previous.and_then(|it| self.applied(&it));
        has_it && previous.is_none_or(|applied| applied >= slots_revision)
    }

    /// How far an agent is: it has answered here, or to another control plane that has noted it.
    fn applied(&self, agent: &AgentId) -> Option<Revision> {
        // Revisions of another store say nothing.
        let era = self.cache.read(|contents| contents.era().clone());
        let here = self.fleet(|fleet| {
            let agent = fleet.get(agent).filter(|it| it.era == era)?;
            Some(agent.applied)
        });
        here.or_else(|| {
            let noted = self.noted(agent);
            let noted = noted.filter(|it| it.store_era == era.as_str())?;
            Some(noted.applied_revision)
        })
    }

    fn noted(&self, id: &AgentId) -> Option<StoredAgent> {
        let key = keys::agent(id);
        let value = self
            .cache
            .read(|contents| contents.get(&key).map(|item| item.value.clone()));
        StoredAgent::decode(value?).ok()
    }
}

/// A name in a request.
fn parse<T: std::str::FromStr<Err = hookfleet_contract::name::Error>>(
    field: &str,
    text: &str,
) -> Result<T, ApiError> {
    text.parse()
        .map_err(|error| ApiError::invalid_field(field, format!("{error}")))
}

/// A resource that a request must have.
fn required<T>(field: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::invalid_field(field, "is required"))
}

/// How long old secrets stay of use.
fn overlap(asked: Option<prost_types::Duration>) -> Result<Duration, ApiError> {
    let Some(asked) = asked else {
        return Ok(DEFAULT_OVERLAP);
    };
    let overlap = Duration::try_from(asked)
        .ok()
        .filter(|it| *it <= MAX_OVERLAP);
    overlap.ok_or_else(|| ApiError::invalid_field("overlap", "must be 0 to 7 days"))
}

/// The result of a call, as tonic wants it.
fn respond<T>(result: Result<T, ApiError>) -> Result<tonic::Response<T>, Status> {
    result.map(tonic::Response::new).map_err(Status::from)
}
