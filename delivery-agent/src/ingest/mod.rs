//! Events on their way in: whose they are, whether they are well-formed, whom they match, and into
//! the journal. It knows nothing of how they arrived or of what becomes of them.
//!
//! **Invariant:** an event is answered as accepted only after the journal has it on stable storage;
//! of one that is refused nothing is kept.

pub mod broadcast;
pub mod portion;
pub mod redelivery;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hookfleet_contract::{
    event::{Event, Limits},
    id::WebhookId,
    name::{EventName, TenantId},
    partition::{UNORDERED, partition_of},
    shard::{Shard, replica, shard_of},
    slot::Slot,
    violation::Violations,
};
use hookfleet_proto::cloudevents::CloudEvent;
use prost::Message as _;

use crate::{
    clock::Clock,
    directory::{Directory, Tenant},
    journal::{self, Appended, Journal, NewEvent, Origin, Target},
    relay::parking::{self, Parked},
    slots::{Admission, Owner, Slots},
};

/// What ingest works with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// This agent.
    pub agent_id: String,
    /// What is known of tenants.
    pub directory: Directory,
    /// Who owns which slot.
    pub slots: Slots,
    /// What waits to be sent on.
    pub parked: Parked,
    /// Where accepted events go.
    pub journal: Journal,
    /// What an event may be.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
}

/// An event that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The event's name.
    pub event: EventName,
    /// How many subscriptions it matched.
    pub n_deliveries: u32,
    /// It was accepted before.
    pub duplicate: bool,
}

/// Where the events of a shard go.
#[derive(Debug)]
pub enum Admitted {
    /// Into this agent's journal.
    Here(Admission),
    /// To another agent.
    There(Owner),
}

/// Why nothing of a request is accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such tenant.
    #[error("tenant {0} does not exist")]
    UnknownTenant(TenantId),
    /// The tenant is suspended.
    #[error("tenant {0} is suspended")]
    Suspended(TenantId),
    /// No agent takes this tenant's events yet.
    #[error("no agent owns the slot of tenant {0}")]
    NoOwner(TenantId),
    /// The journal did not take them; publishing them again is safe.
    #[error("the events were not stored")]
    Journal(#[from] journal::Error),
}

/// When to come back after an overload: about a group commit of a slow disk.
pub const OVERLOAD_PAUSE: Duration = Duration::from_millis(250);

// === impl Ingest ===

impl Ingest {
    /// The shard that an event of a tenant is in.
    #[must_use]
    pub fn shard(&self, tenant: &TenantId, event: &CloudEvent) -> Shard {
        Shard {
            tenant: tenant.clone(),
            number: shard_of(event, self.directory.spread(tenant)),
        }
    }

    /// Where the events of a shard are to go now.
    ///
    /// # Errors
    /// [`Refused::NoOwner`].
    pub fn admit(&self, shard: &Shard) -> Result<Admitted, Refused> {
        match self.slots.admit(shard, &self.agent_id) {
            Ok(admission) => Ok(Admitted::Here(admission)),
            Err(Some(owner)) => Ok(Admitted::There(owner)),
            Err(None) => Err(Refused::NoOwner(shard.tenant.clone())),
        }
    }

