//! Verifications in the store, to agents and to receivers.

use hookfleet_contract::verification::{VALIDITY, key::Key};
use hookfleet_gateway::verification::Confirm as _;
use hookfleet_proto::{
    fleet::{
        SlotOwner, SlotTable, SyncResponse, VerificationReport, VerificationSpec, resource::Body,
        sync_request::Message as Said, sync_response::Message as Told,
        verification_report::Outcome,
    },
    v1::{
        DeleteSubscriptionRequest, SuspendSubscriptionRequest, UpdateSubscriptionRequest,
        VerifySubscriptionRequest,
        subscription::{State, Verification},
    },
};
use http::HeaderValue;
use prost::Message as _;

use super::*;
use crate::{config, keys, store::Txn};

const NAME: &str = "tenants/a/subscriptions/s";

fn adjust(config: &mut Config) {
    config.verification = config::Verification {
        origin: Some("hooks.acme.com".to_owned()),
        public_url: Some("https://hooks.acme.com".to_owned()),
        is_required: false,
    };
}

fn with(method: Verification) -> v1::Subscription {
    v1::Subscription {
        verification: method.into(),
        ..orders()
    }
}

/// A control plane with a subscription whose receiver is asked.
async fn plane() -> Plane {
    let plane = Plane::start_with(adjust).await;
    plane.tenant("a").await;
    let created = plane
        .subscribe("a", "s", with(Verification::CeOptions))
        .await;
    assert_eq!(created.state(), State::Pending);
    plane
}

/// The verification as agents are told of it, out of the store.
async fn spec(plane: &Plane) -> Option<VerificationSpec> {
    let name = NAME.parse().unwrap();
    let key = keys::subscription(&name, plane.api.slot_count);
    let (entry, _) = plane.store.get(&key).await.unwrap();
    let stored = hookfleet_proto::fleet::StoredSubscription::decode(entry?.value).unwrap();
    let opened = crate::stored::open(&plane.api.vault, &name, stored).unwrap();
    opened.into_spec().verification
}

/// The key as the receiver is sent it.
async fn key(plane: &Plane) -> String {
    let url = spec(plane).await.expect("it goes on").confirm_url;
    let key = url.strip_prefix("https://hooks.acme.com/v1/verifications/");
    key.expect("the public URL").to_owned()
}

/// How many keys lead somewhere.
async fn n_confirmations(plane: &Plane) -> usize {
    let dump = plane.dump().await;
    let confirmations = dump
        .iter()
        .filter(|(key, _)| key.starts_with("confirmation/"));
    confirmations.count()
}

async fn confirm(plane: &Plane, key: &str, rate: Option<&'static str>) -> Result<(), Status> {
    let rate = rate.map(HeaderValue::from_static);
    let confirmed = plane.subscriptions.confirm(key, rate.as_ref()).await;
    confirmed.map(drop).map_err(Status::from)
}

async fn verify(plane: &Plane) -> Result<v1::Subscription, Status> {
    let request = VerifySubscriptionRequest {
        name: NAME.to_owned(),
        etag: String::new(),
    };
    let verified = plane
        .subscriptions
        .verify_subscription(Request::new(request))
        .await;
    verified.map(Response::into_inner)
}

fn unknown() -> (Code, String) {
    (Code::NotFound, "RESOURCE_NOT_FOUND".to_owned())
}

