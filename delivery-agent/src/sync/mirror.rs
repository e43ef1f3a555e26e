//! The agent's copy of what the control plane has told it. Pure: updates go in, changes to put in
//! force and acknowledgements come out.
//!
//! **Invariants:** a full set takes effect at its last chunk or not at all; a resource that cannot be
//! applied is reported and its last good version stays; no older revision replaces a newer one.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use hookfleet_contract::{
    digest::{Digests, Part},
    name::{KeyName, SubscriptionName, TenantName},
    slot::slot_of,
    subscription::Subscription,
    target::Rules,
};
use hookfleet_gateway::auth::keyring;
use hookfleet_proto::{
    fleet::{
        Ack, PartDigest, Rejection, Resource, ResourceType, SlotTable, Snapshot, Update, Welcome,
        resource::Body,
    },
    v1::tenant,
};

use crate::directory::Change;

/// Parts whose digests go with one heartbeat: all of 1024 slots in half a minute.
const PARTS: usize = 128;

/// The copy.
#[derive(Debug)]
pub struct Mirror {
    rules: Rules,
    cluster_id: String,
    store_generation: String,
    slot_count: i32,
    revision: i64,
    resources: BTreeMap<String, Resource>,
    /// What could not be applied, and at which revision; it counts as told.
    rejected: BTreeMap<String, i64>,
    /// What was told, part by part, and which part is compared next.
    digests: Digests,
    next_part: usize,
    /// The chunks of a full set so far, and the rejections in them.
    staged: Option<Staged>,
}

#[derive(Debug)]
struct Staged {
    kind: ResourceType,
    resources: BTreeMap<String, Resource>,
}

/// What to do about an update.
#[derive(Debug, Default)]
pub struct Applied {
    /// To put in force, before the acknowledgement is sent.
    pub changes: Vec<Change>,
    /// Keys of callers to put in force, before the acknowledgement is sent.
    pub keys: Vec<keyring::Change>,
    /// A new slot table.
    pub slot_table: Option<SlotTable>,
    /// To send.
    pub ack: Ack,
}

/// The control plane is not the one that this agent belongs to.
#[derive(Debug, thiserror::Error)]
#[error("the control plane is of cluster {theirs}, this agent belongs to {ours}")]
pub struct ForeignCluster {
    ours: String,
    theirs: String,
}

// === impl Mirror ===

