//! `PublisherService`: wire to ingest and back.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use futures::future::join_all;
use hookfleet_contract::{name::TenantName, shard::Shard, violation::Violations};
use hookfleet_gateway::{
    limits::{limiter::Limiter, memory::Memory},
    status::{ApiError, rpc_status},
};
use hookfleet_proto::{
    cloudevents::CloudEvent,
    v1::{
        self, PublishAck, PublishRequest, PublishResponse, PublishResult, PublishStreamRequest,
        publish_result, publisher_service_server::PublisherService,
    },
};
use prost::Message as _;
use tokio::time::{sleep, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    lifecycle::Stages,
    stream::{Responses, Streams},
};
use crate::{
    ingest::{
        Admitted, Ingest, OVERLOAD_PAUSE, Receipt, Refused, broadcast,
        portion::{Portion, portions, together},
    },
    journal,
    relay::{self, NOT_READY, Relay},
    slots::Admission,
};

/// The most events of one request: what fits a group commit several times over.
const MAX_EVENTS: usize = 1000;
/// How long events with a key wait until it is known who owns their slot. A table reaches everybody sooner.
const SETTLES: Duration = Duration::from_secs(2);
/// Between questions to an owner that is about to start.
const AGAIN: Duration = Duration::from_millis(50);

/// The service.
#[derive(Clone, Debug)]
pub struct Publisher {
    ingest: Arc<Ingest>,
    relay: Relay,
    stages: Stages,
    streams: Streams,
    limiter: Limiter,
}

/// Where events go.
enum Placed {
    /// Into this agent's journal.
    Here(Admission),
    /// They are at another agent, which said this.
    There(Vec<PublishResult>),
    /// Nobody takes them now.
    Nowhere,
}

// === impl Publisher ===

impl Publisher {
    /// A service whose streams last `stream_lifetime`, give or take a fifth.
    #[must_use]
    pub fn new(
        ingest: Ingest,
        relay: Relay,
        stages: Stages,
        stream_lifetime: Duration,
        limiter: Limiter,
        memory: Memory,
    ) -> Self {
        Self {
            ingest: Arc::new(ingest),
            relay,
            streams: Streams::new(stages.clone(), stream_lifetime, limiter.clone(), memory),
            stages,
            limiter,
        }
    }

    /// What it publishes with.
    pub(super) fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// What it reaches other agents with.
    pub(super) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Leave to accept events, while it is held, if any are accepted now.
    pub(super) fn check_open(&self) -> Result<TaskTrackerToken, ApiError> {
        // Taken first, so that whoever closes and then waits misses nobody.
        let open = self.stages.publishes.token();
        if self.stages.closed.is_cancelled() {
            let message = "this agent is shutting down";
            return Err(ApiError::unavailable("DRAINING", message, OVERLOAD_PAUSE));
        }
        if !self.stages.ready.is_cancelled() {
            let message = "this agent does not know the subscriptions yet";
            return Err(ApiError::unavailable(NOT_READY, message, OVERLOAD_PAUSE));
        }
        Ok(open)
    }

