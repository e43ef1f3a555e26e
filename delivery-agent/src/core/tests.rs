//! The core by its commands: what is asked of the driver, in which order, and what never is. Long runs
//! are the simulation's business.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hookfleet_contract::{
    id::DeliveryId,
    partition::UNORDERED,
    response::Verdict,
    retry::{Jitter, Policy, Progress, Retry},
    shard::Shard,
    time::Timestamp,
};
use hookfleet_proto::v1::{DeadLetterReason, FailureKind, subscription::SuspendReason};

use super::{
    Attempt, Command, Core, Counts, End, Finished, Hint, Hints, QueueId, Settings, Uid, Waiting,
    queue::{HEAD_MAX, LOAD_MAX},
};

const A: Uid = [1; 16];
const B: Uid = [2; 16];
const T0: Timestamp = Timestamp(1_700_000_000_000);

#[test]
fn an_accepted_delivery_is_attempted_at_once_and_settled_by_success() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    assert_eq!(rig.commands(), [attempt(A, 1, 0)]);
    rig.finish(1, Verdict::Delivered);
    assert_eq!(rig.commands(), [settle(1, 1, 0, End::Succeeded)]);
    assert_eq!(rig.core.counts(), Counts::default());
    assert!(!rig.core.has(&A), "an idle subscription costs nothing");
}

#[test]
fn consequences_can_be_had_without_new_attempts() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.accept(B, 2);
    rig.finish(1, Verdict::Delivered);
    let settled = settle(1, 1, 0, End::Succeeded);
    assert_eq!(rig.core.poll_consequence(), Some(settled));
    assert_eq!(rig.core.poll_consequence(), None);
    assert_eq!(rig.commands(), [attempt(B, 2, 0)]);
}

#[test]
fn a_failed_attempt_is_deferred_and_comes_back_when_due() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.finish(1, status(500));
    let due = T0 + Duration::from_secs(5);
    assert_eq!(rig.commands(), [defer(A, 1, 1, due)]);
    assert_eq!(rig.core.poll_timeout(), Some(due));

    rig.advance(Duration::from_millis(4999));
    assert_eq!(rig.commands(), []);
    rig.advance(Duration::from_millis(1));
    assert_eq!(rig.commands(), [load(A, due)]);
    rig.load(A, vec![waiting(1, progress(1, 1))]);
    assert_eq!(rig.commands(), [attempt(A, 1, 1)]);
}

#[test]
fn the_last_failure_makes_a_dead_letter() {
    let mut rig = Rig::new();
    rig.recover(A, 1);
    assert_eq!(rig.commands(), [load(A, T0)]);
    rig.load(A, vec![waiting(1, progress(9, 9))]);
    rig.commands();
    rig.finish(1, status(500));
    let end = End::DeadLettered(DeadLetterReason::MaxAttempts);
    assert_eq!(rig.commands(), [settle(1, 10, 10, end)]);
}

#[test]
fn a_new_receiver_is_met_one_attempt_at_a_time_and_holds_up_nobody() {
    let mut rig = Rig::new();
    for seq in 1..=3 {
        rig.accept(A, seq);
    }
    rig.accept(B, 4);
    assert_eq!(rig.commands(), [attempt(A, 1, 0), attempt(B, 4, 0)]);
    rig.finish(1, Verdict::Delivered);
    let next = [
        settle(1, 1, 0, End::Succeeded),
        attempt(A, 2, 0),
        attempt(A, 3, 0),
    ];
    assert_eq!(rig.commands(), next);
}

#[test]
fn permits_and_bytes_bound_attempts_over_all_queues() {
    let mut rig = Rig::with(Core::new(1, u64::MAX));
    rig.accept(A, 1);
    rig.accept(B, 2);
    assert_eq!(rig.commands(), [attempt(A, 1, 0)]);
    rig.finish(1, Verdict::Delivered);
    assert_eq!(
        rig.commands(),
        [settle(1, 1, 0, End::Succeeded), attempt(B, 2, 0)]
    );

    let mut rig = Rig::with(Core::new(100, 1500));
    rig.accept(A, 1);
    rig.accept(B, 2);
    assert_eq!(
        rig.commands(),
        [attempt(A, 1, 0)],
        "an event has 1000 bytes"
    );
    rig.finish(1, Verdict::Delivered);
    assert_eq!(
        rig.commands(),
        [settle(1, 1, 0, End::Succeeded), attempt(B, 2, 0)]
    );
}

#[test]
fn what_the_head_cannot_hold_goes_to_disk_in_order() {
    let mut rig = Rig::new();
    rig.suspended = true;
    let n_all = HEAD_MAX as u64 + 3;
    for seq in 1..=n_all {
        rig.accept(A, seq);
    }
    let deferred: Vec<(u64, bool)> = rig
        .commands()
        .into_iter()
        .filter_map(|it| {
            let Command::Defer {
                waiting, failed, ..
            } = it
            else {
                return None;
            };
            Some((waiting.delivery.seq, failed))
        })
        .collect();
    let expected: Vec<_> = (n_all - 2..=n_all).map(|seq| (seq, false)).collect();
    assert_eq!(deferred, expected);
    assert_eq!(rig.core.counts().n_waiting, n_all);
}

