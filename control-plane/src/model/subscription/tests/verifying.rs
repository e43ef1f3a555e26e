//! A receiver that is asked before it is called.

use hookfleet_contract::verification::{VALIDITY, answer::Rate};
use hookfleet_proto::{
    fleet::{VerificationReport, verification_report::Outcome},
    v1::{
        VerificationGrant, VerificationStatus,
        verification_status::{Failure, State as Stage},
    },
};

use super::*;

const FIRST: &str = "https://receiver.acme.com/";
const SECOND: &str = "https://receiver.acme.com/second";

fn settings() -> config::Verification {
    config::Verification {
        origin: Some("hooks.acme.com".to_owned()),
        public_url: Some("https://hooks.acme.com".to_owned()),
        is_required: false,
    }
}

fn name() -> SubscriptionName {
    "tenants/a/subscriptions/s".parse().unwrap()
}

fn with(method: Method) -> v1::Subscription {
    v1::Subscription {
        verification: method.into(),
        ..asked()
    }
}

fn create(
    asked: v1::Subscription,
    settings: &config::Verification,
) -> Result<Subscription, Violations> {
    let (rules, fresh) = (Rules::default(), fresh(settings, 1));
    Subscription::create(asked, &name(), Uuid::nil(), &rules, &fresh, NOW, keys())
}

/// A new subscription, whose verification is the first.
fn waiting(method: Method) -> Subscription {
    create(with(method), &settings()).unwrap()
}

/// One whose receiver has agreed.
fn agreed(method: Method) -> Subscription {
    let mut it = waiting(method);
    assert!(it.handle_report(&report(1, 0, Outcome::Granted), NOW));
    it
}

/// An update with these paths; a verification that it begins is the n-th.
fn update(it: &mut Subscription, n: u8, patch: v1::Subscription, paths: &[&str]) {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let (rules, settings) = (Rules::default(), settings());
    let fresh = fresh(&settings, n);
    it.update(
        patch,
        Some(&FieldMask { paths }),
        &rules,
        &fresh,
        NOW,
        keys(),
    )
    .unwrap();
}

fn move_to(it: &mut Subscription, n: u8, url: &str) {
    let patch = v1::Subscription {
        callback_url: url.to_owned(),
        ..asked()
    };
    update(it, n, patch, &["callback_url"]);
}

fn report(n: u8, attempt_count: i32, outcome: Outcome) -> VerificationReport {
    VerificationReport {
        verification_id: Uuid::from_u128(n.into()).to_string(),
        attempt_count,
        outcome: outcome.into(),
        failure: match outcome {
            Outcome::Denied | Outcome::Refused => Failure::NoConsent.into(),
            Outcome::Unspecified | Outcome::Granted | Outcome::Awaited | Outcome::Expired => 0,
        },
        ..VerificationReport::default()
    }
}

fn key(n: u8) -> confirmation::Key {
    confirmation::Key::new([n; 32])
}

#[track_caller]
fn status(it: &Subscription) -> &VerificationStatus {
    let status = it.resource.verification_status.as_ref().unwrap();
    let goes_on = status.state() == Stage::Pending;
    assert_eq!(goes_on, it.verification.is_some(), "{it:?}");
    status
}

/// The state, where callbacks go, what is verified and how far that is.
fn stand(it: &Subscription) -> (State, &str, &str, Stage) {
    let status = status(it);
    (
        it.resource.state(),
        &it.resource.callback_url,
        &status.callback_url,
        status.state(),
    )
}

#[test]
fn whoever_need_not_agree_is_active_at_once() {
    for method in [Method::Unspecified, Method::None] {
        let it = create(with(method), &config::Verification::default()).unwrap();
        assert_eq!(it.resource.state(), State::Active);
        assert_eq!(it.resource.verification(), method);
        assert!(it.resource.verification_status.is_none() && it.verification.is_none());
    }
}

#[test]
fn whoever_must_agree_is_asked_as_cloudevents_says() {
    let required = config::Verification {
        is_required: true,
        ..settings()
    };
    let it = create(with(Method::Unspecified), &required).unwrap();
    assert_eq!(it.resource.verification(), Method::CeOptions);
    assert_eq!(it.resource.state(), State::Pending);
    let refused = create(with(Method::None), &required).unwrap_err();
    assert_eq!(refused.0[0].field, "subscription.verification");
}

#[test]
fn what_this_server_cannot_do_is_refused() {
    let without = config::Verification::default();
    let nameless = config::Verification {
        is_required: true,
        ..config::Verification::default()
    };
    for (settings, method, word) in [
        (&without, Method::ConfirmUrl, "public_url"),
        (&without, Method::CeOptions, "origin"),
        (&nameless, Method::Unspecified, "origin"),
    ] {
        let refused = create(with(method), settings).unwrap_err();
        assert_eq!(refused.0[0].field, "subscription.verification");
        assert!(refused.0[0].description.contains(word), "{refused}");
    }
    for method in [Method::ChallengeEcho, Method::ChallengeGet] {
        assert!(create(with(method), &without).is_ok());
    }
}

