//! `hookfleet fleet`: look at the agents and say how slots are placed.

use std::time::Duration;

use clap::{Args, Subcommand};
use hookfleet_gateway::peers::Peer;
use hookfleet_proto::v1::{
    AcceptStoreRequest, Agent, FleetPolicy, GetFleetPolicyRequest, GetPlacementRequest,
    GetStoreStatusRequest, ListAgentsRequest, Placement, SlotPin, StoreStatus,
    UpdateFleetPolicyRequest, fleet_service_client::FleetServiceClient, store_status,
};
use tokio::time::sleep;

use crate::{
    client::Client,
    output::{self, Output},
};

/// Between looks of `watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Look at the agents and say how slots are placed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the agents: their slots, what waits there, and what is on its way between them.
    Status,
    /// Show the status whenever it changes.
    Watch,
    /// Show which agent owns which slots.
    Placement,
    /// Show how the store stands with the control plane that answers.
    Store,
    /// Believe a store that was wiped, restored or emptied, as it is now. What it lacks is gone then.
    AcceptStore,
    /// Move all slots away from an agent, and keep them away. One that is gone is not waited for.
    Drain {
        /// The agent's id.
        agent: String,
        /// Return once nothing is left there.
        #[arg(long)]
        wait: bool,
    },
    /// Let a drained agent have slots again.
    Undrain {
        /// The agent's id.
        agent: String,
    },
    /// Let no slot change hands.
    Freeze,
    /// Let slots change hands again.
    Unfreeze,
    /// Put a slot at an agent, whatever its share.
    Pin {
        /// The slot.
        slot: i32,
        /// The agent's id.
        agent: String,
    },
    /// Let a pinned slot be placed as others are.
    Unpin {
        /// The slot.
        slot: i32,
    },
}

struct Fleet(FleetServiceClient<Peer>);

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let output = self.client.output;
        let channel = self.client.connect().await?;
        let mut fleet = Fleet(FleetServiceClient::new(channel));
        match self.verb {
            Verb::Status => {
                if output == Output::Table {
                    print_store(output, &fleet.store().await?)?;
                    output::line("");
                }
                print_agents(output, &fleet.agents().await?)?;
            }
            Verb::Store => print_store(output, &fleet.store().await?)?,
            Verb::AcceptStore => {
                fleet.accept_store().await?;
                print_store(output, &fleet.store().await?)?;
            }
            Verb::Watch => fleet.watch(output).await?,
            Verb::Placement => print_placement(output, &fleet.placement().await?)?,
            Verb::Drain { agent, wait } => {
                let name = name(&agent);
                let drained = |policy: &mut FleetPolicy| {
                    policy.drained_agents.push(name.clone());
                };
                fleet.change(drained).await?;
                if wait {
                    fleet.drained(&name).await?;
                }
            }
            Verb::Undrain { agent } => {
                let name = name(&agent);
                let undrained = |policy: &mut FleetPolicy| {
                    policy.drained_agents.retain(|it| *it != name);
                };
                fleet.change(undrained).await?;
            }
            Verb::Freeze => fleet.change(|policy| policy.frozen = true).await?,
            Verb::Unfreeze => fleet.change(|policy| policy.frozen = false).await?,
            Verb::Pin { slot, agent } => {
                let pinned = |policy: &mut FleetPolicy| {
                    policy.pins.retain(|it| it.slot != slot);
                    let agent = name(&agent);
                    policy.pins.push(SlotPin { slot, agent });
                };
                fleet.change(pinned).await?;
            }
            Verb::Unpin { slot } => {
                let unpinned = |policy: &mut FleetPolicy| policy.pins.retain(|it| it.slot != slot);
                fleet.change(unpinned).await?;
            }
        }
        Ok(())
    }
}

// === impl Fleet ===

