//! The core: decides which delivery is attempted when. It performs nothing, reads no clock and
//! draws no randomness; the driver feeds it and carries out its commands.
//!
//! To follow one delivery: [`Core::handle_accepted`] puts it into its subscription's queue;
//! [`Core::poll_command`] picks it with a permit and a place in the window, and says
//! [`Command::Attempt`]; [`Core::handle_finished`] settles it or defers it to its next attempt;
//! a timer brings it back by [`Command::Load`] and [`Core::handle_loaded`].
//!
//! **Invariants:** permits taken = attempts in flight ≤ the limit; attempts of a subscription in
//! flight ≤ its window; every accepted delivery is in exactly one place (head, in flight, on disk)
//! until its [`Command::Settle`].

mod command;
mod queue;
mod window;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hookfleet_contract::{
    id::DeliveryId,
    response::Verdict,
    retry::{Next, Progress, Retry},
    time::Timestamp,
};
use hookfleet_proto::v1::DeadLetterReason;

pub use command::{Attempt, Command, Counts, End, Finished};
pub use queue::Settings;

use queue::{LOAD_MAX, Phase, Queue, Waiting};

/// A subscription's uid, which is never used again.
pub type Uid = [u8; 16];

/// The deliveries of one agent.
#[derive(Debug)]
pub struct Core {
    queues: BTreeMap<Uid, Queue>,
    /// Those that can start an attempt, each once, in turn.
    ring: VecDeque<Uid>,
    timers: BTreeSet<(Timestamp, Uid)>,
    in_flight: BTreeMap<DeliveryId, (Uid, Progress)>,
    permits: usize,
    commands: VecDeque<Command>,
    n_waiting: u64,
}

// === impl Core ===

