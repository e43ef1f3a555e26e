//! What the control plane has told the agent, by name and revision. Pure: updates go in; changes to put in
//! force, rows for the snapshot and acknowledgements come out. The resources themselves it does not keep: there may be a
//! million, and they are in the directory and in the snapshot.
//!
//! **Invariants:** what a full set does not have is gone at its last chunk, and not before; a resource that cannot be
//! applied is reported and its last good version stays; no older revision replaces a newer one, but in a full set: the
//! control plane has compared, and knows better what is newest; a tenant's new spread waits for all that is told with it.

mod applied;
mod digests;
mod place;
mod spreads;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use hookfleet_contract::{
    name::SubscriptionName, retry::Policy, slot::slot_of, subscription::Subscription, target::Rules,
};
use hookfleet_gateway::auth::keyring;
use hookfleet_proto::{
    fleet::{
        PartDigest, Rejection, Resource, ResourceType, SlotTable, Snapshot, Update, Welcome,
        resource::Body,
    },
    v1::tenant,
};

use digests::Told;
use place::Place;
use spreads::Spreads;

pub use applied::{Applied, ForeignCluster};

use super::snapshot::Row;
use crate::directory::Change;

const UNKNOWN: &str = "of a kind that this version does not know";
/// How many policies are remembered: most subscriptions have the one of the subscription before.
const POLICIES: usize = 16;

/// What is known.
#[derive(Debug)]
pub struct Mirror {
    rules: Rules,
    cluster_id: String,
    store_generation: String,
    slot_count: i32,
    revision: i64,
    held: BTreeMap<Place, Held>,
    /// What could not be applied; it counts as told.
    rejected: BTreeMap<Place, Held>,
    told: Told,
    spreads: Spreads,
    /// The kind of which a full set has begun.
    filling: Option<ResourceType>,
    /// Counts full sets.
    round: u32,
    /// All of the revision is here, and not only parts of a first set.
    is_whole: bool,
    policies: VecDeque<Arc<Policy>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// 0 when it is of another store than the one that is followed.
    mod_revision: i64,
    /// The full set that had it last, or was the last when it came.
    round: u32,
}

// === impl Mirror ===