#[test]
fn what_leaves_is_handed_over_once_nothing_is_in_flight() {
    let mut rig = Rig::new();
    for seq in 1..=3 {
        rig.accept(A, seq);
    }
    assert_eq!(rig.commands(), [attempt(A, 1, 0)]);
    rig.leave();
    assert_eq!(rig.commands(), [], "an attempt is in flight");
    rig.finish(1, status(500));
    let due = T0 + Duration::from_secs(5);
    let lot = [2, 3].map(|seq| waiting(seq, progress(0, 0))).to_vec();
    let expected = [defer(A, 1, 1, due), hand_over(A, &lot)];
    assert_eq!(rig.commands(), expected);
    rig.accept(A, 4);
    assert_eq!(rig.commands(), [], "one lot at a time");

    let handed = |seq| settle(seq, 0, 0, End::HandedOver);
    rig.core.handle_handed(queue(A), lot, true, rig.now);
    let lot = vec![waiting(4, progress(0, 0))];
    let expected = [handed(2), handed(3), hand_over(A, &lot)];
    assert_eq!(rig.commands(), expected);
    rig.core.handle_handed(queue(A), lot, true, rig.now);
    let ever = Timestamp(u64::MAX);
    assert_eq!(rig.commands(), [handed(4), load(A, ever)]);
    let lot = vec![waiting(1, progress(1, 1))];
    rig.load(A, lot.clone());
    assert_eq!(rig.commands(), [hand_over(A, &lot)]);
    rig.core.handle_handed(queue(A), lot, true, rig.now);
    assert_eq!(rig.commands(), [settle(1, 1, 1, End::HandedOver)]);
    assert_eq!(rig.core.counts(), Counts::default());
    assert!(!rig.core.has(&A));
}

#[test]
fn what_cannot_be_handed_over_goes_on_here() {
    let mut rig = Rig::new();
    rig.suspended = true;
    rig.accept(A, 1);
    rig.accept_in(B, 7, 2);
    rig.accept_in(B, 7, 3);
    rig.leave();
    assert_eq!(rig.commands().len(), 2);
    rig.suspended = false;
    rig.tell(A);
    rig.tell(B);
    assert_eq!(rig.commands(), []);

    let plain = waiting(1, progress(0, 0));
    rig.core
        .handle_handed(queue(A), vec![plain], false, rig.now);
    let taken_back = Command::Defer {
        queue: queue(A),
        waiting: plain,
        failed: false,
    };
    assert_eq!(rig.commands(), [taken_back, load(A, T0)]);
    rig.core.handle_loaded(queue(A), vec![plain], None, rig.now);
    assert_eq!(rig.commands(), [attempt(A, 1, 0)]);

    let partition = QueueId {
        subscription: B,
        partition: 7,
    };
    let serial = [2, 3].map(|seq| waiting(seq, progress(0, 0))).to_vec();
    rig.core.handle_handed(partition, serial, false, rig.now);
    assert_eq!(rig.commands(), [attempt(B, 2, 0)], "in order");
}

#[test]
fn a_suspended_subscription_waits_and_a_resumed_one_goes_on() {
    let mut rig = Rig::new();
    rig.suspended = true;
    rig.accept(A, 1);
    assert_eq!(rig.commands(), []);
    rig.suspended = false;
    rig.tell(A);
    assert_eq!(rig.commands(), [attempt(A, 1, 0)]);
}

#[test]
fn a_receiver_that_is_gone_suspends_once_and_loses_nothing() {
    let mut rig = Rig::new();
    rig.warm(A, 1, 2);
    let gone = || Verdict::Suspend(SuspendReason::EndpointGone);
    rig.finish(1, gone());
    let suspend = Command::Suspend {
        subscription: A,
        reason: SuspendReason::EndpointGone,
    };
    assert_eq!(rig.commands(), [suspend, defer(A, 1, 0, T0)]);
    rig.finish(2, gone());
    assert_eq!(rig.commands(), [defer(A, 2, 0, T0)]);
    rig.tell(A);
    assert_eq!(rig.commands(), [load(A, T0)]);
}

#[test]
fn an_ended_subscription_leaves_only_dead_letters() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.accept(A, 2);
    rig.recover_later(A, 1);
    rig.core.handle_ended(A, T0);
    let end = End::DeadLettered(DeadLetterReason::SubscriptionEnded);
    assert_eq!(
        rig.commands(),
        [settle(2, 0, 0, end), load(A, Timestamp(u64::MAX))]
    );
    rig.load(A, vec![waiting(9, progress(1, 1))]);
    assert_eq!(rig.commands(), [settle(9, 1, 1, end)]);

    // What is in flight may still succeed; if it does not, there is no other attempt.
    rig.finish(1, status(500));
    assert_eq!(rig.commands(), [settle(1, 1, 1, end)]);
    assert!(!rig.core.has(&A), "nothing is kept of it");
}

