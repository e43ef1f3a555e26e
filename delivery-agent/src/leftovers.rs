//! What this agent still has of slots that other agents own now. The control plane hears of it, and keeps telling this
//! agent of the subscriptions until nothing is left.
//!
//! **Invariant:** what is told of a version of the slot table counts everything that was accepted under older ones, and
//! leaves nothing out that a crash could bring back.

use std::{collections::BTreeSet, time::Duration};

use hookfleet_contract::shard::Shard;
use hookfleet_proto::fleet::{Leftovers, SlotTable};
use tokio::{sync::watch, time::timeout};

use crate::{
    driver,
    history::History,
    journal::Journal,
    relay::parking,
    slots::{self, Slots},
};

/// How often what is left is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Looks for what is left.
#[derive(Debug)]
pub struct Watcher {
    /// This agent.
    pub agent_id: String,
    /// Who owns which slot.
    pub slots: Slots,
    /// Where accepted events go.
    pub journal: Journal,
    /// Where outcomes go first.
    pub history: History,
    /// Who knows what waits.
    pub driver: driver::Handle,
    /// Where it is told.
    pub told: watch::Sender<Option<Leftovers>>,
}

// === impl Watcher ===

impl Watcher {
    /// Looks for as long as it is polled.
    pub async fn run(self) {
        loop {
            let table = self.slots.table();
            let left = self.look(&table).await;
            let is_over = left.as_ref().is_some_and(|it| it.slots.is_empty());
            self.told.send_if_modified(|told| {
                let is_new = left.is_some() && *told != left;
                if is_new {
                    *told = left;
                }
                is_new
            });
            let changed = self.slots.reached(table.version + 1);
            if is_over {
                changed.await;
            } else {
                drop(timeout(PERIOD, changed).await);
            }
        }
    }

    /// What is left under this table, once that is known.
    async fn look(&self, table: &SlotTable) -> Option<Leftovers> {
        if table.slot_owners.is_empty() {
            // Nobody owns anything yet, so nothing is somebody else's.
            return None;
        }
        self.slots.settle().await;
        let shards = self.driver.shards(self.journal.stats().next_seq).await?;
        let shards = of_others(table, &self.agent_id, shards);
        let left: BTreeSet<i32> = shards
            .iter()
            .filter_map(|shard| slots::slot(table, shard))
            .map(i32::from)
            .collect();
        if left.is_empty() {
            // What was settled must be settled after a crash too.
            self.history.flush().await;
            self.journal.flush().await.ok()?;
        } else {
            self.driver.leave(shards).await;
        }
        Some(Leftovers {
            slot_table_version: table.version,
            slots: left.into_iter().collect(),
        })
    }
}

/// Those of the shards whose slots the agent does not own.
fn of_others(table: &SlotTable, agent_id: &str, mut shards: BTreeSet<Shard>) -> BTreeSet<Shard> {
    let is_parked = |it: &Shard| it.tenant.as_str() == parking::TENANT;
    shards.retain(|it| !is_parked(it) && !slots::is_owner(table, it, agent_id));
    shards
}
