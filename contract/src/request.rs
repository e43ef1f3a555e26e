//! The headers of one attempt: what says which event this is, which attempt, and who signed it.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    event::Event,
    format::Body,
    id::{DeliveryId, WebhookId},
    signature,
    subscription::Subscription,
    time::Timestamp,
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
    pub span_id: [u8; 8],
    /// The time of this attempt, which the signature covers.
    pub now: Timestamp,
}

/// The trace that attempts of an event belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: [u8; 16],
    flags: u8,
}

/// What a signature covers besides the body, and where in a trace the request stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signing {
    pub(crate) webhook_id: WebhookId,
    pub(crate) trace: Trace,
    pub(crate) span_id: [u8; 8],
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
    headers.insert(TRACEPARENT, text(signing.trace.parent(signing.span_id)));
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

// === impl Trace ===

impl Trace {
    /// The trace that the event's publisher began, or one of its own.
    #[must_use]
    pub fn of(event: &Event, webhook_id: WebhookId) -> Self {
        let published = event.text("traceparent").and_then(Self::parse);
        published.unwrap_or(Self {
            id: webhook_id.0,
            flags: 0,
        })
    }

    /// Reads a `traceparent` of version 00, or of a later one as far as it is like it.
    fn parse(text: &str) -> Option<Self> {
        let is_lower_hex = |it: &str| {
            it.bytes()
                .all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it))
        };
        let mut parts = text.splitn(5, '-');
        let (version, id) = (parts.next()?, parts.next()?);
        let (parent, flags) = (parts.next()?, parts.next()?);
        let lengths = [version, id, parent, flags].map(str::len) == [2, 32, 16, 2];
        let has_rest = parts.next().is_some();
        if !lengths || ![version, id, parent, flags].into_iter().all(is_lower_hex) {
            return None;
        }
        if version == "ff" || (version == "00" && has_rest) {
            return None;
        }
        let trace_id = u128::from_str_radix(id, 16).ok()?;
        let parent_id = u64::from_str_radix(parent, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()? & 0b11;
        (trace_id != 0 && parent_id != 0).then(|| Self {
            id: trace_id.to_be_bytes(),
            flags,
        })
    }

    fn parent(self, span_id: [u8; 8]) -> String {
        let id = u128::from_be_bytes(self.id).max(1);
        let span = u64::from_be_bytes(span_id).max(1);
        format!("00-{id:032x}-{span:016x}-{:02x}", self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_only_if_it_is_one() {
        const ID: &str = "0af7651916cd43dd8448eb211c80319c";
        const PARENT: &str = "b7ad6b7169203331";
        let trace = Trace::parse(&format!("00-{ID}-{PARENT}-03")).unwrap();
        assert_eq!(trace.parent([1; 8]), format!("00-{ID}-0101010101010101-03"));
        assert!(Trace::parse(&format!("01-{ID}-{PARENT}-01-more")).is_some());
        let (upper, sign) = (ID.to_uppercase(), ID.replace("0a", "+a"));
        let (zero, no_parent) = ("0".repeat(32), "0".repeat(16));
        for text in [
            String::new(),
            format!("00-{ID}-{PARENT}-01-more"),
            format!("ff-{ID}-{PARENT}-01"),
            format!("00-{upper}-{PARENT}-01"),
            format!("00-{sign}-{PARENT}-01"),
            format!("00-{ID}-+7ad6b7169203331-01"),
            format!("00-{ID}-{PARENT}-+1"),
            format!("00-{zero}-{PARENT}-01"),
            format!("00-{ID}-{no_parent}-01"),
            format!("00-{ID}-{PARENT}"),
        ] {
            assert_eq!(Trace::parse(&text), None, "{text}");
        }
    }
}
