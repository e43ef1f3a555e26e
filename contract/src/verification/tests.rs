//! The validation handshake of CloudEvents web hooks (CW-1 to CW-10) and the other ways to verify, line by line.

use hookfleet_proto::{
    fleet::{SecretKey, SubscriptionSpec},
    v1::{
        VerificationGrant, VerificationStatus, subscription::State as Stage,
        verification_status::Failure,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{
    answer::{Answer, Asked, InvalidRate, Rate, Verdict, judge, rate},
    key::{Key, NotAKey},
    request::{Attempt, EVENT_TYPE, Outgoing, challenge, request},
    *,
};
use crate::{signature::Secret, subscription::Subscription};

const ORIGIN: &str = "hooks.acme.com";
const CHALLENGE: &str = "the-challenge";
const NOW: Timestamp = Timestamp(1_767_323_045_000);

fn resource(method: Method) -> v1::Subscription {
    v1::Subscription {
        name: "tenants/acme/subscriptions/s1".to_owned(),
        uid: "00000000-0000-4000-8000-000000000001".to_owned(),
        callback_url: "https://receiver.acme.com/hook?a=%20b".to_owned(),
        event_types: vec!["orders".to_owned(), "bills.paid".to_owned()],
        headers: vec![v1::Header {
            name: "Authorization".to_owned(),
            value: "Bearer x".to_owned(),
            secret: true,
        }],
        state: Stage::Pending.into(),
        verification: method.into(),
        verification_status: Some(VerificationStatus {
            state: State::Pending.into(),
            callback_url: "https://receiver.acme.com/hook?a=%20b".to_owned(),
            method: method.into(),
            attempt_count: 1,
            ..VerificationStatus::default()
        }),
        ..v1::Subscription::default()
    }
}

fn compiled(resource: v1::Subscription, confirm_url: &str) -> Subscription {
    let spec = SubscriptionSpec {
        subscription: Some(resource),
        secret_keys: vec![SecretKey {
            key_id: "k".to_owned(),
            secret: Secret::generate_hmac([1; 32]).reveal(),
            ..SecretKey::default()
        }],
        verification: Some(VerificationSpec {
            id: "v1".to_owned(),
            origin: ORIGIN.to_owned(),
            confirm_url: confirm_url.to_owned(),
        }),
    };
    Subscription::try_new(&spec, &Rules::default()).unwrap()
}

fn outgoing(subscription: &Subscription) -> Outgoing {
    let attempt = Attempt {
        challenge: CHALLENGE.to_owned(),
        span_id: [1; 8],
        now: NOW,
    };
    let pending = subscription.verification.as_ref().unwrap();
    request(subscription, pending, &attempt)
}

fn asked(method: Method) -> Asked<'static> {
    Asked {
        method,
        origin: ORIGIN,
        challenge: CHALLENGE,
        is_confirmable: false,
    }
}

fn judged(asked: Asked<'_>, status: u16, headers: &[(&'static str, &str)], body: &str) -> Verdict {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
    let answer = Answer {
        status,
        headers: &headers,
        body: body.as_bytes(),
    };
    judge(&asked, Some(&answer))
}

fn text<'a>(outgoing: &'a Outgoing, name: &str) -> Option<&'a str> {
    Some(outgoing.headers.get(name)?.to_str().unwrap())
}

#[test]
fn cw_1_a_callback_that_asks_is_a_signed_post_with_a_payload() {
    for method in [Method::ChallengeEcho, Method::ConfirmUrl] {
        let subscription = compiled(
            resource(method),
            "https://hooks.acme.com/v1/verifications/k",
        );
        let outgoing = outgoing(&subscription);
        assert_eq!(outgoing.method, http::Method::POST);
        assert_eq!(
            outgoing.target.url(),
            "https://receiver.acme.com/hook?a=%20b"
        );
        let content_type = text(&outgoing, "content-type").unwrap();
        assert!(content_type.starts_with("application/cloudevents+json"));
        let id = text(&outgoing, "webhook-id").unwrap();
        let timestamp = text(&outgoing, "webhook-timestamp").unwrap();
        let signature = text(&outgoing, "webhook-signature").unwrap();
        let secret = Secret::generate_hmac([1; 32]);
        assert!(secret.verify(signature, id, timestamp, &outgoing.body));
        let event: Value = serde_json::from_slice(&outgoing.body).unwrap();
        assert_eq!(event["type"], EVENT_TYPE);
        assert_eq!(event["source"], "/tenants/acme/subscriptions/s1");
        assert_eq!(event["id"], "v1-2", "another event at each attempt");
        let data = if method == Method::ConfirmUrl {
            json!({"confirmUrl": "https://hooks.acme.com/v1/verifications/k"})
        } else {
            json!({"challenge": CHALLENGE, "subscription": "tenants/acme/subscriptions/s1"})
        };
        assert_eq!(event["data"], data);
    }
}

