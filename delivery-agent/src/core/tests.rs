//! The core by its commands: what is asked of the driver, in which order, and what never is.

use std::{sync::Arc, time::Duration};

use hookfleet_contract::{
    id::DeliveryId,
    response::Verdict,
    retry::{Jitter, Policy, Progress, Retry},
    time::Timestamp,
};
use hookfleet_proto::v1::{DeadLetterReason, FailureKind, subscription::SuspendReason};
use proptest::prelude::*;

use super::{Attempt, Command, Core, End, Finished, Settings, Uid, queue::HEAD_MAX};

const A: Uid = [1; 16];
const B: Uid = [2; 16];
const T0: Timestamp = Timestamp(1_000_000);

#[test]
fn an_accepted_delivery_is_attempted_at_once_and_settled_by_success() {
    let mut core = core_with(&[A]);
    core.handle_accepted(A, delivery(1), T0);
    assert_eq!(commands(&mut core, T0), [attempt(A, 1, 0)]);

    core.handle_finished(finished(1, Verdict::Delivered), T0);
    assert_eq!(
        commands(&mut core, T0),
        [settle(A, 1, 1, 0, End::Succeeded)]
    );
    assert_eq!(core.counts(), super::Counts::default());
}

#[test]
fn a_failed_attempt_is_deferred_and_comes_back_when_due() {
    let mut core = core_with(&[A]);
    core.handle_accepted(A, delivery(1), T0);
    commands(&mut core, T0);

    core.handle_finished(finished(1, failure()), T0);
    let due = T0 + Duration::from_secs(5);
    assert_eq!(commands(&mut core, T0), [defer(A, 1, 1, due)]);
    assert_eq!(core.poll_timeout(), Some(due));

    let early = Timestamp(due.0 - 1);
    core.handle_timeout(early);
    assert_eq!(commands(&mut core, early), []);

    core.handle_timeout(due);
    assert_eq!(commands(&mut core, due), [load(A, due)]);
    core.handle_loaded(A, vec![(delivery(1), progress(1, 1))], None, due);
    assert_eq!(commands(&mut core, due), [attempt(A, 1, 1)]);
}

#[test]
fn the_last_failure_makes_a_dead_letter() {
    let mut core = core_with(&[A]);
    core.handle_recovered(A, 1, T0, T0);
    assert_eq!(commands(&mut core, T0), [load(A, T0)]);
    core.handle_loaded(A, vec![(delivery(1), progress(9, 9))], None, T0);
    commands(&mut core, T0);

    core.handle_finished(finished(1, failure()), T0);
    let end = End::DeadLettered(DeadLetterReason::MaxAttempts);
    assert_eq!(commands(&mut core, T0), [settle(A, 1, 10, 10, end)]);
}

#[test]
fn the_window_bounds_attempts_and_one_queue_does_not_hold_up_another() {
    let mut core = core_with(&[A, B]);
    for seq in 1..=5 {
        core.handle_accepted(A, delivery(seq), T0);
    }
    core.handle_accepted(B, delivery(6), T0);
    let started = commands(&mut core, T0);
    // A starts with a window of two, and takes turns with B.
    assert_eq!(
        started,
        [attempt(A, 1, 0), attempt(B, 6, 0), attempt(A, 2, 0)]
    );
}

#[test]
fn permits_bound_attempts_over_all_queues() {
    let mut core = Core::new(1);
    for subscription in [A, B] {
        core.handle_subscription(subscription, settings(), T0);
    }
    core.handle_accepted(A, delivery(1), T0);
    core.handle_accepted(B, delivery(2), T0);
    assert_eq!(commands(&mut core, T0), [attempt(A, 1, 0)]);

    core.handle_finished(finished(1, Verdict::Delivered), T0);
    let next = [settle(A, 1, 1, 0, End::Succeeded), attempt(B, 2, 0)];
    assert_eq!(commands(&mut core, T0), next);
}

