//! Masks, keys and hidden values.

mod verifying;

use hookfleet_contract::verification::key as confirmation;
use hookfleet_proto::v1::{Header, RetryPolicy, RetryPreset, retry_policy};

use super::*;
use crate::config;

type Method = v1::subscription::Verification;

const NOW: Timestamp = Timestamp(1_767_323_045_000);

/// Keys that tell when they were made: the n-th has id `k{n}`.
fn keys() -> impl FnMut(SignatureAlgorithm) -> (String, Secret) {
    let mut made = 0;
    move |algorithm| {
        made += 1;
        let secret = match algorithm {
            SignatureAlgorithm::Ed25519 => Secret::generate_ed25519([made; 32]),
            SignatureAlgorithm::HmacSha256 | SignatureAlgorithm::Unspecified => {
                Secret::generate_hmac([made; 32])
            }
        };
        (format!("k{made}"), secret)
    }
}

/// The n-th verification has id n and the key of n-s.
fn fresh(settings: &config::Verification, n: u8) -> Fresh<'_> {
    Fresh {
        settings,
        id: Uuid::from_u128(n.into()),
        key: confirmation::Key::new([n; 32]),
    }
}

fn asked() -> v1::Subscription {
    v1::Subscription {
        callback_url: "https://receiver.acme.com/".to_owned(),
        event_types: vec!["orders".to_owned()],
        ..v1::Subscription::default()
    }
}

fn created(asked: v1::Subscription) -> Subscription {
    let name = "tenants/a/subscriptions/s".parse().unwrap();
    let (rules, settings) = (Rules::default(), config::Verification::default());
    let fresh = fresh(&settings, 1);
    Subscription::create(asked, &name, Uuid::nil(), &rules, &fresh, NOW, keys()).unwrap()
}

fn updated(
    mut it: Subscription,
    patch: v1::Subscription,
    paths: &[&str],
) -> Result<Subscription, Violations> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let mut keys = keys();
    let later = |algorithm| {
        let (id, secret) = keys(algorithm);
        (format!("later-{id}"), secret)
    };
    it.update(
        patch,
        Some(&FieldMask { paths }),
        &Rules::default(),
        &fresh(&config::Verification::default(), 2),
        NOW,
        later,
    )?;
    Ok(it)
}

fn key_ids(subscription: &Subscription) -> Vec<&str> {
    subscription
        .keys
        .iter()
        .map(|key| key.id.as_str())
        .collect()
}

#[test]
fn output_only_fields_of_a_new_one_are_ours() {
    let it = created(v1::Subscription {
        name: "x".to_owned(),
        uid: "x".to_owned(),
        state: State::Suspended.into(),
        suspend_reason: SuspendReason::EndpointGone.into(),
        etag: "x".to_owned(),
        ..asked()
    });
    let expected = v1::Subscription {
        name: "tenants/a/subscriptions/s".to_owned(),
        uid: Uuid::nil().to_string(),
        state: State::Active.into(),
        create_time: Some(NOW.into()),
        update_time: Some(NOW.into()),
        ..asked()
    };
    assert_eq!(it.resource, expected);
    assert_eq!(key_ids(&it), ["k1"]);
}

#[test]
fn parts_of_the_retry_policy_change_by_themselves() {
    let schedule = retry_policy::Schedule::Delays(retry_policy::Delays {
        delays: vec![prost_types::Duration {
            seconds: 5,
            nanos: 0,
        }],
    });
    let policy = RetryPolicy {
        schedule: Some(schedule),
        preset: RetryPreset::Knative.into(),
        ..RetryPolicy::default()
    };
    let patch = |retry_policy| v1::Subscription {
        retry_policy,
        ..v1::Subscription::default()
    };
    let it = created(asked());
    let it = updated(it, patch(Some(policy.clone())), &["retry_policy.preset"]).unwrap();
    let expected = RetryPolicy {
        preset: RetryPreset::Knative.into(),
        ..RetryPolicy::default()
    };
    assert_eq!(it.resource.retry_policy, Some(expected));
    let it = updated(it, patch(Some(policy.clone())), &["retry_policy.delays"]).unwrap();
    assert_eq!(it.resource.retry_policy, Some(policy.clone()));
    let it = updated(it, patch(None), &["retry_policy.exponential"]).unwrap();
    assert_eq!(
        it.resource.retry_policy,
        Some(policy),
        "the other alternative is not this one's to clear"
    );
    let it = updated(
        it,
        patch(None),
        &["retry_policy.delays", "retry_policy.preset"],
    )
    .unwrap();
    assert_eq!(it.resource.retry_policy, Some(RetryPolicy::default()));
    let it = updated(it, patch(None), &["retry_policy"]).unwrap();
    assert_eq!(it.resource.retry_policy, None);
}

