//! Days are dropped whole, and what is written never goes to one that is about to be.

use super::*;
use crate::history::buckets::{Day, RETENTION};

#[tokio::test]
async fn days_are_dropped_whole_when_they_are_over() {
    let world = World::new();
    world.accept(1, T0, &["hook"]);
    world.accept(2, T0 + 10 * DAY, &["hook"]);
    world.history.flush().await;
    world.history.expire(T0 + RETENTION).unwrap();
    assert_eq!(world.list().len(), 2);
    world.history.expire(T0 + RETENTION + DAY).unwrap();
    assert_eq!(world.list(), [name(2, "hook").to_string()]);
}

#[tokio::test]
async fn a_day_that_was_half_made_or_half_dropped_is_dropped_too() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::builder(dir.path()).open().unwrap();
    let old = Day::of(T0).0 - 100;
    for kind in ["deliveries", "dead"] {
        let name = format!("history-{kind}-{old}");
        database
            .keyspace(&name, fjall::KeyspaceCreateOptions::default)
            .unwrap();
    }
    let log = FakeLog {
        events: Arc::default(),
        settle: Box::new(|_| {}),
    };
    let _history = History::open(database.clone(), T0, log).unwrap();
    let names = database.list_keyspace_names();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn a_dropped_day_stays_dropped_over_a_restart() {
    let world = World::new();
    let later = T0 + RETENTION + DAY;
    world.accept(1, T0, &["hook"]);
    world.history.flush().await;
    let world = world.restart(later);
    assert!(world.get(1, "hook").is_none());
    // A new day's keyspaces must not bring back what the dropped ones had.
    world.accept(2, later, &["hook"]);
    world.history.flush().await;
    // So early that whatever is still there would be kept.
    let world = world.restart(T0);
    assert_eq!(world.list(), [name(2, "hook").to_string()]);
}

#[tokio::test]
async fn a_delivery_that_outlives_its_day_is_found_for_a_week_after_it_ended() {
    let world = World::new();
    let event = world.accept(1, T0, &["hook"]);
    let other = world.accept(2, T0 + DAY, &["hook"]);
    world.report(&other, 0, Some(1), Standing::Succeeded, T0 + DAY);
    // Suspended for so long that the first day has gone when it is given up.
    for (number, day) in [(1, 0), (2, 8), (3, 12)] {
        let at = T0 + day * DAY;
        world.report(&event, 0, Some(number), pending(at + DAY), at);
        world.history.flush().await;
        // Where it is listed moves with it, and it is listed once.
        let both = [name(1, "hook").to_string(), name(2, "hook").to_string()];
        let mut listed = world.list();
        listed.sort();
        assert_eq!(listed, both, "day {day}");
        let delivery = world.get(1, "hook").unwrap();
        assert_eq!(delivery.attempt_count, number);
        assert_eq!(delivery.next_attempt_time, Some((at + DAY).into()));
    }
    let attempts = world.history.attempts(&name(1, "hook"), 0).unwrap();
    assert_eq!(attempts.len(), 3);
    let ended = T0 + 20 * DAY;
    world.history.expire(ended).unwrap();
    world.report(&event, 0, None, dead(), ended);
    world.history.flush().await;
    assert!(!world.days().contains(&Day::of(T0)), "made again");

    world.history.expire(ended + 7 * DAY).unwrap();
    let delivery = world.get(1, "hook").unwrap();
    assert_eq!(delivery.state(), State::DeadLettered);
    assert_eq!(delivery.accept_time, Some(T0.into()));
    assert_eq!(delivery.settle_time, Some(ended.into()));
    assert_eq!(delivery.event_type, "orders.created");
    assert_eq!(world.list(), [name(1, "hook").to_string()]);
    let kept = world.history.dead_event(id(1)).unwrap();
    assert_eq!(kept, Some(event.event.clone()));

    world.history.expire(ended + RETENTION + DAY).unwrap();
    assert!(world.get(1, "hook").is_none());
    assert!(world.days().is_empty());
}

#[tokio::test]
async fn what_ends_within_a_week_stays_with_its_day() {
    let world = World::new();
    let event = world.accept(1, T0, &["hook"]);
    world.history.flush().await;
    let almost_a_week = T0 + (7 * DAY - Duration::from_millis(1));
    world.report(&event, 0, Some(1), dead(), almost_a_week);
    world.history.flush().await;
    assert_eq!(world.days(), [Day::of(T0)]);
    // It is there for a week at least.
    world.history.expire(almost_a_week + 7 * DAY).unwrap();
    assert!(world.get(1, "hook").is_some());
}

impl World {
    /// The days that are kept, as the disk has them.
    fn days(&self) -> Vec<Day> {
        let open = self.history.buckets.newest_first();
        open.into_iter().map(|(day, _)| day).collect()
    }
}