#[test]
fn what_the_head_cannot_hold_goes_to_disk_and_returns_in_order() {
    let mut core = core_with(&[A]);
    suspend(&mut core, A, true);
    let n_all = HEAD_MAX as u64 + 3;
    for seq in 1..=n_all {
        core.handle_accepted(A, delivery(seq), T0);
    }
    let deferred: Vec<u64> = commands(&mut core, T0)
        .into_iter()
        .map(|command| match command {
            Command::Defer {
                delivery,
                failed: false,
                ..
            } => delivery.seq,
            other @ (Command::Attempt(_)
            | Command::Defer { .. }
            | Command::Load { .. }
            | Command::Settle { .. }
            | Command::Suspend { .. }) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(deferred, [n_all - 2, n_all - 1, n_all]);
    assert_eq!(core.counts().n_waiting, n_all);
}

#[test]
fn a_suspended_subscription_waits_and_a_resumed_one_goes_on() {
    let mut core = core_with(&[A]);
    suspend(&mut core, A, true);
    core.handle_accepted(A, delivery(1), T0);
    assert_eq!(commands(&mut core, T0), []);
    suspend(&mut core, A, false);
    assert_eq!(commands(&mut core, T0), [attempt(A, 1, 0)]);
}

#[test]
fn a_receiver_that_is_gone_suspends_once_and_loses_nothing() {
    let mut core = core_with(&[A]);
    core.handle_accepted(A, delivery(1), T0);
    core.handle_accepted(A, delivery(2), T0);
    commands(&mut core, T0);
    let gone = || Verdict::Suspend(SuspendReason::EndpointGone);

    core.handle_finished(finished(1, gone()), T0);
    let reason = SuspendReason::EndpointGone;
    let suspend = Command::Suspend {
        subscription: A,
        reason,
    };
    assert_eq!(commands(&mut core, T0), [suspend, defer(A, 1, 0, T0)]);

    core.handle_finished(finished(2, gone()), T0);
    assert_eq!(commands(&mut core, T0), [defer(A, 2, 0, T0)]);

    self::suspend(&mut core, A, false);
    assert_eq!(commands(&mut core, T0), [load(A, T0)]);
}

#[test]
fn an_ended_subscription_leaves_only_dead_letters() {
    let mut core = core_with(&[A]);
    for seq in 1..=3 {
        core.handle_accepted(A, delivery(seq), T0);
    }
    core.handle_recovered(A, 1, T0 + Duration::from_secs(3600), T0);
    commands(&mut core, T0);

    core.handle_ended(A, T0);
    let end = End::DeadLettered(DeadLetterReason::SubscriptionEnded);
    let all = Timestamp(u64::MAX);
    assert_eq!(
        commands(&mut core, T0),
        [settle(A, 3, 0, 0, end), load(A, all)]
    );
    core.handle_loaded(A, vec![(delivery(9), progress(1, 1))], None, T0);
    assert_eq!(commands(&mut core, T0), [settle(A, 9, 1, 1, end)]);

    // Those in flight may still succeed; if they do not, there is no other attempt.
    core.handle_finished(finished(1, Verdict::Delivered), T0);
    core.handle_finished(finished(2, failure()), T0);
    let settled = [settle(A, 1, 1, 0, End::Succeeded), settle(A, 2, 1, 1, end)];
    assert_eq!(commands(&mut core, T0), settled);
    assert!(core.queues.is_empty(), "nothing is kept of it");
}

#[test]
fn deliveries_of_an_unknown_subscription_wait_until_all_are_known() {
    let mut core = Core::new(8);
    core.handle_recovered(A, 1, T0, T0);
    assert_eq!(commands(&mut core, T0), []);
    core.handle_all_known(T0);
    assert_eq!(commands(&mut core, T0), [load(A, Timestamp(u64::MAX))]);
}

#[test]
fn retry_after_pauses_every_delivery_of_the_subscription() {
    let mut core = core_with(&[A]);
    for seq in 1..=3 {
        core.handle_accepted(A, delivery(seq), T0);
    }
    commands(&mut core, T0);
    let busy = Verdict::Retry(Retry {
        failure: FailureKind::Status,
        minimum: Duration::ZERO,
        retry_after: Some(Duration::from_secs(60)),
        throttled: true,
        pause_endpoint: true,
    });
    core.handle_finished(finished(1, busy), T0);
    core.handle_finished(finished(2, Verdict::Delivered), T0);
    let started = |commands: Vec<Command>| {
        commands
            .into_iter()
            .any(|it| matches!(it, Command::Attempt(_)))
    };
    assert!(!started(commands(&mut core, T0)));
    let over = T0 + Duration::from_secs(60);
    core.handle_timeout(over);
    assert!(started(commands(&mut core, over)));
}

#[test]
fn no_attempt_starts_after_stop() {
    let mut core = core_with(&[A]);
    core.handle_stop();
    core.handle_accepted(A, delivery(1), T0);
    assert_eq!(commands(&mut core, T0), []);
}

proptest! {
    /// Whatever happens in whatever order, every delivery is in one place and ends once.
    #[test]
    fn every_delivery_is_settled_exactly_once(steps in prop::collection::vec((0_u8..8, 0_u8..3), 1..400)) {
        let subscriptions = [A, B, [3; 16]];
        let mut world = World::new(&subscriptions);
        for (step, which) in steps {
            world.step(step, subscriptions[usize::from(which)]);
        }
        world.finish(&subscriptions);
        prop_assert_eq!(world.settled.len() as u64, world.next_seq);
        prop_assert_eq!(world.core.counts(), super::Counts::default());
    }
}

/// A driver with a perfect disk, for the property above.
struct World {
    core: Core,
    now: Timestamp,
    next_seq: u64,
    in_flight: Vec<DeliveryId>,
    disk: Vec<(Uid, Timestamp, DeliveryId, Progress)>,
    settled: std::collections::BTreeSet<DeliveryId>,
}

impl World {
    fn new(subscriptions: &[Uid]) -> Self {
        Self {
            core: core_with(subscriptions),
            now: T0,
            next_seq: 0,
            in_flight: Vec::new(),
            disk: Vec::new(),
            settled: std::collections::BTreeSet::new(),
        }
    }

    fn step(&mut self, step: u8, subscription: Uid) {
        match step {
            0 | 1 => {
                for _ in 0..20 {
                    self.core
                        .handle_accepted(subscription, delivery(self.next_seq), self.now);
                    self.next_seq += 1;
                }
            }
            2 => self.answer(Verdict::Delivered),
            3 => self.answer(failure()),
            4 => self.answer(Verdict::Reject(DeadLetterReason::NonRetryable)),
            5 => suspend(&mut self.core, subscription, true),
            6 => suspend(&mut self.core, subscription, false),
            _ => {
                self.now = self.now + Duration::from_secs(30);
                self.core.handle_timeout(self.now);
            }
        }
        self.perform();
    }

    fn answer(&mut self, verdict: Verdict) {
        if let Some(delivery) = self.in_flight.pop() {
            let finished = Finished {
                delivery,
                ..finished(0, verdict)
            };
            self.core.handle_finished(finished, self.now);
        }
    }

    fn finish(&mut self, subscriptions: &[Uid]) {
        for &subscription in subscriptions {
            suspend(&mut self.core, subscription, false);
        }
        self.perform();
        while (self.settled.len() as u64) < self.next_seq {
            if self.in_flight.is_empty() {
                let wake = self.core.poll_timeout();
                self.now = wake
                    .expect("something waits, so a timer is set")
                    .max(self.now);
                self.core.handle_timeout(self.now);
            } else {
                self.answer(Verdict::Delivered);
            }
            self.perform();
        }
    }

    fn perform(&mut self) {
        while let Some(command) = self.core.poll_command(self.now) {
            match command {
                Command::Attempt(attempt) => self.in_flight.push(attempt.delivery),
                Command::Defer {
                    subscription,
                    delivery,
                    progress,
                    due,
                    ..
                } => {
                    self.disk.push((subscription, due, delivery, progress));
                }
                Command::Load {
                    subscription,
                    until,
                    limit,
                } => {
                    self.disk
                        .sort_unstable_by_key(|&(uid, due, delivery, _)| (uid, due, delivery));
                    let mut taken = Vec::new();
                    self.disk.retain(|&(uid, due, delivery, progress)| {
                        let take = uid == subscription && due <= until && taken.len() < limit;
                        if take {
                            taken.push((delivery, progress));
                        }
                        !take
                    });
                    let next = self
                        .disk
                        .iter()
                        .filter(|it| it.0 == subscription)
                        .map(|it| it.1)
                        .min();
                    self.core.handle_loaded(subscription, taken, next, self.now);
                }
                Command::Settle { delivery, .. } => {
                    assert!(self.settled.insert(delivery), "{delivery} settled twice");
                }
                Command::Suspend { .. } => {}
            }
            assert!(self.in_flight.len() <= PERMITS);
        }
    }
}

const PERMITS: usize = 8;

fn core_with(subscriptions: &[Uid]) -> Core {
    let mut core = Core::new(PERMITS);
    for &subscription in subscriptions {
        core.handle_subscription(subscription, settings(), T0);
    }
    core
}

fn settings() -> Settings {
    Settings {
        policy: Arc::new(Policy::default()),
        max_in_flight: 64,
        suspended: false,
    }
}

fn suspend(core: &mut Core, subscription: Uid, suspended: bool) {
    let settings = Settings {
        suspended,
        ..settings()
    };
    core.handle_subscription(subscription, settings, T0);
}

fn delivery(seq: u64) -> DeliveryId {
    DeliveryId { seq, target: 0 }
}

fn progress(attempts: u32, step: u32) -> Progress {
    Progress { attempts, step }
}

fn failure() -> Verdict {
    Verdict::Retry(Retry {
        failure: FailureKind::Status,
        minimum: Duration::ZERO,
        retry_after: None,
        throttled: false,
        pause_endpoint: false,
    })
}

fn finished(seq: u64, verdict: Verdict) -> Finished {
    Finished {
        delivery: delivery(seq),
        verdict,
        attempted: true,
        accept_time: T0,
        expiry: None,
        // In the middle: no jitter.
        jitter: Jitter {
            delay: 0.5,
            retry_after: 0.0,
        },
    }
}

fn attempt(subscription: Uid, seq: u64, n_before: u32) -> Command {
    Command::Attempt(Attempt {
        subscription,
        delivery: delivery(seq),
        progress: progress(n_before, n_before),
    })
}

fn defer(subscription: Uid, seq: u64, step: u32, due: Timestamp) -> Command {
    Command::Defer {
        subscription,
        delivery: delivery(seq),
        progress: progress(1, step),
        due,
        failed: true,
    }
}

fn load(subscription: Uid, until: Timestamp) -> Command {
    Command::Load {
        subscription,
        until,
        limit: super::LOAD_MAX,
    }
}

fn settle(subscription: Uid, seq: u64, attempts: u32, step: u32, end: End) -> Command {
    Command::Settle {
        subscription,
        delivery: delivery(seq),
        progress: progress(attempts, step),
        end,
    }
}

fn commands(core: &mut Core, now: Timestamp) -> Vec<Command> {
    std::iter::from_fn(|| core.poll_command(now)).collect()
}
