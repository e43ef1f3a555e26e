//! Where secrets go, and where they do not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookfleet_proto::v1::{
    Header, ListSubscriptionsRequest, RotateSecretRequest, SignatureAlgorithm,
    UpdateSubscriptionRequest,
};
use prost_types::FieldMask;

use super::*;
use crate::{keys, model::subscription::Subscription, stored};

const NAME: &str = "tenants/a/subscriptions/s";
const PLANTED: &[u8; 32] = b"planted-secret-planted-secret-32";
const HEADER: &str = "planted-header-value";

fn planted() -> v1::Subscription {
    v1::Subscription {
        signing_secret: format!("whsec_{}", STANDARD.encode(PLANTED)),
        headers: vec![
            Header {
                name: "Authorization".to_owned(),
                value: HEADER.to_owned(),
                secret: false,
            },
            Header {
                name: "X-Plain".to_owned(),
                value: "plain".to_owned(),
                secret: false,
            },
        ],
        ..orders()
    }
}

/// What an agent would get.
async fn opened(plane: &Plane) -> Subscription {
    let name = NAME.parse().unwrap();
    let key = keys::subscription(&name, plane.api.slot_count);
    let stored = super::super::change::get(&*plane.store, &key, NAME).await;
    let stored = stored.map_err(Status::from).unwrap();
    stored::open(&plane.api.vault, &name, stored.value).unwrap()
}

async fn rotate(
    plane: &Plane,
    overlap: Option<i64>,
    secret: &str,
) -> Result<v1::Subscription, Status> {
    let request = RotateSecretRequest {
        name: NAME.to_owned(),
        overlap: overlap.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        signing_secret: secret.to_owned(),
        etag: String::new(),
    };
    plane
        .subscriptions
        .rotate_secret(Request::new(request))
        .await
        .map(Response::into_inner)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| format!("{byte:02x}").into_bytes())
        .collect()
}

#[tokio::test]
async fn no_secret_is_in_the_store_in_any_form() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let request = CreateSubscriptionRequest {
        request_id: "5f8fe8bb-2fd5-4a3a-a0c3-0b7f1e6a2a11".to_owned(),
        ..asking("a", "s", planted())
    };
    plane.create(request).await.unwrap();
    rotate(&plane, None, "").await.unwrap();
    let dump = plane.dump().await;
    assert!(dump.iter().any(|(key, _)| key.starts_with("request/")));
    assert!(
        dump.iter().any(|(_, value)| contains(value, b"X-Plain")),
        "the search finds what is there"
    );
    for secret in [&PLANTED[..], HEADER.as_bytes()] {
        // Base64 of the middle, for each of the three ways in which it can be aligned.
        let mut forms: Vec<Vec<u8>> = (0..3)
            .map(|from| {
                let middle = &secret[from..from + (secret.len() - from) / 3 * 3];
                STANDARD.encode(middle).into_bytes()
            })
            .collect();
        forms.extend([
            secret.to_vec(),
            hex(secret),
            hex(secret).to_ascii_uppercase(),
        ]);
        for (key, value) in &dump {
            assert!(
                !forms.iter().any(|form| contains(value, form)),
                "{key} holds a secret"
            );
        }
    }
    let opened = opened(&plane).await;
    assert_eq!(opened.resource.headers[0].value, HEADER);
    assert_eq!(opened.keys[1].secret.reveal(), planted().signing_secret);
}

#[tokio::test]
async fn a_secret_is_shown_by_what_makes_it_and_nothing_else() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let created = plane.subscribe("a", "s", planted()).await;
    assert_eq!(created.signing_secret, planted().signing_secret);
    let rotated = rotate(&plane, None, "").await.unwrap();
    assert!(
        rotated.signing_secret.starts_with("whsec_")
            && rotated.signing_secret != created.signing_secret
    );
    let request = ListSubscriptionsRequest {
        parent: "tenants/a".to_owned(),
        ..Default::default()
    };
    let listed = ok(plane
        .subscriptions
        .list_subscriptions(Request::new(request))
        .await)
    .subscriptions;
    let request = UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            name: NAME.to_owned(),
            display_name: "x".to_owned(),
            ..Default::default()
        }),
        ..UpdateSubscriptionRequest::default()
    };
    let updated = ok(plane
        .subscriptions
        .update_subscription(Request::new(request))
        .await);
    for shown in [
        created,
        rotated,
        updated,
        plane.get(NAME).await.unwrap(),
        listed[0].clone(),
    ] {
        let values = shown
            .headers
            .iter()
            .map(|header| (header.value.as_str(), header.secret));
        assert_eq!(values.collect::<Vec<_>>(), [("", true), ("plain", false)]);
    }
    assert_eq!(listed[0].signing_secret, "");
    assert_eq!(plane.get(NAME).await.unwrap().signing_secret, "");
}

