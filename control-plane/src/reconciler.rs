//! Puts the placement into the store: looks at who is there, asks [`placement::solve`], and swaps the slot table.
//!
//! Every control plane runs one; the leader's decides. **Invariant:** the table is only ever replaced by one that was
//! made from it, by the leader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hookfleet_contract::{name::AgentId, zone::Zone};
use hookfleet_proto::fleet::{SlotOwner, SlotTable, StoredAgent, StoredPolicy};
use prost::Message as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api,
    cache::Contents,
    keys,
    leader::Leadership,
    metrics,
    placement::{self, Absences, Arrivals, Member, Policy, Problem, Ramp, Zones},
    store::{Error, Outcome, Revision, Txn},
};

/// Time alone makes an owner lost, and lets a newcomer have more, so it is looked at even when nothing changes.
const PERIOD: Duration = Duration::from_secs(1);

/// What the placement is made of, at one moment.
struct Observed {
    agents: BTreeMap<AgentId, Member>,
    policy: Policy,
    table: Arc<SlotTable>,
    revision: Revision,
    has_leader: bool,
}

/// What this control plane has seen.
struct Watched {
    /// While it led.
    absences: Absences,
    /// Since it started.
    arrivals: Arrivals,
}

/// Reconciles until `shutdown`. An owner that is away is lost after `hold`, besides the life of its lease; an agent that
/// joins waits a `ramp` for each further quarter of its share.
pub(crate) async fn run(
    api: Arc<Api>,
    id: String,
    hold: Duration,
    ramp: Duration,
    shutdown: CancellationToken,
) {
    let mut progress = api.cache.progress();
    let mut leadership = Leadership::new(Arc::clone(&api.store), id);
    metrics::observe_leader(&api, leadership.until());
    let mut watched = Watched {
        absences: Absences::new(hold),
        arrivals: Arrivals::new(ramp),
    };
    while !shutdown.is_cancelled() {
        if progress.borrow_and_update().ready {
            match reconcile(&api, &mut leadership, &mut watched).await {
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
    watched: &mut Watched,
) -> Result<(), Error> {
    let now = api.clock.steady();
    let mut observed = api.cache.read(observe);
    let owner = |it: &SlotOwner| Some((it.agent_id.parse().ok()?, zone(&it.zone)));
    let owners: Zones = observed.table.owners.iter().filter_map(owner).collect();
    let seen = api.clock.now();
    api.fleet(|fleet| fleet.see(observed.agents.keys(), |it| owners.contains_key(it), seen));
    // Whoever leads next has seen newcomers come.
    watched.arrivals.observe(&mut observed.agents, now);
    if !leadership.keep(!observed.has_leader, now).await? {
        // Whoever leads next counts from then on: what it has not seen itself is held against nobody.
        watched.absences.forget();
        return Ok(());
    }
    let there = observed.agents.iter();
    let there: Zones = there
        .map(|(id, it)| (id.clone(), it.zone.clone()))
        .collect();
    let drained = &observed.policy.drained;
    let problem = Problem {
        slot_count: api.slot_count,
        lost: watched.absences.observe(&owners, &there, drained, now),
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
                zone: zone(&agent.zone),
                incarnation: agent.incarnation,
                ramp: Ramp::default(),
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

/// None if there is none, or it is none that this version knows.
fn zone(text: &str) -> Option<Zone> {
    Zone::optional(text).ok().flatten()
}