#[test]
fn a_receiver_that_agrees_makes_its_subscription_active() {
    let mut it = waiting(Method::CeOptions);
    assert_eq!(stand(&it), (State::Pending, FIRST, FIRST, Stage::Pending));
    assert_eq!(status(&it).next_attempt_time, Some(NOW.into()));
    let spec = it.clone().into_spec().verification.unwrap();
    assert_eq!(spec.origin, "hooks.acme.com");
    let url = format!(
        "https://hooks.acme.com/v1/verifications/{}",
        key(1).reveal()
    );
    assert_eq!(spec.confirm_url, url);
    let granted = VerificationReport {
        max_requests_per_minute: 120,
        status_code: 204,
        ..report(1, 0, Outcome::Granted)
    };
    assert!(it.handle_report(&granted, NOW));
    assert_eq!(stand(&it), (State::Active, FIRST, FIRST, Stage::Succeeded));
    assert_eq!(
        (status(&it).status_code, status(&it).attempt_count),
        (204, 1)
    );
    let grant = VerificationGrant {
        origin: "hooks.acme.com".to_owned(),
        max_requests_per_minute: 120,
        grant_time: Some(NOW.into()),
    };
    assert_eq!(it.resource.grant, Some(grant));
    assert_eq!(it.into_spec().verification, None);
}

#[test]
fn only_a_handshake_with_an_origin_grants_it() {
    let it = agreed(Method::ChallengeEcho);
    assert_eq!(it.resource.grant.unwrap().origin, "");
    let spec = waiting(Method::ChallengeEcho).into_spec();
    assert_eq!(spec.verification.unwrap().confirm_url, "");
}

#[test]
fn a_receiver_that_does_not_agree_is_asked_four_times_and_then_failed() {
    let mut it = waiting(Method::CeOptions);
    for (attempt_count, pause) in [(0, 60), (1, 540), (2, 3000)] {
        assert!(it.handle_report(&report(1, attempt_count, Outcome::Denied), NOW));
        let next = NOW + Duration::from_secs(pause);
        assert_eq!(status(&it).next_attempt_time, Some(next.into()));
        assert_eq!(it.resource.state(), State::Pending);
    }
    assert!(it.handle_report(&report(1, 3, Outcome::Denied), NOW));
    assert_eq!(stand(&it), (State::Failed, FIRST, FIRST, Stage::Failed));
    assert_eq!(status(&it).failure(), Failure::NoConsent);
    assert_eq!(status(&it).next_attempt_time, None);
    assert!(!it.confirm(&key(1), Rate::Any, NOW), "its key is of no use");
}

#[test]
fn a_receiver_that_refuses_is_not_asked_again() {
    let mut it = waiting(Method::CeOptions);
    assert!(it.handle_report(&report(1, 0, Outcome::Refused), NOW));
    assert_eq!(it.resource.state(), State::Failed);
}

#[test]
fn what_is_said_again_or_of_another_verification_is_not_counted() {
    let mut it = waiting(Method::CeOptions);
    let denied = report(1, 0, Outcome::Denied);
    assert!(it.handle_report(&denied, NOW));
    assert!(!it.handle_report(&denied, NOW), "it was counted");
    assert!(!it.handle_report(&report(1, 7, Outcome::Granted), NOW));
    assert!(!it.handle_report(&report(2, 1, Outcome::Granted), NOW));
    assert_eq!(status(&it).attempt_count, 1);
    assert!(!agreed(Method::CeOptions).handle_report(&report(1, 1, Outcome::Refused), NOW));
    let mut none = create(with(Method::None), &settings()).unwrap();
    assert!(!none.handle_report(&report(1, 0, Outcome::Granted), NOW));
}

#[test]
fn a_confirmation_may_come_before_the_answer_and_counts_once() {
    let mut it = waiting(Method::CeOptions);
    assert!(!it.confirm(&key(9), Rate::Any, NOW));
    assert!(it.confirm(&key(1), Rate::PerMinute(30), NOW));
    assert_eq!(stand(&it), (State::Active, FIRST, FIRST, Stage::Succeeded));
    let grant = it.resource.grant.clone().unwrap();
    assert_eq!(
        (grant.max_requests_per_minute, grant.origin.as_str()),
        (30, "hooks.acme.com")
    );
    // The answer that comes later says nothing new, whatever it says.
    assert!(!it.handle_report(&report(1, 0, Outcome::Refused), NOW));
    assert!(!it.confirm(&key(1), Rate::Any, NOW));
    assert_eq!(it.resource.state(), State::Active);
}

#[test]
fn a_confirmation_is_waited_for_72_hours_and_no_longer() {
    let mut it = waiting(Method::ConfirmUrl);
    assert!(it.handle_report(&report(1, 0, Outcome::Awaited), NOW));
    assert_eq!(status(&it).next_attempt_time, None);
    let end = NOW + VALIDITY;
    let just_before = Timestamp(end.0 - 1);
    assert!(!it.handle_report(&report(1, 1, Outcome::Expired), just_before));
    assert!(it.clone().confirm(&key(1), Rate::Any, just_before));
    assert!(!it.clone().confirm(&key(1), Rate::Any, end));
    assert!(it.handle_report(&report(1, 1, Outcome::Expired), end));
    assert_eq!(it.resource.state(), State::Failed);
    assert_eq!(status(&it).failure(), Failure::NotConfirmed);
}