    /// Accepts the events of a shard, in one group. Each has its own result, in the same order: a
    /// receipt, or everything that is wrong with it.
    ///
    /// # Errors
    /// [`Refused`] if none of them can be accepted here and now.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown which events are accepted; publishing them again is
    /// answered as a duplicate.
    pub async fn publish(
        &self,
        admission: &Admission,
        shard: &Shard,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<Result<Receipt, Violations>>, Refused> {
        let slot = self.slot(shard)?;
        // Nothing with a key goes past what waits already, or past what another agent has.
        let must_wait = admission.has_previous() || self.parked.has(slot);
        let parks = |event: &NewEvent| {
            must_wait && event.targets.iter().any(|it| it.partition != UNORDERED)
        };
        self.accept(shard, events, parks).await
    }

    /// Keeps the events of a shard to send them on later.
    ///
    /// # Errors
    /// As [`Ingest::publish`].
    ///
    /// # Cancel safety
    /// As [`Ingest::publish`].
    pub async fn park(
        &self,
        shard: &Shard,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<Result<Receipt, Violations>>, Refused> {
        self.accept(shard, events, |_| true).await
    }

    /// Accepts an event that was parked here and need not be any more.
    ///
    /// # Errors
    /// As [`Ingest::publish`].
    ///
    /// # Cancel safety
    /// As [`Ingest::publish`].
    pub async fn unpark(
        &self,
        _admission: &Admission,
        shard: &Shard,
        event: CloudEvent,
    ) -> Result<Vec<Result<Receipt, Violations>>, Refused> {
        self.accept(shard, vec![event], |_| false).await
    }

    async fn accept(
        &self,
        shard: &Shard,
        events: Vec<CloudEvent>,
        parks: impl Fn(&NewEvent) -> bool,
    ) -> Result<Vec<Result<Receipt, Violations>>, Refused> {
        let tenant = self.known(&shard.tenant)?;
        let slot = self.slot(shard)?;
        let mut accepted = Vec::with_capacity(events.len());
        let mut results = Vec::with_capacity(events.len());
        for event in events {
            let prepared = self.prepare(shard, &tenant, event);
            results.push(prepared.map(|event| {
                let (id, n_targets) = (event.webhook_id, event.targets.len());
                let is_parked = parks(&event);
                accepted.push(if is_parked {
                    parking::parked(event, [slot])
                } else {
                    event
                });
                (id, is_parked.then_some(n_targets))
            }));
        }
        let appended = self.parked.append(&self.journal, accepted).await?;
        let mut appended = appended.into_iter();
        let mut receipt_of = |(event, parked): (WebhookId, Option<usize>)| {
            let Some(mut appended) = appended.next() else {
                unreachable!("the journal answers for each event");
            };
            if let Some(n_targets) = parked {
                appended.n_targets = u32::try_from(n_targets).unwrap_or(u32::MAX);
            }
            receipt(&shard.tenant, event, &appended)
        };
        Ok(results
            .into_iter()
            .map(|it| it.map(&mut receipt_of))
            .collect())
    }

    fn slot(&self, shard: &Shard) -> Result<Slot, Refused> {
        let slot = self.slots.slot(shard);
        slot.ok_or_else(|| Refused::NoOwner(shard.tenant.clone()))
    }

    fn known(&self, tenant: &TenantId) -> Result<Arc<Tenant>, Refused> {
        let known = self.directory.tenant(tenant);
        let known = known.ok_or_else(|| Refused::UnknownTenant(tenant.clone()))?;
        if known.is_suspended() {
            return Err(Refused::Suspended(tenant.clone()));
        }
        Ok(known)
    }

    /// Checks an event and finds the subscriptions that want it.
    fn prepare(
        &self,
        shard: &Shard,
        tenant: &Tenant,
        event: CloudEvent,
    ) -> Result<NewEvent, Violations> {
        let event = Event::try_new(event, &self.limits)?;
        let bytes = event.cloud_event().encode_to_vec();
        Ok(self.matched(shard, tenant, &event, bytes.into()))
    }

    /// An event, encoded as `bytes`, with the subscriptions that want it.
    fn matched(&self, shard: &Shard, tenant: &Tenant, event: &Event, bytes: Bytes) -> NewEvent {
        let targets = tenant.matching(event.event_type()).into_iter();
        let key = event.text("partitionkey").map(partition_of);
        let targets = targets.map(|it| Target {
            uid: replica(it.uid, shard.number),
            partition: key.filter(|_| it.is_ordered).unwrap_or(UNORDERED),
            subscription: it.name.subscription.clone(),
        });
        NewEvent {
            tenant: shard.tenant.clone(),
            webhook_id: WebhookId::of(&shard.tenant, event.source(), event.id()),
            accept_time: self.clock.now(),
            targets: targets.collect(),
            origin: Origin::Published,
            stands: Vec::new(),
            event: bytes,
        }
    }
}

fn receipt(tenant: &TenantId, event: WebhookId, appended: &Appended) -> Receipt {
    Receipt {
        event: EventName {
            tenant: tenant.clone(),
            event,
        },
        n_deliveries: appended.n_targets,
        duplicate: appended.duplicate,
    }
}