#[test]
fn deliveries_of_an_unknown_subscription_wait_until_all_are_known() {
    let mut rig = Rig::new();
    rig.core.handle_recovered(queue(A), 1, T0, T0);
    assert_eq!(rig.commands(), []);
    rig.core.handle_all_known(T0);
    assert_eq!(rig.commands(), [load(A, Timestamp(u64::MAX))]);
}

#[test]
fn retry_after_pauses_all_of_the_tenants_subscriptions_to_the_endpoint() {
    let mut rig = Rig::new();
    rig.warm(A, 1, 2);
    rig.finish(1, throttled(60));
    rig.finish(2, Verdict::Delivered);
    rig.accept(A, 3);
    rig.accept(B, 4);
    rig.tenant = "other".to_owned();
    rig.accept([3; 16], 5);
    assert_eq!(rig.started(), [5], "another tenant is not concerned");
    rig.advance(Duration::from_secs(59));
    assert_eq!(rig.started(), NONE);
    rig.advance(Duration::from_secs(1));
    assert_eq!(rig.started(), [3, 4]);
}

#[test]
fn a_throttled_attempt_does_not_use_up_the_schedule() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.finish(1, throttled(60));
    let commands = rig.commands();
    let [Command::Defer { waiting, .. }] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    assert_eq!(waiting.progress, progress(1, 0));
    assert_eq!(waiting.due, T0 + Duration::from_secs(60));
}

#[test]
fn failures_open_the_breaker_and_one_probe_closes_it() {
    let mut rig = Rig::new();
    for seq in 1..=6 {
        rig.accept(A, seq);
    }
    for seq in 1..=3 {
        assert_eq!(rig.started(), [seq]);
        rig.finish(seq, status(500));
    }
    assert_eq!(rig.started(), NONE, "it is open");
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.started(), [4], "the probe");
    rig.finish(4, Verdict::Delivered);
    assert_eq!(rig.started(), [5, 6]);
}

#[test]
fn an_endpoint_out_of_reach_costs_one_probe_for_all_who_call_it() {
    let mut rig = Rig::new();
    let uids: Vec<Uid> = (0..50).map(|it| [it; 16]).collect();
    for (seq, &uid) in (1..).zip(&uids) {
        rig.accept(uid, seq);
    }
    let started = rig.started();
    assert_eq!(started.len(), 16, "the lane of new receivers");
    for &seq in &started {
        rig.finish(seq, unreachable());
    }
    assert_eq!(rig.started(), NONE, "open for all");
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.started().len(), 1, "one probe");
}

#[test]
fn what_answers_is_in_reach_even_if_it_fails() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.finish(1, unreachable());
    rig.accept(B, 2);
    assert_eq!(rig.started(), NONE);
    rig.advance(Duration::from_secs(5));
    let probe = rig.started();
    rig.load(A, vec![waiting(1, progress(1, 1))]);
    assert_eq!(probe, [2]);
    rig.finish(2, status(500));
    assert_eq!(
        rig.started(),
        [1],
        "the endpoint is there, and A's breaker was never concerned"
    );
}

#[test]
fn a_rate_is_a_burst_of_a_second_and_then_the_rate() {
    let mut rig = Rig::new();
    rig.rate = Some(2.0);
    for seq in 1..=5 {
        rig.accept(A, seq);
    }
    let mut starts = Vec::new();
    for _ in 0..60 {
        for seq in rig.started() {
            starts.push(rig.now.since(T0).as_millis());
            rig.finish(seq, Verdict::Delivered);
        }
        rig.advance(Duration::from_millis(50));
    }
    assert_eq!(starts, [0, 50, 500, 1000, 1500]);
}

#[test]
fn a_partition_is_one_at_a_time_and_waits_for_its_head() {
    let mut rig = Rig::new();
    rig.warm(A, 100, 4);
    for seq in 100..104 {
        rig.finish(seq, Verdict::Delivered);
    }
    rig.commands();
    for (seq, partition) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
        rig.accept_in(A, partition, seq);
    }
    assert_eq!(rig.started(), [1, 3]);
    rig.finish(3, Verdict::Delivered);
    rig.finish(1, status(500));
    let due = T0 + Duration::from_secs(5);
    let postponed = Command::Postpone {
        waiting: Waiting {
            due,
            ..waiting(1, progress(1, 1))
        },
    };
    assert_eq!(rig.commands(), [settle(3, 1, 0, End::Succeeded), postponed]);
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.started(), [1], "not 2, which was never tried");
    rig.finish(1, Verdict::Reject(DeadLetterReason::NonRetryable));
    assert_eq!(rig.started(), [2]);
    rig.finish(2, Verdict::Delivered);
    assert_eq!(rig.started(), [4]);
}

#[test]
fn a_delivery_that_cannot_be_attempted_ends_with_its_time_to_live() {
    let mut rig = Rig::new();
    rig.suspended = true;
    rig.accept(A, 1);
    rig.accept(A, 2);
    assert_eq!(rig.commands(), []);
    let review = |seq| Command::Review {
        queue: queue(A),
        delivery: delivery(seq),
    };
    rig.advance(Duration::from_secs(600));
    assert_eq!(rig.commands(), [review(1)]);
    let ttl = DeadLetterReason::Ttl;
    rig.core
        .handle_reviewed(queue(A), delivery(1), Some(ttl), rig.now);
    let over = settle(1, 0, 0, End::DeadLettered(ttl));
    assert_eq!(rig.commands(), [over, review(2)]);
    rig.core
        .handle_reviewed(queue(A), delivery(2), None, rig.now);
    assert_eq!(rig.commands(), []);
    rig.advance(Duration::from_secs(600));
    assert_eq!(rig.commands(), [review(2)]);
}

