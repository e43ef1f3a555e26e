//! Another delivery of an event that was accepted before: a new entry of the journal for one
//! subscription, with the same `webhook-id`.
//!
//! **Invariant:** answered only after the journal has it.

use bytes::Bytes;
use hookfleet_contract::{
    event::Event,
    id::{DeliveryId, WebhookId},
    name::{DeliveryName, SubscriptionId},
    partition::UNORDERED,
    time::Timestamp,
};

use super::Ingest;
use crate::{
    history::{self, History},
    journal::{self, Journal, NewEvent, Origin, Target},
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
}

/// A delivery that repeats another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redelivered {
    /// Its name.
    pub name: DeliveryName,
    /// When it came into being.
    pub accept_time: Timestamp,
}

impl Redeliverer {
    /// Delivers the event of `delivery` again.
    ///
    /// # Errors
    /// See [`Error`]; nothing is kept.
    pub async fn redeliver(&self, delivery: &DeliveryName) -> Result<Redelivered, Error> {
        redeliver(&self.ingest, &self.history, delivery).await
    }
}

async fn redeliver(
    ingest: &Ingest,
    history: &History,
    delivery: &DeliveryName,
) -> Result<Redelivered, Error> {
    let id = delivery.delivery;
    let (journal, history) = (ingest.journal.clone(), history.clone());
    let kept = tokio::task::spawn_blocking(move || kept(&journal, &history, id));
    let event = kept.await.map_err(|_| Error::NotKept(id))??;
    let parsed = Event::decode(&event).map_err(|_| Error::NotKept(id))?;
    let tenant = ingest.directory.tenant(&delivery.tenant);
    let subscription = tenant
        .as_ref()
        .and_then(|it| it.subscription(&delivery.subscription))
        .ok_or_else(|| Error::SubscriptionEnded(delivery.subscription.clone()))?;
    let webhook_id = WebhookId::of(&delivery.tenant, parsed.source(), parsed.id());
    let accept_time = ingest.clock.now();
    let appended = ingest
        .journal
        .append(NewEvent {
            tenant: delivery.tenant.clone(),
            webhook_id,
            accept_time,
            targets: vec![Target {
                uid: subscription.uid,
                // It is late already: it waits for nobody, and nobody for it.
                partition: UNORDERED,
                subscription: delivery.subscription.clone(),
            }],
            origin: Origin::Redelivery(id),
            stands: Vec::new(),
            event,
        })
        .await?;
    let new = DeliveryId {
        seq: appended.seq,
        target: 0,
    };
    Ok(Redelivered {
        name: DeliveryName {
            delivery: new,
            ..delivery.clone()
        },
        accept_time,
    })
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