#[test]
fn cw_2_the_origin_is_said_at_every_callback_once_it_was_granted() {
    let granted = |origin: &str| {
        let grant = VerificationGrant {
            origin: origin.to_owned(),
            ..VerificationGrant::default()
        };
        let resource = v1::Subscription {
            grant: Some(grant),
            ..resource(Method::CeOptions)
        };
        let headers = compiled(resource, "").headers.into_iter();
        let mut origin = headers.filter(|(name, _)| name == "webhook-request-origin");
        origin.next().map(|(_, value)| value)
    };
    assert_eq!(granted(ORIGIN), Some(HeaderValue::from_static(ORIGIN)));
    assert_eq!(granted(""), None);
}

#[test]
fn cw_3_a_redirect_is_no_consent() {
    for method in [
        Method::CeOptions,
        Method::ChallengeEcho,
        Method::ChallengeGet,
    ] {
        let location = [("location", "https://elsewhere.acme.com/")];
        let verdict = judged(asked(method), 302, &location, CHALLENGE);
        assert_eq!(verdict, Verdict::Denied(Failure::NoConsent), "{method:?}");
    }
}

#[test]
fn cw_4_the_owners_authorization_is_sent_with_every_question() {
    for method in [
        Method::CeOptions,
        Method::ChallengeEcho,
        Method::ChallengeGet,
        Method::ConfirmUrl,
    ] {
        let outgoing = outgoing(&compiled(resource(method), "https://x/k"));
        assert_eq!(text(&outgoing, "authorization"), Some("Bearer x"));
        assert!(outgoing.headers["authorization"].is_sensitive());
        assert_eq!(text(&outgoing, "origin"), None);
    }
}

#[test]
fn cw_5_options_goes_to_the_exact_url_with_what_is_asked() {
    let limited = v1::Subscription {
        max_requests_per_second: 2.5,
        ..resource(Method::CeOptions)
    };
    let asking = outgoing(&compiled(
        limited,
        "https://hooks.acme.com/v1/verifications/k",
    ));
    assert_eq!(asking.method, http::Method::OPTIONS);
    assert_eq!(asking.target.path_and_query(), "/hook?a=%20b");
    assert_eq!(text(&asking, "webhook-request-origin"), Some(ORIGIN));
    assert_eq!(text(&asking, "webhook-request-rate"), Some("150"));
    let callback = text(&asking, "webhook-request-callback");
    assert_eq!(callback, Some("https://hooks.acme.com/v1/verifications/k"));
    assert!(asking.body.is_empty());

    let bare = outgoing(&compiled(resource(Method::CeOptions), ""));
    assert_eq!(text(&bare, "webhook-request-rate"), None);
    assert_eq!(text(&bare, "webhook-request-callback"), None);
    for (per_second, per_minute) in [
        (0.0, None),
        (0.01, Some(1)),
        (0.5, Some(30)),
        (1e4, Some(600_000)),
    ] {
        assert_eq!(requests_per_minute(per_second), per_minute);
    }
}

#[test]
fn cw_6_consent_is_the_header_and_nothing_else() {
    let asked = asked(Method::CeOptions);
    for status in [200, 204, 404, 405, 500] {
        for origin in [ORIGIN, "*", " Hooks.ACME.com "] {
            let verdict = judged(asked, status, &[("webhook-allowed-origin", origin)], "");
            assert_eq!(verdict, Verdict::Granted(Rate::Any), "{status} {origin}");
        }
    }
    // A server that answers browsers: whoever asks may, but nobody has asked for callbacks.
    let cors = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "POST"),
        ("allow", "OPTIONS, POST"),
    ];
    let no = Verdict::Denied(Failure::NoConsent);
    assert_eq!(judged(asked, 200, &cors, ""), no);
    for other in [
        "",
        "acme.com",
        "hooks.acme.com.evil.com",
        "hooks.acme.com, *",
        "null",
    ] {
        let verdict = judged(asked, 200, &[("webhook-allowed-origin", other)], "");
        assert_eq!(verdict, no, "{other}");
    }
    for status in [405, 501] {
        let verdict = judged(asked, status, &[], "");
        assert_eq!(verdict, Verdict::Refused(Failure::NotSupported));
    }
    assert_eq!(judged(asked, 500, &[], ""), no);
    assert_eq!(
        judged(asked, 410, &[], ""),
        Verdict::Refused(Failure::Refused)
    );
    assert_eq!(judge(&asked, None), Verdict::Denied(Failure::Unreachable));
}

