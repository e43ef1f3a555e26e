use std::sync::Arc;

use hookfleet_contract::{
    event::Limits,
    id::{DeliveryId, WebhookId},
    name::TenantId,
    retry::Progress,
    seal::Sealer,
    signature::Secret,
    subscription::Subscription,
    target::Rules,
    time::Timestamp,
};
use hookfleet_gateway::peers::Dialer;
use hookfleet_proto::fleet::{SlotOwner, SlotTable};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    fleet::{SecretKey, SubscriptionSpec},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    clock::Clock,
    directory::{Change, Directory},
    history::Report,
    ingest::Ingest,
    journal::{self, Journal, NewEvent, Origin, Outcome, Standing, Target},
    relay::{Relay, parking::Parked},
    slots::Slots,
};

const HOOK: &str = "tenants/acme/subscriptions/hook";
/// A number that the journal does not know: what it once was is forgotten.
const FORGOTTEN: u64 = 1 << 40;

#[tokio::test]
async fn what_is_malformed_is_a_violation_of_its_field() {
    let world = World::new();
    for name in ["", "acme", "tenants/Acme/events/msg_x", HOOK] {
        assert_invalid(world.get_event(name).await, "name");
        assert_invalid(world.get_delivery(name).await, "name");
        assert_invalid(world.redeliver(name).await, "name");
        if name != HOOK {
            assert_invalid(world.list(name, "", 0, "").await, "parent");
        }
        assert_invalid(world.list_attempts(name, "", 0, "").await, "parent");
    }
    assert_invalid(world.list(HOOK, "", -1, "").await, "page_size");
    for filter in [
        "state",
        "state = LOST",
        "state = STATE_UNSPECIFIED",
        "event = msg_x",
        "outcome = RETRY",
    ] {
        assert_invalid(world.list(HOOK, filter, 0, "").await, "filter");
    }
    let delivery = world.accepted(1).await;
    assert_invalid(
        world.list_attempts(&delivery, "", -1, "").await,
        "page_size",
    );
    for filter in [
        "outcome = MAYBE",
        "outcome = OUTCOME_UNSPECIFIED",
        "status_code = many",
        "state = PENDING",
    ] {
        assert_invalid(
            world.list_attempts(&delivery, filter, 0, "").await,
            "filter",
        );
    }
}

#[tokio::test]
async fn what_is_not_there_or_is_of_others_is_not_found() {
    let world = World::new();
    let delivery = world.accepted(1).await;
    let event = world.get_delivery(&delivery).await.unwrap().event;
    for delivery in [
        delivery_name("acme", "hook", FORGOTTEN),
        delivery.replace("/hook/", "/other/"),
        delivery.replace("/acme/", "/globex/"),
    ] {
        assert_not_found(world.get_delivery(&delivery).await, &delivery);
        assert_not_found(world.list_attempts(&delivery, "", 0, "").await, &delivery);
        assert_not_found(world.redeliver(&delivery).await, &delivery);
    }
    for event in [
        event.replace("/acme/", "/globex/"),
        format!("tenants/acme/events/{}", WebhookId([9; 16])),
    ] {
        assert_not_found(world.get_event(&event).await, &event);
    }
    let stranger = "tenants/globex/subscriptions/-";
    assert!(
        world
            .list(stranger, "", 0, "")
            .await
            .unwrap()
            .deliveries
            .is_empty()
    );
}

#[tokio::test]
async fn an_event_is_answered_as_it_was_accepted() {
    let world = World::new();
    let delivery = world.accepted(1).await;
    let name = world.get_delivery(&delivery).await.unwrap().event;
    let event = world.get_event(&name).await.unwrap();
    assert_eq!(event.name, name);
    assert_eq!(event.cloud_event, Some(cloud_event(1)));
    assert_eq!(event.delivery_count, 1);
    assert_eq!(event.accept_time, Some(world.now.into()));
}

