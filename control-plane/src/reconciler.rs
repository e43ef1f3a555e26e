//! Puts the placement into the store: looks at who is there, asks [`placement::solve`], and swaps the slot table.
//!
//! Every control plane runs one. **Invariant:** the table is only ever replaced by one that was made from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::{SlotTable, StoredAgent};
use prost::Message as _;
use tokio::time::timeout;

use crate::{
    api::Api,
    cache::Contents,
    keys,
    placement::{self, Absences, Member, Problem},
    store::{Error, Outcome, Revision, Txn},
};

/// Time alone makes an owner lost, so it is looked at even when nothing changes.
const PERIOD: Duration = Duration::from_secs(1);

/// Reconciles for as long as it is polled.
pub(crate) async fn run(api: Arc<Api>) {
    let mut progress = api.cache.progress();
    let mut absences = Absences::default();
    loop {
        if progress.borrow_and_update().ready {
            match reconcile(&api, &mut absences).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "cannot place slots"),
            }
        }
        // A change or a second, whichever comes first.
        drop(timeout(PERIOD, progress.changed()).await);
    }
}

async fn reconcile(api: &Api, absences: &mut Absences) -> Result<(), Error> {
    let now = api.clock.steady();
    let (agents, table, revision) = api.cache.read(observe);
    let owners: BTreeSet<AgentId> = table
        .owners
        .iter()
        .filter_map(|owner| owner.agent_id.parse().ok())
        .collect();
    let lost = absences.observe(owners, |agent| agents.contains_key(agent), now);
    let problem = Problem {
        slot_count: api.slot_count,
        agents,
        lost,
    };
    let Some(next) = placement::solve(&problem, &table) else {
        return Ok(());
    };
    let txn = match revision {
        0 => Txn::new().absent(keys::SLOTS),
        revision => Txn::new().unchanged(keys::SLOTS, revision),
    };
    match api
        .store
        .commit(txn.put(keys::SLOTS, next.encode_to_vec()))
        .await?
    {
        Outcome::Committed(_) => {
            tracing::info!(version = next.version, owners = ?next.owners, lost = ?problem.lost, "slots placed");
        }
        // Another control plane was faster, or the cache has not seen our own change yet.
        Outcome::Conflict => {}
    }
    Ok(())
}

fn observe(contents: &Contents) -> (BTreeMap<AgentId, Member>, Arc<SlotTable>, Revision) {
    let agents = contents
        .with_prefix(keys::AGENTS)
        .filter_map(|(key, item)| {
            let id = key.strip_prefix(keys::AGENTS)?.parse().ok()?;
            let agent = StoredAgent::decode(item.value.clone()).ok()?;
            let weight = u32::try_from(agent.weight).ok().filter(|it| *it > 0);
            let weight = weight.unwrap_or(placement::DEFAULT_WEIGHT);
            let member = Member {
                address: agent.address,
                weight: if agent.draining { 0 } else { weight },
                leftovers: agent.leftovers.unwrap_or_default(),
            };
            Some((id, member))
        });
    (
        agents.collect(),
        Arc::clone(contents.slot_table()),
        contents.slots_revision(),
    )
}