#[test]
fn cw_7_the_rate_is_a_positive_integer_or_a_star() {
    let read = |text: &str| rate(Some(&HeaderValue::from_str(text).unwrap()));
    assert_eq!(rate(None), Ok(Rate::Any));
    for (text, expected) in [
        ("*", Rate::Any),
        ("1", Rate::PerMinute(1)),
        (" 120 ", Rate::PerMinute(120)),
        ("007", Rate::PerMinute(7)),
        ("99999999999999999999", Rate::PerMinute(u32::MAX)),
    ] {
        assert_eq!(read(text), Ok(expected), "{text}");
    }
    for text in ["", "0", "-1", "+1", "1.5", "1/s", "**", "120, 60", "ten"] {
        assert_eq!(read(text), Err(InvalidRate), "{text}");
    }
    let with = |rate| {
        [
            ("webhook-allowed-origin", "*"),
            ("webhook-allowed-rate", rate),
        ]
    };
    let asked = asked(Method::CeOptions);
    let granted = judged(asked, 200, &with("120"), "");
    assert_eq!(granted, Verdict::Granted(Rate::PerMinute(120)));
    assert_eq!(granted.requests_per_minute(), 120);
    let invalid = judged(asked, 200, &with("0"), "");
    assert_eq!(invalid, Verdict::Denied(Failure::InvalidRate));
}

#[test]
fn cw_7_the_lower_of_the_granted_and_the_wanted_rate_holds() {
    for (wanted, granted, expected) in [
        (0.0, 0, None),
        (5.0, 0, Some(5.0)),
        (0.0, 30, Some(0.5)),
        (5.0, 30, Some(0.5)),
        (0.25, 30, Some(0.25)),
    ] {
        let resource = v1::Subscription {
            max_requests_per_second: wanted,
            grant: Some(VerificationGrant {
                max_requests_per_minute: granted,
                ..VerificationGrant::default()
            }),
            ..resource(Method::CeOptions)
        };
        assert_eq!(compiled(resource, "").max_requests_per_second, expected);
    }
}

#[test]
fn cw_8_who_takes_the_request_may_confirm_it_later() {
    let asked = Asked {
        is_confirmable: true,
        ..asked(Method::CeOptions)
    };
    assert_eq!(judged(asked, 200, &[], ""), Verdict::Awaited);
    assert_eq!(
        judged(asked, 405, &[], ""),
        Verdict::Refused(Failure::NotSupported)
    );
    assert_eq!(
        judged(asked, 503, &[], ""),
        Verdict::Denied(Failure::NoConsent)
    );
    let granted = judged(asked, 200, &[("webhook-allowed-origin", "*")], "");
    assert_eq!(granted, Verdict::Granted(Rate::Any));
}

#[test]
fn cw_9_and_10_nothing_matches_before_consent() {
    for (state, is_in_force) in [
        (Stage::Pending, false),
        (Stage::Failed, false),
        (Stage::Active, true),
        (Stage::Suspended, true),
    ] {
        let resource = v1::Subscription {
            state: state.into(),
            ..resource(Method::CeOptions)
        };
        assert_eq!(compiled(resource, "").is_in_force, is_in_force, "{state:?}");
    }
}

