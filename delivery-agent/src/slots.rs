//! Which agent owns which slot, as the control plane last said, and which publishes began under an older word. It
//! decides nothing about moves.
//!
//! **Invariant:** once [`Slots::settle`] has ended, every publish that was let in under an older table has ended too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use hookfleet_contract::{shard::Shard, slot::Slot};
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

/// The owner of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub agent_id: String,
    /// Where it takes events.
    pub address: String,
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

/// Where a publish to every slot goes.
#[derive(Debug)]
pub struct Everywhere {
    /// Leave to publish to this agent's slots.
    pub admission: Admission,
    /// This agent's slots.
    pub own: BTreeSet<Slot>,
    /// Those of them of which another agent may still have earlier events.
    pub arriving: BTreeSet<Slot>,
    /// The slots of other agents.
    pub others: Vec<(Owner, BTreeSet<Slot>)>,
    /// The slots that nobody owns.
    pub nobodys: BTreeSet<Slot>,
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

    /// Lets a publish in if the agent owns the shard's slot.
    ///
    /// # Errors
    /// Who owns it, if anybody does.
    pub fn admit(&self, shard: &Shard, agent_id: &str) -> Result<Admission, Option<Owner>> {
        // The table cannot change while it is borrowed, so nobody is let in under an older one.
        let in_force = self.0.in_force.borrow();
        match owner(&in_force.table, shard) {
            Some(owner) if owner.agent_id == agent_id => Ok(Admission {
                has_previous: slot(&in_force.table, shard)
                    .is_some_and(|slot| has_previous(&in_force.table, slot, agent_id)),
                _token: in_force.publishes.token(),
            }),
            other => Err(other),
        }
    }

    /// Lets a publish in to all slots that the agent owns, and tells who owns the others. Nothing before there is a table.
    #[must_use]
    pub fn admit_everywhere(&self, agent_id: &str) -> Option<Everywhere> {
        let in_force = self.0.in_force.borrow();
        let table = &*in_force.table;
        let slot_count = u16::try_from(table.slot_owners.len()).ok()?;
        let (mut own, mut arriving) = (BTreeSet::new(), BTreeSet::new());
        let (mut others, mut nobodys) = (BTreeMap::new(), BTreeSet::new());
        for slot in 0..slot_count {
            match named(table, &table.slot_owners, slot) {
                Some(owner) if owner.agent_id == agent_id => {
                    own.insert(Slot(slot));
                    if has_previous(table, slot, agent_id) {
                        arriving.insert(Slot(slot));
                    }
                }
                Some(owner) => {
                    let (_, slots) = others.entry(&owner.agent_id).or_insert_with(|| {
                        let owner = owner_of(table, owner);
                        (owner, BTreeSet::new())
                    });
                    slots.insert(Slot(slot));
                }
                None => {
                    nobodys.insert(Slot(slot));
                }
            }
        }
        (slot_count > 0).then(|| Everywhere {
            admission: Admission {
                has_previous: !arriving.is_empty(),
                _token: in_force.publishes.token(),
            },
            own,
            arriving,
            others: others.into_values().collect(),
            nobodys,
        })
    }

    /// Who owns the shard's slot.
    #[must_use]
    pub fn owner(&self, shard: &Shard) -> Option<Owner> {
        owner(&self.0.in_force.borrow().table, shard)
    }

    /// The slot of a shard, once there is a table.
    #[must_use]
    pub fn slot(&self, shard: &Shard) -> Option<Slot> {
        slot(&self.0.in_force.borrow().table, shard).map(Slot)
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

/// Whether the agent owns the shard's slot.
#[must_use]
pub fn is_owner(table: &SlotTable, shard: &Shard, agent_id: &str) -> bool {
    let owner = slot(table, shard).and_then(|slot| named(table, &table.slot_owners, slot));
    owner.is_some_and(|it| it.agent_id == agent_id)
}

fn has_previous(table: &SlotTable, slot: u16, agent_id: &str) -> bool {
    let previous = named(table, &table.slot_previous, slot);
    previous.is_some_and(|it| it.agent_id != agent_id)
}

/// The slot of a shard, once there is a table.
#[must_use]
pub fn slot(table: &SlotTable, shard: &Shard) -> Option<u16> {
    let slot_count = u16::try_from(table.slot_owners.len()).ok()?;
    (slot_count > 0).then(|| shard.slot(slot_count).0)
}

fn owner(table: &SlotTable, shard: &Shard) -> Option<Owner> {
    let slot = slot(table, shard)?;
    let owner = named(table, &table.slot_owners, slot)?;
    Some(owner_of(table, owner))
}

fn owner_of(table: &SlotTable, owner: &SlotOwner) -> Owner {
    Owner {
        agent_id: owner.agent_id.clone(),
        address: owner.address.clone(),
        table_version: table.version,
    }
}

fn named<'a>(table: &'a SlotTable, places: &[i32], slot: u16) -> Option<&'a SlotOwner> {
    let place = usize::try_from(*places.get(usize::from(slot))?).ok()?;
    table.owners.get(place.checked_sub(1)?)
}