#[test]
fn five_days_without_a_success_suspend_a_subscription() {
    let mut rig = Rig::new();
    rig.recover(A, 1000);
    rig.commands();
    let mut suspended = None;
    for seq in 1..1000 {
        rig.load(A, vec![waiting(seq, progress(0, 0))]);
        rig.commands_until_started();
        rig.finish(seq, status(500));
        let now = rig.now;
        suspended = rig.commands().into_iter().find_map(|it| {
            let Command::Suspend { reason, .. } = it else {
                return None;
            };
            Some((reason, now.since(T0)))
        });
        if suspended.is_some() {
            break;
        }
    }
    let (reason, after) = suspended.unwrap();
    assert_eq!(reason, SuspendReason::NoSuccess);
    let hours = after.as_secs() / 3600;
    assert!((120..=122).contains(&hours), "{hours}");
}

#[test]
fn what_was_learnt_survives_a_restart() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.finish(1, unreachable());
    rig.commands();
    let hints = rig.core.hints(rig.now);
    let open_until = T0 + Duration::from_secs(5);
    let hint = Hint {
        opens: 1,
        open_until,
        failing_since: Some(T0),
        n_failures: 1,
        slow: false,
    };
    assert_eq!(hints.endpoints, [(Arc::from(ENDPOINT), hint)]);

    let mut rig = Rig::new();
    rig.core.handle_hints(hints);
    rig.accept(B, 2);
    assert_eq!(rig.started(), NONE);
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.started(), [2]);
}

#[test]
fn what_was_learnt_goes_along_with_what_is_handed_over() {
    let mut rig = Rig::new();
    rig.accept(A, 1);
    rig.commands();
    rig.finish(1, unreachable());
    let hints = rig.core.hints_of(&A, rig.now);
    assert_eq!(hints.endpoints.len(), 1);
    assert_eq!(hints.subscriptions.len(), 1);

    let mut other = Rig::new();
    other.core.handle_learnt(hints, other.now);
    other.accept(B, 2);
    assert_eq!(other.started(), NONE);
    other.advance(Duration::from_secs(5));
    assert_eq!(other.started(), [2]);
}

#[test]
fn all_of_what_was_learnt_of_a_receiver_goes_along() {
    let soon = |seconds| T0 + Duration::from_secs(seconds);
    let hint = |number: u8, slow| Hint {
        opens: number,
        open_until: soon(number.into()),
        failing_since: Some(Timestamp(number.into())),
        n_failures: number.into(),
        slow,
    };
    let known = Hints {
        subscriptions: vec![(A, hint(3, true))],
        endpoints: vec![(ENDPOINT.into(), hint(4, false))],
        pauses: vec![("acme".parse().unwrap(), ENDPOINT.into(), soon(5))],
    };
    let mut rig = Rig::new();
    rig.core.handle_hints(known.clone());
    rig.accept(A, 1);
    let hints = rig.core.hints_of(&A, rig.now);
    assert_eq!(hints, known);

    let mut other = Rig::new();
    other.core.handle_learnt(hints, other.now);
    assert_eq!(other.core.hints(other.now), known);
}

#[test]
fn a_receiver_that_was_well_when_it_was_handed_over_is_not_held_to_what_was_before() {
    let mut rig = Rig::new();
    rig.warm(A, 1, 8);
    let hints = rig.core.hints_of(&A, rig.now);
    let mut other = Rig::new();
    let before = Hint {
        opens: 3,
        n_failures: 30,
        ..Hint::default()
    };
    other.core.handle_hints(Hints {
        subscriptions: vec![(A, before)],
        ..Hints::default()
    });
    other.core.handle_learnt(hints, other.now);
    assert_eq!(other.core.hints(other.now), Hints::default());
}

#[test]
fn of_two_pauses_the_longer_one_counts() {
    let mut rig = Rig::new();
    let pause = |seconds| {
        let until = T0 + Duration::from_secs(seconds);
        ("acme".parse().unwrap(), Arc::from(ENDPOINT), until)
    };
    for seconds in [60, 5] {
        let learnt = Hints {
            pauses: vec![pause(seconds)],
            ..Hints::default()
        };
        rig.core.handle_learnt(learnt, rig.now);
    }
    assert_eq!(rig.core.hints(rig.now).pauses, [pause(60)]);
}