#[test]
fn an_echo_is_the_challenge_alone() {
    let asked = asked(Method::ChallengeEcho);
    let yes = [CHALLENGE, r#"{"challenge": "the-challenge"}"#];
    for body in yes {
        let verdict = judged(asked, 200, &[], body);
        assert_eq!(verdict, Verdict::Granted(Rate::Any), "{body}");
        assert_eq!(
            judged(asked, 400, &[], body),
            Verdict::Denied(Failure::NoConsent)
        );
    }
    let sent = json!({"challenge": CHALLENGE, "subscription": "s"}).to_string();
    let no = [
        "",
        "other",
        "\"the-challenge\"",
        "the-challenge\n",
        r#"{"challenge": "other"}"#,
        r#"{"data": {"challenge": "the-challenge"}}"#,
        // Somebody who sends everything back has not been asked for callbacks.
        &sent,
    ];
    for body in no {
        let verdict = judged(asked, 200, &[], body);
        assert_eq!(verdict, Verdict::Denied(Failure::NoConsent), "{body}");
    }
    assert_eq!(
        judged(asked, 410, &[], ""),
        Verdict::Refused(Failure::Refused)
    );
}

#[test]
fn what_is_sent_to_be_echoed_is_no_echo_in_any_mode() {
    for mode in [
        v1::BodyMode::CeStructured,
        v1::BodyMode::CeBinary,
        v1::BodyMode::Raw,
        v1::BodyMode::StandardWebhooks,
    ] {
        let resource = v1::Subscription {
            body_mode: mode.into(),
            ..resource(Method::ChallengeEcho)
        };
        let sent = outgoing(&compiled(resource, ""));
        let body = std::str::from_utf8(&sent.body).unwrap();
        assert!(body.contains(CHALLENGE));
        let verdict = judged(asked(Method::ChallengeEcho), 200, &[], body);
        assert_eq!(verdict, Verdict::Denied(Failure::NoConsent), "{mode:?}");
    }
}

#[test]
fn a_get_has_its_challenge_in_the_query_and_wants_it_as_text() {
    let sent = outgoing(&compiled(resource(Method::ChallengeGet), ""));
    assert_eq!(sent.method, http::Method::GET);
    let query = "/hook?a=%20b&mode=subscribe&topic=orders%2Cbills.paid&challenge=the-challenge";
    assert_eq!(sent.target.path_and_query(), query);
    let asked = asked(Method::ChallengeGet);
    assert_eq!(
        judged(asked, 200, &[], CHALLENGE),
        Verdict::Granted(Rate::Any)
    );
    let no = Verdict::Denied(Failure::NoConsent);
    assert_eq!(
        judged(asked, 200, &[], r#"{"challenge": "the-challenge"}"#),
        no
    );
    assert_eq!(judged(asked, 500, &[], CHALLENGE), no);
    let refused = Verdict::Refused(Failure::Refused);
    assert_eq!(judged(asked, 404, &[], ""), refused);
}

#[test]
fn whoever_takes_a_confirmation_url_is_waited_for() {
    let asked = asked(Method::ConfirmUrl);
    assert_eq!(judged(asked, 202, &[], ""), Verdict::Awaited);
    assert_eq!(
        judged(asked, 500, &[], ""),
        Verdict::Denied(Failure::NoConsent)
    );
    assert_eq!(
        judged(asked, 410, &[], ""),
        Verdict::Refused(Failure::Refused)
    );
}

#[test]
fn a_receiver_is_asked_at_once_and_after_a_minute_ten_and_an_hour() {
    let mut asked_at = vec![0];
    while let Next::Again(pause) = next(Outcome::Denied, u32::try_from(asked_at.len()).unwrap()) {
        asked_at.push(asked_at.last().unwrap() + pause.as_secs());
    }
    assert_eq!(asked_at, [0, 60, 600, 3600]);
    assert_eq!(next(Outcome::Denied, u32::MAX), Next::Failed);
    for n_attempts in [1, 4] {
        assert_eq!(next(Outcome::Granted, n_attempts), Next::Granted);
        assert_eq!(next(Outcome::Awaited, n_attempts), Next::Awaited);
        assert_eq!(next(Outcome::Refused, n_attempts), Next::Failed);
        assert_eq!(next(Outcome::Expired, n_attempts), Next::Failed);
    }
}

#[test]
fn a_key_is_256_bits_and_tells_nothing_of_itself() {
    let key = Key::new([0xA5; 32]);
    let text = key.reveal();
    assert_eq!(text.len(), 43);
    assert!(text.parse::<Key>().unwrap().matches(&key));
    assert!(!Key::new([0; 32]).matches(&key));
    assert_eq!(key.digest().len(), 64);
    assert_ne!(key.digest(), Key::new([0; 32]).digest());
    assert_eq!(format!("{key:?}"), "Key(***)");
    for wrong in [
        "",
        "x",
        &text[1..],
        &format!("{text}A"),
        &format!("{text}="),
    ] {
        assert_eq!(wrong.parse::<Key>().map(drop), Err(NotAKey), "{wrong}");
    }
    assert_eq!(challenge([0; 32]).len(), 43);
}

#[test]
fn only_a_verification_that_goes_on_is_compiled() {
    let mut ended = resource(Method::CeOptions);
    if let Some(status) = &mut ended.verification_status {
        status.set_state(State::Failed);
    }
    assert_eq!(compiled(ended, "").verification, None);
}

#[test]
fn what_confirms_a_verification_does_not_show_when_it_is_logged() {
    let subscription = compiled(
        resource(Method::CeOptions),
        "https://acme.com/v1/verifications/SECRET",
    );
    let shown = format!("{subscription:?} {:?}", subscription.verification);
    assert!(shown.contains("Pending"), "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
}
