//! A delivery is what became of it, one thing after the other; how that was written is not seen.

use std::{cell::Cell, collections::BTreeMap};

use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::*;

/// Something that happens to an event of three deliveries.
#[derive(Clone, Debug)]
enum Step {
    /// An attempt at a delivery, and what it came to. A receiver that throttles is asked again under
    /// the same number.
    Attempt(u32, Came),
    /// A delivery is given up without an attempt.
    GiveUp(u32),
    /// What is known is written.
    Write,
    /// A history that has heard of nothing yet goes on.
    Forget,
    /// Time passes.
    Days(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Failed,
    Throttled,
    Succeeded,
    Rejected,
}

/// A delivery as it should be told.
#[derive(Clone, Debug, Default)]
struct Expected {
    attempts: BTreeMap<i32, v1::Attempt>,
    state: State,
    due: Option<Timestamp>,
    settled: Option<Timestamp>,
    reason: DeadLetterReason,
    next_number: i32,
}

const SUBSCRIPTIONS: [&str; 3] = ["first", "second", "third"];

#[test]
fn a_delivery_is_the_same_however_it_was_written() {
    let came = prop_oneof![
        4 => Just(Came::Failed),
        1 => Just(Came::Throttled),
        1 => Just(Came::Succeeded),
        1 => Just(Came::Rejected),
    ];
    let step = prop_oneof![
        6 => (0_u32..3, came).prop_map(|(target, came)| Step::Attempt(target, came)),
        1 => (0_u32..3).prop_map(Step::GiveUp),
        3 => Just(Step::Write),
        1 => Just(Step::Forget),
        1 => (1_u32..5).prop_map(Step::Days),
    ];
    let world = Cell::new(Some(World::new()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let n_events = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(256));
    let ran = runner.run(&vec(step, 0..24), |steps| {
        let mut current = world.take().unwrap_or_else(World::new);
        let seq = n_events.replace(n_events.get() + 1);
        let tenant = format!("t{seq}");
        let event = current.tell(event(&tenant, seq, T0, &SUBSCRIPTIONS));
        let mut expected = vec![Expected::new(); 3];
        let mut now = T0;
        for step in steps {
            match step {
                Step::Attempt(target, came) => {
                    let it = &mut expected[target as usize];
                    if it.state == State::Pending {
                        let (number, standing) = it.attempt(came, now);
                        current.report(&event, target, Some(number), standing, now);
                    }
                }
                Step::GiveUp(target) => {
                    let it = &mut expected[target as usize];
                    if it.state == State::Pending {
                        it.settle(State::DeadLettered, now);
                        current.report(&event, target, None, dead(), now);
                    }
                }
                Step::Write => runtime.block_on(current.history.flush()),
                Step::Forget => {
                    runtime.block_on(current.history.flush());
                    current = current.forget();
                }
                Step::Days(n) => now = now + DAY * n,
            }
        }
        runtime.block_on(current.history.flush());
        let scope = scope(&tenant, None);
        let page = current
            .history
            .deliveries(&scope, &Wanted::default(), None, 10);
        let (mut listed, _) = page.unwrap();
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        prop_assert_eq!(listed.len(), 3);
        for (target, (expected, listed)) in (0..).zip(expected.iter().zip(listed)) {
            let name = DeliveryName {
                tenant: event.tenant.clone(),
                subscription: SUBSCRIPTIONS[target as usize].parse().unwrap(),
                delivery: DeliveryId { seq, target },
            };
            let delivery = expected.delivery(&name);
            let composed = current.history.delivery(&name).unwrap();
            prop_assert_eq!(composed.as_ref(), Some(&delivery));
            prop_assert_eq!(listed, delivery);
            let attempts = current.history.attempts(&name, 0).unwrap();
            let all: Vec<_> = expected.attempts.values().cloned().collect();
            prop_assert_eq!(attempts, all);
        }
        world.set(Some(current));
        Ok(())
    });
    ran.unwrap();
}

impl Expected {
    fn new() -> Self {
        Self {
            state: State::Pending,
            due: Some(T0),
            next_number: 1,
            ..Self::default()
        }
    }

    fn attempt(&mut self, came: Came, now: Timestamp) -> (i32, Standing) {
        let number = self.next_number;
        self.attempts.insert(number, attempt(number));
        self.next_number += i32::from(came != Came::Throttled);
        let due = now + Duration::from_secs(9);
        let standing = match came {
            Came::Failed | Came::Throttled => {
                self.due = Some(due);
                pending(due)
            }
            Came::Succeeded => {
                self.settle(State::Succeeded, now);
                Standing::Succeeded
            }
            Came::Rejected => {
                self.settle(State::DeadLettered, now);
                dead()
            }
        };
        (number, standing)
    }

    fn settle(&mut self, state: State, now: Timestamp) {
        self.state = state;
        self.due = None;
        self.settled = Some(now);
        if state == State::DeadLettered {
            self.reason = DeadLetterReason::MaxAttempts;
        }
    }

    fn delivery(&self, name: &DeliveryName) -> v1::Delivery {
        let last = self.attempts.last_key_value();
        v1::Delivery {
            name: name.to_string(),
            event: format!(
                "tenants/{}/events/{}",
                name.tenant,
                webhook_id(name.delivery.seq)
            ),
            event_type: "orders.created".to_owned(),
            state: self.state.into(),
            attempt_count: last.map_or(0, |(number, _)| *number),
            accept_time: Some(T0.into()),
            next_attempt_time: self.due.map(Into::into),
            settle_time: self.settled.map(Into::into),
            dead_letter_reason: self.reason.into(),
            last_attempt: last.map(|(_, attempt)| attempt.clone()),
            redelivery_of: String::new(),
        }
    }
}