#[test]
fn what_was_seen_here_of_an_endpoint_counts_more_than_what_was_learnt_elsewhere() {
    let hint = Hint {
        opens: 1,
        open_until: T0 + Duration::from_secs(60),
        ..Hint::default()
    };
    let open = Hints {
        endpoints: vec![(ENDPOINT.into(), hint)],
        ..Hints::default()
    };
    let mut rig = Rig::new();
    rig.warm(A, 1, 8);
    rig.core.handle_learnt(open.clone(), rig.now);
    assert_eq!(rig.core.hints(rig.now), Hints::default(), "it is in use");
    for seq in 1..=8 {
        rig.finish(seq, Verdict::Delivered);
    }
    rig.commands();
    rig.core.handle_learnt(open, rig.now);
    assert_eq!(rig.core.hints(rig.now), Hints::default(), "it is idle");
}

#[test]
fn a_success_that_was_seen_here_counts_more_than_what_was_learnt_elsewhere() {
    let failing_for = |since, n_failures| Hints {
        subscriptions: vec![(
            A,
            Hint {
                failing_since: Some(since),
                n_failures,
                ..Hint::default()
            },
        )],
        ..Hints::default()
    };
    let failing = |since| failing_for(since, 30);
    let mut rig = Rig::new();
    rig.warm(A, 1, 8);
    rig.core.handle_learnt(failing(T0), rig.now);
    assert_eq!(rig.core.hints(rig.now), Hints::default(), "it is in use");
    for seq in 1..=8 {
        rig.finish(seq, Verdict::Delivered);
    }
    rig.commands();
    rig.core.handle_learnt(failing(T0), rig.now);
    assert_eq!(rig.core.hints(rig.now), Hints::default(), "it is idle");

    // Unless it has failed since then.
    for has_succeeded in [false, true] {
        let mut rig = Rig::new();
        if has_succeeded {
            rig.warm(A, 1, 1);
        } else {
            rig.accept(A, 1);
            rig.commands();
        }
        rig.finish(1, status(500));
        rig.core.handle_learnt(failing(Timestamp(5)), rig.now);
        rig.core.handle_learnt(failing_for(T0, 2), rig.now);
        let hints = rig.core.hints(rig.now).subscriptions;
        assert_eq!(hints[0].1.failing_since, Some(Timestamp(5)));
        assert_eq!(hints[0].1.n_failures, 30);
    }
}

#[test]
fn what_is_known_of_a_subscription_goes_with_it() {
    let mut rig = Rig::new();
    let hint = Hint {
        n_failures: 30,
        ..Hint::default()
    };
    let hints = Hints {
        subscriptions: vec![(A, hint)],
        ..Hints::default()
    };
    rig.core.handle_hints(hints);
    assert_eq!(rig.core.hints(rig.now).subscriptions, [(A, hint)]);
    rig.core.handle_ended(A, rig.now);
    assert_eq!(rig.core.hints(rig.now), Hints::default());
}

#[test]
fn idle_subscriptions_are_remembered_as_they_were() {
    let mut rig = Rig::new();
    rig.warm(A, 1, 8);
    for seq in 1..=8 {
        rig.finish(seq, Verdict::Delivered);
    }
    rig.commands();
    assert!(!rig.core.has(&A));
    for seq in 11..=20 {
        rig.accept(A, seq);
    }
    assert!(rig.started().len() >= 8);
    assert_eq!(rig.core.hints(rig.now), Hints::default(), "nothing is bad");
}

#[test]
fn a_thousand_names_of_one_address_do_not_add_up() {
    let mut rig = Rig::with(Core::new(4096, u64::MAX));
    let first = rig.meet(1000, Some(VICTIM));
    assert_eq!(rig.core.counts(), Counts::default(), "nothing waits");
    assert_eq!(
        rig.published(1000),
        (first..first + 500).collect::<Vec<_>>()
    );
    assert_eq!(rig.core.counts().n_destinations, 1);
    rig.finish_at(VICTIM, first + 7, refused());
    assert_eq!(rig.started(), [first + 500], "in order");
    rig.finish_at(VICTIM, first + 8, Verdict::Delivered);
    rig.finish_at(VICTIM, first + 9, unreachable());
    assert_eq!(rig.started(), [first + 501, first + 502]);

    let mut open: Vec<u64> = (first..first + 503).collect();
    while let Some(seq) = open.pop() {
        if !(first + 7..first + 10).contains(&seq) {
            rig.finish_at(VICTIM, seq, refused());
        }
        let started = rig.started();
        assert!(started.len() <= 1, "{started:?}");
        open.extend(started);
    }
    assert_eq!(rig.core.counts().n_destinations, 0);
    let counts = rig.core.counts();
    assert_eq!((counts.n_in_flight, counts.n_in_memory), (0, 0));
    assert_eq!(counts.n_waiting, 1, "on disk, for its next attempt");
}

