//! The first callback: an event goes in by gRPC and comes out as a signed HTTP request.

use std::time::Duration;

use hookfleet_proto::v1::{
    self, BodyMode, GetEventRequest, ListAttemptsRequest, Outcome, RedeliverDeliveryRequest,
    SignatureAlgorithm, Subscription, UpdateSubscriptionRequest, delivery,
    delivery_service_client::DeliveryServiceClient, publish_result, subscription,
    subscription_service_client::SubscriptionServiceClient,
};
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

use crate::harness::{
    api::{create_tenant, deliveries, event, publish, publish_one, retries, subscribe, to},
    eventually,
    process::{Process, standalone},
    receiver::{Received, Receiver},
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_event_reaches_its_subscriber_signed_and_whole() {
    let world = World::start().await;
    let secret = world
        .subscribe("hook", to(world.receiver.url("hook")))
        .await
        .signing_secret;
    let published = event("evt.1 ü", "orders.created", r#"{"a": 1,  "b":[]}"#);
    let receipt = publish_one(&world.channel, "acme", published.clone()).await;
    assert_eq!((receipt.delivery_count, receipt.duplicate), (1, false));

    let received = &world.received("hook", 1).await[0];
    assert_eq!(received.method, "POST");
    assert_eq!(
        received.header("content-type"),
        "application/cloudevents+json; charset=utf-8"
    );
    let id = receipt.event.rsplit('/').next().unwrap();
    assert_eq!(received.header("webhook-id"), id);
    assert_eq!(received.header("hookfleet-attempt"), "1");
    assert_eq!(
        received.header("hookfleet-subscription"),
        "tenants/acme/subscriptions/hook"
    );
    assert_eq!(received.header("accept-encoding"), "identity");
    assert_eq!(received.header("traceparent").len(), 55);
    verify(&secret, received);
    // JSON data is passed on byte for byte.
    let body = String::from_utf8(received.body.to_vec()).unwrap();
    assert!(body.contains(r#""data":{"a": 1,  "b":[]}"#), "{body}");
    assert_eq!(received.json()["id"], "evt.1 ü");

    let stored = eventually("the event", PATIENCE, || async {
        let request = GetEventRequest {
            name: receipt.event.clone(),
        };
        let mut client = DeliveryServiceClient::new(world.channel.clone());
        client
            .get_event(request)
            .await
            .map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(stored.into_inner().cloud_event, Some(published.clone()));

    let again = publish_one(&world.channel, "acme", published).await;
    assert!(again.duplicate);
    assert_eq!(again.event, receipt.event);
    let delivered = world.settled(1).await;
    assert_eq!(delivered[0].state(), delivery::State::Succeeded);
    assert_eq!(
        world.receiver.received_at("hook").len(),
        1,
        "a duplicate is not delivered"
    );
}

#[tokio::test]
async fn every_body_mode_is_what_the_contract_says() {
    let world = World::start().await;
    for (id, mode) in [
        ("binary", BodyMode::CeBinary),
        ("raw", BodyMode::Raw),
        ("plain", BodyMode::StandardWebhooks),
    ] {
        let subscription = Subscription {
            body_mode: mode.into(),
            ..to(world.receiver.url(id))
        };
        world.subscribe(id, subscription).await;
    }
    publish_one(
        &world.channel,
        "acme",
        event("1", "orders.created", r#"{"a":1}"#),
    )
    .await;

    let binary = &world.received("binary", 1).await[0];
    assert_eq!(binary.body, r#"{"a":1}"#);
    assert_eq!(binary.header("content-type"), "application/json");
    assert_eq!(binary.header("ce-type"), "orders.created");
    assert_eq!(binary.header("ce-datacontenttype"), "");
    let raw = &world.received("raw", 1).await[0];
    assert_eq!(raw.body, r#"{"a":1}"#);
    assert_eq!(raw.header("ce-type"), "");
    let plain = world.received("plain", 1).await[0].json();
    assert_eq!(plain["type"], "orders.created");
    assert_eq!(plain["data"]["a"], 1);
    assert!(plain["timestamp"].is_string());
}

#[tokio::test]
async fn a_failed_delivery_is_retried_with_a_fresh_signature_and_then_succeeds() {
    let world = World::start().await;
    world.receiver.answer_with("hook", |_, n_before| {
        let status = if n_before < 2 { 503 } else { 200 };
        (status.try_into().unwrap(), Vec::new(), Duration::ZERO)
    });
    let subscription = Subscription {
        retry_policy: retries(&[1, 1, 1]),
        ..to(world.receiver.url("hook"))
    };
    let secret = world.subscribe("hook", subscription).await.signing_secret;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;

    let received = world.received("hook", 3).await;
    for (index, attempt) in received.iter().enumerate() {
        verify(&secret, attempt);
        assert_eq!(attempt.header("hookfleet-attempt"), (index + 1).to_string());
        for same in ["webhook-id", "hookfleet-delivery-id"] {
            assert_eq!(attempt.header(same), received[0].header(same));
        }
        assert_eq!(
            attempt.body, received[0].body,
            "the body is the same on every attempt"
        );
        // The trace goes on, each attempt is a span of its own.
        assert_eq!(
            attempt.header("traceparent")[..36],
            received[0].header("traceparent")[..36]
        );
    }
    let delivered = &world.settled(1).await[0];
    assert_eq!(
        (delivered.state(), delivered.attempt_count),
        (delivery::State::Succeeded, 3)
    );
    let attempts = world.attempts(&delivered.name, "").await;
    let outcomes: Vec<Outcome> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(
        outcomes,
        [Outcome::Retry, Outcome::Retry, Outcome::Delivered]
    );
    assert_eq!(
        world
            .attempts(&delivered.name, "status_code = 503")
            .await
            .len(),
        2
    );
}

#[tokio::test]
async fn a_delivery_that_fails_for_good_is_kept_and_can_be_delivered_again() {
    let world = World::start().await;
    world.receiver.answer("hook", 500);
    let subscription = Subscription {
        retry_policy: retries(&[1]),
        ..to(world.receiver.url("hook"))
    };
    world.subscribe("hook", subscription).await;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    let dead = world.settled(1).await.remove(0);
    assert_eq!(dead.state(), delivery::State::DeadLettered);
    assert_eq!(dead.dead_letter_reason(), v1::DeadLetterReason::MaxAttempts);
    assert_eq!(
        dead.last_attempt.as_ref().map(|it| it.status_code),
        Some(500)
    );

    world.receiver.answer("hook", 200);
    let request = RedeliverDeliveryRequest {
        name: dead.name.clone(),
    };
    let mut client = DeliveryServiceClient::new(world.channel.clone());
    let again = client
        .redeliver_delivery(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.redelivery_of, dead.name);
    let received = world.received("hook", 3).await;
    assert_eq!(
        received[2].header("webhook-id"),
        received[0].header("webhook-id")
    );
    assert_ne!(
        received[2].header("hookfleet-delivery-id"),
        received[0].header("hookfleet-delivery-id")
    );
    world.settled(2).await;
    assert_eq!(
        deliveries(&world.channel, "acme", "state = SUCCEEDED")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn a_receiver_that_is_gone_suspends_its_subscription_and_loses_nothing() {
    let world = World::start().await;
    world.receiver.answer("hook", 410);
    world
        .subscribe("hook", to(world.receiver.url("hook")))
        .await;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    let suspended = world.subscription_in(subscription::State::Suspended).await;
    assert_eq!(
        suspended.suspend_reason(),
        subscription::SuspendReason::EndpointGone
    );

    world.receiver.answer("hook", 200);
    let name = suspended.name.clone();
    let request = v1::ResumeSubscriptionRequest {
        name,
        etag: String::new(),
    };
    let mut client = SubscriptionServiceClient::new(world.channel.clone());
    client.resume_subscription(request).await.unwrap();
    assert_eq!(
        world.settled(1).await[0].state(),
        delivery::State::Succeeded
    );
}

#[tokio::test]
async fn redirects_are_failures_and_are_not_followed() {
    let world = World::start().await;
    let elsewhere = world.receiver.url("elsewhere");
    world.receiver.answer_with("hook", move |_, _| {
        let location = ("location", elsewhere.clone());
        (307_u16.try_into().unwrap(), vec![location], Duration::ZERO)
    });
    let subscription = Subscription {
        retry_policy: retries(&[1]),
        ..to(world.receiver.url("hook"))
    };
    world.subscribe("hook", subscription).await;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    let dead = &world.settled(1).await[0];
    assert_eq!(
        dead.last_attempt.as_ref().unwrap().location,
        world.receiver.url("elsewhere")
    );
    assert!(world.receiver.received_at("elsewhere").is_empty());
}

#[tokio::test]
async fn rotation_signs_with_both_secrets_and_ed25519_signs_too() {
    let world = World::start().await;
    let subscription = Subscription {
        signature_algorithms: vec![
            SignatureAlgorithm::HmacSha256.into(),
            SignatureAlgorithm::Ed25519.into(),
        ],
        ..to(world.receiver.url("hook"))
    };
    let created = world.subscribe("hook", subscription).await;
    let request = v1::RotateSecretRequest {
        name: created.name.clone(),
        ..v1::RotateSecretRequest::default()
    };
    let mut client = SubscriptionServiceClient::new(world.channel.clone());
    let rotated = client.rotate_secret(request).await.unwrap().into_inner();
    assert_ne!(rotated.signing_secret, created.signing_secret);
    world.subscription_in(subscription::State::Active).await;

    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    let received = &world.received("hook", 1).await[0];
    verify(&created.signing_secret, received);
    verify(&rotated.signing_secret, received);
    let entries: Vec<&str> = received.header("webhook-signature").split(' ').collect();
    assert!(entries[0].starts_with("v1a,"), "{entries:?}");
    // The oldest secret is last, for verifiers that read only one entry.
    let secret: hookfleet_contract::signature::Secret = created.signing_secret.parse().unwrap();
    let last = entries.last().unwrap();
    assert!(secret.verify(
        last,
        received.header("webhook-id"),
        received.header("webhook-timestamp"),
        &received.body
    ));
}

#[tokio::test]
async fn bad_input_is_named_precisely_and_stores_nothing() {
    let world = World::start().await;
    let bad = Subscription {
        callback_url: "https://user@hooks.example.com/".to_owned(),
        event_types: vec!["orders".to_owned(), "a..b".to_owned()],
        max_in_flight: 5000,
        ..Subscription::default()
    };
    let status = subscribe(&world.channel, "acme", "hook", bad)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<&str> = violations.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "subscription.callback_url",
            "subscription.event_types[1]",
            "subscription.max_in_flight"
        ]
    );
    assert_eq!(details.error_info().unwrap().domain, "hookfleet.dev");

    world
        .subscribe("good", to(world.receiver.url("good")))
        .await;
    let mut nameless = event("", "orders.created", "{}");
    nameless.spec_version = "0.3".to_owned();
    let large = event("large", "orders.created", &"x".repeat(300 << 10));
    let results = publish(
        &world.channel,
        "acme",
        vec![nameless, event("1", "orders.created", "{}"), large],
    )
    .await;
    let results = results.unwrap();
    let code = |result: &publish_result::Result| match result {
        publish_result::Result::Error(status) => status.code,
        publish_result::Result::Receipt(_) => 0,
    };
    let invalid = i32::from(Code::InvalidArgument);
    assert_eq!(
        results.iter().map(code).collect::<Vec<_>>(),
        [invalid, 0, invalid]
    );
    assert_eq!(
        world.settled(1).await.len(),
        1,
        "the good one is delivered, the others are not kept"
    );

    let unknown = publish(&world.channel, "nobody", vec![event("1", "a", "{}")])
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let internal = subscribe(
        &world.channel,
        "acme",
        "imds",
        to("https://169.254.169.254/".to_owned()),
    )
    .await;
    assert_eq!(internal.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_acknowledges_every_event() {
    let world = World::start().await;
    world
        .subscribe("hook", to(world.receiver.url("hook")))
        .await;
    let requests = (0..500).map(|sequence| v1::PublishStreamRequest {
        sequence,
        parent: if sequence == 0 {
            "tenants/acme".to_owned()
        } else {
            String::new()
        },
        event: Some(event(&sequence.to_string(), "orders.created", "{}")),
    });
    let mut client =
        v1::publisher_service_client::PublisherServiceClient::new(world.channel.clone());
    let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut responses = client.publish_stream(stream).await.unwrap().into_inner();
    let mut acked = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        match response.message.unwrap() {
            v1::publish_stream_response::Message::Credit(credit) => {
                assert!(acked.is_empty() && credit.max_outstanding_events > 0);
            }
            v1::publish_stream_response::Message::Ack(ack) => {
                let result = ack.result.unwrap().result.unwrap();
                assert!(
                    matches!(result, publish_result::Result::Receipt(_)),
                    "{result:?}"
                );
                acked.push(ack.sequence);
            }
            goaway @ v1::publish_stream_response::Message::Goaway(_) => panic!("{goaway:?}"),
        }
    }
    assert_eq!(acked, (0..500).collect::<Vec<_>>());
    world.received("hook", 500).await;
}

#[tokio::test]
async fn a_deleted_subscription_is_not_called_again() {
    let world = World::start().await;
    world.receiver.answer("hook", 500);
    let subscription = Subscription {
        retry_policy: retries(&[3600]),
        ..to(world.receiver.url("hook"))
    };
    let created = world.subscribe("hook", subscription).await;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    world.received("hook", 1).await;
    let request = v1::DeleteSubscriptionRequest {
        name: created.name,
        ..v1::DeleteSubscriptionRequest::default()
    };
    SubscriptionServiceClient::new(world.channel.clone())
        .delete_subscription(request)
        .await
        .unwrap();
    let dead = &world.settled(1).await[0];
    assert_eq!(
        dead.dead_letter_reason(),
        v1::DeadLetterReason::SubscriptionEnded
    );
}

#[tokio::test]
async fn a_changed_callback_url_is_in_force_without_a_restart() {
    let world = World::start().await;
    let created = world.subscribe("hook", to(world.receiver.url("old"))).await;
    let request = UpdateSubscriptionRequest {
        subscription: Some(Subscription {
            name: created.name,
            callback_url: world.receiver.url("new"),
            etag: created.etag,
            ..Subscription::default()
        }),
        ..UpdateSubscriptionRequest::default()
    };
    let mut client = SubscriptionServiceClient::new(world.channel.clone());
    client.update_subscription(request).await.unwrap();
    world.subscription_in(subscription::State::Active).await;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    world.received("new", 1).await;
    assert!(world.receiver.received_at("old").is_empty());
}

#[tokio::test]
async fn sigterm_lets_attempts_finish_and_exits_cleanly() {
    let world = World::start().await;
    world.receiver.answer_with("hook", |_, _| {
        (
            200_u16.try_into().unwrap(),
            Vec::new(),
            Duration::from_millis(500),
        )
    });
    world
        .subscribe("hook", to(world.receiver.url("hook")))
        .await;
    publish_one(&world.channel, "acme", event("1", "orders.created", "{}")).await;
    world.received("hook", 1).await;
    let World {
        process,
        receiver,
        dir,
        ..
    } = world;
    assert!(process.terminate().await.success());

    let process = standalone(dir.path());
    let channel = process.channel();
    let found = deliveries(&channel, "acme", "").await;
    assert_eq!(found[0].state(), delivery::State::Succeeded);
    assert_eq!(receiver.received_at("hook").len(), 1);
}

/// A standalone server with one tenant, and a receiver.
struct World {
    process: Process,
    channel: Channel,
    receiver: Receiver,
    dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = standalone(dir.path());
        let channel = process.channel();
        create_tenant(&channel, "acme").await;
        Self {
            process,
            channel,
            receiver: Receiver::start().await,
            dir,
        }
    }

    /// Creates a subscription and waits until it is in force.
    async fn subscribe(&self, id: &str, subscription: Subscription) -> Subscription {
        let created = subscribe(&self.channel, "acme", id, subscription)
            .await
            .expect("created");
        self.in_state(&created.name, subscription::State::Active)
            .await;
        created
    }

    async fn subscription_in(&self, state: subscription::State) -> Subscription {
        self.in_state("tenants/acme/subscriptions/hook", state)
            .await
    }

    async fn in_state(&self, name: &str, state: subscription::State) -> Subscription {
        eventually("the subscription's state", PATIENCE, || async {
            let request = v1::GetSubscriptionRequest {
                name: name.to_owned(),
            };
            let mut client = SubscriptionServiceClient::new(self.channel.clone());
            let found = client
                .get_subscription(request)
                .await
                .map_err(|it| format!("{it}"))?;
            let found = found.into_inner();
            if found.state() == state {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await
    }

    async fn received(&self, path: &str, count: usize) -> Vec<Received> {
        eventually("requests at the receiver", PATIENCE, || async {
            let received = self.receiver.received_at(path);
            if received.len() >= count {
                Ok(received)
            } else {
                Err(received.len())
            }
        })
        .await
    }

    /// Waits until so many deliveries are over, and none is not.
    async fn settled(&self, count: usize) -> Vec<v1::Delivery> {
        eventually("settled deliveries", PATIENCE, || async {
            let found = deliveries(&self.channel, "acme", "").await;
            let is_settled = |it: &v1::Delivery| it.state() != delivery::State::Pending;
            if found.len() == count && found.iter().all(is_settled) {
                Ok(found)
            } else {
                Err(found)
            }
        })
        .await
    }

    async fn attempts(&self, delivery: &str, filter: &str) -> Vec<v1::Attempt> {
        let request = ListAttemptsRequest {
            parent: delivery.to_owned(),
            filter: filter.to_owned(),
            ..ListAttemptsRequest::default()
        };
        let mut client = DeliveryServiceClient::new(self.channel.clone());
        client
            .list_attempts(request)
            .await
            .unwrap()
            .into_inner()
            .attempts
    }
}

fn verify(secret: &str, received: &Received) {
    let secret: hookfleet_contract::signature::Secret = secret.parse().unwrap();
    let (id, timestamp) = (
        received.header("webhook-id"),
        received.header("webhook-timestamp"),
    );
    let entries = received.header("webhook-signature");
    let is_signed = entries
        .split(' ')
        .any(|it| secret.verify(it, id, timestamp, &received.body));
    assert!(is_signed, "{entries}");
}