#[test]
fn every_field_that_callers_set_is_replaced_by_a_star() {
    let full = v1::Subscription {
        display_name: "x".to_owned(),
        annotations: [("a".to_owned(), "b".to_owned())].into(),
        body_mode: v1::BodyMode::Raw.into(),
        headers: vec![Header {
            name: "X-A".to_owned(),
            value: "b".to_owned(),
            secret: false,
        }],
        retry_policy: Some(RetryPolicy::default()),
        timeout: Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        max_in_flight: 3,
        max_requests_per_second: 2.5,
        ordering: v1::Ordering::ByPartitionKey.into(),
        verification: Method::None.into(),
        signature_algorithms: vec![SignatureAlgorithm::HmacSha256.into()],
        ..asked()
    };
    let it = updated(created(asked()), full.clone(), &["*"]).unwrap();
    let ours = it.resource.clone();
    let expected = v1::Subscription {
        name: ours.name,
        uid: ours.uid,
        state: ours.state,
        create_time: ours.create_time,
        update_time: ours.update_time,
        ..full
    };
    assert_eq!(it.resource, expected);
    let it = updated(it, asked(), &["*"]).unwrap();
    assert_eq!(it.resource, created(asked()).resource);
}

#[test]
fn an_algorithm_that_comes_gets_a_key_and_one_that_goes_loses_its_keys() {
    let algorithms = |algorithms: &[SignatureAlgorithm]| v1::Subscription {
        signature_algorithms: algorithms.iter().map(|it| (*it).into()).collect(),
        ..v1::Subscription::default()
    };
    let (shared, pair) = (SignatureAlgorithm::HmacSha256, SignatureAlgorithm::Ed25519);
    let paths = ["signature_algorithms"];
    let it = updated(created(asked()), algorithms(&[shared, pair]), &paths).unwrap();
    assert_eq!(key_ids(&it), ["later-k1", "k1"]);
    assert!(it.keys[0].secret.public_key().is_some());
    let it = updated(it, algorithms(&[pair]), &paths).unwrap();
    assert_eq!(key_ids(&it), ["later-k1"]);
    assert_eq!(it.reveal(), "");
}

#[test]
fn the_secret_is_not_changed_by_an_update() {
    let secret = Secret::generate_hmac([9; 32]).reveal();
    let patch = v1::Subscription {
        signing_secret: secret,
        ..asked()
    };
    for (patch, paths) in [
        (patch.clone(), &["*"][..]),
        (patch, &[]),
        (asked(), &["signing_secret"]),
    ] {
        let violations = updated(created(asked()), patch, paths).unwrap_err();
        assert_eq!(violations.0[0].field, "subscription.signing_secret");
    }
    let before = created(asked());
    let same = v1::Subscription {
        signing_secret: before.reveal(),
        ..asked()
    };
    let after = updated(before.clone(), same, &["*"]).unwrap();
    assert_eq!(key_ids(&after), key_ids(&before), "the same again is none");
}

#[test]
fn a_hidden_value_is_never_uncovered() {
    let header = |value: &str, secret| Header {
        name: "X-Key".to_owned(),
        value: value.to_owned(),
        secret,
    };
    let with = |header| v1::Subscription {
        headers: vec![header],
        ..asked()
    };
    let it = created(with(header("secret", true)));
    let kept = updated(it.clone(), with(header("", true)), &["headers"]).unwrap();
    assert_eq!(kept.resource.headers[0].value, "secret");
    let shown = updated(it, with(header("", false)), &["headers"]).unwrap();
    assert_eq!(shown.resource.headers[0].value, "");
}

#[test]
fn an_older_key_never_signs_longer_than_it_was_told() {
    let mut it = created(asked());
    let mut random = keys();
    let mut rotate = |it: &mut Subscription, seconds, now| {
        let fresh = fresh_keys(&algorithms(&it.resource), None, now, &mut random);
        it.rotate(fresh, Duration::from_secs(seconds), now).unwrap();
    };
    rotate(&mut it, 10, NOW);
    rotate(&mut it, 1000, NOW);
    let expire: Vec<_> = it
        .keys
        .iter()
        .map(|key| key.expire_time.map(|it| it.since(NOW).as_secs()))
        .collect();
    assert_eq!(expire, [None, Some(1000), Some(10)]);
    rotate(&mut it, 0, NOW);
    assert_eq!(it.keys.len(), 1);
}