#[test]
fn a_url_that_is_new_takes_effect_when_its_receiver_agrees() {
    let mut it = agreed(Method::CeOptions);
    move_to(&mut it, 2, SECOND);
    assert_eq!(stand(&it), (State::Active, FIRST, SECOND, Stage::Pending));
    // The same again changes nothing; neither does what has nothing to do with it.
    move_to(&mut it, 3, SECOND);
    let patch = v1::Subscription {
        max_in_flight: 3,
        ..asked()
    };
    update(&mut it, 3, patch, &["max_in_flight"]);
    assert!(it.handle_report(&report(2, 0, Outcome::Granted), NOW));
    assert_eq!(
        stand(&it),
        (State::Active, SECOND, SECOND, Stage::Succeeded)
    );
}

#[test]
fn a_url_whose_receiver_does_not_agree_leaves_the_old_one_in_force() {
    let mut it = agreed(Method::CeOptions);
    let grant = it.resource.grant.clone();
    move_to(&mut it, 2, SECOND);
    assert!(it.handle_report(&report(2, 0, Outcome::Refused), NOW));
    assert_eq!(stand(&it), (State::Active, FIRST, SECOND, Stage::Failed));
    assert_eq!(it.resource.grant, grant);
    // Asked for anew, it is that one that is verified.
    let settings = settings();
    it.verify(&fresh(&settings, 3), NOW).unwrap();
    assert_eq!(stand(&it), (State::Active, FIRST, SECOND, Stage::Pending));
    // Whoever says the old one again has given up the new one.
    move_to(&mut it, 4, FIRST);
    assert!(it.verification.is_none() && it.resource.verification_status.is_none());
    assert_eq!(it.resource.grant, grant);
}

#[test]
fn a_subscription_that_was_never_verified_changes_as_a_whole() {
    let mut it = waiting(Method::CeOptions);
    move_to(&mut it, 2, SECOND);
    assert_eq!(stand(&it), (State::Pending, SECOND, SECOND, Stage::Pending));
    assert!(
        !it.handle_report(&report(1, 0, Outcome::Granted), NOW),
        "that was the first URL"
    );
    update(&mut it, 3, with(Method::ChallengeGet), &["verification"]);
    assert_eq!(status(&it).method(), Method::ChallengeGet);
    update(&mut it, 4, with(Method::None), &["verification"]);
    assert_eq!(it.resource.state(), State::Active);
    assert!(it.verification.is_none() && it.resource.verification_status.is_none());
}

#[test]
fn whoever_subscribes_again_after_a_failure_is_asked_again() {
    let mut failed = waiting(Method::CeOptions);
    assert!(failed.handle_report(&report(1, 0, Outcome::Refused), NOW));
    let mut it = failed.clone();
    update(&mut it, 2, with(Method::CeOptions), &["display_name"]);
    assert_eq!(
        it.resource.state(),
        State::Failed,
        "that says nothing of the URL"
    );
    update(&mut it, 2, with(Method::CeOptions), &["*"]);
    assert_eq!(stand(&it), (State::Pending, FIRST, FIRST, Stage::Pending));
    let settings = settings();
    failed.verify(&fresh(&settings, 2), NOW).unwrap();
    assert_eq!(
        stand(&failed),
        (State::Pending, FIRST, FIRST, Stage::Pending)
    );
}

#[test]
fn a_receiver_that_agreed_may_be_asked_again_without_losing_anything() {
    let mut it = agreed(Method::CeOptions);
    it.suspend(SuspendReason::UserRequest);
    let settings = settings();
    it.verify(&fresh(&settings, 2), NOW).unwrap();
    assert_eq!(stand(&it), (State::Suspended, FIRST, FIRST, Stage::Pending));
    assert!(it.handle_report(&report(2, 0, Outcome::Refused), NOW));
    assert_eq!(stand(&it), (State::Suspended, FIRST, FIRST, Stage::Failed));
    assert!(it.resource.grant.is_some());
    let mut none = create(with(Method::None), &settings).unwrap();
    assert_eq!(
        none.verify(&fresh(&settings, 2), NOW),
        Err(NotVerified::None)
    );
}

#[test]
fn what_a_receiver_granted_is_not_that_of_the_next_one() {
    let mut it = agreed(Method::CeOptions);
    let patch = v1::Subscription {
        callback_url: SECOND.to_owned(),
        ..with(Method::None)
    };
    update(&mut it, 2, patch, &["*"]);
    assert_eq!(it.resource.callback_url, SECOND);
    assert!(it.resource.grant.is_none() && it.resource.verification_status.is_none());
}

#[test]
fn only_what_is_active_is_suspended() {
    let mut it = waiting(Method::CeOptions);
    assert!(!it.suspend(SuspendReason::EndpointGone));
    assert_eq!(it.resource.state(), State::Pending);
    assert!(!it.has_agreed() && agreed(Method::CeOptions).has_agreed());
}
