//! Pages: newest first, each delivery once, bounded in what they look at.

use std::cell::Cell;

use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::*;
use crate::history::{buckets::Day, key::BLOCK_TARGETS};

#[tokio::test]
async fn deliveries_come_newest_first_in_pages_without_gaps() {
    let world = World::new();
    for seq in 0..25_u32 {
        // Over three days.
        world.accept(seq.into(), T0 + DAY * seq / 10, &["hook"]);
    }
    world.history.flush().await;
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let (page, next) = world.page(&Wanted::default(), cursor, 7);
        assert!(page.len() <= 7);
        found.extend(page.into_iter().map(|it| it.name));
        match next.map(|it| Cursor::decode(&it.encode()).unwrap()) {
            None => break,
            some => cursor = some,
        }
        // What is accepted meanwhile is newer and does not shift the rest.
        world.accept(100 + found.len() as u64, T0 + 3 * DAY, &["hook"]);
        world.history.flush().await;
    }
    let expected: Vec<_> = (0..25)
        .rev()
        .map(|it| name(it, "hook").to_string())
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn filters_and_scopes_leave_out_the_others() {
    let world = World::new();
    world.accept(1, T0, &["hook"]);
    let second = world.accept(2, T0, &["hook"]);
    world.report(&second, 0, Some(1), Standing::Succeeded, T0);
    world.history.flush().await;
    let pending = Wanted {
        state: Some(State::Pending),
        ..Wanted::default()
    };
    assert_eq!(world.page(&pending, None, 10).0.len(), 1);
    let other = Wanted {
        event_type: Some("other".to_owned()),
        ..Wanted::default()
    };
    assert!(world.page(&other, None, 10).0.is_empty());
    for (tenant, subscription) in [(ACME, Some("elsewhere")), ("acm", None), ("acmee", None)] {
        let scope = scope(tenant, subscription);
        let page = world
            .history
            .deliveries(&scope, &Wanted::default(), None, 10);
        assert!(page.unwrap().0.is_empty(), "{tenant} {subscription:?}");
    }
}

#[tokio::test]
async fn an_event_to_a_hundred_thousand_is_a_hundred_records_and_lists_in_pages() {
    const N: u32 = 100_000;
    let world = World::new();
    let names: Vec<String> = (0..N).map(|it| format!("hook-{it}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let event = world.accept(1, T0, &names);
    world.report(&event, 77_777, Some(1), Standing::Succeeded, T0);
    world.history.flush().await;
    assert_eq!(world.n_records(T0), N.div_ceil(BLOCK_TARGETS) as usize);
    world.report(&event, 55_555, Some(1), dead(), T0);
    world.history.flush().await;

    let (mut cursor, mut next_target) = (None, N);
    loop {
        let (page, next) = world.page(&Wanted::default(), cursor, 1000);
        for delivery in page {
            next_target -= 1;
            let id = DeliveryId {
                seq: 1,
                target: next_target,
            };
            assert!(
                delivery
                    .name
                    .ends_with(&format!("/hook-{next_target}/deliveries/{id}"))
            );
            let state = match next_target {
                77_777 => State::Succeeded,
                55_555 => State::DeadLettered,
                _ => State::Pending,
            };
            assert_eq!(delivery.state(), state, "{next_target}");
        }
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(next_target, 0);

    // Of one subscription: no page looks at more than its share.
    let of_one = scope(ACME, Some("hook-31"));
    let (mut found, mut cursor, mut n_pages) = (Vec::new(), None, 0);
    loop {
        let (page, next) = world
            .history
            .deliveries(&of_one, &Wanted::default(), cursor, 10)
            .unwrap();
        n_pages += 1;
        found.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 1);
    assert!(n_pages >= 5, "{n_pages}");
}

/// What the model knows of a delivery, in the order of a list: day, number, target.
#[derive(Clone, Debug)]
struct Known {
    place: (u64, DeliveryId),
    subscription: &'static str,
    state: State,
}

const SUBSCRIPTIONS: [&str; 2] = ["hook", "hooks"];

/// Pages of every size, over days, targets, scopes and filters, while events are being accepted:
/// what was there at the start comes newest first, each once, and nothing else.
#[test]
fn pages_together_are_what_the_model_lists() {
    // Days passed, targets, whether the first of them has succeeded, and whether that was known
    // when the event was written.
    let accepted = (
        prop_oneof![4 => Just(0), 1 => Just(1_u32)],
        1_u32..4,
        any::<bool>(),
        any::<bool>(),
    );
    let state = prop_oneof![Just(State::Pending), Just(State::Succeeded)];
    let cases = (
        vec(accepted, 0..20),
        prop::option::of(prop::sample::select(SUBSCRIPTIONS.as_slice())),
        prop::option::of(state),
        1_usize..6,
        1_usize..8,
    );
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let flush = || runtime.block_on(world.history.flush());
    let n_tenants = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(128));
    let ran = runner.run(&cases, |(events, scope, state, limit, max_examined)| {
        // A database takes its time to make: the cases share one, each with a tenant of its own.
        let tenant = format!("t{}", n_tenants.replace(n_tenants.get() + 1));
        let accept = |seq, day, n_targets| {
            let targets: Vec<_> = SUBSCRIPTIONS.into_iter().cycle().take(n_targets).collect();
            world.tell(event(&tenant, seq, T0 + DAY * day, &targets))
        };
        let (mut model, mut day) = (Vec::new(), 0);
        for (seq, (passed, n_targets, has_succeeded, in_time)) in (0..).zip(&events) {
            day = (day + passed).min(3);
            let event = accept(seq, day, *n_targets as usize);
            if !in_time {
                flush();
            }
            if *has_succeeded {
                world.report(&event, 0, Some(1), Standing::Succeeded, event.accept_time);
            }
            for target in 0..*n_targets {
                let succeeded = *has_succeeded && target == 0;
                model.push(Known {
                    place: (Day::of(event.accept_time).0, DeliveryId { seq, target }),
                    subscription: SUBSCRIPTIONS[target as usize % 2],
                    state: if succeeded {
                        State::Succeeded
                    } else {
                        State::Pending
                    },
                });
            }
        }
        flush();
        model.sort_by_key(|it| std::cmp::Reverse(it.place));
        let expected = model
            .iter()
            .filter(|it| scope.is_none_or(|scope| it.subscription == scope))
            .filter(|it| state.is_none_or(|state| it.state == state))
            .map(|it| it.place.1.to_string());
        let wanted = Wanted {
            state,
            ..Wanted::default()
        };
        let in_scope = super::scope(&tenant, scope);
        let (mut found, mut cursor, mut n_pages) = (Vec::new(), None, 0);
        loop {
            let page = world
                .history
                .page(&in_scope, &wanted, cursor, limit, max_examined);
            let (page, next) = page.unwrap();
            prop_assert!(page.len() <= limit.min(max_examined));
            found.extend(
                page.iter()
                    .map(|it| it.name.rsplit('/').next().unwrap().to_owned()),
            );
            n_pages += 1;
            prop_assert!(n_pages <= model.len() + 1, "a page makes no progress");
            let Some(next) = next else { break };
            cursor = Cursor::decode(&next.encode());
            prop_assert_eq!(cursor, Some(next));
            // Meanwhile another event, on the newest day or the next.
            accept(100 + n_pages as u64, day + n_pages as u32 % 2, 1);
            flush();
        }
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
        Ok(())
    });
    ran.unwrap();
}
