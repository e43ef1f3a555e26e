//! Sees to it that the messages of a call are about the caller's own tenant, before any service reads them: the names in
//! them are found by the places that the descriptors give, with the same reader that decodes the message.
//!
//! **Invariant:** a message goes on whole or not at all, and only if every name in its places is of the tenant.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{BoxError, body::Body};
use bytes::{Buf as _, Bytes, BytesMut};
use hookfleet_contract::name::TenantId;
use http_body::{Body as HttpBody, Frame};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;

use super::methods::Place;
use crate::{
    message::{self, HEAD_BYTES, Head},
    status::ApiError,
};

/// The body of a gRPC request whose messages are looked at.
pub(crate) struct Owned {
    body: Body,
    tenant: TenantId,
    places: Arc<[Place]>,
    /// Messages of a stream may leave out what the one before said.
    is_stream: bool,
    held: BytesMut,
}

// === impl Owned ===

impl Owned {
    pub(crate) fn new(body: Body, tenant: TenantId, places: Arc<[Place]>, is_stream: bool) -> Self {
        Self {
            body,
            tenant,
            places,
            is_stream,
            held: BytesMut::new(),
        }
    }

    /// The next message with its head, if it is here whole.
    fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let Some(Head {
            is_compressed,
            length,
        }) = message::head(&self.held)
        else {
            return Ok(None);
        };
        if is_compressed {
            let description = "compressed messages are not taken";
            return Err(ApiError::invalid_field("", description));
        }
        if length > message::MAX_BYTES {
            let max = message::MAX_BYTES;
            let description = format!("a message may have {max} bytes");
            return Err(ApiError::invalid_field("", description));
        }
        if self.held.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        let frame = self.held.split_to(HEAD_BYTES + length).freeze();
        let is_own = is_own(&frame[HEAD_BYTES..], &self.places, &self.tenant);
        match is_own.map_err(|error| ApiError::invalid_field("", error.to_string()))? {
            Found::Own => Ok(Some(frame)),
            Found::Nothing if self.is_stream => Ok(Some(frame)),
            Found::Nothing | Found::Foreign => Err(ApiError::permission_denied()),
        }
    }
}

impl HttpBody for Owned {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(Status::from(error).into()))),
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                // A message that is not whole is none.
                return Poll::Ready(None);
            };
            match frame?.into_data() {
                Ok(data) => self.held.extend_from_slice(&data),
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }
}

/// What the places of a message hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Own,
    Foreign,
}

/// Looks at every place, as often as it occurs: which of several a decoder goes by is not our business.
fn is_own(
    mut message: &[u8],
    places: &[Place],
    tenant: &TenantId,
) -> Result<Found, prost::DecodeError> {
    let mut found = Found::Nothing;
    while message.has_remaining() {
        let (number, wire_type) = decode_key(&mut message)?;
        let place = places.iter().find(|it| it.number == number);
        let Some(place) = place.filter(|_| wire_type == WireType::LengthDelimited) else {
            skip_field(wire_type, number, &mut message, DecodeContext::default())?;
            continue;
        };
        let length = decode_varint(&mut message)?;
        let split = usize::try_from(length)
            .ok()
            .and_then(|it| message.split_at_checked(it));
        let Some((value, rest)) = split else {
            // The decoder finds the words for it.
            return Ok(Found::Foreign);
        };
        message = rest;
        let here = match &*place.within {
            [] if value.is_empty() => Found::Nothing,
            [] if names(value, tenant) => Found::Own,
            [] => Found::Foreign,
            within => is_own(value, within, tenant)?,
        };
        found = match (found, here) {
            (Found::Foreign, _) | (_, Found::Foreign) => return Ok(Found::Foreign),
            (Found::Own, _) | (_, Found::Own) => Found::Own,
            (Found::Nothing, Found::Nothing) => Found::Nothing,
        };
    }
    Ok(found)
}

