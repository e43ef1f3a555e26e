//! `PublisherService`: wire to ingest and back.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _, stream};
use hookfleet_contract::{name::TenantName, violation::Violations};
use hookfleet_gateway::status::{ApiError, rpc_status};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{
        self, PublishAck, PublishCredit, PublishRequest, PublishResponse, PublishResult,
        PublishStreamRequest, PublishStreamResponse, publish_result, publish_stream_response,
        publisher_service_server::PublisherService,
    },
};
use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    ingest::{Admitted, Ingest, OVERLOAD_PAUSE, Receipt, Refused},
    journal,
    relay::{self, Relay},
    slots::{Admission, Owner},
};

/// The most events of one request: what fits a group commit several times over.
const MAX_EVENTS: usize = 1000;
/// The most events of one stream without an acknowledgement.
const MAX_OUTSTANDING: usize = 1024;
/// The most bytes of events without an acknowledgement, over all streams.
const MAX_OUTSTANDING_BYTES: usize = 64 << 20;

/// The service.
#[derive(Clone, Debug)]
pub struct Publisher {
    ingest: Arc<Ingest>,
    relay: Relay,
    ready: CancellationToken,
    draining: CancellationToken,
    outstanding: Arc<Semaphore>,
}

// === impl Publisher ===

impl Publisher {
    /// A service that refuses until `ready` is cancelled and ends its streams once `draining` is.
    #[must_use]
    pub fn new(
        ingest: Ingest,
        relay: Relay,
        ready: CancellationToken,
        draining: CancellationToken,
    ) -> Self {
        Self {
            ingest: Arc::new(ingest),
            relay,
            ready,
            draining,
            outstanding: Arc::new(Semaphore::new(MAX_OUTSTANDING_BYTES)),
        }
    }

    /// What it publishes with.
    pub(super) fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    pub(super) fn check_open(&self) -> Result<(), ApiError> {
        if self.draining.is_cancelled() {
            let message = "this agent is shutting down";
            return Err(ApiError::unavailable("DRAINING", message, OVERLOAD_PAUSE));
        }
        if !self.ready.is_cancelled() {
            let message = "this agent does not know the subscriptions yet";
            return Err(ApiError::unavailable("NOT_READY", message, OVERLOAD_PAUSE));
        }
        Ok(())
    }

