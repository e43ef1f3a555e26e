//! The headers of one attempt: what says which event this is, which attempt, and who signed it.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    format::Body,
    id::{DeliveryId, WebhookId},
    signature,
    subscription::Subscription,
    time::Timestamp,
    trace::{SpanId, Trace},
};

/// Who calls.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hookfleet-webhooks/", env!("CARGO_PKG_VERSION")));
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

// Names that are made here are made once: to read one is a tenth of a microsecond.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const DELIVERY_ID: HeaderName = HeaderName::from_static("hookfleet-delivery-id");
const ATTEMPT: HeaderName = HeaderName::from_static("hookfleet-attempt");
const SUBSCRIPTION: HeaderName = HeaderName::from_static("hookfleet-subscription");

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The event, to receivers.
    pub webhook_id: WebhookId,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Counts from 1.
    pub number: u32,
    /// The same for every attempt.
    pub trace: Trace,
    /// Random for each attempt.
    pub span_id: SpanId,
    /// The time of this attempt, which the signature covers.
    pub now: Timestamp,
}

/// What a signature covers besides the body, and where in a trace the request stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signing {
    pub(crate) webhook_id: WebhookId,
    pub(crate) trace: Trace,
    pub(crate) span_id: SpanId,
    pub(crate) now: Timestamp,
}

/// The headers of an attempt, but for `host` and `content-length`, which belong to the connection.
#[must_use]
pub fn headers(subscription: &Subscription, body: &Body, attempt: &Attempt) -> HeaderMap {
    let signing = Signing {
        webhook_id: attempt.webhook_id,
        trace: attempt.trace,
        span_id: attempt.span_id,
        now: attempt.now,
    };
    let mut headers = signed(subscription, body, &signing);
    headers.insert(DELIVERY_ID, text(attempt.delivery.to_string()));
    headers.insert(ATTEMPT, attempt.number.into());
    extend_with_own(&mut headers, subscription);
    headers
}

/// The headers that make a body a signed one.
pub(crate) fn signed(subscription: &Subscription, body: &Body, signing: &Signing) -> HeaderMap {
    let mut headers =
        HeaderMap::with_capacity(16 + body.headers.len() + subscription.headers.len());
    headers.insert(header::CONTENT_TYPE, body.content_type.clone());
    say_who(&mut headers);
    let (id, timestamp) = (signing.webhook_id.to_string(), signing.now.unix_seconds());
    let signature = signature::sign(&subscription.keys, &id, timestamp, &body.bytes, signing.now);
    headers.insert(WEBHOOK_ID, text(id));
    headers.insert(WEBHOOK_TIMESTAMP, timestamp.into());
    if let Some(signature) = signature {
        headers.insert(WEBHOOK_SIGNATURE, text(signature));
    }
    headers.extend(body.headers.iter().cloned());
    headers.insert(TRACEPARENT, text(signing.trace.header(signing.span_id)));
    headers
}

/// Adds the headers that say who asks and what is understood.
pub(crate) fn say_who(headers: &mut HeaderMap) {
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(header::ACCEPT_ENCODING, IDENTITY);
}

/// Adds the headers that say which subscription it is, and those that its owner wants. What is there stays.
pub(crate) fn extend_with_own(headers: &mut HeaderMap, subscription: &Subscription) {
    headers.insert(SUBSCRIPTION, text(subscription.name.to_string()));
    for (name, value) in &subscription.headers {
        // Names were checked when the subscription was made; what is there stays, in any case.
        headers.entry(name).or_insert_with(|| value.clone());
    }
}

/// Texts that we make are visible ASCII.
fn text(text: String) -> HeaderValue {
    match HeaderValue::try_from(text) {
        Ok(value) => value,
        Err(_) => unreachable!("ids, names and signatures are visible ASCII"),
    }
}