/// Whether a name is the tenant's or of something in it.
fn names(name: &[u8], tenant: &TenantId) -> bool {
    let rest = name
        .strip_prefix(b"tenants/")
        .and_then(|it| it.strip_prefix(tenant.as_str().as_bytes()));
    rest.is_some_and(|it| it.is_empty() || it.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use hookfleet_proto::{
        fleet::ForwardRequest,
        v1::{CreateSubscriptionRequest, PublishRequest, Subscription},
    };
    use http_body_util::{BodyExt as _, StreamBody};
    use prost::Message;
    use tonic::Code;

    use super::*;

    fn name(number: u32) -> Place {
        Place {
            number,
            within: Arc::new([]),
        }
    }

    fn found(message: &impl Message, places: &[Place]) -> Found {
        is_own(&message.encode_to_vec(), places, &"acme".parse().unwrap()).unwrap()
    }

    #[test]
    fn names_are_of_the_tenant_or_not() {
        for (parent, expected) in [
            ("tenants/acme", Found::Own),
            ("tenants/acme/subscriptions/s", Found::Own),
            ("", Found::Nothing),
            ("tenants/acme2", Found::Foreign),
            ("tenants/acm", Found::Foreign),
            ("tenants/-", Found::Foreign),
            ("tenants/", Found::Foreign),
            ("tenants//acme", Found::Foreign),
            (" tenants/acme", Found::Foreign),
            ("Tenants/acme", Found::Foreign),
            ("tenants/acme%2f", Found::Foreign),
            ("acme", Found::Foreign),
        ] {
            let request = PublishRequest {
                parent: parent.to_owned(),
                events: vec![Default::default(); 3],
            };
            assert_eq!(found(&request, &[name(1)]), expected, "{parent}");
        }
    }

    #[test]
    fn every_place_counts_and_every_occurrence() {
        let request = |parent: &str, name: &str| CreateSubscriptionRequest {
            parent: parent.to_owned(),
            subscription: Some(Subscription {
                name: name.to_owned(),
                ..Subscription::default()
            }),
            ..CreateSubscriptionRequest::default()
        };
        let within = Place {
            number: 2,
            within: Arc::new([name(1)]),
        };
        let places = [name(1), within];
        let own = request("tenants/acme", "tenants/acme/subscriptions/s");
        let foreign = request("tenants/acme", "tenants/b/subscriptions/s");
        assert_eq!(found(&own, &places), Found::Own);
        assert_eq!(found(&foreign, &places), Found::Foreign);
        // A decoder goes by the last of several, or by all of them.
        let both = [foreign.encode_to_vec(), own.encode_to_vec()];
        for bytes in [both.concat(), [both[1].clone(), both[0].clone()].concat()] {
            let tenant = "acme".parse().unwrap();
            assert_eq!(is_own(&bytes, &places, &tenant), Ok(Found::Foreign));
        }
    }

    #[test]
    fn what_is_cut_off_never_passes_for_own() {
        let request = ForwardRequest {
            publish: Some(PublishRequest {
                parent: "tenants/b".to_owned(),
                events: vec![],
            }),
            slot_table_version: 3,
            slots: Vec::new(),
        };
        let bytes = request.encode_to_vec();
        let places = [Place {
            number: 1,
            within: Arc::new([name(1)]),
        }];
        for end in 0..bytes.len() {
            let found = is_own(&bytes[..end], &places, &"acme".parse().unwrap());
            assert_ne!(found, Ok(Found::Own), "{end}");
        }
    }

    /// What comes out of a body that is sent in pieces of `n` bytes.
    async fn through(bytes: &[u8], n: usize, is_stream: bool) -> Result<Bytes, Code> {
        let pieces: Vec<_> = bytes.chunks(n).map(Bytes::copy_from_slice).collect();
        let pieces = pieces
            .into_iter()
            .map(|it| Ok::<_, BoxError>(Frame::data(it)));
        let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
        let places = Arc::new([name(1)]);
        let owned = Owned::new(body, "acme".parse().unwrap(), places, is_stream);
        let collected = owned.collect().await;
        let collected = collected.map_err(|error| Status::from_error(error).code());
        Ok(collected?.to_bytes())
    }

    fn frame(parent: &str) -> Vec<u8> {
        let request = PublishRequest {
            parent: parent.to_owned(),
            events: vec![],
        };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0], length.to_be_bytes().as_slice(), &message].concat()
    }

    #[tokio::test]
    async fn messages_go_on_whole_however_they_arrive() {
        let bytes = [frame("tenants/acme"), frame(""), frame("tenants/acme")].concat();
        for n in 1..=bytes.len() {
            assert_eq!(through(&bytes, n, true).await.unwrap(), bytes, "{n}");
        }
        let denied = Err(Code::PermissionDenied);
        assert_eq!(
            through(&bytes, 7, false).await,
            denied,
            "one of them says nothing"
        );
        let foreign = [frame("tenants/acme"), frame("tenants/b")].concat();
        assert_eq!(through(&foreign, 7, true).await, denied);
        assert_eq!(
            through(&frame("tenants/b")[..8], 3, false).await,
            Ok(Bytes::new())
        );
        let mut compressed = frame("tenants/acme");
        compressed[0] = 1;
        assert_eq!(
            through(&compressed, 9, false).await,
            Err(Code::InvalidArgument)
        );
        let endless = [0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            through(&endless, 5, false).await,
            Err(Code::InvalidArgument)
        );
    }
}