impl Mirror {
    /// One that knows of nothing, which accepts callback URLs by `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            cluster_id: String::new(),
            store_generation: String::new(),
            slot_count: 0,
            revision: 0,
            held: BTreeMap::new(),
            rejected: BTreeMap::new(),
            told: Told::default(),
            spreads: Spreads::default(),
            filling: None,
            round: 0,
            is_whole: false,
            policies: VecDeque::with_capacity(POLICIES),
        }
    }

    /// What was saved, but for the resources: each is to be given to [`Mirror::restore`].
    #[must_use]
    pub fn saved(snapshot: Snapshot, rules: Rules) -> Self {
        Self {
            cluster_id: snapshot.cluster_id,
            store_generation: snapshot.store_generation,
            slot_count: snapshot.slot_count,
            revision: snapshot.revision,
            is_whole: true,
            ..Self::new(rules)
        }
    }

    /// A resource as it was saved, to be put in force.
    pub fn restore(&mut self, resource: Resource, applied: &mut Applied) {
        let place = Place::of(&resource.name);
        self.upsert(resource, false, applied);
        self.spreads.release(self.revision, &mut applied.changes);
        applied.rows.clear();
        if let Some(place) = place {
            // Its row is on disk even if it cannot be applied now, and must go when it is gone.
            let held = Held {
                mod_revision: 0,
                round: self.round,
            };
            self.held.entry(place).or_insert(held);
        }
    }

    /// What is to be saved beside the resources, once they are a whole.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.is_whole.then(|| Snapshot {
            cluster_id: self.cluster_id.clone(),
            store_generation: self.store_generation.clone(),
            slot_count: self.slot_count,
            revision: self.revision,
        })
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

    /// The slots that it has subscriptions of, but those that every agent is told of.
    #[must_use]
    pub fn known_slots(&self) -> Vec<i32> {
        let Ok(slot_count @ 1..) = u16::try_from(self.slot_count) else {
            return Vec::new();
        };
        let subscriptions = self.held.keys().filter_map(|place| match place {
            Place::Subscription(name) => (!self.spreads.has(&name.tenant)).then_some(name),
            Place::Key(_) | Place::Tenant(_) | Place::SlotTable => None,
        });
        let slots = subscriptions.map(|name| i32::from(slot_of(&name.tenant, slot_count).0));
        slots.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What the next parts of it come to, for the control plane to compare.
    pub fn next_digests(&mut self) -> Vec<PartDigest> {
        self.told.next(u16::try_from(self.slot_count).unwrap_or(0))
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
        self.filling = None;
        self.cluster_id.clone_from(&welcome.cluster_id);
        self.slot_count = welcome.slot_count;
        if self.store_generation != welcome.store_generation {
            // Revisions of another generation compare to nothing; a full set follows.
            self.store_generation.clone_from(&welcome.store_generation);
            self.revision = 0;
            self.is_whole = false;
            for held in self.held.values_mut() {
                held.mod_revision = 0;
            }
            self.rejected.clear();
            self.told = Told::default();
        }
        Ok(())
    }

    /// Resources have changed.
    pub fn handle_update(&mut self, update: Update) -> Applied {
        let mut applied = Applied::default();
        let kind = update.r#type();
        if update.full && self.filling != Some(kind) {
            self.filling = Some(kind);
            self.round = self.round.wrapping_add(1);
        }
        for resource in update.upserts {
            self.upsert(resource, update.full, &mut applied);
        }
        for name in update.removals {
            if let Some(place) = Place::of(&name) {
                self.remove(&place, &mut applied);
            }
        }
        if update.full && update.last_chunk {
            self.remove_unnamed(kind, &mut applied);
            self.filling = None;
        }
        if !update.full || update.last_chunk {
            self.revision = self.revision.max(update.revision);
        }
        self.spreads.release(self.revision, &mut applied.changes);
        applied.ack.nonce = update.nonce;
        applied.ack.applied_revision = self.revision;
        applied
    }

    /// Everything up to `revision` was sent, and this stream keeps order.
    pub fn handle_bookmark(&mut self, revision: i64) {
        if self.filling.is_none() {
            self.revision = self.revision.max(revision);
            self.is_whole = true;
        }
    }

    fn upsert(&mut self, resource: Resource, full: bool, applied: &mut Applied) {
        let Some(place) = Place::of(&resource.name) else {
            return reject(resource, UNKNOWN, applied);
        };
        let before = self.version(&place);
        if let Some(held) = self.held.get_mut(&place) {
            // A full set has it, even if it cannot be applied.
            held.round = self.round;
            let is_newer = held.mod_revision > resource.mod_revision && !full;
            if (is_newer || held.mod_revision == resource.mod_revision) && held.mod_revision != 0 {
                if full && self.rejected.remove(&place).is_some() {
                    self.recount(&place, before);
                }
                return;
            }
        }
        let place = self.shared(place);
        let told = Held {
            mod_revision: resource.mod_revision,
            round: self.round,
        };
        match self.compile(&place, &resource) {
            Ok(compiled) => {
                compiled.put(applied);
                self.spreads.handle_told(&resource);
                applied.rows.push(Row::Put(Box::new(resource)));
                self.rejected.remove(&place);
                self.held.insert(place.clone(), told);
            }
            Err(reason) => {
                reject(resource, &reason, applied);
                self.rejected.insert(place.clone(), told);
            }
        }
        self.recount(&place, before);
    }

    /// The revision at which it was told, even if that could not be applied.
    fn version(&self, place: &Place) -> Option<i64> {
        let told = self.rejected.get(place).or_else(|| self.held.get(place));
        told.map(|it| it.mod_revision).filter(|it| *it != 0)
    }

    fn recount(&mut self, place: &Place, before: Option<i64>) {
        let after = self.version(place);
        self.told.change(place, self.slot_count, before, after);
    }

    fn remove_unnamed(&mut self, kind: ResourceType, applied: &mut Applied) {
        let round = self.round;
        let known = self.held.iter().chain(&self.rejected);
        let unnamed = known.filter(|(place, it)| place.kind() == kind && it.round != round);
        let unnamed: BTreeSet<Place> = unnamed.map(|(place, _)| place.clone()).collect();
        for place in unnamed {
            self.remove(&place, applied);
        }
    }

    fn remove(&mut self, place: &Place, applied: &mut Applied) {
        let before = self.version(place);
        self.rejected.remove(place);
        let held = self.held.remove(place);
        self.recount(place, before);
        if held.is_none() {
            return;
        }
        applied.rows.push(Row::Gone(place.name()));
        match place {
            Place::Subscription(SubscriptionName {
                tenant,
                subscription,
            }) => {
                let change = Change::SubscriptionGone(tenant.clone(), subscription.clone());
                applied.changes.push(change);
            }
            Place::Tenant(tenant) => {
                self.spreads.handle_gone(tenant);
                applied.changes.push(Change::TenantGone(tenant.clone()));
            }
            Place::Key(name) => applied.keys.push(keyring::Change::Gone(name.key.clone())),
            Place::SlotTable => {}
        }
    }

    /// The same place, in ids that are in memory already, as far as they are.
    fn shared(&self, mut place: Place) -> Place {
        if let Some((known, _)) = self.held.get_key_value(&place) {
            return known.clone();
        }
        if let Place::Subscription(name) = &mut place {
            let tenant = Place::Tenant(name.tenant.clone());
            if let Some((Place::Tenant(known), _)) = self.held.get_key_value(&tenant) {
                name.tenant = known.clone();
            }
        }
        place
    }

    fn compile(&mut self, place: &Place, resource: &Resource) -> Result<Compiled, String> {
        match (&resource.body, place) {
            (Some(Body::Tenant(it)), Place::Tenant(tenant)) => {
                Ok(Compiled::Change(Change::Tenant {
                    tenant: tenant.clone(),
                    suspended: it.state() == tenant::State::Suspended,
                    shards: spreads::shards(resource.shards),
                }))
            }
            (Some(Body::Subscription(spec)), Place::Subscription(name)) => {
                let compiled = Subscription::try_new(spec, &self.rules);
                let mut compiled = compiled.map_err(|violations| violations.to_string())?;
                compiled.name.clone_from(name);
                compiled.policy = self.shared_policy(compiled.policy);
                Ok(Compiled::Change(Change::Subscription(Arc::new(compiled))))
            }
            (Some(Body::Key(spec)), Place::Key(_)) => {
                keyring::Record::try_from(spec).map(Compiled::Key)
            }
            (Some(Body::SlotTable(table)), Place::SlotTable) => {
                Ok(Compiled::SlotTable(table.clone()))
            }
            (Some(_), _) => Err("is not of the kind that its name says".to_owned()),
            (None, _) => Err(UNKNOWN.to_owned()),
        }
    }

    fn shared_policy(&mut self, policy: Arc<Policy>) -> Arc<Policy> {
        if let Some(known) = self.policies.iter().find(|it| **it == policy) {
            return Arc::clone(known);
        }
        self.policies.truncate(POLICIES - 1);
        self.policies.push_front(Arc::clone(&policy));
        policy
    }
}

enum Compiled {
    Change(Change),
    Key(keyring::Record),
    SlotTable(SlotTable),
}

// === impl Compiled ===

impl Compiled {
    fn put(self, applied: &mut Applied) {
        match self {
            Self::Change(change) => applied.changes.push(change),
            Self::Key(record) => applied.keys.push(keyring::Change::Put(record)),
            Self::SlotTable(table) => applied.slot_table = Some(table),
        }
    }
}

fn reject(resource: Resource, reason: &str, applied: &mut Applied) {
    applied.ack.rejections.push(Rejection {
        name: resource.name,
        mod_revision: resource.mod_revision,
        reason: reason.to_owned(),
    });
}
