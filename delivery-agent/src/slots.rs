//! Which agent owns which slot, as the control plane last said. It decides nothing about moves.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hookfleet_contract::{name::TenantId, slot};
use hookfleet_proto::fleet::SlotTable;

/// A cheap handle to the slot table in force.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<ArcSwap<SlotTable>>);

/// The owner of a tenant's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub agent_id: String,
    /// Where it takes events.
    pub address: String,
    /// Fences older owners.
    pub epoch: i64,
}

impl Slots {
    /// Puts a table in force, unless a newer one is.
    pub fn set(&self, table: SlotTable) {
        if table.version >= self.0.load().version {
            self.0.store(Arc::new(table));
        }
    }

    /// Who owns the tenant's slot.
    #[must_use]
    pub fn owner(&self, tenant: &TenantId) -> Option<Owner> {
        let table = self.0.load();
        let slot_count = u16::try_from(table.slot_owners.len()).ok()?;
        if slot_count == 0 {
            return None;
        }
        let slot = usize::from(slot::slot_of(tenant, slot_count).0);
        let index = usize::try_from(*table.slot_owners.get(slot)?).ok()?;
        let owner = table.owners.get(index.checked_sub(1)?)?;
        Some(Owner {
            agent_id: owner.agent_id.clone(),
            address: owner.address.clone(),
            epoch: table.epochs.get(slot).copied().unwrap_or_default(),
        })
    }
}
