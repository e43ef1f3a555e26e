//! What the log was told of, the history has: whatever ends the process.

use std::sync::{OnceLock, mpsc::channel};

use super::*;

#[tokio::test]
async fn the_history_survives_a_restart() {
    let world = World::new();
    let event = world.accept(1, T0, &["hook"]);
    world.report(&event, 0, Some(1), Standing::Succeeded, T0);
    let world = world.restart(T0);
    assert_eq!(world.get(1, "hook").unwrap().state(), State::Succeeded);
}

#[tokio::test]
async fn an_outcome_is_passed_on_only_once_it_can_be_read() {
    let (sender, receiver) = channel();
    let reader = Arc::<OnceLock<History>>::default();
    let seen = Arc::clone(&reader);
    let world = World::with(move |outcome| {
        let name = name(outcome.delivery.seq, "hook");
        let found = seen.wait().delivery(&name).unwrap();
        sender
            .send((outcome.delivery.seq, found.map(|it| it.state())))
            .unwrap();
    });
    reader.set(world.history.clone()).unwrap();
    let [first, second, third] = [1, 2, 3].map(|seq| world.accept(seq, T0, &["hook"]));
    world.report(&first, 0, Some(1), Standing::Succeeded, T0);
    world.report(&second, 0, Some(1), dead(), T0);
    world.report(&third, 0, Some(1), pending(T0), T0);
    world.history.flush().await;
    world.report(&third, 0, Some(2), dead(), T0);
    world.history.flush().await;
    let mut passed_on: Vec<_> = receiver.try_iter().collect();
    passed_on.sort_by_key(|(seq, state)| (*seq, *state != Some(State::Pending)));
    let expected = [
        (1, Some(State::Succeeded)),
        (2, Some(State::DeadLettered)),
        (3, Some(State::Pending)),
        (3, Some(State::DeadLettered)),
    ];
    assert_eq!(passed_on, expected);
}

#[tokio::test]
async fn an_outcome_is_passed_on_without_anybody_asking() {
    let (sender, receiver) = channel();
    let world = World::with(move |outcome| sender.send(outcome.delivery).unwrap());
    // Of the other delivery nothing is heard, and the dead letter waits for others like it.
    let event = world.accept(1, T0, &["hook", "slow"]);
    world.report(&event, 0, Some(1), dead(), T0);
    let deadline = Duration::from_secs(10);
    assert_eq!(receiver.recv_timeout(deadline), Ok(id(1)));
    assert_eq!(world.history.backlog(), 0);
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_kept_is_not_passed_on() {
    let (sender, receiver) = channel();
    let world = World::with(move |outcome| sender.send(outcome.delivery.seq).unwrap());
    let settle = |seq, accepted, standing| {
        let event = world.accept(seq, accepted, &["hook"]);
        world.report(&event, 0, Some(1), standing, accepted);
    };
    settle(1, T0, dead());
    world.history.flush().await;
    assert!(world.history.is_healthy());
    // The next day needs new keyspaces, for which there is no place any more.
    let keyspaces = world.dir.path().join("keyspaces");
    std::fs::rename(&keyspaces, world.dir.path().join("elsewhere")).unwrap();
    std::fs::write(&keyspaces, "").unwrap();
    settle(2, T0 + DAY, dead());
    settle(3, T0 + DAY, Standing::Succeeded);
    world.history.flush().await;
    // Another one, that shares its round with nothing: it must not look like recovery.
    world.history.flush().await;
    assert!(!world.history.is_healthy());
    assert_eq!(world.history.backlog(), 0);
    // A success need not be attempted again; whatever shared the round with it is a gap.
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 3]);
    settle(4, T0, Standing::Succeeded);
    world.history.flush().await;
    assert!(world.history.is_healthy());
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [4]);
    // What becomes of a delivery in the gap is found nevertheless.
    let lost = event(ACME, 3, T0, &["hook"]);
    world.report(&Arc::new(lost), 0, Some(2), Standing::Succeeded, T0);
    world.history.flush().await;
    assert_eq!(world.get(3, "hook").unwrap().attempt_count, 2);
}

/// The process is killed at any time: what the log has heard by then is in what is left.
#[test]
fn what_the_log_knows_survives_a_kill() {
    let passed_on = Arc::<Mutex<Vec<Outcome>>>::default();
    let log = Arc::clone(&passed_on);
    let world = World::with(move |outcome| log.lock().unwrap().push(outcome));
    let mut n_known = 0;
    for round in 0..5 {
        for seq in round * 300..(round + 1) * 300 {
            let event = world.accept(seq, T0, &["hook"]);
            let (first, later) = match seq % 4 {
                0 => (Standing::Succeeded, None),
                1 => (dead(), None),
                2 => (pending(T0), Some(Standing::Succeeded)),
                _ => (pending(T0), Some(dead())),
            };
            world.report(&event, 0, Some(1), first, T0);
            if let Some(later) = later {
                world.report(&event, 0, Some(2), later, T0);
            }
        }
        // Not all of them: the kill comes in the middle.
        while passed_on.lock().unwrap().len() < n_known + 100 {
            thread::yield_now();
        }
        let known = passed_on.lock().unwrap().clone();
        n_known = known.len();
        let left = world.killed(T0);
        for outcome in known {
            let delivery = left.get(outcome.delivery.seq, "hook");
            let delivery = delivery.unwrap_or_else(|| panic!("{outcome:?} is lost"));
            let known_attempts = outcome.progress.attempts.cast_signed();
            assert!(delivery.attempt_count >= known_attempts, "{outcome:?}");
            if matches!(outcome.standing, Standing::DeadLettered(_)) {
                assert_eq!(delivery.state(), State::DeadLettered);
                let event = left.history.dead_event(outcome.delivery).unwrap();
                assert!(event.is_some(), "{outcome:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_delivery_is_found_though_its_acceptance_was_lost() {
    let world = World::new();
    // Killed before the history wrote it.
    let event = world.keep(event(ACME, 5, T0, &["hook", "other"]));
    let world = world.restart(T0);
    world.report(&event, 1, Some(1), pending(T0), T0);
    world.report(&event, 1, Some(2), Standing::Succeeded, T0);
    world.history.flush().await;
    let name = DeliveryName {
        delivery: DeliveryId { seq: 5, target: 1 },
        ..name(5, "other")
    };
    let found = world.history.delivery(&name).unwrap().unwrap();
    assert_eq!(found.state(), State::Succeeded);
    assert_eq!(found.attempt_count, 2);
    assert_eq!(world.list(), [name.to_string()]);
}
