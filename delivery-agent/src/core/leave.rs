//! Subscriptions whose deliveries go on at another agent: nothing of theirs starts any more here, and once nothing is in
//! flight, what waits is handed over, some of each queue at a time and in order.
//!
//! **Invariant:** of a queue, one lot at most is being handed over, and it is in nobody else's hands meanwhile.

use std::collections::BTreeSet;

use hookfleet_contract::{partition::UNORDERED, shard::Shard, time::Timestamp};

use super::{
    Command, Core, End, QueueId, Waiting, ended,
    queue::{ALWAYS, LOAD_MAX},
    subscription::Phase,
};

/// The most bytes of events in one lot, unless the first has more.
const LOT_BYTES: u64 = 2 << 20;

impl Core {
    /// The deliveries in these shards are to go on elsewhere, as far as that is possible.
    pub fn handle_leaving(&mut self, shards: &BTreeSet<Shard>, now: Timestamp) {
        for key in self.tables.of(shards) {
            self.tables.subscriptions[key].leaving = true;
            self.refresh(key, now);
        }
    }

    /// A lot of [`Command::HandOver`] is at the other agent, or could not be taken there.
    pub fn handle_handed(
        &mut self,
        id: QueueId,
        lot: Vec<Waiting>,
        is_taken: bool,
        now: Timestamp,
    ) {
        let Some(key) = self.tables.find(&id.subscription) else {
            debug_assert!(false, "a queue stays while it is handed over");
            return;
        };
        let subscription = &mut self.tables.subscriptions[key];
        let has_ended = matches!(subscription.phase, Phase::Ended);
        subscription.queue(id.partition).handing = false;
        if is_taken || has_ended {
            let end = if is_taken { End::HandedOver } else { ended() };
            for it in lot {
                self.settle(it.delivery, it.progress, end);
            }
        } else {
            // Then it goes on here.
            subscription.leaving = false;
            self.take_back(key, id.partition, lot);
        }
        self.tables.subscriptions[key].sort(id.partition, now);
        self.refresh(key, now);
    }

    /// Hands over what waits, as far as nothing is under way.
    pub(super) fn hand_over(&mut self, key: usize, now: Timestamp) {
        let subscription = &mut self.tables.subscriptions[key];
        let is_live = subscription.phase.live().is_some();
        if !(subscription.leaving && is_live && subscription.in_flight == 0) {
            return;
        }
        for partition in subscription.partitions() {
            let uid = subscription.uid;
            let id = QueueId {
                subscription: uid,
                partition,
            };
            let queue = subscription.queue(partition);
            if queue.handing || queue.loading {
                continue;
            }
            let lot = queue.take_lot(LOAD_MAX, LOT_BYTES);
            if !lot.is_empty() {
                queue.handing = true;
                self.n_in_memory -= lot.len();
                self.commands
                    .push_back(Command::HandOver { queue: id, lot });
            } else if queue.next_due.take().is_some() {
                queue.loading = true;
                self.commands.push_back(Command::Load {
                    queue: id,
                    until: ALWAYS,
                    limit: LOAD_MAX,
                });
            }
            subscription.sort(partition, now);
        }
    }

    fn take_back(&mut self, key: usize, partition: u16, lot: Vec<Waiting>) {
        if partition == UNORDERED {
            for it in lot {
                self.defer(key, partition, it, false);
            }
        } else {
            // Nothing goes past them.
            let head = &mut self.tables.subscriptions[key].queue(partition).head;
            self.n_in_memory += lot.len();
            for it in lot.into_iter().rev() {
                head.push_front(it);
            }
        }
    }
}
