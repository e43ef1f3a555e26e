use std::sync::Arc;

use hookfleet_contract::name::SubscriptionId;
use hookfleet_proto::v1::DeadLetterReason;

use super::*;

const DAY: u64 = 86_400_000;
const T0: Timestamp = Timestamp(20_000 * DAY);

#[tokio::test]
async fn deliveries_come_newest_first_in_pages_without_gaps() {
    let world = World::new();
    for seq in 0..25 {
        // Over three days.
        world.accept(seq, T0 + Duration::from_millis(seq * DAY / 10));
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
        world.accept(
            100 + found.len() as u64,
            T0 + Duration::from_millis(3 * DAY),
        );
        world.history.flush().await;
    }
    let expected: Vec<String> = (0..25).rev().map(|seq| name(seq).to_string()).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_attempt_changes_the_delivery_and_acceptance_does_not_undo_it() {
    let world = World::new();
    let standing = Standing::DeadLettered {
        reason: DeadLetterReason::MaxAttempts,
        event: Bytes::from_static(b"event"),
    };
    world.attempt(1, 1, Standing::Pending { next: T0 });
    world.attempt(1, 2, standing);
    world.accept(1, T0);
    world.history.flush().await;
    let delivery = world.history.delivery(&name(1)).unwrap().unwrap();
    assert_eq!(delivery.state(), State::DeadLettered);
    assert_eq!(delivery.dead_letter_reason(), DeadLetterReason::MaxAttempts);
    assert_eq!(delivery.attempt_count, 2);
    assert_eq!(world.history.attempts(id(1), 0).unwrap().len(), 2);
    assert_eq!(world.history.attempts(id(1), 1).unwrap().len(), 1);
    assert_eq!(
        world.history.dead_event(id(1)).unwrap(),
        Some(Bytes::from_static(b"event"))
    );
}

#[tokio::test]
async fn an_event_is_found_by_its_tenant_only() {
    let world = World::new();
    let tenant: TenantId = "acme".parse().unwrap();
    world.history.record(
        Row::Event(EventRow {
            tenant: tenant.clone(),
            webhook_id: event_id(7),
            accept_time: T0,
            seq: 7,
        }),
        None,
    );
    world.history.flush().await;
    assert_eq!(world.history.event(&tenant, event_id(7)).unwrap(), Some(7));
    assert_eq!(
        world
            .history
            .event(&"globex".parse().unwrap(), event_id(7))
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn filters_and_scopes_leave_out_the_others() {
    let world = World::new();
    world.accept(1, T0);
    world.attempt(2, 1, Standing::Succeeded);
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
    let elsewhere = SubscriptionScope {
        tenant: "acme".parse().unwrap(),
        subscription: Some("elsewhere".parse().unwrap()),
    };
    assert!(
        world
            .history
            .deliveries(&elsewhere, &Wanted::default(), None, 10)
            .unwrap()
            .0
            .is_empty()
    );
    let stranger = SubscriptionScope {
        tenant: "acm".parse().unwrap(),
        subscription: None,
    };
    assert!(
        world
            .history
            .deliveries(&stranger, &Wanted::default(), None, 10)
            .unwrap()
            .0
            .is_empty()
    );
    let mut misnamed = name(1);
    misnamed.subscription = "elsewhere".parse().unwrap();
    assert!(world.history.delivery(&misnamed).unwrap().is_none());
}

#[tokio::test]
async fn days_are_dropped_whole_when_they_are_over() {
    let world = World::new();
    world.accept(1, T0);
    world.accept(2, T0 + Duration::from_millis(10 * DAY));
    world.history.flush().await;
    world.history.expire(T0 + RETENTION).unwrap();
    assert_eq!(world.page(&Wanted::default(), None, 10).0.len(), 2);
    world
        .history
        .expire(T0 + RETENTION + Duration::from_millis(DAY))
        .unwrap();
    let left = world.page(&Wanted::default(), None, 10).0;
    assert_eq!(
        left.into_iter().map(|it| it.name).collect::<Vec<_>>(),
        [name(2).to_string()]
    );
}

#[tokio::test]
async fn the_history_survives_a_restart() {
    let world = World::new();
    world.attempt(1, 1, Standing::Succeeded);
    world.history.flush().await;
    let World { dir, history } = world;
    drop(history);
    // The thread ends a moment after its last handle, and only then lets go of the database.
    let reopened = loop {
        match Database::builder(dir.path()).open() {
            Ok(database) => break History::open(database, T0, |_| {}).unwrap(),
            Err(fjall::Error::Locked) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(
        reopened.delivery(&name(1)).unwrap().unwrap().state(),
        State::Succeeded
    );
}

struct World {
    history: History,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::builder(dir.path()).open().unwrap();
        let history = History::open(database, T0, |_| {}).unwrap();
        Self { history, dir }
    }

    fn accept(&self, seq: u64, accept_time: Timestamp) {
        let row = DeliveryRow::Accepted {
            id: id(seq),
            accept_time,
            subject: subject(seq),
        };
        self.history.record(Row::Delivery(row), None);
    }

    fn attempt(&self, seq: u64, number: i32, standing: Standing) {
        let attempt = v1::Attempt {
            number,
            ..v1::Attempt::default()
        };
        let (id, accept_time, subject) = (id(seq), T0, subject(seq));
        let row = DeliveryRow::Attempted {
            id,
            accept_time,
            subject,
            attempt,
            standing,
        };
        self.history.record(Row::Delivery(row), None);
    }

    fn page(
        &self,
        wanted: &Wanted,
        after: Option<Cursor>,
        limit: usize,
    ) -> (Vec<v1::Delivery>, Option<Cursor>) {
        let scope = SubscriptionScope {
            tenant: "acme".parse().unwrap(),
            subscription: None,
        };
        self.history
            .deliveries(&scope, wanted, after, limit)
            .unwrap()
    }
}

fn id(seq: u64) -> DeliveryId {
    DeliveryId { seq, target: 0 }
}

fn event_id(seq: u64) -> WebhookId {
    WebhookId([u8::try_from(seq).unwrap(); 16])
}

fn name(seq: u64) -> DeliveryName {
    let subscription: SubscriptionId = "hook".parse().unwrap();
    DeliveryName {
        tenant: "acme".parse().unwrap(),
        subscription,
        delivery: id(seq),
    }
}

fn subject(seq: u64) -> Subject {
    Subject {
        tenant: "acme".parse().unwrap(),
        subscription: "hook".parse().unwrap(),
        webhook_id: event_id(seq),
        event_type: Arc::from("orders.created"),
        redelivery_of: None,
    }
}