#[tokio::test]
async fn a_hidden_header_keeps_its_value_when_it_is_sent_back_as_it_was_read() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    plane.subscribe("a", "s", planted()).await;
    let read = plane.get(NAME).await.unwrap();
    let request = UpdateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            display_name: "x".to_owned(),
            ..read
        }),
        update_mask: Some(FieldMask {
            paths: vec!["*".to_owned()],
        }),
        validate_only: false,
    };
    ok(plane
        .subscriptions
        .update_subscription(Request::new(request))
        .await);
    assert_eq!(opened(&plane).await.resource.headers[0].value, HEADER);
}

#[tokio::test]
async fn rotation_signs_with_both_for_the_overlap() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let created = plane.subscribe("a", "s", orders()).await;
    let secret = planted().signing_secret;
    let rotated = rotate(&plane, Some(3600), &secret).await.unwrap();
    assert_eq!(rotated.signing_secret, secret);
    let [new, old] = rotated.signing_keys.as_slice() else {
        panic!("{rotated:?}")
    };
    assert_eq!(old.key_id, created.signing_keys[0].key_id);
    assert_eq!(
        old.expire_time,
        Some((NOW + Duration::from_secs(3600)).into())
    );
    assert_eq!(new.expire_time, None);
    plane.clock.set(NOW + Duration::from_secs(3600));
    assert_eq!(
        plane.get(NAME).await.unwrap().signing_keys,
        std::slice::from_ref(new)
    );
    let rotated = rotate(&plane, Some(0), "").await.unwrap();
    assert_eq!(rotated.signing_keys.len(), 1);
    assert_ne!(rotated.signing_keys[0].key_id, new.key_id);
    let rotated = rotate(&plane, None, "").await.unwrap();
    let day = Duration::from_secs(3600 + 24 * 3600);
    assert_eq!(
        rotated.signing_keys[1].expire_time,
        Some((NOW + day).into())
    );
}

#[tokio::test]
async fn no_more_keys_sign_than_verifiers_try() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    plane.subscribe("a", "s", orders()).await;
    for n_keys in 2..=5 {
        assert_eq!(
            rotate(&plane, None, "").await.unwrap().signing_keys.len(),
            n_keys
        );
    }
    let answer = rotate(&plane, None, "").await;
    assert_eq!(
        refused(answer),
        (Code::FailedPrecondition, "TOO_MANY_SIGNING_KEYS".to_owned())
    );
    assert_eq!(
        rotate(&plane, Some(0), "")
            .await
            .unwrap()
            .signing_keys
            .len(),
        1
    );
}

#[tokio::test]
async fn rotation_refuses_what_it_cannot_use() {
    let plane = Plane::start().await;
    plane.tenant("a").await;
    let asked = v1::Subscription {
        signature_algorithms: vec![SignatureAlgorithm::Ed25519.into()],
        ..orders()
    };
    let created = plane.subscribe("a", "s", asked).await;
    assert_eq!(created.signing_secret, "");
    assert!(created.signing_keys[0].public_key.starts_with("whpk_"));
    assert_eq!(violations(rotate(&plane, Some(-1), "").await), ["overlap"]);
    assert_eq!(
        violations(rotate(&plane, Some(7 * 86_400 + 1), "").await),
        ["overlap"]
    );
    assert_eq!(
        violations(rotate(&plane, None, "whsec_short").await),
        ["signing_secret"]
    );
    assert_eq!(
        violations(rotate(&plane, None, &planted().signing_secret).await),
        ["signing_secret"]
    );
    let rotated = rotate(&plane, None, "").await.unwrap();
    assert_eq!(
        (rotated.signing_secret.as_str(), rotated.signing_keys.len()),
        ("", 2)
    );
}

#[tokio::test]
async fn another_sealing_key_is_refused_at_the_start() {
    let plane = Plane::start().await;
    let mut config = Config::new(
        Arc::clone(&plane.store),
        [8; 32],
        Rules::default(),
        Readiness::new(&[]),
    );
    let started = ControlPlane::start(config.clone()).await;
    assert!(
        matches!(started, Err(crate::Error::Key { .. })),
        "{started:?}"
    );
    config.sealing_key = [7; 32];
    assert!(ControlPlane::start(config).await.is_ok());
}
