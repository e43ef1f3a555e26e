//! What must not happen: secrets in the clear on disk, events of suspended tenants, a bad event that
//! holds up its neighbours, receivers inside.

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookfleet_proto::cloudevents::CloudEvent;
use hookfleet_proto::v1::{
    BodyMode, DeadLetterReason, GetSubscriptionRequest, Header, ResumeTenantRequest, Subscription,
    SuspendTenantRequest, delivery, publish_result,
    subscription_service_client::SubscriptionServiceClient,
    tenant_service_client::TenantServiceClient,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{
    api::{create_tenant, deliveries, event, publish, publish_one, subscribe_in_force, to},
    eventually,
    process::standalone,
    receiver::Receiver,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn secrets_are_nowhere_on_disk_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    let receiver = Receiver::start().await;
    create_tenant(&channel, "acme").await;
    let subscription = Subscription {
        headers: vec![Header {
            name: "authorization".to_owned(),
            value: "Bearer planted-credential".to_owned(),
            secret: false,
        }],
        ..to(receiver.url("hook"))
    };
    let created = subscribe_in_force(&channel, "acme", "hook", subscription).await;
    publish_one(
        &channel,
        "acme",
        event("1", "orders.created", r#"{"planted":"payload"}"#),
    )
    .await;
    eventually("the callback", PATIENCE, || async {
        let received = receiver.received_at("hook");
        let has_credential = received
            .iter()
            .any(|it| it.header("authorization") == "Bearer planted-credential");
        if has_credential {
            Ok(())
        } else {
            Err(received)
        }
    })
    .await;
    let name = created.name.clone();
    let mut client = SubscriptionServiceClient::new(channel);
    let got = client
        .get_subscription(GetSubscriptionRequest { name })
        .await
        .unwrap()
        .into_inner();
    assert!(got.signing_secret.is_empty());
    assert!(got.headers[0].value.is_empty() && got.headers[0].secret);
    assert!(server.terminate().await.success());

    let text = created
        .signing_secret
        .trim_start_matches("whsec_")
        .to_owned();
    let raw = STANDARD.decode(&text).unwrap();
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let needles = [
        raw,
        text.into_bytes(),
        hex.into_bytes(),
        b"planted-credential".to_vec(),
    ];
    let mut n_files = 0;
    // The search finds what is there: the payload is not a secret.
    let mut found_payload = false;
    visit(dir.path(), &mut |path, bytes| {
        n_files += 1;
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|it| it == needle);
        found_payload |= has(b"planted\":\"payload");
        for needle in &needles {
            assert!(!has(needle), "{} has a secret in the clear", path.display());
        }
    });
    assert!(n_files > 5 && found_payload);
}

#[tokio::test]
async fn a_suspended_tenants_events_are_refused_until_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    create_tenant(&channel, "acme").await;
    let mut tenants = TenantServiceClient::new(channel.clone());
    let (name, etag) = ("tenants/acme".to_owned(), String::new());
    let request = SuspendTenantRequest {
        name: name.clone(),
        etag: etag.clone(),
    };
    tenants.suspend_tenant(request).await.unwrap();
    let attempt = |id: &'static str| publish(&channel, "acme", vec![event(id, "a", "{}")]);
    eventually("publishes are refused", PATIENCE, || async {
        match attempt("1").await {
            Err(status) if status.code() == Code::FailedPrecondition => {
                let details = status.get_error_details();
                assert_eq!(details.error_info().unwrap().reason, "TENANT_SUSPENDED");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    tenants
        .resume_tenant(ResumeTenantRequest { name, etag })
        .await
        .unwrap();
    eventually("publishes are accepted", PATIENCE, || async {
        attempt("2").await.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test]
async fn an_event_that_cannot_be_sent_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = standalone(dir.path());
    let channel = server.channel();
    let receiver = Receiver::start().await;
    create_tenant(&channel, "acme").await;
    let subscription = Subscription {
        body_mode: BodyMode::Raw.into(),
        ..to(receiver.url("hook"))
    };
    subscribe_in_force(&channel, "acme", "hook", subscription).await;
    let empty = CloudEvent {
        data: None,
        ..event("empty", "orders.created", "{}")
    };
    let events = vec![
        event("1", "orders.created", "1"),
        empty,
        event("2", "orders.created", "2"),
    ];
    let results = publish(&channel, "acme", events).await.unwrap();
    assert!(
        results
            .iter()
            .all(|it| matches!(it, publish_result::Result::Receipt(_)))
    );
    let dead = eventually("the dead letter", PATIENCE, || async {
        let found = deliveries(&channel, "acme", "state = DEAD_LETTERED").await;
        if found.len() == 1 {
            Ok(found)
        } else {
            Err(found)
        }
    })
    .await;
    assert_eq!(dead[0].dead_letter_reason(), DeadLetterReason::NoPayload);
    eventually("its neighbours", PATIENCE, || async {
        let found = deliveries(&channel, "acme", "state = SUCCEEDED").await;
        let is_all = found.len() == 2
            && found
                .iter()
                .all(|it| it.state() == delivery::State::Succeeded);
        if is_all { Ok(()) } else { Err(found) }
    })
    .await;
}

fn visit(dir: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, look);
        } else {
            look(&path, &fs::read(&path).unwrap());
        }
    }
}