    async fn publish_all(
        &self,
        parent: &str,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, Status> {
        self.check_open()?;
        let name = tenant(parent)?;
        match self.ingest.admit(&name.tenant).map_err(refused)? {
            Admitted::Here(admission) => Ok(self.publish_here(&admission, &name, events).await?),
            Admitted::There(owner) => self.publish_there(&owner, &name, events).await,
        }
    }

    /// Publishes at the owner of the slot, or, while that is out of reach, keeps the events for it.
    async fn publish_there(
        &self,
        owner: &Owner,
        name: &TenantName,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, Status> {
        let slot = self.ingest.slots.slot(&name.tenant);
        let has_key = |event: &CloudEvent| event.attributes.contains_key("partitionkey");
        // Nothing with a key goes past what waits already.
        let waits = slot.is_some_and(|slot| self.ingest.parked.has(slot));
        if !(waits && events.iter().any(has_key)) {
            let request = PublishRequest {
                parent: name.to_string(),
                events: events.clone(),
            };
            match self.relay.forward(owner, request).await {
                Ok(answer) => return Ok(answer.results),
                Err(relay::Error::Refused(status)) => return Err(status),
                Err(relay::Error::OutOfReach) => {}
            }
        }
        let results = self.ingest.park(&name.tenant, events).await;
        Ok(results.map_err(refused)?.into_iter().map(result).collect())
    }

    /// Publishes into this agent's journal.
    pub(super) async fn publish_here(
        &self,
        admission: &Admission,
        name: &TenantName,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, ApiError> {
        let results = self.ingest.publish(admission, &name.tenant, events).await;
        let results = results.map_err(refused)?;
        Ok(results.into_iter().map(result).collect())
    }

    /// One event of a stream: whatever is wrong with it is said in its acknowledgement.
    async fn publish_one(self, parent: Arc<str>, request: PublishStreamRequest) -> PublishAck {
        let published = match request.event {
            Some(event) => self.publish_all(&parent, vec![event]).await,
            None => Err(ApiError::invalid_field("event", "is required").into()),
        };
        let result = match published {
            Ok(mut results) => results.pop(),
            Err(status) => Some(failure(&status)),
        };
        PublishAck {
            sequence: request.sequence,
            result,
        }
    }
}

#[tonic::async_trait]
impl PublisherService for Publisher {
    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let PublishRequest { parent, events } = request.into_inner();
        if events.is_empty() || events.len() > MAX_EVENTS {
            let description = format!("has {} events, must have 1 to {MAX_EVENTS}", events.len());
            return Err(ApiError::invalid_field("events", description).into());
        }
        let results = self.publish_all(&parent, events).await?;
        Ok(Response::new(PublishResponse { results }))
    }

    type PublishStreamStream =
        Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.check_open()?;
        let service = self.clone();
        let mut parent: Arc<str> = "".into();
        let credit = publish_stream_response::Message::Credit(PublishCredit {
            max_outstanding_events: i32::try_from(MAX_OUTSTANDING).unwrap_or(i32::MAX),
        });
        let draining = self.draining.clone().cancelled_owned();
        let outstanding = Arc::clone(&self.outstanding);
        let acks = request
            .into_inner()
            .take_until(draining)
            // Reads no further while the events of all streams are too many.
            .then(move |request| {
                let outstanding = Arc::clone(&outstanding);
                let n_bytes = request.as_ref().map_or(0, Message::encoded_len);
                async move {
                    let n_bytes = u32::try_from(n_bytes).unwrap_or(u32::MAX);
                    (request, outstanding.acquire_many_owned(n_bytes).await)
                }
            })
            .map(move |(request, held)| {
                let service = service.clone();
                if let Ok(request) = &request
                    && !request.parent.is_empty()
                {
                    parent = request.parent.as_str().into();
                }
                let parent = Arc::clone(&parent);
                async move {
                    let ack = service.publish_one(parent, request?).await;
                    drop(held);
                    Ok(publish_stream_response::Message::Ack(ack))
                }
            })
            // Reads no further than this many without an acknowledgement.
            .buffered(MAX_OUTSTANDING);
        let draining = self.draining.clone();
        let end = stream::iter([()]).filter_map(move |()| {
            let ended = draining.is_cancelled().then(|| {
                let message = "this agent is shutting down";
                Err(ApiError::unavailable("DRAINING", message, OVERLOAD_PAUSE).into())
            });
            async move { ended }
        });
        let messages = stream::iter([Ok(credit)]).chain(acks).chain(end);
        let responses =
            messages.map(|message| message.map(|it| PublishStreamResponse { message: Some(it) }));
        Ok(Response::new(Box::pin(responses)))
    }
}

fn result(result: Result<Receipt, Violations>) -> PublishResult {
    match result {
        Ok(receipt) => PublishResult {
            result: Some(publish_result::Result::Receipt(v1::Receipt {
                event: receipt.event.to_string(),
                delivery_count: i32::try_from(receipt.n_deliveries).unwrap_or(i32::MAX),
                duplicate: receipt.duplicate,
            })),
        },
        Err(violations) => failure(&ApiError::invalid(violations).into()),
    }
}

fn failure(status: &Status) -> PublishResult {
    PublishResult {
        result: Some(publish_result::Result::Error(rpc_status(status))),
    }
}

/// The tenant that is published to.
pub(super) fn tenant(parent: &str) -> Result<TenantName, ApiError> {
    let parsed = parent.parse();
    parsed.map_err(|error: hookfleet_contract::name::Error| {
        ApiError::invalid_field("parent", error.to_string())
    })
}

pub(super) fn refused(refused: Refused) -> ApiError {
    match refused {
        Refused::Journal(error) => journal_error(&error),
        Refused::UnknownTenant(tenant) => ApiError::not_found(TenantName { tenant }.to_string()),
        Refused::Suspended(tenant) => {
            let message = format!("tenant {tenant} is suspended");
            ApiError::precondition("TENANT_SUSPENDED", message).with("tenant", tenant.as_str())
        }
        Refused::NoOwner(tenant) => {
            let message = format!("no agent takes the events of tenant {tenant} yet");
            ApiError::unavailable("NO_OWNER", message, OVERLOAD_PAUSE)
        }
    }
}

/// What the journal's errors are to a caller.
pub(super) fn journal_error(error: &journal::Error) -> ApiError {
    let pause = OVERLOAD_PAUSE;
    match error {
        journal::Error::Overloaded => {
            ApiError::exhausted("OVERLOADED", "too many events wait for the disk", pause)
        }
        journal::Error::DiskFull => {
            ApiError::exhausted("DISK_FULL", "the disk is nearly full", pause)
        }
        journal::Error::Corrupt { seq } => {
            tracing::error!(seq, "an event is damaged");
            ApiError::data_loss("the event is damaged")
        }
        other @ (journal::Error::TooLarge { .. }
        | journal::Error::Stopped
        | journal::Error::Locked(_)
        | journal::Error::Foreign { .. }
        | journal::Error::Format { .. }
        | journal::Error::Io { .. }
        | journal::Error::Database(_)) => {
            tracing::error!(error = %other, "the journal refuses events");
            ApiError::unavailable("JOURNAL_STOPPED", "the journal has stopped", pause)
        }
    }
}
