//! What is told of deliveries: to the history for people, and through it to the log for the next
//! start.
//!
//! **Invariant:** the log learns of an outcome after the history has it. A crash in between makes an
//! attempt again; the other way round it would make a dead letter that nobody can find.

use std::{collections::HashMap, sync::Arc};

use hookfleet_contract::{event::Event, id::DeliveryId, retry::Progress, time::Timestamp};
use hookfleet_proto::v1;

use crate::{
    callback::Completed,
    clock::Clock,
    core::{End, Finished},
    history::{DeliveryRow, EventRow, History, Row, Standing, Subject},
    journal::{self, Journal, Outcome, StoredEvent},
};

/// Keeps account.
#[derive(Debug)]
pub(super) struct Account {
    journal: Journal,
    history: History,
    clock: Clock,
    /// Attempts whose meaning the core has not told yet.
    untold: HashMap<DeliveryId, Attempted>,
}

#[derive(Debug, Default)]
struct Attempted {
    record: Option<v1::Attempt>,
    event: Option<Arc<StoredEvent>>,
}

impl Account {
    pub(super) fn new(journal: Journal, history: History, clock: Clock) -> Self {
        Self {
            journal,
            history,
            clock,
            untold: HashMap::new(),
        }
    }

    /// How much waits for the disk.
    pub(super) fn backlog(&self) -> usize {
        self.history.backlog()
    }

    /// An event was accepted.
    pub(super) fn accepted(&self, event: &StoredEvent) {
        if event.targets.is_empty() {
            // Without deliveries nothing else would tell where it is found.
            let row = EventRow {
                tenant: event.tenant.clone(),
                webhook_id: event.webhook_id,
                accept_time: event.accept_time,
                seq: event.seq,
            };
            self.history.record(Row::Event(row), None);
        }
        let event_type = event_type(event);
        for (id, _) in event.deliveries() {
            let row = DeliveryRow::Accepted {
                id,
                accept_time: event.accept_time,
                subject: subject(event, id, &event_type),
            };
            self.history.record(Row::Delivery(row), None);
        }
    }

    /// An attempt is over; what it means follows.
    pub(super) fn attempted(&mut self, completed: Completed) -> Finished {
        let attempted = Attempted {
            record: completed.record,
            event: completed.event,
        };
        self.untold.insert(completed.finished.delivery, attempted);
        completed.finished
    }

    /// There will be another attempt.
    pub(super) fn deferred(&mut self, delivery: DeliveryId, progress: Progress, due: Timestamp) {
        let standing = journal::Standing::Deferred { due };
        self.tell(delivery, progress, standing, |_| Standing::Pending {
            next: due,
        });
    }

    /// The delivery is over. Dead letters keep their event, so that it can be delivered again when
    /// the journal has forgotten it.
    pub(super) fn settled(&mut self, delivery: DeliveryId, progress: Progress, end: End) {
        let standing = match end {
            End::Succeeded => journal::Standing::Succeeded,
            End::DeadLettered(reason) => journal::Standing::DeadLettered(reason),
        };
        self.tell(delivery, progress, standing, |event| match end {
            End::Succeeded => Standing::Succeeded,
            End::DeadLettered(reason) => Standing::DeadLettered {
                reason,
                event: event.event.clone(),
            },
        });
    }

    fn tell(
        &mut self,
        delivery: DeliveryId,
        progress: Progress,
        standing: journal::Standing,
        told: impl FnOnce(&StoredEvent) -> Standing,
    ) {
        let at = self.clock.now();
        let outcome = Outcome {
            delivery,
            progress,
            standing,
            at,
        };
        let attempted = self.untold.remove(&delivery).unwrap_or_default();
        let read = || self.journal.read(delivery.seq).ok().flatten();
        let Some(event) = attempted.event.or_else(read) else {
            tracing::error!(%delivery, "the history has a gap: the event cannot be read");
            self.journal.record(outcome);
            return;
        };
        let (id, accept_time) = (delivery, event.accept_time);
        let subject = subject(&event, delivery, &event_type(&event));
        let standing = told(&event);
        let row = match attempted.record {
            Some(attempt) => DeliveryRow::Attempted {
                id,
                accept_time,
                subject,
                attempt,
                standing,
            },
            None => DeliveryRow::Settled {
                id,
                accept_time,
                subject,
                standing,
                at,
            },
        };
        self.history.record(Row::Delivery(row), Some(outcome));
    }
}

fn event_type(event: &StoredEvent) -> Arc<str> {
    let decoded = Event::decode(&event.event);
    decoded.map_or_else(|_| "".into(), |it| it.event_type().into())
}

fn subject(event: &StoredEvent, delivery: DeliveryId, event_type: &Arc<str>) -> Subject {
    let target = usize::try_from(delivery.target).ok();
    let target = target
        .and_then(|it| event.targets.get(it))
        .or(event.targets.first());
    Subject {
        tenant: event.tenant.clone(),
        subscription: match target {
            Some(target) => target.subscription.clone(),
            None => unreachable!("a delivery has a target"),
        },
        webhook_id: event.webhook_id,
        event_type: Arc::clone(event_type),
        redelivery_of: event.redelivery_of,
    }
}
