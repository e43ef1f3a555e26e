//! One day of history on disk: its keyspaces and their keys. A day is dropped whole.
//!
//! Keys begin with what is asked for and end so that the newest comes first.

use std::collections::BTreeSet;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use hookfleet_contract::{
    id::{DeliveryId, WebhookId},
    name::TenantId,
    time::Timestamp,
};

const MILLIS_A_DAY: u64 = 86_400_000;
const PREFIX: &str = "history-";

/// A day since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub(super) u64);

/// One day.
#[derive(Clone)]
pub(super) struct Bucket {
    /// Tenant, then newest first → delivery.
    pub(super) deliveries: Keyspace,
    /// Delivery, then oldest first → attempt.
    pub(super) attempts: Keyspace,
    /// Event and tenant → its number in the journal.
    pub(super) events: Keyspace,
    /// Delivery → the encoded event of a dead letter.
    pub(super) dead: Keyspace,
}

const KINDS: [&str; 4] = ["deliveries", "attempts", "events", "dead"];

// === impl Day ===

impl Day {
    pub(super) fn of(time: Timestamp) -> Self {
        Self(time.0 / MILLIS_A_DAY)
    }

    fn name(self, kind: &str) -> String {
        format!("{PREFIX}{kind}-{}", self.0)
    }

    /// The days that have a bucket, or what a crash left of one.
    pub(super) fn all(database: &Database) -> BTreeSet<Self> {
        let names = database.list_keyspace_names();
        let day = |name: &str| {
            let (_, day) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
            day.parse().ok().map(Self)
        };
        names.iter().filter_map(|it| day(it)).collect()
    }
}

// === impl Bucket ===

impl Bucket {
    pub(super) fn open(database: &Database, day: Day) -> Result<Self, fjall::Error> {
        let open = |kind| database.keyspace(&day.name(kind), KeyspaceCreateOptions::default);
        let [deliveries, attempts, events, dead] = KINDS;
        Ok(Self {
            deliveries: open(deliveries)?,
            attempts: open(attempts)?,
            events: open(events)?,
            dead: open(dead)?,
        })
    }

    pub(super) fn delete(self, database: &Database) -> Result<(), fjall::Error> {
        for keyspace in [self.deliveries, self.attempts, self.events, self.dead] {
            database.delete_keyspace(keyspace)?;
        }
        Ok(())
    }
}

/// The end of a delivery's keys.
fn newest_first(id: DeliveryId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&(!id.seq).to_be_bytes());
    key[8..].copy_from_slice(&(!id.target).to_be_bytes());
    key
}

/// Everything of a tenant.
pub(super) fn tenant_prefix(tenant: &TenantId) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0]].concat()
}

pub(super) fn delivery_key(tenant: &TenantId, id: DeliveryId) -> Vec<u8> {
    [tenant_prefix(tenant).as_slice(), &newest_first(id)].concat()
}

/// The delivery in a key of a tenant's deliveries.
pub(super) fn delivery_of(key: &[u8]) -> Option<DeliveryId> {
    let (rest, target) = key.split_last_chunk::<4>()?;
    let (_, seq) = rest.split_last_chunk::<8>()?;
    Some(DeliveryId {
        seq: !u64::from_be_bytes(*seq),
        target: !u32::from_be_bytes(*target),
    })
}

pub(super) fn attempt_key(id: DeliveryId, number: i32) -> Vec<u8> {
    let number = u32::try_from(number).unwrap_or(0).to_be_bytes();
    [newest_first(id).as_slice(), &number].concat()
}

pub(super) fn dead_key(id: DeliveryId) -> [u8; 12] {
    newest_first(id)
}

pub(super) fn event_key(tenant: &TenantId, event: WebhookId) -> Vec<u8> {
    [event.0.as_slice(), tenant.as_str().as_bytes()].concat()
}
