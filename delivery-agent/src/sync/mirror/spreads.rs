//! Which tenants are spread over several shards, and from which revision on.
//!
//! **Invariant:** what is told of a revision is put in force once all of that revision is here, and not before.

use std::collections::BTreeMap;

use hookfleet_contract::{
    name::{TenantId, TenantName},
    shard::MAX_SPREAD,
};
use hookfleet_proto::fleet::{Resource, resource::Body};

use crate::directory::Change;

/// The tenants with more than one shard.
#[derive(Debug, Default)]
pub(super) struct Spreads {
    /// In how many deliveries may be.
    shards: BTreeMap<TenantId, u8>,
    /// To how many events are to go, and since which revision.
    told: BTreeMap<TenantId, (i64, u8)>,
}

// === impl Spreads ===

impl Spreads {
    /// A resource was told. Only tenants matter.
    pub(super) fn handle_told(&mut self, resource: &Resource) {
        let Some(Body::Tenant(tenant)) = &resource.body else {
            return;
        };
        let Ok(TenantName { tenant: id }) = resource.name.parse() else {
            return;
        };
        let had_several = self.shards.remove(&id).is_some();
        let shards = shards(resource.shards);
        if shards > 1 || had_several {
            let told = (resource.mod_revision, self::shards(tenant.spread));
            self.told.insert(id.clone(), told);
        }
        if shards > 1 {
            self.shards.insert(id, shards);
        }
    }

    /// A tenant is gone.
    pub(super) fn handle_gone(&mut self, tenant: &TenantId) {
        self.shards.remove(tenant);
        self.told.remove(tenant);
    }

    /// Everything up to `revision` is here.
    pub(super) fn release(&mut self, revision: i64, changes: &mut Vec<Change>) {
        let is_here = |_: &TenantId, told: &mut (i64, u8)| told.0 <= revision;
        let here = self.told.extract_if(.., is_here);
        changes.extend(here.map(|(tenant, (_, spread))| Change::Spread(tenant, spread)));
    }

    /// Whether a tenant has more than one shard.
    pub(super) fn has(&self, tenant: &TenantId) -> bool {
        self.shards.contains_key(tenant)
    }
}

/// A number of shards, which may not be said.
pub(super) fn shards(said: i32) -> u8 {
    u8::try_from(said).unwrap_or(1).clamp(1, MAX_SPREAD)
}