impl Fleet {
    async fn agents(&mut self) -> anyhow::Result<Vec<Agent>> {
        let mut request = ListAgentsRequest::default();
        let mut found = Vec::new();
        loop {
            let page = self.0.list_agents(request.clone()).await?.into_inner();
            found.extend(page.agents);
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    }

    async fn placement(&mut self) -> anyhow::Result<Placement> {
        let placement = self.0.get_placement(GetPlacementRequest {}).await?;
        Ok(placement.into_inner())
    }

    async fn store(&mut self) -> anyhow::Result<StoreStatus> {
        let status = self.0.get_store_status(GetStoreStatusRequest {}).await?;
        Ok(status.into_inner())
    }

    /// Accepts the store, and waits until the control plane goes by it.
    async fn accept_store(&mut self) -> anyhow::Result<()> {
        let era = self.store().await?.era;
        let request = AcceptStoreRequest { era: era.clone() };
        self.0.accept_store(request).await?;
        loop {
            let status = self.store().await?;
            if status.era != era && status.state() == store_status::State::Followed {
                return Ok(());
            }
            sleep(PERIOD).await;
        }
    }

    /// Changes the policy, unless somebody else does at the same time.
    async fn change(&mut self, change: impl Fn(&mut FleetPolicy)) -> anyhow::Result<()> {
        let policy = self.0.get_fleet_policy(GetFleetPolicyRequest {}).await?;
        let mut policy = policy.into_inner();
        change(&mut policy);
        let fleet_policy = Some(policy);
        self.0
            .update_fleet_policy(UpdateFleetPolicyRequest { fleet_policy })
            .await?;
        Ok(())
    }

    async fn watch(&mut self, output: Output) -> anyhow::Result<()> {
        let mut shown = Vec::new();
        loop {
            let agents = self.agents().await?;
            let mut news = agents.clone();
            for agent in &mut news {
                // That it lives is no news, nor that time passes.
                agent.last_heartbeat_time = None;
                agent.config_lag = None;
                agent.silence = None;
            }
            if news != shown {
                print_agents(output, &agents)?;
                output::line("");
                shown = news;
            }
            sleep(PERIOD).await;
        }
    }

    /// Waits until an agent has no slots and nothing of others.
    async fn drained(&mut self, name: &str) -> anyhow::Result<()> {
        loop {
            let agents = self.agents().await?;
            let agent = agents.iter().find(|it| it.name == name);
            let is_over = |it: &Agent| {
                it.slot_count == 0 && it.leaving_slot_count == 0 && it.pending_delivery_count == 0
            };
            match agent {
                Some(agent) if !is_over(agent) => output::progress(format_args!(
                    "{} slots, {} leaving, {} deliveries",
                    agent.slot_count, agent.leaving_slot_count, agent.pending_delivery_count
                )),
                Some(_) | None => return Ok(()),
            }
            sleep(PERIOD).await;
        }
    }
}

fn name(agent: &str) -> String {
    format!("agents/{agent}")
}

fn print_agents(output: Output, agents: &[Agent]) -> anyhow::Result<()> {
    if output == Output::Json {
        for agent in agents {
            output::json("hookfleet.v1.Agent", agent)?;
        }
        return Ok(());
    }
    let header = [
        "NAME", "STATE", "ZONE", "WEIGHT", "SLOTS", "ARRIVING", "LEAVING", "PENDING", "REVISION",
        "BEHIND", "SILENT", "VERSION", "ADDRESS",
    ];
    let rows = agents.iter().map(|it| {
        vec![
            it.name.clone(),
            it.state().as_str_name().to_owned(),
            it.zone.clone(),
            it.weight.to_string(),
            it.slot_count.to_string(),
            it.arriving_slot_count.to_string(),
            it.leaving_slot_count.to_string(),
            it.pending_delivery_count.to_string(),
            it.applied_revision.to_string(),
            age(it.config_lag),
            age(it.silence),
            it.version.clone(),
            it.address.clone(),
        ]
    });
    output::table(&header, rows);
    Ok(())
}

/// Whole seconds; `-` where there is nothing to wait for.
fn age(duration: Option<prost_types::Duration>) -> String {
    match duration.map_or(0, |it| it.seconds) {
        0 => "-".to_owned(),
        seconds => format!("{seconds}s"),
    }
}

fn print_store(output: Output, store: &StoreStatus) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json("hookfleet.v1.StoreStatus", store);
    }
    let row = vec![
        store.state().as_str_name().to_owned(),
        store.revision.to_string(),
        store.subscription_count.to_string(),
        store.mend_count.to_string(),
        store.reason.clone(),
    ];
    output::table(
        &["STORE", "REVISION", "SUBSCRIPTIONS", "MENDED", "REASON"],
        [row],
    );
    Ok(())
}

fn print_placement(output: Output, placement: &Placement) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json("hookfleet.v1.Placement", placement);
    }
    let rows = placement.ranges.iter().map(|it| {
        vec![
            format!("{}-{}", it.first_slot, it.last_slot),
            it.agent.clone(),
            it.epoch.to_string(),
            it.previous_agent.clone(),
        ]
    });
    output::table(&["SLOTS", "AGENT", "EPOCH", "PREVIOUS"], rows);
    Ok(())
}