#[test]
fn who_takes_what_it_is_sent_passes_by_those_who_do_not() {
    let mut rig = Rig::with(Core::new(4096, u64::MAX));
    (rig.endpoint, rig.destination) = ("https://good.example:443".to_owned(), Some(VICTIM));
    rig.warm(A, 1, 8);
    let first = rig.meet(600, Some(VICTIM));
    assert_eq!(rig.published(600).len(), 500);
    rig.endpoint = "https://good.example:443".to_owned();
    for seq in 1..=4 {
        rig.finish_at(VICTIM, seq, Verdict::Delivered);
        rig.accept(A, 10 + seq);
    }
    assert_eq!(rig.started(), [11, 12, 13, 14]);

    // Its name may have been led elsewhere since.
    for (seq, passes) in [(5, true), (6, true), (7, false)] {
        rig.finish_at(VICTIM, seq, refused());
        rig.accept(A, 10 + seq);
        assert_eq!(rig.started() == [10 + seq], passes, "{seq}");
    }
    for seq in first..=first + 100 {
        rig.finish_at(VICTIM, seq, refused());
    }
    let mut expected = vec![17];
    expected.extend(first + 500..first + 600);
    assert_eq!(rig.started(), expected, "it has waited with the others");
}

#[test]
fn an_attempt_counts_where_its_endpoint_was_when_it_started() {
    let mut rig = Rig::with(Core::new(16, u64::MAX));
    let first = rig.meet(4, Some(VICTIM));
    let moved = "2606:2800::1".parse().unwrap();
    rig.publish_to(0);
    rig.accept(A, 1);
    assert_eq!(rig.started(), [first, 1], "an eighth of all");
    for number in 1..4 {
        rig.publish_to(number);
    }
    assert_eq!(rig.started(), NONE);
    rig.finish_at(moved, first, refused());
    assert_eq!(rig.started(), [first + 1], "its place is another's");
    rig.publish_to(0);
    assert_eq!(rig.started(), [first + 4], "and it is elsewhere now");
    assert_eq!(rig.core.counts().n_destinations, 2);
    rig.finish_at(moved, 1, refused());
    assert_eq!(rig.started(), [first + 2], "where it was when it started");
    // Who waits is called when there is a place where it waits, wherever its endpoint is by then.
    rig.finish_at(moved, first + 1, refused());
    assert_eq!(rig.started(), [first + 3]);
    for seq in first + 2..=first + 4 {
        rig.finish_at(moved, seq, refused());
    }
    rig.commands();
    assert_eq!(rig.core.counts(), Counts::default());
}

#[test]
fn who_may_not_start_when_there_is_a_place_leaves_it_to_the_next() {
    let mut rig = Rig::with(Core::new(16, u64::MAX));
    let first = rig.meet(4, Some(VICTIM));
    assert_eq!(rig.published(4), [first, first + 1]);
    rig.finish_at(VICTIM, first, refused());
    (rig.suspended, rig.endpoint) = (true, "https://2.evil.example:443".to_owned());
    rig.tell(name(2));
    assert_eq!(rig.started(), [first + 3]);
}

#[test]
fn addresses_that_are_not_of_the_public_internet_bound_nobody() {
    let mut rig = Rig::with(Core::new(4096, u64::MAX));
    rig.meet(1000, None);
    assert_eq!(rig.published(1000).len(), 1000);
    assert_eq!(rig.core.counts().n_destinations, 0);
}

#[test]
fn who_ends_or_goes_elsewhere_while_it_waits_for_an_address_takes_no_place_there() {
    let mut rig = Rig::with(Core::new(8, u64::MAX));
    let first = rig.meet(5, Some(VICTIM));
    assert_eq!(rig.published(5), [first]);
    rig.core.handle_ended(name(1), rig.now);
    let end = End::DeadLettered(DeadLetterReason::SubscriptionEnded);
    assert_eq!(rig.commands(), [settle(first + 1, 0, 0, end)]);
    rig.endpoint = "https://elsewhere.example:443".to_owned();
    rig.tell(name(2));
    assert_eq!(rig.started(), [first + 2]);
    rig.finish_at(VICTIM, first, refused());
    // It is about to start, and the rest do not wait for it.
    rig.core.handle_ended(name(3), rig.now);
    assert_eq!(rig.started(), [first + 4]);
    rig.finish_at(VICTIM, first + 4, refused());
    rig.finish_at(VICTIM, first + 2, refused());
    rig.commands();
    assert_eq!(rig.core.counts(), Counts::default());
}

#[test]
fn a_place_is_not_kept_for_one_whose_endpoint_moves_as_its_turn_comes() {
    let mut rig = Rig::with(Core::new(8, u64::MAX));
    let first = rig.meet(3, Some(VICTIM));
    rig.endpoint = "https://1.evil.example:443".to_owned();
    rig.warm(B, 50, 1);
    assert_eq!(rig.published(3), [first]);
    rig.finish_at(VICTIM, first, refused());
    rig.finish_at("2606:2800::1".parse().unwrap(), 50, Verdict::Delivered);
    assert_eq!(rig.started(), [first + 1, first + 2]);
    assert_eq!(rig.core.counts().n_destinations, 2);
}

#[test]
fn who_ends_or_goes_elsewhere_as_its_turn_comes_leaves_it_to_the_next() {
    for ends in [true, false] {
        let mut rig = Rig::out_of_reach(Core::new(1, u64::MAX));
        rig.endpoint = "https://other.example:443".to_owned();
        rig.accept(B, 4);
        assert_eq!(rig.started(), [4], "the only permit");
        rig.advance(Duration::from_secs(5));
        // The first is about to be the probe.
        if ends {
            rig.core.handle_ended(name(0), rig.now);
        } else {
            rig.tell(name(0));
        }
        rig.finish(4, Verdict::Delivered);
        if !ends {
            assert_eq!(rig.started(), [2], "elsewhere");
            rig.finish(2, Verdict::Delivered);
        }
        assert_eq!(rig.started(), [3], "the probe");
    }
}

