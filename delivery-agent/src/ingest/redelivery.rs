//! Another delivery of an event that was accepted before: a new entry for one subscription, with the same `webhook-id`, in
//! the journal of the agent that owns the slot now. The event comes from the agent that keeps it.
//!
//! **Invariant:** answered only after the journal has it.

use bytes::Bytes;
use hookfleet_contract::{
    event::Event,
    id::{DeliveryId, WebhookId},
    name::{DeliveryName, SubscriptionId},
    partition::UNORDERED,
    shard::{Shard, replica},
    time::Timestamp,
};

use super::{Admitted, Ingest, Refused};
use crate::{
    history::{self, History},
    journal::{self, Journal, NewEvent, Origin, Target},
    relay::{self, Relay},
    slots::Admission,
};

/// Why an event is not delivered again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such delivery, or its event is no longer kept.
    #[error("delivery {0} is not kept any more")]
    NotKept(DeliveryId),
    /// The subscription does not exist any more.
    #[error("subscription {0} does not exist any more")]
    SubscriptionEnded(SubscriptionId),
    /// Nobody takes the tenant's events.
    #[error("the redelivery is not taken")]
    Refused(#[from] Refused),
    /// The owner of the slot did not take it, or that is not known.
    #[error("the redelivery was not taken by the owner of the slot")]
    Relay(#[from] relay::Error),
    /// The journal did not take it or could not be read.
    #[error("the redelivery was not stored")]
    Journal(#[from] journal::Error),
    /// The history could not be read.
    #[error("the history could not be read")]
    History(#[from] history::Error),
}

/// Delivers events again.
#[derive(Clone, Debug)]
pub struct Redeliverer {
    /// Where redeliveries come in.
    pub ingest: Ingest,
    /// Where the events of dead letters are kept.
    pub history: History,
    /// Speaks to the owners of other slots.
    pub relay: Relay,
}

/// A delivery that repeats another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redelivered {
    /// Its name.
    pub name: DeliveryName,
    /// When it came into being.
    pub accept_time: Timestamp,
}

// === impl Redeliverer ===

impl Redeliverer {
    /// Delivers the event of `delivery`, which this agent keeps, again.
    ///
    /// # Errors
    /// See [`Error`]; nothing is kept, unless it is [`relay::Error::OutOfReach`].
    pub async fn redeliver(&self, delivery: &DeliveryName) -> Result<Redelivered, Error> {
        let id = delivery.delivery;
        let (journal, history) = (self.ingest.journal.clone(), self.history.clone());
        let kept = tokio::task::spawn_blocking(move || kept(&journal, &history, id));
        let event = kept.await.map_err(|_| Error::NotKept(id))??;
        let shard = self.shard(delivery, &event)?;
        match self.ingest.admit(&shard)? {
            Admitted::Here(admission) => self.append(&admission, &shard, delivery, event).await,
            Admitted::There(owner) => Ok(self.relay.redeliver(&owner, delivery, event).await?),
        }
    }

    /// The shard that the event of `delivery` is in now.
    ///
    /// # Errors
    /// [`Error::NotKept`] if this is no event.
    pub fn shard(&self, delivery: &DeliveryName, event: &Bytes) -> Result<Shard, Error> {
        let event = Event::decode(event).map_err(|_| Error::NotKept(delivery.delivery))?;
        let shard = self.ingest.shard(&delivery.tenant, event.cloud_event());
        Ok(shard)
    }

    /// Delivers an event again, here.
    ///
    /// # Errors
    /// See [`Error`]; nothing is kept.
    pub async fn append(
        &self,
        _admission: &Admission,
        shard: &Shard,
        delivery: &DeliveryName,
        event: Bytes,
    ) -> Result<Redelivered, Error> {
        let id = delivery.delivery;
        let parsed = Event::decode(&event).map_err(|_| Error::NotKept(id))?;
        let tenant = self.ingest.directory.tenant(&delivery.tenant);
        let subscription = tenant
            .as_ref()
            .and_then(|it| it.subscription(&delivery.subscription))
            .filter(|it| it.is_in_force)
            .ok_or_else(|| Error::SubscriptionEnded(delivery.subscription.clone()))?;
        let accept_time = self.ingest.clock.now();
        let new = NewEvent {
            tenant: delivery.tenant.clone(),
            webhook_id: WebhookId::of(&delivery.tenant, parsed.source(), parsed.id()),
            accept_time,
            targets: vec![Target {
                uid: replica(subscription.uid, shard.number),
                // It is late already: it waits for nobody, and nobody for it.
                partition: UNORDERED,
                subscription: delivery.subscription.clone(),
            }],
            origin: Origin::Redelivery(id),
            stands: Vec::new(),
            event,
        };
        let appended = self.ingest.journal.append(new).await?;
        Ok(Redelivered {
            name: DeliveryName {
                delivery: DeliveryId {
                    seq: appended.seq,
                    target: 0,
                },
                ..delivery.clone()
            },
            accept_time,
        })
    }
}

/// The event of a delivery: in the journal for a few days, with a dead letter for longer. Blocks on
/// the disk.
fn kept(journal: &Journal, history: &History, delivery: DeliveryId) -> Result<Bytes, Error> {
    match journal.read(delivery.seq)? {
        Some(stored) => Ok(stored.event.clone()),
        None => history
            .dead_event(delivery)?
            .ok_or(Error::NotKept(delivery)),
    }
}