    async fn publish_all(
        &self,
        parent: &str,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, Status> {
        let _open = self.check_open()?;
        if parent == broadcast::PARENT {
            return self.broadcast(events).await;
        }
        let mut portions = self.portions(&tenant(parent)?, events);
        match portions.pop() {
            Some(portion) if portions.is_empty() => self.publish_portion(portion).await,
            last => {
                let portions = portions.into_iter().chain(last);
                let published = portions.map(async |mut portion| {
                    let places = std::mem::take(&mut portion.places);
                    Ok::<_, Status>((places, self.publish_portion(portion).await?))
                });
                Ok(together(all(published).await?))
            }
        }
    }

    /// The events of a tenant, shard by shard.
    pub(super) fn portions(&self, name: &TenantName, events: Vec<CloudEvent>) -> Vec<Portion> {
        let spread = self.ingest.directory.spread(&name.tenant);
        portions(&name.tenant, spread, events)
    }

    async fn publish_portion(&self, portion: Portion) -> Result<Vec<PublishResult>, Status> {
        let Portion { shard, events, .. } = portion;
        match self.place(&shard, &events).await? {
            Placed::Here(admission) => Ok(self.publish_here(&admission, &shard, events).await?),
            Placed::There(results) => Ok(results),
            Placed::Nowhere => {
                let results = self.ingest.park(&shard, events).await;
                Ok(results.map_err(refused)?.into_iter().map(result).collect())
            }
        }
    }

    /// Publishes at the owner of the slot, unless it is this agent or out of reach. Events with a key wait a moment for
    /// an owner that is about to change: what is parked may be passed by what is published elsewhere.
    async fn place(&self, shard: &Shard, events: &[CloudEvent]) -> Result<Placed, Status> {
        let has_key = |event: &CloudEvent| event.attributes.contains_key("partitionkey");
        let mut patience = pin!(sleep(SETTLES));
        loop {
            let owner = match self.ingest.admit(shard).map_err(refused)? {
                Admitted::Here(admission) => return Ok(Placed::Here(admission)),
                Admitted::There(owner) => owner,
            };
            let has_keys = events.iter().any(has_key);
            let slot = self.ingest.slots.slot(shard);
            // Nothing with a key goes past what waits already.
            if has_keys && slot.is_some_and(|slot| self.ingest.parked.has(slot)) {
                return Ok(Placed::Nowhere);
            }
            let tenant = shard.tenant.clone();
            let request = PublishRequest {
                parent: TenantName { tenant }.to_string(),
                events: events.to_vec(),
            };
            match self.relay.forward(&owner, request, &BTreeSet::new()).await {
                Ok(answer) => return Ok(Placed::There(answer.results)),
                Err(relay::Error::Refused(status)) => return Err(status),
                Err(relay::Error::Unsettled) if has_keys => {}
                Err(relay::Error::OutOfReach | relay::Error::Unsettled) => {
                    return Ok(Placed::Nowhere);
                }
            }
            let changed = self.ingest.slots.reached(owner.table_version + 1);
            tokio::select! {
                () = &mut patience => return Ok(Placed::Nowhere),
                changed = timeout(AGAIN, changed) => drop(changed),
            }
        }
    }

    /// Publishes into this agent's journal.
    pub(super) async fn publish_here(
        &self,
        admission: &Admission,
        shard: &Shard,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<PublishResult>, ApiError> {
        let results = self.ingest.publish(admission, shard, events).await;
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
        let request = request.into_inner();
        // Here, where they come in, and not again at the owner.
        self.limiter
            .publish(&request.parent, request.events.len(), || {
                request.encoded_len()
            })?;
        let PublishRequest { parent, events } = request;
        if events.is_empty() || events.len() > MAX_EVENTS {
            let description = format!("has {} events, must have 1 to {MAX_EVENTS}", events.len());
            return Err(ApiError::invalid_field("events", description).into());
        }
        let results = self.publish_all(&parent, events).await?;
        Ok(Response::new(PublishResponse { results }))
    }

    type PublishStreamStream = Responses;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        drop(self.check_open()?);
        let service = self.clone();
        let publish = move |parent, event| service.clone().publish_one(parent, event);
        let responses = self.streams.serve(request.into_inner(), publish);
        Ok(Response::new(responses))
    }
}

/// Waits for all of them, even if one fails: what is under way counts what it leaves to be sent on.
pub(super) async fn all<T, E>(
    futures: impl IntoIterator<Item = impl Future<Output = Result<T, E>>>,
) -> Result<Vec<T>, E> {
    join_all(futures).await.into_iter().collect()
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

/// The result of an event that is refused.
pub(super) fn failure(status: &Status) -> PublishResult {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn one_that_fails_cuts_none_of_the_others_short() {
        let n_ended = Cell::new(0);
        let part = async |number: u8| {
            for _ in 0..number {
                yield_now().await;
            }
            n_ended.set(n_ended.get() + 1);
            if number == 0 { Err(number) } else { Ok(number) }
        };
        assert_eq!(all([0, 1, 2].map(part)).await, Err(0));
        assert_eq!(n_ended.get(), 3);
        assert_eq!(all([2, 1].map(part)).await, Ok(vec![2, 1]));
    }
}