#[tokio::test]
async fn deliveries_are_listed_by_state_event_and_type() {
    let world = World::new();
    let first = world.accepted(1).await;
    let second = world.accepted(2).await;
    let dead = world.dead_letter(FORGOTTEN).await;
    let event = world.get_delivery(&first).await.unwrap().event;
    for (filter, expected) in [
        ("", vec![&dead, &second, &first]),
        ("state = DEAD_LETTERED", vec![&dead]),
        ("state = PENDING", vec![&second, &first]),
        (&format!("event = \"{event}\""), vec![&first]),
        (
            "event_type = orders.created AND state = DEAD_LETTERED",
            vec![&dead],
        ),
        ("event_type = other", vec![]),
    ] {
        let listed = world.list(HOOK, filter, 0, "").await.unwrap();
        let names: Vec<_> = listed.deliveries.iter().map(|it| &it.name).collect();
        assert_eq!(names, expected, "{filter}");
        assert_eq!(listed.next_page_token, "");
    }
}

#[tokio::test]
async fn a_page_token_goes_on_with_its_own_list_only() {
    let world = World::new();
    let first = world.accepted(1).await;
    let second = world.accepted(2).await;
    let page = world.list(HOOK, "state = PENDING", 1, "").await.unwrap();
    assert_eq!(page.deliveries[0].name, second);
    let token = page.next_page_token;
    let next = world
        .list(HOOK, "state = PENDING", 7, &token)
        .await
        .unwrap();
    assert_eq!(next.deliveries[0].name, first);
    assert_eq!(next.next_page_token, "");

    let everywhere = "tenants/acme/subscriptions/-";
    for misused in [
        world.list(everywhere, "state = PENDING", 1, &token).await,
        world.list(HOOK, "", 1, &token).await,
        world.list(HOOK, "state = PENDING", 1, &token[1..]).await,
        world.list(HOOK, "state = PENDING", 1, "none").await,
    ] {
        assert_invalid(misused, "page_token");
    }
    assert_invalid(
        world.list_attempts(&first, "", 0, &token).await,
        "page_token",
    );
    let of_another_version = pages().seal("deliveries", &[HOOK, ""], b"?", [0; 24]);
    assert_invalid(
        world.list(HOOK, "", 0, &of_another_version).await,
        "page_token",
    );
    let of_another_version = pages().seal("attempts", &[&first, ""], b"?", [0; 24]);
    let misused = world.list_attempts(&first, "", 0, &of_another_version);
    assert_invalid(misused.await, "page_token");
}

#[tokio::test]
async fn attempts_come_oldest_first_in_pages_and_by_what_they_came_to() {
    let world = World::new();
    let delivery = world.accepted(1).await;
    for (number, status_code) in [(1, 500), (2, 503), (3, 500), (4, 200)] {
        world.attempt(&delivery, number, status_code).await;
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = world.list_attempts(&delivery, "", 3, &token).await.unwrap();
        found.extend(page.attempts.iter().map(|it| it.number));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, [1, 2, 3, 4]);
    for (filter, expected) in [
        ("status_code = 500", vec![1, 3]),
        ("outcome = RETRY", vec![1, 2, 3]),
        ("outcome = DELIVERED", vec![4]),
        ("outcome = RETRY AND status_code = 503", vec![2]),
    ] {
        let listed = world.list_attempts(&delivery, filter, 0, "").await.unwrap();
        let numbers: Vec<_> = listed.attempts.iter().map(|it| it.number).collect();
        assert_eq!(numbers, expected, "{filter}");
    }
}

#[tokio::test]
async fn a_dead_letter_is_delivered_again_after_the_journal_has_forgotten_its_event() {
    let world = World::new();
    let dead = world.dead_letter(FORGOTTEN).await;
    let again = world.redeliver(&dead).await.unwrap();
    let known = world.get_delivery(&dead).await.unwrap();
    assert_eq!(again.redelivery_of, dead);
    assert_eq!(
        (&again.event, &again.event_type),
        (&known.event, &known.event_type)
    );
    assert_eq!(again.state(), State::Pending);
    assert_eq!(known.state(), State::DeadLettered);
    let name: DeliveryName = again.name.parse().unwrap();
    let stored = world.journal.read(name.delivery.seq).unwrap().unwrap();
    assert_eq!(stored.event, cloud_event(FORGOTTEN).encode_to_vec());
    assert_eq!(
        stored.origin.redelivery_of().map(|it| it.seq),
        Some(FORGOTTEN)
    );
}

