use std::{cell::Cell, sync::Arc};

use hookfleet_contract::{name::SubscriptionId, retry::Progress};
use hookfleet_proto::v1::{DeadLetterReason, delivery::State};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::*;
use crate::journal;

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
    world.attempt(1, 1, Standing::Pending { next: T0 });
    world.attempt(1, 2, dead());
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
async fn a_day_that_was_half_made_or_half_dropped_is_dropped_too() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::builder(dir.path()).open().unwrap();
    let old = Day::of(T0).0 - 100;
    for kind in ["attempts", "events", "dead"] {
        let name = format!("history-{kind}-{old}");
        database
            .keyspace(&name, fjall::KeyspaceCreateOptions::default)
            .unwrap();
    }
    let _history = History::open(database.clone(), T0, |_| {}).unwrap();
    let names = database.list_keyspace_names();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn the_history_survives_a_restart() {
    let world = World::new();
    world.attempt(1, 1, Standing::Succeeded);
    world.history.flush().await;
    let world = world.restart(T0).await;
    assert_eq!(
        world.history.delivery(&name(1)).unwrap().unwrap().state(),
        State::Succeeded
    );
}

#[tokio::test]
async fn a_dropped_day_stays_dropped_over_a_restart() {
    let world = World::new();
    let later = T0 + RETENTION + Duration::from_millis(DAY);
    world.accept(1, T0);
    world.history.flush().await;
    let world = world.restart(later).await;
    assert!(world.history.delivery(&name(1)).unwrap().is_none());
    // A new day's keyspaces must not bring back what the dropped ones had.
    world.accept(2, later);
    world.history.flush().await;
    // So early that whatever is still there would be kept.
    let world = world.restart(T0).await;
    let left = world.page(&Wanted::default(), None, 10).0;
    assert_eq!(
        left.into_iter().map(|it| it.name).collect::<Vec<_>>(),
        [name(2).to_string()]
    );
}

#[tokio::test]
async fn an_outcome_is_passed_on_only_once_its_row_can_be_read() {
    let (sender, receiver) = mpsc::channel();
    let reader = Arc::<std::sync::OnceLock<History>>::default();
    let seen = Arc::clone(&reader);
    let world = World::with(move |outcome: Outcome| {
        let name = name(outcome.delivery.seq);
        let found = seen.wait().delivery(&name).unwrap();
        sender
            .send((outcome.delivery, found.map(|it| it.state())))
            .unwrap();
    });
    reader.set(world.history.clone()).unwrap();
    world.settle(1, T0, Standing::Succeeded);
    world.settle(2, T0, dead());
    world.history.flush().await;
    assert_eq!(
        receiver.try_iter().collect::<Vec<_>>(),
        [
            (id(1), Some(State::Succeeded)),
            (id(2), Some(State::DeadLettered))
        ]
    );
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_kept_is_not_passed_on() {
    let (sender, receiver) = mpsc::channel();
    let world = World::with(move |outcome: Outcome| sender.send(outcome.delivery.seq).unwrap());
    world.settle(1, T0, dead());
    world.history.flush().await;
    assert!(world.history.is_healthy());
    // The next day needs new keyspaces, for which there is no place any more.
    let keyspaces = world.dir.path().join("keyspaces");
    std::fs::rename(&keyspaces, world.dir.path().join("elsewhere")).unwrap();
    std::fs::write(&keyspaces, "").unwrap();
    let next_day = T0 + Duration::from_millis(DAY);
    world.settle(2, next_day, dead());
    world.settle(3, next_day, Standing::Succeeded);
    world.history.flush().await;
    // Another one, that shares its batch with no row: it must not look like recovery.
    world.history.flush().await;
    assert!(!world.history.is_healthy());
    assert_eq!(world.history.backlog(), 0);
    assert!(world.history.delivery(&name(2)).unwrap().is_none());
    // An unknown success is only attempted again; whatever shared the batch with it is a gap.
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 3]);
    world.settle(4, T0, Standing::Succeeded);
    world.history.flush().await;
    assert!(world.history.is_healthy());
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [4]);
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
    // Days passed, targets, whether the first of them has succeeded.
    let event = (
        prop_oneof![4 => Just(0), 1 => Just(1_u64)],
        1_u32..4,
        any::<bool>(),
    );
    let state = prop_oneof![Just(State::Pending), Just(State::Succeeded)];
    let cases = (
        vec(event, 0..20),
        prop::option::of(prop::sample::select(SUBSCRIPTIONS.as_slice())),
        prop::option::of(state),
        1_usize..6,
        1_usize..8,
    );
    let world = World::new();
    let n_tenants = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(256));
    let ran = runner.run(&cases, |(events, scope, state, limit, max_examined)| {
        // A database takes its time to make: the cases share one, each with a tenant of its own.
        let tenant: TenantId = format!("t{}", n_tenants.replace(n_tenants.get() + 1))
            .parse()
            .unwrap();
        let (mut model, mut day) = (Vec::new(), 0);
        for (seq, (passed, n_targets, has_succeeded)) in (0..).zip(&events) {
            day = (day + passed).min(3);
            for target in 0..*n_targets {
                let is_done = *has_succeeded && target == 0;
                model.push(world.deliver(&tenant, DeliveryId { seq, target }, day, is_done));
            }
        }
        world.wait();
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
        let in_scope = SubscriptionScope {
            tenant: tenant.clone(),
            subscription: scope.map(|it| it.parse().unwrap()),
        };
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
            let id = DeliveryId {
                seq: 100 + n_pages as u64,
                target: 0,
            };
            world.deliver(&tenant, id, day + n_pages as u64 % 2, false);
            world.wait();
        }
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
        Ok(())
    });
    ran.unwrap();
}

