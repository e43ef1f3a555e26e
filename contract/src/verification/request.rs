//! What a receiver is asked: the exact request for a method, a challenge and a time.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hookfleet_proto::{
    cloudevents::{
        CloudEvent, CloudEventAttributeValue, cloud_event::Data, cloud_event_attribute_value::Attr,
    },
    v1::subscription::Verification as Method,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::Pending;
use crate::{
    event::{Event, Limits},
    format::{self, Body},
    id::WebhookId,
    request::{self, Signing},
    subscription::Subscription,
    target::Target,
    time::Timestamp,
    trace::{Sampling, SpanId, Trace},
};

/// The type of the event that asks.
pub const EVENT_TYPE: &str = "hookfleet.subscription.verification";

/// One attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Random for each attempt.
    pub challenge: String,
    /// Random for each attempt.
    pub span_id: SpanId,
    /// The time of this attempt, which the signature covers.
    pub now: Timestamp,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// `OPTIONS`, `GET` or `POST`.
    pub method: http::Method,
    /// Where it goes.
    pub target: Arc<Target>,
    /// All headers but `host` and `content-length`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The text of a challenge of these bits.
#[must_use]
pub fn challenge(random: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(random)
}

/// What the receiver is asked.
#[must_use]
pub fn request(subscription: &Subscription, pending: &Pending, attempt: &Attempt) -> Outgoing {
    match pending.method {
        Method::ChallengeEcho => {
            let name = subscription.name.to_string();
            let data = json!({"challenge": attempt.challenge, "subscription": name});
            signed(subscription, pending, attempt, data)
        }
        Method::ConfirmUrl => {
            let data = json!({"confirmUrl": pending.confirm_url});
            signed(subscription, pending, attempt, data)
        }
        Method::ChallengeGet => Outgoing {
            method: http::Method::GET,
            target: Arc::new(challenging(subscription, pending, &attempt.challenge)),
            headers: bare(subscription),
            body: Bytes::new(),
        },
        // It is the mildest: without a body, and of no effect.
        Method::CeOptions | Method::Unspecified | Method::None => Outgoing {
            method: http::Method::OPTIONS,
            target: Arc::clone(&pending.target),
            headers: options(subscription, pending),
            body: Bytes::new(),
        },
    }
}

fn options(subscription: &Subscription, pending: &Pending) -> HeaderMap {
    let mut headers = bare(subscription);
    let mut insert = |name, value: Option<String>| {
        // What was configured may be no header; then it is not said, and nothing is granted.
        if let Some(value) = value.and_then(|it| HeaderValue::try_from(it).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    insert("webhook-request-origin", Some(pending.origin.clone()));
    insert("webhook-request-callback", pending.confirm_url.clone());
    let rate = pending.requests_per_minute;
    insert("webhook-request-rate", rate.map(|it| it.to_string()));
    headers
}

/// The URL with the challenge in its query.
fn challenging(subscription: &Subscription, pending: &Pending, challenge: &str) -> Target {
    let topics = subscription.patterns.iter().map(|it| it.as_str());
    let topic = topics.collect::<Vec<_>>().join(",");
    pending.target.with_query(&[
        ("mode", "subscribe"),
        ("topic", &topic),
        ("challenge", challenge),
    ])
}

/// The headers that every request of the subscription has.
fn bare(subscription: &Subscription) -> HeaderMap {
    let mut headers = HeaderMap::new();
    request::say_who(&mut headers);
    request::extend_with_own(&mut headers, subscription);
    headers
}

/// A callback like those to come, with an event of our own.
fn signed(
    subscription: &Subscription,
    pending: &Pending,
    attempt: &Attempt,
    data: serde_json::Value,
) -> Outgoing {
    let event = event(subscription, pending, attempt, &data);
    let webhook_id = WebhookId::of(&subscription.name.tenant, event.source(), event.id());
    let body = body(&event, subscription, attempt.now);
    let signing = Signing {
        webhook_id,
        trace: Trace::of(&event, webhook_id, Sampling::default()),
        span_id: attempt.span_id,
        now: attempt.now,
    };
    let mut headers = request::signed(subscription, &body, &signing);
    request::extend_with_own(&mut headers, subscription);
    Outgoing {
        method: http::Method::POST,
        target: Arc::clone(&pending.target),
        headers,
        body: body.bytes,
    }
}

fn event(
    subscription: &Subscription,
    pending: &Pending,
    attempt: &Attempt,
    data: &serde_json::Value,
) -> Event {
    let attribute = |attr| CloudEventAttributeValue { attr: Some(attr) };
    let media = Attr::CeString("application/json".to_owned());
    let time = Attr::CeTimestamp(attempt.now.into());
    let event = CloudEvent {
        id: format!("{}-{}", pending.id, pending.n_attempts + 1),
        source: format!("/{}", subscription.name),
        spec_version: "1.0".to_owned(),
        r#type: EVENT_TYPE.to_owned(),
        attributes: [
            ("datacontenttype".to_owned(), attribute(media)),
            ("time".to_owned(), attribute(time)),
        ]
        .into(),
        data: Some(Data::TextData(data.to_string())),
    };
    match Event::try_new(event, &Limits::default()) {
        Ok(event) => event,
        Err(_) => unreachable!("its attributes are ours"),
    }
}

fn body(event: &Event, subscription: &Subscription, now: Timestamp) -> Body {
    match format::render(event, subscription.mode, now) {
        Ok(body) => body,
        Err(_) => unreachable!("it has data of a known type"),
    }
}
