//! The history over a real database, told by hand.

mod composing;
mod days;
mod listing;
mod surviving;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::{DeliveryName, SubscriptionScope, TenantId},
    retry::Progress,
};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{DeadLetterReason, delivery::State},
};
use prost::Message as _;

use super::*;
use crate::journal::{Origin, Standing, Target};

const DAY: Duration = Duration::from_secs(86_400);
const T0: Timestamp = Timestamp(20_000 * 86_400_000);
const ACME: &str = "acme";

#[tokio::test]
async fn what_became_of_an_event_before_it_was_written_is_one_record() {
    let world = World::new();
    let event = world.accept(1, T0, &["hook", "other"]);
    world.report(&event, 0, Some(1), Standing::Succeeded, T0);
    world.report(&event, 1, Some(1), pending(T0), T0);
    world.history.flush().await;
    assert_eq!(world.n_records(T0), 1);
    assert_eq!(world.get(1, "hook").unwrap().state(), State::Succeeded);
    assert_eq!(world.get(1, "hook").unwrap().attempt_count, 1);
    let attempts = world.history.attempts(&name(1, "hook"), 0).unwrap();
    assert_eq!(attempts, [attempt(1)]);
}

#[tokio::test]
async fn what_becomes_of_it_later_is_written_without_the_event() {
    let world = World::new();
    let event = world.accept(1, T0, &["hook"]);
    world.history.flush().await;
    let accepted = world.get(1, "hook").unwrap();
    assert_eq!(accepted.state(), State::Pending);
    assert_eq!(accepted.event_type, "orders.created");
    assert_eq!(accepted.next_attempt_time, Some(T0.into()));
    let later = T0 + Duration::from_secs(5);
    world.report(&event, 0, Some(1), pending(later), T0);
    world.history.flush().await;
    let deferred = world.get(1, "hook").unwrap();
    assert_eq!(deferred.next_attempt_time, Some(later.into()));
    world.report(&event, 0, Some(2), dead(), later);
    world.history.flush().await;
    assert_eq!(world.n_records(T0), 3);
    let settled = world.get(1, "hook").unwrap();
    assert_eq!(settled.state(), State::DeadLettered);
    assert_eq!(settled.dead_letter_reason(), DeadLetterReason::MaxAttempts);
    assert_eq!(settled.attempt_count, 2);
    assert_eq!(settled.settle_time, Some(later.into()));
    assert_eq!(settled.last_attempt, Some(attempt(2)));
    let name = name(1, "hook");
    let all = [attempt(1), attempt(2)];
    assert_eq!(world.history.attempts(&name, 0).unwrap(), all);
    assert_eq!(world.history.attempts(&name, 1).unwrap(), all[1..]);
}

#[tokio::test]
async fn a_dead_letter_keeps_its_event() {
    let world = World::new();
    let at_once = world.accept(1, T0, &["hook"]);
    let later = world.accept(2, T0, &["hook"]);
    world.report(&at_once, 0, Some(1), dead(), T0);
    world.history.flush().await;
    // Without an attempt the event is not at hand.
    world.report(&later, 0, None, dead(), T0);
    world.history.flush().await;
    for event in [at_once, later] {
        let kept = world.history.dead_event(id(event.seq)).unwrap();
        assert_eq!(kept, Some(event.event.clone()));
    }
    assert_eq!(world.history.dead_event(id(3)).unwrap(), None);
}

#[tokio::test]
async fn a_redelivery_names_what_it_repeats() {
    let world = World::new();
    let redelivery = StoredEvent {
        origin: Origin::Redelivery(id(7)),
        stands: Vec::new(),
        ..event(ACME, 8, T0, &["hook"])
    };
    world.tell(redelivery);
    world.history.flush().await;
    assert_eq!(
        world.get(8, "hook").unwrap().redelivery_of,
        name(7, "hook").to_string()
    );
}

#[tokio::test]
async fn a_delivery_is_found_by_its_own_name_only() {
    let world = World::new();
    world.accept(1, T0, &["hook", "other"]);
    world.history.flush().await;
    assert!(world.get(1, "hook").is_some());
    assert!(world.get(1, "other").is_none());
    assert!(world.get(2, "hook").is_none());
    let third = DeliveryName {
        delivery: DeliveryId { seq: 1, target: 2 },
        ..name(1, "hook")
    };
    assert!(world.history.delivery(&third).unwrap().is_none());
}

#[tokio::test]
async fn the_backlog_weighs_what_waits() {
    let world = World::new();
    assert_eq!(world.history.backlog(), 0);
    let told = Told::Accepted(Arc::new(StoredEvent {
        event: Bytes::from(vec![0; 64 << 10]),
        ..event(ACME, 1, T0, &["hook"])
    }));
    assert_eq!(told.weight(), 65);
    for seq in 0..5000 {
        world.accept(seq, T0, &["hook"]);
    }
    world.history.flush().await;
    assert_eq!(world.history.backlog(), 0);
}

/// The events that a log has.
type Kept = Arc<Mutex<HashMap<u64, Arc<StoredEvent>>>>;

/// A log that remembers events and passes outcomes on.
struct FakeLog {
    events: Kept,
    settle: Box<dyn Fn(Outcome) + Send>,
}

impl Log for FakeLog {
    fn event(&self, seq: u64) -> Option<Arc<StoredEvent>> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.get(&seq).cloned()
    }

    fn settle(&self, outcome: Outcome) {
        (self.settle)(outcome);
    }
}

struct World {
    history: History,
    database: Database,
    /// What the log keeps.
    events: Kept,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(settle: impl Fn(Outcome) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open(dir, T0, Arc::default(), Box::new(settle))
    }

