//! Events for slots of other agents, on their way to them.
//!
//! - [`Relay`]: speaks to the owners of slots.
//! - [`parking`], [`courier`]: what cannot go now waits here, durably, and is sent on later.
//! - [`handover`], [`taking`]: deliveries that go on at another agent.

pub mod courier;
pub mod handover;
pub mod parking;
pub mod taking;

use std::{collections::BTreeSet, error::Error as _, time::Duration};

use bytes::Bytes;
use hookfleet_contract::{name::DeliveryName, slot::Slot};
use hookfleet_gateway::{
    peers::{Dialer, Peer, Peers},
    status::{ApiError, reason},
};
use hookfleet_proto::{
    fleet::{
        ForwardRequest, HandOverRequest, RedeliverRequest, relay_service_client::RelayServiceClient,
    },
    v1::{PublishRequest, PublishResponse},
};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::{
    ingest::redelivery::Redelivered,
    slots::{Owner, Slots},
};

/// How long an owner may take: it waits for the slot table, and for its disk.
const DEADLINE: Duration = Duration::from_secs(5);
/// Why an agent takes nothing: the slot is another's,
pub const NOT_OWNER: &str = "NOT_OWNER";
/// or it has not heard of everything yet.
pub const NOT_READY: &str = "NOT_READY";
/// What agents tell each other is not small: 1000 events, and some more.
pub const MAX_MESSAGE_BYTES: usize = 9 << 20;

/// Speaks to the other agents; cheap to clone.
#[derive(Clone, Debug)]
pub struct Relay {
    slots: Slots,
    peers: Peers,
}

/// The owner of a slot did not take what it was sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or takes nothing now; another time may do.
    #[error("the owner of the slot is out of reach")]
    OutOfReach,
    /// It is there, and not the owner any more, or not yet, or about to start: in a moment it is known who is.
    #[error("the owner of the slot is about to change")]
    Unsettled,
    /// It said no, and would say so again.
    #[error("the owner of the slot refuses")]
    Refused(#[source] Status),
}

// === impl Relay ===

impl Relay {
    /// Speaks to the owners of slots.
    #[must_use]
    pub fn new(slots: Slots, dialer: Dialer) -> Self {
        Self {
            slots,
            peers: Peers::new(dialer),
        }
    }

    /// Publishes at the owner, a broadcast for these slots.
    ///
    /// # Errors
    /// [`Error`]. When the owner is out of reach it may have taken the events all the same; publishing
    /// them again is safe.
    pub async fn forward(
        &self,
        owner: &Owner,
        publish: PublishRequest,
        slots: &BTreeSet<Slot>,
    ) -> Result<PublishResponse, Error> {
        let request = ForwardRequest {
            publish: Some(publish),
            slot_table_version: owner.table_version,
            slots: slots.iter().map(|slot| slot.0.into()).collect(),
        };
        let mut client = self.client(owner)?;
        answer(client.forward(request)).await
    }

    /// Hands deliveries over to the owner.
    ///
    /// # Errors
    /// [`Error`]. The owner may have taken them all the same; handing them over again is safe.
    pub async fn hand_over(&self, owner: &Owner, request: HandOverRequest) -> Result<(), Error> {
        let mut client = self.client(owner)?;
        answer(client.hand_over(request)).await?;
        Ok(())
    }

    /// Delivers an event again, at the owner.
    ///
    /// # Errors
    /// [`Error`]. When the owner is out of reach it may have taken it all the same.
    pub async fn redeliver(
        &self,
        owner: &Owner,
        delivery: &DeliveryName,
        event: Bytes,
    ) -> Result<Redelivered, Error> {
        let request = RedeliverRequest {
            delivery: delivery.to_string(),
            event: event.into(),
            slot_table_version: owner.table_version,
        };
        let mut client = self.client(owner)?;
        let new = answer(client.redeliver(request)).await?;
        let malformed = || Error::Refused(ApiError::internal("an agent answers oddly").into());
        Ok(Redelivered {
            name: new.delivery.parse().map_err(|_| malformed())?,
            accept_time: new.accept_time.ok_or_else(malformed)?.into(),
        })
    }

    fn client(&self, owner: &Owner) -> Result<RelayServiceClient<Peer>, Error> {
        let table = self.slots.table();
        let current = |address: &str| table.owners.iter().any(|it| it.address == address);
        let peer = self.peers.peer(&owner.address, current);
        let peer = peer.map_err(|_| {
            Error::Refused(ApiError::internal("an agent has no usable address").into())
        })?;
        Ok(RelayServiceClient::new(peer)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES))
    }
}

async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    match timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // What the connection says has a source; what the owner says has none.
        Ok(Err(status)) if status.source().is_some() => Err(Error::OutOfReach),
        Ok(Err(status)) if status.code() == Code::Unavailable => match reason(&status).as_deref() {
            Some(NOT_OWNER | NOT_READY) => Err(Error::Unsettled),
            Some(_) | None => Err(Error::OutOfReach),
        },
        Ok(Err(status)) => Err(Error::Refused(status)),
        Err(_) => Err(Error::OutOfReach),
    }
}