#[tokio::test]
async fn the_key_is_in_the_store_with_the_subscription_and_not_in_clear() {
    let plane = plane().await;
    let text = key(&plane).await;
    let parsed: Key = text.parse().unwrap();
    assert_eq!(n_confirmations(&plane).await, 1);
    for (place, value) in plane.dump().await {
        let has = |secret: &[u8]| value.windows(secret.len()).any(|it| it == secret);
        assert!(!place.contains(&text), "{place}");
        assert!(!has(text.as_bytes()) && !has(parsed.as_bytes()), "{place}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_key_confirms_once_and_whatever_the_rate_is() {
    let plane = plane().await;
    let key = key(&plane).await;
    for other in ["", "x", &"A".repeat(43), &"A".repeat(10_000)] {
        assert_eq!(
            refused(confirm(&plane, other, None).await),
            unknown(),
            "{other}"
        );
    }
    let wrong = confirm(&plane, &key, Some("0")).await;
    assert_eq!(violations(wrong), ["WebHook-Allowed-Rate"]);
    confirm(&plane, &key, Some("120")).await.unwrap();
    let found = plane.get(NAME).await.unwrap();
    let grant = found.grant.unwrap();
    assert_eq!(
        (grant.max_requests_per_minute, grant.origin.as_str()),
        (120, "hooks.acme.com")
    );
    assert_eq!(refused(confirm(&plane, &key, None).await), unknown());
    assert_eq!(n_confirmations(&plane).await, 0);
    plane.stop().await;
}

#[tokio::test]
async fn a_key_confirms_what_it_was_made_for_and_nothing_later() {
    let plane = plane().await;
    let first = key(&plane).await;
    let again = verify(&plane).await.unwrap();
    assert_eq!(again.state(), State::Pending);
    assert_eq!(n_confirmations(&plane).await, 1);
    assert_eq!(refused(confirm(&plane, &first, None).await), unknown());
    let second = key(&plane).await;
    plane.clock.set(NOW + VALIDITY);
    assert_eq!(refused(confirm(&plane, &second, None).await), unknown());
    plane.clock.set(NOW);
    let request = DeleteSubscriptionRequest {
        name: NAME.to_owned(),
        ..DeleteSubscriptionRequest::default()
    };
    ok(plane
        .subscriptions
        .delete_subscription(Request::new(request))
        .await);
    assert_eq!(refused(confirm(&plane, &second, None).await), unknown());
    // Nor does it confirm what has the name by now.
    plane
        .subscribe("a", "s", with(Verification::CeOptions))
        .await;
    assert_eq!(refused(confirm(&plane, &second, None).await), unknown());
    plane.stop().await;
}

#[tokio::test]
async fn another_control_plane_on_the_same_store_takes_the_confirmation() {
    let plane = plane().await;
    let key = key(&plane).await;
    let other = Plane::start_on(Arc::clone(&plane.store), adjust).await;
    confirm(&other, &key, None).await.unwrap();
    assert_eq!(spec(&plane).await, None);
    other.stop().await;
    plane.stop().await;
}

#[tokio::test]
async fn nothing_is_kept_of_a_verification_that_is_only_checked() {
    let plane = Plane::start_with(adjust).await;
    plane.tenant("a").await;
    let checked = CreateSubscriptionRequest {
        validate_only: true,
        ..asking("a", "s", with(Verification::CeOptions))
    };
    plane.create(checked).await.unwrap();
    assert_eq!(n_confirmations(&plane).await, 0);
    plane.subscribe("a", "s", with(Verification::None)).await;
    let update = UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            name: NAME.to_owned(),
            callback_url: "https://receiver.acme.com/other".to_owned(),
            ..with(Verification::CeOptions)
        }),
        update_mask: None,
        validate_only: true,
    };
    ok(plane
        .subscriptions
        .update_subscription(Request::new(update))
        .await);
    assert_eq!(n_confirmations(&plane).await, 0);
    plane.stop().await;
}

#[tokio::test]
async fn what_needs_consent_or_has_none_to_ask_for_is_refused() {
    let plane = plane().await;
    let request = SuspendSubscriptionRequest {
        name: NAME.to_owned(),
        etag: String::new(),
    };
    let suspended = plane
        .subscriptions
        .suspend_subscription(Request::new(request))
        .await;
    let not_verified = (Code::FailedPrecondition, "NOT_VERIFIED".to_owned());
    assert_eq!(refused(suspended), not_verified);
    confirm(&plane, &key(&plane).await, None).await.unwrap();
    let none = with(Verification::None);
    let update = UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            name: NAME.to_owned(),
            ..none
        }),
        ..UpdateSubscriptionRequest::default()
    };
    ok(plane
        .subscriptions
        .update_subscription(Request::new(update))
        .await);
    let nothing = (Code::FailedPrecondition, "VERIFICATION_NONE".to_owned());
    assert_eq!(refused(verify(&plane).await), nothing);
    plane.stop().await;
}

#[tokio::test]
async fn the_agent_of_the_slot_is_told_and_believed() {
    let plane = plane().await;
    let table = SlotTable {
        version: 1,
        owners: vec![SlotOwner {
            agent_id: "a1".to_owned(),
            address: "http://127.0.0.1:7000".to_owned(),
            zone: String::new(),
        }],
        slot_owners: vec![1; plane.api.slot_count.into()],
        epochs: vec![1; plane.api.slot_count.into()],
        slot_previous: vec![0; plane.api.slot_count.into()],
    };
    let txn = Txn::new().put(keys::SLOTS, table.encode_to_vec());
    plane.store.commit(txn).await.unwrap();
    let (say, mut told) = plane.connect(hello("a1")).await;
    let spec = timeout(PATIENCE, async {
        loop {
            let response: SyncResponse = told.recv().await.expect("the session goes on");
            let Some(Told::Update(update)) = response.message else {
                continue;
            };
            let ack = hookfleet_proto::fleet::Ack {
                nonce: update.nonce,
                ..Default::default()
            };
            say_to(&say, Said::Ack(ack)).await;
            for resource in update.upserts {
                if let Some(Body::Subscription(spec)) = resource.body {
                    return spec;
                }
            }
        }
    });
    let spec = spec.await.expect("told in time");
    let report = VerificationReport {
        subscription: NAME.to_owned(),
        verification_id: spec.verification.expect("it is to be asked").id,
        outcome: Outcome::Granted.into(),
        status_code: 200,
        max_requests_per_minute: 60,
        ..VerificationReport::default()
    };
    say_to(&say, Said::VerificationReport(report)).await;
    let granted = eventually("granted", || async { plane.get(NAME).await.unwrap().grant }).await;
    assert_eq!(granted.max_requests_per_minute, 60);
    assert_eq!(n_confirmations(&plane).await, 0);
    plane.stop().await;
}

async fn say_to(say: &mpsc::Sender<SyncRequest>, message: Said) {
    let request = SyncRequest {
        message: Some(message),
    };
    say.send(request).await.expect("the session hears");
}
