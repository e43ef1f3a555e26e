//! What the agent knows of tenants and subscriptions, as its readers need it: by event type for
//! matching, by uid for attempts. It decides nothing; the sync client puts changes in force here.
//!
//! It is made for a million subscriptions: each stands once in memory and is referred to by three pointers, and a change
//! costs about as much as what changes.
//!
//! A tenant that is spread over several slots stands here once, too: what its subscriptions are called in a shard, and what
//! share of their limits each shard has, is computed when it is asked for.
//!
//! **Invariant:** a reader sees each tenant's subscriptions either before or after a change, never
//! in between.

#[cfg(test)]
mod tests;

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{Hash, Hasher},
    sync::{Arc, PoisonError, RwLock},
};

use hookfleet_contract::{
    name::{SubscriptionId, TenantId},
    shard::{self, Shard, Spread},
    subscription::Subscription,
};

use rustc_hash::FxBuildHasher;

use crate::core::{Settings, Uid};

/// A cheap handle to what is known.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    tenants: HashMap<TenantId, Arc<Tenant>>,
    by_uid: HashSet<ByUid, FxBuildHasher>,
}

/// A subscription that is found by its uid.
#[derive(Debug)]
struct ByUid(Arc<Subscription>);

/// One tenant with its subscriptions.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    suspended: bool,
    spread: Spread,
    /// Ordered by id.
    subscriptions: Vec<Arc<Subscription>>,
    /// By the text of each pattern, ordered by id; `*` is under itself.
    by_pattern: HashMap<Box<str>, Vec<Arc<Subscription>>>,
}

/// One thing that is different now.
#[derive(Clone, Debug)]
pub enum Change {
    /// A tenant is new or has changed.
    Tenant {
        /// Which.
        tenant: TenantId,
        /// Whether its deliveries wait.
        suspended: bool,
        /// In how many shards they may be.
        shards: u8,
    },
    /// A tenant's events go to so many shards from now on.
    Spread(TenantId, u8),
    /// A tenant is gone, with its subscriptions.
    TenantGone(TenantId),
    /// A subscription is new or has changed.
    Subscription(Arc<Subscription>),
    /// A subscription is gone.
    SubscriptionGone(TenantId, SubscriptionId),
}

/// What a change means for deliveries.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The subscription is to be delivered so.
    Live {
        /// The subscription.
        subscription: Arc<Subscription>,
        /// It or its tenant is suspended.
        suspended: bool,
        /// In how many shards.
        spread: Spread,
    },
    /// The subscription is gone.
    Ended {
        /// What it was called in the first shard.
        uid: Uid,
        /// In how many shards it was.
        shards: u8,
    },
}

// === impl Directory ===

impl Directory {
    /// The tenant, if it is known.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        self.read(|known| known.tenants.get(tenant).cloned())
    }

    /// All tenants that are known.
    #[must_use]
    pub fn tenants(&self) -> Vec<(TenantId, Arc<Tenant>)> {
        let pair = |(id, tenant): (&TenantId, &Arc<Tenant>)| (id.clone(), Arc::clone(tenant));
        self.read(|known| known.tenants.iter().map(pair).collect())
    }

    /// The subscription that has this uid in one of its tenant's shards, if it is known.
    #[must_use]
    pub fn subscription(&self, uid: &Uid) -> Option<Arc<Subscription>> {
        self.read(|known| known.find(uid).map(|(it, _)| Arc::clone(it)))
    }

    /// Of how many shards of a tenant its events are, as far as that is known.
    #[must_use]
    pub fn spread(&self, tenant: &TenantId) -> u8 {
        let spread = self.read(|known| Some(known.tenants.get(tenant)?.spread));
        spread.unwrap_or_default().events
    }

    /// What the core needs to know of the subscription that has this uid in one of its tenant's shards, if it is known.
    #[must_use]
    pub fn settings(&self, uid: &Uid) -> Option<Settings> {
        self.read(|known| {
            let (subscription, number) = known.find(uid)?;
            let tenant = known.tenants.get(&subscription.name.tenant)?;
            let suspended = tenant.suspended || subscription.suspended;
            Some(Self::settings_of(
                subscription,
                suspended,
                tenant.spread,
                number,
            ))
        })
    }

    /// What the core needs to know of a subscription in one of its tenant's shards, which has an equal share of what the
    /// subscription may do.
    #[must_use]
    pub fn settings_of(
        subscription: &Subscription,
        suspended: bool,
        spread: Spread,
        number: u8,
    ) -> Settings {
        let n_shares = spread.n_shares(number);
        let per_second = subscription.max_requests_per_second;
        Settings {
            shard: Shard {
                tenant: subscription.name.tenant.clone(),
                number,
            },
            endpoint: subscription.target.origin().into(),
            policy: Arc::clone(&subscription.policy),
            max_in_flight: subscription.max_in_flight.div_ceil(n_shares.into()),
            max_requests_per_second: per_second.map(|it| it / f64::from(n_shares)),
            suspended,
        }
    }

    /// Puts changes in force and says what they mean for deliveries.
    pub fn apply(&self, changes: Vec<Change>) -> Vec<Effect> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut effects = Vec::with_capacity(changes.len());
        for change in changes {
            known.apply(change, &mut effects);
        }
        effects
    }

    fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Known ===

