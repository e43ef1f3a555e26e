//! How a request has its events: the content mode of the CloudEvents HTTP binding, and the event format.

use bytes::Bytes;
use hookfleet_contract::format::json;
use hookfleet_proto::cloudevents::{CloudEvent, CloudEventBatch};
use http::{HeaderMap, header};
use prost::Message as _;
use serde_json::value::RawValue;

use super::{Read, binary, not_an_event};
use crate::status::ApiError;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One event, whole in the body.
    Structured(Encoding),
    /// Several of them.
    Batch(Encoding),
    /// The body is the data, `ce-` headers are the attributes.
    Binary,
    /// JSON that need not be a whole CloudEvent.
    Plain,
}

/// An event format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `+json`.
    Json,
    /// `+protobuf`.
    Protobuf,
}

/// The events are in a format that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not understood; events are application/cloudevents+json, application/cloudevents-batch+json, or the same with +protobuf"
)]
pub(super) struct Unknown(String);

// === impl Mode ===

impl Mode {
    /// The mode of a request with these headers.
    ///
    /// # Errors
    /// [`Unknown`].
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Unknown> {
        let content_type = headers.get(header::CONTENT_TYPE);
        let content_type = content_type
            .and_then(|it| it.to_str().ok())
            .unwrap_or_default();
        let lower = content_type.to_ascii_lowercase();
        let essence = lower.split(';').next().unwrap_or_default().trim_end();
        let encoding = |format: &str| match format {
            "+json" => Ok(Encoding::Json),
            "+protobuf" => Ok(Encoding::Protobuf),
            _ => Err(Unknown(content_type.to_owned())),
        };
        // The one begins as the other does.
        if let Some(format) = essence.strip_prefix("application/cloudevents-batch") {
            return encoding(format).map(Self::Batch);
        }
        if let Some(format) = essence.strip_prefix("application/cloudevents") {
            return encoding(format).map(Self::Structured);
        }
        let is_binary = headers
            .keys()
            .any(|it| it.as_str().starts_with(binary::PREFIX));
        Ok(if is_binary { Self::Binary } else { Self::Plain })
    }
}

// === impl Encoding ===

impl Encoding {
    pub(super) fn event(self, body: &Bytes) -> Result<CloudEvent, ApiError> {
        match self {
            Self::Json => json::parse(body).map_err(not_an_event),
            Self::Protobuf => CloudEvent::decode(body.clone()).map_err(not_protobuf),
        }
    }

    /// The events of a batch. One that is none does not spoil the others.
    pub(super) fn batch(self, body: &Bytes) -> Result<Read, ApiError> {
        match self {
            Self::Json => {
                let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| {
                    ApiError::invalid_field("", format!("the batch is not a JSON array: {error}"))
                })?;
                let events = events
                    .into_iter()
                    .map(|it| json::parse(it.get().as_bytes()));
                Ok(events.map(|it| it.map_err(not_an_event)).collect())
            }
            Self::Protobuf => {
                let batch = CloudEventBatch::decode(body.clone()).map_err(not_protobuf)?;
                Ok(batch.events.into_iter().map(Ok).collect())
            }
        }
    }
}

fn not_protobuf(error: prost::DecodeError) -> ApiError {
    ApiError::invalid_field("", format!("the body is not a protobuf message: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_the_mode() {
        let mode = |content_type: &str, other: &str| {
            let mut headers = HeaderMap::new();
            if !content_type.is_empty() {
                headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            }
            headers.insert(
                http::HeaderName::try_from(other).unwrap(),
                "1".parse().unwrap(),
            );
            Mode::of(&headers).ok()
        };
        for (content_type, other, expected) in [
            (
                "application/cloudevents+json",
                "x",
                Some(Mode::Structured(Encoding::Json)),
            ),
            (
                "Application/CloudEvents+JSON; charset=UTF-8",
                "ce-id",
                Some(Mode::Structured(Encoding::Json)),
            ),
            (
                "application/cloudevents-batch+json",
                "x",
                Some(Mode::Batch(Encoding::Json)),
            ),
            (
                "application/cloudevents-batch+protobuf",
                "x",
                Some(Mode::Batch(Encoding::Protobuf)),
            ),
            ("application/json", "ce-id", Some(Mode::Binary)),
            ("", "ce-type", Some(Mode::Binary)),
            ("application/json", "x", Some(Mode::Plain)),
            ("", "x", Some(Mode::Plain)),
            ("application/cloudevents+xml", "x", None),
            ("application/cloudevents", "x", None),
        ] {
            assert_eq!(
                mode(content_type, other),
                expected,
                "{content_type} {other}"
            );
        }
    }
}