struct World {
    history: History,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(settle: impl Fn(Outcome) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::builder(dir.path()).open().unwrap();
        let history = History::open(database, T0, settle).unwrap();
        Self { history, dir }
    }

    async fn restart(self, now: Timestamp) -> Self {
        let Self { dir, history } = self;
        drop(history);
        // The thread ends a moment after its last handle, and only then lets go of the database.
        let history = loop {
            match Database::builder(dir.path()).open() {
                Ok(database) => break History::open(database, now, |_| {}).unwrap(),
                Err(fjall::Error::Locked) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        Self { history, dir }
    }

    /// Accepts a delivery for one subscription or the other on a day, and perhaps settles it.
    fn deliver(&self, tenant: &TenantId, id: DeliveryId, day: u64, is_done: bool) -> Known {
        let subscription = SUBSCRIPTIONS[id.target as usize % 2];
        let accept_time = T0 + Duration::from_millis(day * DAY);
        let subject = Subject {
            tenant: tenant.clone(),
            subscription: subscription.parse().unwrap(),
            ..subject(id.seq)
        };
        let accepted = DeliveryRow::Accepted {
            id,
            accept_time,
            subject: subject.clone(),
        };
        self.history.record(Row::Delivery(accepted), None);
        let mut state = State::Pending;
        if is_done {
            state = State::Succeeded;
            let settled = DeliveryRow::Settled {
                id,
                accept_time,
                subject,
                standing: Standing::Succeeded,
                at: accept_time,
            };
            self.history.record(Row::Delivery(settled), None);
        }
        Known {
            place: (Day::of(accept_time).0, id),
            subscription,
            state,
        }
    }

    /// Until what was told can be read.
    fn wait(&self) {
        while self.history.backlog() > 0 {
            thread::yield_now();
        }
    }

    fn settle(&self, seq: u64, accept_time: Timestamp, standing: Standing) {
        let outcome = Outcome {
            delivery: id(seq),
            progress: Progress {
                attempts: 0,
                step: 0,
            },
            standing: match &standing {
                Standing::Pending { next } => journal::Standing::Deferred { due: *next },
                Standing::Succeeded => journal::Standing::Succeeded,
                Standing::DeadLettered { reason, .. } => journal::Standing::DeadLettered(*reason),
            },
            at: T0,
        };
        let row = DeliveryRow::Settled {
            id: id(seq),
            accept_time,
            subject: subject(seq),
            standing,
            at: T0,
        };
        self.history.record(Row::Delivery(row), Some(outcome));
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

fn dead() -> Standing {
    Standing::DeadLettered {
        reason: DeadLetterReason::MaxAttempts,
        event: Bytes::from_static(b"event"),
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