#[tokio::test]
async fn a_redelivery_needs_the_event_and_the_subscription() {
    let world = World::new();
    let forgotten = world.told(FORGOTTEN, Standing::Succeeded).await;
    assert_refused(world.redeliver(&forgotten).await, "EVENT_NOT_KEPT");
    let kept = world.accepted(1).await;
    let gone = Change::SubscriptionGone(id("acme"), id("hook"));
    world.directory.apply(vec![gone]);
    assert_refused(world.redeliver(&kept).await, "SUBSCRIPTION_ENDED");
}

fn assert_invalid<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "INVALID_REQUEST");
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, [field], "{status}");
}

fn assert_not_found<T: std::fmt::Debug>(answer: Result<T, Status>, name: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "RESOURCE_NOT_FOUND");
    assert_eq!(info.metadata["resource"], name);
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, reason: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(
        status.get_error_details().error_info().unwrap().reason,
        reason
    );
}

/// The service over a real journal and history, with a tenant `acme` and its subscription `hook`.
pub(in crate::api) struct World {
    pub(in crate::api) service: Deliveries,
    pub(in crate::api) directory: Directory,
    pub(in crate::api) journal: Journal,
    history: History,
    now: Timestamp,
    _accepted: mpsc::Receiver<Arc<StoredEvent>>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(in crate::api) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let database = fjall::Database::builder(dir.path().join("database")).open();
        let database = database.unwrap();
        let (sender, accepted) = mpsc::channel(64);
        let fatal = CancellationToken::new();
        let config = journal::Config {
            segment_bytes: 1 << 20,
            ..journal::Config::new(dir.path().join("journal"), 1, clock, fatal)
        };
        let (journal, _) = Journal::open(config, &database, sender).unwrap();
        let history = History::open(database, clock.now(), journal.clone()).unwrap();
        let directory = Directory::default();
        directory.apply(vec![Change::Subscription(Arc::new(subscription()))]);
        let slots = owned();
        let ingest = Ingest {
            parked: Parked::default(),
            agent_id: "agent".to_owned(),
            directory: directory.clone(),
            slots: slots.clone(),
            journal: journal.clone(),
            limits: Limits::default(),
            clock,
        };
        let redeliverer = Redeliverer {
            ingest,
            history: history.clone(),
            relay: Relay::new(slots, Dialer::default()),
        };
        Self {
            service: Deliveries::new(redeliverer, pages()),
            directory,
            journal,
            history,
            now: clock.now(),
            _accepted: accepted,
            _dir: dir,
        }
    }

    /// An event that the journal keeps, with its delivery.
    async fn accepted(&self, n: u64) -> String {
        let event = NewEvent {
            tenant: id("acme"),
            webhook_id: webhook_id(n),
            accept_time: self.now,
            targets: vec![target()],
            origin: Origin::Published,
            stands: Vec::new(),
            event: cloud_event(n).encode_to_vec().into(),
        };
        let seq = self.journal.append(event).await.unwrap().seq;
        let stored = self.journal.read(seq).unwrap().unwrap();
        self.history.accepted(stored);
        self.history.flush().await;
        delivery_name("acme", "hook", seq)
    }

    async fn attempt(&self, delivery: &str, number: i32, status_code: i32) {
        let name: DeliveryName = delivery.parse().unwrap();
        let (outcome, standing) = match status_code {
            200 => (v1::Outcome::Delivered, Standing::Succeeded),
            _ => (v1::Outcome::Retry, Standing::Deferred { due: self.now }),
        };
        let attempt = Attempt {
            number,
            status_code,
            outcome: outcome.into(),
            ..Attempt::default()
        };
        self.history.record(Report {
            outcome: self.outcome(name.delivery, standing),
            attempt: Some(attempt),
            event: None,
        });
        self.history.flush().await;
    }

    async fn dead_letter(&self, seq: u64) -> String {
        let reason = v1::DeadLetterReason::MaxAttempts;
        self.told(seq, Standing::DeadLettered(reason)).await
    }

    /// A delivery of which only the history knows.
    async fn told(&self, seq: u64, standing: Standing) -> String {
        let event = StoredEvent {
            seq,
            tenant: id("acme"),
            webhook_id: webhook_id(seq),
            accept_time: self.now,
            targets: vec![target()],
            origin: Origin::Published,
            stands: Vec::new(),
            event: cloud_event(seq).encode_to_vec().into(),
        };
        self.history.record(Report {
            outcome: self.outcome(DeliveryId { seq, target: 0 }, standing),
            attempt: None,
            event: Some(Arc::new(event)),
        });
        self.history.flush().await;
        delivery_name("acme", "hook", seq)
    }

    fn outcome(&self, delivery: DeliveryId, standing: Standing) -> Outcome {
        Outcome {
            delivery,
            progress: Progress {
                attempts: 0,
                step: 0,
            },
            standing,
            at: self.now,
        }
    }

    async fn get_event(&self, name: &str) -> Result<v1::Event, Status> {
        let name = name.to_owned();
        let answer = self
            .service
            .get_event(Request::new(GetEventRequest { name }));
        answer.await.map(Response::into_inner)
    }

    async fn get_delivery(&self, name: &str) -> Result<Delivery, Status> {
        let name = name.to_owned();
        let request = Request::new(GetDeliveryRequest { name });
        let answer = self.service.get_delivery(request).await;
        answer.map(Response::into_inner)
    }

    async fn redeliver(&self, name: &str) -> Result<Delivery, Status> {
        let name = name.to_owned();
        let request = Request::new(RedeliverDeliveryRequest { name });
        let answer = self.service.redeliver_delivery(request).await;
        answer.map(Response::into_inner)
    }

    async fn list(
        &self,
        parent: &str,
        filter: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListDeliveriesResponse, Status> {
        let request = Request::new(ListDeliveriesRequest {
            parent: parent.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
            filter: filter.to_owned(),
        });
        let answer = self.service.list_deliveries(request).await;
        answer.map(Response::into_inner)
    }

    async fn list_attempts(
        &self,
        parent: &str,
        filter: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListAttemptsResponse, Status> {
        let request = Request::new(ListAttemptsRequest {
            parent: parent.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
            filter: filter.to_owned(),
        });
        let answer = self.service.list_attempts(request).await;
        answer.map(Response::into_inner)
    }
}

fn pages() -> Pages {
    Pages::new(Sealer::new([7; 32]))
}

pub(in crate::api) fn subscription() -> Subscription {
    let spec = SubscriptionSpec {
        subscription: Some(v1::Subscription {
            name: HOOK.to_owned(),
            uid: "00000000-0000-4000-8000-000000000001".to_owned(),
            callback_url: "https://example.com/hook".to_owned(),
            event_types: vec!["*".to_owned()],
            ..v1::Subscription::default()
        }),
        secret_keys: vec![SecretKey {
            key_id: "key".to_owned(),
            secret: Secret::generate_hmac([1; 32]).reveal(),
            ..SecretKey::default()
        }],
        verification: None,
    };
    Subscription::try_new(&spec, &Rules::default()).unwrap()
}

fn target() -> Target {
    Target {
        partition: 0,
        uid: subscription().uid,
        subscription: id("hook"),
    }
}

fn cloud_event(n: u64) -> CloudEvent {
    CloudEvent {
        id: n.to_string(),
        source: "/shop".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "orders.created".to_owned(),
        ..CloudEvent::default()
    }
}

fn webhook_id(n: u64) -> WebhookId {
    WebhookId::of(&id::<TenantId>("acme"), "/shop", &n.to_string())
}

fn delivery_name(tenant: &str, subscription: &str, seq: u64) -> String {
    let name = DeliveryName {
        tenant: id(tenant),
        subscription: id(subscription),
        delivery: DeliveryId { seq, target: 0 },
    };
    name.to_string()
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// Every slot belongs to this agent.
fn owned() -> Slots {
    let slots = Slots::default();
    slots.set(SlotTable {
        version: 1,
        owners: vec![SlotOwner {
            agent_id: "agent".to_owned(),
            address: "http://127.0.0.1:1".to_owned(),
            zone: String::new(),
        }],
        slot_owners: vec![1; 16],
        epochs: vec![1; 16],
        ..SlotTable::default()
    });
    slots
}