impl Core {
    /// An empty core that lets at most `permits` attempts be in flight.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            queues: BTreeMap::new(),
            ring: VecDeque::new(),
            timers: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            permits,
            commands: VecDeque::new(),
            n_waiting: 0,
        }
    }

    /// A subscription is new or has changed.
    pub fn handle_subscription(&mut self, subscription: Uid, settings: Settings, now: Timestamp) {
        let queue = self.queue(subscription);
        queue.begin(settings);
        self.refresh(subscription, now);
    }

    /// A subscription is gone: what waits becomes dead letters, what is in flight may finish.
    pub fn handle_ended(&mut self, subscription: Uid, now: Timestamp) {
        let Some(queue) = self.queues.get_mut(&subscription) else {
            return;
        };
        queue.phase = Phase::Ended;
        let waiting = std::mem::take(&mut queue.head);
        for Waiting { delivery, progress } in waiting {
            self.settle(subscription, delivery, progress, ended());
        }
        self.refresh(subscription, now);
    }

    /// Every subscription is known now: those that were not heard of are gone.
    pub fn handle_all_known(&mut self, now: Timestamp) {
        let unknown: Vec<Uid> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.phase == Phase::Unknown)
            .map(|(&uid, _)| uid)
            .collect();
        for subscription in unknown {
            self.handle_ended(subscription, now);
        }
    }

    /// A delivery is durable and may start.
    pub fn handle_accepted(&mut self, subscription: Uid, delivery: DeliveryId, now: Timestamp) {
        self.n_waiting += 1;
        let progress = Progress::default();
        let queue = self.queue(subscription);
        if queue.phase == Phase::Ended {
            self.settle(subscription, delivery, progress, ended());
        } else if queue.head_takes(now) {
            queue.head.push_back(Waiting { delivery, progress });
        } else {
            self.defer(subscription, delivery, progress, now, false);
        }
        self.refresh(subscription, now);
    }

    /// The queue on disk holds `n_deferred` deliveries of an earlier run, the first due at `next_due`.
    pub fn handle_recovered(
        &mut self,
        subscription: Uid,
        n_deferred: u64,
        next_due: Timestamp,
        now: Timestamp,
    ) {
        self.n_waiting += n_deferred;
        let queue = self.queue(subscription);
        queue.n_deferred += n_deferred;
        queue.next_due = Some(queue.next_due.map_or(next_due, |due| due.min(next_due)));
        self.refresh(subscription, now);
    }

    /// What [`Command::Load`] took from disk, and when the first of the rest is due.
    pub fn handle_loaded(
        &mut self,
        subscription: Uid,
        loaded: Vec<(DeliveryId, Progress)>,
        next_due: Option<Timestamp>,
        now: Timestamp,
    ) {
        let queue = self.queue(subscription);
        queue.loading = false;
        queue.n_deferred = queue.n_deferred.saturating_sub(loaded.len() as u64);
        // While it was loading `next_due` held only what was deferred meanwhile.
        queue.next_due = [queue.next_due, next_due].into_iter().flatten().min();
        if queue.next_due.is_none() {
            debug_assert_eq!(queue.n_deferred, 0, "what is on disk has a due time");
            queue.n_deferred = 0;
        }
        if queue.phase == Phase::Ended {
            for (delivery, progress) in loaded {
                self.settle(subscription, delivery, progress, ended());
            }
        } else {
            let waiting = loaded
                .into_iter()
                .map(|(delivery, progress)| Waiting { delivery, progress });
            queue.head.extend(waiting);
        }
        self.refresh(subscription, now);
    }

    /// An attempt is over.
    pub fn handle_finished(&mut self, finished: Finished, now: Timestamp) {
        let Some((subscription, mut progress)) = self.in_flight.remove(&finished.delivery) else {
            debug_assert!(false, "{:?} was not in flight", finished.delivery);
            return;
        };
        self.n_waiting += 1;
        let delivery = finished.delivery;
        let queue = self.queue(subscription);
        queue.in_flight -= 1;
        if finished.attempted {
            progress.attempts += 1;
        }
        match finished.verdict {
            Verdict::Delivered => {
                queue.window.succeeded(queue.in_flight);
                self.settle(subscription, delivery, progress, End::Succeeded);
            }
            Verdict::Retry(ref retry) => {
                self.retry(subscription, retry, progress, &finished, now);
            }
            Verdict::Reject(reason) => {
                self.settle(subscription, delivery, progress, End::DeadLettered(reason));
            }
            Verdict::Suspend(reason) => {
                if let Phase::Live(settings) = &mut queue.phase
                    && !settings.suspended
                {
                    settings.suspended = true;
                    self.commands.push_back(Command::Suspend {
                        subscription,
                        reason,
                    });
                }
                self.defer(subscription, delivery, progress, now, true);
            }
        }
        self.refresh(subscription, now);
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(&(at, subscription)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(queue) = self.queues.get_mut(&subscription) {
                queue.timer = None;
            }
            self.refresh(subscription, now);
        }
    }

    /// No attempt starts any more; those in flight may finish.
    pub fn handle_stop(&mut self) {
        self.permits = 0;
    }

    /// When [`Core::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// The next effect to perform.
    pub fn poll_command(&mut self, now: Timestamp) -> Option<Command> {
        self.commands.pop_front().or_else(|| self.start(now))
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            n_waiting: self.n_waiting,
            n_in_flight: self.in_flight.len() as u64,
        }
    }

    /// Picks the next subscription in turn that can start an attempt.
    fn start(&mut self, now: Timestamp) -> Option<Command> {
        while self.in_flight.len() < self.permits {
            let subscription = self.ring.pop_front()?;
            let Some(queue) = self.queues.get_mut(&subscription) else {
                continue;
            };
            queue.in_ring = false;
            let next = if queue.can_start(now) {
                queue.head.pop_front()
            } else {
                None
            };
            if let Some(Waiting { delivery, progress }) = next {
                queue.in_flight += 1;
                self.in_flight.insert(delivery, (subscription, progress));
                self.n_waiting -= 1;
                self.refresh(subscription, now);
                return Some(Command::Attempt(Attempt {
                    subscription,
                    delivery,
                    progress,
                }));
            }
        }
        None
    }

    fn retry(
        &mut self,
        subscription: Uid,
        retry: &Retry,
        mut progress: Progress,
        finished: &Finished,
        now: Timestamp,
    ) {
        let queue = self.queue(subscription);
        queue.window.failed();
        if retry.pause_endpoint
            && let Some(pause) = retry.retry_after
        {
            queue.paused_until = Some(now + pause).max(queue.paused_until);
        }
        if !retry.throttled {
            progress.step += 1;
        }
        let Phase::Live(settings) = &queue.phase else {
            self.settle(subscription, finished.delivery, progress, ended());
            return;
        };
        let next = settings.policy.after(
            retry,
            progress,
            finished.accept_time,
            finished.expiry,
            now,
            finished.jitter,
        );
        match next {
            Next::At(due) => {
                self.defer(subscription, finished.delivery, progress, due, true);
            }
            Next::DeadLetter(reason) => {
                let end = End::DeadLettered(reason);
                self.settle(subscription, finished.delivery, progress, end);
            }
        }
    }

    fn defer(
        &mut self,
        subscription: Uid,
        delivery: DeliveryId,
        progress: Progress,
        due: Timestamp,
        failed: bool,
    ) {
        let queue = self.queue(subscription);
        queue.n_deferred += 1;
        queue.next_due = Some(queue.next_due.map_or(due, |next| next.min(due)));
        self.commands.push_back(Command::Defer {
            subscription,
            delivery,
            progress,
            due,
            failed,
        });
    }

    fn settle(&mut self, subscription: Uid, delivery: DeliveryId, progress: Progress, end: End) {
        self.n_waiting -= 1;
        self.commands.push_back(Command::Settle {
            subscription,
            delivery,
            progress,
            end,
        });
    }

    /// Brings the ring, the timer and the head of a queue in line with its state.
    fn refresh(&mut self, subscription: Uid, now: Timestamp) {
        let Some(queue) = self.queues.get_mut(&subscription) else {
            return;
        };
        if let Some(until) = queue.load_until(now) {
            queue.loading = true;
            queue.next_due = None;
            self.commands.push_back(Command::Load {
                subscription,
                until,
                limit: LOAD_MAX,
            });
        }
        if queue.can_start(now) && !queue.in_ring {
            queue.in_ring = true;
            self.ring.push_back(subscription);
        }
        let wake_at = queue.wake_at(now);
        if wake_at != queue.timer {
            if let Some(at) = queue.timer {
                self.timers.remove(&(at, subscription));
            }
            if let Some(at) = wake_at {
                self.timers.insert((at, subscription));
            }
            queue.timer = wake_at;
        }
        if queue.is_over() {
            self.queues.remove(&subscription);
        }
    }

    fn queue(&mut self, subscription: Uid) -> &mut Queue {
        self.queues.entry(subscription).or_insert_with(Queue::new)
    }
}

fn ended() -> End {
    End::DeadLettered(DeadLetterReason::SubscriptionEnded)
}
