//! An event for all tenants: an event of its own for each that has a subscription which it matches.
//!
//! Whoever has a tenant's first slot makes the tenant's event, so that there is one even if agents do not agree at the moment
//! over how many slots the tenant is spread. From there it goes where the tenant's events go.
//!
//! **Invariant:** answered only after the journal has all of it; doing it again makes nothing that is there already.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use hookfleet_contract::{event::Event, id::WebhookId, name::TenantId, shard::Shard, slot::Slot};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{Admitted, Ingest, Refused};
use crate::{
    directory::Tenant,
    journal::{NewEvent, Origin},
    relay::parking,
    slots::Admission,
};

/// Names all tenants.
pub const PARENT: &str = "tenants/-";
/// Whose parked broadcasts are.
const TENANT: &str = "hookfleet-broadcast";
/// How many tenants are asked of the journal at once.
const CHUNK: usize = 256;

/// How far an event came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// How many subscriptions it matched, as far as that is known.
    pub n_deliveries: u32,
    /// Something of it was not there already.
    pub is_new: bool,
}

impl Ingest {
    /// Accepts an event for all tenants whose first slots are among these.
    ///
    /// # Errors
    /// As [`Ingest::publish`]; it may be accepted for some of them.
    ///
    /// # Cancel safety
    /// As [`Ingest::publish`].
    pub async fn broadcast(
        &self,
        _admission: &Admission,
        slots: &BTreeSet<Slot>,
        event: &Event,
    ) -> Result<Reach, Refused> {
        let bytes = Bytes::from(event.cloud_event().encode_to_vec());
        let mut tenants = self.directory.tenants();
        tenants.retain(|(id, tenant)| {
            let slot = self.slots.slot(&Shard::first(id));
            slot.is_some_and(|it| slots.contains(&it)) && !tenant.is_suspended()
        });
        let is_spread = |(_, tenant): &&(TenantId, Arc<Tenant>)| tenant.spread() > 1;
        let simple = tenants.iter().filter(|it| !is_spread(it));
        let mut wanted = simple.filter_map(|(id, tenant)| {
            let new = self.matched(&Shard::first(id), tenant, event, bytes.clone());
            (!new.targets.is_empty()).then_some(new)
        });
        let mut reach = Reach::default();
        loop {
            let chunk: Vec<NewEvent> = wanted.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            for appended in self.journal.append_all(chunk).await? {
                reach.n_deliveries += appended.n_targets;
                reach.is_new |= !appended.duplicate;
            }
        }
        for (id, tenant) in tenants.iter().filter(is_spread) {
            if !tenant.matching(event.event_type()).is_empty() {
                let spread = self.broadcast_spread(id, event).await?;
                reach.n_deliveries += spread.n_deliveries;
                reach.is_new |= spread.is_new;
            }
        }
        Ok(reach)
    }

    /// Accepts the event of one tenant, or keeps it for the owner of its slot, to send it on at once.
    async fn broadcast_spread(&self, tenant: &TenantId, event: &Event) -> Result<Reach, Refused> {
        let event = event.cloud_event().clone();
        let shard = self.shard(tenant, &event);
        let accepted = match self.admit(&shard) {
            Ok(Admitted::Here(admission)) => self.publish(&admission, &shard, vec![event]).await,
            Ok(Admitted::There(_)) | Err(_) => self.park(&shard, vec![event]).await,
        };
        let receipts = match accepted {
            // Since it was looked at.
            Err(Refused::Suspended(_) | Refused::UnknownTenant(_)) => Vec::new(),
            accepted => accepted?,
        };
        let receipts = receipts.into_iter().flatten();
        Ok(receipts.fold(Reach::default(), |reach, it| Reach {
            n_deliveries: reach.n_deliveries + it.n_deliveries,
            is_new: reach.is_new || !it.duplicate,
        }))
    }

    /// Keeps an event for all tenants of these slots, to send it on later.
    ///
    /// # Errors
    /// As [`Ingest::publish`].
    ///
    /// # Cancel safety
    /// As [`Ingest::publish`].
    pub async fn park_broadcast(
        &self,
        slots: &BTreeSet<Slot>,
        event: &Event,
    ) -> Result<Reach, Refused> {
        let mut reach = Reach::default();
        let Some(tenant) = owner().filter(|_| !slots.is_empty()) else {
            return Ok(reach);
        };
        let new = NewEvent {
            webhook_id: name(&tenant, event, slots),
            tenant,
            accept_time: self.clock.now(),
            targets: Vec::new(),
            origin: Origin::Parked,
            stands: Vec::new(),
            event: event.cloud_event().encode_to_vec().into(),
        };
        let parked = parking::parked(new, slots.iter().copied());
        let appended = self.parked.append(&self.journal, vec![parked]).await?;
        reach.is_new = appended.iter().any(|it| !it.duplicate);
        Ok(reach)
    }
}

/// Whether an event that was parked is for all tenants.
#[must_use]
pub fn is_broadcast(parked_by: &TenantId) -> bool {
    parked_by.as_str() == TENANT
}

fn owner() -> Option<TenantId> {
    TENANT.parse().ok()
}

/// The same for the same slots, and for no others: what is published again may find other owners out of reach.
fn name(tenant: &TenantId, event: &Event, slots: &BTreeSet<Slot>) -> WebhookId {
    let mut hash = Sha256::new();
    hash.update(WebhookId::of(tenant, event.source(), event.id()).0);
    for slot in slots {
        hash.update(slot.0.to_be_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    WebhookId(first)
}
