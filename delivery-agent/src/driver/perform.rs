//! What the core asks for, done.

use std::time::Duration;

use hookfleet_contract::{id::DeliveryId, response::Verdict, retry::Jitter, time::Timestamp};
use hookfleet_proto::v1::DeadLetterReason;

use tokio::sync::mpsc;

use super::{Driver, Reviewed, hints};
use crate::{
    callback::Completed,
    core::{Attempt, Command, Finished, QueueId, Waiting},
    relay::{handover::Lot, parking::PARKED},
};

impl Driver {
    /// Performs everything the core asks for, or all but new attempts; returns the time it is left at.
    pub(super) fn perform(&mut self, may_start: bool) -> Timestamp {
        let mut now = self.clock.now();
        while let Some(command) = match may_start {
            true => self.core.poll_command(now),
            false => self.core.poll_consequence(),
        } {
            if let Command::Attempt(attempt) = command {
                self.start(attempt, now);
            } else {
                self.carry_out(command);
            }
            now = self.clock.now();
        }
        self.counts.set(self.core.counts());
        now
    }

    fn start(&mut self, attempt: Attempt, now: Timestamp) {
        let completions = self.completions.0.clone();
        if attempt.subscription == PARKED {
            let courier = self.courier.clone();
            self.tasks.spawn(async move {
                end(completions, courier.carry(attempt).await);
            });
            return;
        }
        let Some(subscription) = self.directory.subscription(&attempt.subscription) else {
            // Gone since the core was told of it; the word of that is on its way.
            let reason = DeadLetterReason::SubscriptionEnded;
            self.core
                .handle_finished(refused(attempt, reason, now), now);
            return;
        };
        let caller = self.caller.clone();
        self.tasks.spawn(async move {
            // Apart, because a task is moved about before it runs, and an attempt has 4 KiB.
            let called = Box::pin(caller.call(attempt, subscription));
            end(completions, called.await);
        });
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Attempt(_) => unreachable!("started by `perform`"),
            Command::Review { queue, delivery } => self.review(queue, delivery),
            Command::Defer {
                queue,
                waiting,
                failed,
            } => {
                if failed {
                    self.postponed(&waiting);
                }
                self.disk_queue.defer(queue, waiting);
            }
            Command::Postpone { waiting } => self.postponed(&waiting),
            Command::Load {
                queue,
                until,
                limit,
            } => self.disk_queue.load(queue, until, limit),
            Command::HandOver { queue, lot } => self.hand_over(queue, lot),
            Command::Settle {
                delivery,
                progress,
                end,
            } => self.account.settled(delivery, progress, end),
            Command::Suspend {
                subscription,
                reason,
            } => {
                let subscription = self.directory.subscription(&subscription);
                if let Some(subscription) = subscription
                    && self.suspensions.send((subscription, reason)).is_err()
                {
                    tracing::debug!("the sync client has ended");
                }
            }
        }
    }

    fn hand_over(&mut self, queue: QueueId, deliveries: Vec<Waiting>) {
        let now = self.clock.now();
        let Some(subscription) = self.directory.subscription(&queue.subscription) else {
            // Gone since the core was told of it; the word of that is on its way.
            self.core.handle_handed(queue, deliveries, false, now);
            return;
        };
        let health = hints::encode(&self.core.hints_of(&queue.subscription, now));
        let lot = Lot {
            subscription,
            queue,
            deliveries,
            health,
        };
        if let Err(unsent) = self.lots.send(lot) {
            self.core
                .handle_handed(queue, unsent.0.deliveries, false, now);
        }
    }

    fn postponed(&mut self, waiting: &Waiting) {
        self.account
            .deferred(waiting.delivery, waiting.progress, waiting.due);
    }

    /// Reads the event of a delivery that waits for long, beside everything else.
    fn review(&self, queue: QueueId, delivery: DeliveryId) {
        let subscription = self.directory.subscription(&queue.subscription);
        let (caller, reviews) = (self.caller.clone(), self.reviews.0.clone());
        self.tasks.spawn_blocking(move || {
            let over = subscription.and_then(|it| caller.review(delivery, &it));
            let reviewed = Reviewed {
                queue,
                delivery,
                over,
            };
            if reviews.send(reviewed).is_err() {
                tracing::debug!("a review ended after the driver");
            }
        });
    }
}

fn end(completions: mpsc::UnboundedSender<Completed>, completed: Completed) {
    if completions.send(completed).is_err() {
        tracing::debug!("an attempt ended after the driver");
    }
}

/// The answer to an attempt that cannot be made.
fn refused(attempt: Attempt, reason: DeadLetterReason, now: Timestamp) -> Finished {
    Finished {
        delivery: attempt.delivery,
        verdict: Verdict::Reject(reason),
        status: None,
        attempted: false,
        duration: Duration::ZERO,
        destination: None,
        accept_time: now,
        expiry: None,
        jitter: Jitter::NONE,
        spread: 0.5,
    }
}