#[test]
fn who_is_suspended_while_it_waits_for_a_budget_leaves_its_turn_to_the_next() {
    let mut rig = Rig::out_of_reach(Core::new(40, 1));
    rig.endpoint = "https://other.example:443".to_owned();
    rig.accept(B, 4);
    assert_eq!(rig.started(), [4], "which takes the budget");
    rig.endpoint = ENDPOINT.to_owned();
    rig.advance(Duration::from_secs(5));
    assert_eq!(rig.started(), NONE, "the first would be the probe");
    rig.suspended = true;
    rig.tell(name(0));
    rig.finish(4, Verdict::Delivered);
    assert_eq!(rig.started(), [3], "the probe");
}

#[test]
fn what_waits_for_an_address_ends_with_its_time_to_live() {
    let mut rig = Rig::with(Core::new(8, u64::MAX));
    let first = rig.meet(2, Some(VICTIM));
    assert_eq!(rig.published(2), [first]);
    rig.advance(Duration::from_secs(600));
    let review = Command::Review {
        queue: queue(name(1)),
        delivery: delivery(first + 1),
    };
    assert_eq!(rig.commands(), [review]);
    let over = Some(DeadLetterReason::Ttl);
    rig.core
        .handle_reviewed(queue(name(1)), delivery(first + 1), over, rig.now);
    rig.commands();
    rig.finish_at(VICTIM, first, refused());
    rig.commands();
    assert_eq!(rig.core.counts(), Counts::default());
}

#[test]
fn no_attempt_starts_after_stop() {
    let mut rig = Rig::new();
    rig.core.handle_stop();
    rig.accept(A, 1);
    assert_eq!(rig.commands(), []);
}

const NONE: [u64; 0] = [];
const ENDPOINT: &str = "https://example.com:443";
const VICTIM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 215, 14));

/// A core and the time, and how subscriptions are that it asks for.
struct Rig {
    core: Core,
    now: Timestamp,
    tenant: String,
    endpoint: String,
    destination: Option<IpAddr>,
    suspended: bool,
    rate: Option<f64>,
    n_published: u64,
}

impl Rig {
    fn new() -> Self {
        Self::with(Core::new(40, u64::MAX))
    }

    fn with(core: Core) -> Self {
        Self {
            core,
            now: T0,
            tenant: "acme".to_owned(),
            endpoint: ENDPOINT.to_owned(),
            destination: None,
            suspended: false,
            rate: None,
            n_published: 0,
        }
    }

    /// Deliveries 2 and 3, of two subscriptions, wait for their endpoint.
    fn out_of_reach(core: Core) -> Self {
        let mut rig = Self::with(core);
        rig.accept(A, 1);
        rig.commands();
        rig.finish(1, unreachable());
        rig.core.handle_ended(A, rig.now);
        rig.accept(name(0), 2);
        rig.accept(name(1), 3);
        rig
    }

    fn settings(&self) -> Settings {
        Settings {
            shard: Shard::first(&self.tenant.parse().unwrap()),
            endpoint: self.endpoint.as_str().into(),
            policy: Arc::new(Policy::default()),
            max_in_flight: 64,
            max_requests_per_second: self.rate,
            suspended: self.suspended,
        }
    }

    fn accept(&mut self, subscription: Uid, seq: u64) {
        self.accept_in(subscription, UNORDERED, seq);
    }

    fn accept_in(&mut self, subscription: Uid, partition: u16, seq: u64) {
        let queue = QueueId {
            subscription,
            partition,
        };
        let waiting = waiting(seq, progress(0, 0));
        let settings = self.settings();
        self.core
            .handle_accepted(queue, waiting, || Some(settings), self.now);
    }

    /// Has deliveries `first..first + n` of a subscription in flight, after enough successes.
    fn warm(&mut self, subscription: Uid, first: u64, n: u64) {
        for seq in 1_000_000..1_000_000 + 2 * n {
            self.accept(subscription, seq);
        }
        loop {
            let started = self.started();
            if started.is_empty() {
                break;
            }
            for seq in started {
                self.finish(seq, Verdict::Delivered);
            }
        }
        for seq in first..first + n {
            self.accept(subscription, seq);
        }
        assert_eq!(self.started().len() as u64, n);
    }

    /// Lets so many names, each an endpoint with a subscription of its own, be called once and refuse, where they are.
    /// Returns the next delivery's number.
    fn meet(&mut self, n_names: u32, destination: Option<IpAddr>) -> u64 {
        let mut met = self.published(n_names);
        self.destination = destination;
        while !met.is_empty() {
            for seq in met {
                self.finish(seq, refused());
            }
            met = self.started();
        }
        self.next_seq()
    }

    /// What starts after an event for each name.
    fn published(&mut self, n_names: u32) -> Vec<u64> {
        for number in 0..n_names {
            self.publish_to(number);
        }
        self.started()
    }

