//! What is told of deliveries: to the history for people, and through it to the log for the next
//! start.
//!
//! **Invariant:** the log learns of an outcome after the history has it. A crash in between makes an
//! attempt again; the other way round it would make a dead letter that nobody can find.

use std::{collections::HashMap, sync::Arc};

use hookfleet_contract::{id::DeliveryId, retry::Progress, time::Timestamp};
use hookfleet_proto::v1;

use crate::{
    callback::{Caller, Completed},
    clock::Clock,
    core::{End, Finished},
    history::{History, Report},
    journal::{Journal, Origin, Outcome, Standing, StoredEvent},
    metrics::Metrics,
    spans::Tracing,
};

/// Keeps account.
#[derive(Debug)]
pub(super) struct Account {
    history: History,
    journal: Journal,
    clock: Clock,
    metrics: Metrics,
    tracing: Tracing,
    /// Attempts whose meaning the core has not told yet.
    untold: HashMap<DeliveryId, Attempted>,
}

#[derive(Debug, Default)]
struct Attempted {
    record: Option<v1::Attempt>,
    event: Option<Arc<StoredEvent>>,
    is_parked: bool,
}

impl Account {
    pub(super) fn new(caller: &Caller, history: History) -> Self {
        Self {
            history,
            journal: caller.journal.clone(),
            clock: caller.clock,
            metrics: Metrics::new(),
            tracing: caller.tracing.clone(),
            untold: HashMap::new(),
        }
    }

    /// How much waits for the disk.
    pub(super) fn backlog(&self) -> usize {
        self.history.backlog()
    }

    /// How many outcomes the log has not taken yet.
    pub(super) fn n_unwritten(&self) -> usize {
        self.journal.n_outcomes_waiting()
    }

    /// An event was accepted.
    pub(super) fn accepted(&self, event: &Arc<StoredEvent>) {
        if event.origin != Origin::Parked {
            self.metrics.accepted(event);
            self.tracing.accepted(event, self.clock);
            self.history.accepted(Arc::clone(event));
        }
    }

    /// An attempt is over; what it means follows.
    pub(super) fn attempted(&mut self, completed: Completed) -> Finished {
        if let Some(attempt) = &completed.record {
            self.metrics.attempted(attempt);
        }
        let attempted = Attempted {
            record: completed.record,
            event: completed.event,
            is_parked: completed.is_parked,
        };
        self.untold.insert(completed.finished.delivery, attempted);
        completed.finished
    }

    /// There will be another attempt.
    pub(super) fn deferred(&mut self, delivery: DeliveryId, progress: Progress, due: Timestamp) {
        self.tell(delivery, progress, Standing::Deferred { due });
    }

    /// The delivery is over.
    pub(super) fn settled(&mut self, delivery: DeliveryId, progress: Progress, end: End) {
        let standing = match end {
            End::Succeeded => Standing::Succeeded,
            End::DeadLettered(reason) => Standing::DeadLettered(reason),
            End::HandedOver => Standing::HandedOver,
        };
        self.tell(delivery, progress, standing);
    }

    fn tell(&mut self, delivery: DeliveryId, progress: Progress, standing: Standing) {
        let attempted = self.untold.remove(&delivery).unwrap_or_default();
        let outcome = Outcome {
            delivery,
            progress,
            standing,
            at: self.clock.now(),
        };
        if attempted.is_parked {
            // People are told by the owner; and how often it was tried is of no use to anybody.
            if outcome.standing.is_settled() {
                self.journal.record(outcome);
            }
            return;
        }
        let event = attempted.event.as_ref();
        let age = event.map(|it| outcome.at.since(it.accept_time));
        self.metrics.settled(outcome.standing, age);
        self.history.record(Report {
            outcome,
            attempt: attempted.record,
            event: attempted.event,
        });
    }
}
