//! How an agent leaves a fleet that goes on: its slots go to others, then what waits here, and when nothing is left it may
//! end. Nobody is refused meanwhile: what is published here goes to the new owners.

use std::time::Duration;

use hookfleet_proto::fleet::Leftovers;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    driver,
    journal::Journal,
    slots::{self, Slots},
};

/// How often it is looked whether anything is left.
const PERIOD: Duration = Duration::from_millis(50);
/// A control plane that is there moves slots sooner.
const SLOTS_TIMEOUT: Duration = Duration::from_secs(5);

/// What leaving takes.
#[derive(Debug)]
pub struct Drain {
    /// This agent.
    pub agent_id: String,
    /// Who owns which slot.
    pub slots: Slots,
    /// What is still here of slots of others.
    pub leftovers: watch::Receiver<Option<Leftovers>>,
    /// Who knows what waits.
    pub driver: driver::Handle,
    /// Tells the control plane.
    pub draining: watch::Sender<bool>,
    /// Cancelled once nothing more is accepted here.
    pub closed: CancellationToken,
    /// What began before that.
    pub publishes: TaskTracker,
    /// Where accepted events are.
    pub journal: Journal,
}

// === impl Drain ===

impl Drain {
    /// Leaves, for `patience` at most. Whether nothing is left.
    pub async fn run(mut self, patience: Duration) -> bool {
        let table = self.slots.table();
        let is_alone = table.owners.iter().all(|it| it.agent_id == self.agent_id);
        if is_alone {
            // There is nobody to take anything.
            return self.is_empty();
        }
        self.draining.send_replace(true);
        timeout(patience, self.leave()).await.unwrap_or(false)
    }

    async fn leave(&mut self) -> bool {
        let Ok(version) = timeout(SLOTS_TIMEOUT, self.slots_gone()).await else {
            tracing::warn!("nobody takes the slots; what waits here waits for the next start");
            return self.is_empty();
        };
        let is_gone = |left: &Option<Leftovers>| {
            let left = left.as_ref();
            left.is_some_and(|it| it.slot_table_version >= version && it.slots.is_empty())
        };
        if self.leftovers.wait_for(is_gone).await.is_err() {
            return false;
        }
        // What is parked here for others goes too, before publishers are sent to where its successors may pass it.
        self.emptied().await;
        self.closed.cancel();
        self.publishes.close();
        self.publishes.wait().await;
        // The driver has heard of everything that they left here once it answers.
        drop(self.driver.shards(self.journal.stats().next_seq).await);
        self.emptied().await;
        true
    }

    async fn emptied(&self) {
        while !self.is_empty() {
            sleep(PERIOD).await;
        }
    }

    /// Waits until every slot has another owner; returns the version of the table that says so.
    async fn slots_gone(&self) -> i64 {
        loop {
            let table = self.slots.table();
            if !slots::owns_any(&table, &self.agent_id) {
                return table.version;
            }
            self.slots.reached(table.version + 1).await;
        }
    }

    fn is_empty(&self) -> bool {
        let counts = self.driver.counts();
        counts.n_waiting == 0 && counts.n_in_flight == 0
    }
}