    fn publish_to(&mut self, number: u32) {
        self.endpoint = format!("https://{number}.evil.example:443");
        let seq = self.next_seq();
        self.n_published += 1;
        self.accept(name(number), seq);
    }

    fn next_seq(&self) -> u64 {
        10_000 + self.n_published
    }

    /// As [`Rig::finish`], for one who was called there.
    fn finish_at(&mut self, address: IpAddr, seq: u64, verdict: Verdict) {
        self.destination = Some(address);
        self.finish(seq, verdict);
    }

    fn tell(&mut self, subscription: Uid) {
        let settings = self.settings();
        self.core
            .handle_subscription(subscription, settings, self.now);
    }

    /// Everything is to go on elsewhere.
    fn leave(&mut self) {
        let shards = [Shard::first(&self.tenant.parse().unwrap())].into();
        self.core.handle_leaving(&shards, self.now);
    }

    fn recover(&mut self, subscription: Uid, n: u64) {
        self.core
            .handle_recovered(queue(subscription), n, self.now, self.now);
        self.tell(subscription);
    }

    fn recover_later(&mut self, subscription: Uid, n: u64) {
        let due = self.now + Duration::from_secs(3600);
        self.core
            .handle_recovered(queue(subscription), n, due, self.now);
    }

    /// Some of what is on disk; there is more, due now, if the core says so.
    fn load(&mut self, subscription: Uid, loaded: Vec<Waiting>) {
        let more =
            self.core.counts().n_waiting > self.core.counts().n_in_memory + loaded.len() as u64;
        let next_due = more.then_some(self.now);
        self.core
            .handle_loaded(queue(subscription), loaded, next_due, self.now);
    }

    fn finish(&mut self, seq: u64, verdict: Verdict) {
        let status = if let Verdict::Retry(retry) = &verdict
            && retry.failure == FailureKind::Status
        {
            Some(if retry.throttled { 429 } else { 500 })
        } else {
            None
        };
        let finished = Finished {
            delivery: delivery(seq),
            verdict,
            status,
            attempted: true,
            duration: Duration::from_millis(5),
            destination: self.destination,
            accept_time: T0,
            expiry: None,
            jitter: Jitter::NONE,
            spread: 0.5,
        };
        self.core.handle_finished(finished, self.now);
    }

    fn advance(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.core.handle_timeout(self.now);
    }

    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.core.poll_command(self.now)).collect()
    }

    /// The attempts that start.
    fn started(&mut self) -> Vec<u64> {
        let started = self.commands().into_iter().filter_map(|it| {
            let Command::Attempt(attempt) = it else {
                return None;
            };
            Some(attempt.delivery.seq)
        });
        started.collect()
    }

    /// Lets time pass until an attempt starts.
    fn commands_until_started(&mut self) {
        while self.started().is_empty() {
            let at = self.core.poll_timeout().expect("something waits");
            self.now = at.max(self.now);
            self.core.handle_timeout(self.now);
        }
    }
}

fn queue(subscription: Uid) -> QueueId {
    QueueId {
        subscription,
        partition: UNORDERED,
    }
}

/// The subscription to a name.
fn name(number: u32) -> Uid {
    let mut uid = [9; 16];
    uid[..4].copy_from_slice(&number.to_le_bytes());
    uid
}

fn delivery(seq: u64) -> DeliveryId {
    DeliveryId { seq, target: 0 }
}

fn progress(attempts: u32, step: u32) -> Progress {
    Progress { attempts, step }
}

fn waiting(seq: u64, progress: Progress) -> Waiting {
    Waiting {
        delivery: delivery(seq),
        progress,
        bytes: 1000,
        due: T0,
    }
}

fn status(_code: u16) -> Verdict {
    failure(FailureKind::Status, None)
}

fn refused() -> Verdict {
    Verdict::Reject(DeadLetterReason::NonRetryable)
}

fn unreachable() -> Verdict {
    failure(FailureKind::Connect, None)
}

fn throttled(seconds: u64) -> Verdict {
    failure(FailureKind::Status, Some(Duration::from_secs(seconds)))
}

fn failure(failure: FailureKind, retry_after: Option<Duration>) -> Verdict {
    Verdict::Retry(Retry {
        failure,
        minimum: Duration::ZERO,
        retry_after,
        throttled: retry_after.is_some(),
        pause_endpoint: retry_after.is_some(),
    })
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
        queue: queue(subscription),
        waiting: Waiting {
            due,
            ..waiting(seq, progress(1, step))
        },
        failed: true,
    }
}

fn load(subscription: Uid, until: Timestamp) -> Command {
    Command::Load {
        queue: queue(subscription),
        until,
        limit: LOAD_MAX,
    }
}

fn hand_over(subscription: Uid, lot: &[Waiting]) -> Command {
    Command::HandOver {
        queue: queue(subscription),
        lot: lot.to_vec(),
    }
}

fn settle(seq: u64, attempts: u32, step: u32, end: End) -> Command {
    Command::Settle {
        delivery: delivery(seq),
        progress: progress(attempts, step),
        end,
    }
}
