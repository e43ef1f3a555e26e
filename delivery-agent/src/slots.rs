//! Which agent owns which slot, as the control plane last said, and which publishes began under an older word. It
//! decides nothing about moves.
//!
//! **Invariant:** once [`Slots::settle`] has ended, every publish that was let in under an older table has ended too.

use std::sync::{Arc, Mutex, PoisonError};

use hookfleet_contract::{
    name::TenantId,
    slot::{Slot, slot_of},
};
use hookfleet_proto::fleet::{SlotOwner, SlotTable};
use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// A cheap handle to the slot table in force.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    in_force: watch::Sender<InForce>,
    /// The publishes of older tables.
    older: Mutex<Vec<TaskTracker>>,
}

#[derive(Clone, Debug, Default)]
struct InForce {
    table: Arc<SlotTable>,
    publishes: TaskTracker,
}

/// The owner of a tenant's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub agent_id: String,
    /// Where it takes events.
    pub address: String,
    /// Fences older owners.
    pub epoch: i64,
    /// The version of the table that says so.
    pub table_version: i64,
}

/// Leave to publish for a slot that this agent owned when it was given. The slot is not settled
/// elsewhere while it is held.
#[derive(Debug)]
pub struct Admission {
    has_previous: bool,
    _token: TaskTrackerToken,
}

// === impl Slots ===

impl Slots {
    /// Puts a table in force, unless a newer one is.
    pub fn set(&self, table: SlotTable) {
        self.0.in_force.send_if_modified(|in_force| {
            let is_newer = table.version > in_force.table.version;
            if is_newer {
                let before = std::mem::replace(
                    in_force,
                    InForce {
                        table: Arc::new(table),
                        publishes: TaskTracker::new(),
                    },
                );
                before.publishes.close();
                self.older().push(before.publishes);
            }
            is_newer
        });
    }

    /// The table in force.
    #[must_use]
    pub fn table(&self) -> Arc<SlotTable> {
        Arc::clone(&self.0.in_force.borrow().table)
    }

    /// Lets a publish in if the agent owns the tenant's slot.
    ///
    /// # Errors
    /// Who owns it, if anybody does.
    pub fn admit(&self, tenant: &TenantId, agent_id: &str) -> Result<Admission, Option<Owner>> {
        // The table cannot change while it is borrowed, so nobody is let in under an older one.
        let in_force = self.0.in_force.borrow();
        match owner(&in_force.table, tenant) {
            Some(owner) if owner.agent_id == agent_id => Ok(Admission {
                has_previous: has_previous(&in_force.table, tenant, agent_id),
                _token: in_force.publishes.token(),
            }),
            other => Err(other),
        }
    }

    /// Who owns the tenant's slot.
    #[must_use]
    pub fn owner(&self, tenant: &TenantId) -> Option<Owner> {
        owner(&self.0.in_force.borrow().table, tenant)
    }

    /// The slot of a tenant, once there is a table.
    #[must_use]
    pub fn slot(&self, tenant: &TenantId) -> Option<Slot> {
        slot(&self.0.in_force.borrow().table, tenant).map(Slot)
    }

    /// Waits for a table of this version or a later one.
    pub async fn reached(&self, version: i64) {
        let mut tables = self.0.in_force.subscribe();
        // The sender is ours.
        drop(tables.wait_for(|it| it.table.version >= version).await);
    }

    /// Waits until every publish that was let in under an older table has ended.
    pub async fn settle(&self) {
        let older = std::mem::take(&mut *self.older());
        for publishes in older {
            publishes.wait().await;
        }
    }

    fn older(&self) -> std::sync::MutexGuard<'_, Vec<TaskTracker>> {
        self.0.older.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Admission ===

impl Admission {
    /// Whether another agent owned the slot before, and may still have earlier events of it.
    #[must_use]
    pub fn has_previous(&self) -> bool {
        self.has_previous
    }
}

/// Whether the agent owns a slot.
#[must_use]
pub fn owns_any(table: &SlotTable, agent_id: &str) -> bool {
    let place = table.owners.iter().position(|it| it.agent_id == agent_id);
    let place = place.and_then(|it| i32::try_from(it + 1).ok());
    place.is_some_and(|place| table.slot_owners.contains(&place))
}

/// Whether the agent owns the tenant's slot.
#[must_use]
pub fn is_owner(table: &SlotTable, tenant: &TenantId, agent_id: &str) -> bool {
    let owner = slot(table, tenant).and_then(|slot| named(table, &table.slot_owners, slot));
    owner.is_some_and(|it| it.agent_id == agent_id)
}

fn has_previous(table: &SlotTable, tenant: &TenantId, agent_id: &str) -> bool {
    let previous = slot(table, tenant).and_then(|slot| named(table, &table.slot_previous, slot));
    previous.is_some_and(|it| it.agent_id != agent_id)
}

/// The slot of a tenant, once there is a table.
#[must_use]
pub fn slot(table: &SlotTable, tenant: &TenantId) -> Option<u16> {
    let slot_count = u16::try_from(table.slot_owners.len()).ok()?;
    (slot_count > 0).then(|| slot_of(tenant, slot_count).0)
}

fn owner(table: &SlotTable, tenant: &TenantId) -> Option<Owner> {
    let slot = slot(table, tenant)?;
    let owner = named(table, &table.slot_owners, slot)?;
    Some(Owner {
        agent_id: owner.agent_id.clone(),
        address: owner.address.clone(),
        epoch: table
            .epochs
            .get(usize::from(slot))
            .copied()
            .unwrap_or_default(),
        table_version: table.version,
    })
}

fn named<'a>(table: &'a SlotTable, places: &[i32], slot: u16) -> Option<&'a SlotOwner> {
    let place = usize::try_from(*places.get(usize::from(slot))?).ok()?;
    table.owners.get(place.checked_sub(1)?)
}