impl Known {
    /// The subscription that has this uid in one of its tenant's shards, and the number of that.
    fn find(&self, uid: &Uid) -> Option<(&Arc<Subscription>, u8)> {
        if let Some(ByUid(subscription)) = self.by_uid.get(uid) {
            return Some((subscription, 0));
        }
        let (original, number) = shard::original(*uid);
        let ByUid(subscription) = self.by_uid.get(&original)?;
        Some((subscription, number))
    }

    fn apply(&mut self, change: Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Tenant {
                tenant,
                suspended,
                shards,
            } => {
                let tenant = edit(self.tenants.entry(tenant));
                let spread = Spread {
                    // They may have deliveries for as long as the tenant is known.
                    shards: shards.max(tenant.spread.shards),
                    ..tenant.spread
                };
                if (tenant.suspended, tenant.spread) != (suspended, spread) {
                    (tenant.suspended, tenant.spread) = (suspended, spread);
                    effects.extend(tenant.subscriptions.iter().map(|it| tenant.live(it)));
                }
            }
            Change::Spread(tenant, spread) => {
                let tenant = edit(self.tenants.entry(tenant));
                tenant.spread.events = spread;
                effects.extend(tenant.subscriptions.iter().map(|it| tenant.live(it)));
            }
            Change::TenantGone(tenant) => {
                let Some(tenant) = self.tenants.remove(&tenant) else {
                    return;
                };
                for subscription in &tenant.subscriptions {
                    self.end(subscription.uid, tenant.spread, effects);
                }
            }
            Change::Subscription(subscription) => {
                let tenant = edit(self.tenants.entry(subscription.name.tenant.clone()));
                let (effect, shards) = (tenant.live(&subscription), tenant.spread.shards);
                if let Some(previous) = tenant.insert(Arc::clone(&subscription)) {
                    self.by_uid.remove(&previous.uid);
                    if previous.uid != subscription.uid {
                        let uid = previous.uid;
                        effects.push(Effect::Ended { uid, shards });
                    }
                }
                self.by_uid.insert(ByUid(subscription));
                effects.push(effect);
            }
            Change::SubscriptionGone(tenant, id) => {
                let Some(tenant) = self.tenants.get_mut(&tenant).map(Arc::make_mut) else {
                    return;
                };
                if let Some(gone) = tenant.remove(&id) {
                    let spread = tenant.spread;
                    self.end(gone.uid, spread, effects);
                }
            }
        }
    }

    fn end(&mut self, uid: Uid, spread: Spread, effects: &mut Vec<Effect>) {
        self.by_uid.remove(&uid);
        let shards = spread.shards;
        effects.push(Effect::Ended { uid, shards });
    }
}