impl Mirror {
    /// An empty copy, which accepts callback URLs by `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            cluster_id: String::new(),
            store_generation: String::new(),
            slot_count: 0,
            revision: 0,
            resources: BTreeMap::new(),
            rejected: BTreeMap::new(),
            digests: Digests::default(),
            next_part: 0,
            staged: None,
        }
    }

    /// The copy as it was saved, and what to put in force.
    #[must_use]
    pub fn restore(snapshot: Snapshot, rules: Rules) -> (Self, Applied) {
        let mut mirror = Self::new(rules);
        mirror.cluster_id = snapshot.cluster_id;
        mirror.store_generation = snapshot.store_generation;
        mirror.slot_count = snapshot.slot_count;
        let mut applied = Applied::default();
        for resource in snapshot.resources {
            mirror.upsert(resource, &mut applied);
        }
        mirror.revision = snapshot.revision;
        (mirror, applied)
    }

    /// The copy, to be saved.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            cluster_id: self.cluster_id.clone(),
            store_generation: self.store_generation.clone(),
            slot_count: self.slot_count,
            revision: self.revision,
            resources: self.resources.values().cloned().collect(),
        }
    }

    /// The cluster the agent belongs to; empty at first.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The incarnation of the store that the revision counts in.
    #[must_use]
    pub fn store_generation(&self) -> &str {
        &self.store_generation
    }

    /// Everything up to here has been applied.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The slots that it has subscriptions of.
    #[must_use]
    pub fn known_slots(&self) -> Vec<i32> {
        let Ok(slot_count @ 1..) = u16::try_from(self.slot_count) else {
            return Vec::new();
        };
        let subscriptions = self.resources.keys();
        let names = subscriptions.filter_map(|name| name.parse::<SubscriptionName>().ok());
        let slots = names.map(|name| i32::from(slot_of(&name.tenant, slot_count).0));
        slots.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What the next parts of the copy come to, for the control plane to compare.
    pub fn next_digests(&mut self) -> Vec<PartDigest> {
        let slot_count = u16::try_from(self.slot_count).unwrap_or(0);
        let parts: Vec<Part> = Part::all(slot_count)
            .skip(self.next_part)
            .take(PARTS)
            .collect();
        self.next_part += parts.len();
        if parts.len() < PARTS {
            self.next_part = 0;
        }
        let digest = |part: Part| PartDigest {
            r#type: part.kind.into(),
            slot: part.slot.into(),
            digest: self.digests.of(part),
        };
        parts.into_iter().map(digest).collect()
    }

    /// A stream has begun.
    ///
    /// # Errors
    /// [`ForeignCluster`] if the agent belongs to another cluster; nothing is changed.
    pub fn handle_welcome(&mut self, welcome: &Welcome) -> Result<(), ForeignCluster> {
        if !self.cluster_id.is_empty() && self.cluster_id != welcome.cluster_id {
            return Err(ForeignCluster {
                ours: self.cluster_id.clone(),
                theirs: welcome.cluster_id.clone(),
            });
        }
        self.staged = None;
        self.cluster_id.clone_from(&welcome.cluster_id);
        self.slot_count = welcome.slot_count;
        if self.store_generation != welcome.store_generation {
            // Revisions of another generation compare to nothing; a full set follows.
            self.store_generation.clone_from(&welcome.store_generation);
            self.revision = 0;
            for resource in self.resources.values_mut() {
                resource.mod_revision = 0;
            }
            self.rejected.clear();
            self.digests = Digests::default();
            let names: Vec<String> = self.resources.keys().cloned().collect();
            for name in &names {
                self.count(name);
            }
        }
        Ok(())
    }

    /// Resources have changed.
    pub fn handle_update(&mut self, update: Update) -> Applied {
        let mut applied = Applied::default();
        let kind = update.r#type();
        if update.full {
            self.stage(kind, update.upserts);
            if update.last_chunk {
                self.replace(kind, &mut applied);
            }
        } else {
            for resource in update.upserts {
                self.upsert(resource, &mut applied);
            }
            for name in update.removals {
                self.remove(&name, &mut applied);
            }
        }
        if !update.full || update.last_chunk {
            self.revision = self.revision.max(update.revision);
        }
        applied.ack.nonce = update.nonce;
        applied.ack.applied_revision = self.revision;
        applied
    }

    /// Everything up to `revision` was sent, and this stream keeps order.
    pub fn handle_bookmark(&mut self, revision: i64) {
        if self.staged.is_none() {
            self.revision = self.revision.max(revision);
        }
    }

    fn stage(&mut self, kind: ResourceType, upserts: Vec<Resource>) {
        let staged = self.staged.take().filter(|staged| staged.kind == kind);
        let mut staged = staged.unwrap_or_else(|| Staged {
            kind,
            resources: BTreeMap::new(),
        });
        let named = upserts.into_iter().map(|it| (it.name.clone(), it));
        staged.resources.extend(named);
        self.staged = Some(staged);
    }

    fn replace(&mut self, kind: ResourceType, applied: &mut Applied) {
        let Some(staged) = self.staged.take() else {
            return;
        };
        let gone: Vec<String> = self
            .resources
            .iter()
            .filter(|(name, held)| type_of(held) == kind && !staged.resources.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let rejected = self.rejected.keys();
        let rejected = rejected.filter(|name| {
            let is_kind = self.part_of(name).is_some_and(|part| part.kind == kind);
            is_kind && !staged.resources.contains_key(*name)
        });
        let gone: BTreeSet<String> = gone.into_iter().chain(rejected.cloned()).collect();
        for resource in staged.resources.into_values() {
            // The control plane has compared, and knows better what is newest.
            let before = self.version(&resource.name);
            if let Some(held) = self.resources.get_mut(&resource.name)
                && held.mod_revision > resource.mod_revision
            {
                held.mod_revision = 0;
                self.recount(&resource.name, before);
            }
            self.upsert(resource, applied);
        }
        for name in gone {
            self.remove(&name, applied);
        }
    }

    fn upsert(&mut self, resource: Resource, applied: &mut Applied) {
        let held = self.resources.get(&resource.name);
        if held.is_some_and(|held| {
            held.mod_revision >= resource.mod_revision && resource.mod_revision != 0
        }) {
            return;
        }
        let before = self.version(&resource.name);
        match self.compile(&resource) {
            Ok(Compiled::Change(change)) => applied.changes.push(change),
            Ok(Compiled::Key(record)) => applied.keys.push(keyring::Change::Put(record)),
            Ok(Compiled::SlotTable(table)) => applied.slot_table = Some(table),
            Err(reason) => {
                self.rejected
                    .insert(resource.name.clone(), resource.mod_revision);
                self.recount(&resource.name, before);
                applied.ack.rejections.push(Rejection {
                    name: resource.name,
                    mod_revision: resource.mod_revision,
                    reason,
                });
                return;
            }
        }
        let name = resource.name.clone();
        self.rejected.remove(&name);
        self.resources.insert(name.clone(), resource);
        self.recount(&name, before);
    }

    /// The version of a resource that was told, even if it could not be applied.
    fn version(&self, name: &str) -> Option<i64> {
        let held = || self.resources.get(name).map(|it| it.mod_revision);
        self.rejected.get(name).copied().or_else(held)
    }

    fn part_of(&self, name: &str) -> Option<Part> {
        Part::of(name, u16::try_from(self.slot_count).unwrap_or(1))
    }

    fn count(&mut self, name: &str) {
        self.recount(name, None);
    }

    /// The version of a resource that was told is another one than before.
    fn recount(&mut self, name: &str, before: Option<i64>) {
        let Some(part) = self.part_of(name) else {
            return;
        };
        if let Some(before) = before {
            self.digests.remove(part, name, before);
        }
        if let Some(revision) = self.version(name) {
            self.digests.add(part, name, revision);
        }
    }

    fn remove(&mut self, name: &str, applied: &mut Applied) {
        let before = self.version(name);
        self.rejected.remove(name);
        let held = self.resources.remove(name);
        self.recount(name, before);
        if held.is_none() {
            return;
        }
        if let Ok(name) = name.parse::<SubscriptionName>() {
            let change = Change::SubscriptionGone(name.tenant, name.subscription);
            applied.changes.push(change);
        } else if let Ok(name) = name.parse::<TenantName>() {
            applied.changes.push(Change::TenantGone(name.tenant));
        } else if let Ok(name) = name.parse::<KeyName>() {
            applied.keys.push(keyring::Change::Gone(name.key));
        }
    }

    fn compile(&self, resource: &Resource) -> Result<Compiled, String> {
        match &resource.body {
            Some(Body::Tenant(it)) => {
                let name: TenantName = it.name.parse().map_err(|error| format!("{error}"))?;
                Ok(Compiled::Change(Change::Tenant {
                    tenant: name.tenant,
                    suspended: it.state() == tenant::State::Suspended,
                }))
            }
            Some(Body::Subscription(spec)) => Subscription::try_new(spec, &self.rules)
                .map(|it| Compiled::Change(Change::Subscription(Arc::new(it))))
                .map_err(|violations| violations.to_string()),
            Some(Body::Key(spec)) => keyring::Record::try_from(spec).map(Compiled::Key),
            Some(Body::SlotTable(table)) => Ok(Compiled::SlotTable(table.clone())),
            None => Err("of a kind that this version does not know".to_owned()),
        }
    }
}

enum Compiled {
    Change(Change),
    Key(keyring::Record),
    SlotTable(SlotTable),
}

fn type_of(resource: &Resource) -> ResourceType {
    match &resource.body {
        Some(Body::Tenant(_)) => ResourceType::Tenant,
        Some(Body::Subscription(_)) => ResourceType::Subscription,
        Some(Body::SlotTable(_)) => ResourceType::SlotTable,
        Some(Body::Key(_)) => ResourceType::Key,
        None => ResourceType::Unspecified,
    }
}

#[cfg(test)]
mod tests;