    fn open(
        dir: tempfile::TempDir,
        now: Timestamp,
        events: Kept,
        settle: Box<dyn Fn(Outcome) + Send>,
    ) -> Self {
        // The thread ends a moment after its last handle, and only then lets go of the database.
        let database = loop {
            match Database::builder(dir.path()).open() {
                Ok(database) => break database,
                Err(fjall::Error::Locked) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        Self::on(database, dir, now, events, settle)
    }

    fn on(
        database: Database,
        dir: tempfile::TempDir,
        now: Timestamp,
        events: Kept,
        settle: Box<dyn Fn(Outcome) + Send>,
    ) -> Self {
        let log = FakeLog {
            events: Arc::clone(&events),
            settle,
        };
        Self {
            history: History::open(database.clone(), now, log).unwrap(),
            database,
            events,
            dir,
        }
    }

    /// Ends in an orderly way and starts again.
    fn restart(self, now: Timestamp) -> Self {
        let Self {
            dir,
            history,
            database,
            events,
        } = self;
        drop((history, database));
        Self::open(dir, now, events, Box::new(|_| {}))
    }

    /// Another history of the same database, that has heard of nothing yet.
    fn forget(self) -> Self {
        Self::on(self.database, self.dir, T0, self.events, Box::new(|_| {}))
    }

    /// What would be there had the process been killed now.
    fn killed(&self, now: Timestamp) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(self.dir.path(), dir.path());
        Self::open(dir, now, Arc::clone(&self.events), Box::new(|_| {}))
    }

    fn accept(&self, seq: u64, time: Timestamp, subscriptions: &[&str]) -> Arc<StoredEvent> {
        self.tell(event(ACME, seq, time, subscriptions))
    }

    fn tell(&self, event: StoredEvent) -> Arc<StoredEvent> {
        let event = self.keep(event);
        self.history.accepted(Arc::clone(&event));
        event
    }

    /// An event that the log has, and of which the history has not heard.
    fn keep(&self, event: StoredEvent) -> Arc<StoredEvent> {
        let event = Arc::new(event);
        let mut events = self.events.lock().unwrap();
        events.insert(event.seq, Arc::clone(&event));
        event
    }

    /// Something became of a delivery, by attempt `number` if there was one.
    fn report(
        &self,
        event: &Arc<StoredEvent>,
        target: u32,
        number: Option<i32>,
        standing: Standing,
        at: Timestamp,
    ) {
        let seq = event.seq;
        let attempts = number.unwrap_or(0).try_into().unwrap();
        self.history.record(Report {
            outcome: Outcome {
                delivery: DeliveryId { seq, target },
                progress: Progress { attempts, step: 0 },
                standing,
                at,
            },
            attempt: number.map(attempt),
            event: number.map(|_| Arc::clone(event)),
        });
    }

    /// The first delivery of an event.
    fn get(&self, seq: u64, subscription: &str) -> Option<v1::Delivery> {
        self.history.delivery(&name(seq, subscription)).unwrap()
    }

    fn list(&self) -> Vec<String> {
        let (deliveries, next) = self.page(&Wanted::default(), None, 1000);
        assert_eq!(next, None);
        deliveries.into_iter().map(|it| it.name).collect()
    }

    fn page(
        &self,
        wanted: &Wanted,
        after: Option<Cursor>,
        limit: usize,
    ) -> (Vec<v1::Delivery>, Option<Cursor>) {
        let scope = scope(ACME, None);
        let page = self.history.deliveries(&scope, wanted, after, limit);
        page.unwrap()
    }

    /// How many records a day has of deliveries.
    fn n_records(&self, day: Timestamp) -> usize {
        let bucket = self.history.buckets.at(buckets::Day::of(day)).unwrap();
        bucket.deliveries.len().unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

fn event(tenant: &str, seq: u64, accept_time: Timestamp, subscriptions: &[&str]) -> StoredEvent {
    let target = |it: &&str| Target {
        partition: 0,
        uid: [0; 16],
        subscription: it.parse().unwrap(),
    };
    let event = CloudEvent {
        id: seq.to_string(),
        r#type: "orders.created".to_owned(),
        ..CloudEvent::default()
    };
    StoredEvent {
        seq,
        tenant: tenant.parse().unwrap(),
        webhook_id: webhook_id(seq),
        accept_time,
        targets: subscriptions.iter().map(target).collect(),
        origin: Origin::Published,
        stands: Vec::new(),
        event: event.encode_to_vec().into(),
    }
}

fn attempt(number: i32) -> v1::Attempt {
    v1::Attempt {
        number,
        start_time: Some(T0.into()),
        duration_millis: i64::from(number),
        ..v1::Attempt::default()
    }
}

fn pending(due: Timestamp) -> Standing {
    Standing::Deferred { due }
}

fn dead() -> Standing {
    Standing::DeadLettered(DeadLetterReason::MaxAttempts)
}

fn id(seq: u64) -> DeliveryId {
    DeliveryId { seq, target: 0 }
}

fn webhook_id(seq: u64) -> WebhookId {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&seq.to_be_bytes());
    WebhookId(id)
}

fn name(seq: u64, subscription: &str) -> DeliveryName {
    DeliveryName {
        tenant: ACME.parse().unwrap(),
        subscription: subscription.parse().unwrap(),
        delivery: id(seq),
    }
}

fn scope(tenant: &str, subscription: Option<&str>) -> SubscriptionScope {
    SubscriptionScope {
        tenant: tenant.parse::<TenantId>().unwrap(),
        subscription: subscription.map(|it| it.parse().unwrap()),
    }
}
