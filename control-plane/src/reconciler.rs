//! Puts the placement into the store: looks at who is there, asks [`placement::solve`], and swaps the slot table.
//!
//! Every control plane runs one; the leader's decides. **Invariant:** the table is only ever replaced by one that was
//! made from it, by the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::{SlotTable, StoredAgent, StoredPolicy};
use prost::Message as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api,
    cache::Contents,
    keys,
    leader::Leadership,
    placement::{self, Absences, Member, Policy, Problem},
    store::{Error, Outcome, Revision, Txn},
};

/// Time alone makes an owner lost, so it is looked at even when nothing changes.
const PERIOD: Duration = Duration::from_secs(1);

/// What the placement is made of, at one moment.
struct Observed {
    agents: BTreeMap<AgentId, Member>,
    policy: Policy,
    table: Arc<SlotTable>,
    revision: Revision,
    has_leader: bool,
}

/// Reconciles until `shutdown`. An owner that is away is lost after `hold`, besides the life of its lease.
pub(crate) async fn run(api: Arc<Api>, id: String, hold: Duration, shutdown: CancellationToken) {
    let mut progress = api.cache.progress();
    let mut leadership = Leadership::new(Arc::clone(&api.store), id);
    let mut absences = Absences::new(hold);
    while !shutdown.is_cancelled() {
        if progress.borrow_and_update().ready {
            match reconcile(&api, &mut leadership, &mut absences).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "cannot place slots"),
            }
        }
        // A change or a second, whichever comes first.
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = timeout(PERIOD, progress.changed()) => drop(changed),
        }
    }
    leadership.resign().await;
}

async fn reconcile(
    api: &Api,
    leadership: &mut Leadership,
    absences: &mut Absences,
) -> Result<(), Error> {
    let now = api.clock.steady();
    let observed = api.cache.read(observe);
    if !leadership.keep(!observed.has_leader, now).await? {
        // Whoever leads next counts from then on: what it has not seen itself is held against nobody.
        absences.forget();
        return Ok(());
    }
    let owners: BTreeSet<AgentId> = observed
        .table
        .owners
        .iter()
        .filter_map(|owner| owner.agent_id.parse().ok())
        .collect();
    let is_there = |agent: &AgentId| observed.agents.contains_key(agent);
    let problem = Problem {
        slot_count: api.slot_count,
        lost: absences.observe(owners, is_there, &observed.policy.drained, now),
        agents: observed.agents,
        policy: observed.policy,
    };
    let Some(next) = placement::solve(&problem, &observed.table) else {
        return Ok(());
    };
    let txn = match observed.revision {
        0 => Txn::new().absent(keys::SLOTS),
        revision => Txn::new().unchanged(keys::SLOTS, revision),
    };
    let Some(txn) = leadership.guard(txn.put(keys::SLOTS, next.encode_to_vec())) else {
        return Ok(());
    };
    match api.store.commit(txn).await? {
        Outcome::Committed(_) => {
            tracing::info!(version = next.version, owners = ?next.owners, lost = ?problem.lost, "slots placed");
        }
        // The cache has not seen our own change yet, or another control plane leads; the next renewal tells.
        Outcome::Conflict => {}
    }
    Ok(())
}

fn observe(contents: &Contents) -> Observed {
    let policy = contents.get(keys::POLICY);
    let policy = policy.and_then(|item| StoredPolicy::decode(item.value.clone()).ok());
    let policy = Policy::from(policy.unwrap_or_default());
    let agents = contents
        .with_prefix(keys::AGENTS)
        .filter_map(|(key, item)| {
            let id: AgentId = key.strip_prefix(keys::AGENTS)?.parse().ok()?;
            let agent = StoredAgent::decode(item.value.clone()).ok()?;
            let weight = u32::try_from(agent.weight).ok().filter(|it| *it > 0);
            let weight = weight.unwrap_or(placement::DEFAULT_WEIGHT);
            let wants_none = agent.draining || policy.drained.contains(&id);
            let member = Member {
                address: agent.address,
                weight: if wants_none { 0 } else { weight },
                leftovers: agent.leftovers.unwrap_or_default(),
            };
            Some((id, member))
        });
    Observed {
        agents: agents.collect(),
        table: Arc::clone(contents.slot_table()),
        revision: contents.slots_revision(),
        has_leader: contents.get(keys::LEADER).is_some(),
        policy,
    }
}