/// The tenant to be changed: a copy of it only while somebody reads it.
fn edit(entry: Entry<'_, TenantId, Arc<Tenant>>) -> &mut Tenant {
    Arc::make_mut(entry.or_default())
}

// === impl Tenant ===

impl Tenant {
    /// Whether publishes are refused and deliveries wait.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Of how many shards its events are.
    #[must_use]
    pub fn spread(&self) -> u8 {
        self.spread.events
    }

    /// The subscription with this id.
    #[must_use]
    pub fn subscription(&self, id: &SubscriptionId) -> Option<&Arc<Subscription>> {
        let at = position(&self.subscriptions, id).ok()?;
        self.subscriptions.get(at)
    }

    /// The subscriptions in force that want events of this type, each once, ordered by id.
    #[must_use]
    pub fn matching(&self, event_type: &str) -> Vec<&Arc<Subscription>> {
        let dots = event_type.match_indices('.').map(|(at, _)| at);
        let prefixes = dots.map(|at| &event_type[..at]);
        let lists = prefixes
            .chain([event_type, "*"])
            .filter_map(|prefix| self.by_pattern.get(prefix));
        let lists: Vec<_> = lists.collect();
        let mut found: Vec<&Arc<Subscription>> = lists.iter().copied().flatten().collect();
        // Each list is in order, and has each once.
        if lists.len() > 1 {
            found.sort_unstable_by(|a, b| a.name.subscription.cmp(&b.name.subscription));
            found.dedup_by(|a, b| a.uid == b.uid);
        }
        found
    }

    fn live(&self, subscription: &Arc<Subscription>) -> Effect {
        Effect::Live {
            subscription: Arc::clone(subscription),
            suspended: self.suspended || subscription.suspended,
            spread: self.spread,
        }
    }

    fn insert(&mut self, subscription: Arc<Subscription>) -> Option<Arc<Subscription>> {
        let previous = match position(&self.subscriptions, &subscription.name.subscription) {
            Ok(at) => {
                let place = &mut self.subscriptions[at];
                Some(std::mem::replace(place, Arc::clone(&subscription)))
            }
            Err(at) => {
                self.subscriptions.insert(at, Arc::clone(&subscription));
                None
            }
        };
        if let Some(previous) = &previous {
            self.unlist(previous);
        }
        self.list(&subscription);
        previous
    }

    fn remove(&mut self, id: &SubscriptionId) -> Option<Arc<Subscription>> {
        let at = position(&self.subscriptions, id).ok()?;
        let gone = self.subscriptions.remove(at);
        self.unlist(&gone);
        Some(gone)
    }

    fn list(&mut self, subscription: &Arc<Subscription>) {
        if !subscription.is_in_force {
            return;
        }
        for pattern in &subscription.patterns {
            let list = match self.by_pattern.get_mut(pattern.as_str()) {
                Some(list) => list,
                None => self.by_pattern.entry(pattern.as_str().into()).or_default(),
            };
            // It may have the same pattern twice.
            if let Err(at) = position(list, &subscription.name.subscription) {
                list.insert(at, Arc::clone(subscription));
            }
        }
    }

    fn unlist(&mut self, subscription: &Subscription) {
        for pattern in &subscription.patterns {
            let Some(list) = self.by_pattern.get_mut(pattern.as_str()) else {
                continue;
            };
            if let Ok(at) = position(list, &subscription.name.subscription) {
                list.remove(at);
            }
            if list.is_empty() {
                self.by_pattern.remove(pattern.as_str());
            }
        }
    }
}

/// Where in a list that is ordered by id it is, or would be.
fn position(list: &[Arc<Subscription>], id: &SubscriptionId) -> Result<usize, usize> {
    // Most come in their order.
    if list.last().is_none_or(|it| it.name.subscription < *id) {
        return Err(list.len());
    }
    list.binary_search_by(|it| it.name.subscription.cmp(id))
}

// === impl ByUid ===

impl Borrow<Uid> for ByUid {
    fn borrow(&self) -> &Uid {
        &self.0.uid
    }
}

impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}

impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for ByUid {}
