//! The body of a callback and the headers that belong to it, made of an event.
//!
//! **Invariant:** the same event in the same mode gives the same bytes, on every attempt.

pub mod header_value;
pub mod json;
pub mod media;

use bytes::Bytes;
use hookfleet_proto::{
    cloudevents::cloud_event::Data,
    v1::{BodyMode, DeadLetterReason},
};
use http::{HeaderName, HeaderValue};

use crate::{event::Event, time::Timestamp};

/// Headers of attributes beyond this are more than many servers take: 16 KiB.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// A body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// `content-type`.
    pub content_type: HeaderValue,
    /// The bytes.
    pub bytes: Bytes,
    /// `ce-` headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The event has no body in this mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// The mode needs data and the event has none.
    #[error("the event has no data")]
    NoPayload,
    /// The event's content type is not a header's value.
    #[error("the event's content type cannot be a header")]
    ContentType,
}

impl Unsendable {
    /// Why its delivery is given up.
    #[must_use]
    pub fn reason(self) -> DeadLetterReason {
        match self {
            Self::NoPayload => DeadLetterReason::NoPayload,
            Self::ContentType => DeadLetterReason::NotSendable,
        }
    }
}

/// Makes the body of an event that was accepted at `accept_time`.
///
/// # Errors
/// [`Unsendable`].
pub fn render(event: &Event, mode: BodyMode, accept_time: Timestamp) -> Result<Body, Unsendable> {
    match mode {
        BodyMode::Unspecified | BodyMode::CeStructured => Ok(structured(event)),
        // What the binary mode cannot carry is sent structured: no data, or data of no known type.
        BodyMode::CeBinary => Ok(binary(event).unwrap_or_else(|| structured(event))),
        BodyMode::Raw => raw(event),
        BodyMode::StandardWebhooks => Ok(standard_webhooks(event, accept_time)),
    }
}

fn structured(event: &Event) -> Body {
    Body {
        content_type: HeaderValue::from_static("application/cloudevents+json; charset=utf-8"),
        bytes: json::structured(event).into(),
        headers: Vec::new(),
    }
}

fn standard_webhooks(event: &Event, accept_time: Timestamp) -> Body {
    let accepted = accept_time.into();
    let timestamp = event.time().unwrap_or(&accepted);
    Body {
        content_type: HeaderValue::from_static("application/json"),
        bytes: json::standard_webhooks(event, timestamp).into(),
        headers: Vec::new(),
    }
}

fn raw(event: &Event) -> Result<Body, Unsendable> {
    let bytes = data(event).ok_or(Unsendable::NoPayload)?;
    let content_type = content_type(event).unwrap_or("application/octet-stream");
    Ok(Body {
        content_type: content_type.parse().map_err(|_| Unsendable::ContentType)?,
        bytes,
        headers: Vec::new(),
    })
}

fn binary(event: &Event) -> Option<Body> {
    let bytes = data(event)?;
    let content_type = content_type(event)?.parse().ok()?;
    let cloud_event = event.cloud_event();
    let mut headers = vec![(
        HeaderName::from_static("ce-specversion"),
        HeaderValue::from_static("1.0"),
    )];
    for (name, value) in [
        ("ce-id", event.id()),
        ("ce-source", event.source()),
        ("ce-type", event.event_type()),
    ] {
        headers.push(header(name, value)?);
    }
    let mut attributes: Vec<_> = cloud_event.attributes.iter().collect();
    attributes.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in attributes {
        if name != "datacontenttype"
            && let Some(attr) = &value.attr
        {
            headers.push(header(&format!("ce-{name}"), &json::text(attr))?);
        }
    }
    let size = |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + 4;
    let n_bytes: usize = headers.iter().map(size).sum();
    (n_bytes <= MAX_HEADER_BYTES).then_some(Body {
        content_type,
        bytes,
        headers,
    })
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((
        name.parse().ok()?,
        header_value::encode(value).parse().ok()?,
    ))
}

/// The data as it goes into a body of its own; an empty body is no body.
fn data(event: &Event) -> Option<Bytes> {
    let bytes = match event.cloud_event().data.as_ref()? {
        Data::TextData(text) => Bytes::copy_from_slice(text.as_bytes()),
        Data::BinaryData(bytes) => bytes.clone(),
        Data::ProtoData(any) => Bytes::copy_from_slice(&any.value),
    };
    (!bytes.is_empty()).then_some(bytes)
}

fn content_type(event: &Event) -> Option<&str> {
    let of_data = match event.cloud_event().data.as_ref()? {
        Data::TextData(_) => Some("text/plain; charset=utf-8"),
        Data::BinaryData(_) => None,
        Data::ProtoData(_) => Some(media::PROTOBUF),
    };
    event.text("datacontenttype").or(of_data)
}
